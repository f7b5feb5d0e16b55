"""Masks: filled polygons, and soft edges."""

from __future__ import annotations

from functools import reduce

import cv2
import numpy as np

SMALLEST_SIGMA = 2.5  # pixels to which `wide_blur` may shrink a blur: it is off by .7 % of a field's range at most

Number = np.ndarray | np.floating | float


def smooth(x: np.ndarray) -> np.ndarray:
    """Smoothstep on [0, 1]."""
    return x * x * (3 - 2 * x)


def ramp(x: Number, low: Number, high: Number) -> np.ndarray:
    """From 0 at `low` smoothly to 1 at `high`."""
    return smooth(np.clip((x - low) / (high - low), 0, 1))


def border_mask(size: int, reach: float) -> np.ndarray:
    """A mask [S, S] in [0, 1] that fades in from the border, where it is 0, over a share of the side."""
    steps = np.arange(size)
    edge = ramp(np.minimum(steps, steps[::-1]), 0, reach * size)
    return edge[:, None] * edge


def nearest_known(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every pixel to the nearest known one [H, W], and that one's place in `known.ravel()` [H, W].

    OpenCV's, whose distances are right to 2 %: scipy's exact ones take three times as long.
    """
    outside = (~known).astype(np.uint8)
    distance, found = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    label = found.astype(np.intp)
    place = np.zeros(label.max() + 1, np.intp)
    place[label[known]] = np.flatnonzero(known)
    return distance, place[label]


def wide_blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """A field float32 [H, W] or [H, W, C] under a Gaussian blur, pixels: wide ones on a smaller field."""
    times = int(sigma / SMALLEST_SIGMA)
    if times < 2:
        return cv2.GaussianBlur(field, (0, 0), sigma)
    height, width = field.shape[:2]
    size = -(-width // times), -(-height // times)
    # shrinking averages over t pixels, and enlarging by a triangle 2 t wide: their variances are part of the blur
    step = np.array([width, height]) / size
    x, y = np.sqrt(sigma**2 - (step**2 - 1) / 12 - step**2 / 6) / step
    small = cv2.resize(field, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), x, sigmaY=y), (width, height), interpolation=cv2.INTER_LINEAR)


def any_channel(field: np.ndarray) -> np.ndarray:
    """Where any channel of a field [H, W, C] is not 0, [H, W] bool: as `field.any(-1)`, in a tenth of its time."""
    return reduce(np.logical_or, (field[..., i] != 0 for i in range(field.shape[-1])))


def fill_polygon(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """Pixels [H, W] bool within a polygon [N, 2]; of `shape` the first two count."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask > 0
