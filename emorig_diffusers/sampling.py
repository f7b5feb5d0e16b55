"""From noise to a sample and back: x_T, the scheduler's loop, and DDIM inversion, the same for all networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .schedulers import predicted_sample, respaced_timesteps

if TYPE_CHECKING:
    from .models.unet import RigUNet


@dataclass(frozen=True)
class Sampling:
    """How a caller wants a network sampled.

    Attributes:
        steps: Steps of the scheduler.
        generator: Random numbers of x_T, and of schedulers that draw more on the way.
        latents: x_T [1, 3, side, side] to take for every face instead; "photo" for the one each photo came from.
        callback: Called after every step as `f(pipe, step, timestep, {"latents": …})`; may return other latents.
        batch: Faces that the network draws at a time.
        guide: Called before every step as `f(pipe, latents, timestep, code)`; returns the code to go on with.
        best_of: Samples of each face of which the one with the least residual noise is kept.
    """

    steps: int
    generator: torch.Generator | list[torch.Generator] | None = None
    latents: Tensor | Literal["photo"] | None = None
    callback: Callable | None = None
    batch: int = 8
    guide: Callable[[Any, Tensor, Tensor, Tensor], Tensor] | None = None
    best_of: int = 1


class SamplingMixin:
    """Methods of a pipeline that has a `unet` and a `scheduler`."""

    unet: RigUNet | None
    scheduler: Any
    latents_side: int

    def prepare_latents(
        self, count: int, generator: torch.Generator | list[torch.Generator] | None, latents: Tensor | None = None
    ) -> Tensor:
        """x_T [count, 3, side, side] where and as the network computes: fresh noise, or `latents` [1 or count, …]."""
        device, dtype = self._execution_device, self.unet.dtype
        if latents is not None:
            return latents.to(device, dtype).expand(count, -1, -1, -1)
        shape = (count, 3, self.latents_side, self.latents_side)
        return randn_tensor(shape, generator=generator, device=device, dtype=dtype)

    def sample(self, latents: Tensor, conditions: Tensor, code: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Run the scheduler's loop.

        Args:
            latents: x_T [B, 3, side, side], on the network's device and in its dtype as the others.
            conditions: Pictures [B, C, side, side] in the network's order.
            code: What the network is told besides [B, cond_dim].
            sampling: Steps, generator and callback.

        Returns:
            The sample [B, 3, side, side], and the x0 that the first step predicts.
        """
        self.scheduler.set_timesteps(sampling.steps, device=latents.device)
        first, options = None, {}
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            options["generator"] = sampling.generator
        if isinstance(self.scheduler, DDIMScheduler):  # a clipped x0 changes the noise too, as in guided-diffusion
            options["use_clipped_model_output"] = bool(self.scheduler.config.clip_sample)
        for step, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if sampling.guide is not None:
                code = sampling.guide(self, latents, t, code)
            prediction = self.unet(torch.cat([latents, conditions], 1), t, code, return_dict=False)[0]
            output = self.scheduler.step(prediction, t, latents, **options)
            latents, first = output.prev_sample, output.get("pred_original_sample") if first is None else first
            if sampling.callback is not None:
                latents = sampling.callback(self, step, t, {"latents": latents}).get("latents", latents)
        return latents, latents if first is None else first

    def invert(self, sample: Tensor, conditions: Tensor, code: Tensor, steps: int) -> Tensor:
        """The x_T from which DDIM comes back to about a sample: guided-diffusion's reverse loop.

        At every timestep from 0 upwards x0 is predicted, clipped where the scheduler clips, the noise derived from it
        again, and both are mixed as at the next timestep; the last one leads to pure noise.

        Args:
            sample: [B, 3, side, side] in [-1, 1], on the network's device and in its dtype as the others.
            conditions, code: As for `sample`, of the sample itself.
            steps: Number of timesteps; they are guided-diffusion's, whatever the scheduler.
        """
        config = self.scheduler.config
        times = respaced_timesteps(steps, config.num_train_timesteps)
        alphas = [float(self.scheduler.alphas_cumprod[t]) for t in times] + [0.0]
        latents = sample
        for t, now, after in zip(self.progress_bar(times), alphas, alphas[1:]):
            prediction = self.unet(torch.cat([latents, conditions], 1), t, code, return_dict=False)[0]
            clean = predicted_sample(prediction, latents, now, config.prediction_type)
            if config.get("clip_sample"):
                clean = clean.clamp(-1, 1)
            noise = (latents - now**0.5 * clean) / (1 - now) ** 0.5
            latents = after**0.5 * clean + (1 - after) ** 0.5 * noise
        return latents
