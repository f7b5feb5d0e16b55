"""The benchmark of emotion latent diffusion: both orders of work draw the same, and the passes are those of the scripts
and of what a call shares."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import ldm_speed  # noqa: E402


def test_passes_of_both_orders(capsys: pytest.CaptureFixture[str]) -> None:
    costs = ldm_speed.main(["--width", "32", "--emotions", "2", "--steps", "2"])
    steps, targets, rows = 2, 2, 2  # rows: with and without the token
    counts = {name: tuple(cost.passes.values()) for name, cost in costs.items()}
    assert counts == {
        "the original's order": (targets * 2 * steps * rows, targets, 2 * targets),
        "ours": ((1 + targets) * steps * rows, 1, targets),
        "ours, with the photo's detail": ((2 + targets) * steps * rows, 1, targets + 1),
    }
    gmac = [cost.gmac for cost in costs.values()]
    assert gmac[1] < gmac[2] < gmac[0]
    apart = float(capsys.readouterr().out.split("differ by ")[1].split()[0])
    assert apart < 3  # a code of the autoencoder may flip
