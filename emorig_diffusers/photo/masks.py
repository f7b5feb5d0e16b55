"""Masks: filled polygons, and soft edges."""

from __future__ import annotations

import cv2
import numpy as np


def smooth(x: np.ndarray) -> np.ndarray:
    """Smoothstep on [0, 1]."""
    return x * x * (3 - 2 * x)


def ramp(x: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """From 0 at `low` smoothly to 1 at `high`."""
    return smooth(np.clip((x - low) / (high - low), 0, 1))


def border_mask(size: int, reach: float) -> np.ndarray:
    """A mask [S, S] in [0, 1] that fades in from the border, where it is 0, over a share of the side."""
    steps = np.arange(size)
    edge = smooth(np.clip(np.minimum(steps, steps[::-1]) / (reach * size), 0, 1))
    return edge[:, None] * edge


def fill_polygon(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    """Pixels [H, W] bool within a polygon [N, 2]; of `shape` the first two count."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round((points - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask > 0
