"""Losses of neural parametric heads (Giebenhain et al. 2023): NPHM's, and two that backward deformations allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.nphm import NeuralHeadModel

IDENTITY_WEIGHTS = {"surface": 2.0, "normals": 0.3, "space": 0.01, "eikonal": 0.1, "anchors": 7.5, "symmetry": 0.01,
                    "shape_size": 0.01}  # fmt: skip
"""Losses of the first stage and NPHM's weights."""
EXPRESSION_WEIGHTS = {"correspondence": 100.0, "expression_size": 5e-5, "still": 5e-5, "posed_surface": 0.0}
"""Losses of the second stage and NPHM's weights; `posed_surface` only for backward deformations, MonoNPHM's has 1."""
OUTSIDE_SHARPNESS = 10.0  # of the loss that keeps surfaces out of empty space, 1 / units, NPHM's
HAIR_LIMIT, HAIR_SHARE = 0.75, 0.5  # normals off the face: errors beyond count no more, and all count half, NPHM's
MOST_LENGTH = 1.0  # of codes, as NPHM's embeddings have it
TRAINING_PRUNING = 1e-3  # share of a point's weights up to which networks are left out of the step, where it prunes
CODE_RATE = {"identity": 2.0, "expression": 5.0}  # learning rate of codes in terms of networks', NPHM's
START = {"identity": 0.1, "expression": 0.01}  # deviation of codes at the start: over √length, each number; NPHM's


class Codes(nn.Module):
    """A code for every person, or every scan, of length 1 at most.

    Args:
        count: Codes.
        length: Of each.
        spread: Deviation of their numbers to start from.
    """

    def __init__(self, count: int, length: int, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(spread * torch.randn(count, length))

    def forward(self, index: Tensor) -> Tensor:
        """Codes [B, C] of rows [B]."""
        codes = self.weight[index]
        return codes / (codes.norm(dim=1, keepdim=True) / MOST_LENGTH).clamp(min=1)


class AutoDecoder(nn.Module):
    """A head and the codes of who and what it is trained on; computes what the losses of a stage need.

    Args:
        head: Trained, as far as its parameters need gradients.
        shapes: Identity codes.
        expressions: Of every scan; `None` in the first stage.
        prune: Leave networks out that hardly matter to a point: faster, not exact.
        posed_surface: Also give the distances of posed surfaces, of backward deformations.
    """

    def __init__(
        self, head: NeuralHeadModel, shapes: Codes, expressions: Codes | None = None, prune: bool = False,
        posed_surface: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.posed_surface = posed_surface and head.config.deformation == "backward"
        self.head, self.shapes, self.expressions = head, shapes, expressions
        self.threshold = TRAINING_PRUNING if prune else 0.0

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the first stage, or with expression codes of the second."""
        shape = self.shapes(batch["person"])
        return self._identity(batch, shape) if self.expressions is None else self._expression(batch, shape)

    def _identity(self, batch: Mapping[str, Tensor], shape: Tensor) -> dict[str, Tensor]:
        points = torch.cat([batch["points"], batch["near"], batch["far"]], 1)
        sdf, gradient = self.head.sdf_and_gradient(points, shape, None, self.threshold, create_graph=True)
        first, second = self.head.paired_codes(shape)
        return {"sdf": sdf, "gradient": gradient, "shape": shape, "anchors": self.head.anchors(shape),
                "first": first, "second": second}  # fmt: skip

    def _expression(self, batch: Mapping[str, Tensor], shape: Tensor) -> dict[str, Tensor]:
        assert self.expressions is not None
        head, code = self.head, self.expressions(batch["scan"])
        backward = head.config.deformation == "backward"
        source = batch["posed"] if backward else batch["canonical"]
        count = source.shape[1]
        given = torch.cat([source, batch["empty"]] + ([batch["surface"]] if self.posed_surface else []), 1)
        moved = head.deform(given, shape, code)
        empty = slice(count, count + batch["empty"].shape[1])
        found = {"moved": moved[:, :count, :3], "offset": moved[:, empty, :3] - batch["empty"], "expression": code}
        if self.posed_surface:
            found["sdf"] = head.sdf(moved[:, empty.stop :], shape, None, self.threshold)
        return found


@dataclass
class IdentityObjective:
    """Losses of the first stage by name, "loss" their weighted sum.

    Attributes:
        weights: Of `IDENTITY_WEIGHTS`.
    """

    weights: Mapping[str, float]

    def __call__(self, networks: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found, count = networks(batch), batch["points"].shape[1]
        sdf, gradient, face = found["sdf"], found["gradient"], batch["face"]
        error = (gradient[:, :count] - batch["normals"]).norm(dim=-1)
        losses = {
            "surface": sdf[:, :count].abs().mean(),
            "normals": torch.where(face, error, error.clamp(max=HAIR_LIMIT) * HAIR_SHARE).mean(),
            "space": (-OUTSIDE_SHARPNESS * sdf[:, -batch["far"].shape[1] :].abs()).exp().mean(),
            "eikonal": (gradient.norm(dim=-1) - 1).abs().mean(),
            "anchors": anchor_loss(found["anchors"], batch["anchors"], batch["known"]),
            "symmetry": (found["first"] - found["second"]).norm(dim=-1).mean(),
            "shape_size": found["shape"].square().sum(1).mean(),
        }
        return weighted(losses, self.weights)


def anchor_loss(found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Mean squared error of anchors [B, A, 3] over the people [B] whose are known."""
    return ((found - wanted).square().mean((1, 2)) * known).sum() / known.sum().clamp(min=1)


@dataclass
class ExpressionObjective:
    """Losses of the second stage by name, "loss" their weighted sum.

    Attributes:
        weights: Of `EXPRESSION_WEIGHTS`.
        deformation: Of the head.
    """

    weights: Mapping[str, float]
    deformation: str

    def __call__(self, networks: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = networks(batch)
        wanted = batch["canonical"] if self.deformation == "backward" else batch["posed"]
        losses = {
            "correspondence": F.mse_loss(found["moved"], wanted),
            "expression_size": found["expression"].square().sum(1).mean(),
            "still": found["offset"].square().sum(-1).mean(),
        }
        if "sdf" in found:
            losses["posed_surface"] = found["sdf"].abs().mean()
        return weighted(losses, self.weights)


def weighted(losses: dict[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The losses with their weighted sum as "loss"; of weight 0 they are only looked at."""
    total = sum((weights[name] * value for name, value in losses.items() if weights[name]), torch.zeros(()))
    return {"loss": total} | {name: value.detach() for name, value in losses.items()}
