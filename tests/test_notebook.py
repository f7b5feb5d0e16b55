"""The notebook runs from top to bottom, as `docs/notebook.py` does it, and shows what is kept in it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers import EmoRigPipeline

DOCS = Path(__file__).parents[1] / "docs"


def test_notebook_runs_from_top_to_bottom(
    pipe: EmoRigPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EmoRigPipeline, "from_pretrained", lambda name: pipe)  # loaded once for all tests
    notebook = json.loads((DOCS / "emorig.ipynb").read_text("utf-8"))
    kept = shown(notebook)
    names = runpy.run_path(str(DOCS / "notebook.py"))["run_notebook"](notebook)
    assert shown(notebook) == kept
    assert sum("image/jpeg" in kind for kinds in kept for kind in kinds) == 7
    for edit in ("brows", "corner", "wink", "worded", "lent"):
        assert np.abs(np.asarray(names[edit].images[0], int) - names["hopper"]).max() > 40
    with Image.open("surprise.gif") as moving:
        assert moving.n_frames > 5


def shown(notebook: dict[str, Any]) -> list[list[list[str]]]:
    """Of each cell, the kinds of what it prints and shows."""
    outputs = [cell.get("outputs", []) for cell in notebook["cells"]]
    return [[sorted(one.get("data", ["text"])) for one in of] for of in outputs]
