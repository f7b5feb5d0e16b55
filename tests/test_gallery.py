"""`docs/gallery.py` draws what the gallery shows."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
from PIL import Image

from emorig_diffusers import EmoRigPipeline

DOCS = Path(__file__).parents[1] / "docs"


def test_gallery_is_what_its_script_writes(pipe: EmoRigPipeline, tmp_path: Path) -> None:
    """The page to the letter, and a row of pictures; what shows no face is left out."""
    script = runpy.run_path(str(DOCS / "gallery.py"))
    open_portraits = list(script["open_portraits"]())
    named = [(name, about, rgb if name == "Eileen Collins" else rgb * 0) for name, about, rgb in open_portraits]
    page = script["draw_gallery"](pipe, named, tmp_path)
    kept = (DOCS / "gallery.md").read_text("utf-8")
    assert page.replace(tmp_path.name, "gallery") == kept[: kept.index("\n## Grace Hopper")]
    [picture] = tmp_path.iterdir()
    with Image.open(picture) as drawn, Image.open(DOCS / "gallery" / picture.name) as shown:
        assert b"compositeWithTrainedAlgorithmicMedia" in drawn.info["xmp"] and "xmp" in shown.info
        assert drawn.size == shown.size
        assert np.abs(np.asarray(drawn, int) - np.asarray(shown)).mean() < 3


def test_portraits_are_those_of_files(tmp_path: Path) -> None:
    Image.new("RGB", (24, 20), "red").save(tmp_path / "red.png")
    (tmp_path / "letter.png").write_text("Dear all")
    found = list(runpy.run_path(str(DOCS / "gallery.py"))["portraits_of"](sorted(tmp_path.iterdir())))
    assert [(name, rgb.shape) for name, _, rgb in found] == [("red", (20, 24, 3))]
