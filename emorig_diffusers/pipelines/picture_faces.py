"""Faces of which a network sees one small picture each: found, cut out of the photo, and pasted back into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..face.encode import picture_tensor
from ..painting.detail_transfer import BORDER, paste_change
from ..photo.faces import Face, choose_faces, find_faces
from ..photo.masks import border_mask
from ..photo.pictures import take_picture
from ..photo.resample import paste
from ..render.buffers import to_picture
from ..timing import timed


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureFace:
    """A face of a photo as a network sees it.

    Attributes:
        number: 1 for the leftmost face.
        box: (x0, y0, x1, y1) in photo pixels.
        matrix: Similarity [2, 3] from photo pixels to the picture.
        picture: [3, S, S] in [-1, 1].
        landmarks: MediaPipe's points in photo pixels; `None` where the whole photo is the face.
        own: As for `pictures.Picture`.
    """

    number: int
    box: tuple[float, float, float, float]
    matrix: np.ndarray
    picture: Tensor
    landmarks: np.ndarray | None
    own: np.ndarray | None = None


def faces_to_encode(photo: np.ndarray, faces: Any, crop: str) -> Sequence[Any]:
    """The faces of a photo uint8 [H, W, 3] that `FacePipeline.encode` is asked for, found where they are not given;
    `None` for a crop "whole", in which no face is looked for.

    Raises:
        NoFaceError: If there is no such face.
    """
    which: Any = faces
    if not isinstance(faces, (str, int)):
        return faces
    with timed("find faces"):
        return [None] if crop == "whole" else choose_faces(find_faces(photo), which)


def cut_face(photo: np.ndarray, face: Face | None, crop: str, size: int, resampling: str) -> PictureFace:
    """The picture of a face.

    Args:
        photo: uint8 [H, W, 3].
        face: As the detector found it; `None` where the whole photo is the face.
        crop: One of `crops.PICTURE_FRAMES`.
        size: Side S of the picture, pixels.
        resampling: One of `pictures.RESAMPLINGS`.
    """
    landmarks = None if face is None else face.landmarks
    taken = take_picture(photo, crop, landmarks, size, resampling)
    matrix, picture = taken.matrix, picture_tensor(taken.pixels)[0] * 2 - 1
    if face is None:
        x, y, side = -matrix[0, 2] / matrix[0, 0], -matrix[1, 2] / matrix[1, 1], size / matrix[0, 0]
        number, box = 1, (x, y, x + side, y + side)
    else:
        number, box = face.index + 1, face.box
    return PictureFace(number=number, box=box, matrix=matrix, picture=picture, landmarks=landmarks, own=taken.own)


def paste_picture(
    rgb: np.ndarray, face: PictureFace, drawn: Tensor, redrawn: Tensor | None, changed: bool
) -> tuple[np.ndarray, dict[str, Image.Image]]:
    """A photo uint8 [H, W, 3] with what a network drew of a face, and the pictures of `EditedFace.buffers`.

    Args:
        rgb: The photo.
        face: Where it is.
        drawn: What the network drew of the edit [3, S, S] in about [-1, 1].
        redrawn: What it makes of the face as it is: its difference from `drawn` is brought into the photo; `None` to
            paste `drawn` as it is.
        changed: Whether there is an edit; else the photo stays.
    """
    buffers = {"photo": unit_picture(face.picture), "edited": unit_picture(drawn)}
    after = _unit_array(drawn)
    if redrawn is not None:
        rgb, replaced = paste_change(rgb, _unit_array(redrawn) if changed else after, after, face.matrix)
        buffers["reconstructed"] = unit_picture(redrawn)
        buffers["replaced"] = Image.fromarray((replaced * 255).round().astype(np.uint8))
    elif changed:
        mask = border_mask(len(after), BORDER)
        rgb = paste(rgb, after, mask if face.own is None else mask * face.own, face.matrix)
    return rgb, buffers


def unit_picture(picture: Tensor) -> Image.Image:
    """A picture [3, S, S] in [-1, 1] for the eye."""
    return to_picture((picture.float().cpu() + 1) / 2)


def _unit_array(picture: Tensor) -> np.ndarray:
    """[3, S, S] in [-1, 1] -> float32 [S, S, 3] in [0, 1]."""
    return ((picture.float() + 1) / 2).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
