"""Emotion latent diffusion besides diffusers' two networks: the table of emotions (Pikoulis et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .aligned import AlignedMixin


class EmotionEmbedding(AlignedMixin, ModelMixin, ConfigMixin):
    """The one token of a UNet's cross-attention for each emotion, and for none.

    Args:
        names: Of the emotions, in the order of the rows.
        dim: Length of a token.

    Attributes:
        weight: [N + 1, dim]; the last row is the null class, which guidance starts from.
    """

    @register_to_config
    def __init__(self, names: tuple[str, ...] = (), dim: int = 512) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(names) + 1, dim))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the emotions."""
        return tuple(self.config.names)

    @property
    def null(self) -> Tensor:
        """Token [1, dim] of no emotion in particular."""
        return self.weight[-1:]

    def moved(self, source: Tensor, shares: Mapping[str, float], strength: float = 1.0) -> Tensor:
        """Tokens [B, dim] some way from a source's [B, dim] to emotions'; 0 is the source, 1 the emotions' own.

        Args:
            source: Tokens to start from.
            shares: Emotion -> how far towards it.
            strength: Multiplies all shares.
        """
        moved = (1 - strength * sum(shares.values())) * source
        for name, share in shares.items():
            moved = moved + strength * share * self.weight[self.names.index(name)]
        return moved

    def shares(self, source: Tensor, token: Tensor) -> dict[str, float]:
        """How far a token is from a source's to each emotion's own: the shares of which `moved` makes it.

        Args:
            source, token: [1, dim].
        """
        start, weight = source.double().cpu(), self.weight.detach().double().cpu()
        ways = (weight[:-1] - start).T
        found = torch.linalg.lstsq(ways, (token.double().cpu() - start).T, driver="gelsd").solution[:, 0]
        return dict(zip(self.names, found.tolist()))
