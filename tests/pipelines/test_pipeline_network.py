"""EmoRigPipeline with a network: noise, steps, callbacks, masks, saving and casting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pictures import assert_close
from torch import nn

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.painting.photo_texture import PhotoTexturePainter


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_generator_repeats(tiny_pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    paint = lambda n: tiny_pipe(
        hopper, "surprise", generator=seed(n), output_type="np", num_inference_steps=2
    )
    first, again, other = paint(3), paint(3), paint(4)
    assert_close(first.images[0], again.images[0])
    change = (first.images[0] != other.images[0]).any(-1)
    assert change.any()
    x0, y0, x1, y1 = first.faces[0][0].box
    ys, xs = np.nonzero(change)
    assert x0 < xs.min() and xs.max() < x1  # from the wings of the nose down
    assert y0 + 0.4 * (y1 - y0) < ys.min() and ys.max() < y1


def test_callback_sees_every_step(tiny_pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def watch(pipeline: EmoRigPipeline, step: int, timestep: torch.Tensor, values: dict) -> dict:
        assert pipeline is tiny_pipe
        seen.append((step, int(timestep), tuple(values["latents"].shape)))
        return values

    for steps in (None, 1, 5):
        seen.clear()
        tiny_pipe(
            hopper, "surprise", num_inference_steps=steps, generator=seed(0), callback_on_step_end=watch
        )
        assert [s[0] for s in seen] == list(range(steps or 3))  # 3 is this checkpoint's
        times = [s[1] for s in seen]
        assert times[0] == 999 and times == sorted(times, reverse=True)
        assert {s[2] for s in seen} == {(1, 3, 160, 160)}


def silence(pipeline: EmoRigPipeline, step: int, timestep: torch.Tensor, values: dict) -> dict:
    return {"latents": torch.zeros_like(values["latents"])}


def test_callback_may_change_the_latents(tiny_pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    latents = tiny_pipe.prepare_latents(1, seed(0))
    conditions, code = torch.zeros(1, 11, 160, 160), torch.zeros(1, 58)
    sample, mean = tiny_pipe.painter.denoise(latents, conditions, code, Sampling(2, seed(0), callback=silence))
    assert not sample.any() and mean.any()  # the mean is what the first step said
    edit = {"emotion": "surprise", "output_type": "np", "num_inference_steps": 1}
    silent = tiny_pipe(hopper, **edit, generator=seed(0), callback_on_step_end=silence).images[0]
    assert (silent != tiny_pipe(hopper, **edit, generator=seed(0)).images[0]).any()


def test_network_paints_within_its_mask(
    tiny_pipe: EmoRigPipeline, pipe: EmoRigPipeline, hopper: np.ndarray
) -> None:
    painted = tiny_pipe(hopper, "happy", generator=seed(0), output_type="np")
    without = EmoRigPipeline(pipe.head, pipe.encoder)(hopper, "happy", output_type="np")
    face = painted.faces[0][0]
    changed = (np.asarray(face.crop) != np.asarray(without.faces[0][0].crop)).any(-1)
    mask = np.asarray(face.buffers["repainted"]) > 0
    assert changed.any()
    assert not (changed & ~cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool)).any()


class Outside(nn.Module):
    """A network that is silent where it is to paint and loud everywhere else."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config

    def forward(self, sample: torch.Tensor, t: torch.Tensor, code: torch.Tensor, return_dict: bool) -> tuple:
        mask = sample[:, 12:13]
        return (-2 * (1 - mask).expand(-1, 3, -1, -1),)  # v = -x0 at pure noise


def test_what_a_network_says_outside_its_mask_is_lost(
    pipe: EmoRigPipeline, tiny_pipe: EmoRigPipeline, hopper: np.ndarray
) -> None:
    edit = {"emotion": "surprise", "output_type": "np", "num_inference_steps": 1}
    without = EmoRigPipeline(pipe.head, pipe.encoder)(hopper, **edit).images[0]
    loud = EmoRigPipeline(pipe.head, pipe.encoder, tiny_pipe.unet, tiny_pipe.scheduler)
    loud.set_progress_bar_config(disable=True)
    loud.unet = Outside(tiny_pipe.unet.config)
    assert np.array_equal(loud(hopper, **edit).images[0], without)


class Oracle(nn.Module):
    """A network that knows the answer: v for the sample x0 (Salimans & Ho 2022)."""

    def __init__(self, clean: torch.Tensor, alphas: torch.Tensor) -> None:
        super().__init__()
        self.clean, self.alphas = clean, alphas

    def forward(self, sample: torch.Tensor, t: torch.Tensor, code: torch.Tensor, return_dict: bool) -> tuple:
        alpha, sigma = self.alphas[int(t)].sqrt(), (1 - self.alphas[int(t)]).sqrt()
        return ((alpha * sample[:, :3] - self.clean) / sigma,)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_sampling_finds_what_a_perfect_network_knows(
    pipe: EmoRigPipeline, tiny_pipe: EmoRigPipeline, steps: int
) -> None:
    clean = torch.randn(1, 3, 160, 160, generator=seed(1)) * 0.4
    scheduler = tiny_pipe.scheduler
    assert scheduler.alphas_cumprod[-1] == 0  # the start is noise and nothing else
    sampler = EmoRigPipeline(pipe.head, pipe.encoder, tiny_pipe.unet, scheduler, residual_scale=3.0)
    sampler.set_progress_bar_config(disable=True)
    latents = sampler.prepare_latents(1, seed(2))
    sampler.unet = Oracle(clean, scheduler.alphas_cumprod)
    painter, sampling = PhotoTexturePainter(sampler), Sampling(steps, seed(2))
    for found in painter.denoise(latents, torch.zeros(1, 11, 160, 160), torch.zeros(1, 58), sampling):
        torch.testing.assert_close(found, clean / 3, atol=1e-4, rtol=0)


def test_save_and_load(tiny_pipe: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    again = EmoRigPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.unet, RigUNet)
    assert again.config.default_num_inference_steps == 3
    assert tuple(again.config.repaint_window) == tuple(tiny_pipe.config.repaint_window)
    results = [
        p(hopper, "surprise", generator=seed(0), output_type="np").images[0] for p in (tiny_pipe, again)
    ]
    assert_close(*results)


def test_networks_may_be_cast_but_the_rig_stays_exact(
    tiny_pipe: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path
) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    wide = EmoRigPipeline.from_pretrained(tmp_path).to(torch.float64)
    wide.set_progress_bar_config(disable=True)
    assert wide.unet.dtype == torch.float64
    assert wide.head.template.dtype == wide.encoder.prior_scale.dtype == torch.float32
    edit = {"emotion": "surprise", "output_type": "np", "num_inference_steps": 1}
    wide_latents, latents = wide.prepare_latents(1, seed(0)), tiny_pipe.prepare_latents(1, seed(0))
    assert wide_latents.dtype == torch.float64 and latents.dtype == torch.float32
    result = wide(hopper, **edit, generator=seed(0)).images[0]
    assert result.shape == hopper.shape and (result != hopper).any()
