"""`emorig study`: what it leaves out, what it refuses and how it goes on."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageCms

from emorig_diffusers.cli import main
from emorig_diffusers.cli.study import begin, go_on
from emorig_diffusers.evaluation.study.pictures import Folders, picture_address, ruined_address
from emorig_diffusers.evaluation.study.store import FILE, StudyError, is_study

FACE = skimage.data.astronaut()[20:220, 130:310]


def write(path: Path, rgb: np.ndarray = FACE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Edits of two methods and their source, some of which do not fit."""
    for method in "AB":
        for photo in ("0.png", "1.png"):
            write(tmp_path / method / "happy" / photo)
            write(tmp_path / "source" / photo)
    write(tmp_path / "A" / "happy" / "alone.png")
    write(tmp_path / "A" / "sad" / "0.png")
    for method, rgb in (("A", FACE), ("B", FACE[:90])):
        write(tmp_path / method / "happy" / "cut.png", rgb)
        write(tmp_path / method / "happy" / "broken.png")
        write(tmp_path / method / "happy" / "nobody.png")
    for photo in ("cut.png", "broken.png", "alone.png"):
        write(tmp_path / "source" / photo)
    (tmp_path / "B" / "happy" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "A" / "happy" / "notes.txt").write_text("is no picture and not listed")
    return tmp_path


def parse(*words: str | Path) -> argparse.Namespace:
    return main.build_parser().parse_args(["study", *map(str, words)])


def both(root: Path, *words: str | Path) -> argparse.Namespace:
    edited = ("--edited", "A", root / "A", "--edited", "B", root / "B")
    return parse(*edited, "--source", root / "source", "-o", root / "study", *words)


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line on stderr of a command that must end with 2."""
    assert main.main(["study", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("emorig: ") and err.count("\n") == 1
    return err


def test_help_waits_for_nothing() -> None:
    build = "import sys; from emorig_diffusers.cli import main; main.build_parser()"
    tell = f"{build}; print({{*sys.modules}} & {{'torch', 'gradio', 'numpy', 'PIL'}})"
    folder = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", tell], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert out == "set()\n"


def test_pictures_that_do_not_match_are_listed_and_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = begin(both(root)).settings()
    assert settings["photos"] == {"happy": ["0.png", "1.png"]}
    expected = [
        "happy/alone.png: not in B",
        "happy/broken.png: a file is damaged or no picture",
        "happy/cut.png: the methods' pictures differ in shape",
        "happy/nobody.png: not in the source",
        "sad/0.png: not in B",
    ]
    assert sorted(settings["left_out"]) == expected
    assert sorted(capsys.readouterr().err.splitlines()) == [f"emorig: left out: {line}" for line in expected]


def test_one_emotion_without_subfolders(root: Path) -> None:
    edited = ("--edited", "A", root / "A" / "happy", "--edited", "B", root / "B" / "happy")
    settings = begin(parse(*edited, "--emotion", "happy", "-o", root / "study")).settings()
    assert settings["photos"] == {"happy": ["0.png", "1.png", "nobody.png"]}
    assert not settings["design"]["person"]


def test_a_study_goes_on_with_the_same_options_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    consent = root / "consent.md"
    consent.write_text("Do you agree?")
    own = both(root, "--questions", "12", "--seed", "5", "--consent", consent)
    settings = begin(own).settings()
    assert settings["consent"] == "Do you agree?"
    assert go_on(own).settings() == go_on(parse("-o", root / "study")).settings() == settings
    capsys.readouterr()
    for option, value in (("--questions", "13"), ("--seed", "0"), ("--source", root), ("--emotion", "sad")):
        line = refused(capsys, option, value, "-o", root / "study")
        assert f"was begun with another {option}" in line
    assert "another --edited" in refused(capsys, "--edited", "A", root / "B", "-o", root / "study")
    (root / "B" / "happy" / "1.png").unlink()
    assert "1.png', which is not there" in refused(capsys, "-o", root / "study")


def test_mistakes_are_told_in_a_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, one = ("-o", root / "study"), ("--edited", "A", root / "A")
    empty = root / "empty"
    empty.mkdir()
    (root / "blank.md").write_text(" \n")
    (root / "latin.md").write_bytes(b"\xe4")
    for words, sentence in (
        ((), "Say where to keep the study: -o DIR."),
        (study, "give --edited NAME DIR for every method"),
        (("--edited", "A", *study), "expected 2 arguments"),
        ((*one, "--edited", "A", root / "B", *study), "Methods need different names"),
        (("--edited", "a|b", root / "A", *study), "without '|'"),
        (("--edited", "A", root / "nowhere", *study), "There is no folder"),
        (("--edited", "A", empty, *study), "holds no pictures"),
        (("--edited", "A", root / "source", *study), "give --emotion NAME"),
        ((*one, "--emotion", "joy", *study), "invalid choice: 'joy'"),
        ((*one, "--source", empty, *study), "No picture can be used: happy/0.png: not in the source"),
        ((*one, "--questions", "0", *study), "give a whole number from 1"),
        ((*one, "--port", "99999", *study), "from 1 to 65535"),
        ((*one, "--consent", root / "none.md", *study), "No such file"),
        ((*one, "--consent", root / "blank.md", *study), "must be UTF-8 and not empty"),
        ((*one, "--consent", root / "latin.md", *study), "must be UTF-8 and not empty"),
        ((*one, "-o", root / "blank.md"), "File exists"),
        (("report", root), "There is no study in"),
    ):
        assert sentence in refused(capsys, *words)
    assert not is_study(root / "study")


def test_a_taken_port_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio")
    begin(both(root))
    capsys.readouterr()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main.main(["study", "-o", str(root / "study"), "--port", port]) == 2
    assert f"Cannot serve at 127.0.0.1:{port}" in capsys.readouterr().err


def test_report_is_printed_and_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(both(root))
    capsys.readouterr()
    assert main.main(["study", "report", str(root / "study")]) == 0
    out = capsys.readouterr().out
    assert (root / "study" / "report.md").read_text() == out
    assert json.loads((root / "study" / "report.json").read_text())["participants"]["agreed"] == 0
    assert {path.name for path in (root / "study").iterdir()} >= {FILE, "report.md", "report.json"}


def test_pictures_reach_the_page_small_and_without_a_name(root: Path) -> None:
    import base64
    import io

    path = write(root / "secret.png", np.kron(FACE, np.ones((5, 5, 1), np.uint8)))
    addresses = picture_address(path), ruined_address(path, 1), picture_address(root / "A" / "happy" / "0.png")
    images = [Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) for address in addresses]
    large, ruined, small = (np.asarray(image.convert("RGB"), float) for image in images)
    assert images[0].format == "WEBP"
    assert large.shape == ruined.shape == (720, 648, 3)
    assert np.array_equal(small, FACE)
    assert np.abs(large - ruined).mean() > 40
    with pytest.raises(StudyError, match="'none.png' cannot be read"):
        picture_address(root / "none.png")


def test_pictures_are_in_srgb_and_on_white(root: Path) -> None:
    import base64
    import io

    def shown(path: Path) -> np.ndarray:
        data = base64.b64decode(picture_address(path).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)

    wide = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entry = wide.index(b"rXYZ")  # a red beyond sRGB's
    place = int.from_bytes(wide[entry + 4 : entry + 8], "big")
    wide[place + 8 : place + 12] = (40000).to_bytes(4, "big")
    Image.fromarray(FACE).save(root / "wide.png", icc_profile=bytes(wide))
    assert (shown(root / "wide.png")[..., 0] - FACE[..., 0].astype(int)).mean() > 5
    veiled = np.dstack([FACE, np.full(FACE.shape[:2], 255, np.uint8)])
    veiled[:50, :, 3] = 0
    write(root / "veiled.png", veiled)
    assert (shown(root / "veiled.png")[:50] == 255).all()
    assert np.array_equal(shown(root / "veiled.png")[50:], FACE[50:])


def test_folders_know_their_files(root: Path) -> None:
    folders = Folders({"A": root / "A"}, root / "source")
    folders.check({"happy": ["0.png"]})
    with pytest.raises(StudyError, match="2.png"):
        folders.check({"happy": ["0.png", "2.png"]})
