"""Windows that are drawn once and kept: interrupted, shared by processes, of other photos, read by workers."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Barrier
from time import sleep

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.training.rig import windows
from emorig_diffusers.training.rig.windows import (
    WindowData,
    draw_window,
    fill_cache,
)
from emorig_diffusers.training.samplers import StepSampler


@pytest.fixture(scope="module")
def shards(prepared: Path) -> CodeShards:
    return CodeShards(prepared)


def test_a_cache_holds_what_is_drawn(pipe: EmoRigPipeline, shards: CodeShards, data: WindowData) -> None:
    drawn, cached = draw_window(pipe, shards[1], np.random.default_rng([0, 1])), data.arrays(1, 77)
    assert drawn.keys() == cached.keys()
    for name, array in drawn.items():
        assert array.dtype == cached[name].dtype and np.array_equal(array, cached[name]), name


def test_without_a_cache_every_look_is_another(pipe: EmoRigPipeline, shards: CodeShards, data: WindowData) -> None:
    fresh = WindowData(pipe, shards, 64)
    cached, first, again = data.arrays(1, 3), fresh.arrays(1, 3), fresh.arrays(1, 3)
    assert np.array_equal(first["photo"], cached["photo"])
    assert np.array_equal(first["returned"], again["returned"])
    assert not np.array_equal(first["returned"], cached["returned"])  # by way of another emotion


def test_drawing_windows_goes_on_where_it_stopped(
    pipe: EmoRigPipeline, shards: CodeShards, data: WindowData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of one photo each; the second is drawn after an interruption."""
    draw, drawn = windows.draw_window, []

    def watch(pipe: EmoRigPipeline, sample: windows.Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if stop and drawn:
            raise KeyboardInterrupt
        drawn.append(sample.key)
        return draw(pipe, sample, rng)

    weights, expected = data.weights().tolist(), [data[index, 9] for index in (0, 1)]
    monkeypatch.setattr(windows, "CACHE_SHARD", 1)
    monkeypatch.setattr(windows, "draw_window", watch)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        fill_cache(pipe, shards, tmp_path, Accelerator())
    assert [f.name for f in tmp_path.iterdir()] == ["00000.safetensors"]
    stop = False
    for _ in range(2):  # the second time there is nothing to do
        fill_cache(pipe, shards, tmp_path, Accelerator())
    assert drawn == ["astronaut", "hopper"]
    parts = WindowData(pipe, shards, 64, tmp_path)
    assert parts.weights().tolist() == weights
    for index in (0, 1):
        sample = parts[index, 9]
        assert all(torch.equal(sample[name], value) for name, value in expected[index].items())


class Process:
    """What `fill_cache` wants of an Accelerator, of one of two processes that are threads here."""

    num_processes, is_local_main_process = 2, False

    def __init__(self, process_index: int, barrier: Barrier) -> None:
        self.process_index, self.wait_for_everyone = process_index, partial(barrier.wait, timeout=300)


def test_processes_share_the_drawing(
    pipe: EmoRigPipeline, shards: CodeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late one of them begins."""
    drawn, barrier = [], Barrier(2)

    def draw(pipe: EmoRigPipeline, sample: windows.Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        drawn.append(sample.key)
        return {"opening": np.zeros(1)}

    def late() -> None:
        sleep(0.3)
        fill_cache(pipe, shards, tmp_path, Process(1, barrier))

    monkeypatch.setattr(windows, "CACHE_SHARD", 1)
    monkeypatch.setattr(windows, "draw_window", draw)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(late)
        fill_cache(pipe, shards, tmp_path, Process(0, barrier))
        other.result()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["00000.safetensors", "00001.safetensors"]
    assert sorted(drawn) == ["astronaut", "hopper"]


def test_a_cache_of_other_photos(pipe: EmoRigPipeline, prepared64: Path, window_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(window_cache, tmp_path, dirs_exist_ok=True)
    with pytest.raises(DataError, match="caches other photos: choose another --cache_dir, or delete it"):
        fill_cache(pipe, CodeShards(prepared64), tmp_path, Accelerator())


def test_workers_load_the_same(data: WindowData) -> None:
    sampler = lambda: StepSampler(np.ones(2), 3)
    alone, shared = (
        list(islice(DataLoader(data, batch_sampler=sampler(), num_workers=n, multiprocessing_context=context), 3))
        for n, context in ((0, None), (2, "fork"))
    )
    for ours, theirs in zip(alone, shared, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
