"""Rows that are computed once: found again, made anew where something changed, shared, and a full disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.training import rows
from emorig_diffusers.training.rows import Rows, fingerprint, keep_rows

COUNT = 10


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROWS", 4)


def process(index: int = 0, count: int = 1) -> Any:
    return SimpleNamespace(
        process_index=index, num_processes=count, is_main_process=index == 0, wait_for_everyone=lambda: None
    )


class Squares:
    """Squares of numbers; counts what it is asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.asked: list[int] = []
        self.factor = factor

    def __call__(self, numbers: range) -> dict[str, Tensor]:
        self.asked += numbers
        values = self.factor * torch.tensor(numbers).float() ** 2
        return {"square": values[:, None], "number": torch.tensor(numbers)}


def values(kept: Rows) -> list[float]:
    return [float(kept[i]["square"]) for i in range(len(kept))]


def test_rows_are_made_once(tmp_path: Path) -> None:
    make = Squares()
    for _ in range(2):
        kept = keep_rows(tmp_path / "rows", "a", COUNT, make, process())
        assert values(kept) == [i**2 for i in range(COUNT)] and int(kept[9]["number"]) == 9
    assert make.asked == list(range(COUNT))
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            kept[index]


def test_what_changed_or_is_cut_off_is_made_anew(tmp_path: Path) -> None:
    keep_rows(tmp_path, "a", COUNT, Squares(), process())
    cut = tmp_path / "00001.safetensors"
    cut.write_bytes(cut.read_bytes()[:-8])
    again = Squares()
    assert values(keep_rows(tmp_path, "a", COUNT, again, process())) == [i**2 for i in range(COUNT)]
    assert again.asked == [4, 5, 6, 7]
    twice = Squares(2)
    assert values(keep_rows(tmp_path, "b", COUNT, twice, process())) == [2 * i**2 for i in range(COUNT)]
    assert twice.asked == list(range(COUNT))


def test_processes_share_the_files(tmp_path: Path) -> None:
    makers = [Squares(), Squares()]
    for index in (1, 0):
        kept = keep_rows(tmp_path, "a", COUNT, makers[index], process(index, 2))
    assert [maker.asked for maker in makers] == [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7]]
    assert values(kept) == [i**2 for i in range(COUNT)]


def test_a_full_disk(full_disk: Callable[[int], AbstractContextManager[None]], tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(DataError, match="00000.safetensors cannot be written .*make room there"):
        keep_rows(tmp_path, "a", COUNT, Squares(), process())
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_follows_all_that_counts(prepared: Path, prepared64: Path) -> None:
    shards, others = [CodeShards(prepared)], [CodeShards(prepared64)]
    layer = nn.Linear(2, 2)
    marks = [fingerprint(layer, shards), fingerprint(layer, others), fingerprint(layer, shards, True)]
    assert fingerprint(layer, shards) == marks[0]
    with torch.no_grad():
        layer.bias[0] += 1
    assert len({*marks, fingerprint(layer, shards)}) == 4
