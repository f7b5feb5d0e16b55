"""A few kills of each kind; `python tests/benchmarks/kills.py` makes hundreds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import start_script

KILLS = Path(__file__).parent / "benchmarks" / "kills.py"
WORKS = ("study", "video", "export", "folder", "prepare", "train")  # `evaluate` draws plots, which takes seconds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forks")
def test_killed_runs_end_with_the_same_files(tmp_path: Path) -> None:
    script = start_script(tmp_path, KILLS, "--count", 12, "--only", *WORKS)
    assert script.wait() == 0 and "12 kills, 0 of 6 works lost something" in script.output, script.output
