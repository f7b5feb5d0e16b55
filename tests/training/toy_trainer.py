"""The smallest run there can be: a line through points, by everything that training scripts share.

python tests/training/toy_trainer.py --output_dir run --max_train_steps 9
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from emorig_diffusers.training.config import parse_with_preset, trainer_parser
from emorig_diffusers.training.trainer import SampledRun, start

POINTS, SLOPE, OFFSET = 7, 3.0, -1.0


class Points(Dataset):
    """Points of the line, each a little off, by its seed."""

    def __len__(self) -> int:
        return POINTS

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = item
        x = torch.tensor([index / POINTS])
        return {"x": x, "y": SLOPE * x + OFFSET + 0.01 * np.random.default_rng(seed).normal()}


class LineRun(SampledRun):
    """Fits slope and offset."""

    result = "line"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.line = nn.Linear(1, 1)
        settings = {"shrink": args.shrink}
        super().__init__(args, accelerator, self.line, settings, Points(), np.ones(POINTS), self.fit)

    def __str__(self) -> str:
        return f"{POINTS} points"

    def fit(self, line: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared error; with --noise it depends on torch's own random numbers, as dropout does."""
        time.sleep(self.args.pause)
        error = (line(batch["x"]) - batch["y"]) * self.args.shrink
        loss = (error + self.args.noise * torch.randn_like(error)).square().mean()
        return {"loss": loss, "error": error.detach().abs().mean()}

    def sheets(self) -> dict[str, Image.Image]:
        """A grey picture as bright as the slope."""
        return {"slope": Image.new("L", (4, 4), round(20 * self.line.weight.clamp(0, 10).item()))}

    def save(self, folder: Path) -> None:
        """Both numbers."""
        folder.mkdir()
        save_file(self.line.state_dict(), folder / "line.safetensors")


def main() -> None:
    """Command line."""
    parser = trainer_parser("Fit a line.")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--shrink", type=float, default=1.0, help="a setting that a checkpoint cannot change")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds a batch")
    start(LineRun, parse_with_preset(parser, None), "toy")


if __name__ == "__main__":
    main()
