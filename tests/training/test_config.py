"""Trainers' arguments: presets, progress and learning rates, and the log."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from emorig_diffusers.training.config import parse_trainer, trainer_parser
from emorig_diffusers.training.progress import Log, Progress

Parse = Callable[..., argparse.Namespace]


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """A command line of a script with one argument and one section of its own; `output_dir` is `tmp_path`."""

    def parse(*arguments: object) -> argparse.Namespace:
        argv = [str(a) for a in ("--output_dir", tmp_path, *arguments)]
        return parse_trainer(trainer_parser("Trains.", ["unet"]), argv)

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
        ("lr_scheduler: cosin\n", "lr_scheduler must be one of constant, cosine, linear, halving, not 'cosin'."),
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
    return Progress(parse("--train_data_dir", "a", "--max_train_steps", 1000, "--learning_rate", 0.1, *arguments,
                          "--lr_halving_steps", 400))  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ("constant", lambda share: 1.0),
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: 0.5 + 0.5 * math.cos(math.pi * share)),
        ("halving", lambda share: 1.0 if share < 0.4 else 0.5 if share < 0.8 else 0.25),
    ],
    ids=["constant", "linear", "cosine", "halving"],
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


@pytest.mark.parametrize("half", ["3", "30", "30,", "30,0.0"])
def test_half_a_row_is_dropped_or_written_again(tmp_path: Path, half: str) -> None:
    """What a kill or a full disk leaves of the row of step 30."""
    log = Log(tmp_path, 0)
    for step in (10, 20):
        log.add({"step": step, "loss": 1 / step})
    with log.file.open("a") as file:
        file.write(half)
    log = Log(tmp_path, 29)
    log.add({"step": 30, "loss": 7.0})
    assert log.file.read_text().split() == ["step,loss", "10,0.1", "20,0.05", "30,7.0"]
    assert [p.name for p in tmp_path.iterdir()] == ["losses.csv"]


def test_the_log_is_drawn(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (10, 20):
        log.add({"step": step, "loss": 1 / step, "v": step, "learning_rate": 0.1, "images_per_second": 5})
    log.draw(tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size == (810, 288)  # two plots
