"""The losses of an encoder: teacher's codes, landmarks, the look of the skin, and the emotion that a photo shows."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.preparation import HALF_CROP
from ...face.codes import FaceCodes
from ...models.emoca import EmocaEncoder
from ...models.head import PARTS, HeadModel
from ...photo.landmarks import EYES, INNER_LIPS, LIP_PAIRS, OUTER_LIPS
from ...render.buffers import vertex_normals
from ...render.camera import ndc_to_pixels, project
from ...render.rasterize import interpolate, rasterize
from ...render.spherical_harmonics import sh_shading
from .augment import Mirror
from .data import NUM_EMOTIONS, Batch

LIDS = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))
MOUTH_CORNERS = ((61, 291),)
EXPRESSIVE = ((INNER_LIPS, 3.0), (OUTER_LIPS, 2.0), (EYES, 2.0))
"""Points that carry expression, and their extra weight."""
IRISES = 468  # first of the points that tell the gaze
GRID = 64  # side of the pictures on which the photometric loss is taken
GAMMA = 2.2


class EncoderNetworks(nn.Module):
    """What is trained, as one module: the encoder, and a linear layer that reads emotions off the expression code.

    `forward` takes crops [B, 3, S, S] and gives codes and, with `emotions`, log-probabilities [B, 7].
    """

    def __init__(self, encoder: EmocaEncoder, emotions: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.probe = nn.Linear(encoder.config.num_expression, NUM_EMOTIONS) if emotions else None

    def forward(self, image: Tensor) -> tuple[FaceCodes, Tensor | None]:
        codes = self.encoder(image).to(torch.float32)
        emotion = None if self.probe is None else F.log_softmax(self.probe(codes.expression).float(), 1)
        return codes, emotion


class EncoderObjective:
    """Weighted sum of the losses of one batch.

    - codes: Huber distance to the teacher's or the drawn head's codes, in standard deviations of each code.
    - landmark: mean distance of projected landmarks to detected ones, lips and eyes weighing more.
    - relative: the same of the vectors between lips, between lids and between the corners of the mouth (EMOCA's
      lip, eye and mouth-corner losses, Daněček et al. 2022, section 4).
    - photometric: the head in its mean colours under the predicted light against the photo's skin, linear RGB over
      its mean, on some of the photos.
    - emotion: a linear layer on ψ must give what a frozen classifier sees in the photo. EMOCA compares features of
      photo and rendering instead; a head without hair and wrinkles is nothing the classifier was made for.

    Args:
        head: On the device of the batches.
        mirror: Of that head.
        spread: Standard deviation of every code [1, ...]; codes of spread 0 are not compared.
        args: Gives `<loss>_weight` of each loss and code, and `photometric_samples`.
    """

    def __init__(self, head: HeadModel, mirror: Mirror, spread: FaceCodes, args: argparse.Namespace) -> None:
        self.head, self.mirror, self.args = head, mirror, args
        self.spread = spread.to(head.device)
        self.code_weights = {f.name: getattr(args, f"{f.name}_weight", 0.0) for f in fields(FaceCodes)}
        weight = head.landmark_weight.clone()
        for points, factor in EXPRESSIVE:
            weight[list(points)] *= factor
        weight[IRISES:] = 0
        self.weight = weight / weight.sum()

    def __call__(self, networks: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Losses by name; `loss` is the sum to minimise."""
        codes, emotion = networks(batch.image)
        shown = self.shown(codes, batch.mirrored)
        losses = {"codes": self.code_loss(codes, batch)} | self.landmark_losses(shown, batch.points)
        photos = batch.emotion.sum(1) > 0.5
        if emotion is not None:
            seen = -(batch.emotion * emotion).sum(1)
            losses["emotion"] = seen.sum() / photos.sum().clamp(min=1)
        if self.args.photometric_weight:
            some = slice(0, self.args.photometric_samples)
            losses["photometric"] = self.photometric_loss(
                FaceCodes(*(getattr(codes, f.name)[some] for f in fields(FaceCodes))), batch.image[some]
            )
        weights = {name: 1.0 if name == "codes" else getattr(self.args, f"{name}_weight") for name in losses}
        return losses | {"loss": torch.stack([weights[name] * value for name, value in losses.items()]).sum()}

    def code_loss(self, codes: FaceCodes, batch: Batch) -> Tensor:
        """Weighted Huber distances of all codes."""
        total = codes.shape.new_zeros(())
        for name, weight in self.code_weights.items():
            spread = getattr(self.spread, name)[0]
            varies = spread > 1e-6
            if weight and varies.any():
                error = (getattr(codes, name) - getattr(batch.codes, name))[:, varies] / spread[varies]
                error = F.huber_loss(error, torch.zeros_like(error), reduction="none").mean(1)
                known = batch.lit if name == "light" else torch.ones_like(batch.lit)
                total = total + weight * (error * known).sum() / known.sum().clamp(min=1)
        return total

    def shown(self, codes: FaceCodes, mirrored: Tensor) -> Tensor:
        """Projected landmarks [B, N, 2]; those of mirrored pictures are mirrored back."""
        vertices = self.head(codes.shape, codes.expression, codes.pose)
        vertices = torch.where(mirrored[:, None, None], self.mirror.vertices(vertices), vertices)
        sign = torch.where(mirrored[:, None], codes.camera.new_tensor([1, -1, 1]), codes.camera.new_ones(3))
        return project(self.head.landmarks(vertices), codes.camera * sign)[..., :2]

    def landmark_losses(self, shown: Tensor, points: Tensor) -> dict[str, Tensor]:
        """`landmark` and `relative`, in pixels of a 384-pixel crop."""
        first, second = (list(side) for side in zip(*LIP_PAIRS, *LIDS, *MOUTH_CORNERS))
        error = shown - points
        distance = (error.square().sum(-1) + 1e-10).sqrt()
        relative = (error[:, first] - error[:, second]).abs().sum(-1).mean()
        return {"landmark": HALF_CROP * (distance * self.weight).sum(1).mean(), "relative": HALF_CROP * relative}

    def photometric_loss(self, codes: FaceCodes, image: Tensor) -> Tensor:
        """Mean absolute difference on the skin of `GRID` pixels; parts that face away are left out."""
        vertices = self.head(codes.shape, codes.expression, codes.pose)
        pixels = ndc_to_pixels(project(vertices, codes.camera), GRID)
        fragments = rasterize(pixels, self.head.faces, GRID, GRID)
        skin = (fragments.face >= 0) & (self.head.face_part[fragments.face.clamp(min=0)] == PARTS.index("skin"))
        normal = interpolate(fragments, self.head.faces, vertex_normals(vertices, self.head.faces))
        albedo = interpolate(fragments, self.head.faces, self.head.albedo)
        photo = F.interpolate(image, (GRID, GRID), mode="area").permute(0, 2, 3, 1) ** GAMMA
        weight = (skin & (normal[..., 2] > 0.2))[..., None].float()
        count = weight.sum((1, 2, 3), keepdim=True).clamp(min=1)
        mean = (photo * weight).sum((1, 2, 3), keepdim=True) / (3 * count)
        error = (albedo * sh_shading(normal, codes.light) - photo).abs() / mean.clamp(min=0.02)
        return ((error * weight).sum((1, 2, 3), keepdim=True) / (3 * count)).mean()


@torch.no_grad()
def measure(objective: EncoderObjective, codes: FaceCodes, batch: Batch) -> dict[str, Tensor]:
    """How far predicted codes are from a photo's: `pixels` [B], mean landmark error, and `expression` [B], RMS."""
    error = (objective.shown(codes, batch.mirrored) - batch.points)[:, :IRISES].norm(dim=-1).mean(1)
    difference = codes.expression - batch.codes.expression
    return {"pixels": HALF_CROP * error, "expression": difference.square().mean(1).sqrt()}


def upright(batch: Batch, image_size: int) -> Batch:
    """Photos as the network sees them outside training: only made smaller."""
    return replace(batch, image=F.interpolate(batch.image, (image_size, image_size), mode="area"))
