"""Lines between the brows: a frown draws them, and the photo's own soften when it is taken back, for motion keeps them.

They are finer than measured shade (shading.py). Of all rules for fine lines (forehead, nose, crow's feet, beside nose
and mouth) these alone are left: without the others nobody told the pictures of 20 people x 8 emotions apart, nor did
the judge; without these, 2 of 51 people's anger was missed.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ...photo.masks import fill_polygon, ramp
from ...photo.resample import warp_crop
from .composite import FAINT, add_change
from .flow import Warp
from .shading import skin_colour
from .skin import WARMTH, apply_field, skin_around, splat

BETWEEN = (6, 193, 55, 107, 108, 151, 337, 336, 285, 417)  # landmarks around the skin between the brows
EDGE = 0.002  # metres over which it fades
LINE, PORES = 0.0035, 0.0004  # metres: standard deviations of what is wider than a line, and of what is finer
SOFTENED = 0.9  # share of the lines that goes with the whole of a frown
RIDGES = 0.5  # share of the light skin beside them that goes with them
GROOVES = (((55, 193, 0.5), (55, 8, 0.4), (107, 9, 0.44), (107, 151, 0.5)),
           ((285, 417, 0.5), (285, 8, 0.4), (336, 9, 0.44), (336, 151, 0.5)))  # fmt: skip
"""Lines of a frown at the person's right and left: shares of the way from one landmark to another."""
DEPTH, WIDTH = 0.3, 0.0012  # darkness of a drawn line, natural logarithm, and its standard deviation, metres
RING, RIDGE = 2.4, 0.32  # width of the skin pushed up beside it, and its lightness, of the line's
FAINTEST = 0.002  # logarithms: shade too faint for a grey level
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
    size = len(warp.motion)
    between = fill_polygon((size, size), warp.points[list(BETWEEN)]).astype(np.float32)
    features = cv2.resize(warp.features, (size, size))
    between = cv2.GaussianBlur(cv2.erode(between, np.ones((3, 3))), (0, 0), EDGE * warp.scale) * (1 - features)
    crop = warp_crop(moved, matrix, size).astype(np.float32) / 255
    lines = skin_around(crop, warp, LINE) - cv2.GaussianBlur(crop, (0, 0), PORES * warp.scale)
    lines = np.maximum(lines, RIDGES * lines)
    share = np.where(between < FAINT, 0, SOFTENED * gone * between)[..., None]
    return add_change(photo, share * MOST * np.tanh(lines / MOST), matrix)


def draw_frown(
    photo: np.ndarray,
    moved: np.ndarray,
    matrix: np.ndarray,
    warp: Warp,
    change: Mapping[str, float],
    strength: float = 1.0,
) -> np.ndarray:
    """A photo with the lines that brows bring which are drawn further down; else the photo itself.

    Arguments as for `soften_frown`, and a factor on their depth.
    """
    ink = np.zeros(warp.motion.shape[:2], np.float32)
    for anchors, side in zip(GROOVES, ("Right", "Left")):
        first, second, share = np.array(anchors).T
        start, end = (warp.points[index.astype(int)] for index in (first, second))
        knots = start + (end - start) * share[:, None]
        where = np.cumsum([0, *np.linalg.norm(np.diff(knots, axis=0), axis=1)])
        at = np.arange(0.5, where[-1])
        points = np.column_stack([np.interp(at, where, knots[:, k]) for k in (0, 1)])
        amount = np.tanh(max(change.get(f"browDown{side}", 0.0), 0.0))
        splat(ink, points - 0.5, DEPTH * amount * ramp(1 - np.abs(2 * at / where[-1] - 1), 0, 0.8))
    if not ink.any() or not strength > 0:
        return photo
    line = lambda sigma: cv2.GaussianBlur(ink, (0, 0), sigma) * np.float32(sigma * np.sqrt(2 * np.pi))
    skin, colour, _ = skin_colour(moved, matrix, warp)
    bare = cv2.resize(skin * (1 - warp.features), ink.shape)
    field = strength * (RIDGE * line(RING * WIDTH * warp.scale) - line(WIDTH * warp.scale)) * bare
    field = np.where(np.abs(field) < FAINTEST, 0, field if warp.free is None else field * warp.free)
    return apply_field(photo, field, matrix, 1 + (WARMTH - 1) * colour, warp.blur)
