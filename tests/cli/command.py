"""What tests of the command share: it is run here or in a process of its own, and what it prints is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from processes import PATIENCE

from emorig_diffusers.cli import main

ROOT = Path(__file__).parents[2]
ASTRONAUT = skimage.data.astronaut()


def write(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def emorig(*args: str | Path) -> int:
    return main.main([str(arg) for arg in args])


def run_process(code: list[str], *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *code, *map(str, args)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """The one line on stderr of a command that must end with 2 and print nothing else."""
    capsys.readouterr()
    assert emorig(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("emorig: ") and err.endswith("\n") and err.count("\n") == 1
    return err
