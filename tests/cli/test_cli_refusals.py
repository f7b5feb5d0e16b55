"""The emorig command: one line for every mistake, before any work, and no words but its own."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import skimage.data
from command import ASTRONAUT, ROOT, emorig, read, refused, run_process, write
from recording_pipeline import RecordingPipeline

from emorig_diffusers import EMOTIONS, __version__
from emorig_diffusers.photo import files
from emorig_diffusers.photo import io as photo_io

pytestmark = pytest.mark.usefixtures("calls")


# mistakes


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 400 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def cut_jpeg(folder: Path) -> bytes:
    data = write(folder / "whole.jpg", ASTRONAUT).read_bytes()
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_face.png", "No face was found"),
        ("empty.jpg", "is empty"),
        ("text.jpg", "not a readable picture"),
        ("cut.jpg", "damaged"),
        ("bomb.png", "100 megapixels"),
        ("missing.jpg", "There is no file"),
    ],
)
@pytest.mark.parametrize("command", ["edit", "grid", "codes", "reference"])
def test_bad_photos(
    name: str, says: str, command: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, out = tmp_path / name, tmp_path / "out.png"
    if name == "no_face.png":
        write(bad, skimage.data.coffee()[:200, :300])
    elif name != "missing.jpg":
        content = {"empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": cut_jpeg(tmp_path), "bomb.png": bomb()}
        bad.write_bytes(content[name])
    args = {
        "edit": ("edit", bad, "--emotion", "happy"),
        "grid": ("grid", bad),
        "codes": ("codes", bad),
        "reference": ("edit", photo, "--reference", bad),
    }
    line = refused(capsys, *args[command], "-o", out)
    assert says in line and name in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--emotion", "joyful"), ", ".join(EMOTIONS)),
        (("--blend", "happy=.6,joyful=.4"), ", ".join(EMOTIONS)),
        (("--blend", "happy"), "NAME=NUMBER"),
        (("--blend", "happy=nan"), "number from 0 to 1.5"),
        (("--blend", "happy=.6,sad=.1,happy=.4"), "happy is named twice"),
        (("--au", "AU12=.5", "--au", "AU4=.1,AU12=.3"), "AU12 is named twice"),
        (("--rotate", "60", "0", "0"), "from -30 to 30 degrees"),
        (("--emotion", "happy", "--intensity", "nan"), "intensity must be a number from 0 to 1.5"),
        (("--emotion", "happy", "--intensity", "inf"), "intensity must be a number from 0 to 1.5"),
        (("--emotion", "happy", "--intensity", "-1"), "intensity must be a number from 0 to 1.5"),
        (("--emotion", "happy", "--intensity", "much"), "invalid float value"),
        (("--emotion", "happy", "--reference", ROOT / "docs" / "emotions.gif"), "Give one of emotion, reference"),
        (("--emotion", "happy", "--face", "left"), "largest, all or a number from 1"),
        (("--emotion", "happy", "--face", "0"), "largest, all or a number from 1"),
        (("--emotion", "happy", "--seed", "-1"), "whole number"),
        (("--emotion", "happy", "--steps", "0"), "whole number from 1 to 1000"),
        (("--emotion", "happy", "--model", "nothing/here"), "emorig-open"),
        (("--emotion", "happy", "--mood", "1"), "unrecognized arguments"),
        (("--au", "AU99=1"), "AU12"),
        (("--au", "AU12=inf"), "must be a number from -2 to 2"),
        (("--gaze", "10", "left"), "two angles or camera"),
        (("--gaze", "10"), "gaze must be two angles"),
        (("--rotate", "nan", "0", "0"), "three angles"),
        (("--edits", "none.json"), "there is no file 'none.json'"),
        (("--edits", '[{"emotion": "happy"'), "this is no JSON such as"),
        (("--edits", '{"left": [{"emotion": "happy"}]}'), "by their numbers from 1, got ['left']"),
        (("--edits", '{"1": {"emotion": "happy"}}'), "edits must be a list such as"),
        (("--edits", '[{"emotion": "joyful"}]'), ", ".join(EMOTIONS)),
        (("--edits", '[{"face": 2}]'), "edits cannot have 'face'"),
        ((), "Nothing to do"),
    ],
)
def test_bad_options(
    options: tuple[str, ...],
    says: str,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert says in refused(capsys, "edit", photo, *options, "-o", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_bad_results_are_refused_before_any_work(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model does not exist: a complaint about anything else was made before it was opened."""
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    (tmp_path / "empty").mkdir()
    cases = [
        (photo, photo, "is what is read"),
        (photo, tmp_path / "link.png", "is what is read"),
        (photo, tmp_path, "is what is read"),
        (tmp_path, tmp_path, "is what is read"),
        (tmp_path, photo, "is a file"),
        (photo, tmp_path / "out.gif", "use .jpg"),
        (photo, tmp_path / "out", "use .jpg"),
        (photo, tmp_path / "nowhere" / "out.png", "does not exist"),
        (tmp_path / "empty", tmp_path / "out", "holds no photos"),
        (photo, "", "the path is empty"),
    ]
    for source, out, says in cases:
        assert says in refused(capsys, "edit", source, "--emotion", "happy", "--model", "none/such", "-o", out)
    line = refused(capsys, "edit", ROOT / "tests", "--reference", photo, "--model", "none/such", "-o", photo)
    assert "is a file" in line
    other = write(tmp_path / "other.png", ASTRONAUT)
    line = refused(capsys, "edit", other, "--reference", photo, "--model", "none/such", "-o", photo)
    assert "is what is read" in line
    assert "one face" in refused(capsys, "grid", photo, "--face", "all", "-o", tmp_path / "sheet.png")
    assert photo.read_bytes() == before


def test_results_that_cannot_be_written(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    (out / photo.name).mkdir(parents=True)
    assert "Cannot write" in refused(capsys, "edit", photo, "--emotion", "happy", "--intensity", "0", "-o", out)
    line = refused(capsys, "codes", photo, "-o", tmp_path / "nowhere" / "codes.json")
    assert line == f"emorig: '{tmp_path / 'nowhere' / 'codes.json'}': No such file or directory.\n"
    assert sorted(p.name for p in out.iterdir()) == [photo.name]


@pytest.mark.parametrize(
    "index",
    ["", "[]", "{}", '{"_class_name": "StableDiffusionPipeline"}', '{"_class_name": "EmoRigPipeline", "head": 3}'],
)
def test_damaged_models(index: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text(index)
    line = refused(capsys, "edit", photo, "--emotion", "sad", "--model", model, "-o", tmp_path / "out.png")
    assert "cannot be loaded" in line


def test_interrupt(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RecordingPipeline, "encode", interrupt)
    assert emorig("edit", photo, "--emotion", "happy", "-o", tmp_path / "out.png") == 130
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "out.png").exists()


# the process


def test_suffixes_are_what_can_be_written() -> None:
    assert tuple(photo_io._SAVE_OPTIONS) == files.WRITABLE


def test_help_and_version_do_not_wait_for_torch() -> None:
    tell = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    run = "from emorig_diffusers.cli.main import main; main()"
    result = run_process(["-c", f"{tell}; {run}"], "edit", "--help")
    assert result.returncode == 0, result.stderr
    assert all(emotion in result.stdout for emotion in EMOTIONS)
    assert result.stdout.endswith("False\n")
    assert run_process(["-m", "emorig_diffusers"], "--version").stdout == f"emorig {__version__}\n"


def test_only_our_own_words(photo: Path, tmp_path: Path) -> None:
    result = run_process(["-m", "emorig_diffusers"], "edit", photo, "--emotion", "happy", "-o", tmp_path / "out.png")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{tmp_path / 'out.png'}\n", "")
    assert read(tmp_path / "out.png").shape == ASTRONAUT.shape
