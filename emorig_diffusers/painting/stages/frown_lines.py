"""Lines between the brows that soften when a frown is taken back: they are the photo's own, and motion keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ...photo.masks import fill_polygon
from ...photo.resample import warp_crop
from .composite import FAINT, add_change
from .flow import Warp
from .shading import skin_around

BETWEEN = (6, 193, 55, 107, 108, 151, 337, 336, 285, 417)  # landmarks around the skin between the brows
EDGE = 0.002  # metres over which it fades
LINE, PORES = 0.0035, 0.0004  # metres: standard deviations of what is wider than a line, and of what is finer
SOFTENED = 0.9  # share of the lines that goes with the whole of a frown
RIDGES = 0.5  # share of the light skin beside them that goes with them
MOST = 0.3  # of full range: a light's own edge across the brow is stronger, and stays


def soften_frown(
    photo: np.ndarray, moved: np.ndarray, matrix: np.ndarray, warp: Warp, change: Mapping[str, float]
) -> np.ndarray:
    """A photo whose lines between the brows fade as far as the brows are less drawn down; else the photo itself.

    Args:
        photo: The edited photo, uint8 [H, W, 3].
        moved: The same before anything was painted; it tells where skin is.
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        warp: How the face moved.
        change: Target minus source of the expression units by name.
    """
    gone = np.clip(-(change.get("browDownLeft", 0.0) + change.get("browDownRight", 0.0)) / 2, 0, 1)
    if gone == 0:
        return photo
    size = len(warp.normal)
    between = fill_polygon((size, size), warp.points[list(BETWEEN)]).astype(np.float32)
    features = cv2.resize(warp.features, (size, size))
    between = cv2.GaussianBlur(cv2.erode(between, np.ones((3, 3))), (0, 0), EDGE * warp.scale) * (1 - features)
    crop = warp_crop(moved, matrix, size).astype(np.float32) / 255
    lines = skin_around(crop, warp, LINE) - cv2.GaussianBlur(crop, (0, 0), PORES * warp.scale)
    lines = np.maximum(lines, RIDGES * lines)
    share = np.where(between < FAINT, 0, SOFTENED * gone * between)[..., None]
    return add_change(photo, share * MOST * np.tanh(lines / MOST), matrix)
