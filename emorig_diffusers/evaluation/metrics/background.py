"""How much an edit changed of the picture around the face."""

from __future__ import annotations

import cv2
import numpy as np

from ...photo.landmarks import MESH
from .checks import check_landmarks, check_pair

_SURROUNDINGS = 0.5  # of the face's height or width: hair, ears and neck, which may move with the face
_MIN_SHARE = 0.01  # of the picture, to call it a background


def background_change(source: np.ndarray, edited: np.ndarray, landmarks: np.ndarray) -> float | None:
    """Mean absolute difference of the pixels farther from the face than its surroundings.

    Args:
        source, edited: uint8 RGB [H, W, 3], of one size.
        landmarks: the source's face, MediaPipe's [478, 3] (or [N >= 468, >= 2]), x and y in pixels.

    Returns:
        In [0, 1], 0 where nothing changed: the difference over 255, mean of pixels and channels. `None` where less
        than a hundredth of the picture is farther from the face than half its size, as in tight crops.

    Raises:
        ValueError: a picture is of another kind, sizes differ, or the landmarks are not MediaPipe's.
    """
    check_pair(source, edited, "Background change")
    check_landmarks(landmarks, "Background change")
    outside = _outside(source.shape[:2], landmarks[:MESH, :2])
    if outside.mean() < _MIN_SHARE:
        return None
    difference = cv2.absdiff(source, edited)
    return float(difference[outside].mean(dtype=np.float64)) / 255


def _outside(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """True [H, W] where a pixel is farther from the points' hull than its surroundings reach."""
    reach = _SURROUNDINGS * float(np.ptp(points, axis=0).max())
    hull = cv2.convexHull(points.astype(np.float32))[:, 0]
    low, high = np.floor(hull.min(0) - reach).astype(int), np.ceil(hull.max(0) + reach).astype(int) + 1
    width, height = (high - low).tolist()
    face = np.full((height, width), 255, np.uint8)
    cv2.fillConvexPoly(face, np.round(hull - low - 0.5).astype(np.int32), 0)
    near = cv2.distanceTransform(face, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach
    outside = np.ones(shape, bool)
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high, shape[::-1])
    if x0 < x1 and y0 < y1:
        outside[y0:y1, x0:x1] = ~near[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    return outside
