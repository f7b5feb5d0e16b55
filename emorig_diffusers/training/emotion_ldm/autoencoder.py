"""The losses of the autoencoder: VQGAN's (Esser et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import extract_model_from_parallel
from diffusers import VQModel
from torch import Tensor, nn

from ...evaluation.metrics.perceptual import LPIPS
from .discriminator import PatchDiscriminator, hinge

LEAST_GRADIENT, MOST_WEIGHT = 1e-4, 1e4  # of the adaptive weight: added below the line, and its limit


class VQNetworks(nn.Module):
    """What is trained, as one module: the autoencoder, and what tells its pictures from photos."""

    def __init__(self, vqvae: VQModel, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        self.vqvae, self.discriminator = vqvae, discriminator

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """All that the losses of pictures [B, 3, S, S] need, in one pass.

        Returns:
            `drawn`: the pictures from their quantised latents; `codebook`: the distance of latents and codes, a
            number; `real` and `fake`: what the discriminator makes of photos and drawn pictures; `shown`: the same of
            drawn ones, with gradients to the autoencoder instead of the discriminator.
        """
        drawn, codebook = self.vqvae(pictures, return_dict=False)
        judge = self.discriminator
        return {"drawn": drawn, "codebook": codebook.mean(), "real": judge(pictures), "fake": judge(drawn.detach()),
                "shown": judge.frozen(drawn)}  # fmt: skip


@dataclass
class VQObjective:
    """|x - x'| + w_p LPIPS + w_c codebook - λ w_d D(x'), and the discriminator's hinge loss of the same pictures.

    λ makes the gradient of the discriminator's word as long, at the decoder's last layer, as that of the first two
    terms. The codebook's distance weighs the way of the codes to latents by 1/4, that of latents to the codes by 1:
    the published order. Both losses come from the same weights, where the original takes a step between them.

    Attributes:
        lpips: The perceptual distance; `None` without.
        perceptual_weight: w_p.
        codebook_weight: w_c.
        disc_weight: w_d.
        reduce: The mean of a gradient over all processes.
        judged: Whether the discriminator counts yet; before, both its terms are 0.
    """

    lpips: LPIPS | None
    perceptual_weight: float = 1.0
    codebook_weight: float = 1.0
    disc_weight: float = 0.8
    reduce: Callable[[Tensor], Tensor] = lambda gradient: gradient
    judged: bool = True

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch with `picture` [B, 3, S, S] in [-1, 1]: `loss`, and its parts without their weights."""
        picture = batch["picture"]
        made = networks(picture)
        parts = self.distances(picture, made["drawn"])
        likeness = parts["l1"] + self.perceptual_weight * parts["lpips"]
        told, word = hinge(made["real"], made["fake"]), -made["shown"].mean()
        last = extract_model_from_parallel(networks).vqvae.decoder.conv_out.weight
        weight = likeness.new_zeros(())
        if self.judged:
            weight = self.disc_weight * self.adaptive_weight(likeness, word, last)
        total = likeness + self.codebook_weight * made["codebook"] + weight * word + self.judged * told
        return {"loss": total, **parts, "codebook": made["codebook"], "adversarial": word, "weight": weight,
                "discriminator": told}  # fmt: skip

    def distances(self, picture: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """`l1`, the mean difference, and `lpips` of pictures [B, 3, S, S]."""
        lpips = drawn.new_zeros(()) if self.lpips is None else self.lpips(drawn, picture).mean()
        return {"l1": (picture - drawn).abs().mean(), "lpips": lpips}

    def adaptive_weight(self, likeness: Tensor, word: Tensor, layer: Tensor) -> Tensor:
        """λ, without a gradient (Esser et al. 2021, equation 7)."""
        near, real = (self._gradient(term, layer) for term in (likeness, word))
        return (near.norm() / (real.norm() + LEAST_GRADIENT)).clamp(0, MOST_WEIGHT)

    def _gradient(self, term: Tensor, layer: Tensor) -> Tensor:
        return self.reduce(torch.autograd.grad(term, layer, retain_graph=True)[0])
