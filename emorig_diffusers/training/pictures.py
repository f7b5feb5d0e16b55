"""Pictures of prepared photos, for networks that see nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Dataset

from ..data.dataset import DataError
from ..data.shards import CodeShards, Sample
from .samplers import Item

IN_MEMORY = 2**30  # bytes of pictures up to which they are read once


class Pictures(Dataset):
    """Training pictures of several folders of shards, [3, S, S] in [-1, 1].

    Args:
        shards: Prepared photos.
        side: S, pixels; larger pictures are averaged down.

    Raises:
        DataError: The shards' pictures are smaller.
    """

    def __init__(self, shards: Sequence[CodeShards], side: int) -> None:
        self.samples: ConcatDataset[Sample] = ConcatDataset(shards)
        self.side = side
        check_side(shards, side)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        picture = torch.from_numpy(self.samples[index].picture).permute(2, 0, 1)[None] / 127.5 - 1
        return F.interpolate(picture, (self.side, self.side), mode="area")[0]


def check_side(shards: Sequence[CodeShards], side: int) -> None:
    """Raise DataError if the pictures of shards are smaller than `side` pixels."""
    for one in shards:
        there = one.manifest["settings"]["resolution"]
        if there < side:
            raise DataError(f"{one.folder} holds pictures of {there} pixels: prepare it with --resolution {side}.")


class PictureData(Dataset):
    """Pictures of several folders of shards at a resolution, half of them mirrored where `mirror` says so.

    Args:
        shards: Prepared photos.
        resolution: Side S, pixels; larger pictures are averaged down.
        mirror: Off where the transform to the encoder's crop counts.

    Raises:
        DataError: If the shards' pictures are smaller.
    """

    def __init__(self, shards: Sequence[CodeShards], resolution: int, mirror: bool) -> None:
        self.samples: ConcatDataset[Sample] = ConcatDataset(shards)
        self.resolution, self.mirror = resolution, mirror
        check_side(shards, resolution)
        self.kept: dict[int, tuple[np.ndarray, np.ndarray, Tensor]] = {}
        self.keeps = len(self) * 3 * resolution**2 < IN_MEMORY

    def __len__(self) -> int:
        return len(self.samples)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """uint8 [S, S, 3], the transform float32 [3, 3] and the expression [E] of a sample."""
        if index in self.kept:
            return self.kept[index]
        sample, side = self.samples[index], self.resolution
        small = cv2.resize(sample.picture, (side, side), interpolation=cv2.INTER_AREA)
        found = small, sample.transform, sample.codes.expression[0]
        if self.keeps:
            self.kept[index] = found
        return found

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        """`picture` [3, S, S] in [-1, 1], `transform` [3, 3], `expression` [E], `seed`, and `u` [3] in [0, 1)."""
        index, seed = item
        rng = np.random.default_rng(seed)
        picture, transform, expression = self.picture(index)
        if self.mirror and rng.random() < 0.5:
            picture = picture[:, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1) / 127.5 - 1
        u = torch.from_numpy(rng.random(3, np.float32))
        return {"picture": tensor, "transform": torch.from_numpy(transform), "expression": expression, "u": u,
                "seed": torch.tensor(seed)}  # fmt: skip
