"""How far a run is, its learning rate, and the log of its losses."""

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
from accelerate import Accelerator
from accelerate.utils import broadcast
from matplotlib.figure import Figure

from ..files.atomic import write_file

LOG = "losses.csv"


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
        """Linear warm-up, then constant, half a cosine or a line down to 0, or halved every so many steps."""
        share = self.share(step)
        halved = 0.5 ** (step // self.args.lr_halving_steps)
        decay = {"constant": 1.0, "cosine": 0.5 + 0.5 * math.cos(math.pi * share), "linear": 1 - share,
                 "halving": halved}  # fmt: skip
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
