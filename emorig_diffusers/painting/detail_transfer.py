"""A network's change of a small picture, brought into the large photo so that the photo's own detail stays."""

from __future__ import annotations

import cv2
import numpy as np

from ..photo.masks import border_mask, ramp
from ..photo.resample import invert, reach, resample

LEAST, GREAT = 0.02, 0.10  # mean change of colour, of 1, from which detail gives way, and at which it is gone
SPREAD = 0.02  # of the picture's side by which the change is blurred to decide that
BORDER = 0.06  # of the picture's side over which changes fade in from its border


def paste_change(
    rgb: np.ndarray, before: np.ndarray, after: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A photo with the difference of two pictures of it.

    Where they differ little, the difference is added to the photo, whose own detail stays; where they differ much, as
    in a mouth that opens, the second picture stands for itself. Pixels without a difference stay bit for bit.

    Args:
        rgb: The photo, uint8 [H, W, 3].
        before: What the network makes of it, float [S, S, 3] in [0, 1].
        after: What it makes of the edit.
        matrix: Similarity [2, 3] from photo pixels to the pictures.

    Returns:
        The photo, uint8 [H, W, 3], and where `after` stands for itself [S, S] in [0, 1].
    """
    change = (after - before).astype(np.float32)
    size = len(change)
    amount = cv2.GaussianBlur(np.abs(change).mean(2), (0, 0), SPREAD * size)
    great = ramp(amount, LEAST, GREAT)
    edge = border_mask(size, BORDER).astype(np.float32)
    result, replaced = rgb.copy(), (great * edge).astype(np.float32)
    x0, y0, x1, y1 = reach(np.any(change, 2), matrix, rgb.shape)
    if x1 <= x0 or y1 <= y0:
        return result, replaced
    back = invert(matrix) - np.array([[0, 0, x0], [0, 0, y0]])
    masks = np.dstack([edge, replaced])
    pictures, masks = resample(np.dstack([change, before]), masks, back, x1 - x0, y1 - y0)
    region, whole = result[y0:y1, x0:x1], masks[..., 1:]
    blended = region * (1 - whole) + 255 * (pictures[..., 3:] * whole + pictures[..., :3] * masks[..., :1])
    changed = masks[..., 0] > 0
    region[changed] = np.clip(blended[changed] + 0.5, 0, 255).astype(np.uint8)
    return result, replaced
