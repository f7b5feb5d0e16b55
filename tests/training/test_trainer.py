"""What every training script relies on, tried on two parameters: killed, resumed, two processes, a full disk."""

from __future__ import annotations

import csv
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
import toy_trainer
from PIL import Image
from processes import PATIENCE, start_script, start_two
from safetensors.torch import load_file

from emorig_diffusers.training.checkpoints import checkpoints

Train = Callable[..., None]
Limit = Callable[[int], AbstractContextManager[None]]
STEPS = {"max_train_steps": 7, "checkpointing_steps": 2, "logging_steps": 1, "train_batch_size": 4, "noise": 0.1,
         "learning_rate": 0.1, "ema_decay": 0.5, "validation_steps": 4}  # fmt: skip


def arguments(out: Path, **changes: object) -> list[str]:
    return [f"--{name}={value}" for name, value in {"output_dir": out, **STEPS, **changes}.items()]


@pytest.fixture(scope="session")
def train(run_script: Callable[..., None]) -> Train:
    """A run in this process."""
    return lambda out, *more, **changes: run_script(toy_trainer, *arguments(out, **changes), *more)


@pytest.fixture(scope="module")
def run(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven steps without interruption."""
    out = tmp_path_factory.mktemp("run")
    train(out)
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def losses(folder: Path) -> list[dict[str, str]]:
    """The log without the speed."""
    with (folder / "losses.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def trained(folder: Path) -> dict[str, bytes]:
    """The bytes of the newest checkpoint's networks, optimiser and average, and of the result."""
    files = [checkpoints(folder)[-1] / n for n in ("model.safetensors", "optimizer.bin", "average.safetensors")]
    return {file.name: file.read_bytes() for file in [*files, folder / "line" / "line.safetensors"]}


def test_what_a_run_leaves(run: Path) -> None:
    """The last two checkpoints of four, the sheet of step 4 and of the end, the log and the result."""
    assert names(run) == [
        "checkpoint-6", "checkpoint-7", "line", "losses.csv", "losses.png", "slope-4.png", "slope.png",
    ]  # fmt: skip
    assert [row["step"] for row in losses(run)] == list("1234567")
    line, average = load_file(run / "line" / "line.safetensors"), load_file(run / "checkpoint-7/average.safetensors")
    assert torch.equal(line["weight"], average["00000"]) and torch.equal(line["bias"], average["00001"])
    with Image.open(run / "slope.png") as picture:
        assert picture.getpixel((0, 0)) == round(20 * float(line["weight"].clamp(0, 10)))


def test_a_line_is_found(train: Train, tmp_path: Path) -> None:
    train(tmp_path, max_train_steps=150, checkpointing_steps=1000, validation_steps=1000, logging_steps=50, noise=0,
          lr_scheduler="cosine")  # fmt: skip
    line = load_file(tmp_path / "line" / "line.safetensors")
    assert float(line["weight"]) == pytest.approx(toy_trainer.SLOPE, abs=0.1)
    assert float(line["bias"]) == pytest.approx(toy_trainer.OFFSET, abs=0.05)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-150"]


# resumed


def test_the_same_command_starts_and_goes_on(
    train: Train, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, with random numbers of torch's own; a cluster that preempts always gives `latest`."""
    out = tmp_path / "new" / "folder"
    for steps in (1, 3, 7):
        train(out, "--resume_from_checkpoint=latest", max_train_steps=steps)
        assert ("a new run starts" in capsys.readouterr().out) == (steps == 1)
    assert trained(out) == trained(run)
    assert losses(out) == losses(run)
    assert names(out) == names(run)


def test_without_it_an_earlier_run_is_not_touched(train: Train, run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    with pytest.raises(SystemExit, match="holds checkpoints of an earlier run: continue it with --resume_from_checkpo"):
        train(run)
    with pytest.raises(SystemExit, match=r"checkpoint-7 was trained with another shrink: "):
        train(run, "--resume_from_checkpoint=latest", shrink=2)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_a_damaged_checkpoint_costs_only_its_own_steps(
    train: Train, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest one is cut off, and there is a folder of another name: the older one goes on to the same end."""
    train(tmp_path, max_train_steps=6)
    (tmp_path / "checkpoint-final").mkdir()
    cut = tmp_path / "checkpoint-6" / "optimizer.bin"
    cut.write_bytes(cut.read_bytes()[:-100])
    capsys.readouterr()
    train(tmp_path, "--resume_from_checkpoint=latest")
    told = capsys.readouterr().out
    assert "checkpoint-6 is damaged (optimizer.bin has " in told
    assert "the run goes on from checkpoint-4; it is kept as damaged-checkpoint-6." in told
    assert trained(tmp_path) == trained(run) and losses(tmp_path) == losses(run)
    assert names(tmp_path) == sorted([*names(run), "checkpoint-final", "damaged-checkpoint-6"])


@pytest.mark.parametrize("limit", [1, 3])
def test_the_oldest_checkpoints_go(train: Train, tmp_path: Path, limit: int) -> None:
    train(tmp_path, checkpoints_total_limit=limit)
    assert [p.name for p in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (2, 4, 6, 7)[-limit:]]


def test_a_run_without_an_average(train: Train, tmp_path: Path) -> None:
    train(tmp_path, "--no-use_ema", max_train_steps=2)
    last, line = (load_file(tmp_path / name) for name in ("checkpoint-2/model.safetensors", "line/line.safetensors"))
    assert all(torch.equal(last[name], line[name]) for name in line)
    with pytest.raises(SystemExit, match=r"was trained without an average of the weights: resume it with --no-use_ema"):
        train(tmp_path, "--resume_from_checkpoint=latest")
    train(tmp_path, "--no-use_ema", "--resume_from_checkpoint=latest", max_train_steps=3)
    assert checkpoints(tmp_path)[-1].name == "checkpoint-3"


# killed


def test_a_killed_run_goes_on(train: Train, tmp_path: Path) -> None:
    """SIGKILL at any moment; then the run is the same as one that was left alone."""
    out = tmp_path / "killed"
    steps = {"max_train_steps": 100_000, "checkpointing_steps": 1, "validation_steps": 100_000}
    script, end = start_script(tmp_path, toy_trainer.__file__, *arguments(out, **steps)), time.monotonic() + PATIENCE
    while not (out / "checkpoint-9").exists() and script.process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)
    script.kill()
    kept = checkpoints(out)
    assert script.process.exitcode == -signal.SIGKILL and kept, script.output
    last = int(kept[-1].name.split("-")[1]) + 3
    train(out, "--resume_from_checkpoint=latest", **steps | {"max_train_steps": last})
    train(tmp_path / "alone", **steps | {"max_train_steps": last, "checkpointing_steps": last})
    assert trained(out) == trained(tmp_path / "alone")
    assert losses(out) == losses(tmp_path / "alone")
    newest = [f"checkpoint-{step}" for step in (last - 1, last)]
    assert names(out) == sorted([*newest, "line", "losses.csv", "losses.png", "slope.png"])


# several processes


def test_two_processes_train_as_one(train: Train, tmp_path: Path) -> None:
    """Half of the batch each, and one process more than at first when it goes on."""
    alone, two = tmp_path / "alone", tmp_path / "two"
    train(alone, noise=0, gradient_accumulation_steps=1)
    train(two, noise=0, max_train_steps=3)
    scripts = start_two(tmp_path, toy_trainer.__file__, "--resume_from_checkpoint=latest",
                        *arguments(two, noise=0, train_batch_size=1, gradient_accumulation_steps=2))  # fmt: skip
    assert [script.wait() for script in scripts] == [0, 0], [script.output for script in scripts]
    assert "M parameters" in scripts[0].output and "M parameters" not in scripts[1].output
    assert names(two) == names(alone)
    for ours, theirs in zip(losses(two), losses(alone), strict=True):
        assert [float(v) for v in ours.values()] == pytest.approx([float(v) for v in theirs.values()], rel=1e-4)
    ours, theirs = (load_file(folder / "line" / "line.safetensors") for folder in (two, alone))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_two_processes_end_with_one_sentence(train: Train, tmp_path: Path) -> None:
    """Both see the damage, and that nothing older is whole; nobody waits for the other."""
    out = tmp_path / "out"
    train(out, max_train_steps=2)
    (out / "checkpoint-2" / "model.safetensors").unlink()
    scripts = start_two(tmp_path, toy_trainer.__file__, *arguments(out), "--resume_from_checkpoint=latest")
    assert [script.wait() for script in scripts] == [1, 1]
    for script in scripts:
        assert "checkpoint-2 is damaged (model.safetensors: No such file or directory) and no older" in script.output
        assert "Traceback" not in script.output


# full disks


@pytest.mark.parametrize("room", [0, 1500, 8000], ids=["log", "average", "random state"])
def test_a_full_disk_costs_nothing(train: Train, run: Path, full_disk: Limit, tmp_path: Path, room: int) -> None:
    """With room for half a row of the log, not for the average, not for the random numbers' state."""
    train(tmp_path, max_train_steps=4)
    kept = [file for folder in checkpoints(tmp_path) for file in folder.iterdir()]
    before, size = {file: file.read_bytes() for file in kept}, (tmp_path / "losses.csv").stat().st_size
    with full_disk(room or size + 10), pytest.raises(SystemExit, match="make room") as stop:
        train(tmp_path, "--resume_from_checkpoint=latest")
    assert "\n" not in str(stop.value)
    assert {file: file.read_bytes() for file in before} == before
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    train(tmp_path, "--resume_from_checkpoint=latest")
    assert trained(tmp_path) == trained(run) and losses(tmp_path) == losses(run)


# what goes wrong while it learns


def test_a_loss_that_is_no_number(train: Train, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="The loss is no number any more at step 1: resume the last checkpoint with a"):
        train(tmp_path, shrink=float("inf"))


def test_minutes_end_a_run(train: Train, tmp_path: Path) -> None:
    train(tmp_path, max_train_steps=100_000, checkpointing_steps=100_000, max_train_minutes=0.5 / 60, pause=0.05)
    assert 1 <= len(losses(tmp_path)) <= 11 and (tmp_path / "line").is_dir()
