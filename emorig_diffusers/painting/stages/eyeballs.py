"""Eyeballs under lids that move: what the photo shows of them, and what a rising lid uncovers.

Irises are round and whites are white, so hidden parts can be told from what the photo shows. Lids, eyeball and hidden
parts are mixed as colours, not as motions: a motion that jumps from one to the next would sample all that lies between,
and leave a lattice of lashes and pupil.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...photo.landmarks import downwards
from ...photo.masks import fill_polygon
from ...photo.resample import displaced, enlarge, invert, reach

RADIUS = 0.0057  # metres, of an iris
SHADE = 0.88  # light on white under a raised lid, of that on the white that the photo shows
CLIPPED = 252  # grey levels from which white may have been any lighter, and stays white in shade
MOST_BLUR = 0.3  # radii of the iris
WHITES = 1.15, 1.9  # radii from the iris's middle between which the white is white, and no corner of the eye


@dataclass
class Eyeball:
    """One eye behind the target's lids, in a box of the warp's grid.

    Attributes:
        corner: Left and top of the box, grid pixels.
        gaze: Where the eyeball is in the photo, minus where it is [2], grid pixels.
        motion: The same for the like of a hidden part of the iris [H, W, 2].
        cover: How much of each pixel lies between the lids, and behind their lashes [H, W].
        iris, white: Shares of the eyeball that are hidden iris and hidden white [H, W].
        shown: White that the photo shows [H, W].
        radius: Of the iris, grid pixels.
    """

    corner: np.ndarray
    gaze: np.ndarray
    motion: np.ndarray
    cover: np.ndarray
    iris: np.ndarray
    white: np.ndarray
    shown: np.ndarray
    radius: float


def eyeball(
    opening: np.ndarray, iris: np.ndarray, gaze: np.ndarray, cover: np.ndarray, lashes: float, scale: float
) -> Eyeball:
    """Tell hidden from shown, in a box whose corner is (0, 0).

    Args:
        opening: Outline of the lids in the photo [16, 2], grid pixels.
        iris: Its middle in the photo [2].
        gaze, cover: As in `Eyeball`.
        lashes: Pixels that lashes reach down from the upper lid.
        scale: Grid pixels per metre.
    """
    down, shape, radius = downwards(opening), cover.shape, RADIUS * scale
    axis, ball = np.array([down[1], -down[0]]), centres(shape) + gaze
    clear = fill_polygon(shape, opening) & fill_polygon(shape, opening + lashes * down)
    hidden = cv2.dilate((~look(clear, ball)).astype(np.float32), np.ones((3, 3), np.uint8))
    hidden = cv2.GaussianBlur(hidden, (0, 0), 0.7)
    across, height = (ball - iris) @ axis, (ball - iris) @ down
    far = np.hypot(across, height)
    highest, lowest = _shown_heights(clear, iris, axis, down, across)
    mirrored = iris + across[..., None] * axis + np.clip(-height, highest, lowest)[..., None] * down
    of_iris = np.clip(0.5 + (radius - far) / 1.5, 0, 1)
    white = (hidden < 0.1) & (far > WHITES[0] * radius) & (far < WHITES[1] * radius) & (cover > 0.5)
    fields = (mirrored - centres(shape), cover, hidden * of_iris, hidden * (1 - of_iris), white)
    motion, cover, hidden_iris, hidden_white, shown = (field.astype(np.float32) for field in fields)
    return Eyeball(np.zeros(2, int), gaze, motion, cover, hidden_iris, hidden_white, shown, radius)


def _shown_heights(
    clear: np.ndarray, iris: np.ndarray, axis: np.ndarray, down: np.ndarray, across: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From which to which height beside the iris's middle the photo shows the eyeball, at places `across` [H, W]."""
    y, x = np.nonzero(clear)
    points = np.column_stack([x, y]) + 0.5 - iris
    where, height = np.floor(points @ axis).astype(int), points @ down
    columns = np.unique(where)
    if len(columns) < 2:
        return np.zeros_like(across), np.zeros_like(across)
    table = np.array([[height[where == c].min() + 1, height[where == c].max() - 2.5] for c in columns], np.float64)
    table.sort(axis=1)
    table = cv2.blur(table, (1, 5), borderType=cv2.BORDER_REPLICATE)
    highest, lowest = (np.interp(across, columns + 0.5, table[:, k]) for k in (0, 1))
    return highest, lowest


def paint_eyeball(moved: np.ndarray, photo: np.ndarray, matrix: np.ndarray, eye: Eyeball, blur: float = 0.0) -> None:
    """Paint what lies between the lids into a moved photo, in place.

    Args:
        moved, photo: uint8 [H, W, 3], after and before motion.
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        blur: Standard deviation of the photo's own blur, grid pixels.
    """
    matrix = matrix - np.column_stack([np.zeros((2, 2)), eye.corner])
    x0, y0, x1, y1 = reach(eye.cover > 0, matrix, photo.shape)
    if x1 <= x0 or y1 <= y0:
        return
    blur = min(blur, MOST_BLUR * eye.radius)  # the box ends not far beyond the lids
    soft = lambda field: cv2.GaussianBlur(field, (0, 0), blur) if blur else field
    large = lambda field: enlarge(field, matrix, (x0, y0, x1, y1))
    to_photo = invert(matrix)[:, :2].T.astype(np.float32)
    fetch = lambda by: displaced(photo, np.broadcast_to(by, (y1 - y0, x1 - x0, 2)), (x0, y0)).astype(np.float32)
    ball, shown = fetch(eye.gaze.astype(np.float32) @ to_photo), large(eye.shown)[..., None]
    near = float(0.4 * eye.radius * np.linalg.norm(to_photo[0]))
    near_by = lambda a: cv2.GaussianBlur(a, (0, 0), near) + 0.1 * cv2.GaussianBlur(a, (0, 0), 4 * near)
    known = near_by(shown)[..., None]
    clipped = near_by((ball.min(-1) >= CLIPPED)[..., None] * shown)[..., None] / known.clip(1e-6)
    white = (SHADE + (1 - SHADE) * clipped) * near_by(ball * shown) / known.clip(1e-6)
    share = large(soft(eye.white))[..., None] * np.clip(known / 0.002 - 0.5, 0, 1)
    ball += large(soft(eye.iris))[..., None] * (fetch(large(eye.motion) @ to_photo) - ball)
    ball += share * (white - ball)
    window = moved[y0:y1, x0:x1].astype(np.float32)
    mixed = window + large(soft(eye.cover))[..., None] * (ball - window)
    moved[y0:y1, x0:x1] = np.clip(np.round(mixed), 0, 255)


def look(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a picture [H, W, ...] at points [..., 2], those beyond its edges at the edge."""
    x, y = (np.clip(points[..., k].astype(int), 0, picture.shape[1 - k] - 1) for k in (0, 1))
    return picture[y, x]


def centres(shape: tuple[int, ...]) -> np.ndarray:
    """Pixel centres (x, y) [H, W, 2]."""
    return np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1)
