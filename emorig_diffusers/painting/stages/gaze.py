"""Eyes that look elsewhere: the iris turns with its eyeball, before white and behind lids.

An eye is taken apart into what moves apart: its white, without the iris; the iris, whole; and the light that its cornea
reflects. White that the iris hid is spread from the white around it. Of the iris, what lids hide is what its lower half
shows, or what it has at the same distance from its middle. A reflection stays where the light is: it goes along only as
far as the cornea does, whose middle is nearer to the middle of the eyeball than the iris is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from ...photo.landmarks import IRISES, LIDS, downwards
from ...photo.masks import ramp
from ...photo.resample import align, paste, transform_points, warp_crop
from .eyeballs import centres
from .openings import along_edge, uncrossed

# lengths in radii of the iris; by eye, on thirty people
TURNING_RADIUS = 1.7  # from the middle of the eyeball to the iris: 10 mm, of irises of 5.9 mm (Gullstrand's eye)
CORNEA = 0.55  # of the iris's way that reflections go: the cornea's middle lies 5.6 mm before the eyeball's
EDGE = 1.06, 1.25  # from which an iris fades into the white, and where it ends
BOX = 3.4  # around the middle of the eye
SMALLEST = 24.0  # pixels of a radius in which it is drawn at least
LASHES, WET = 0.22, 0.08  # below the upper lid and above the lower one that show no clear eyeball
COVER = (0.05, 0.2), (0.0, 0.12)  # below the upper lid and above the lower one over which what is drawn comes in
NEAR = 1.25, 1.45  # from the iris, before and after, up to which white is drawn where lids stay, and where that ends
SPREADS = (0.8, 0.22), (2.0, 0.5), (4.0, 2.0)  # along and across the eye over which white is spread, near before far
LEAST_WHITE = 0.02  # share of white within a spread from which it is enough
LIGHT = 0.7  # quantile of grey levels beside the iris above which the eye is surely white
UNLIKE = 0.25  # logarithm of red and blue over green by which its colour may differ
GLINT, GLINT_EDGE = 32.0, 0.1  # grey levels by which a reflection is lighter than the iris around, and its soft edge
GLINTS_WITHIN = 0.95  # of the iris's middle
MIRRORED = 0.85, 0.95  # from the iris's middle, over which its lower half, near whose edge a lid is, no longer serves
RINGS = 26  # of the profile of an iris
FIT_FAR, FIT_SIZE = 0.24, 0.06  # from where it was found, and share of its radius, that an iris's edge is looked for
FIT_BAND = 0.12  # inside and outside its edge between which the step from dark to light is measured
FIT_STEP, FIT_DOUBT = 60.0, 3.0  # most grey levels of that step that count, and how many speak against the farthest


@dataclass(frozen=True)
class TurningEye:
    """An eye in pixels of its photo.

    Attributes:
        iris: Its middle [2] in the photo.
        radius: Of the iris.
        here, there: Outlines of the lids [16, 2] before and after.
        carry: Where the eyeball is in the photo, minus where it is [2].
        looks, carried, turned: Where it looks in the photo, as its head turns, and after it has turned itself: unit
            vectors [3], right and down in the photo, and to the camera.
    """

    iris: np.ndarray
    radius: float
    here: np.ndarray
    there: np.ndarray
    carry: np.ndarray
    looks: np.ndarray
    carried: np.ndarray
    turned: np.ndarray


def turning_eye(
    side: int, landmarks: np.ndarray, before: np.ndarray, after: np.ndarray, looks: Sequence[Tensor]
) -> TurningEye:
    """The person's right (0) or left (1) eye.

    Args:
        landmarks: Detected in the photo [478, 2 or 3].
        before, after: Dense landmarks [478, 2] of the head that carries the eye along, pixels of the photo.
        looks: `TurningEye.looks`, `carried` and `turned` [3] in the aligned crop's axes: right, up, to the camera.
    """
    outline, middle = list(LIDS[side]), IRISES[side]
    iris, ring = landmarks[middle, :2], landmarks[middle + 1 : middle + 5, :2]
    turn = align(landmarks, 2)[:, :2]
    upright = turn.T / np.linalg.norm(turn[0]) * [1, -1]
    directions = (np.append(upright @ look.numpy()[:2], look[2]) for look in looks)
    return TurningEye(
        iris, float(np.linalg.norm(ring - iris, axis=1).mean()), uncrossed(before[outline]), uncrossed(after[outline]),
        (before - after)[middle], *directions,
    )  # fmt: skip


def paint_turned_eye(edited: np.ndarray, photo: np.ndarray, eye: TurningEye) -> np.ndarray:
    """An edited photo uint8 [H, W, 3] with the eye turned.

    Args:
        edited, photo: After and before the edit.
        eye: The eye.
    """
    place, size, radius = _place(eye)
    picture = warp_crop(photo, place, size).astype(np.float32)
    here, there, middle = (transform_points(place, p) for p in (eye.here, eye.there, eye.iris))
    axes = place[:, :2] / np.linalg.norm(place[:, 0])
    looks, carried, turned = (np.append(axes @ d[:2], d[2]) for d in (eye.looks, eye.carried, eye.turned))
    carry, shift = place[:, :2] @ eye.carry, TURNING_RADIUS * radius * (turned - carried)[:2]
    points = centres((size, size))
    clear = _clear(here, points, radius)
    middle, radius = _fit_iris(picture, clear, middle, radius, looks)
    if not (clear & (np.linalg.norm(points - middle, axis=-1) > EDGE[1] * radius)).any():
        return edited  # lids that all but meet show no eyeball
    iris, glint = _whole_iris(picture, clear, middle, radius, looks)
    white = _white(picture, clear, middle, radius)
    ball = points + carry
    drawn = _fetch(white, ball)
    disc = _unforeshorten(ball - middle - shift, turned) / radius
    far = np.linalg.norm(disc, axis=-1)
    side = (len(iris) - 1) / 2
    alpha = 1 - ramp(far, *EDGE)
    drawn += alpha[..., None] * (_fetch(iris, disc / EDGE[1] * side + side + 0.5) - drawn)
    drawn += _fetch(glint, ball - CORNEA * shift) * (1 - ramp(far, 1 - GLINT_EDGE, 1))[..., None]
    mask = _cover(there, points, radius)
    if np.allclose(here - carry, there):  # where lids stay, so does the photo's white
        was = np.linalg.norm(_unforeshorten(ball - middle, looks), axis=-1) / radius
        mask *= 1 - ramp(np.minimum(far, was), *NEAR)
    return paste(edited, np.clip(drawn, 0, 255) / 255, mask.astype(np.float32), place)


def _fit_iris(
    picture: np.ndarray, clear: np.ndarray, middle: np.ndarray, radius: float, looks: np.ndarray
) -> tuple[np.ndarray, float]:
    """Middle [2] and radius of the circle near a found one whose edge is the sharpest step from dark to light (Daugman
    1993)."""
    grey = cv2.GaussianBlur(picture.mean(-1), (0, 0), FIT_BAND / 2 * radius)
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = _foreshorten(np.column_stack([np.cos(angles), np.sin(angles)]), looks)
    steps, sizes = np.linspace(-FIT_FAR, FIT_FAR, 9), np.linspace(1 - FIT_SIZE, 1 + FIT_SIZE, 5)
    moves = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    edges = [
        (middle + radius * (moves[:, None, None] + (share * sizes)[:, None, None] * ring)).reshape(-1, 48, 2)
        for share in (1 - FIT_BAND, 1 + FIT_BAND)
    ]
    inside, outside = (_fetch(grey, edge) for edge in edges)
    seen = _fetch(clear.astype(np.float32), edges[0]) * _fetch(clear.astype(np.float32), edges[1])
    step = (seen * np.clip(outside - inside, -FIT_STEP, FIT_STEP)).sum(-1) / (seen.sum(-1) + 4)
    doubt = np.square(moves / FIT_FAR).sum(-1)[:, None] + np.square((sizes - 1) / FIT_SIZE)
    move, size = np.unravel_index((step.reshape(doubt.shape) - FIT_DOUBT * doubt).argmax(), doubt.shape)
    return middle + radius * moves[move], float(radius * sizes[size])


def _place(eye: TurningEye) -> tuple[np.ndarray, int, float]:
    """Similarity [2, 3] from photo pixels to a square around the eye, whose lids lie level; its side; the iris's radius
    in it."""
    scale = max(SMALLEST / eye.radius, 1.0)
    down = downwards(eye.here)
    linear = scale * np.array([[down[1], -down[0]], down])
    radius = scale * eye.radius
    size = int(2 * np.ceil(BOX * radius))
    middle = (eye.there[0] + eye.there[8]) / 2
    return np.column_stack([linear, size / 2 - linear @ middle]), size, radius


def _clear(opening: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """Where nothing is before the eyeball [S, S] bool."""
    below, above = _depths(opening, points)
    return (below > LASHES * radius) & (above > WET * radius)


def _cover(opening: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """How much of each pixel lies between lids and behind their lashes [S, S]."""
    below, above = _depths(opening, points)
    return ramp(below / radius, *COVER[0]) * ramp(above / radius, *COVER[1])


def _depths(opening: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels below the upper lid and above the lower one [S, S]; negative beyond the corners."""
    along, below = along_edge(opening, points)
    above = -along_edge(opening[-np.arange(16)], points)[1]
    inside = (along > 0) & (along < 1)
    return np.where(inside, below, -1.0), np.where(inside, above, -1.0)


def _foreshorten(points: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """Points [..., 2] of a disc as they are seen when it looks somewhere."""
    return points - (1 - looks[2]) * _along(points, looks)


def _unforeshorten(points: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """Inverse of `_foreshorten`."""
    return points + (1 / looks[2] - 1) * _along(points, looks)


def _along(points: np.ndarray, looks: np.ndarray) -> np.ndarray:
    axis = looks[:2] / max(np.linalg.norm(looks[:2]), 1e-9)
    return (points @ axis)[..., None] * axis


def _whole_iris(
    picture: np.ndarray, clear: np.ndarray, middle: np.ndarray, radius: float, looks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The iris as from its front [N, N, 3], EDGE[1] radii to each side, without reflections; and those [S, S, 3] where
    they are in the picture."""
    half = int(np.ceil(EDGE[1] * radius))
    grid = (centres((2 * half + 1,) * 2) - half - 0.5) * (EDGE[1] * radius / half)
    far, source = np.linalg.norm(grid, axis=-1) / radius, middle + _foreshorten(grid, looks)
    shown, seen = _fetch(picture, source), _fetch(clear.astype(np.float32), source)
    profile = _profile(shown, seen, far)
    own = profile(far)
    excess = (shown - own).mean(-1)
    light = (excess > GLINT) & (far < GLINTS_WITHIN) & (seen > 0.5)
    soft = GLINT_EDGE * radius
    light = cv2.dilate(light.astype(np.float32), np.ones((2 * round(soft) + 1,) * 2, np.uint8))
    light = cv2.GaussianBlur(light, (0, 0), soft / 2)
    sure = cv2.GaussianBlur(cv2.erode(seen, np.ones((3, 3), np.uint8)), (0, 0), 0.06 * radius) * (1 - light)
    mirrored = (sure[::-1] * (1 - ramp(far, *MIRRORED)))[..., None]
    sure = sure[..., None]
    whole = sure * shown + (1 - sure) * (mirrored * shown[::-1] + (1 - mirrored) * own)
    reflected = np.maximum(shown - whole, 0) * (light * seen)[..., None]
    back = _unforeshorten(centres(picture.shape) - middle, looks) / (EDGE[1] * radius) * half + half + 0.5
    return whole.astype(np.float32), _fetch(reflected.astype(np.float32), back, cv2.BORDER_CONSTANT)


def _profile(shown: np.ndarray, seen: np.ndarray, far: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Colour of an iris by the distance from its middle in radii, as a function [...] -> [..., 3]."""
    steps = np.linspace(0, EDGE[1], RINGS)
    known = []
    for low, high in zip(steps[:-1], steps[1:]):
        ring = (far >= low) & (far < high) & (seen > 0.5)
        if ring.any():
            known.append(((low + high) / 2, *np.median(shown[ring], axis=0)))
    table = np.array(known) if known else np.array([(0.0, *shown.reshape(-1, 3).mean(0))])
    return lambda at: np.dstack([np.interp(at, table[:, 0], table[:, k]) for k in (1, 2, 3)]).astype(np.float32)


def _white(picture: np.ndarray, clear: np.ndarray, middle: np.ndarray, radius: float) -> np.ndarray:
    """The eyeball [S, S, 3] without its iris."""
    far = np.linalg.norm(centres(picture.shape) - middle, axis=-1)
    known = (clear & (far > EDGE[1] * radius)).astype(np.float32)
    pure = known * _whiteness(picture, known)
    small = max(round(len(picture) * min(SMALLEST / radius, 1)), 1)  # what is spread is smooth
    shrink = lambda a: cv2.resize(a, (small, small), interpolation=cv2.INTER_AREA)
    filled = _spread(shrink(picture * pure[..., None]), shrink(pure), radius * small / len(picture))
    filled = cv2.resize(filled, pure.shape, interpolation=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(cv2.erode(known, np.ones((3, 3), np.uint8)), (0, 0), 0.05 * radius)[..., None]
    return filled + soft * (picture - filled)


def _spread(colours: np.ndarray, share: np.ndarray, radius: float) -> np.ndarray:
    """Colours [N, N, 3] of shares of pixels [N, N], times these, spread to all."""
    filled, weight = np.zeros_like(colours), np.zeros_like(share)
    for along, across in SPREADS:
        blurred = [cv2.GaussianBlur(a, (0, 0), sigmaX=along * radius, sigmaY=across * radius) for a in (colours, share)]
        new = np.clip(blurred[1] / LEAST_WHITE, 0, 1) * (1 - weight)
        filled += (new / blurred[1].clip(1e-6))[..., None] * blurred[0]
        weight += new
    return filled / weight.clip(1e-6)[..., None]


def _whiteness(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How far each pixel [S, S] has the colour of the lightest of those that are `known`: corners of eyes are redder,
    and so is skin."""
    grey = picture.mean(-1)
    light = (known > 0) & (grey >= np.quantile(grey[known > 0], LIGHT))
    hue = lambda colours: np.log(colours[..., [0, 2]].clip(1) / colours[..., 1:2].clip(1))
    unlike = np.abs(hue(picture) - np.median(hue(picture[light]), axis=0)).sum(-1)
    return np.exp(-np.square(unlike / UNLIKE)).astype(np.float32)


def _fetch(picture: np.ndarray, points: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """Colours of a picture float32 [H, W, ...] at points [..., 2]."""
    x, y = (np.ascontiguousarray(points[..., k] - 0.5, np.float32) for k in (0, 1))
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border)
