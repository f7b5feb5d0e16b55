"""What objectives of denoising share: noise that follows from seeds, and how it is mixed in."""

from __future__ import annotations

import pytest
import torch

from emorig_diffusers.training.objectives import noise_like, noised


def test_noise_follows_from_the_samples_seed() -> None:
    pictures, seeds = torch.zeros(4, 3, 40, 40), torch.tensor([5, 2**63 - 1, 0, 5])
    noise = noise_like(pictures, seeds)
    assert torch.equal(noise[0], noise[3]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(torch.cat([noise_like(pictures[:1], seeds[i : i + 1]) for i in range(4)]), noise)
    assert abs(float(noise[:3].mean())) < 0.05 and float(noise[:3].std()) == pytest.approx(1, abs=0.05)


def test_noised() -> None:
    clean, noise = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 3, 4, 4), 2.0)
    noisy, alpha, sigma = noised(clean, noise, torch.tensor([0.0, 0.64]))
    assert alpha.flatten().tolist() == pytest.approx([0, 0.8]) and sigma.flatten().tolist() == pytest.approx([1, 0.6])
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([2.0, 0.8 * 0.5 + 0.6 * 2]))
