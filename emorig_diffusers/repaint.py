"""What the network paints on a moved face: which pixels, over what, under which conditions.

Conditioning 2 of the project: the photo's own pixels are moved under the edited head (phototexture.py); the network
repaints only what motion cannot give: the mouth's inside, the edge of the lips and cheeks that a fold has left. There
a *base* stands in for the photo (the mouth as mouth.py draws it, skin filled in from around), and the network adds
what the base lacks. Training and inference share every line of this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .masks import fill_polygon
from .models.landmarks import INNER_LIPS, OUTER_LIPS
from .openings import LIDS
from .phototexture import Warp

CONDITIONS = ("base", "normal", "albedo", "mask", "mouth")  # 3 + 3 + 3 + 1 + 1 channels after the noisy sample
FOLDS = (
    (129, 142, 36, 205, 207, 212, 202, 57, 186, 92, 165, 98),
    (358, 371, 266, 425, 427, 432, 422, 287, 410, 322, 391, 327),
)  # MediaPipe points around the nasolabial fold: wing of the nose, cheek, jowl, corner of the mouth
LIP_EDGE = 0.0022  # metres on each side of the inner lip line that are painted with the mouth's inside
TEETH_EDGE = 0.0012  # metres around the photo's open mouth that may still show teeth
TYPICAL_SKIN = 0.42  # linear luminance of skin in the light that shows teeth as light as `mouth.ENAMEL`
TYPICAL_WHITE = 0.24  # the same for the brightest part of the eyes
CAST = np.float32([0.3, 0, 0.5])  # powers of the whites' red and blue, over green, that the teeth have too
CHEEKS = (50, 205, 206, 207, 216), (280, 425, 426, 427, 436)  # landmarks beside the mouth, the person's right first
SIDE, SIDE_CAST, BEND = 0.5, 0.3, 2.1  # powers of the cheeks' ratio in light and in its colour; how soon they are met
DEEP, DARKENING = 0.006, 0.008  # metres behind the lips from which light falls, and over which it falls to 1/e
LIP_SHADOW = 0.0014  # metres by which the shade of the lips reaches down


@dataclass
class Regions:
    """Masks on the grid of a warp, bool [G, G].

    Attributes:
        mouth: Between the target's lips.
        edge: The inner lip line, thickened, also where the lips touch; and what the photo's teeth may have reached.
        lips: Everything within the outer lip line.
        folds: Around the nasolabial folds, without the lips.
    """

    mouth: np.ndarray
    edge: np.ndarray
    lips: np.ndarray
    folds: np.ndarray


def regions(warp: Warp) -> Regions:
    """Where mouth and folds of the target lie."""
    points, shape = warp.points, warp.mouth.shape
    lips = fill_polygon(shape, points[list(OUTER_LIPS)])
    line, width = np.zeros(shape, np.uint8), max(1, round(2 * LIP_EDGE * warp.scale))
    cv2.polylines(line, [np.round((points[list(INNER_LIPS)] - 0.5) * 16).astype(np.int32)], True, 1, width, shift=4)
    folds = np.any([fill_polygon(shape, points[list(side)]) for side in FOLDS], axis=0)
    return Regions(warp.mouth, (line > 0) | warp.mouth | teeth_seen(warp), lips, folds & ~lips)


def teeth_seen(warp: Warp) -> np.ndarray:
    """Pixels [G, G] bool that come from within the photo's open mouth, or so near to it that they may be teeth."""
    mouth = fill_polygon(warp.mouth.shape, warp.source_points[list(INNER_LIPS)]).astype(np.uint8)
    reach = 2 * max(1, round(TEETH_EDGE * warp.scale)) + 1
    mouth = cv2.dilate(mouth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    y, x = np.mgrid[: len(mouth), : len(mouth)].astype(np.float32)
    return cv2.remap(mouth, x + warp.motion[..., 0], y + warp.motion[..., 1], cv2.INTER_NEAREST) > 0


def mouth_cover(warp: Warp) -> np.ndarray:
    """How much of each pixel lies within the target's lips [G, G] float32; 0 where they are closed."""
    if not warp.mouth.any():
        return np.zeros(warp.mouth.shape, np.float32)
    large = fill_polygon((4 * len(warp.mouth),) * 2, 4 * warp.points[list(INNER_LIPS)]).astype(np.float32)
    return cv2.GaussianBlur(cv2.resize(large, warp.mouth.shape, interpolation=cv2.INTER_AREA), (0, 0), 0.7)


def paint_mouth(warp: Warp, crop: np.ndarray) -> np.ndarray:
    """A plain picture of the mouth's inside [G, G, 3] in [0, 1]: teeth, tongue and cavity, lit by how deep they lie,
    by what the lips shade, and by how bright skin and eyes of `crop` (uint8 [G, G, 3]) are."""
    depth = 0.1 + 0.9 * np.exp(-np.maximum(warp.depth - DEEP, 0) / DARKENING)
    lips = np.float32([[1, 0, 0], [0, 1, LIP_SHADOW * warp.scale]])  # light comes from above
    shifted = cv2.warpAffine(warp.mouth.astype(np.float32), lips, warp.mouth.shape[::-1])
    sky = cv2.GaussianBlur(shifted, (0, 0), max(1.6 * LIP_SHADOW * warp.scale, 0.7))
    shade = depth * np.clip(1.5 * sky, 0.25, 1)
    light = light_on_teeth(warp, crop) * side_light(warp, crop)
    return np.clip(warp.albedo * shade[..., None] * light, 0, 1) ** np.float32(1 / 2.2)


def side_light(warp: Warp, crop: np.ndarray) -> np.ndarray:
    """How light and its colour change across the mouth [G, G, 3], about 1 in its middle.

    Where one cheek is in shade, so are the teeth on that side: powers fitted to teeth a third of the way to the corners
    on 188 smiles (correlation 0.8).
    """
    right, left = (np.median(_patches(crop, warp.points[list(cheek)]), axis=0) for cheek in CHEEKS)
    ratio = np.log((left + 1e-3) / (right + 1e-3))
    bright = ratio @ np.float32([0.2126, 0.7152, 0.0722])
    slope = np.clip(SIDE * bright + SIDE_CAST * (ratio - bright), -1.2, 1.2)
    ends = warp.points[[61, 291]]
    axis = (ends[1] - ends[0]) / max(np.square(ends[1] - ends[0]).sum(), 1) * 2
    y, x = np.mgrid[: len(crop), : len(crop)] + 0.5 - ends.mean(0)[::-1, None, None]
    across = np.tanh(BEND * (x * axis[0] + y * axis[1]))
    return np.exp(across[..., None] * slope - 0.2 * np.abs(slope).mean()).astype(np.float32)


def _patches(crop: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Linear colours [N, 3] of a crop uint8 [G, G, 3] around points [N, 2]."""
    reach = max(len(crop) // 100, 1)
    x, y = np.clip(points, reach, len(crop) - reach - 1).astype(int).T
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1, 1)
    return ((crop[y + steps[0], x + steps[1]] / np.float32(255)) ** 2.2).mean(0)


def light_on_teeth(warp: Warp, crop: np.ndarray) -> np.ndarray:
    """Light that falls on the mouth [3], 1 in that which shows teeth as light as they are.

    Told by the skin or, where that is dark itself, by the whites of the eyes, which are as light as teeth in everybody;
    its colour by the whites. Powers fitted to 247 smiles of five sets of portraits in many lights, levels set by
    those and by 26 of another set, on which mean errors of 28 % in light, 8 % in red and 5 % in blue over green are
    left.
    """
    linear = (crop / np.float32(255)) ** 2.2
    bright = linear @ np.float32([0.2126, 0.7152, 0.0722])
    skin = warp.albedo.any(-1) & ~warp.mouth
    right, left = (fill_polygon(crop.shape, warp.points[list(lids)]) for lids in LIDS)
    eyes = right | left
    lit = (np.median(bright[skin]) / TYPICAL_SKIN) ** 0.7 if skin.any() else 1.0
    if not eyes.any():
        return np.full(3, np.clip(lit, 0.25, 1.4), np.float32)
    limits = np.quantile(bright[eyes], [0.75, 0.85, 0.92])
    white = linear[eyes & (bright >= limits[0]) & (bright <= limits[2])].mean(0).clip(1e-3)
    level = np.clip(max(lit, min(limits[1] / TYPICAL_WHITE, 1.0)), 0.25, 1.4)
    return level * np.clip(white / white[1], 0.5, 2.5) ** CAST


def fill(image: Tensor, known: Tensor) -> Tensor:
    """Push-pull interpolation of `image` [B, C, H, W] into pixels where `known` [B, 1, H, W] is 0."""
    return known * image + (1 - known) * _pull(image * known, known)


def _pull(colour: Tensor, weight: Tensor) -> Tensor:
    height, width = colour.shape[-2:]
    if min(height, width) < 2:
        return colour.sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
    pad = (0, width % 2, 0, height % 2)
    half, half_weight = (F.avg_pool2d(F.pad(x, pad), 2) for x in (colour, weight))
    coarse = _pull(half, half_weight).expand_as(half)
    sure = half_weight.clamp(max=0.5) * 2
    mixed = half / half_weight.clamp(min=1e-6) * sure + coarse * (1 - sure)
    large = F.interpolate(mixed, scale_factor=2, mode="bilinear", align_corners=False)
    return large[..., :height, :width]


def make_base(moved: Tensor, painted: Tensor, mask: Tensor, mouth: Tensor) -> Tensor:
    """What the network corrects: the moved photo, its repainted skin filled in, the mouth drawn plainly.

    Args:
        moved, painted: [B, 3, H, W] in [-1, 1].
        mask, mouth: [B, 1, H, W] in {0, 1}; `mouth` within `mask`.
    """
    return torch.where(mouth > 0, painted, fill(moved, 1 - mask))


def stack_conditions(base: Tensor, normal: Tensor, albedo: Tensor, mask: Tensor, mouth: Tensor) -> Tensor:
    """Channels in the order of CONDITIONS [B, 11, H, W]; all in about [-1, 1]."""
    return torch.cat([base, normal, albedo, mask, mouth], 1)
