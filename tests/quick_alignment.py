"""Scans that are laid onto heads by few points and rounds, where a test is about something else."""

from __future__ import annotations

import pytest

from emorig_diffusers.models import scan_alignment


def align_quickly(patch: pytest.MonkeyPatch) -> None:
    for name, value in {"COARSE": (100, 3), "FINE": (400, 6), "BEST": 2, "TARGET": 4000}.items():
        patch.setattr(scan_alignment, name, value)
