"""A few kills of each kind; `python tests/benchmarks/kills.py` makes hundreds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "benchmarks" / "kills.py"
WORKS = ("study", "video", "export", "folder", "prepare", "train")  # `evaluate` draws plots, which takes seconds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forks")
def test_killed_runs_end_with_the_same_files() -> None:
    paths = os.pathsep.join(filter(None, (str(KILLS.parents[2]), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(KILLS), "--count", "12", "--only", *WORKS]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "12 kills, 0 of 6 works lost something" in done.stdout, done.stdout + done.stderr
