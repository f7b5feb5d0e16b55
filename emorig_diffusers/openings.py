"""Eyes and lips that open and close: their edges go along, and what they uncover is taken from what the photo shows.

The edge of a lid is no line: lashes and shade hang over the eyeball. So a rim along the opening moves with the lid;
where the moved eyeball would show what was lid in the photo, it shows the point mirrored at the iris's horizontal axis,
for irises are round, or else the nearest point of iris or white that the photo shows. Lips move before teeth the same
way, as long as the mouth is not painted anew.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from .masks import fill_polygon, smooth
from .models.landmarks import EYES, INNER_LIPS

LIDS = (EYES[:16], EYES[16:])  # outlines: a corner, the upper lid (1 to 7), the other corner, the lower lid
IRISES = (468, 473)  # their middles among the landmarks
BRIDGE = 6  # landmark on the nose that moves with the skull
RADIUS = 0.0057  # metres, of an iris
WHITES = 1.9  # radii from the iris's middle up to which the white is white, and no corner of the eye
RIM = 0.0018  # metres outside an opening over which the skin's motion turns into that of the edge
LASHES = 0.0016  # metres inside the opening over which the lid's motion turns into the eyeball's
WET = 0.0010  # metres inside the lips over which their motion turns into that of the teeth
LEAST_MOTION = 0.0003  # metres by which an edge must move against eyeball or teeth before anything is done


def move_lids(
    motion: np.ndarray, before: np.ndarray, after: np.ndarray, irises: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Motion with whole eyes.

    Args:
        motion: Where each pixel comes from, minus where it is [G, G, 2], grid pixels.
        before, after: Dense landmarks [478, 2] of source and target, grid pixels.
        irises: Middles of the irises in the photo [2, 2], the person's right eye first, grid pixels.
        scale: Grid pixels per metre.

    Returns:
        The motion, new in and around the openings of eyes whose lids move, and those pixels [G, G] bool.
    """
    motion, done = motion.copy(), np.zeros(motion.shape[:2], bool)
    for outline, middle, iris in zip(LIDS, IRISES, irises):
        here, there, gaze = before[list(outline)], after[list(outline)], before[middle] - after[middle]
        if np.hypot(*(here - there - gaze).T).max() < LEAST_MOTION * scale:
            continue
        box, corner = _box(here, there, motion.shape, scale)
        if min(motion[box].shape) >= 2:
            here, there, iris = here - corner, there - corner, iris - corner
            centre, lift = _centres(motion[box].shape), ((here - there - gaze) @ _down(here))[1:8].max()
            ball = _eyeball(centre + gaze, here, iris, scale, np.clip(lift, 0, LASHES * scale))
            done[box] = _blend(motion[box], here, there, ball - centre, (LASHES * scale, RIM * scale))
    return motion, done


def move_lips(motion: np.ndarray, before: np.ndarray, after: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Motion with whole lips that are open in source and target, and go before teeth that stay with the skull.

    Arguments as for `move_lids`.

    Returns:
        The motion, new in and around the mouth, and pixels between the lips that the photo does not show [G, G] bool;
        they come from the nearest that it shows.
    """
    motion, unseen = motion.copy(), np.zeros(motion.shape[:2], bool)
    here, there = (points[list(INNER_LIPS)] for points in (before, after))
    skull = (before - after)[BRIDGE]
    if np.hypot(*(here - there - skull).T).max() < LEAST_MOTION * scale:
        return motion, unseen
    box, corner = _box(here, there, motion.shape, scale)
    if min(motion[box].shape) >= 2:
        here, there = here - corner, there - corner
        centre, shown = _centres(motion[box].shape), fill_polygon(motion[box].shape, here)
        teeth = centre + skull
        unseen[box] = fill_polygon(motion[box].shape, there) & ~_look(shown, teeth)
        sure = cv2.erode(shown.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if sure.any():
            teeth = np.where(_look(sure, teeth)[..., None], teeth, _look(_nearest(sure), teeth))
        _blend(motion[box], here, there, teeth - centre, (WET * scale, RIM * scale))
    return motion, unseen


def _box(
    here: np.ndarray, there: np.ndarray, shape: tuple[int, ...], scale: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Rows and columns around an opening in both states, and the corner (x, y) where they start."""
    reach = 2 * RIM * scale
    low, high = np.minimum(here, there).min(0) - reach, np.maximum(here, there).max(0) + reach
    left, top = np.clip(low.astype(int), 0, shape[1::-1])
    right, bottom = np.clip(high.astype(int) + 1, 0, shape[1::-1])
    return (slice(top, bottom), slice(left, right)), np.array([left, top])


def _blend(
    motion: np.ndarray, here: np.ndarray, there: np.ndarray, within: np.ndarray, reach: tuple[float, float]
) -> np.ndarray:
    """Write the motion [H, W, 2] of one opening, and return where.

    Args:
        here, there: Its outline in source and target [N, 2]: the edge moves with it.
        within: Motion of what lies behind the opening [H, W, 2].
        reach: Pixels inside and outside the edge over which its motion turns into the others.
    """
    inside = fill_polygon(motion.shape, there)
    edge, far = _edge_motion(here, there, _centres(motion.shape))
    share = smooth(np.clip(far / np.where(inside, *reach), 0, 1))[..., None]
    motion[:] = edge + share * (np.where(inside[..., None], within, motion) - edge)
    return inside | (far < reach[1])


def _edge_motion(here: np.ndarray, there: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion of the nearest point of the opening's edge [H, W, 2], and how far that is [H, W]."""
    steps = np.linspace(0, 1, 8, endpoint=False)[:, None]
    dense = lambda p: (p[:, None] * (1 - steps) + np.roll(p, -1, 0)[:, None] * steps).reshape(-1, 2)
    source, target = dense(here), dense(there)
    far, nearest = cKDTree(target).query(centre)
    return cv2.blur((source - target)[nearest], (5, 5)), far


def _eyeball(ball: np.ndarray, opening: np.ndarray, iris: np.ndarray, scale: float, lashes: float) -> np.ndarray:
    """Points of the eyeball [H, W, 2], each replaced by a like one where the photo shows a lid, or lashes, which
    reach `lashes` pixels down."""
    down, shape = _down(opening), ball.shape[:2]
    clear = fill_polygon(shape, opening) & fill_polygon(shape, opening + lashes * down)
    height, radius = (ball - iris) @ down, np.linalg.norm(_centres(ball.shape) - iris, axis=-1)
    donor = clear & fill_polygon(shape, opening - 0.5 * lashes * down) & (radius < WHITES * RADIUS * scale)
    mirrored = ball - 2 * height[..., None] * down
    hidden = ~_look(clear, ball)
    result = np.where((hidden & (height < 0) & _look(donor, mirrored))[..., None], mirrored, ball)
    hidden &= ~_look(donor, result)
    of_iris = np.linalg.norm(ball - iris, axis=-1) < RADIUS * scale
    for kind, place in ((of_iris, radius < 0.95 * RADIUS * scale), (~of_iris, radius > 1.1 * RADIUS * scale)):
        if (donor & place).any():
            result = np.where((kind & hidden)[..., None], _look(_nearest(donor & place), result), result)
    return result


def _down(opening: np.ndarray) -> np.ndarray:
    """Unit vector [2] from the upper to the lower lid, across the line of the corners."""
    axis = opening[8] - opening[0]
    return np.array([-axis[1], axis[0]]) / np.linalg.norm(axis).clip(1e-6) * (1 if axis[0] > 0 else -1)


def _nearest(known: np.ndarray) -> np.ndarray:
    """Middle (x, y) of the nearest known pixel, for every pixel [H, W, 2]."""
    _, label = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    y, x = np.nonzero(known)
    table = np.zeros((label.max() + 1, 2))
    table[label[y, x]] = np.column_stack([x, y]) + 0.5
    return table[label]


def _look(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a picture [H, W, ...] at points [..., 2], those beyond its edges at the edge."""
    x, y = (np.clip(points[..., k].astype(int), 0, picture.shape[1 - k] - 1) for k in (0, 1))
    return picture[y, x]


def _centres(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1)
