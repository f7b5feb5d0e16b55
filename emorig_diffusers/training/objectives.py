"""What objectives of denoising share. All noise comes from the samples' own seeds: a batch split over several processes
gives the same loss."""

from __future__ import annotations

import torch
from torch import Tensor


def noise_like(clean: Tensor, seeds: Tensor) -> Tensor:
    """Standard normal noise of each sample [B, ...] from its own seed [B]."""
    generator = torch.Generator(clean.device)
    draw = lambda seed: torch.randn(clean.shape[1:], generator=generator.manual_seed(seed), device=clean.device)  # noqa: E731
    return torch.stack([draw(seed) for seed in seeds.tolist()])


def noised(clean: Tensor, noise: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_t = sqrt(ᾱ) x_0 + sqrt(1 - ᾱ) ε, and both factors [B, 1, 1, 1] (Ho et al. 2020, eq. 4)."""
    alpha, sigma = alphas.sqrt()[:, None, None, None], (1 - alphas).sqrt()[:, None, None, None]
    return alpha * clean + sigma * noise, alpha, sigma


def goal_of(kind: str, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network of a prediction type is to predict [B, ...]: the noise, or the velocity (Salimans & Ho 2022)."""
    return noise if kind == "epsilon" else alpha * noise - sigma * clean
