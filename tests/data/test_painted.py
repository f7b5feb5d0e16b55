"""paint_emotions.py: labelled photos out of photos without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.sources import open_dataset
from emorig_diffusers.face.emotions import EMOTIONS

Run = Callable[..., None]


@pytest.fixture(scope="module")
def album(hopper: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    small = Image.fromarray(hopper).reduce(2)
    for name in ("a", "b", "d"):
        small.save(folder / f"{name}.png")
    Image.new("RGB", (64, 64), "grey").save(folder / "c.png")  # no face
    return folder


@pytest.fixture(scope="module")
def painted(run_script: Run, album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("painted") / "out"
    run_script("paint_emotions", album, out, "--intensity", 1, 1)
    return out


def test_emotions_take_turns_and_are_labelled(painted: Path, album: Path, pipe: EmoRigPipeline) -> None:
    dataset = open_dataset(painted)
    assert dataset.layout == "celeba"
    assert {s.key: s.label for s in dataset.sources} == {"a": EMOTIONS[0], "b": EMOTIONS[1], "d": EMOTIONS[3]}
    happy = np.asarray(Image.open(painted / "b.png"), int)
    photo = np.asarray(Image.open(album / "b.png"), int)
    mouth = np.abs(happy - photo).sum(2)
    assert mouth.max() > 60 and not np.array_equal(np.asarray(Image.open(painted / "d.png")), happy)


def test_existing_photos_are_kept(run_script: Run, painted: Path, album: Path) -> None:
    (painted / "a.png").unlink()
    before = {name: (painted / name).stat().st_mtime_ns for name in ("b.png", "d.png")}
    run_script("paint_emotions", album, painted, "--intensity", 1, 1)
    assert {name: (painted / name).stat().st_mtime_ns for name in before} == before
    assert (painted / "a.png").is_file()


def test_no_photos(run_script: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is empty"):
        run_script("paint_emotions", tmp_path, tmp_path / "out")
