"""Where pipelines come from: bundled weights by name, folders and Hub ids as they are."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def bundled() -> list[str]:
    """Names of the pipelines that come with the package."""
    return sorted(p.parent.name for p in WEIGHTS.glob("*/model_index.json"))


def resolve(name: str | os.PathLike) -> str:
    """A bundled name -> its folder; anything else unchanged."""
    name = os.fspath(name)
    return str(WEIGHTS / name) if name in bundled() else name
