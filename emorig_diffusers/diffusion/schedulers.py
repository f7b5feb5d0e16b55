"""Schedulers that take guided-diffusion's timesteps (Dhariwal and Nichol 2021), where diffusers' spacing differs.

Of T training steps a sampler keeps some. guided-diffusion's "ddimN" keeps 0, s, 2s, …, with the smallest stride s that
makes it N, and exists for few N only; its plain N keeps steps from 0 to T - 1 at equal, fractional distances.
diffusers' "leading" takes s = T // N, which keeps fewer of the noisy steps wherever N does not divide T.
"""

from __future__ import annotations

from itertools import accumulate, chain, repeat
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, SchedulerMixin  # noqa: F401  where diffusers looks for it
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


def respaced_timesteps(steps: int, total: int, strided: bool = True) -> list[int]:
    """The timesteps that guided-diffusion keeps, upwards.

    Args:
        steps: How many, from 1 to `total`.
        total: Training steps T.
        strided: With a whole stride where one gives as many ("ddimN"); else, and without, spread over all of T.

    Raises:
        ValueError: More steps than there are, or fewer than one.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"This scheduler has {total} steps: choose a number from 1 to {total}, not {steps}.")
    if strided:
        stride = -(-total // steps)  # the smallest that gives no more than `steps`
        if stride < total and -(-total // stride) == steps:
            return list(range(0, total, stride))
    distance = (total - 1) / max(steps - 1, 1)
    # Added up and not multiplied: at halves the rounding errors decide, and they are the original's.
    return [round(time) for time in accumulate(chain([0.0], repeat(distance, steps - 1)))]


class RespacedDDIMScheduler(DDIMScheduler):
    """DDIM (Song et al. 2021) at guided-diffusion's "ddimN", with the noise derived from the clipped x0 as there.

    Settings are DDIMScheduler's; `timestep_spacing` and `steps_offset` have no effect.
    """

    config: Any

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """As in diffusers, for any number of steps up to `num_train_timesteps`."""
        times = respaced_timesteps(num_inference_steps, self.config.num_train_timesteps)
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(times[::-1], device=device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of equation 12, as in diffusers; the noise always goes with the clipped x0.

        Args:
            model_output: [B, ...], of the config's prediction type.
            timestep: One of `timesteps`.
            sample: x_t [B, ...].
            eta: Share of DDPM's noise (equation 16), drawn from `generator` or given as `variance_noise`.
            use_clipped_model_output: For diffusers' signature; without effect.
        """
        now, before = self._alphas(int(timestep))
        clean = predicted_sample(model_output, sample, now, self.config.prediction_type)
        if self.config.thresholding:
            clean = self._threshold_sample(clean)
        elif self.config.clip_sample:
            clean = clean.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        noise = (sample - now**0.5 * clean) / (1 - now) ** 0.5
        variance = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
        previous = before**0.5 * clean + (1 - before - variance) ** 0.5 * noise
        if eta > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
            previous = previous + variance**0.5 * variance_noise
        return DDIMSchedulerOutput(previous, clean) if return_dict else (previous, clean)

    def _alphas(self, timestep: int) -> tuple[Tensor, Tensor]:
        """Cumulative α at a timestep and at the next one that is sampled."""
        later = [time for time in self.timesteps.tolist() if time < timestep]
        return self.alphas_cumprod[timestep], self.alphas_cumprod[later[0]] if later else self.final_alpha_cumprod


class RespacedDDIMInversion:
    """DDIM backwards, guided-diffusion's reverse loop, as a scheduler: up from a picture to the noise x_T from which
    DDIM comes back to about it.

    At every timestep x0 is predicted, clipped where the scheduler clips, the noise derived from it again, and both are
    mixed as at the next timestep; the last one leads to pure noise. diffusers' DDIMInverseScheduler takes other
    timesteps.

    Args:
        scheduler: Any of diffusers', whose noise levels, prediction type and clipping count.
    """

    def __init__(self, scheduler: Any) -> None:
        self.config, self.alphas_cumprod = scheduler.config, scheduler.alphas_cumprod
        self.timesteps = torch.arange(self.config.num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """As in diffusers: `timesteps` are "ddimN"'s, upwards."""
        times = respaced_timesteps(num_inference_steps, self.config.num_train_timesteps)
        self.timesteps = torch.tensor(times, device=device)

    def step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> DDIMSchedulerOutput:
        """From one of `timesteps` up to the next; arguments as for `RespacedDDIMScheduler.step`."""
        later = [time for time in self.timesteps.tolist() if time > int(timestep)]
        now, after = float(self.alphas_cumprod[int(timestep)]), float(self.alphas_cumprod[later[0]]) if later else 0.0
        clean = predicted_sample(model_output, sample, now, self.config.prediction_type)
        if self.config.get("clip_sample"):
            clean = clean.clamp(-1, 1)
        noise = (sample - now**0.5 * clean) / (1 - now) ** 0.5
        return DDIMSchedulerOutput(after**0.5 * clean + (1 - after) ** 0.5 * noise, clean)


class RespacedDDPMScheduler(DDPMScheduler):
    """DDPM (Ho et al. 2020) at guided-diffusion's plain N steps. Settings are DDPMScheduler's, as above."""

    config: Any

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """As in diffusers; `timesteps` of one's own are taken as they are."""
        if num_inference_steps is not None and timesteps is None:
            timesteps = respaced_timesteps(num_inference_steps, self.config.num_train_timesteps, strided=False)[::-1]
        super().set_timesteps(device=device or "cpu", timesteps=timesteps)
        self.num_inference_steps = len(self.timesteps)


def predicted_sample(prediction: Tensor, latents: Tensor, alpha: float | Tensor, kind: str) -> Tensor:
    """x0 [B, 3, S, S] of a prediction at cumulative α, one or [B, 1, 1, 1].

    Raises:
        ValueError: A kind that is not one of diffusers'.
    """
    match kind:
        case "epsilon":
            return (latents - (1 - alpha) ** 0.5 * prediction) / alpha**0.5
        case "v_prediction":
            return alpha**0.5 * latents - (1 - alpha) ** 0.5 * prediction
        case "sample":
            return prediction
    raise ValueError(f"No x0 follows from a network of prediction type {kind!r}: use epsilon, v_prediction or sample.")
