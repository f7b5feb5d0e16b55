"""Pictures with their codes, for networks that are told by buffers."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...data.shards import CodeShards
from ..samplers import Item


class BufferData(Dataset):
    """Pictures with codes, for networks that are told by buffers; the buffers are drawn in the training step.

    Args:
        shards: Prepared photos.
        shape: Shape code [1, S] that replaces every photo's own (the album's mean).
    """

    def __init__(self, shards: CodeShards, shape: Tensor | None = None) -> None:
        self.shards, self.shape = shards, shape

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        """`picture` [3, S, S] in [-1, 1], the codes, `own_shape` [S] of the photo, `transform` [3, 3], `seed` and `u`
        in [0, 1)."""
        index, seed = item
        sample = self.shards[index]
        codes = sample.codes if self.shape is None else sample.codes.with_(shape=self.shape)
        picture = torch.from_numpy(sample.picture).permute(2, 0, 1) / 127.5 - 1
        u = np.random.default_rng(seed).random(2, np.float32)
        return {"picture": picture, "transform": torch.from_numpy(sample.transform), "u": torch.from_numpy(u),
                "seed": torch.tensor(seed), "own_shape": sample.codes.shape[0]
                } | {k: v[0] for k, v in vars(codes).items()}  # fmt: skip


def mean_shape(shards: CodeShards) -> Tensor:
    """Mean β [1, S] over all photos of an album."""
    return torch.cat([shards[i].codes.shape for i in range(len(shards))]).mean(0, keepdim=True)


def describe(shards: CodeShards) -> str:
    """One line about the data, for the log."""
    labels = Counter(label for label in shards.labels if label)
    return json.dumps({"photos": len(shards)} | dict(labels))
