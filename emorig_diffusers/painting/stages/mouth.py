"""The mouth's inside, drawn: two rows of teeth with their gums, a tongue, and the dark behind.

What a photo of closed lips cannot show must come from somewhere. Teeth are all but the same in everybody: crowns of
known widths and heights side by side on two arches, the upper fixed to the skull, the lower and the tongue to the
jaw. They are drawn as curved strips, on which the outline of every crown is a formula, so that edges stay crisp at any
size; the network then gives them the photo's colour and light.

Sizes: means of adult crowns (Wheeler's Dental Anatomy, table 1-1), arches after Braun et al. 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import cv2
import numpy as np
import torch
from torch import Tensor

from ...models.head import PARTS, HeadModel
from ...models.mesh_fields import similarity
from ...photo.masks import smooth
from ...render.rasterize import rasterize

FINER = 2  # samples a side of a grid pixel
GUMS = 9.0  # millimetres of gum drawn beyond the crowns
NARROW = 0.92  # crowns' widths in photos of smiles, of the tabled ones
ENAMEL = np.array([0.52, 0.49, 0.455], np.float32)  # linear
CANINE = np.array([0.94, 0.92, 0.86], np.float32)  # a canine's share of it
YELLOW = np.array([0.0, 0.02, 0.07], np.float32)  # that teeth lack of it at their necks
GUM, TONGUE, DARK = np.array([[0.42, 0.15, 0.14], [0.80, 0.25, 0.26], [0.06, 0.016, 0.016]], np.float32)


@dataclass(frozen=True)
class Arch:
    """One row of teeth, millimetres; the right half, mirrored for the left.

    Attributes:
        part: Part of the head that it moves with.
        edge: Height of the middle incisors' edges above the edge of the head's own teeth.
        front: How far before the head's own teeth.
        side: +1 if the crowns stand upwards from their edges (upper jaw), -1 downwards.
        widths, heights: Of the crowns, from the middle outwards.
        rise: How far each crown's edge lies back from the first's, towards the gum.
        corner: How far the corners of a crown's edge are rounded off.
        curve: a, b of the arch's depth a x² + b x⁴ at x from the middle.
    """

    part: str
    edge: float
    front: float
    side: int
    widths: tuple[float, ...]
    heights: tuple[float, ...]
    rise: tuple[float, ...]
    corner: float
    curve: tuple[float, float]


UPPER = Arch("upper_teeth", -6.2, 4.0, 1, (8.5, 6.6, 7.6, 7.0, 6.8, 10.2, 9.8), (10.5, 9.2, 10.2, 8.5, 8.0, 7.5, 7.0),
             (0.0, 0.6, 0.4, 1.2, 1.8, 2.3, 2.7), 1.2, (1.31e-2, 3.87e-5))  # fmt: skip
LOWER = Arch("lower_teeth", -2.0, 2.0, -1, (5.4, 5.9, 6.9, 7.0, 7.1, 11.0, 10.5), (9.0, 9.3, 10.5, 8.5, 8.0, 7.5, 7.0),
             (0.0, 0.0, -0.2, 0.6, 1.0, 1.2, 1.2), 0.15, (1.6e-2, 4.2e-5))  # fmt: skip


@dataclass
class _Strip:
    """A surface [K, 3] in metres, in the head's rest frame; `chart` [K, 2] says in millimetres where on it one is."""

    points: np.ndarray
    chart: np.ndarray
    faces: np.ndarray


class Mouth:
    """Draws the mouths of one head model.

    Args:
        head: Its parts upper_teeth and lower_teeth say where the jaws are; without them mouths stay black.
    """

    def __init__(self, head: HeadModel) -> None:
        faces, part = head.faces.numpy(), head.face_part.numpy()
        self.rest = head.template.numpy().astype(np.float64)
        self.jaw = {a.part: np.unique(faces[part == PARTS.index(a.part)]) for a in (UPPER, LOWER)}

    @cached_property
    def strips(self) -> tuple[_Strip, _Strip, _Strip]:
        """Tongue, lower and upper teeth: from the back to the front."""
        return self._tongue(), self._teeth(LOWER), self._teeth(UPPER)

    def _edge(self, arch: Arch) -> np.ndarray:
        """Where the middle of an arch's cutting edges is, metres."""
        own = self.rest[self.jaw[arch.part]]
        front = own[own[:, 2] > own[:, 2].max() - 0.004]
        height = front[:, 1].min() if arch.side > 0 else front[:, 1].max()
        return np.array([0, height + arch.edge / 1000, front[:, 2].max() + arch.front / 1000])

    def _teeth(self, arch: Arch) -> _Strip:
        x = np.linspace(-27, 27, 109)
        depth = arch.curve[0] * x**2 + arch.curve[1] * x**4
        along = np.cumsum(np.hypot(np.gradient(x), np.gradient(depth)))
        along -= along[len(x) // 2]
        up = np.linspace(-2, max(arch.heights) + GUMS, 8)
        lean = 0.08 * up + 0.006 * np.maximum(up - 4, 0) ** 2  # roots lean inwards
        chart = np.stack(np.broadcast_arrays(along[None] / NARROW, up[:, None]), -1)
        points = np.stack(
            np.broadcast_arrays(x[None], arch.side * up[:, None], -depth[None] - lean[:, None]), -1
        ) / 1000 + self._edge(arch)
        return _Strip(points.reshape(-1, 3), chart.reshape(-1, 2), _grid_faces(*chart.shape[:2]))

    def _tongue(self) -> _Strip:
        across, back = np.linspace(-1, 1, 17), np.linspace(0, 1, 13)[:, None]
        width = 19 * np.sqrt(np.clip(1 - (1 - np.minimum(back / 0.4, 1)) ** 2, 0.02, 1))
        height = 0.5 + 13 * back - 4.5 * across**2 - 3 * np.exp(-((across / 0.16) ** 2)) * back * (1 - back)
        height = height - 2 * (1 - back) ** 4  # the tip lies behind the teeth: no dark is seen below it
        points = np.stack(np.broadcast_arrays(width * across, height, -4 - 45 * back), -1)
        chart = np.stack(np.broadcast_arrays(across, back), -1)
        return _Strip(
            (points / 1000 + self._edge(LOWER)).reshape(-1, 3), chart.reshape(-1, 2), _grid_faces(*chart.shape[:2])
        )

    def draw(self, pixels: Tensor, mouth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is seen between the lips.

        Args:
            pixels: Vertices [V, 3] of the head in grid pixels (x right, y down, smaller z nearer).
            mouth: Where the mouth is open, bool [G, G].

        Returns:
            Linear albedo [G, G, 3] and the depth [G, G] in grid pixels; 0 outside the mouth.
        """
        albedo, depth = np.zeros((*mouth.shape, 3), np.float32), np.zeros(mouth.shape, np.float32)
        rows, columns = (np.flatnonzero(mouth.any(axis)) for axis in (1, 0))
        if not len(rows) or not all(len(index) for index in self.jaw.values()):  # FLAME's head has no teeth
            return albedo, depth
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        colour, far = self._draw_box(pixels.double().numpy(), box)
        albedo[box], depth[box] = colour, far
        return albedo * mouth[..., None], depth * mouth

    def _draw_box(self, pixels: np.ndarray, box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        height, width = (FINER * (s.stop - s.start) for s in box)
        moves = {name: similarity(self.rest[index], pixels[index]) for name, index in self.jaw.items()}
        colour, far = np.tile(DARK, (height, width, 1)), np.full((height, width), np.nan, np.float32)
        paints = (_paint_tongue, partial(_paint_teeth, LOWER), partial(_paint_teeth, UPPER))
        for strip, arch, paint in zip(self.strips, (LOWER, LOWER, UPPER), paints):
            matrix, shift = moves[arch.part]
            points = strip.points @ matrix.T + shift
            points[:, :2] = (points[:, :2] - [box[1].start, box[0].start]) * FINER
            seen, chart, depth = _rasterize(points, strip, height, width)
            over, cover = paint(chart, FINER * np.linalg.norm(matrix[:, 0]) / 1000)
            cover = cover * seen
            colour += cover[..., None] * (over - colour)
            far = np.where(cover > 0.5, depth, far)
        far = np.where(np.isfinite(far), far, np.nanmax(far) if np.isfinite(far).any() else 0)
        small = lambda a: cv2.resize(a, (width // FINER, height // FINER), interpolation=cv2.INTER_AREA)
        return small(colour.astype(np.float32)), small(far.astype(np.float32))


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles [F, 3] of a grid of points, row by row."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()[:, None]
    first, second = corner + [0, 1, columns], corner + [1, columns + 1, columns]
    return np.concatenate([first, second])


def _rasterize(points: np.ndarray, strip: _Strip, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a strip is seen [S, S], its chart there [S, S, 2], its depth [S, S]."""
    faces = torch.from_numpy(strip.faces)
    drawn = rasterize(torch.from_numpy(points).float()[None], faces, height, width)
    face, bary = drawn.face[0].numpy(), drawn.bary[0].numpy()
    seen = face >= 0
    chart = (strip.chart[strip.faces[np.maximum(face, 0)]] * bary[..., None]).sum(2)
    return seen, chart.astype(np.float32), np.where(seen, drawn.depth[0].numpy(), 0)


def _paint_teeth(arch: Arch, chart: np.ndarray, pixels: float | np.floating) -> tuple[np.ndarray, np.ndarray]:
    """Colour [S, S, 3] and cover [S, S] of teeth and gum; `pixels` a millimetre."""
    borders = np.cumsum([0, *arch.widths])
    along, up = np.abs(chart[..., 0]), chart[..., 1]
    tooth = np.clip(np.searchsorted(borders, along, side="right") - 1, 0, len(arch.widths) - 1)
    pick = lambda values: np.asarray(values, np.float32)[tooth]
    width = pick(arch.widths)
    x = np.clip((along - borders[tooth]) / width * 2 - 1, -1, 1).astype(np.float32)
    up = up - pick(arch.rise)
    soft = lambda distance: np.clip(0.5 + distance * pixels, 0, 1)  # one sample of blur across an edge
    high = pick(arch.heights)
    share = np.clip(up / high, 0, 1)
    point = np.where(tooth == 2, 0.9 * np.abs(x), 0)  # canines are pointed
    edge = arch.corner * (np.abs(x) ** 3 + 2 * np.abs(x) ** 9) / 3 + point
    neck = high * (1 - 0.22 * x**2)
    crown = soft(up - edge) * soft(neck - up)
    gap = (1 - np.abs(x)) * width / 2  # millimetres from the next tooth
    seam = np.exp(-((gap / (0.28 + 0.3 * (1 - share) ** 4)) ** 2))
    bulge = 1 - 0.22 * np.abs(x) ** 3 - 0.10 * (1 - share) ** 4 - 0.22 * share**3
    tint = np.where((tooth == 2)[..., None], CANINE, 1) * (1 - YELLOW * share[..., None])
    gloss = 0.14 * np.exp(-(((x + 0.15) / 0.4) ** 2) - ((share - 0.5) / 0.2) ** 2)
    enamel = (ENAMEL * tint * bulge[..., None] + gloss[..., None]) * (1 - 0.4 * seam)[..., None]
    gum = GUM * (1 + 0.25 * np.exp(-(((up - neck) / 1.2) ** 2)) - 0.06 * np.clip(up - high, 0, 8))[..., None]
    colour = gum + crown[..., None] * (enamel - gum)
    return colour.astype(np.float32), np.maximum(crown, soft(up - neck))


def _paint_tongue(chart: np.ndarray, pixels: float | np.floating) -> tuple[np.ndarray, np.ndarray]:
    across, back = chart[..., 0], chart[..., 1]
    groove = 0.25 * np.exp(-((across / 0.1) ** 2)) * np.clip(4 * back, 0, 1)
    shade = (1 - groove) * (1 - 0.35 * across**2) * np.clip(1.05 - 1.25 * back, 0.07, 1) ** 1.3
    return TONGUE * shade[..., None], smooth(np.clip(3 * (1 - np.abs(across)), 0, 1)).astype(np.float32)
