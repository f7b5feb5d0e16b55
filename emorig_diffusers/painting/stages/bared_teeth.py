"""Teeth that the photo shows, behind lips that move before them.

Lips and teeth are mixed as colours, not as motions, as eyeballs and lids are (eyeballs.py): a motion that turns from
the lip's to the teeth's samples all that lies between, and leaves a lattice of lip and teeth along the lip's edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...photo.masks import fill_polygon, nearest_known, ramp
from ...photo.resample import displaced, enlarge, invert, reach
from .eyeballs import centres, look

LIP = 0.0008  # metres inside the photo's lips that may still show lip, as landmarks err so far
EDGE = 0.0008  # metres inside the edited lips over which their colour turns into that of the teeth
STREAKS = 0.0005  # metres by which colours are averaged that go on where the photo shows no teeth


@dataclass
class BaredTeeth:
    """What lies between the target's lips, in a box of the warp's grid.

    Attributes:
        corner: Left and top of the box, grid pixels.
        motion: Where in the photo it comes from, minus where it is [H, W, 2], grid pixels.
        cover: How much of each pixel is teeth and no lip [H, W].
        lip: Motion of the lip before it [H, W, 2].
        unseen: What of it the photo does not show [H, W].
        streaks: Standard deviation by which the unseen is averaged, grid pixels.
    """

    corner: np.ndarray
    motion: np.ndarray
    cover: np.ndarray
    lip: np.ndarray
    unseen: np.ndarray
    streaks: float


def bared_teeth(
    here: np.ndarray, there: np.ndarray, skull: np.ndarray, lip: np.ndarray, far: np.ndarray, scale: float
) -> BaredTeeth | None:
    """Tell teeth that a photo shows from those that go on from them, in a box whose corner is (0, 0); `None` where the
    photo shows none.

    Args:
        here, there: Outlines of the lips' inside in source and target [N, 2], grid pixels.
        skull: Where the teeth are in the photo, minus where they are [2].
        lip: The same of the lip's edge, at each pixel [H, W, 2].
        far: How far each pixel is from that edge [H, W].
        scale: Grid pixels per metre.
    """
    centre, shown = centres(lip.shape), fill_polygon(lip.shape, here).astype(np.uint8)
    for inset in (LIP * scale, 1.0):
        side = 2 * max(1, round(inset)) + 1
        sure = cv2.erode(shown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0
        if sure.any():
            break
    else:
        return None
    teeth = centre + skull
    seen = look(sure, teeth)
    nearest = centre.reshape(-1, 2)[nearest_known(sure)[1]]
    motion = np.where(seen[..., None], teeth, look(nearest, teeth)) - centre
    cover = ramp(far, 0, EDGE * scale) * fill_polygon(lip.shape, there)
    motion, cover, lip, unseen = (field.astype(np.float32) for field in (motion, cover, lip, ~seen))
    return BaredTeeth(np.zeros(2, int), motion, cover, lip, unseen, STREAKS * scale)


def paint_bared_teeth(moved: np.ndarray, photo: np.ndarray, matrix: np.ndarray, teeth: BaredTeeth) -> None:
    """Paint what lies between the lips into a moved photo, in place.

    Args:
        moved, photo: uint8 [H, W, 3], after and before motion.
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
    """
    matrix = matrix - np.column_stack([np.zeros((2, 2)), teeth.corner])
    x0, y0, x1, y1 = reach(teeth.cover > 0, matrix, photo.shape)
    if x1 <= x0 or y1 <= y0:
        return
    large = lambda field: enlarge(field, matrix, (x0, y0, x1, y1))
    to_photo = invert(matrix)[:, :2].T.astype(np.float32)
    fetch = lambda by: displaced(photo, by, (x0, y0)).astype(np.float32)
    lip, inside = (fetch(large(field) @ to_photo) for field in (teeth.lip, teeth.motion))
    even = cv2.GaussianBlur(inside, (0, 0), max(teeth.streaks * float(np.linalg.norm(to_photo[0])), 0.5))
    inside += large(teeth.unseen)[..., None] * (even - inside)
    window, cover = moved[y0:y1, x0:x1], large(teeth.cover)[..., None]
    mixed = lip + cover * (inside - lip)
    window[:] = np.where(cover > 0, np.clip(np.round(mixed), 0, 255), window)
