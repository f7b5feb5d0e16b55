"""From noise to a sample: x_T and the scheduler's loop, the same for all networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

if TYPE_CHECKING:
    from .models.unet import RigUNet


@dataclass(frozen=True)
class Sampling:
    """How a caller wants a network sampled.

    Attributes:
        steps: Steps of the scheduler.
        generator: Random numbers of x_T, and of schedulers that draw more on the way.
        latents: x_T [1, 3, side, side] to take instead.
        callback: Called after every step as `f(pipe, step, timestep, {"latents": …})`; may return other latents.
    """

    steps: int
    generator: torch.Generator | list[torch.Generator] | None = None
    latents: Tensor | None = None
    callback: Callable | None = None


class SamplingMixin:
    """Methods of a pipeline that has a `unet` and a `scheduler`."""

    unet: RigUNet | None
    scheduler: Any
    latents_side: int

    def prepare_latents(
        self, count: int, generator: torch.Generator | list[torch.Generator] | None, latents: Tensor | None = None
    ) -> Tensor:
        """x_T [count, 3, side, side] where and as the network computes: fresh noise, or `latents` of that shape."""
        device, dtype = self._execution_device, self.unet.dtype
        if latents is not None:
            return latents.to(device, dtype)
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
        if isinstance(self.scheduler, DDIMScheduler):  # a clipped x0 changes the noise too, as in guided-diffusion
            options["use_clipped_model_output"] = bool(self.scheduler.config.clip_sample)
        for step, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            prediction = self.unet(torch.cat([latents, conditions], 1), t, code, return_dict=False)[0]
            output = self.scheduler.step(prediction, t, latents, generator=sampling.generator, **options)
            latents, first = output.prev_sample, output.get("pred_original_sample") if first is None else first
            if sampling.callback is not None:
                latents = sampling.callback(self, step, t, {"latents": latents}).get("latents", latents)
        return latents, latents if first is None else first
