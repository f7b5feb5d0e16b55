"""The command `emorig compare`: its sheet and table, and what it refuses in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from pictures import assert_close
from PIL import Image
from two_encoders import PAIRS, rig

from emorig_diffusers import EmoRigPipeline, NoFaceError
from emorig_diffusers.cli import main, models
from emorig_diffusers.evaluation.compare import (
    compare,
    draw_comparison,
)
from emorig_diffusers.provenance.verify import verify

pytestmark = pytest.mark.usefixtures("searched")


@pytest.fixture
def two(tmp_path: Path, hopper: np.ndarray, astronaut: np.ndarray) -> tuple[Path, Path]:
    paths = tmp_path / "hopper.png", tmp_path / "astronaut.png"
    for path, pixels in zip(paths, (hopper, astronaut)):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def emorig(both: EmoRigPipeline, pipe: EmoRigPipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command with models that are open already; others are opened."""
    ready, load = {"both": both, "emorig-open": pipe}, models.load_pipeline
    monkeypatch.setattr(models, "load_pipeline", lambda name: ready[name] if name in ready else load(name))
    return lambda *args: main.main(["compare", *map(str, args)])


def test_command(
    pipe: EmoRigPipeline, emoca: Path, two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a saved pipeline, as users have it; with a small encoder, which is quick to write and read."""
    folder, out = tmp_path / "rig", tmp_path / "sheet.png"
    small = rig(pipe, EmoRigPipeline.from_pretrained(emoca).encoder)
    small.save_pretrained(folder)
    capsys.readouterr()
    asked = ["--model", folder, "--modes", "exp,pose", "--steps", 1, "--seed", 5, "-o", out]
    assert main.main(["compare", *map(str, [*two, *asked])]) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    lines = printed.splitlines()
    assert lines[0] == str(out)
    assert [line[:24].strip() for line in lines[4:10]] == [
        *("S: {}  T: {}".format(*pair) for pair in PAIRS), "DECA redrawn", "EMOCA redrawn"
    ]  # fmt: skip
    expected = compare(small, *two, ("exp", "pose"), 1, torch.Generator().manual_seed(5))
    assert_close(Image.open(out), draw_comparison(expected))
    said = verify(out).metadata
    assert said.source_type == "compositeWithTrainedAlgorithmicMedia" and said.edit["Emotion"] == "reference"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--modes", "exp,mood"), "modes must be some of exp, pose, light, latent"),
        (("--modes", "latent"), "needs a network that draws the whole crop"),
        (("--noise", "photo"), "needs a network that draws the whole crop"),
        (("--noise", "old"), "invalid choice"),
        (("--crop", "round"), "crop must be one of aligned, ffhq, landmarks, whole"),
        (("--steps", "0"), "whole number from 1 to 1000"),
        (("--detail",), "detail needs DECA's encoder"),
        (("--model", "both", "--detail"), "detail needs DECA's encoder"),
        (("--model", "no such model"), "cannot be loaded"),
    ],
)
def test_what_cannot_be_done(
    options: tuple[str, ...], says: str, two: tuple[Path, Path], emorig: Callable[..., int],
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    assert emorig(*two, *options, "-o", tmp_path / "sheet.png") == 2
    printed, err = capsys.readouterr()
    assert printed == "" and err.count("\n") == 1 and says in err
    assert not (tmp_path / "sheet.png").exists()


def test_bad_photos(
    two: tuple[Path, Path], emorig: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, target = two
    blank, out, before = tmp_path / "blank.png", tmp_path / "sheet.png", source.read_bytes()
    Image.new("RGB", (80, 80)).save(blank)
    (tmp_path / "link.png").symlink_to(source)
    cases = [
        ((blank, target, out), f"'{blank}': No face was found"),
        ((source, blank, out), f"'{blank}': No face was found"),
        ((source, source, out), "Source and target are both"),
        ((source, tmp_path / "link.png", out), "Source and target are both"),
        ((source, target, target), "is what is read"),
        ((source, target, source), "is what is read"),
        ((source, target, tmp_path), "is what is read"),
        ((source, target, tmp_path / "sheet.gif"), "use .jpg"),
        ((source, tmp_path / "none.png", out), "There is no file"),
        ((tmp_path, target, out), "is a folder"),
    ]
    for (first, second, result), says in cases:
        assert emorig(first, second, "-o", result) == 2
        printed, err = capsys.readouterr()
        assert printed == "" and err.count("\n") == 1 and says in err
    assert not out.exists() and source.read_bytes() == before


def test_faceless_arrays_are_named(both: EmoRigPipeline, hopper: np.ndarray) -> None:
    with pytest.raises(NoFaceError, match="^The target: No face was found"):
        compare(both, hopper, skimage.data.coffee()[:200, :300])


def test_a_network_without_a_code_of_the_photo(
    pipe: EmoRigPipeline, both: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray
) -> None:
    told = rig(pipe, both.encoder)
    told.register_to_config(code_parts="pose")
    with pytest.raises(ValueError, match="'latent' needs a network that takes a code of the photo"):
        compare(told, hopper, astronaut, ("latent",))
