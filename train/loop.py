"""What every training script shares: arguments and presets, progress and learning rate, the log of losses."""

from __future__ import annotations

import argparse
import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast
from matplotlib.figure import Figure

from emorig_diffusers.files.atomic import write_file

LOG = "losses.csv"


def parse_with_preset(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse arguments; a YAML preset named by --config sets defaults, the command line wins."""
    config = parser.parse_known_args(argv)[0].config
    if config is not None:
        try:
            preset = yaml.safe_load(config.read_text())
        except (OSError, yaml.YAMLError) as error:
            parser.error(f"The preset {config} cannot be read: {str(error).splitlines()[0]}.")
        if not isinstance(preset, dict):
            parser.error(f"{config} is no preset: it must hold lines such as `learning_rate: 1.0e-4`.")
        actions = {action.dest: action for action in parser._actions}
        unknown = set(preset) - set(actions)
        if unknown:
            parser.error(f"{config} sets unknown arguments: {', '.join(sorted(unknown))}.")
        for name, value in preset.items():
            known, values = actions[name].choices, value if isinstance(value, list) else [value]
            if known and any(one not in known for one in values):
                parser.error(f"{config}: {name} must be one of {', '.join(known)}, not {value!r}.")
            if actions[name].type in (int, dict) and not isinstance(value, actions[name].type):
                kind = "a whole number" if actions[name].type is int else "a section"
                parser.error(f"{config}: {name} must be {kind}, not {value!r}.")
        parser.set_defaults(**preset)
    return parser.parse_args(argv)


def add_loop_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that training scripts share, under the names of diffusers' own scripts."""
    add = parser.add_argument
    add("--config", type=Path, help="YAML preset, see train/presets; the command line wins")
    add("--train_data_dir", type=Path, help="shards written by train/prepare.py, or photos to prepare first")
    add("--output_dir", type=Path, help="checkpoints, log, validation pictures and the result")
    add("--train_batch_size", type=int, default=16, help="samples a process and step")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--max_train_steps", type=int, default=10000)
    add("--max_train_minutes", type=float, help="end (and decay the learning rate) by this time, if sooner")
    add("--learning_rate", type=float, default=1e-4)
    add("--lr_scheduler", choices=("constant", "cosine", "linear"), default="constant", help="after the warm-up")
    add("--lr_warmup_steps", type=int, default=0)
    add("--adam_beta1", type=float, default=0.9)
    add("--adam_beta2", type=float, default=0.999)
    add("--adam_weight_decay", type=float, default=0.0)
    add("--max_grad_norm", type=float, default=1.0)
    add("--use_ema", action=argparse.BooleanOptionalAction, default=True, help="keep an average of the weights")
    add("--ema_decay", type=float, default=0.9999)
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    add("--dataloader_num_workers", type=int, default=0)
    add("--checkpointing_steps", type=int, default=500)
    add("--checkpoints_total_limit", type=int, default=2)
    add("--resume_from_checkpoint", help='a checkpoint, or "latest": if there is one')
    add("--logging_steps", type=int, default=10)
    add("--validation_steps", type=int, default=1000)
    add("--report_to", choices=("tensorboard",), help="besides losses.csv")
    add("--seed", type=int, default=0)


def require(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """End with one sentence if an argument without a default is missing, or a number makes no sense."""
    for name in names:
        if getattr(args, name) is None:
            parser.error(f"--{name} is missing.")
    for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "checkpointing_steps",
                 "checkpoints_total_limit", "logging_steps", "validation_steps"):  # fmt: skip
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1.")
    if args.seed < 0:
        parser.error("--seed must not be negative.")


class Progress:
    """How far a run is, by steps or by time, whichever is further; and the learning rate there.

    It is part of the checkpoint: the minutes of a resumed run go on counting.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.start = args, time.monotonic()
        self.agreed: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent, since the last `agree` as the first process sees it."""
        return time.monotonic() - self.start if self.agreed is None else self.agreed

    def agree(self, accelerator: Accelerator) -> None:
        """Take over the first process's clock: all must take the same number of steps."""
        if self.args.max_train_minutes and accelerator.num_processes > 1:
            now = torch.tensor(time.monotonic() - self.start, dtype=torch.float64, device=accelerator.device)
            self.agreed = float(broadcast(now))

    def state_dict(self) -> dict[str, float]:
        """Seconds spent."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting."""
        self.start = time.monotonic() - state["seconds"]

    def share(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        by_time = self.seconds / 60 / self.args.max_train_minutes if self.args.max_train_minutes else 0.0
        return min(1.0, max(step / self.args.max_train_steps, by_time))

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant, half a cosine or a line down to 0."""
        share = self.share(step)
        decay = {"constant": 1.0, "cosine": 0.5 + 0.5 * math.cos(math.pi * share), "linear": 1 - share}
        warm = min(1.0, (step + 1) / max(self.args.lr_warmup_steps, 1))
        return self.args.learning_rate * warm * decay[self.args.lr_scheduler]


class Log:
    """`losses.csv`: a row every few steps; rows after the checkpoint that is resumed are dropped, and half a row."""

    def __init__(self, folder: Path, step: int) -> None:
        self.file = folder / LOG
        rows = [row for row in self.rows() if row["step"].isdigit() and int(row["step"]) <= step]
        rows = [row for row in rows if None not in row.values()]  # the last one may be cut off
        if not rows:
            self.file.unlink(missing_ok=True)
            return
        text = io.StringIO(newline="")
        _write_rows(text, rows, header=True)
        write_file(self.file, text.getvalue().encode())

    def rows(self) -> list[dict[str, str]]:
        """All rows so far."""
        if not self.file.exists():
            return []
        with self.file.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, row: Mapping[str, float | str]) -> None:
        """Append a row; all rows have the same names, `step` among them."""
        new = not self.file.exists()
        with self.file.open("a", newline="") as file:
            _write_rows(file, [row], header=new)

    def draw(self, out: Path) -> None:
        """Plot every loss over the steps."""
        rows = self.rows()
        names = [n for n in rows[0] if n not in ("step", "learning_rate", "images_per_second")]
        figure = Figure((4.5 * len(names), 3.2), layout="constrained")
        for i, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), i + 1, title=name, xlabel="step")
            axes.plot([int(r["step"]) for r in rows], [float(r[name]) for r in rows], linewidth=0.8)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=90)
        write_file(out, picture.getvalue())


def _write_rows(file: TextIO, rows: Sequence[Mapping[str, float | str]], header: bool) -> None:
    writer = csv.DictWriter(file, list(rows[0]))
    if header:
        writer.writeheader()
    writer.writerows(rows)
