"""LPIPS between what a pipeline makes of a neutral photo and the same person's real smile.

    python tests/benchmarks/smile_distance.py NEUTRAL... --smiling neutral=smiling [--pipelines NAME NAME]

`--smiling A=B` turns a neutral photo's file name into that of the smile. Pairs whose smile shows no teeth are left out.
The smile is moved onto the neutral photo by points that expressions leave alone; then both are compared on the aligned
crop, and on the mouth alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.faces import Face, align, find_faces, warp_crop
from emorig_diffusers.metrics import LPIPS
from emorig_diffusers.photos import read_photo

STILL = [33, 133, 362, 263, 168, 6, 197, 4, 1, 98, 327]  # corners of the eyes, nose
SIZE = 256
MOUTH = (slice(None), slice(None), slice(128, 232), slice(64, 192))  # of the crop
TOOTHY = 0.08  # opening of the lips, in widths of the mouth


@dataclass
class Pair:
    """A neutral photo uint8 [H, W, 3], its crop's matrix, and both crops [1, 3, S, S] in [-1, 1]."""

    photo: np.ndarray
    matrix: np.ndarray
    neutral: Tensor
    smile: Tensor


def crop(photo: np.ndarray, matrix: np.ndarray) -> Tensor:
    """Aligned crop [1, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(warp_crop(photo, matrix, SIZE)).permute(2, 0, 1)[None] / 127.5 - 1


def read_pair(neutral: Path, smiling: Path) -> Pair | None:
    """One person, or `None` where the smile shows no teeth."""
    photos = [read_photo(path).rgb for path in (neutral, smiling)]
    calm, happy = (_face(photo) for photo in photos)
    points = happy.landmarks
    if np.linalg.norm(points[13] - points[14]) < TOOTHY * np.linalg.norm(points[61] - points[291]):
        return None
    matrix = align(calm.landmarks, SIZE)
    onto, _ = cv2.estimateAffinePartial2D(happy.landmarks[STILL, :2], calm.landmarks[STILL, :2], method=cv2.LMEDS)
    both = (np.vstack([matrix, [0, 0, 1]]) @ np.vstack([onto, [0, 0, 1]]))[:2]
    return Pair(photos[0], matrix, crop(photos[0], matrix), crop(photos[1], both))


def _face(photo: np.ndarray) -> Face:
    return find_faces(photo)[0]


@torch.no_grad()
def distances(lpips: LPIPS, picture: Tensor, smile: Tensor) -> tuple[float, float]:
    """Of the whole crop and of the mouth."""
    return float(lpips.distance(picture, smile)), float(lpips.distance(picture[MOUTH], smile[MOUTH]))


def smiling(pipe: EmoRigPipeline, photo: np.ndarray) -> np.ndarray:
    """The photo made happy."""
    return pipe(photo, "happy", output_type="np", generator=torch.Generator().manual_seed(0)).images[0]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("neutral", type=Path, nargs="+")
    parser.add_argument("--smiling", required=True, metavar="A=B")
    parser.add_argument("--pipelines", nargs="+", default=["emorig-open"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    old, new = args.smiling.split("=")
    pairs = [p for f in args.neutral if (p := read_pair(f, f.with_name(f.name.replace(old, new))))]
    lpips = LPIPS("alex")
    unedited = np.array([distances(lpips, p.neutral, p.smile) for p in pairs])
    print(f"{len(pairs)} pairs; face and mouth; unedited: {unedited.mean(0).round(4)}")
    for name in args.pipelines:
        pipe = EmoRigPipeline.from_pretrained(name)
        pipe.set_progress_bar_config(disable=True)
        edited = np.array([distances(lpips, crop(smiling(pipe, p.photo), p.matrix), p.smile) for p in pairs])
        print(f"{name}: {edited.mean(0).round(4)}, nearer than unedited in {(edited < unedited).mean(0).round(2)}")


if __name__ == "__main__":
    main()
