"""Lids that come down: smooth skin over the eye, and a line of lashes where they meet.

Of an open eye's lid a photo shows a rim, with lashes pointing up over it. Stretched over the eye they become a curtain
of stripes, which are taken out; the lid's own colours stay. Lids that meet are closed by a line in the lashes' colour,
and are about as light as the skin around: what is darker is the shadow under the brow, or the iris's upper rim.
"""

from __future__ import annotations

import cv2
import numpy as np

from ...photo.landmarks import IRISES, LIDS, downwards
from ...photo.masks import ramp
from ...photo.resample import paste, warp_crop
from .eyeballs import centres
from .flow import Warp
from .openings import RIM, along_edge, outline_box, uncrossed

# lengths in metres
LEAST_FALL = 0.0022, 0.0045  # by which a lid comes down from which, and by which wholly, its skin is painted
TALL = 0.0055  # of lashes above the lid's edge, in photos
MEETING = 0.0006, 0.0022  # between lids up to which they meet, and from which they do not
SEAM, WET = 0.0012, 0.0018  # painted above lids that meet, and below, where white may show beyond the landmarks
STREAK, GLINT = (0.0015, 0.004), (0.0028, 0.001)  # height and width of dark lashes, of bright lines, to take out
BLEND, LINE = 0.0012, 0.0007  # standard deviations of the lid's colours and of the line of lashes
MOST_BLUR = 0.0016  # of the photo that lids take up: what is painted ends not far away
BARE = (0.0045, 0.0085), (0.0025, 0.007)  # above the open eye's edge and below it, where skin bears no lashes
SPREAD = 0.004  # standard deviation over which that skin's colour is carried to a lid that meets the other
LID_LIGHT = 0.92, 1.02  # how light a shut lid is beside it: what is darker is lashes, what is lighter a glint; by eye
CORNER = 0.0, 0.25  # of an eye's width from its corners: over which a shut lid's lashes and bare skin come in
DARK = 0.12  # quantile of colours around the upper lid's edge that is taken for lashes


def paint_lids(moved: np.ndarray, photo: np.ndarray, matrix: np.ndarray, warp: Warp) -> np.ndarray:
    """A moved photo uint8 [H, W, 3] with whole lids where the warp lowers them.

    Args:
        moved, photo: After and before motion.
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        warp: How the face moved.
    """
    for outline, middle, is_shut in zip(LIDS, IRISES, warp.shut):
        here, there = (uncrossed(points[list(outline)]) for points in (warp.source_points, warp.points))
        gaze, down = (warp.source_points - warp.points)[middle], downwards(there)
        fall = ((there - here + gaze) @ down)[:9] / warp.scale
        if is_shut or fall.max() < LEAST_FALL[0]:
            continue
        box, corner = outline_box(here, there, warp.mouth.shape, 2 * TALL * warp.scale)
        motion, here, there = warp.motion[box], here - corner, there - corner
        if min(motion.shape[:2]) < 2:
            continue
        part = matrix - np.column_stack([np.zeros((2, 2)), corner])
        height, width, _ = motion.shape
        before, after = (warp_crop(rgb, part, max(height, width))[:height, :width] for rgb in (photo, moved))
        share, line, shut, bare = _shares(here, there, fall, motion, warp.scale)
        if warp.blur:
            blur = min(warp.blur, MOST_BLUR * warp.scale)
            share, line = (cv2.GaussianBlur(field, (0, 0), blur) for field in (share, line))
        skin = _without_lashes(after, along_edge(there, centres(share.shape))[1] > 0, warp.scale)
        if shut.any():
            skin += shut[..., None] * (_as_around(skin, after, bare, warp.scale) - skin)
        painted = skin + line[..., None] * (_lashes(before, here, warp.scale) - skin)
        moved = paste(moved, painted, share, part)
    return moved


def _shares(
    here: np.ndarray, there: np.ndarray, fall: np.ndarray, motion: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How much of each pixel is painted [H, W], how much of that is the line of lashes [H, W], how surely its lids meet
    [H, W], and where skin around the eye bears no lashes [H, W] bool.

    Args:
        here, there: Outlines of the lids [16, 2] before and after, pixels.
        fall: Metres that points of the upper lid [9] come down.
        motion: Where each pixel comes from, minus where it is [H, W, 2].
        scale: Pixels per metre.
    """
    place = centres(motion.shape)
    along, below = along_edge(there, place)
    above, was_above = -below / scale, -along_edge(here, place + motion)[1] / scale
    at = lambda values: np.interp(along, np.linspace(0, 1, 9), values)
    lowered = ramp(at(fall) / fall.max(), 0, 0.3) * ramp(fall.max(), *LEAST_FALL)
    gap = at(np.r_[0, (there[:8:-1] - there[1:8]) @ downwards(there), 0]) / scale
    meeting = lowered * (1 - ramp(gap, *MEETING)) * ramp(0.5 - np.abs(along - 0.5), -0.02, 0.03)
    lid = lowered * ramp(was_above, 0.3 * RIM, RIM) * (1 - ramp(was_above, 0.7 * TALL, 1.1 * TALL)) * (above > 0)
    seam = meeting * (1 - ramp(above, 0.7 * SEAM, SEAM)) * (1 - ramp(-above - gap, WET, 1.4 * WET))
    inner = meeting * ramp(0.5 - np.abs(along - 0.5), *CORNER)
    line = inner * np.exp(-0.5 * ((above + gap / 2) / LINE) ** 2)
    within = lambda far, low, high: (far > low) & (far < high) & (np.abs(along - 0.5) < 0.6)
    bare = within(was_above, *BARE[0]) | within(-above - gap, *BARE[1])
    painted = cv2.GaussianBlur(np.maximum(lid, seam).astype(np.float32), (0, 0), 0.6)
    return painted, line.astype(np.float32), inner.astype(np.float32), bare


def _without_lashes(crop: np.ndarray, below: np.ndarray, scale: float) -> np.ndarray:
    """Colours [H, W, 3] in [0, 1] of a crop uint8: above a lid's edge without dark streaks, `below` [H, W] bool without
    bright lines."""
    kernel = lambda *size: np.ones([2 * round(length * scale / 2) + 1 for length in size], np.uint8)
    upper = cv2.morphologyEx(crop, cv2.MORPH_CLOSE, kernel(*STREAK)).astype(np.float32) / 255
    lower = cv2.morphologyEx(crop, cv2.MORPH_OPEN, kernel(*GLINT)).astype(np.float32) / 255
    upper, lower = (cv2.GaussianBlur(x, (0, 0), blur * scale) for x, blur in ((upper, BLEND), (lower, 0.4 * BLEND)))
    return upper + cv2.blur(below.astype(np.float32), (3, 3))[..., None] * (lower - upper)


def _as_around(skin: np.ndarray, crop: np.ndarray, bare: np.ndarray, scale: float) -> np.ndarray:
    """Colours of a lid [H, W, 3] in [0, 1] that was stretched over the eye, as bare skin beside it has them.

    Args:
        skin: Its colours: shadow, iris and lashes are among them, where the lid's edge is not quite where it was found.
        crop: uint8 [H, W, 3].
        bare: Where skin is [H, W] bool.
        scale: Pixels per metre.
    """
    light, weight = crop.mean(-1), bare.astype(np.float32)
    if bare.any():
        weight *= light > 0.75 * np.median(light[bare])  # brows and glasses
    spread = lambda field: cv2.GaussianBlur(field, (0, 0), SPREAD * scale)
    known = spread(weight)[..., None]
    around = spread(crop * weight[..., None] / np.float32(255)) / known.clip(1e-6)
    level = skin.mean(-1, keepdims=True) / around.mean(-1, keepdims=True).clip(1e-3)
    level = cv2.GaussianBlur(np.clip(level, *LID_LIGHT), (0, 0), BLEND * scale)[..., None]
    return np.where(known > 1e-4, around * level, skin)


def _lashes(photo: np.ndarray, opening: np.ndarray, scale: float) -> np.ndarray:
    """Colour [3] in [0, 1] of the darkest along the upper lid's edge."""
    along, below = along_edge(opening, centres(photo.shape))
    near = photo[(np.abs(below) < 0.0012 * scale) & (along > 0.15) & (along < 0.85)].astype(np.float32) / 255
    if not len(near):
        return np.zeros(3, np.float32)
    light = near.mean(1)
    return near[light <= np.quantile(light, DARK)].mean(0)
