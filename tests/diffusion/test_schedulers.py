"""Schedulers that take guided-diffusion's timesteps: which, and what they make of a prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from original_diffae import Diffusion, kept
from torch import Tensor

from emorig_diffusers.diffusion.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler, respaced_timesteps
from emorig_diffusers.painting.diffusion_rig import published_scheduler

# counts of "ddimN" up to 250 that guided-diffusion has for 1,000 steps; it refuses the others
STRIDED = [*range(2, 37), 38, 39, 40, 42, 44, 46, 48, 50, 53, 56, 59, 63, 67, 72, 77, 84, 91, 100, 112, 125, 143, 167,
           200, 250]  # fmt: skip


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# which timesteps


@pytest.mark.parametrize("total", [1000, 500])
def test_every_number_of_steps(total: int) -> None:
    for count in range(1, 251):
        times = respaced_timesteps(count, total)
        assert times == kept(count, total), count
        assert len(set(times)) == count and times[0] == 0 and times[-1] < total


def test_known_timesteps() -> None:
    strides = {3: 334, 15: 67, 16: 63, 20: 50, 30: 34, 48: 21, 250: 4}
    for count, stride in strides.items():
        assert respaced_timesteps(count, 1000) == list(range(0, 1000, stride))[:count], count
    assert [count for count in range(2, 251) if set(np.diff(respaced_timesteps(count, 1000))) == {-(-1000 // count)}
            ] == STRIDED  # fmt: skip
    assert respaced_timesteps(37, 1000)[:5] == [0, 28, 56, 83, 111] and respaced_timesteps(37, 1000)[-1] == 999
    # halves are decided by the rounding errors of adding up: 499.5 is 499 here, not 500
    assert respaced_timesteps(21, 1000, strided=False)[10] == 499
    assert respaced_timesteps(50, 500, strided=False)[-1] == 499 and respaced_timesteps(50, 500)[-1] == 490
    assert respaced_timesteps(1000, 1000) == list(range(1000)) and respaced_timesteps(1, 1000) == [0]


@pytest.mark.parametrize("count", [0, -3, 501])
def test_steps_that_are_not_there(count: int) -> None:
    for sampler in ("ddim", "ddpm"):
        with pytest.raises(ValueError, match=f"has 500 steps: choose a number from 1 to 500, not {count}"):
            published_scheduler(500, sampler).set_timesteps(count)


# what they make of a prediction


def curved(x: Tensor, times: Tensor) -> Tensor:
    """Stands for a network: noise that depends on sample and time, in the sample's precision."""
    return torch.sin(3 * x + times[:, None, None, None] / 200) + 0.3 * x


def sampled(scheduler: object, steps: int, noise: Tensor, **options: object) -> Tensor:
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        noise = scheduler.step(curved(noise, t.expand(len(noise))), t, noise, **options).prev_sample
    return noise


@pytest.mark.parametrize("steps", [2, 3, 15, 16, 20, 30, 37, 48, 150])
@pytest.mark.parametrize("total", [1000, 500])
def test_ddim_is_guided_diffusions(total: int, steps: int) -> None:
    noise, scheduler = torch.randn(2, 3, 8, 8, generator=seed(0)), published_scheduler(total)
    betas = np.linspace(0.1 / total, 20 / total, total)
    found = sampled(scheduler, steps, noise.double())
    expected = Diffusion(steps, betas).sample(curved, noise.double())
    assert scheduler.timesteps.tolist() == kept(steps, total)[::-1]
    assert (expected.abs() > 0.99).float().mean() > 0.05  # clipping has bitten
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_is_diffusers_where_the_steps_are_the_same(kind: str, eta: float) -> None:
    settings = {"prediction_type": kind, "clip_sample_range": 0.8, "beta_schedule": "scaled_linear"}
    noise = torch.randn(2, 3, 8, 8, generator=seed(0))
    options = {"eta": eta, "use_clipped_model_output": True}
    ours, theirs = (
        sampled(kind(**settings), 20, noise, **options, generator=seed(1))
        for kind in (RespacedDDIMScheduler, DDIMScheduler)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    plain = sampled(RespacedDDIMScheduler(**settings), 20, noise, eta=eta, variance_noise=torch.zeros_like(noise))
    assert torch.equal(plain, ours) == (eta == 0)


@pytest.mark.parametrize(("total", "steps"), [(500, 500), (500, 50), (1000, 30)])
def test_ddpm_is_guided_diffusions(total: int, steps: int) -> None:
    """Ho et al. 2020, algorithm 2 on the steps that are kept, x0 clipped, with the larger variance β."""
    scheduler = published_scheduler(total, "ddpm")
    x = torch.randn(2, 3, 4, 4, generator=seed(0)).double()
    found = sampled(scheduler, steps, x, generator=seed(1))
    times, place = [], 0.0
    for _ in range(steps):
        times.append(round(place))
        place += (total - 1) / (steps - 1)
    bars, noises = np.cumprod(1 - np.linspace(0.1 / total, 20 / total, total))[times], seed(1)
    for i in reversed(range(steps)):
        bar, before = bars[i], bars[i - 1] if i else 1.0
        beta = 1 - bar / before
        clean = ((x - (1 - bar) ** 0.5 * curved(x, torch.tensor(times[i]).expand(2))) / bar**0.5).clamp(-1, 1)
        x = (before**0.5 * beta * clean + (bar / before) ** 0.5 * (1 - before) * x) / (1 - bar)
        if i:
            x = x + beta**0.5 * torch.randn(x.shape, generator=noises, dtype=x.dtype)
    assert scheduler.timesteps.tolist() == times[::-1] and x.std() > 0.1
    torch.testing.assert_close(found, x, atol=1e-3, rtol=0)
    scheduler.set_timesteps(timesteps=[400, 10, 0])
    assert scheduler.timesteps.tolist() == [400, 10, 0]


def test_schedules() -> None:
    """At the same share of the way the noise is the same, whatever the number of steps."""
    full, half = published_scheduler(), published_scheduler(500)
    assert isinstance(published_scheduler(sampler="ddpm"), RespacedDDPMScheduler)
    bars = np.cumprod(1 - np.linspace(2e-4, 0.04, 500))
    np.testing.assert_allclose(half.alphas_cumprod, bars, rtol=2e-4)
    assert float(half.alphas_cumprod[249]) == pytest.approx(float(full.alphas_cumprod[499]), rel=0.02)
    for wrong, expected in (({"diffusion_steps": 20}, "21 to 10000"), ({"sampler": "euler"}, "ddim or ddpm")):
        with pytest.raises(ValueError, match=expected):
            published_scheduler(**wrong)
