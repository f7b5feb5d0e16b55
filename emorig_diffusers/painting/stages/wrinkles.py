"""Lines of expression: what is too fine for measured shade (shading.py), drawn onto the moved skin by rule.

Where muscles push skin together it folds across their pull: frown lines between the brows (AU4), horizontal lines of
the forehead (AU1, AU2), lines on the nose's sides (AU9), crow's feet (AU6), the lines beside nose and mouth (AU9, AU10,
AU12, AU15). Each is a curve tied to landmarks.
Its groove is dark, for less of the sky reaches it; its walls are darker or lighter by the side from which light comes;
the skin pushed out beside it is lighter. The photo's own colours are multiplied, so hue and pores stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ...photo.landmarks import MIRROR
from ...photo.masks import ramp, smooth
from ...photo.resample import enlarge, reach, warp_crop
from ...render.spherical_harmonics import sh_shading
from .flow import SKIN_GRID, Warp

Anchor = tuple[int, int, float]  # a share of the way from one landmark to another
Stroke = tuple[np.ndarray, np.ndarray, float]
"""A fold on one side of a face, grid pixels: points [K, 2] a pixel apart, the groove's depth there [K], its width."""


@dataclass(frozen=True)
class Fold:
    """One kind of line, as it runs on the person's right side; the left has its twin.

    Attributes:
        units: Expression unit -> share, names without side where the unit has two.
        depth: Darkening of the groove at its deepest, natural logarithm, at amount 1.
        width: Standard deviation of the groove's profile, metres.
        path: Anchors from one end to the other, or outwards from the middle of the face.
        middle: Whether the path starts in the middle of the face and goes on in its twin.
    """

    units: Mapping[str, float]
    depth: float
    width: float
    path: tuple[Anchor, ...]
    middle: bool = False


def _forehead(t: float, depth: float) -> tuple[Fold, Fold]:
    """A line at height t from the brows (0) to the forehead's top (1): its middle and its outer part."""
    row = ((9, 10, t), (107, 109, t), (66, 67, t), (105, 103, t), (63, 54, t))
    return Fold({"browInnerUp": 1.0}, depth, FINE, row[:3], True), Fold({"browOuterUp": 1.0}, depth, FINE, row)


FINE, LINE = 0.0009, 0.0012  # metres
CHEEK = {"mouthSmile": 1.0, "mouthUpperUp": 0.7, "noseSneer": 0.6, "mouthFrown": 0.5, "mouthStretch": 0.2}
"""What pushes the cheek against the lip, and so deepens the nasolabial fold: expression unit -> share."""
KEPT = 0.25, 0.45  # units of CHEEK: less of them up to which a photo's own fold stays, and from which it is gone
FOLDS: tuple[Fold, ...] = (
    # frown: a line beside each brow's head; forehead
    Fold({"browDown": 1.0}, 0.30, LINE, ((55, 193, 0.5), (55, 8, 0.4), (107, 9, 0.44), (107, 151, 0.5))),
    *_forehead(0.36, 0.14), *_forehead(0.56, 0.16), *_forehead(0.76, 0.11),
    # sides of the nose
    Fold({"noseSneer": 1.0}, 0.30, FINE, ((245, 244, 0.4), (122, 188, 0.5), (6, 196, 0.6))),
    Fold({"noseSneer": 1.0}, 0.26, FINE, ((128, 233, 0.3), (188, 174, 0.4), (196, 197, 0.3))),
    # the line in the furrow between nose and cheek, that of the mouth's corner, and from it down to the jaw
    Fold(CHEEK, 0.22, LINE, ((129, 36, 0.25), (203, 36, 0.12), (206, 207, 0.09), (216, 207, 0.06), (216, 214, 0.6))),
    Fold({"mouthSmile": 0.8, "mouthDimple": 1.0}, 0.26, LINE, ((61, 186, 0.5), (57, 186, 0.2), (212, 57, 0.4))),
    Fold({"mouthFrown": 1.0}, 0.12, FINE, ((57, 61, 0.6), (57, 202, 0.4), (202, 210, 0.25))),
    # crow's feet, and the lower lid's bag
    Fold({"cheekSquint": 1.0, "eyeSquint": 0.3}, 0.16, FINE, ((130, 226, 0.9), (35, 143, 0.4), (143, 34, 0.3))),
    Fold({"cheekSquint": 0.9, "eyeSquint": 0.2}, 0.14, FINE, ((226, 31, 0.6), (35, 111, 0.4), (143, 116, 0.4))),
    Fold({"eyeSquint": 0.8, "cheekSquint": 0.6}, 0.12, FINE,
         ((232, 231, 0.0), (231, 22, 0.3), (230, 23, 0.3), (229, 24, 0.3), (228, 110, 0.3))),
)  # fmt: skip
SAFE = (50, 280, 101, 330, 205, 425, 36, 266, 5, 195, 197, 151, 108, 337, 69, 299)
"""Landmarks that lie on skin in almost every photo: cheeks, bridge of the nose, forehead."""
SKIN_SPREAD = np.array([13, 7, 7], np.float32)  # Lab: standard deviations of skin about its samples
PALE = 12.0  # Lab: a pale chroma
ROUGH = 0.006  # squared relative contrast of skin that has lines of its own
SEED = 2 * np.pi / 0.0031  # radians per metre of a line's length, with which its irregularity starts
RING, RIDGE = 2.4, 0.32  # width of the skin pushed up beside a groove, and its lightness, of the groove's
RELIEF = 0.5  # share of the shade that depends on the side from which light comes
DARKEST, STILL = 0.45, 0.002  # logarithms: the most shade, and shade too faint for a grey level
ROOM = (1 - ramp(np.arange(256), 236, 252)).astype(np.float32)  # for a shade, at each grey level
UNEVEN = 2  # grid pixels over which it is averaged: noise at the limit leaves no specks
WARMTH = np.array([0.75, 1.0, 1.15], np.float32)  # light scattered in skin fills grooves with red


def shade_wrinkles(
    photo: np.ndarray,
    moved: np.ndarray,
    matrix: np.ndarray,
    warp: Warp,
    change: Mapping[str, float],
    light: Tensor,
    strength: float = 1.0,
) -> np.ndarray:
    """A photo with the wrinkles that a change of expression brings; pixels without any stay bit for bit.

    Args:
        photo: The edited photo, uint8 [H, W, 3].
        moved: The same before anything was painted; it tells where skin is.
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        warp: How the face moved.
        change: Target minus source of the expression units by name; only what grows makes wrinkles.
        light: Light of the photo [9, 3], world axes.
        strength: Factor on the depth of all wrinkles.
    """
    drawn = strokes(warp, change)
    if not drawn or not strength > 0:
        return photo
    skin, colour = see_skin(moved, matrix, warp)
    field = strength * shading(drawn, warp, light) * cv2.resize(skin, warp.normal.shape[:2])
    field = field if warp.free is None else field * warp.free
    return apply_field(photo, field, matrix, 1 + (WARMTH - 1) * colour, warp.blur)


def strokes(warp: Warp, change: Mapping[str, float]) -> list[Stroke]:
    """The folds that a change of expression units brings, as they run on the target."""
    grown = lambda unit, side: max(change.get(unit + side, change.get(unit, 0.0)), 0.0)
    drawn = []
    for fold in FOLDS:
        right, left = (np.tanh(sum(w * grown(u, side) for u, w in fold.units.items())) for side in ("Right", "Left"))
        for mirrored, outer in ((False, right), (True, left)):
            inner = (right + left) / 2 if fold.middle else outer
            if max(inner, outer) > 5 * STILL:
                drawn.append(_stroke(fold, warp, mirrored, inner, outer))
    return drawn


def fold_release(change: Mapping[str, float]) -> float:
    """How much of a photo's nasolabial folds a change of expression smooths out, from 0 (they stay or deepen) to 1."""
    pull = sum(w * (change.get(u + "Right", 0.0) + change.get(u + "Left", 0.0)) / 2 for u, w in CHEEK.items())
    return float(ramp(-pull, *KEPT))


def _stroke(fold: Fold, warp: Warp, mirrored: bool, inner: float, outer: float) -> Stroke:
    """One side of a fold, with the amounts at the path's two ends.

    It wanders, and is deeper here than there, by waves that start from the person's measures: no wrinkle is ruled.
    """
    knots, twin = (_place(warp.points, fold, swap) for swap in (mirrored, not mirrored))
    knots = np.vstack([twin[1], knots]) if fold.middle else knots  # no break where a curve meets its twin
    points, tangent = _curve(knots, skip=fold.middle)
    length = lambda way: np.linalg.norm(np.diff(way, axis=0), axis=1).sum() / warp.scale
    own, other = (SEED * length(_place(warp.source_points, fold, swap)) for swap in (mirrored, not mirrored))
    at = (np.arange(len(points)) + 0.5) / len(points)
    way, window = length(points) * at, np.sin(np.pi * at)
    wave = lambda turn, period: np.sin(turn * own + 2 * np.pi * way / period)
    wander = 0.0004 * window * (wave(1.0, 0.013) + 0.6 * wave(2.3, 0.006)) + 0.0007 * np.sin(0.7 * (own + other))
    across = np.column_stack([-tangent[:, 1], tangent[:, 0]]) * (-1 if mirrored else 1)
    points = points + across * (wander * warp.scale)[:, None]
    taper = smooth(np.clip(2.5 * (1 - at), 0, 1)) * (1 if fold.middle else smooth(np.clip(2.5 * at, 0, 1)))
    uneven = 1 + window * (0.25 * wave(1.7, 0.009) + 0.15 * wave(3.1, 0.0047)) + 0.2 * np.sin(0.45 * (own + other))
    x, y = np.clip(points.astype(int), 0, len(warp.normal) - 1).T
    facing = smooth(np.clip((warp.normal[y, x, 2].astype(np.float64) - 0.1) / 0.3, 0, 1))
    depth = fold.depth * taper * uneven * (inner + (outer - inner) * at) * facing
    return points, depth, fold.width * warp.scale


def _place(points: np.ndarray, fold: Fold, mirrored: bool) -> np.ndarray:
    """A fold's anchors [N, 2] among landmarks."""
    first, second, share = np.array(fold.path).T
    start, end = (points[MIRROR[i] if mirrored else i] for i in (first.astype(int), second.astype(int)))
    return start + (end - start) * share[:, None]


def _curve(knots: np.ndarray, skip: bool) -> tuple[np.ndarray, np.ndarray]:
    """A smooth curve through few knots [N, 2], from the first or second: points a pixel apart, and unit tangents."""
    where = np.cumsum([0, *np.linalg.norm(np.diff(knots, axis=0), axis=1).clip(1e-3)])
    start, end = where[int(skip)], where[-1]
    count = max(round(end - start), 4)
    powers = lambda x: np.vander(x / end, len(knots))
    at = start + (np.arange(count) + 0.5) / count * (end - start)
    points = powers(at) @ np.linalg.solve(powers(where), knots)
    tangent = np.gradient(points, axis=0)
    return points, tangent / np.linalg.norm(tangent, axis=1, keepdims=True).clip(1e-6)


def shading(drawn: Sequence[Stroke], warp: Warp, light: Tensor) -> np.ndarray:
    """Logarithm of the factor on the skin's colours [G, G] float32; 0 where no fold is near."""
    points, margin = np.concatenate([points for points, _, _ in drawn]), 4 * RING * max(width for _, _, width in drawn)
    left, top = np.clip((points.min(0) - margin).astype(int), 0, len(warp.normal) - 1)
    right, bottom = np.clip((points.max(0) + margin).astype(int), (left + 1, top + 1), len(warp.normal))
    inside = slice(top, bottom), slice(left, right)
    field, slope = np.zeros((bottom - top, right - left), np.float32), light_slope(warp, light)[inside]
    for width in {width for _, _, width in drawn}:
        ink = np.zeros_like(field)
        for points, depth, _ in (stroke for stroke in drawn if stroke[2] == width):
            splat(ink, points - [left + 0.5, top + 0.5], depth)
        sigmas = width, RING * width
        groove, ring = (cv2.GaussianBlur(ink, (0, 0), s) * np.float32(s * np.sqrt(2 * np.pi)) for s in sigmas)
        rise = [cv2.Sobel(groove, cv2.CV_32F, *axis, ksize=3, scale=width / 8) for axis in ((1, 0), (0, 1))]
        field += RIDGE * ring - groove + RELIEF * (slope[..., 0] * rise[0] + slope[..., 1] * rise[1])
    field = DARKEST * np.tanh(field / DARKEST) * warp.normal[inside].any(-1)
    whole = np.zeros(warp.normal.shape[:2], np.float32)
    whole[inside] = np.sign(field) * np.maximum(np.abs(field) - STILL, 0)
    return whole


def splat(ink: np.ndarray, points: np.ndarray, weight: np.ndarray) -> None:
    """Add weights [K] at points [K, 2] between pixels, x then y in units of pixels."""
    low, part = np.divmod(points, 1)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        x, y = (low + [dx, dy]).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < ink.shape[1]) & (y < ink.shape[0])
        np.add.at(ink, (y[inside], x[inside]), (weight * share)[inside])


def light_slope(warp: Warp, light: Tensor) -> np.ndarray:
    """By how much a surface tilted towards +x or +y of the grid gains light [G, G, 2], of what it has: halfway between
    the photo's light, which is known roughly, and a plain light from above."""
    normal = torch.from_numpy(cv2.resize(np.asarray(warp.normal, np.float32), (64, 64)))[None]
    shade = lambda n: sh_shading(n, light[None].float())[0].mean(-1)
    tilts = 0.1 * torch.tensor([[1.0, 0, 0], [0, -1.0, 0]])  # the grid's y points down
    gain = torch.stack([(shade(normal + t) - shade(normal - t)) / 0.2 for t in tilts], -1)
    slope = (gain / shade(normal).clamp(min=0.2)[..., None]).clamp(-1.2, 1.2) / 2 + torch.tensor([0, -0.35])
    return cv2.resize(slope.numpy(), warp.normal.shape[:2])


def see_skin(photo: np.ndarray, matrix: np.ndarray, warp: Warp) -> tuple[np.ndarray, np.float32]:
    """How surely pixels are bare, smooth skin [SKIN_GRID, SKIN_GRID] float32 in [0, 1]; how colourful that is."""
    size, ratio = SKIN_GRID, SKIN_GRID / len(warp.normal)
    crop = warp_crop(photo, np.asarray(matrix) * 2 * ratio, 2 * size).astype(np.float32) / 255
    features = warp.features
    known = cv2.resize(cv2.erode((features < 0.1).astype(np.float32), np.ones((3, 3), np.uint8)), (2 * size, 2 * size))
    grey = crop @ np.array([0.3, 0.6, 0.1], np.float32)
    blur = lambda x, metres: cv2.GaussianBlur(x, (0, 0), 2 * ratio * metres * warp.scale)
    average = lambda x, metres: blur(x * known, metres) / (blur(known, metres) + 0.01)
    mean = average(grey, 0.002)
    rough = cv2.resize(average(np.square((grey - mean) / np.maximum(mean, 0.05)), 0.003), (size, size))
    lab = cv2.cvtColor(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    x, y = np.clip((warp.points[list(SAFE)] * ratio).astype(int), 0, size - 1).T
    samples = cv2.blur(lab, (3, 3))[y, x]
    off = np.abs((samples - np.median(samples, 0)) / SKIN_SPREAD).max(1)
    colour = np.clip(np.median(np.hypot(*samples[:, 1:].T)) / PALE - 0.1, 0, 1)
    lab, samples = lab / SKIN_SPREAD, samples[off <= max(3.0, off.min())] / SKIN_SPREAD
    distance = np.square(lab).sum(-1) + (np.square(samples).sum(1) - 2 * lab @ samples.T).min(-1)
    usual = np.sqrt(np.quantile(rough[y, x], 0.25))
    gentle = 0.75 + 0.25 * smooth(np.clip((usual - 0.018) / 0.02, 0, 1))  # lines on smooth skin are faint
    skin = np.exp(-0.5 * np.maximum(distance - 1, 0) - rough / ROUGH) * (1 - features)
    return cv2.GaussianBlur(skin, (0, 0), 0.8) * np.float32(gentle), np.float32(colour)


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
