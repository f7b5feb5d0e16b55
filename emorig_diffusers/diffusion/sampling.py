"""From noise to a sample and back: x_T, the scheduler's loop, and DDIM inversion, the same for all networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .schedulers import RespacedDDIMInversion

if TYPE_CHECKING:
    from ..models.unet import RigUNet


CALLBACK_TENSORS = ("latents", "conditions", "code")
"""What a callback can be given, and give back: x_t, the pictures and the code that the network sees, [B, ...] each."""
MOST_ETA = 0.999
"""η at which, unlike at 1, rounding never leaves less than no variance for x_t's own noise, in float32."""
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""What a network predicts, from a timestep and the CALLBACK_TENSORS."""


@dataclass(frozen=True)
class Sampling:
    """How a caller wants a network sampled.

    Attributes:
        steps: Steps of the scheduler.
        generator: Random numbers of x_T, and of schedulers that draw more on the way: one generator for all, or one
            for each photo.
        latents: x_T [1, 3, side, side] to take for every face instead; "photo" for the one each photo came from.
        callback: Called after every step as `f(pipe, step, timestep, {"latents": …})`; may return other tensors.
        batch: Faces that the network draws at a time.
        guide: Called before every step as `f(pipe, latents, timestep, code)`; returns the code to go on with.
        best_of: Samples of each face of which the one with the least residual noise is kept.
        callback_tensors: Names of CALLBACK_TENSORS that the callback is given.
        eta: Share η of DDPM's noise that schedulers draw which take it (DDIM).
    """

    steps: int
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    latents: Tensor | Literal["photo"] | None = None
    callback: Callable | None = None
    batch: int = 8
    guide: Callable[[Any, Tensor, Tensor, Tensor], Tensor] | None = None
    best_of: int = 1
    callback_tensors: Sequence[str] = ("latents",)
    eta: float = 0.0

    def of(self, photos: Sequence[int]) -> Sampling:
        """The same for faces of the photos of these numbers, from 0: a generator for each face."""
        if self.generator is None or isinstance(self.generator, torch.Generator):
            return self
        return replace(self, generator=[self.generator[i] for i in photos])


def batches(photos: Sequence[int], size: int) -> list[slice]:
    """Slices of faces, at most `size` each. A photo's faces are divided as they would be without the other photos, so
    that its random numbers are the same.

    Args:
        photos: Number of each face's photo; faces of one photo stand together.
    """
    pieces = []
    for _, faces in groupby(photos):
        count = len(list(faces))
        pieces += [min(size, count - start) for start in range(0, count, size)]
    counts: list[int] = []
    for piece in pieces:
        if counts and counts[-1] + piece <= size:
            counts[-1] += piece
        else:
            counts.append(piece)
    return [slice(sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(counts))]


def _each(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator] | None:
    """A generator for every row, which draws the same numbers in batches of any size."""
    if generator is None:
        return None
    return [generator] * count if isinstance(generator, torch.Generator) else list(generator)


class SamplingMixin:
    """Methods of a pipeline that has a `unet` and a `scheduler`."""

    unet: RigUNet  # None only where nothing is sampled
    scheduler: Any
    progress_bar: Callable[..., Any]
    _execution_device: torch.device
    latents_side: int
    _callback_tensor_inputs = list(CALLBACK_TENSORS)
    _interrupt = False
    _num_timesteps = 0

    @property
    def interrupt(self) -> bool:
        """Whether no more steps are to be taken in this call; callbacks and other threads set `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Steps of the latest sampling; callbacks of diffusers ask for it."""
        return self._num_timesteps

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """One call: what interrupts it does not interrupt the next one."""
        self._interrupt = False
        try:
            yield
        finally:
            self._interrupt = False

    def prepare_latents(
        self,
        count: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """x_T [count, 3, side, side] where and as the network computes: fresh noise from one generator or as many as
        rows, or `latents` [1 or count, …]."""
        device, dtype = self._execution_device, self.unet.dtype
        if latents is not None:
            return latents.to(device, dtype).expand(count, -1, -1, -1)
        shape = (count, 3, self.latents_side, self.latents_side)
        return randn_tensor(shape, generator=_each(generator, count), device=device, dtype=dtype)

    def sample(self, latents: Tensor, conditions: Tensor, code: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Run the scheduler's loop.

        Args:
            latents: x_T [B, 3, side, side], on the network's device and in its dtype as the others.
            conditions: Pictures [B, C, side, side] in the network's order.
            code: What the network is told besides [B, cond_dim].
            sampling: Steps, generators for each row or one for all, and callback.

        Returns:
            The sample [B, 3, side, side], and the x0 that the first step predicts; after an interruption x_t where it
            was.
        """
        scheduler = deepcopy(self.scheduler)  # it keeps count of steps, and other threads sample too
        scheduler.set_timesteps(sampling.steps, device=latents.device)
        return self.follow(scheduler, (latents, conditions, code), sampling)

    def follow(
        self, scheduler: Any, tensors: Sequence[Tensor], sampling: Sampling, predict: Predict | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take a scheduler's steps, down to a sample or up to noise; all ways of all pipelines are this loop.

        Args:
            scheduler: Of this call alone, with its timesteps set.
            tensors: The CALLBACK_TENSORS to begin with.
            sampling: Generators, guide and callback; its steps do not count.
            predict: What the network predicts, where `predict` does not say it.

        Returns:
            As for `sample`.
        """
        latents, predict = tensors[0], predict or self.predict
        self._num_timesteps = len(scheduler.timesteps)
        options, first = self._step_options(scheduler, sampling, len(latents)), None
        state: dict[str, Tensor] = dict(zip(CALLBACK_TENSORS, tensors))
        for step, t in enumerate(self.progress_bar(scheduler.timesteps)):
            if self.interrupt:
                continue
            if sampling.guide is not None:
                state["code"] = sampling.guide(self, state["latents"], t, state["code"])
            prediction = predict(t, *(state[name] for name in CALLBACK_TENSORS))
            output = scheduler.step(prediction, t, state["latents"], **options)
            first = output.get("pred_original_sample") if first is None else first
            state["latents"] = output.prev_sample
            if sampling.callback is not None:
                given = {name: state[name] for name in sampling.callback_tensors}
                state |= sampling.callback(self, step, t, given) or {}
        return state["latents"], state["latents"] if first is None else first

    def predict(self, t: Tensor, latents: Tensor, conditions: Tensor, code: Tensor) -> Tensor:
        """What the network predicts [B, ...] of x_t at a timestep; arguments as for `sample`."""
        return self.unet(torch.cat([latents, conditions], 1), t, code, return_dict=False)[0]

    def _step_options(self, scheduler: Any, sampling: Sampling, count: int) -> dict[str, Any]:
        """Arguments of `scheduler.step` besides the tensors, as far as it takes them."""
        options = {"generator": _each(sampling.generator, count), "eta": min(sampling.eta, MOST_ETA)}
        options = {name: options[name] for name in options.keys() & inspect.signature(scheduler.step).parameters}
        if isinstance(scheduler, DDIMScheduler):  # a clipped x0 changes the noise too, as in guided-diffusion
            options["use_clipped_model_output"] = bool(scheduler.config["clip_sample"])
        return options

    def invert(self, sample: Tensor, conditions: Tensor, code: Tensor, steps: int) -> Tensor:
        """The x_T from which DDIM comes back to about a sample: guided-diffusion's reverse loop.

        Args:
            sample: [B, 3, side, side] in [-1, 1], on the network's device and in its dtype as the others.
            conditions, code: As for `sample`, of the sample itself.
            steps: Number of timesteps; they are guided-diffusion's, whatever the scheduler.
        """
        scheduler = RespacedDDIMInversion(self.scheduler)
        scheduler.set_timesteps(steps, device=sample.device)
        return self.follow(scheduler, (sample, conditions, code), Sampling(steps))[0]
