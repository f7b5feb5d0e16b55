"""DDIM there and back over part of the diffusion, as DiffusionCLIP's descendants edit pictures (Kim et al. 2022).

diffusers' DDIMScheduler and DDIMInverseScheduler space timesteps otherwise and end at another noise level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from .schedulers import predicted_sample


class EditDDIMScheduler(SchedulerMixin, ConfigMixin):
    """DDIM (Song et al. 2021, η 0) between a picture, taken for noise level ᾱ_0, and the timestep int(T t0).

    Of S steps the i-th is int(i / (S - 1) int(T t0)), and the first is 1. Noise is predicted, nothing is clipped.

    Args:
        num_train_timesteps: T.
        beta_start, beta_end: The square root of β rises evenly from one's to the other's.
        strength: Share t0 of the diffusion, where `set_timesteps` is not told.
    """

    order = 1
    config: Any

    @register_to_config
    def __init__(
        self, num_train_timesteps: int = 1000, beta_start: float = 0.0015, beta_end: float = 0.0205,
        strength: float = 0.5,
    ) -> None:  # fmt: skip
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        self.alphas_cumprod = (1 - betas).cumprod(0).float()
        self.init_noise_sigma = 1.0
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

    def timesteps_of(self, steps: int, strength: float | None = None) -> list[int]:
        """The timesteps of S steps, upwards.

        Raises:
            ValueError: A strength outside (0, 1), or more steps than there are different ones, or fewer than two.
        """
        strength = float(self.config.strength if strength is None else strength)
        total = self.config.num_train_timesteps
        if not 0 < strength < 1:
            raise ValueError(f"strength must be a number between 0 and 1, got {strength!r}.")
        last = int(total * strength)
        if not 2 <= steps <= last // 2 + 1:
            raise ValueError(
                f"num_inference_steps must be a whole number from 2 to {last // 2 + 1} at strength {strength:g}, got "
                f"{steps!r}."
            )
        return [1, *(int(share * last) for share in np.linspace(0, 1, steps)[1:])]

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, strength: float | None = None
    ) -> None:
        """As in diffusers: `timesteps` go downwards; `strength` as for the class."""
        self.timesteps = torch.tensor(self.timesteps_of(num_inference_steps, strength)[::-1], device=device)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample: nothing is scaled."""
        return sample

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """From one of `timesteps` down to the next; from the last one to ᾱ_0.

        Args:
            model_output: Noise [B, ...].
            timestep: One of `timesteps`.
            sample: x_t [B, ...].
        """
        now, then = self._levels(int(timestep))
        clean = predicted_sample(model_output, sample, now, "epsilon")
        moved = then**0.5 * clean + (1 - then) ** 0.5 * model_output
        return DDIMSchedulerOutput(moved, clean) if return_dict else (moved, clean)

    def _levels(self, timestep: int) -> tuple[Tensor, Tensor]:
        """ᾱ of the sample at a timestep, and of what a step makes of it."""
        below = max((time for time in self.timesteps.tolist() if time < timestep), default=0)
        return self.alphas_cumprod[timestep], self.alphas_cumprod[below]


class EditDDIMInverseScheduler(EditDDIMScheduler):
    """The way up, from a picture at ᾱ_0 to the timestep int(T t0). Settings are EditDDIMScheduler's.

    A step to one of `timesteps` begins at the one below, or at ᾱ_0; the network, which sees the sample there, is told
    the timestep that it goes to.
    """

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, strength: float | None = None
    ) -> None:
        """As for `EditDDIMScheduler`, but upwards."""
        super().set_timesteps(num_inference_steps, device, strength)
        self.timesteps = self.timesteps.flip(0)

    def _levels(self, timestep: int) -> tuple[Tensor, Tensor]:
        at, below = super()._levels(timestep)
        return below, at
