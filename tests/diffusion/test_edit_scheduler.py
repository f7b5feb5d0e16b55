"""EditDDIMScheduler: the original's timesteps and levels, and the way there and back."""

from __future__ import annotations

import pytest
import torch

from emorig_diffusers.diffusion.edit_scheduler import EditDDIMInverseScheduler, EditDDIMScheduler

TWENTY = [1, 26, 52, 78, 105, 131, 157, 184, 210, 236, 263, 289, 315, 342, 368, 394, 421, 447, 473, 500]


@pytest.mark.parametrize("steps, wanted", [(6, [1, 100, 200, 300, 400, 500]), (20, TWENTY)])
def test_timesteps(steps: int, wanted: list[int]) -> None:
    scheduler = EditDDIMScheduler()
    assert scheduler.timesteps_of(steps) == wanted
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == wanted[::-1]
    assert scheduler.timesteps_of(40)[:14] == [1, 12, 25, 38, 51, 64, 76, 89, 102, 115, 128, 141, 153, 166]
    assert scheduler.timesteps_of(3, 0.7) == [1, 350, 700]


def test_noise_levels() -> None:
    found = EditDDIMScheduler().alphas_cumprod
    known = {0: 0.9985, 1: 0.99699, 100: 0.8218, 200: 0.6100, 300: 0.3995, 400: 0.2258, 500: 0.1077, 600: 0.0424}
    assert all(abs(float(found[t]) - level) < 6e-5 for t, level in known.items())


def test_it_comes_back_where_noise_is_known() -> None:
    """Of noise that is the same at all levels every step is a straight line, and both ways are one."""
    scheduler, up = EditDDIMScheduler(), EditDDIMInverseScheduler()
    scheduler.set_timesteps(6)
    up.set_timesteps(6)
    assert up.timesteps.tolist() == scheduler.timesteps.tolist()[::-1]
    clean, noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    bars = scheduler.alphas_cumprod.double()
    at = lambda t: bars[t].sqrt() * clean + (1 - bars[t]).sqrt() * noise
    x = at(0)
    for t in up.timesteps:
        x = up.step(noise, t, x).prev_sample
        assert torch.allclose(x, at(t), atol=1e-6)
    for t in scheduler.timesteps:
        output = scheduler.step(noise, t, x)
        x = output.prev_sample
        assert torch.allclose(output.pred_original_sample, clean, atol=1e-5)
    assert torch.allclose(x, at(0), atol=1e-5)  # and not `clean`: the last level is that of timestep 0


@pytest.mark.parametrize("steps, strength, words", [
    (1, 0.5, "from 2 to 251"), (252, 0.5, "from 2 to 251"), (4, 1.0, "between 0 and 1"), (4, 0.0, "between 0 and 1"),
])  # fmt: skip
def test_what_is_refused(steps: int, strength: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EditDDIMScheduler().set_timesteps(steps, strength=strength)
    assert len(set(EditDDIMScheduler().timesteps_of(251))) == 251
