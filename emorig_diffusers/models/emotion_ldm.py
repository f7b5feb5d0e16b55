"""Emotion latent diffusion besides diffusers' two networks: the table of emotions, and attention to one token of it
(Pikoulis et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
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


class OneTokenAttnProcessor(AttnProcessor2_0):
    """Cross-attention to one token without queries and keys: softmax over one key is 1, so that what attention gives
    is `to_out(to_v(token))` at every position, whatever the picture.

    Only where no gradient is asked for: in training all parameters take part, as several processes need it.
    """

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """As diffusers calls it: [B, N, C] from what is seen [B, N, C] under tokens [B, L, D]."""
        token = encoder_hidden_states
        if token is None or token.shape[1] != 1 or attention_mask is not None or torch.is_grad_enabled():
            return super().__call__(attn, hidden_states, token, attention_mask, temb, *args, **kwargs)
        (projection, dropout), values = cast(Any, attn.to_out), cast(Any, attn.to_v)
        return dropout(projection(values(token))).expand(-1, hidden_states.shape[1], -1)


def fold_one_token_attention(unet: UNet2DConditionModel) -> None:
    """Give every attention to tokens of a UNet a `OneTokenAttnProcessor`.

    Weights and their names stay: what saves and opens the UNet, and adapters (LoRA) on `to_v` and `to_out`, know them.
    """
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and isinstance(module, Attention) and _plain(module):
            module.set_processor(cast(Any, OneTokenAttnProcessor()))


def _plain(attention: Attention) -> bool:
    """Whether attention is queries, keys and values alone, as diffusers computes them unless told otherwise."""
    extra = (attention.spatial_norm, attention.group_norm, attention.norm_cross, attention.norm_q, attention.norm_k)
    plain = not attention.residual_connection and attention.rescale_output_factor == 1
    plain = plain and type(attention.processor) is AttnProcessor2_0
    return plain and attention.to_k is not None and all(one is None for one in extra)
