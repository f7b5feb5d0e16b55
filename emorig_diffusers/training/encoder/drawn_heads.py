"""Random heads drawn over photos, for training an encoder: their codes are exact, and rare expressions common."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...face.codes import FaceCodes
from ...face.emotions import EMOTIONS, emotion_offset
from ...models.head import PARTS, HeadModel
from ...models.landmark_fit import UNSEEN_UNITS
from ...photo.resample import align
from ...render.buffers import draw_buffers, vertex_normals
from ...render.camera import project
from ...render.spherical_harmonics import SH_CONSTANTS
from .augment import Mirror, move, move_points
from .data import NUM_EMOTIONS, Batch, EncoderData

PLAIN_SHARE = 0.3  # heads in their own colours under a known light; the others wear a photo's colours
OWN_SHARE, EMOTION_SHARE = 0.3, 0.45  # expressions of another photo, emotions; the rest are random units
UNIT_CHANCE, UNIT_SIZE = 0.1, 0.5  # of a random unit, and its deviation
BOUNDS = (-0.6, 1.3)  # of named units, as in the landmark fit
TURN = (0.17, 0.35, 0.07)  # deviation of rotation about x, y and z, radians
SHAPE_NOISE = 0.3  # of the spread of shape codes
SHADE = 0.08  # deviation of the linear light added to a photo's colours
INSIDE = tuple(PARTS.index(n) for n in ("upper_teeth", "lower_teeth", "tongue", "mouth_cavity"))
FACING = 0.15  # z of the normal from which a vertex is taken for seen
GAMMA = 2.2


class DrawnHeads:
    """Serves batches of drawn heads.

    Args:
        head: Draws.
        data: Gives people, colours, backgrounds, lights and the spread of the codes.
        mirror: Tells which vertices lie opposite, for colours of the side that a photo hides.
        low, high: Range of the units on relaxed faces [E].
        recipes: Emotions in units of the head; not looked at where its units have no names.
        device: Where it draws, and where batches lie.
    """

    def __init__(
        self,
        head: HeadModel,
        data: EncoderData,
        mirror: Mirror,
        low: Tensor,
        high: Tensor,
        recipes: Mapping[str, Mapping[str, float]],
        device: torch.device,
    ) -> None:
        self.artist = copy.deepcopy(head).to(device)
        self.head, self.data, self.mirror, self.low, self.high = head, data, mirror, low, high
        names = tuple(head.config.expression_names)
        self.offsets = torch.stack([emotion_offset(n, names, recipes) for n in EMOTIONS]) if names else None
        self.seen = torch.tensor([not n.startswith(UNSEEN_UNITS) for n in names] or [True] * len(low)).float()
        self.spread = data.statistics()[1]
        self.inside = torch.zeros(head.config.num_vertices, dtype=torch.bool)
        self.inside[head.faces[torch.isin(head.face_part, torch.tensor(INSIDE))].flatten()] = True

    @torch.no_grad()
    def batch(self, count: int, rng: np.random.Generator) -> Batch:
        """`count` heads on crops of the data's stored size, aligned as photos are."""
        photos = self.data.take(rng.integers(len(self.data), size=count))
        other = self.data.take(rng.integers(len(self.data), size=count)).codes
        plain = torch.from_numpy(rng.random(count) < PLAIN_SHARE)
        codes = self._codes(photos.codes, other, rng)
        vertices = self.head(codes.shape, codes.expression, codes.pose)
        seen = project(self.head.landmarks(vertices), codes.camera)[..., :2]
        motion = aligning(seen)
        codes = move(self.head, codes, *motion)
        colour = torch.where(plain[:, None, None], self.head.albedo, self._worn(photos))
        batch = Batch(
            image=photos.image,
            codes=codes,
            points=move_points(seen, *motion),
            mirrored=torch.zeros(count, dtype=torch.bool),
            lit=plain,
            emotion=torch.zeros(count, NUM_EMOTIONS),
        ).to(self.artist.device)
        return replace(batch, image=self._draw(batch, colour.to(self.artist.device), rng))

    def _codes(self, person: FaceCodes, other: FaceCodes, rng: np.random.Generator) -> FaceCodes:
        """A face between two people, turned at random, with a random expression."""
        noise = lambda value: torch.from_numpy(rng.normal(size=value.shape)).float()  # noqa: E731
        share = torch.from_numpy(rng.random((len(person), 1))).float()
        shape = torch.lerp(person.shape, other.shape, share) + SHAPE_NOISE * self.spread.shape * noise(person.shape)
        turn = noise(person.pose[:, :3]) * torch.tensor(TURN)
        return person.with_(
            shape=shape,
            expression=self._expression(other.expression, rng),
            pose=torch.cat([turn, other.pose[:, 3:]], 1),
        )

    def _expression(self, own: Tensor, rng: np.random.Generator) -> Tensor:
        """[B, E] from another photo's [B, E]: that itself, or its relaxed face with an emotion or some units."""
        count = len(own)
        uniform = lambda *size: torch.from_numpy(rng.random((count, *size))).float()  # noqa: E731
        size = torch.tensor(UNIT_SIZE) if self.offsets is not None else 2 * self.spread.expression
        normal = torch.from_numpy(rng.normal(size=own.shape)).float()
        change = normal * size * (uniform(own.shape[1]) < UNIT_CHANCE) * self.seen
        kind = uniform(1)
        if self.offsets is not None:
            emotion = self.offsets[torch.from_numpy(rng.integers(len(self.offsets), size=count))]
            emotion = emotion * (0.2 + 1.1 * uniform(1)) + 0.3 * change
            change = torch.where(kind < OWN_SHARE + EMOTION_SHARE, emotion, change)
        drawn = torch.where(kind < OWN_SHARE, own, own.clamp(self.low, self.high) + change)
        return drawn if self.offsets is None else drawn.clamp(*BOUNDS)

    def _draw(self, batch: Batch, colour: Tensor, rng: np.random.Generator) -> Tensor:
        """Heads of the colours [B, V, 3] over the batch's photos, [B, 3, S, S] in [0, 1]."""
        head, codes, own = self.artist, batch.codes, batch.lit[:, None, None]
        shade = torch.zeros_like(codes.light)
        shade[:, 0] = 1 / SH_CONSTANTS[0]
        shade[:, 1:4] = torch.from_numpy(rng.normal(0, SHADE, (len(codes), 3, 1))).to(shade)
        vertices = head(codes.shape, codes.expression, codes.pose)
        light = torch.where(own, codes.light, shade)
        drawn = draw_buffers(vertices, head.faces, codes.camera, light, colour, batch.image.shape[-1])
        picture = drawn.rendered.clamp(0, 1)
        picture = torch.where(own[..., None], picture ** (1 / GAMMA), picture)
        return picture * drawn.mask + batch.image * (1 - drawn.mask)

    def _worn(self, photos: Batch) -> Tensor:
        """Colours of the vertices [B, V, 3] in photos; hidden ones take those of the other side, teeth their own."""
        codes, order = photos.codes, self.mirror.order
        vertices = self.head(codes.shape, codes.expression, codes.pose)
        places = project(vertices, codes.camera)[:, None, :, :2]
        colour = F.grid_sample(photos.image, places, padding_mode="border", align_corners=False)[:, :, 0].mT
        facing = vertex_normals(vertices, self.head.faces)[..., 2:] > FACING
        brightness = photos.image.mean((1, 2, 3))[:, None, None]
        colour = torch.where(facing, colour, colour[:, order])
        return torch.where(self.inside[:, None], self.head.albedo ** (1 / GAMMA) * 1.5 * brightness, colour)


def aligning(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale [B], angle [B] and shift [B, 2] that bring landmarks [B, N, 2] (NDC) where an aligned crop has them."""
    matrices = torch.from_numpy(np.stack([align(p, 2) for p in points.numpy()])).float()
    scale = matrices[:, 0, :2].norm(dim=1)
    return scale, torch.atan2(matrices[:, 0, 1], matrices[:, 0, 0]), matrices[:, :, 2] - 1
