"""LatentClassifier: what a semantic code says of a face, and which way to move the code to make it say something else.

Preechakul et al. 2022, section 5.2: a linear classifier on normalised codes gives the directions of attributes. The
lab's own is the same with AffectNet's eight emotions: Linear(512, 8), 4,104 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from .aligned import AlignedMixin

DIRECTION = 0.3  # how far DiffAE's demonstrations go along a direction, in units of sqrt(C)
LOSSES = ("bce", "softmax")
MOVES = ("direction", "means")


class LatentClassifier(AlignedMixin, ModelMixin, ConfigMixin):
    """A linear classifier of codes z [B, C], with what normalises them: ẑ = (z - mean) / std.

    Args:
        names: Of the classes, in the order of the logits.
        cond_dim: Length C of the code.
        loss: What it was trained with: 'bce' (every class for itself, as published) or 'softmax' (one of all).
        move: How `moved` goes: 'direction' along the classifier's weights, as published, or 'means', from the mean of
            the classes that it sees to the mean of the one that is asked for, where `means` are known.

    Attributes:
        weight, bias: [N, C] and [N].
        mean, std: Of the codes that it was trained on [C].
        means: Mean normalised code of each class [N, C]; zeros where they are not known.
        strength: How far intensity 1 goes along each direction [N], in units of sqrt(C).

    Raises:
        ValueError: An unknown loss or move.
    """

    @register_to_config
    def __init__(
        self, names: tuple[str, ...] = (), cond_dim: int = 512, loss: str = "bce", move: str = "direction"
    ) -> None:
        super().__init__()
        for what, value, known in (("loss", loss, LOSSES), ("move", move, MOVES)):
            if value not in known:
                raise ValueError(f"{what} is {value!r}: choose one of {', '.join(known)}.")
        size = (len(names), cond_dim)
        self.weight, self.bias = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(len(names)))
        self._fixed("mean", torch.zeros(cond_dim))
        self._fixed("std", torch.ones(cond_dim))
        self._fixed("means", torch.zeros(size))
        self._fixed("strength", torch.full((len(names),), DIRECTION))

    def _fixed(self, name: str, value: Tensor) -> None:
        setattr(self, name, nn.Parameter(value, requires_grad=False))  # diffusers casts and places parameters only

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(self.config.names)

    def normalise(self, z: Tensor) -> Tensor:
        """Codes [B, C] -> ẑ [B, C]."""
        return (z - self.mean) / self.std

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return z * self.std + self.mean

    def forward(self, z: Tensor) -> Tensor:
        """Codes [B, C] -> logits [B, N]."""
        return F.linear(self.normalise(z), self.weight, self.bias)

    def probabilities(self, z: Tensor) -> Tensor:
        """Of each class [B, N], in [0, 1]; they sum to 1 after 'softmax' only."""
        logits = self(z)
        return logits.softmax(-1) if self.config.loss == "softmax" else logits.sigmoid()

    def directions(self) -> Tensor:
        """Unit vectors [N, C] in normalised codes along which each class grows."""
        return F.normalize(self.weight, dim=1)

    def moved(self, z: Tensor, amounts: Mapping[str, float], intensity: float = 1.0) -> Tensor:
        """Codes moved towards classes.

        'direction': ẑ' = ẑ + intensity · √C · Σ amount_n · strength_n · w_n / |w_n| (Preechakul et al. 2022; their
        demonstrations' 0.3 is the strength's default). 'means': ẑ' = ẑ + intensity · Σ amount_n · (m_n - Σ p_k · m_k),
        p the classes' probabilities divided by their sum, which takes away what the face shows already; it falls back
        to 'direction' for amounts below 0, and where no means are known.

        Args:
            z: Codes [B, C].
            amounts: Class -> share; below 0 goes the other way.
            intensity: 0 returns `z` itself.

        Raises:
            ValueError: An unknown class.
        """
        share = self._shares(amounts).to(z)
        if intensity == 0 or not share.any():
            return z
        if self._by_means and (share >= 0).all():
            seen = self.probabilities(z)
            change = share - share.sum() * seen / seen.sum(1, keepdim=True).clamp(min=1e-8)
            return self.denormalise(self.normalise(z) + intensity * change @ self.means)
        step = math.sqrt(z.shape[1]) * intensity * (share * self.strength) @ self.directions()
        return self.denormalise(self.normalise(z) + step)

    def borrowed(self, z: Tensor, lender: Tensor, share: float = 1.0) -> Tensor:
        """Codes [B, C] that show what the lender's [1, C] or [B, C] show, as far as the classes tell.

        The difference of the two is taken over within the span of the classes' directions, or of their means.
        """
        basis = self.means - self.means.mean(0) if self._by_means else self.weight
        span = orthonormal_rows(basis).to(z)
        difference = self.normalise(lender) - self.normalise(z)
        return self.denormalise(self.normalise(z) + share * (difference @ span.T) @ span)

    @property
    def _by_means(self) -> bool:
        return self.config.move == "means" and bool(self.means.any())

    def _shares(self, amounts: Mapping[str, float]) -> Tensor:
        unknown = [name for name in amounts if name not in self.names]
        if unknown:
            raise ValueError(f"Unknown class {unknown[0]!r}: choose from {', '.join(self.names)}.")
        return torch.tensor([float(amounts.get(name, 0)) for name in self.names])


def orthonormal_rows(vectors: Tensor) -> Tensor:
    """An orthonormal basis [R, C] of what vectors [N, C] span, R <= N; what is below 1e-4 of the longest is noise."""
    basis = torch.linalg.svd(vectors.detach().float(), full_matrices=False)
    return basis.Vh[1e-4 * basis.S[0] < basis.S]
