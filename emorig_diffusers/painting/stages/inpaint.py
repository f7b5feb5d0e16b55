"""What the network paints on a moved face: which pixels, over what, under which conditions.

Conditioning 2 of the project: the photo's own pixels are moved under the edited head (flow.py); the network repaints
only what motion cannot give: the mouth's inside and the edge of the lips (it learned the folds of cheeks, too, but
those that a smile has left are filled in without it, see creases.py). There a *base* stands in for the photo (the mouth
as mouth.py draws it, skin filled in from around), and the network adds what the base lacks. Training windows are drawn
by the same stages as edits, and both are seen by `Seen.of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...photo.colour import GAMMA, Tone, find_tone
from ...photo.landmarks import INNER_LIPS, OUTER_LIPS
from ...photo.masks import fill_polygon, ramp
from .face_light import Adaptation, find_adaptation
from .flow import Warp
from .mouth_light import ALL, Box, TeethLight, between_photo_lips, find_teeth_light

CONDITIONS = ("base", "normal", "albedo", "mask", "mouth")  # 3 + 3 + 3 + 1 + 1 channels after the noisy sample
FOLDS = (
    (129, 142, 36, 205, 207, 212, 202, 57, 186, 92, 165, 98),
    (358, 371, 266, 425, 427, 432, 422, 287, 410, 322, 391, 327),
)  # MediaPipe points around the nasolabial fold: wing of the nose, cheek, jowl, corner of the mouth
LIP_EDGE = 0.0022  # metres on each side of the inner lip line that are painted with the mouth's inside
TEETH_EDGE = 0.0012  # metres around the photo's open mouth that may still show teeth
DEEP, DARKENING = 0.006, 0.008  # metres behind the lips from which light falls, and over which it falls to 1/e
ENAMEL = 0.5, 0.8  # green over red of drawn albedo: less of it is gum or tongue, more is a tooth
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
    return Regions(warp.mouth, (line > 0) | warp.mouth | between_photo_lips(warp, TEETH_EDGE), lips, folds & ~lips)


@dataclass
class Seen:
    """A moved face on the network's crop of side S, before anything is masked.

    Attributes:
        moved: The crop after motion in usual light, uint8 [S, S, 3].
        warp: How it moved, on a grid of side G.
        area: Where mouth and folds lie.
        tone: Of a monochrome photo.
        adaptation: Of a photo in dim or coloured light.
        known_light: What gives the light on the teeth, where that is known of more pictures than this one.
    """

    moved: np.ndarray
    warp: Warp
    area: Regions
    tone: Tone | None
    adaptation: Adaptation | None
    known_light: Callable[[], TeethLight] | None = None

    @classmethod
    def of(
        cls, warp: Warp, fine: np.ndarray, size: int, known_light: Callable[[], TeethLight] | None = None
    ) -> Seen:
        """Of the crop after motion, uint8 [G, G, 3], on the grid of its warp; S is `size`."""
        moved = shrink(fine, size)
        adaptation = find_adaptation(moved, warp.points * (size / len(warp.motion)))
        moved = adaptation(moved) if adaptation else moved
        shrunk = Regions(*(shrink_mask(mask, size) for mask in vars(regions(warp)).values()))
        return cls(moved, warp, shrunk, find_tone(moved), adaptation, known_light)

    @cached_property
    def small(self) -> Warp:
        """The warp on the crop."""
        return shrink_warp(self.warp, len(self.moved))

    @cached_property
    def light(self) -> TeethLight:
        """Light on the teeth."""
        return self.known_light() if self.known_light else find_teeth_light(self.small, self.moved)

    @cached_property
    def painted(self) -> np.ndarray:
        """The mouth, drawn plainly [S, S, 3] in [0, 1]."""
        painted = paint_mouth(self.small, self.light)
        return self.tone(painted) if self.tone else painted


def shrink(array: np.ndarray, size: int) -> np.ndarray:
    """A square picture at another side, area-averaged."""
    return cv2.resize(array, (size, size), interpolation=cv2.INTER_AREA)


def shrink_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask bool [G, G] at another side."""
    return shrink(mask.astype(np.float32), size) > 0.5


def shrink_warp(warp: Warp, size: int) -> Warp:
    """The parts of a warp that conditions are made of, on the crop's grid."""
    ratio = size / len(warp.motion)
    small = lambda picture: shrink(picture.astype(np.float32), size)
    return Warp(
        motion=shrink(warp.motion, size) * ratio,
        hole=shrink_mask(warp.hole, size),
        mouth=shrink_mask(warp.mouth, size),
        head=shrink_mask(warp.head, size),
        inside=lambda: (small(warp.normal), small(warp.albedo), small(warp.depth)),
        points=warp.points * ratio,
        source_points=warp.source_points * ratio,
        scale=warp.scale * ratio,
    )


def mouth_cover(warp: Warp) -> np.ndarray:
    """How much of each pixel lies within the target's lips [G, G] float32; 0 where they are closed."""
    if not warp.mouth.any():
        return np.zeros(warp.mouth.shape, np.float32)
    large = fill_polygon((4 * len(warp.mouth),) * 2, 4 * warp.points[list(INNER_LIPS)]).astype(np.float32)
    return cv2.GaussianBlur(cv2.resize(large, warp.mouth.shape, interpolation=cv2.INTER_AREA), (0, 0), 0.7)


def paint_mouth(warp: Warp, light: TeethLight, box: Box = ALL) -> np.ndarray:
    """A plain picture of the mouth's inside [G, G, 3] in [0, 1], or of rows and columns of it: teeth, tongue and
    cavity, lit by how deep they lie, by what the lips shade, and by the light on the face."""
    depth = 0.1 + 0.9 * np.exp(-np.maximum(warp.depth[box] - DEEP, 0) / DARKENING)
    lips = np.array([[1, 0, 0], [0, 1, LIP_SHADOW * warp.scale]], np.float32)  # light comes from above
    shifted = cv2.warpAffine(warp.mouth.astype(np.float32), lips, warp.mouth.shape[::-1])
    sky = cv2.GaussianBlur(shifted, (0, 0), max(1.6 * LIP_SHADOW * warp.scale, 0.7))
    shade = depth * np.clip(1.5 * sky[box], 0.25, 1)
    albedo = warp.albedo[box]
    enamel = ramp(albedo[..., 1] / albedo[..., 0].clip(1e-3), *ENAMEL)[..., None]
    lit = albedo * shade[..., None] * light.on(warp, box) * (1 + enamel * (light.enamel - 1))
    return np.clip(lit, 0, 1).astype(np.float32) ** np.float32(1 / GAMMA)


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
