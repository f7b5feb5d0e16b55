"""Broken files of every kind, a few of each: `run.py` here breaks many more. And whether its rule is held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE, start_script
from run import HERE, SUITES

CASES = {"photos": 100, "checkpoints": 40, "media": 60}


@pytest.mark.parametrize("what", SUITES)
def test_broken_files_get_clear_errors(what: str, tmp_path: Path) -> None:
    """In a process of its own, as its forks must have no other's threads."""
    script = start_script(tmp_path, HERE / "run.py", what, "--count", CASES[what], "--short")
    assert script.wait() == 0, script.output
    assert "; 0 bad" in script.output and " refused" in script.output and " read" in script.output


LIMITS = """
import sys, time
from pathlib import Path
import worker
worker.SECONDS = 0.3

def read(case, folder):
    if case == 0: raise KeyError("an accident")
    if case == 1: (folder / "left").touch()
    if case == 2:
        while True: pass
    if case == 3: b"x" * (worker.MEMORY + 2**20)
    if case == 4: raise ValueError("in one sentence")
    if case == 5: import os; os.abort()

suite = worker.Suite(lambda case, folder: "kind", read, (ValueError,))
print([outcome.what for outcome in worker.run(suite, range(7), lambda text: None)])
"""


def test_the_rule_is_held() -> None:
    """Accidents, files that stay, endless loops, too much memory and deaths are seen, and the next case goes on."""
    done = subprocess.run([sys.executable, "-c", LIMITS], cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "['crash', 'left', 'hang', 'crash', 'refused', 'dead', 'read']", done.stderr


def test_the_same_seed_breaks_the_same_way(tmp_path: Path) -> None:
    import random

    from mutators import mutate

    data = (HERE.parent / "perceptual.jpg").read_bytes()
    broken = [mutate(data, random.Random(number)) for number in range(30)]
    assert broken == [mutate(data, random.Random(number)) for number in range(30)]
    assert data not in broken and len(set(broken)) == 30
