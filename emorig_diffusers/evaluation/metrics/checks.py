"""What the judges of this package want of the pictures they are given, and the square they look at."""

from __future__ import annotations

import numpy as np

from ...photo.landmarks import MESH
from ...photo.resample import warp_crop


class MetricError(ValueError):
    """A figure that cannot be computed; one sentence: why, and what to do."""


def check_picture(rgb: np.ndarray, judge: str) -> None:
    """ValueError, in the name of `judge`, where `rgb` is no uint8 picture [H, W, 3]."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"{judge} needs a uint8 picture [H, W, 3], not {rgb.dtype} {rgb.shape}.")


def check_pair(a: np.ndarray, b: np.ndarray, judge: str) -> None:
    """ValueError, in the name of `judge`, where two pictures are not uint8 [H, W, 3] of one size."""
    check_picture(a, judge)
    check_picture(b, judge)
    if a.shape != b.shape:
        raise ValueError(f"{judge} needs two pictures of one size, not {a.shape} and {b.shape}.")


def check_box(rgb: np.ndarray, box: tuple[float, float, float, float], judge: str) -> None:
    """ValueError, in the name of `judge`, where `rgb` is no picture or a face's box does not meet it."""
    check_picture(rgb, judge)
    (height, width), (x0, y0, x1, y1) = rgb.shape[:2], box
    if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise ValueError(f"{judge} needs a box (x0, y0, x1, y1) inside the picture, not {tuple(box)}.")


def face_square(rgb: np.ndarray, box: tuple[float, ...], side: int, margin: float) -> np.ndarray:
    """The square round a face's box (x0, y0, x1, y1), `margin` times its longer side, uint8 [side, side, 3]; beyond the
    border of the picture [H, W, 3] its edge pixels repeat."""
    x0, y0, x1, y1 = box
    scale = side / (margin * max(x1 - x0, y1 - y0))
    shift_x, shift_y = (side / 2 - scale * (low + high) / 2 for low, high in ((x0, x1), (y0, y1)))
    return warp_crop(rgb, np.array([[scale, 0, shift_x], [0, scale, shift_y]]), side)


def check_landmarks(landmarks: np.ndarray, judge: str) -> None:
    """ValueError, in the name of `judge`, where landmarks are not MediaPipe's [N >= 468, >= 2]."""
    if landmarks.ndim != 2 or len(landmarks) < MESH or landmarks.shape[1] < 2:
        raise ValueError(f"{judge} needs MediaPipe's landmarks [478, 3], not {landmarks.shape}.")
