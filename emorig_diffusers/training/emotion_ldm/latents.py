"""What the latent-diffusion model learns from: latents of prepared photos, with the emotion that each shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import VQModel
from torch import Tensor
from torch.utils.data import Dataset

from ...data.dataset import DataError
from ...data.shards import CodeShards
from ..pictures import Pictures
from ..rows import Rows, fingerprint, keep_rows
from ..samplers import Item

BATCH = 32  # pictures that the autoencoder sees at a time


def read_latents(
    vqvae: VQModel, shards: Sequence[CodeShards], folder: Path, accelerator: Accelerator, mirror: bool = False
) -> Rows:
    """Latents of the photos, not quantised: rows with `latents` [V, C, h, w], of the picture and with `mirror` also of
    its mirror image.

    Args:
        vqvae: The autoencoder, on the device where it computes.
        shards: Prepared photos.
        folder: Where the latents are kept.
        accelerator: The processes.
        mirror: Whether mirror images are wanted too.

    Raises:
        DataError: The shards' pictures are too small, or the files cannot be written.
    """
    pictures = Pictures(shards, int(vqvae.config["sample_size"]))

    @torch.no_grad()
    def encode(numbers: range) -> dict[str, Tensor]:
        parts = []
        for some in torch.tensor(numbers).split(BATCH):
            batch = torch.stack([pictures[i] for i in some.tolist()]).to(accelerator.device)
            views = torch.cat([batch, batch.flip(3)]) if mirror else batch
            parts.append(torch.stack(vqvae.encode(views).latents.float().cpu().chunk(2 if mirror else 1), 1))
        return {"latents": torch.cat(parts)}

    return keep_rows(folder, fingerprint(vqvae, shards, mirror), len(pictures), encode, accelerator, "latents")


def emotion_rows(shards: Sequence[CodeShards], names: Sequence[str]) -> Tensor:
    """Row of the table of emotions for each photo [N]; the null row, the last one, for a photo without a label.

    Args:
        shards: Prepared photos.
        names: Emotions, in the order of the rows.

    Raises:
        DataError: No photo has a label.
    """
    labels = [label for one in shards for label in one.labels]
    if not any(label in names for label in labels):
        raise DataError(
            "No photo has an emotion label: prepare a labelled data set (AffectNet), or paint emotions on your photos "
            "by train/paint_emotions.py."
        )
    return source_rows(names, labels)


def source_rows(names: Sequence[str], labels: Sequence[str | None]) -> Tensor:
    """Row [N] of the table of emotions for each photo; the null row, the last one, for a photo without a label."""
    row: dict[str | None, int] = {name: place for place, name in enumerate(names)}
    return torch.tensor([row.get(label, len(names)) for label in labels])


class LatentData(Dataset):
    """Latents with their emotions.

    Args:
        latents: Of `read_latents`.
        emotions: Of `emotion_rows`.
    """

    def __init__(self, latents: Rows, emotions: Tensor) -> None:
        self.latents, self.emotions = latents, emotions

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        """`latent` [C, h, w], the mirror image's half the time where there is one; `emotion`, a row of the table;
        `u` [2] in [0, 1); `seed`."""
        index, seed = item
        rng = np.random.default_rng(seed)
        u, views = rng.random(2, np.float32), self.latents[index]["latents"]
        return {"latent": views[int(rng.integers(len(views)))], "emotion": self.emotions[index],
                "u": torch.from_numpy(u), "seed": torch.tensor(seed)}  # fmt: skip


def read_data(
    vqvae: VQModel, shards: Sequence[CodeShards], names: Sequence[str], folder: Path, accelerator: Accelerator,
    mirror: bool = False,
) -> LatentData:  # fmt: skip
    """Latents of prepared photos with their emotions; arguments and errors as for `read_latents` and `emotion_rows`."""
    emotions = emotion_rows(shards, names)  # first, as it costs nothing to find out that there are none
    return LatentData(read_latents(vqvae, shards, folder, accelerator, mirror), emotions)
