"""Draw what may be before a mouth onto portraits, to learn and to measure how it is told: masks, scarves, fingers,
hands, microphones, cups, cards, tape, and shapes filled with pieces of other photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...photo.landmarks import OUTER_LIPS
from ...photo.masks import fill_polygon

Drawn = tuple[np.ndarray, np.ndarray]
"""A picture float32 [S, S, 3] in [0, 1] and how much of each pixel a cover hides [S, S]."""

CLOTHS = ((0.55, 0.75, 0.85), (0.92, 0.93, 0.94), (0.08, 0.08, 0.09), (0.45, 0.65, 0.6), (0.9, 0.6, 0.65))
"""Usual colours of masks: light blue, white, black, green, pink; sRGB."""
CHEEKS = (50, 280, 101, 330, 108, 337, 151)  # landmarks on skin that hands take their colour from
KINDS = ("mask", "scarf", "fingers", "fingers", "hand", "microphone", "piece", "cup", "card", "tape")
"""What is drawn for training; fingers, skin on skin, are the hardest to tell."""


@dataclass(frozen=True)
class Portrait:
    """A photo to draw on.

    Attributes:
        picture: Aligned crop float32 [S, S, 3] in [0, 1].
        points: Landmarks [468 or more, 2] in its pixels.
    """

    picture: np.ndarray
    points: np.ndarray

    @property
    def unit(self) -> float:
        """Height of the face, pixels."""
        return float(np.linalg.norm(self.points[152] - self.points[10]))

    @property
    def mouth(self) -> np.ndarray:
        """Middle of the lips [2]."""
        return self.points[list(OUTER_LIPS)].mean(0)


def cover_mouth(kind: str, face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A portrait with a cover of a kind somewhere about the mouth; `others` lend pieces of their surroundings."""
    layer, alpha = SHAPES[kind](face, others, rng)
    picture = face.picture
    if rng.random() < 0.6:  # its shadow
        across, down = rng.normal(0, 0.02) * face.unit, rng.uniform(0, 0.04) * face.unit
        shift = np.array([[1, 0, across], [0, 1, down]], np.float32)
        blurred = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.01, 0.04) * face.unit)
        shadow = cv2.warpAffine(blurred, shift, alpha.shape[::-1])
        picture = picture * (1 - rng.uniform(0.1, 0.5) * shadow[..., None])
    return np.clip(picture + alpha[..., None] * (layer - picture), 0, 1).astype(np.float32), alpha


def covered_share(alpha: np.ndarray, face: Portrait) -> float:
    """Share of the lips that a cover hides."""
    lips = fill_polygon(alpha.shape, face.points[list(OUTER_LIPS)])
    return float((alpha[lips] > 0.5).mean()) if lips.any() else 0.0


def _noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance."""
    small = [max(2, int(side / max(sigma, 1)) + 2) for side in shape]
    field = cv2.resize(rng.normal(size=small).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return field / max(float(field.std()), 1e-6)


def _cloth(face: Portrait, rng: np.random.Generator) -> np.ndarray:
    """Cloth of one colour, or with stripes, checks, dots or pleats, softly shaded."""
    shape = face.picture.shape[:2]
    any_colour = lambda: CLOTHS[rng.integers(len(CLOTHS))] if rng.random() < 0.6 else rng.random(3)
    pick = lambda: np.array(any_colour(), np.float32)
    layer = np.broadcast_to(pick(), (*shape, 3)).copy()
    y, x = np.mgrid[: shape[0], : shape[1]] / face.unit
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.2)
    along = (x * np.cos(angle) + y * np.sin(angle)) / period
    across = (y * np.cos(angle) - x * np.sin(angle)) / period
    pattern = rng.choice(["plain", "plain", "stripes", "checks", "dots"])
    if pattern != "plain":
        marks = {"stripes": along % 1 < 0.5, "checks": (along % 1 < 0.5) ^ (across % 1 < 0.5),
                 "dots": np.hypot(along % 1 - 0.5, across % 1 - 0.5) < 0.3}[pattern]  # fmt: skip
        layer[marks] = pick()
    light = 1 + 0.12 * _noise(shape, 0.25 * face.unit, rng) + rng.normal(0, 0.4) * (x - x.mean())
    if rng.random() < 0.5:  # pleats
        light -= rng.uniform(0.05, 0.25) * (np.abs((y / rng.uniform(0.05, 0.12)) % 1 - 0.5) < rng.uniform(0.02, 0.1))
    light += rng.uniform(0, 0.06) * rng.normal(size=shape)
    return np.clip(layer * light[..., None], 0, 1)


def _piece(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> np.ndarray:
    """A piece of another photo's clothes, hair or background, or of its forehead, turned and enlarged."""
    other = others[int(rng.integers(len(others)))]
    size, unit = len(other.picture), other.unit
    places = [other.points[10] + [0, -0.1 * unit], [0.15 * size, 0.8 * size], [0.85 * size, 0.8 * size],
              [0.5 * size, 0.95 * size], [0.1 * size, 0.3 * size], other.points[151]]  # fmt: skip
    x, y = places[int(rng.integers(len(places)))]
    turn = cv2.getRotationMatrix2D((float(x), float(y)), rng.uniform(0, 360), rng.uniform(1, 3))
    turn[:, 2] += face.mouth - [x, y]
    piece = cv2.warpAffine(other.picture, turn, face.picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    return np.clip(piece * rng.uniform(0.7, 1.3), 0, 1)


def _skin(face: Portrait, rng: np.random.Generator) -> np.ndarray:
    """Skin of about the face's colour."""
    size = len(face.picture)
    x, y = np.clip(face.points[list(CHEEKS)].astype(int), 0, size - 1).T
    colour = np.median(cv2.blur(face.picture, (3, 3))[y, x], 0) * np.exp(rng.normal(0, [0.15, 0.05, 0.05]).sum())
    colour = colour * np.exp(rng.normal(0, [0.05, 0.06, 0.08]))
    rough = rng.uniform(0, 1)
    blotches = _noise((size, size), 0.06 * face.unit, rng)[..., None]
    red = 1 + rough * np.array([0.01, -0.02, -0.02], np.float32) * blotches
    light = 1 + 0.08 * _noise((size, size), 0.12 * face.unit, rng) + 0.03 * rough * _noise((size, size), 1.5, rng)
    return np.clip(colour * red * light[..., None], 0, 1)


def _capsule(
    shape: tuple[int, int], start: np.ndarray, end: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance across a stroke in radii [H, W] (0 in its middle), and its soft mask."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    axis = (end - start) / max(np.linalg.norm(end - start), 1e-6)
    place = np.stack([x - start[0], y - start[1]], -1)
    along = np.clip(place @ axis, 0, np.linalg.norm(end - start))
    beside = place - along[..., None] * axis
    far = np.hypot(*beside.transpose(2, 0, 1)) / radius
    side = np.sign(beside @ [-axis[1], axis[0]]) * far
    return side, np.clip((1 - far) * radius + 0.5, 0, 1).astype(np.float32)


def _digits(face: Portrait, count: int, middle: np.ndarray, angle: float, rng: np.random.Generator) -> Drawn:
    """Fingers side by side, lit from one side, with nails and dark gaps."""
    shape = face.picture.shape[:2]
    skin, layer, alpha = _skin(face, rng), np.zeros_like(face.picture), np.zeros(shape, np.float32)
    radius = rng.uniform(0.045, 0.075) * face.unit
    axis, beside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    gap, light, gloom = rng.uniform(1.7, 2.3), rng.normal(0, 0.25), rng.uniform(0.2, 0.55)
    for k in rng.permutation(count):
        bend = angle + rng.normal(0, 0.06)
        way, place = np.array([np.cos(bend), np.sin(bend)]), middle + beside * (k - (count - 1) / 2) * gap * radius
        tip = place + way * rng.uniform(0.1, 0.35) * face.unit * (1 if count > 1 else 1.3)
        side, one = _capsule(shape, place - axis * 0.9 * face.unit, tip, radius * rng.uniform(0.9, 1.1))
        shade = 1 - gloom * side**2 + light * side
        digit = skin * shade[..., None]
        if rng.random() < 0.5:  # a nail
            _, nail = _capsule(shape, tip - way * 0.4 * radius, tip + way * 0.4 * radius, 0.6 * radius)
            digit += nail[..., None] * (rng.uniform(0.9, 1.2) * digit * [1.05, 0.95, 0.95] + 0.03 - digit)
        layer, alpha = layer + one[..., None] * (digit - layer), np.maximum(alpha, one)
    return layer, alpha


def _fingers(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    middle = face.mouth + rng.normal(0, [0.04, 0.04]) * face.unit
    return _digits(face, int(rng.integers(1, 5)), middle, rng.uniform(0, 2 * np.pi), rng)


def _hand(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A palm or fist with fingers."""
    middle, angle = face.mouth + rng.normal(0, [0.06, 0.05]) * face.unit, rng.uniform(0, 2 * np.pi)
    layer, alpha = _digits(face, 4, middle, angle, rng)
    axis = np.array([np.cos(angle), np.sin(angle)])
    start = middle - axis * rng.uniform(0.05, 0.3) * face.unit
    side, palm = _capsule(alpha.shape, start, start - axis * 0.5 * face.unit, rng.uniform(0.14, 0.22) * face.unit)
    skin = _skin(face, rng) * (1 - rng.uniform(0.1, 0.35) * side**2)[..., None]
    if rng.random() < 0.5:
        return layer + palm[..., None] * (skin - layer), np.maximum(alpha, palm)
    return skin + alpha[..., None] * (layer - skin), np.maximum(alpha, palm)


def _soft(mask: np.ndarray, sigma: float = 0.7) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)


def _mask(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A mask over nose, mouth and chin, or pulled down below the nose."""
    p, unit = face.points, face.unit
    top = p[6] + (p[2] - p[6]) * rng.uniform(0.1, 1.0)
    chin = p[152] + [0, rng.uniform(-0.02, 0.08) * unit]
    side = lambda ear, jaw, cheek: [cheek + rng.normal(0, 0.02, 2) * unit, p[ear], p[jaw]]  # noqa: E731
    right, left = side(132, 172, (p[50] + top) / 2), side(361, 397, (p[280] + top) / 2)
    outline = np.array([top, *left, p[378], chin, p[149], *right[::-1]]) + rng.normal(0, 0.008, (10, 2)) * unit
    layer = _piece(face, others, rng) if rng.random() < 0.2 else _cloth(face, rng)
    y, x = np.mgrid[: len(layer), : len(layer)] / unit
    bulge = 1.05 - rng.uniform(0, 1.2) * ((x - chin[0] / unit) ** 2) - rng.uniform(0, 0.4) * (y - face.mouth[1] / unit)
    return np.clip(layer * bulge[..., None], 0, 1), _soft(fill_polygon(layer.shape, outline))


def _scarf(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """Cloth from somewhere between nose and chin downwards."""
    size, p = len(face.picture), face.points
    level = rng.uniform(p[1][1], p[17][1] + 0.05 * face.unit)
    waves = 0.02 * face.unit * _noise((1, size), 0.3 * face.unit, rng)[0]
    edge = level + waves + rng.normal(0, 0.1) * np.linspace(-60, 60, size)
    layer = _piece(face, others, rng) if rng.random() < 0.4 else _cloth(face, rng)
    return layer, _soft(np.arange(size)[:, None] > edge)


def _microphone(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A ball of foam or wire mesh on a stick."""
    shape, unit = face.picture.shape[:2], face.unit
    middle = face.mouth + rng.normal(0, [0.05, 0.05]) * unit + [0, 0.04 * unit]
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    far = np.hypot(x - middle[0], y - middle[1]) / (rng.uniform(0.09, 0.2) * unit)
    grey = rng.uniform(0.03, 0.6) * np.exp(rng.normal(0, 0.05, 3))
    light = np.exp(-2 * ((x - middle[0]) / unit / 0.15 + rng.normal(0, 0.4)) ** 2)
    mesh = 1 + rng.uniform(0, 0.5) * np.sin(x * rng.uniform(0.8, 2.5)) * np.sin(y * rng.uniform(0.8, 2.5))
    layer = (grey * ((0.6 + 0.9 * light * np.sqrt(np.clip(1 - far**2, 0, 1))) * mesh)[..., None]).astype(np.float32)
    lean = rng.normal(0, 0.5)
    end = middle + np.array([np.sin(lean), np.cos(lean)]) * unit
    _, stick = _capsule(shape, middle, end, rng.uniform(0.04, 0.08) * unit)
    return np.clip(layer, 0, 1), np.maximum(stick, _soft(far < 1))


def _shape(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """Some round shape, filled with a piece of another photo or with cloth."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    bumps = np.sum([rng.normal(0, 0.1) * np.cos(k * turn + rng.uniform(0, 6)) for k in (2, 3, 5)], axis=0)
    radius = rng.uniform(0.1, 0.3) * (1 + bumps)
    round_shape = (radius * np.stack([np.cos(turn), np.sin(turn)])).T
    outline = face.mouth + rng.normal(0, 0.08, 2) * face.unit + face.unit * round_shape
    layer = _piece(face, others, rng) if rng.random() < 0.75 else _cloth(face, rng)
    return layer, _soft(fill_polygon(layer.shape, outline))


def _cup(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A cup or glass before the mouth, seen from outside."""
    size, unit = len(face.picture), face.unit
    half, height = rng.uniform(0.14, 0.24) * unit, rng.uniform(0.3, 0.5) * unit
    x, y = face.mouth + [rng.normal(0, 0.03) * unit, -rng.uniform(0.03, 0.12) * unit]
    narrow = half * rng.uniform(0.65, 1)
    corners = np.array([[x - half, y], [x + half, y], [x + narrow, y + height], [x - narrow, y + height]])
    body = fill_polygon((size, size), corners)
    rim = np.zeros((size, size), np.uint8)
    cv2.ellipse(rim, (int(x), int(y)), (int(half), int(half * rng.uniform(0.1, 0.35))), 0, 0, 360, 1, -1)
    across = (np.arange(size) - x) / half
    layer = _cloth(face, rng) * np.clip(1.1 - 0.6 * (across - rng.normal(0, 0.3)) ** 2, 0, 1.2)[None, :, None]
    layer = np.where(rim[..., None] > 0, layer * rng.uniform(0.6, 1.2), layer)
    return np.clip(layer, 0, 1), _soft(body | (rim > 0))


def _card(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A phone, card or sheet of paper."""
    return _rectangle(face, rng.uniform(0.16, 0.5, 2), rng.uniform(-0.6, 0.6), rng)


def _tape(face: Portrait, others: Sequence[Portrait], rng: np.random.Generator) -> Drawn:
    """A strip across the lips."""
    return _rectangle(face, np.array([rng.uniform(0.25, 0.4), rng.uniform(0.06, 0.1)]), rng.normal(0, 0.15), rng)


def _rectangle(face: Portrait, half: np.ndarray, angle: float, rng: np.random.Generator) -> Drawn:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half * face.unit
    layer = _cloth(face, rng)
    return layer, _soft(fill_polygon(layer.shape, face.mouth + rng.normal(0, 0.02, 2) * face.unit + corners @ turn.T))


SHAPES: dict[str, Callable[[Portrait, Sequence[Portrait], np.random.Generator], Drawn]] = {
    "mask": _mask, "scarf": _scarf, "fingers": _fingers, "hand": _hand, "microphone": _microphone, "piece": _shape,
    "cup": _cup, "card": _card, "tape": _tape,
}  # fmt: skip
