"""What every training script does around its loss: presets, progress, checkpoints that survive anything, a log."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SETTINGS = "settings.json"  # in every checkpoint: what the weights were trained as
PROGRESS, AVERAGE = "progress.json", "average.safetensors"
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
    add("--train_data_dir", type=Path, help="shards written by train/prepare.py")
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
    add("--resume_from_checkpoint", help='a checkpoint folder, or "latest"')
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


@dataclass
class Extras:
    """What a checkpoint holds besides networks and optimiser, without pickles.

    Attributes:
        progress: Time spent.
        ema: Averaged weights, or `None`.
    """

    progress: Progress
    ema: EMAModel | None

    def save(self, folder: Path) -> None:
        """Write both."""
        (folder / PROGRESS).write_text(json.dumps(self.progress.state_dict()))
        if self.ema is not None:
            tensors = {f"{i:05d}": p.cpu().contiguous() for i, p in enumerate(self.ema.shadow_params)}
            save_file(tensors, folder / AVERAGE, {"optimization_step": str(self.ema.optimization_step)})

    def load(self, folder: Path) -> None:
        """Read both back."""
        self.progress.load_state_dict(json.loads((folder / PROGRESS).read_text()))
        if self.ema is not None:
            with safe_open(folder / AVERAGE, "pt") as file:
                self.ema.optimization_step = int(file.metadata()["optimization_step"])
                for i, parameter in enumerate(self.ema.shadow_params):
                    parameter.copy_(file.get_tensor(f"{i:05d}"))


def save_checkpoint(
    accelerator: Accelerator,
    args: argparse.Namespace,
    step: int,
    settings: dict[str, Any],
    extras: Extras | None = None,
) -> None:
    """Write `checkpoint-<step>` under another name, rename it, and drop the oldest.

    Raises:
        SystemExit: If it cannot be written, with one sentence; earlier checkpoints stay.
    """
    final = args.output_dir / f"checkpoint-{step}"
    temporary = args.output_dir / f".{final.name}"
    try:
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process:
            if extras is not None:
                extras.save(temporary)
            (temporary / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        kept = ", ".join(folder.name for folder in checkpoints(args.output_dir)) or "none"
        reason = str(error).splitlines()[0]
        raise SystemExit(f"{final} cannot be written ({reason}): make room and resume; kept: {kept}.") from None
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in checkpoints(args.output_dir)[: -args.checkpoints_total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))


def resume(
    accelerator: Accelerator, args: argparse.Namespace, settings: dict[str, Any], extras: Extras | None = None
) -> int:
    """Load the wanted checkpoint and return its step; 0 without one.

    Raises:
        SystemExit: If there is none, or one that was trained as something else.
    """
    if not args.resume_from_checkpoint:
        if checkpoints(args.output_dir):
            raise SystemExit(
                f"{args.output_dir} holds checkpoints of an earlier run: continue it with "
                "--resume_from_checkpoint latest, or choose another --output_dir."
            )
        return 0
    found = checkpoints(args.output_dir)
    if args.resume_from_checkpoint != "latest":
        wanted = Path(args.resume_from_checkpoint)
        if wanted.resolve() in [p.resolve() for p in found[:-1]]:
            raise SystemExit(f"{args.output_dir} holds newer checkpoints than {wanted.name}: move them away first.")
        found = [wanted]
    if not found or not (found[-1] / SETTINGS).is_file():
        raise SystemExit(f"No checkpoint to resume in {args.output_dir}: leave out --resume_from_checkpoint.")
    then = json.loads((found[-1] / SETTINGS).read_text())
    now = json.loads(json.dumps(settings))
    different = sorted(k for k in then.keys() | now.keys() if then.get(k) != now.get(k))
    if different:
        raise SystemExit(
            f"{found[-1]} was trained with another {', '.join(different)}: resume it with its own preset, "
            "or start anew in another --output_dir."
        )
    accelerator.load_state(str(found[-1]))
    if extras is not None:
        extras.load(found[-1])
    return int(found[-1].name.split("-")[1])


class Log:
    """`losses.csv`: a row every few steps; rows after the checkpoint that is resumed are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        self.file = folder / LOG
        rows = [row for row in self.rows() if int(row["step"]) <= step] if self.file.exists() else []
        self.file.unlink(missing_ok=True)
        for row in rows:
            self.add(row)

    def rows(self) -> list[dict[str, str]]:
        """All rows so far."""
        with self.file.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, row: Mapping[str, float | str]) -> None:
        """Append a row; all rows have the same names, `step` among them."""
        new = not self.file.exists()
        with self.file.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def draw(self, out: Path) -> None:
        """Plot every loss over the steps."""
        rows = self.rows()
        names = [n for n in rows[0] if n not in ("step", "learning_rate", "images_per_second")]
        figure = Figure((4.5 * len(names), 3.2), layout="constrained")
        for i, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), i + 1, title=name, xlabel="step")
            axes.plot([int(r["step"]) for r in rows], [float(r[name]) for r in rows], linewidth=0.8)
        figure.savefig(out, dpi=90)
