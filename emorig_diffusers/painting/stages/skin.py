"""Shade on skin: the photo's own colours are multiplied, so hue and pores stay."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ...photo.masks import ramp, wide_blur
from ...photo.resample import enlarge, reach
from .flow import Warp

SAFE = (50, 280, 101, 330, 205, 425, 36, 266, 5, 195, 197, 151, 108, 337, 69, 299)
"""Landmarks that lie on skin in almost every photo: cheeks, bridge of the nose, forehead."""
PALE = 12.0  # Lab: a pale chroma
ROOM = (1 - ramp(np.arange(256), 236, 252)).astype(np.float32)  # for a shade, at each grey level
UNEVEN = 2  # grid pixels over which it is averaged: noise at the limit leaves no specks
DIM = 4.0  # grey levels that shades in the dark are told from
TONE = np.log(np.arange(256, dtype=np.float32) + np.float32(DIM))  # of each grey level, natural logarithm
AROUND = 0.006  # metres: standard deviation of what is around
WARMTH = np.array([0.75, 1.0, 1.15], np.float32)  # light scattered in skin fills grooves with red


def splat(ink: np.ndarray, points: np.ndarray, weight: np.ndarray) -> None:
    """Add weights [K] at points [K, 2] between pixels, x then y in units of pixels."""
    low, part = np.divmod(points, 1)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        x, y = (low + [dx, dy]).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < ink.shape[1]) & (y < ink.shape[0])
        np.add.at(ink, (y[inside], x[inside]), (weight * share)[inside])


def apply_field(
    photo: np.ndarray, field: np.ndarray, matrix: np.ndarray, warmth: np.ndarray, blur: float = 0.0
) -> np.ndarray:
    """Multiply a photo uint8 [H, W, 3] by exp(field [G, G] * warmth [3]) at its own resolution; 0 changes nothing, and
    nothing does where the photo is clipped: what is lighter than white stays so in a shade.

    Args:
        matrix: Similarity [2, 3] from photo pixels to the grid.
        blur: Standard deviation of the photo's own blur, grid pixels.
    """
    coarse = float(np.linalg.norm(matrix[:, 0]))  # grid pixels per photo pixel
    blur = np.hypot(blur, 0.45 * coarse if coarse > 1 else 0)
    field = cv2.GaussianBlur(field, (0, 0), blur) if blur else field
    left, top, right, bottom = reach(field != 0, matrix, photo.shape)
    if right <= left or bottom <= top:
        return photo
    gain = np.zeros((*field.shape, 3), np.float32)
    gain[field != 0] = np.expm1(field[field != 0][:, None] * warmth)
    large = enlarge(gain, matrix, (left, top, right, bottom))
    result, part = photo.copy(), photo[top:bottom, left:right]
    large *= _unclipped(part, round(UNEVEN / coarse))[..., None]
    result[top:bottom, left:right] = np.clip(np.round(part * (1 + large)), 0, 255)
    return result


def _unclipped(photo: np.ndarray, near: int) -> np.ndarray:
    """How far pixels [H, W], with those `near` them, are from being clipped in two channels: 0 where they are."""
    red, green, blue = cv2.split(photo)
    middle = cv2.max(cv2.min(red, green), cv2.min(cv2.max(red, green), blue))
    return cv2.blur(cv2.LUT(middle, ROOM), (2 * near + 1, 2 * near + 1))


def darker(pictures: Sequence[np.ndarray], warp: Warp) -> np.ndarray:
    """By how much pixels of N pictures uint8 [G, G, 3] on a warp's grid are darker than the skin around them [G, G, N]
    float32, natural logarithm; < 0 where lighter."""
    tone = np.dstack([cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), TONE) for picture in pictures])
    return skin_around(tone, warp, AROUND) - tone


def skin_around(values: np.ndarray, warp: Warp, width: float) -> np.ndarray:
    """What is shown on the grid [G, G] or [G, G, N] float32, averaged over skin with a standard deviation in metres."""
    size = len(warp.motion)
    bare = cv2.resize(1 - warp.features, (size, size)) * warp.head + 1e-3
    bare = bare.reshape(size, size, *[1] * (values.ndim - 2)).astype(np.float32)
    blur = lambda x: wide_blur(x, width * warp.scale).reshape(x.shape)
    return blur(values * bare) / blur(bare)
