"""What an edit must leave alone, above all the shape β: read it from pictures, and steer a sampler by it.

The lab's second step: parameters of the head other than the expression must not change by an edit. `CodeReader` is
differentiable, so that training (`ShapeLoss`, `ShapeStepObjective`) and sampling (`ShapeGuide`) can follow it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..face.codes import FaceCodes
from ..models.emoca import EmocaEncoder
from ..models.semantic_classifier import LatentClassifier, orthonormal_rows
from .sampling import SamplingMixin
from .schedulers import predicted_sample

PARTS = ("shape", "texture", "expression", "pose", "camera", "light")
"""Codes that a `CodeReader` can give, in the order of an EmocaEncoder; `pose` is the head's alone, without the jaw."""
EARLIEST = 0.05  # ᾱ below which a predicted photo is too blurred to read anything from it
_TOO_LARGE = 1.5  # pixels of the picture a pixel of the crop, from which the picture is averaged first


@dataclass(frozen=True)
class CodeReader:
    """Reads codes of faces from pictures, differentiably, without looking for the face.

    Every code is divided by its spread over the encoder's training faces (1 where the encoder knows none) and by the
    root of its part's length: the squared distance of two readings is the sum over the parts of the mean square.

    Attributes:
        encoder: Frozen and in inference mode, or BatchNorm would learn from what it reads.
        parts: Names of PARTS, in the order of the result.

    Raises:
        ValueError: An unknown part, or none.
    """

    encoder: EmocaEncoder
    parts: tuple[str, ...] = ("shape",)

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"Cannot read {unknown or 'no part'} of the codes: choose from {', '.join(PARTS)}.")

    def __call__(self, pictures: Tensor, transform: Tensor) -> Tensor:
        """Codes [B, N], float32, in spreads.

        Args:
            pictures: [B, 3, H, W] in [-1, 1].
            transform: [B, 3, 3] from normalised device coordinates of the encoder's crop to those of the pictures.
        """
        codes, spread = self.codes(pictures, transform), self.spread()
        read = [part_of(codes, part) / spread[part] / spread[part].numel() ** 0.5 for part in self.parts]
        return torch.cat([part.float() for part in read], 1)

    def codes(self, pictures: Tensor, transform: Tensor) -> FaceCodes:
        """All codes of the pictures, as the encoder gives them; arguments as for a call."""
        side, count = self.encoder.config.image_size, len(pictures)
        pictures, transform = (value.to(self.encoder.dtype) for value in (pictures, transform))
        grid = F.affine_grid(transform[:, :2], [count, 3, side, side], align_corners=False)
        shrink = float(pictures.shape[-1] * transform[:, :2, :2].float().det().abs().sqrt().mean() / side)
        if shrink > _TOO_LARGE:  # average before sampling, or the crop aliases
            pictures = F.avg_pool2d(pictures, round(shrink))
        crop = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        return self.encoder(crop * 0.5 + 0.5)

    def spread(self) -> dict[str, Tensor]:
        """Standard deviation of each part's numbers over the encoder's training faces, 1 where it is not known or 0."""
        encoder = self.encoder
        known = encoder.E_flame.spread if encoder.config.calibrated else torch.ones(sum(encoder.sizes))
        known = torch.where(known > 0, known, torch.ones_like(known)).to(encoder.device)
        spread = dict(zip(PARTS, known.split(encoder.sizes)))
        return spread | {"pose": spread["pose"][:3]}


def part_of(codes: FaceCodes, part: str) -> Tensor:
    """One of PARTS [B, n]."""
    return codes.pose[:, :3] if part == "pose" else getattr(codes, part).flatten(1)


@dataclass(frozen=True)
class ShapeGuide:
    """Keeps codes while a Diffusion Autoencoder decodes an edit; `Sampling.guide`. Nothing is trained for it.

    Before each step the photo that the network predicts from x_t is read, and the semantic code z takes a step down
    the gradient of the squared distance to the goal. z, not the pixels: pixels that please a network need not show
    what it reads. The step keeps out of the span of the classifier's directions and class means and of the edit's own
    direction, so that the edit stays as strong as the classifier sees it. Its length is `weight` ᾱ_t √C in normalised
    codes, ᾱ_t because the prediction is a blur at high noise, but no more than Newton's step for the distance.

    Attributes:
        reader: Of what is kept, with its encoder where the network computes.
        goal: What `reader` reads from the photos [B, N].
        transform: [B, 3, 3] as for `reader`.
        weight: Longest step, in units of √C; 0 keeps the code.
        classifier: Of the emotions: normalises codes and says which directions are the edit's.
        change: The edit itself, z' - z [B, C], which is left alone too; `None` where the classes span it.
    """

    reader: CodeReader
    goal: Tensor
    transform: Tensor
    weight: float
    classifier: LatentClassifier
    change: Tensor | None = None

    def __call__(self, pipe: SamplingMixin, latents: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """The code [B, C] to go on with.

        Args:
            pipe: Its `unet` predicts, its `scheduler` knows ᾱ.
            latents: x_t [B, 3, S, S].
            t: The training step that comes next.
            code: z [B, C].
        """
        alpha = float(pipe.scheduler.alphas_cumprod[int(t)])
        if self.weight == 0 or alpha < EARLIEST:
            return code
        with torch.enable_grad():
            normal = self.classifier.normalise(code).detach().requires_grad_()
            distance = self.distance(pipe, latents.detach(), t, self.classifier.denormalise(normal), alpha)
            gradient = torch.autograd.grad(distance.sum(), normal)[0]
        gradient = self._allowed(gradient)
        length = gradient.norm(dim=1, keepdim=True)
        longest = self.weight * alpha * math.sqrt(code.shape[1])
        enough = 2 * distance.detach()[:, None] / length.clamp(min=1e-12)
        step = enough.clamp(max=longest) * gradient / length.clamp(min=1e-12)
        return self.classifier.denormalise(normal.detach() - step).to(code)

    def distance(self, pipe: SamplingMixin, latents: Tensor, t: Tensor, code: Tensor, alpha: float) -> Tensor:
        """Squared distance [B] of the predicted photo's codes to the goal."""
        prediction = pipe.unet(latents, t, code.to(latents), return_dict=False)[0]
        kind = pipe.scheduler.config.prediction_type
        guess = predicted_sample(prediction, latents, alpha, kind).clamp(-1, 1)
        return (self.reader(guess, self.transform) - self.goal).square().sum(1)

    def _allowed(self, gradient: Tensor) -> Tensor:
        """The part of a gradient [B, C] in normalised codes that leaves the edit alone."""
        means = self.classifier.means - self.classifier.means.mean(0)
        rows = torch.cat([F.normalize(rows) for rows in (self.classifier.weight, means)])
        span = orthonormal_rows(rows).to(gradient)
        beside = lambda vectors: vectors - vectors @ span.T @ span
        gradient = beside(gradient)
        if self.change is None:
            return gradient
        own = F.normalize(beside((self.change / self.classifier.std).to(gradient)))
        return gradient - (gradient * own).sum(1, keepdim=True) * own
