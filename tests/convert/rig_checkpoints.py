"""What tests of DiffusionRig's converter share."""

from __future__ import annotations

from pathlib import Path

import torch
from original_rig import Original


def save(state: object, file: Path) -> Path:
    torch.save(state, file)
    return file


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, over the largest number; what is compared must vary."""
    assert ours.shape == theirs.shape and theirs.std() > 0.02
    return float((ours - theirs).abs().max() / theirs.abs().max())


def inputs(model: Original, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy samples with conditions, steps and codes of two faces."""
    stacked = torch.randn(2, 12, side, side, generator=seed(1))
    return stacked, torch.tensor([950, 3]), torch.randn(2, model.code, generator=seed(2))
