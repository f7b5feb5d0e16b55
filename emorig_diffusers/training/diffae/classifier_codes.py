"""Semantic codes of prepared photos with their labels: computed once, kept in a file, split by key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...data.preparation import weight_bytes
from ...data.shards import CodeShards
from ...face.emotions import EMOTIONS
from ...files.atomic import write_file
from ...models.diffae import SemanticEncoder
from ..pictures import Pictures

BATCH = 32  # photos that the encoder sees at a time


@dataclass
class LabelledCodes:
    """Codes of photos and what the photos show.

    Attributes:
        codes: [N, 2, C], of the photo and of its mirror image.
        targets: 1 where a class is shown, else 0 [N, K].
        names: Of the K classes.
        held_out: Which photos are only for figures, bool [N].
        places: Number of each photo among the shards' [N].
    """

    codes: Tensor
    targets: Tensor
    names: tuple[str, ...]
    held_out: Tensor
    places: Tensor

    def part(self, held_out: bool) -> tuple[Tensor, Tensor]:
        """Codes [n, 2, C] and targets [n, K] of one side of the split."""
        chosen = self.held_out == held_out
        return self.codes[chosen], self.targets[chosen]


def fingerprint(encoder: SemanticEncoder, shards: Sequence[CodeShards]) -> str:
    """sha256 of all that the codes depend on: the encoder's weights and side, and the shards' bytes."""
    digest = hashlib.sha256(str(encoder.config.sample_size).encode())
    digest.update(b"".join(weight_bytes(encoder)))
    for one in shards:
        digest.update("".join(shard["sha256"] for shard in one.manifest["shards"]).encode())
    return digest.hexdigest()


def read_codes(
    encoder: SemanticEncoder, shards: Sequence[CodeShards], file: Path, accelerator: Accelerator, workers: int = 0
) -> Tensor:
    """Codes [N, 2, C] of the photos and their mirror images, from `file` where it holds these.

    Processes share the work; the first writes the file, whole or not at all.

    Raises:
        DataError: The shards' pictures are too small, or the file cannot be written.
    """
    mark = fingerprint(encoder, shards)
    if (kept := _kept(file, mark)) is not None:
        return kept
    pictures = Pictures(shards, encoder.config.sample_size)
    codes = _encode(encoder, pictures, accelerator, workers)
    if accelerator.is_main_process:
        try:
            write_file(file, save({"codes": codes}, {"fingerprint": mark}))
        except OSError as error:
            raise DataError(f"{file} cannot be written ({error.strerror}): make room there, start again.") from error
    accelerator.wait_for_everyone()
    return codes


def _kept(file: Path, mark: str) -> Tensor | None:
    try:
        with safe_open(file, "pt") as kept:
            same = (kept.metadata() or {}).get("fingerprint") == mark
            return kept.get_tensor("codes").clone() if same else None  # aligned, as when they were computed
    except (OSError, SafetensorError):  # not there, or half of it
        return None


@torch.no_grad()
def _encode(encoder: SemanticEncoder, pictures: Pictures, accelerator: Accelerator, workers: int) -> Tensor:
    """Every process fills its rows, and all are added up."""
    device, mine = accelerator.device, range(accelerator.process_index, len(pictures), accelerator.num_processes)
    encoder = encoder.to(device).eval()
    codes = torch.zeros(len(pictures), 2, encoder.config.cond_dim, device=device)
    batches = DataLoader(Subset(pictures, mine), BATCH, num_workers=workers)
    places = torch.tensor(mine, device=device).split(BATCH)
    shown = not accelerator.is_main_process
    for rows, batch in zip(places, tqdm(batches, desc="codes", unit="batch", disable=shown)):
        batch = batch.to(device, encoder.dtype)
        codes[rows] = torch.stack([encoder(batch), encoder(batch.flip(-1))], 1).float()
    summed: Any = accelerator.reduce(codes, "sum")
    return summed.cpu()


def label_codes(
    codes: Tensor, shards: Sequence[CodeShards], attributes: bool, share: float, person: str | None = None
) -> LabelledCodes:
    """Put labels to codes [N, 2, C], leave out what has none, and split.

    Args:
        shards: Those of the codes.
        attributes: Take the shards' ±1 attributes, instead of the emotions that occur.
        share: Of the photos held out; keys decide, so a photo and its edits under the same key stay together.
        person: Regular expression whose first group is what of the key decides instead, where it matches.

    Raises:
        DataError: There are no such labels, or one side of the split is empty.
    """
    names, targets = _attributes(shards) if attributes else _emotions(shards)
    keys = [key for one in shards for key in one.keys]
    held_out = torch.tensor([_drawn(_owner(key, person)) < share for key in keys])
    known = torch.tensor([row is not None for row in targets])
    rows = torch.tensor([row for row in targets if row is not None], dtype=torch.float32)
    result = LabelledCodes(codes[known], rows, names, held_out[known], known.nonzero()[:, 0])
    if result.held_out.all() or not result.held_out.any():
        raise DataError(f"{len(rows)} labelled photos cannot be split: give more, or another --held_out_share.")
    return result


def _emotions(shards: Sequence[CodeShards]) -> tuple[tuple[str, ...], list[list[float] | None]]:
    """Names of the emotions that occur, and a one-hot row for each photo that has one."""
    labels = [label for one in shards for label in one.labels]
    names = tuple(name for name in EMOTIONS if name in labels)
    if len(names) < 2:
        raise DataError("These shards show fewer than two emotions: prepare labelled photos, or paint emotions first.")
    hot = {name: [float(name == other) for other in names] for name in names}
    return names, [hot.get(label or "") for label in labels]


def _attributes(shards: Sequence[CodeShards]) -> tuple[tuple[str, ...], list[list[float] | None]]:
    """Names of the attributes, and 1 for +1 of each photo that has them."""
    names = {tuple(one.manifest["settings"].get("attribute_names", ())) for one in shards}
    if len(names) != 1 or not (chosen := names.pop()):
        raise DataError("These shards have no attributes, or not the same ones: prepare photos with a ±1 list.")
    values = [one.info(i).get("attributes") for one in shards for i in range(len(one))]
    return chosen, [None if row is None else [float(value > 0) for value in row] for row in values]


def _owner(key: str, person: str | None) -> str:
    found = re.search(person, key) if person else None
    return found.group(1) if found else key


def _drawn(key: str) -> float:
    """A number in [0, 1) that follows from a key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def confusion(predicted: Tensor, shown: Tensor, classes: int) -> np.ndarray:
    """Counts [K, K]: rows what is shown, columns what is predicted; both are numbers of classes [N]."""
    counts = torch.bincount(shown * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes).numpy()
