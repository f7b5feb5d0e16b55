"""Pictures with codes, and one line about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.training.rig.data import BufferData, describe, mean_shape

CODES = ("shape", "expression", "pose", "camera", "light", "texture")


@pytest.fixture(scope="module")
def shards(prepared: Path) -> CodeShards:
    return CodeShards(prepared)


def pictures(array: np.ndarray) -> Tensor:
    """[..., H, W, 3] in 0...255 -> [..., 3, H, W] in [-1, 1]."""
    return torch.from_numpy(array).movedim(-1, -3) / 127.5 - 1


def test_describe(shards: CodeShards, prepared64: Path) -> None:
    assert json.loads(describe(shards)) == {"photos": 2}
    assert json.loads(describe(CodeShards(prepared64))) == {"photos": 2, "happy": 1, "neutral": 1}


def test_pictures_with_codes(prepared64: Path) -> None:
    shards = CodeShards(prepared64)
    data = BufferData(shards)
    assert len(data) == 2
    sample = data[1, 5]
    torch.testing.assert_close(sample["picture"], pictures(shards[1].picture))
    assert torch.equal(sample["transform"], torch.eye(3)) and sample["seed"] == 5
    for name in CODES:
        assert torch.equal(sample[name], getattr(shards[1].codes, name)[0]), name
    batch = default_collate([data[i % 2, i] for i in range(100)])
    assert batch["picture"].shape == (100, 3, 64, 64) and batch["light"].shape == (100, 9, 3)
    assert batch["u"].min() >= 0 and batch["u"].max() < 1 and batch["u"].std() > 0.2
    assert torch.equal(data[0, 7]["u"], batch["u"][7])


def test_an_album_has_one_shape(shards: CodeShards) -> None:
    mean = mean_shape(shards)
    torch.testing.assert_close(mean, (shards[0].codes.shape + shards[1].codes.shape) / 2)
    sample = BufferData(shards, mean)[1, 0]
    assert torch.equal(sample["shape"], mean[0])
    assert torch.equal(sample["own_shape"], shards[1].codes.shape[0])
    assert torch.equal(sample["expression"], shards[1].codes.expression[0])
