"""loop.py: presets, progress, checkpoints that survive a full disk, and the log."""

from __future__ import annotations

import argparse
import json
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from loop import (
    Log,
    Progress,
    add_loop_arguments,
    checkpoints,
    parse_with_preset,
    require,
    resume,
    save_checkpoint,
)
from PIL import Image
from torch import nn

Parse = Callable[..., argparse.Namespace]


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """A command line of a script with one argument and one section of its own; `output_dir` is `tmp_path`."""

    def parse(*arguments: object) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_loop_arguments(parser)
        parser.add_argument("--unet", type=dict)
        argv = [str(a) for a in ("--output_dir", tmp_path, *arguments)]
        args = parse_with_preset(parser, argv)
        require(parser, args, "train_data_dir")
        return args

    return parse


def refused(capsys: pytest.CaptureFixture[str], parse: Parse, *arguments: object) -> str:
    """What a refused command line is told."""
    with pytest.raises(SystemExit) as stop:
        parse(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# presets and arguments


def test_a_preset_sets_defaults_and_the_command_line_wins(parse: Parse, tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("learning_rate: 1e-3\ntrain_data_dir: shards\nuse_ema: false\nunet: {sample_size: 64}\n")
    args = parse("--config", preset, "--ema_decay", 0.5)
    assert (args.learning_rate, args.train_data_dir, args.use_ema) == (1e-3, Path("shards"), False)
    assert args.unet == {"sample_size": 64} and args.ema_decay == 0.5 and args.train_batch_size == 16
    args = parse("--config", preset, "--learning_rate", 0.5, "--use_ema")
    assert (args.learning_rate, args.use_ema) == (0.5, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\nlerning_rate: 1\nlearning-rate: 1\n", "sets unknown arguments: learning-rate, lerning_rate."),
        ("unet: [1, 2\n", "preset.yaml cannot be read: while parsing a flow sequence."),
        ("- seed\n- 1\n", "is no preset: it must hold lines such as `learning_rate: 1.0e-4`."),
        ("", "is no preset"),
        ("max_train_steps: many\n", "preset.yaml: max_train_steps must be a whole number, not 'many'."),
        ("max_train_steps: 64.0\n", "preset.yaml: max_train_steps must be a whole number, not 64.0."),
        ("lr_scheduler: cosin\n", "preset.yaml: lr_scheduler must be one of constant, cosine, linear, not 'cosin'."),
        (None, "preset.yaml cannot be read: [Errno 2] No such file or directory"),
    ],
    ids=["unknown", "no YAML", "no mapping", "empty", "wrong type", "no whole number", "wrong choice", "missing"],
)
def test_presets_that_are_refused(
    parse: Parse, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, sentence: str
) -> None:
    preset = tmp_path / "preset.yaml"
    if text is not None:
        preset.write_text(text)
    assert sentence in refused(capsys, parse, "--config", preset, "--train_data_dir", "shards")


def test_arguments_that_are_refused(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--train_data_dir is missing." in refused(capsys, parse)
    for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "checkpointing_steps",
                 "checkpoints_total_limit", "logging_steps", "validation_steps"):  # fmt: skip
        told = refused(capsys, parse, "--train_data_dir", "shards", f"--{name}", 0)
        assert f"--{name} must be at least 1." in told


# progress


def progress(parse: Parse, *arguments: object) -> Progress:
    return Progress(parse("--train_data_dir", "a", "--max_train_steps", 1000, "--learning_rate", 0.1, *arguments))


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("constant", lambda share: 1.0),
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: 0.5 + 0.5 * math.cos(math.pi * share)),
    ],
    ids=["constant", "linear", "cosine"],
)
def test_learning_rates(parse: Parse, schedule: str, at: Callable[[float], float]) -> None:
    plain = progress(parse, "--lr_scheduler", schedule)
    rates = [plain.learning_rate(step) for step in range(1001)]
    assert rates == pytest.approx([0.1 * at(step / 1000) for step in range(1001)], abs=1e-9)
    warm = progress(parse, "--lr_scheduler", schedule, "--lr_warmup_steps", 10)
    assert [warm.learning_rate(step) / rates[step] for step in (0, 4, 9, 500)] == pytest.approx([0.1, 0.5, 1, 1])


def test_progress_by_time(parse: Parse) -> None:
    by_steps = progress(parse)
    by_steps.start -= 1e6
    assert [by_steps.share(step) for step in (0, 250, 1000, 2000)] == [0, 0.25, 1, 1]
    timed = progress(parse, "--max_train_minutes", 10, "--lr_scheduler", "linear")
    assert timed.share(0) < 0.01
    timed.start -= 300  # five minutes ago
    assert timed.share(0) == pytest.approx(0.5, abs=0.01) and timed.share(800) == 0.8
    assert timed.learning_rate(200) == pytest.approx(0.05, rel=0.05)
    timed.start -= 600
    assert timed.share(0) == 1


def test_the_minutes_of_a_resumed_run_go_on(parse: Parse) -> None:
    first = progress(parse, "--max_train_minutes", 10)
    first.start -= 300
    state = json.loads(json.dumps(first.state_dict()))
    later = progress(parse, "--max_train_minutes", 10)
    later.load_state_dict(state)
    assert later.share(0) == pytest.approx(0.5, abs=0.01)


# checkpoints


class Run:
    """A small network with its optimiser."""

    def __init__(self, value: float = 0.0) -> None:
        self.accelerator = Accelerator(cpu=True)
        network = nn.Linear(100, 100)
        nn.init.constant_(network.weight, value)
        self.network, self.optimizer = self.accelerator.prepare(network, torch.optim.AdamW(network.parameters()))

    def save(self, args: argparse.Namespace, step: int, **settings: object) -> None:
        save_checkpoint(self.accelerator, args, step, {"stage": "rig", "unet": {"widths": (1, 2)}} | settings)

    def resume(self, args: argparse.Namespace, **settings: object) -> int:
        return resume(self.accelerator, args, {"stage": "rig", "unet": {"widths": (1, 2)}} | settings)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow above `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_oldest_checkpoints_go(parse: Parse, tmp_path: Path) -> None:
    args, run = parse("--train_data_dir", "a", "--checkpoints_total_limit", 2), Run()
    assert checkpoints(tmp_path) == []
    for step in (8, 9, 10):
        run.save(args, step)
    assert [f.name for f in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert {f.name for f in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}
    assert json.loads((tmp_path / "checkpoint-9" / "settings.json").read_text())["unet"] == {"widths": [1, 2]}


def test_resuming(parse: Parse, tmp_path: Path) -> None:
    args = parse("--train_data_dir", "a")
    for step, value in ((9, 0.9), (10, 1.0)):
        Run(value).save(args, step)
    earlier = parse("--train_data_dir", "a", "--resume_from_checkpoint", tmp_path / "checkpoint-9")
    with pytest.raises(SystemExit, match="holds newer checkpoints than checkpoint-9: move them away first"):
        Run().resume(earlier)  # they would be taken for its own
    latest = parse("--train_data_dir", "a", "--resume_from_checkpoint", "latest")
    for args, value in ((latest, 1.0), (earlier, 0.9)):
        run = Run()
        assert run.resume(args) == round(value * 10)
        assert run.network.weight[0, 0].item() == pytest.approx(value)
        if args is latest:
            (tmp_path / "checkpoint-10").rename(tmp_path / "elsewhere")


def test_nothing_to_resume(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-5").mkdir()  # was not finished
    (tmp_path / "checkpoint-7").mkdir()  # is of another program
    assert Run().resume(parse("--train_data_dir", "a", "--output_dir", tmp_path / "new")) == 0
    for wanted in ("latest", tmp_path / "checkpoint-7", tmp_path / "nothing"):
        with pytest.raises(SystemExit, match=r"No checkpoint to resume in .*: leave out --resume_from_checkpoint\."):
            Run().resume(parse("--train_data_dir", "a", "--resume_from_checkpoint", wanted))


def test_a_checkpoint_of_another_preset_is_not_resumed(parse: Parse) -> None:
    run, args = Run(), parse("--train_data_dir", "a", "--resume_from_checkpoint", "latest")
    run.save(args, 3, resolution=64)
    with pytest.raises(SystemExit, match=r"checkpoint-3 was trained with another stage, unet: resume it with its own"):
        run.resume(args, resolution=64, stage="album", unet={"widths": (1, 3)})
    with pytest.raises(SystemExit, match="trained with another resolution: "):
        run.resume(args)
    assert run.resume(args, resolution=64) == 3


def test_a_new_run_does_not_overwrite_an_earlier_one(parse: Parse, tmp_path: Path) -> None:
    args, run = parse("--train_data_dir", "a"), Run()
    run.save(args, 3)
    before = contents(tmp_path)
    with pytest.raises(SystemExit, match="holds checkpoints of an earlier run: continue it with --resume_from_check"):
        run.resume(args)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("room", [20_000, 60_000])
def test_a_full_disk(parse: Parse, tmp_path: Path, room: int) -> None:
    """With room for nothing (network 40 kB), and for the network but not for its optimiser (80 kB)."""
    args, run = parse("--train_data_dir", "a"), Run()
    run.network(torch.ones(1, 100)).sum().backward()
    run.optimizer.step()
    told = r"checkpoint-3 cannot be written \(.+\): make room and resume; kept: none\.$"
    with full_disk(room), pytest.raises(SystemExit, match=told) as stop:
        run.save(args, 3)
    assert "\n" not in str(stop.value) and not list(tmp_path.iterdir())
    run.save(args, 3)
    before = contents(tmp_path)
    with full_disk(room), pytest.raises(SystemExit, match=r"checkpoint-6 cannot be written .* kept: checkpoint-3\.$"):
        run.save(args, 6)
    assert contents(tmp_path) == before and [f.name for f in tmp_path.iterdir()] == ["checkpoint-3"]


def test_why_a_checkpoint_cannot_be_written(parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args, run = parse("--train_data_dir", "a"), Run()

    def write(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.accelerator, "save_state", write)
    with pytest.raises(SystemExit, match=r"\(\[Errno 28\] No space left on device\): make room and resume"):
        run.save(args, 3)
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_checkpoint_left_is_no_checkpoint(parse: Parse, tmp_path: Path) -> None:
    args, run = parse("--train_data_dir", "a", "--resume_from_checkpoint", "latest"), Run()
    run.save(args, 3)
    (tmp_path / ".checkpoint-6").mkdir()
    (tmp_path / ".checkpoint-6" / "model.safetensors").write_bytes(b"half")
    assert run.resume(args) == 3
    run.save(args, 6)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-6"]
    assert run.resume(args) == 6


# the log


def test_the_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (10, 20, 30):
        log.add({"step": step, "loss": 1 / step})
    assert [row["step"] for row in log.rows()] == ["10", "20", "30"]
    log = Log(tmp_path, 20)
    log.add({"step": 30, "loss": 7.0})
    assert (tmp_path / "losses.csv").read_text().split() == ["step,loss", "10,0.1", "20,0.05", "30,7.0"]
    Log(tmp_path, 5)
    assert not (tmp_path / "losses.csv").exists()


def test_the_log_is_drawn(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (10, 20):
        log.add({"step": step, "loss": 1 / step, "v": step, "learning_rate": 0.1, "images_per_second": 5})
    log.draw(tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size == (810, 288)  # two plots
