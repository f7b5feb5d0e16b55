"""Wrinkles of expression: what moving a photo's pixels cannot make, shaded onto the moved skin.

Where muscles push skin together it folds across their pull: frown lines between the brows (AU4), horizontal lines of
the forehead (AU1, AU2), the bunched root of the nose (AU9), crow's feet (AU6). Each fold is a curve tied to landmarks.
Its groove is darker than the skin around it, for less of the sky reaches it; its walls are darker or lighter by the
side from which the light comes; the skin pushed out beside it is lighter. The field is the logarithm of a factor on
the photo's own colours, so hue and pores stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from .faces import reach, warp_crop
from .light import sh_shading
from .models.landmarks import EYES, OUTER_LIPS
from .phototexture import Warp, smooth

Anchor = tuple[tuple[int, float], ...]  # landmarks and their weights, which sum to 1


@dataclass(frozen=True)
class Fold:
    """One kind of line, as it runs on the person's right side; the left has its twin.

    Attributes:
        units: Expression unit -> share, names without side where the unit has two.
        path: Anchors from one end to the other, or outwards from the middle of the face.
        depth: Darkening of the groove at its deepest, natural logarithm, at amount 1.
        width: Standard deviation of the groove's profile, metres.
        middle: Whether the path starts in the middle of the face and goes on in its twin.
    """

    units: Mapping[str, float]
    path: tuple[Anchor, ...]
    depth: float
    width: float
    middle: bool = False


@dataclass
class Stroke:
    """A fold on one side of a face: points [K, 2] in grid pixels, a pixel apart, and the groove's depth there [K]."""

    points: np.ndarray
    depth: np.ndarray
    width: float


def _mix(a: int, b: int, t: float) -> Anchor:
    return ((a, 1 - t), (b, t))


def _forehead(t: float, depth: float) -> tuple[Fold, Fold]:
    """A line at height t from the brows (0) to the forehead's top (1): its middle and its outer part."""
    row = [_mix(*pair, t) for pair in ((9, 10), (107, 109), (66, 67), (105, 103), (63, 54))]
    return (
        Fold({"browInnerUp": 1.0}, tuple(row[:3]), depth, FINE, middle=True),
        Fold({"browOuterUp": 1.0}, tuple(row), depth, FINE),
    )


FINE, LINE, CREASE = 0.0009, 0.0012, 0.0027  # metres
FOLDS: tuple[Fold, ...] = (
    # frown: a line beside each brow's head, in a softer furrow
    Fold({"browDown": 1.0}, (_mix(55, 193, 0.5), _mix(55, 8, 0.40), _mix(107, 9, 0.44),
         ((107, 0.25), (9, 0.25), (108, 0.25), (151, 0.25))), 0.30, LINE),
    Fold({"browDown": 1.0}, (_mix(55, 193, 0.6), _mix(55, 8, 0.35), _mix(107, 9, 0.38), _mix(107, 108, 0.35)),
         0.22, CREASE),
    *_forehead(0.36, 0.14), *_forehead(0.56, 0.16), *_forehead(0.76, 0.11),
    # root of the nose, then its sides, then where its wing lifts the cheek
    Fold({"noseSneer": 0.8, "browDown": 0.2}, (_mix(168, 8, 0.30), _mix(193, 55, 0.25), _mix(193, 189, 0.4)),
         0.30, LINE, middle=True),
    Fold({"noseSneer": 0.8}, (_mix(168, 6, 0.4), _mix(193, 122, 0.35), _mix(193, 245, 0.4)), 0.20, LINE, middle=True),
    Fold({"noseSneer": 1.0}, (_mix(245, 244, 0.4), _mix(122, 188, 0.5), _mix(6, 196, 0.6)), 0.18, FINE),
    Fold({"noseSneer": 1.0}, (_mix(128, 233, 0.3), _mix(188, 174, 0.4), _mix(196, 197, 0.3)), 0.16, FINE),
    Fold({"noseSneer": 1.0}, (_mix(142, 49, 0.5), _mix(129, 203, 0.35), _mix(203, 206, 0.4), _mix(206, 216, 0.5)),
         0.15, CREASE),
    # crow's feet, and the lower lid's bag
    Fold({"cheekSquint": 1.0, "eyeSquint": 0.3}, (_mix(130, 226, 0.9), _mix(35, 143, 0.4), _mix(143, 34, 0.3)),
         0.16, FINE),
    Fold({"cheekSquint": 0.9, "eyeSquint": 0.2}, (_mix(226, 31, 0.6), _mix(35, 111, 0.4), _mix(143, 116, 0.4)),
         0.14, FINE),
    Fold({"eyeSquint": 0.8, "cheekSquint": 0.6}, (((232, 1.0),), _mix(231, 22, 0.3), _mix(230, 23, 0.3),
         _mix(229, 24, 0.3), _mix(228, 110, 0.3)), 0.12, FINE),
)  # fmt: skip
MIRROR = {
    22: 252, 23: 253, 24: 254, 31: 261, 34: 264, 35: 265, 49: 279, 54: 284, 55: 285, 63: 293, 66: 296, 67: 297,
    103: 332, 105: 334, 107: 336, 108: 337, 109: 338, 110: 339, 111: 340, 116: 345, 122: 351, 128: 357, 129:
    358, 130: 359, 142: 371, 143: 372, 174: 399, 188: 412, 189: 413, 193: 417, 196: 419, 203: 423, 206: 426,
    216: 436, 226: 446, 228: 448, 229: 449, 230: 450, 231: 451, 232: 452, 233: 453, 244: 464, 245: 465,
}  # fmt: skip
"""Landmark on the person's right -> the same one on the left; others lie in the middle."""
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
SAFE = (50, 280, 101, 330, 205, 425, 36, 266, 5, 195, 197, 151, 108, 337, 69, 299)
"""Landmarks that lie on skin in almost every photo: cheeks, bridge of the nose, forehead."""
SKIN_GRID = 128  # side of the picture on which skin is told from hair, pixels
SKIN_SPREAD = np.float32([13, 7, 7])  # Lab, standard deviations of skin about its samples
ROUGH = 0.006  # squared relative contrast of skin that has lines of its own
SEED = 2 * np.pi / 0.0031  # radians per metre of a line's length, with which its irregularity starts
RING, RIDGE = 2.4, 0.32  # width of the skin pushed up beside a groove, and its lightness, of the groove's
RELIEF = 0.5  # share of the shade that depends on the side from which light comes
DARKEST, STILL = 0.45, 0.002  # logarithms: the most shade, and shade too faint for a grey level
WARMTH = np.array([0.75, 1.0, 1.15], np.float32)  # light scattered in skin fills grooves with red


def shade_wrinkles(
    photo: np.ndarray, matrix: np.ndarray, warp: Warp, change: Mapping[str, float], light: Tensor, strength: float = 1.0
) -> np.ndarray:
    """A photo with the wrinkles that a change of expression brings; pixels without any stay bit for bit.

    Args:
        photo: The edited photo, uint8 [H, W, 3].
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        warp: How the face moved.
        change: Target minus source of the expression units by name; only what grows makes wrinkles.
        light: Light of the photo [9, 3], world axes.
        strength: Factor on the depth of all wrinkles.
    """
    drawn = strokes(warp, change)
    if not drawn or not strength > 0:
        return photo
    field = strength * shading(drawn, warp, light)
    skin = cv2.resize(skin_likelihood(photo, matrix, warp), field.shape, interpolation=cv2.INTER_LINEAR)
    return apply_field(photo, field * skin, matrix)


def strokes(warp: Warp, change: Mapping[str, float]) -> list[Stroke]:
    """The folds that a change of expression units brings, as they run on the target."""
    drawn = []
    for fold in FOLDS:
        amount = {
            side: float(np.tanh(sum(share * max(change.get(unit + side, change.get(unit, 0.0)), 0.0)
                                    for unit, share in fold.units.items())))
            for side in ("Right", "Left")
        }  # fmt: skip
        for side in amount:
            inner = sum(amount.values()) / 2 if fold.middle else amount[side]
            if max(inner, amount[side]) > 0:
                drawn.append(_stroke(fold, warp, side == "Left", inner, amount[side]))
    return drawn


def _stroke(fold: Fold, warp: Warp, mirrored: bool, inner: float, outer: float) -> Stroke:
    """One side of a fold, with the amounts at the path's two ends."""
    path, twin = ([[(MIRROR.get(i, i) if swap else i, w) for i, w in anchor] for anchor in fold.path]
                  for swap in (mirrored, not mirrored))  # fmt: skip
    place = lambda points, anchors: np.array([sum(w * points[i] for i, w in anchor) for anchor in anchors])
    knots = place(warp.points, [twin[1], *path] if fold.middle else path)  # no break where a curve meets its twin
    points, tangent = _curve(knots, skip=fold.middle)
    own, other = (SEED * _length(place(warp.source_points, p)) / warp.scale for p in (path, twin))
    at = (np.arange(len(points)) + 0.5) / len(points)
    way = _length(points) / warp.scale * at
    wave = lambda turn, period: np.sin(turn * own + 2 * np.pi * way / period)
    window = np.sin(np.pi * at)
    taper = smooth(np.clip(2.5 * (1 - at), 0, 1)) * (1 if fold.middle else smooth(np.clip(2.5 * at, 0, 1)))
    wander = 0.0004 * window * (wave(1.0, 0.013) + 0.6 * wave(2.3, 0.006)) + 0.0007 * np.sin(0.7 * (own + other))
    across = np.column_stack([-tangent[:, 1], tangent[:, 0]]) * (-1 if mirrored else 1)
    points = points + across * (wander * warp.scale)[:, None]
    uneven = 1 + window * (0.25 * wave(1.7, 0.009) + 0.15 * wave(3.1, 0.0047)) + 0.2 * np.sin(0.45 * (own + other))
    depth = fold.depth * taper * uneven * (inner + (outer - inner) * at) * _facing(warp, points)
    return Stroke(points, depth, fold.width * warp.scale)


def _length(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _curve(knots: np.ndarray, skip: bool) -> tuple[np.ndarray, np.ndarray]:
    """A smooth curve through knots [N, 2], from the first or the second: points a pixel apart, and unit tangents."""
    steps = np.linalg.norm(np.diff(knots, axis=0), axis=1).clip(1e-3)
    where = np.concatenate([[0], np.cumsum(steps)])
    spline = CubicSpline(where, knots)
    start, end = where[int(skip)], where[-1]
    count = max(int(round(end - start)), 4)
    at = start + (np.arange(count) + 0.5) / count * (end - start)
    tangent = spline(at, 1)
    return spline(at), tangent / np.linalg.norm(tangent, axis=1, keepdims=True).clip(1e-6)


def _facing(warp: Warp, points: np.ndarray) -> np.ndarray:
    """How much of the surface at points [K, 2] is turned to the camera [K] in [0, 1]; 0 beside the head."""
    x, y = np.clip(points.astype(int), 0, len(warp.normal) - 1).T
    return smooth(np.clip((warp.normal[y, x, 2].astype(np.float64) - 0.1) / 0.3, 0, 1))


def shading(drawn: Sequence[Stroke], warp: Warp, light: Tensor) -> np.ndarray:
    """Logarithm of the factor on the skin's colours [G, G] float32; 0 where no fold is near."""
    inside = _window(drawn, len(warp.normal))
    field = np.zeros([i.stop - i.start for i in inside], np.float32)
    slope = light_slope(warp, light)[inside]
    for width in {s.width for s in drawn}:
        ink = np.zeros_like(field)
        for stroke in drawn:
            if stroke.width == width:
                _splat(ink, stroke.points - [inside[1].start + 0.5, inside[0].start + 0.5], stroke.depth)
        widths = width, RING * width
        groove, ring = (cv2.GaussianBlur(ink, (0, 0), s) * np.float32(s * np.sqrt(2 * np.pi)) for s in widths)
        rise = [cv2.Sobel(groove, cv2.CV_32F, *axis, ksize=3, scale=width / 8) for axis in ((1, 0), (0, 1))]
        field += RIDGE * ring - groove + RELIEF * (slope[..., 0] * rise[0] + slope[..., 1] * rise[1])
    field = DARKEST * np.tanh(field / DARKEST) * warp.normal[inside].any(-1)
    whole = np.zeros(warp.normal.shape[:2], np.float32)
    whole[inside] = np.sign(field) * np.maximum(np.abs(field) - STILL, 0)
    return whole


def _window(drawn: Sequence[Stroke], size: int) -> tuple[slice, slice]:
    """Rows and columns of the grid that strokes reach."""
    points, margin = np.concatenate([s.points for s in drawn]), 4 * RING * max(s.width for s in drawn)
    low = np.clip((points.min(0) - margin).astype(int), 0, size - 1)
    high = np.clip((points.max(0) + margin).astype(int), low + 1, size)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _splat(ink: np.ndarray, points: np.ndarray, weight: np.ndarray) -> None:
    """Add weights [K] at points [K, 2] between pixels, x then y in units of pixels."""
    low = np.floor(points).astype(int)
    part = points - low
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        x, y = low[:, 0] + dx, low[:, 1] + dy
        inside = (x >= 0) & (y >= 0) & (x < ink.shape[1]) & (y < ink.shape[0])
        np.add.at(ink, (y[inside], x[inside]), (weight * share)[inside])


def light_slope(warp: Warp, light: Tensor) -> np.ndarray:
    """By how much a surface tilted towards +x or +y of the grid gains light [G, G, 2], of what it has.

    Halfway between the photo's light, which is known roughly, and a plain light from above.
    """
    normal = torch.from_numpy(cv2.resize(np.asarray(warp.normal, np.float32), (64, 64)))[None]
    shade = lambda n: sh_shading(n, light[None].float())[0].mean(-1)
    tilts = 0.1 * torch.tensor([[1.0, 0, 0], [0, -1.0, 0]])  # the grid's y points down
    gain = torch.stack([(shade(normal + t) - shade(normal - t)) / 0.2 for t in tilts], -1)
    slope = (gain / shade(normal).clamp(min=0.2)[..., None]).clamp(-1.2, 1.2) / 2 + torch.tensor([0, -0.35])
    return cv2.resize(slope.numpy(), warp.normal.shape[:2])


def skin_likelihood(photo: np.ndarray, matrix: np.ndarray, warp: Warp) -> np.ndarray:
    """How surely pixels are bare, smooth skin [SKIN_GRID, SKIN_GRID] float32 in [0, 1]."""
    size = SKIN_GRID
    ratio = size / len(warp.normal)
    crop = warp_crop(photo, np.asarray(matrix) * 2 * ratio, 2 * size).astype(np.float32) / 255
    features = _features(warp, ratio)
    known = cv2.resize(cv2.erode((features < 0.1).astype(np.float32), np.ones((3, 3), np.uint8)), (2 * size, 2 * size))
    grey = crop @ np.float32([0.3, 0.6, 0.1])
    rough = cv2.resize(_contrast(grey, known, 2 * ratio * warp.scale), (size, size))
    lab = cv2.cvtColor(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    x, y = np.clip((warp.points[list(SAFE)] * ratio).astype(int), 0, size - 1).T
    samples = cv2.blur(lab, (3, 3))[y, x]
    off = np.abs((samples - np.median(samples, 0)) / SKIN_SPREAD).max(1)
    lab, samples = lab / SKIN_SPREAD, samples[off <= max(3.0, off.min())] / SKIN_SPREAD
    near = (np.square(samples).sum(1) - 2 * lab @ samples.T).min(-1)
    distance = near + np.square(lab).sum(-1)
    usual = np.sqrt(np.quantile(rough[y, x], 0.25))
    gentle = 0.75 + 0.25 * smooth(np.clip((usual - 0.018) / 0.02, 0, 1))  # lines on smooth skin are faint
    skin = np.exp(-0.5 * np.maximum(distance - 1, 0) - rough / ROUGH) * (1 - features)
    return cv2.GaussianBlur(skin, (0, 0), 0.8) * np.float32(gentle)


def _contrast(grey: np.ndarray, known: np.ndarray, scale: float) -> np.ndarray:
    """Mean squared relative contrast [S, S] at the scale of wrinkles, where it is `known`; `scale` is pixels per
    metre."""
    blur = lambda x, sigma: cv2.GaussianBlur(x, (0, 0), sigma)
    average = lambda x, sigma: blur(x * known, sigma) / (blur(known, sigma) + 0.01)
    mean = average(grey, 0.002 * scale)
    return average(np.square((grey - mean) / np.maximum(mean, 0.05)), 0.003 * scale)


def _features(warp: Warp, ratio: float) -> np.ndarray:
    """Brows, eyes and lips [S, S] float32 in [0, 1]."""
    mask = np.zeros((SKIN_GRID, SKIN_GRID), np.uint8)
    for outline in (*BROWS, EYES[:16], EYES[16:], OUTER_LIPS):
        cv2.fillPoly(mask, [np.round((warp.points[list(outline)] * ratio - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return cv2.blur(mask.astype(np.float32), (3, 3))


def apply_field(photo: np.ndarray, field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply a photo uint8 [H, W, 3] by exp(field) [G, G] at its own resolution; 0 changes nothing."""
    left, top, right, bottom = reach(field != 0, matrix, photo.shape)
    if right <= left or bottom <= top:
        return photo
    coarse = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))  # grid pixels per photo pixel
    if coarse > 1:
        field = cv2.GaussianBlur(field, (0, 0), 0.45 * coarse)
    gain = np.zeros((*field.shape, 3), np.float32)
    gain[field != 0] = np.expm1(field[field != 0][:, None] * WARMTH)
    shift = matrix @ [left + 0.5, top + 0.5, 1] - 0.5  # pixel centres lie at half numbers in both frames
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    large = cv2.warpAffine(gain, np.column_stack([matrix[:, :2], shift]), (right - left, bottom - top), flags=flags)
    result = photo.copy()
    part = result[top:bottom, left:right]
    part[:] = np.clip(np.round(part * (1 + large)), 0, 255).astype(np.uint8)
    return result
