"""The loss of the latent-diffusion model: the noise in latents, predicted under the token of the emotion they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ...models.emotion_ldm import EmotionEmbedding
from ..objectives import noise_like, noised


class LDMNetworks(nn.Module):
    """What is trained, as one module: the UNet and the table of emotions."""

    def __init__(self, unet: UNet2DConditionModel, emotion_embedding: EmotionEmbedding) -> None:
        super().__init__()
        self.unet, self.emotion_embedding = unet, emotion_embedding

    def forward(self, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Noise [B, C, h, w] in latents at timesteps [B], under the table's rows [B]."""
        tokens = self.emotion_embedding.weight[rows][:, None]
        return self.unet(noisy, t, encoder_hidden_states=tokens, return_dict=False)[0].float()


@dataclass
class NoiseObjective:
    """Mean squared error of the noise, at timesteps that are drawn evenly (Pikoulis et al. 2023).

    Attributes:
        alphas: Cumulative products ᾱ [T].
        null: Row of the null class.
        null_share: How often the null class takes the emotion's place.
        per_sample: Whether each sample is drawn for itself; else a process's whole batch is, as published.
    """

    alphas: Tensor
    null: int
    null_share: float = 0.2
    per_sample: bool = False

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch of `LatentData`."""
        dropped = batch["u"][:, 1] < self.null_share
        if not self.per_sample:
            dropped = dropped[:1].expand_as(dropped)
        return {"loss": self.errors(networks, batch, dropped).mean()}

    def errors(self, networks: nn.Module, batch: dict[str, Tensor], dropped: Tensor | None = None) -> Tensor:
        """Mean squared errors [B]; the null class where `dropped` [B] says so, and nowhere without it."""
        t = (batch["u"][:, 0] * len(self.alphas)).long()
        rows = batch["emotion"] if dropped is None else torch.where(dropped, self.null, batch["emotion"])
        noise = noise_like(batch["latent"], batch["seed"])
        noisy, _, _ = noised(batch["latent"], noise, self.alphas[t])
        return (networks(noisy, t, rows) - noise).square().flatten(1).mean(1)
