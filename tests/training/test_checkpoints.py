"""checkpoints.py: what is written, what is resumed, and what is refused."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from emorig_diffusers.training.checkpoints import CONTENTS, checkpoints, damage, resume, save_checkpoint

Limit = Callable[[int], AbstractContextManager[None]]
SETTINGS = {"stage": "rig", "unet": {"widths": (1, 2)}}


class Run:
    """A small network with its optimiser."""

    def __init__(self, folder: Path, value: float = 0.0, keep: int = 2) -> None:
        self.args = argparse.Namespace(output_dir=folder, checkpoints_total_limit=keep)
        self.accelerator = Accelerator(cpu=True)
        network = nn.Linear(100, 100)
        nn.init.constant_(network.weight, value)
        self.network, self.optimizer = self.accelerator.prepare(network, torch.optim.AdamW(network.parameters()))

    def save(self, step: int, **settings: object) -> None:
        save_checkpoint(self.accelerator, self.args, step, SETTINGS | settings)

    def resume(self, wanted: object = "latest", **settings: object) -> int:
        self.args.resume_from_checkpoint = wanted and str(wanted)
        return resume(self.accelerator, self.args, SETTINGS | settings)

    @property
    def value(self) -> float:
        return round(self.network.weight[0, 0].item(), 4)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Checkpoints of steps 9, 10 and 11, whose weights are a tenth of that."""
    for step in (9, 10, 11):
        Run(tmp_path, step / 10, keep=3).save(step)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# written


def test_the_oldest_checkpoints_go(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert checkpoints(tmp_path) == checkpoints(tmp_path / "nothing") == []
    for step in (8, 9, 10):
        run.save(step)
    assert [f.name for f in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert {f.name for f in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}
    assert json.loads((tmp_path / "checkpoint-9" / "settings.json").read_text())["unet"] == {"widths": [1, 2]}


def test_other_names_are_no_checkpoints(saved: Path) -> None:
    for name in ("checkpoint-final", "checkpoint-", "checkpoint-12-old", "my-checkpoint-13", "checkpoint-1.5"):
        (saved / name).mkdir()
    (saved / "checkpoint-99").touch()
    assert [f.name for f in checkpoints(saved)] == ["checkpoint-9", "checkpoint-10", "checkpoint-11"]
    run = Run(saved)
    assert run.resume() == 11
    run.save(12)
    assert [f.name for f in checkpoints(saved)] == ["checkpoint-11", "checkpoint-12"]
    assert (saved / "checkpoint-final").is_dir() and (saved / "checkpoint-99").is_file()


@pytest.mark.parametrize("room", [20_000, 60_000])
def test_a_full_disk(full_disk: Limit, tmp_path: Path, room: int) -> None:
    """With room for nothing (network 40 kB), and for the network but not for its optimiser (80 kB)."""
    run = Run(tmp_path)
    run.network(torch.ones(1, 100)).sum().backward()
    run.optimizer.step()
    told = r"checkpoint-3 cannot be written \(.+\): make room and resume; kept: none\.$"
    with full_disk(room), pytest.raises(SystemExit, match=told) as stop:
        run.save(3)
    assert "\n" not in str(stop.value) and not list(tmp_path.iterdir())
    run.save(3)
    before = contents(tmp_path)
    with full_disk(room), pytest.raises(SystemExit, match=r"checkpoint-6 cannot be written .* kept: checkpoint-3\.$"):
        run.save(6)
    assert contents(tmp_path) == before and [f.name for f in tmp_path.iterdir()] == ["checkpoint-3"]


def test_why_a_checkpoint_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)

    def write(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.accelerator, "save_state", write)
    with pytest.raises(SystemExit, match=r"\(\[Errno 28\] No space left on device\): make room and resume"):
        run.save(3)
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_checkpoint_left_is_no_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(3)
    (tmp_path / ".checkpoint-6").mkdir()
    (tmp_path / ".checkpoint-6" / "random_states_7.pkl").write_bytes(b"half")
    assert run.resume() == 3
    run.save(6)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-6"]
    assert not (tmp_path / "checkpoint-6" / "random_states_7.pkl").exists()
    assert run.resume() == 6


# resumed


@pytest.mark.parametrize("wanted", ["{0}/checkpoint-9", "checkpoint-9", "latest"])
def test_resuming(saved: Path, wanted: str) -> None:
    """By path, by the name that diffusers' scripts take, and the latest."""
    run, wanted = Run(saved), wanted.format(saved)
    if wanted != "latest":
        with pytest.raises(SystemExit, match="holds newer checkpoints than checkpoint-9: move them away first"):
            run.resume(wanted)  # they would be taken for its own
        for step in (10, 11):
            shutil.rmtree(saved / f"checkpoint-{step}")
    assert run.resume(wanted) == (11 if wanted == "latest" else 9)
    assert run.value == (1.1 if wanted == "latest" else 0.9)


def test_a_renamed_checkpoint_knows_its_step(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    best = (saved / "checkpoint-10").rename(tmp_path_factory.mktemp("elsewhere") / "best")
    run = Run(saved / "new")
    assert run.resume(best) == 10 and run.value == 1.0
    (best / CONTENTS).unlink()  # as an earlier version wrote them
    with pytest.raises(SystemExit, match=r"best does not tell its step: rename it to checkpoint-<step>\."):
        run.resume(best)


def test_a_new_folder_starts_a_new_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".checkpoint-5").mkdir()  # was not finished
    (tmp_path / "checkpoint-final").mkdir()  # is of another program
    run = Run(tmp_path, 0.5)
    assert run.resume(None) == 0 and capsys.readouterr().out == ""
    assert run.resume("latest") == 0 and run.value == 0.5
    assert capsys.readouterr().out == f"There is no checkpoint in {tmp_path}: a new run starts.\n"


def test_checkpoints_that_are_not_there(saved: Path) -> None:
    known = "checkpoint-9, checkpoint-10, checkpoint-11"
    with pytest.raises(SystemExit, match=rf"There is no checkpoint .*nothing: name one of {known}, or give latest\.$"):
        Run(saved).resume(saved / "nothing")
    with pytest.raises(SystemExit, match=r"There is no checkpoint nothing: name one or give latest\.$"):
        Run(saved / "new").resume("nothing")


def test_a_checkpoint_of_another_preset_is_not_resumed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.save(3, resolution=64)
    for wanted in ("latest", tmp_path / "checkpoint-3"):
        with pytest.raises(SystemExit, match=r"checkpoint-3 was trained with another stage, unet: resume it with its"):
            run.resume(wanted, resolution=64, stage="album", unet={"widths": (1, 3)})
        with pytest.raises(SystemExit, match="trained with another resolution: "):
            run.resume(wanted)
        assert run.resume(wanted, resolution=64) == 3


def test_a_new_run_does_not_overwrite_an_earlier_one(saved: Path) -> None:
    before = contents(saved)
    with pytest.raises(SystemExit, match="holds checkpoints of an earlier run: continue it with --resume_from_check"):
        Run(saved).resume(None)
    assert contents(saved) == before


def test_networks_that_do_not_fit(saved: Path) -> None:
    """Equal settings, but the code has changed."""
    run = Run(saved)
    accelerator = Accelerator(cpu=True)
    accelerator.prepare(nn.Linear(5, 5))
    with pytest.raises(SystemExit, match=r"checkpoint-11 cannot be loaded \(.+\): resume it with the arguments it was"):
        resume(accelerator, argparse.Namespace(output_dir=saved, resume_from_checkpoint="latest"), SETTINGS)
    assert run.resume() == 11


# damaged


def flip_a_bit(file: Path) -> None:
    """Somewhere in its middle; its length stays."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "model.safetensors has 20,000 of 40,": lambda folder: _cut(folder / "model.safetensors", 20_000),
    "model.safetensors has 0 of 40,": lambda folder: _cut(folder / "model.safetensors", 0),
    "optimizer.bin has ": lambda folder: _cut(folder / "optimizer.bin", 100),
    "random_states_0.pkl: No such file": lambda folder: (folder / "random_states_0.pkl").unlink(),
    "model.safetensors has changed": lambda folder: flip_a_bit(folder / "model.safetensors"),
    "settings.json: No such file": lambda folder: (folder / "settings.json").unlink(),
    "settings.json or contents.json is cut off": lambda folder: _cut(folder / "settings.json", 7),
    "contents.json is cut off": lambda folder: _cut(folder / "contents.json", 30),
    "settings.json: No such file or directory": lambda folder: [file.unlink() for file in folder.iterdir()],
}


def _cut(file: Path, size: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(size)


@pytest.mark.parametrize("reason", DAMAGES)
def test_damage_is_told(saved: Path, reason: str) -> None:
    folder = saved / "checkpoint-10"
    assert damage(folder) is None
    DAMAGES[reason](folder)
    assert reason in damage(folder)
    shutil.rmtree(saved / "checkpoint-11")
    with pytest.raises(SystemExit, match=r"checkpoint-10 cannot be resumed \(.*\): name another checkpoint, or"):
        Run(saved).resume(folder)


def test_an_older_one_is_resumed_instead(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both newest are damaged; they are kept under names that do not count."""
    for step in (10, 11):
        _cut(saved / f"checkpoint-{step}" / "optimizer.bin", 0)
    run = Run(saved, keep=1)
    assert run.resume() == 9 and run.value == 0.9
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and all("the run goes on from checkpoint-9" in line for line in told)
    assert "checkpoint-11 is damaged (optimizer.bin has 0 of " in told[0] and "damaged-checkpoint-11" in told[0]
    run.save(10)
    assert {f.name for f in saved.iterdir()} == {"checkpoint-10", "damaged-checkpoint-10", "damaged-checkpoint-11"}
    assert run.resume() == 10


def test_nothing_is_touched_where_none_is_whole(saved: Path) -> None:
    for step in (9, 10, 11):
        (saved / f"checkpoint-{step}" / "model.safetensors").unlink()
    before = contents(saved)
    told = r"checkpoint-11 is damaged \(model.safetensors: No such file or directory\) and no older checkpoint is whole"
    with pytest.raises(SystemExit, match=told):
        Run(saved).resume()
    assert contents(saved) == before


def test_an_older_one_of_another_preset_is_not_resumed(saved: Path) -> None:
    _cut(saved / "checkpoint-11" / "model.safetensors", 0)
    before = contents(saved)
    with pytest.raises(SystemExit, match="checkpoint-10 was trained with another stage"):
        Run(saved).resume(stage="album")
    assert contents(saved) == before


def test_checkpoints_of_an_earlier_version(saved: Path) -> None:
    """Nothing tells whether they are whole."""
    (saved / "checkpoint-11" / CONTENTS).unlink()
    assert Run(saved).resume() == 11
    _cut(saved / "checkpoint-11" / "model.safetensors", 1000)
    with pytest.raises(SystemExit, match=r"checkpoint-11 cannot be loaded \("):
        Run(saved).resume()
