"""Tensors of many samples that are computed once and kept in files: an interrupted computation goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.dataset import DataError
from ..data.preparation import weight_bytes
from ..data.shards import CodeShards
from ..files.atomic import write_file

ROWS = 256  # samples a file


class Rows:
    """Tensors of samples, by number; files are mapped into memory, so that any number of samples can be kept.

    Args:
        folder: Where `keep_rows` put them.
        count: Samples N.
        size: Samples a file; `None` for ROWS.
    """

    def __init__(self, folder: Path, count: int, size: int | None = None) -> None:
        self.folder, self.count, self.size, self._files = folder, count, size or ROWS, {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Tensors of one sample, by name."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        part, row = divmod(index, self.size)
        if part not in self._files:
            self._files[part] = safe_open(_file(self.folder, part), "pt")
        file = self._files[part]
        return {name: file.get_slice(name)[row : row + 1][0].clone() for name in file.keys()}  # noqa: SIM118


def keep_rows(
    folder: Path, mark: str, count: int, make: Callable[[range], dict[str, Tensor]], accelerator: Accelerator,
    what: str = "rows", size: int | None = None,
) -> Rows:  # fmt: skip
    """Rows of `count` samples, from files where these hold them.

    Processes share the work; files are written whole or not at all.

    Args:
        folder: For the files; those of another mark are replaced.
        mark: Of all that the rows depend on, as `fingerprint` gives it.
        count: Samples N.
        make: Numbers of samples -> tensors [n, ...] by name.
        accelerator: The processes.
        what: The rows' name, for the progress bar.
        size: Samples a file, what an interrupted run makes again at most; `None` for ROWS.

    Raises:
        DataError: The files cannot be written.
    """
    size = size or ROWS
    parts = range(accelerator.process_index, -(-count // size), accelerator.num_processes)
    for part in tqdm(parts, desc=what, unit="file", disable=not accelerator.is_main_process):
        file = _file(folder, part)
        if _mark(file) == mark:
            continue
        rows = make(range(part * size, min((part + 1) * size, count)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(file, save({name: rows[name].cpu().contiguous() for name in rows}, {"fingerprint": mark}))
        except OSError as error:
            raise DataError(f"{file} cannot be written ({error.strerror}): make room there, start again.") from error
    accelerator.wait_for_everyone()
    return Rows(folder, count, size)


def fingerprint(module: nn.Module, shards: Sequence[CodeShards], *others: Any) -> str:
    """sha256 of a network's weights, the bytes of shards, and all else that rows depend on, as text."""
    digest = hashlib.sha256(repr(others).encode())
    digest.update(b"".join(weight_bytes(module)))
    for one in shards:
        digest.update("".join(shard["sha256"] for shard in one.manifest["shards"]).encode())
    return digest.hexdigest()


def _file(folder: Path, part: int) -> Path:
    return folder / f"{part:05d}.safetensors"


def _mark(file: Path) -> str | None:
    """What a file was made from; `None` where there is none, or half of one."""
    try:
        with safe_open(file, "pt") as kept:
            return (kept.metadata() or {}).get("fingerprint")
    except (OSError, SafetensorError):
        return None
