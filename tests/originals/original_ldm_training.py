"""What training the emotion latent-diffusion model makes small, in plain functions of torch that know nothing of the
package: VQGAN's losses and its discriminator, the noise to predict, and the average of the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """By the batch's own mean and variance, as in training."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]


def discriminate(state: State, x: Tensor) -> Tensor:
    """PatchGAN of three layers: kernels at 0, 2, 5, 8 and 11, BatchNorm at 3, 6 and 9."""
    x = F.leaky_relu(F.conv2d(x, state["0.weight"], state["0.bias"], stride=2, padding=1), 0.2)
    for place, stride in ((2, 2), (5, 2), (8, 1)):
        x = F.conv2d(x, state[f"{place}.weight"], stride=stride, padding=1)
        x = F.leaky_relu(batch_norm(x, state[f"{place + 1}.weight"], state[f"{place + 1}.bias"]), 0.2)
    return F.conv2d(x, state["11.weight"], state["11.bias"], stride=1, padding=1)


def quantise(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codes of latents [B, C, h, w], and the distance with the quarter on the codes' way."""
    rows = z.permute(0, 2, 3, 1)
    nearest = (rows[..., None, :] - codes).square().sum(-1).argmin(-1)
    chosen = codes[nearest].permute(0, 3, 1, 2)
    return chosen, (chosen.detach() - z).square().mean() + 0.25 * (chosen - z.detach()).square().mean()


def likeness(x: Tensor, drawn: Tensor, perceptual: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """|x - x'| + LPIPS, a mean over everything."""
    return ((x - drawn).abs() + perceptual(drawn, x)[:, None, None, None]).mean()


def generator_loss(
    x: Tensor, draw: Callable[[Tensor], Tensor], last: Tensor, codebook: Tensor, judge: Callable[[Tensor], Tensor],
    perceptual: Callable[[Tensor, Tensor], Tensor], weight: float,
) -> Tensor:  # fmt: skip
    """VQGAN's loss where the discriminator counts.

    Args:
        x: Pictures.
        draw: The decoder as a function of its last layer's kernel.
        last: That kernel.
        codebook: The latents' distance from the codes.
        judge: The discriminator.
        perceptual: A distance of pictures [B].
        weight: Of the discriminator.
    """
    kernel = last.detach().clone().requires_grad_()
    [near] = torch.autograd.grad(likeness(x, draw(kernel), perceptual), kernel)
    [real] = torch.autograd.grad(-judge(draw(kernel)).mean(), kernel)
    share = float((near.norm() / (real.norm() + 1e-4)).clamp(0, 1e4))
    drawn = draw(last)
    return likeness(x, drawn, perceptual) + weight * share * -judge(drawn).mean() + codebook


def discriminator_loss(judge: Callable[[Tensor], Tensor], x: Tensor, drawn: Tensor) -> Tensor:
    """Hinge."""
    return (F.relu(1 - judge(x)).mean() + F.relu(1 + judge(drawn)).mean()) / 2


def noise_loss(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], clean: Tensor, t: Tensor, noise: Tensor, tokens: Tensor
) -> Tensor:
    """Mean squared error of the noise in latents at timesteps of 1000, beta growing as a square from .0015 to .0205."""
    roots = torch.linspace(0.0015**0.5, 0.0205**0.5, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - roots.square(), 0)[t].float()[:, None, None, None]
    return (network(kept.sqrt() * clean + (1 - kept).sqrt() * noise, t, tokens) - noise).square().mean()


def average(values: list[float], start: float, most: float = 0.9999) -> float:
    """Of a weight's values step by step, with decay min(.9999, (1 + n) / (10 + n))."""
    kept = start
    for n, value in enumerate(values, 1):
        decay = min(most, (1 + n) / (10 + n))
        kept = decay * kept + (1 - decay) * value
    return kept
