"""Eyes and lips that open and close: their edges go along, before eyeballs and teeth that stay.

The edge of a lid is no line: lashes and shade hang over the eyeball. So a rim along the opening moves with the lid, and
what it uncovers is left to eyes.py. Lips move before teeth the same way, as long as the mouth is not painted anew; what
they uncover is taken from the nearest that the photo shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from scipy.spatial import KDTree

from ...photo.landmarks import BRIDGE, INNER_LIPS, IRISES, LIDS, downwards, lid_gaps
from ...photo.masks import fill_polygon, nearest_known, ramp, smooth
from .bared_teeth import BaredTeeth, bared_teeth
from .eyeballs import Eyeball, centres, eyeball, look

TOUCHING = 0.6  # pixels between lids that are shut, for each pixel to be nearer to one of them
RIM = 0.0018  # metres outside an opening over which the skin's motion turns into that of the edge
LASHES = 0.0016  # metres inside the opening over which the lid's motion turns into the eyeball's
WET = 0.0010  # metres inside the lips over which their motion turns into that of the teeth
LEAST_MOTION = 0.0003  # metres by which an edge must move against eyeball or teeth before anything is done


def move_lids(
    motion: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    irises: np.ndarray,
    scale: float,
    shut: Sequence[bool] = (False, False),
) -> tuple[np.ndarray, np.ndarray, list[Eyeball]]:
    """Motion of the eyes' openings. An eye that is shut in the photo shows no eyeball: between its edges is skin.

    Args:
        motion: Where each pixel comes from, minus where it is [G, G, 2], grid pixels.
        before, after: Dense landmarks [478, 2] of source and target, grid pixels.
        irises: Middles of the irises in the photo [2, 2], the person's right eye first, grid pixels.
        scale: Grid pixels per metre.
        shut: Which of the eyes the photo shows shut, see `shut_eyes`.

    Returns:
        The motion, in and around the openings of eyes whose lids move that of their rims; those pixels [G, G] bool;
        the eyeballs of those that are not shut, for `eyeballs.paint_eyeball`.
    """
    motion, done, eyes = motion.copy(), np.zeros(motion.shape[:2], bool), []
    for outline, middle, iris, is_shut in zip(LIDS, IRISES, irises, shut):
        here, there = (uncrossed(points[list(outline)]) for points in (before, after))
        gaze = before[middle] - after[middle]
        if np.hypot(*(here - there - gaze).T).max() < LEAST_MOTION * scale:
            continue
        box, corner = outline_box(here, there, motion.shape, 2 * RIM * scale)
        if min(motion[box].shape) >= 2:
            here, there, iris = here - corner, there - corner, iris - corner
            if is_shut:
                done[box] = _stretch(motion[box], here, there, RIM * scale)
                continue
            lift = ((here - there - gaze) @ downwards(here))[1:8].max()
            done[box], cover = _blend(motion[box], here, there, None, (LASHES * scale, RIM * scale))
            eye = eyeball(here, iris, gaze, cover, np.clip(lift, 0, LASHES * scale), scale)
            eyes.append(replace(eye, corner=corner))
    return motion, done, eyes


def stretch_lips(
    motion: np.ndarray, before: np.ndarray, after: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Motion with whole lips that speak: what they show between them goes along, so that nothing of it is lost.

    Arguments as for `move_lids`.

    Returns:
        The motion, and pixels in and around the mouth [G, G] bool, all of which the photo shows.
    """
    motion, done = motion.copy(), np.zeros(motion.shape[:2], bool)
    here, there = (points[list(INNER_LIPS)] for points in (before, after))
    box, corner = outline_box(here, there, motion.shape, 2 * RIM * scale)
    if min(motion[box].shape) >= 2:
        done[box] = _stretch(motion[box], here - corner, there - corner, RIM * scale)
    return motion, done


def move_lips(
    motion: np.ndarray, before: np.ndarray, after: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, BaredTeeth | None]:
    """Motion with whole lips that are open in source and target, and go before teeth that stay with the skull.

    Arguments as for `move_lids`.

    Returns:
        The motion, new in and around the mouth; pixels between the lips that the photo does not show [G, G] bool, which
        come from the nearest that it shows; and the teeth, for `bared_teeth.paint_bared_teeth`, where it shows any.
    """
    motion, unseen, bared = motion.copy(), np.zeros(motion.shape[:2], bool), None
    here, there = (points[list(INNER_LIPS)] for points in (before, after))
    skull = (before - after)[BRIDGE]
    if np.hypot(*(here - there - skull).T).max() < LEAST_MOTION * scale:
        return motion, unseen, bared
    box, corner = outline_box(here, there, motion.shape, 2 * RIM * scale)
    if min(motion[box].shape) >= 2:
        here, there = here - corner, there - corner
        centre, shown = centres(motion[box].shape), fill_polygon(motion[box].shape, here)
        teeth = centre + skull
        unseen[box] = fill_polygon(motion[box].shape, there) & ~look(shown, teeth)
        sure = cv2.erode(shown.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if sure.any():
            nearest = centre.reshape(-1, 2)[nearest_known(sure)[1]]
            teeth = np.where(look(sure, teeth)[..., None], teeth, look(nearest, teeth))
        _blend(motion[box], here, there, teeth - centre, (WET * scale, RIM * scale))
        bared = bared_teeth(here, there, skull, *_edge_motion(here, there, centre), scale)
        bared = bared and replace(bared, corner=corner)
    return motion, unseen, bared


def uncrossed(opening: np.ndarray) -> np.ndarray:
    """An outline of lids [16, 2] whose upper lid stays above the lower one: they meet where the lower one is."""
    opening, lift = opening.copy(), np.maximum(TOUCHING - lid_gaps(opening), 0)
    opening[1:8] -= lift[:, None] * downwards(opening)
    return opening


def outline_box(
    here: np.ndarray, there: np.ndarray, shape: tuple[int, ...], reach: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Rows and columns within `reach` pixels of an opening in both states, and the corner (x, y) where they start."""
    low, high = np.minimum(here, there).min(0) - reach, np.maximum(here, there).max(0) + reach
    left, top = np.clip(low.astype(int), 0, shape[1::-1])
    right, bottom = np.clip(high.astype(int) + 1, 0, shape[1::-1])
    return (slice(top, bottom), slice(left, right)), np.array([left, top])


def _blend(
    motion: np.ndarray, here: np.ndarray, there: np.ndarray, within: np.ndarray | None, reach: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Write the motion [H, W, 2] of one opening.

    Args:
        here, there: Its outline in source and target [N, 2]: the edge moves with it.
        within: Motion of what lies behind the opening [H, W, 2]; without it all of the inside moves with the edge.
        reach: Pixels inside and outside the edge over which its motion turns into the others.

    Returns:
        Where that is [H, W] bool, and how much of a pixel lies within the opening and behind its rim [H, W].
    """
    inside = fill_polygon(motion.shape, there)
    edge, far = _edge_motion(here, there, centres(motion.shape))
    share = ramp(far, 0, np.where(inside, *reach))
    beyond = np.where(inside[..., None], edge if within is None else within, motion)
    motion[:] = edge + share[..., None] * (beyond - edge)
    return inside | (far < reach[1]), smooth(np.clip(2 * far / reach[0] - 0.3, 0, 1)) * inside


def _stretch(motion: np.ndarray, here: np.ndarray, there: np.ndarray, reach: float) -> np.ndarray:
    """Write the motion [H, W, 2] of an opening with skin inside, which stretches from edge to edge.

    Arguments and result as for `_blend`, `reach` outside the edge.
    """
    inside = fill_polygon(motion.shape, there)
    edges, fars = _edge_motions(here, there, centres(motion.shape))
    share = (fars[0] / np.maximum(fars[0] + fars[1], 1e-6))[..., None]
    skin, far = edges[0] + share * (edges[1] - edges[0]), np.minimum(*fars)
    share = ramp(far, 0, reach) * ~inside
    motion[:] = skin + share[..., None] * (motion - skin)
    return inside | (far < reach)


def _edge_motion(here: np.ndarray, there: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion of the nearest point of the opening's edge on the same side [H, W, 2], and how far the edge is [H, W]."""
    edges, fars = _edge_motions(here, there, centre)
    # where lids meet both sides are as near: the line between them tells
    over = along_edge((there + there[-np.arange(len(there))]) / 2, centre)[1] < 0
    return np.where(over[..., None], *edges), np.minimum(*fars)


def _edge_motions(
    here: np.ndarray, there: np.ndarray, centre: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Motions of the nearest points of an opening's upper and lower edge [H, W, 2], and how far these are [H, W]."""
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    dense = lambda p: (p[:, None] * (1 - steps) + np.roll(p, -1, 0)[:, None] * steps).reshape(-1, 2)
    source, target = dense(here), dense(there)
    half = len(target) // 2
    sides = [slice(0, half + 1), np.r_[half : len(target), 0]]
    found = [KDTree(target[side]).query(centre) for side in sides]
    motion = [cv2.blur((source - target)[side][nearest], (5, 5)) for side, (_, nearest) in zip(sides, found)]
    return motion, [far for far, _ in found]


def along_edge(outline: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points [..., 2] are along an opening from its first corner to its other, in [0, 1], and how far below its
    upper edge, pixels.

    Args:
        outline: [N, 2]: a corner, the upper edge, the other corner halfway, the lower edge.
    """
    edge = outline[: len(outline) // 2 + 1] - outline[0]
    axis = edge[-1] / max(np.square(edge[-1]).sum(), 1e-6)
    down = downwards(outline)
    at, depth = edge @ axis, edge @ down
    order = np.argsort(at)
    along = (points - outline[0]) @ axis
    return along, (points - outline[0]) @ down - np.interp(along, at[order], depth[order])
