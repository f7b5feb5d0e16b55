"""The sheet of faces that tests/pipelines/test_perceptual.py compares with, and how two faces are compared.

After a change that is meant to be seen, look at what it makes and keep it:

    python tests/perceptual.py            # writes tests/perceptual.jpg anew, and the old one beside it for a look
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import skimage.data
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.photo.resample import align, warp_crop

SHEET = Path(__file__).parent / "perceptual.jpg"
SIDE = 96  # pixels of a face
LOCAL = 5  # pixels of the square over which a difference of colour is averaged: finer ones are not seen
LEAST_ALIKE, MOST_OFF = 0.97, 4.0  # structural similarity of lightness; CIELAB units where a face differs most


def portraits() -> dict[str, np.ndarray]:
    """Two public-domain portraits, uint8 [H, W, 3]."""
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")) as image:
        hopper = np.array(image.convert("RGB"))
    return {"astronaut": skimage.data.astronaut(), "hopper": hopper}


def draw_faces(pipe: EmoRigPipeline, photo: np.ndarray, emotions: tuple[str, ...] = EMOTIONS) -> dict[str, np.ndarray]:
    """Emotion -> the edited face, uint8 [SIDE, SIDE, 3]."""
    generators = [torch.Generator().manual_seed(0) for _ in emotions]
    edited = pipe(photo, list(emotions), generator=generators, output_type="np").images
    matrix = align(pipe.encode(photo)[0].face.landmarks, SIDE)
    return {emotion: warp_crop(picture, matrix, SIDE) for emotion, picture in zip(emotions, edited, strict=True)}


def compare(face: np.ndarray, stored: np.ndarray) -> tuple[float, float]:
    """Structural similarity of lightness, and the largest local difference in CIELAB, of two faces uint8 [S, S, 3]."""
    lab = [cv2.cvtColor(np.float32(picture) / 255, cv2.COLOR_RGB2LAB) for picture in (face, stored)]
    alike = structural_similarity(*(picture[..., 0] for picture in lab), data_range=100)
    off = np.linalg.norm(cv2.blur(lab[0] - lab[1], (LOCAL, LOCAL)), axis=-1)
    return float(alike), float(off.max())


def load_sheet() -> dict[str, dict[str, np.ndarray]]:
    """Portrait -> emotion -> face, as stored."""
    with Image.open(SHEET) as image:
        sheet = np.array(image.convert("RGB"))
    rows = [sheet[y : y + SIDE] for y in range(0, len(sheet), SIDE)]
    cells = lambda row: {emotion: row[:, i * SIDE : (i + 1) * SIDE] for i, emotion in enumerate(EMOTIONS)}
    return {name: cells(row) for name, row in zip(portraits(), rows, strict=True)}


def make_sheet(faces: Mapping[str, Mapping[str, np.ndarray]]) -> Image.Image:
    """A row for each portrait, a column for each emotion."""
    return Image.fromarray(np.vstack([np.hstack([row[emotion] for emotion in EMOTIONS]) for row in faces.values()]))


def main() -> None:
    pipe = EmoRigPipeline.from_pretrained("emorig-open")
    pipe.set_progress_bar_config(disable=True)
    faces = {name: draw_faces(pipe, photo) for name, photo in portraits().items()}
    if SHEET.is_file():
        for name, row in load_sheet().items():
            for emotion, stored in row.items():
                alike, off = compare(faces[name][emotion], stored)
                print(f"{name} {emotion}: SSIM {alike:.3f}, largest difference {off:.1f}")
        SHEET.replace(SHEET.with_suffix(".old.jpg"))
    make_sheet(faces).save(SHEET, quality=95, subsampling=0, optimize=True)
    print(f"Wrote {SHEET}: look at it before it is committed.")


if __name__ == "__main__":
    main()
