"""The emorig command: results where they are asked for, nothing else touched, one line for every mistake."""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from recording_pipeline import RecordingPipeline

from emorig_diffusers import EMOTIONS, EmoRigPipeline, FaceCodes, __version__
from emorig_diffusers.cli import main
from emorig_diffusers.evaluation import sheets
from emorig_diffusers.files import assets
from emorig_diffusers.photo import files
from emorig_diffusers.photo import io as photo_io

ROOT = Path(__file__).parents[2]
ASTRONAUT = skimage.data.astronaut()


@pytest.fixture(scope="module")
def recorder(pipe: EmoRigPipeline) -> RecordingPipeline:
    return RecordingPipeline(**pipe.components)


@pytest.fixture(autouse=True)
def calls(recorder: RecordingPipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    """The command works with the recorder, but for models that are opened from folders: what it is asked."""
    load = functools.cache(main.load_pipeline)
    monkeypatch.setattr(main, "load_pipeline", lambda name: recorder if name == "emorig-open" else load(name))
    recorder.calls.clear()
    return recorder.calls


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write(tmp_path / "astronaut.png", ASTRONAUT)


def write(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def emorig(*args: str | Path) -> int:
    return main.main([str(arg) for arg in args])


def run_process(code: list[str], *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *code, *map(str, args)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """The one line on stderr of a command that must end with 2 and print nothing else."""
    capsys.readouterr()
    assert emorig(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("emorig: ") and err.endswith("\n") and err.count("\n") == 1
    return err


# edit


def test_edit_changes_the_face_and_nothing_else(
    pipe: EmoRigPipeline, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really."""
    monkeypatch.setattr(main, "load_pipeline", lambda name: pipe)
    assert emorig("edit", photo, "--emotion", "surprise", "--seed", "3", "-o", tmp_path / "out.png") == 0
    changed = (read(tmp_path / "out.png") != ASTRONAUT).any(axis=2)
    assert changed.shape == ASTRONAUT.shape[:2]
    assert changed[70:180, 180:270].mean() > 0.3  # the astronaut's face
    around = np.zeros_like(changed)
    around[15:234, 134:317] = True  # twice its box
    assert not changed[~around].any()


def test_intensity_0_is_the_photo(
    pipe: EmoRigPipeline, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(main, "load_pipeline", lambda name: pipe)
    out = tmp_path / "results" / "astronaut.png"
    out.parent.mkdir()
    assert emorig("edit", photo, "--emotion", "happy", "--intensity", "0", "-o", out.parent) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    assert np.array_equal(read(out), ASTRONAUT)


def test_every_way_to_say_what_to_do(photo: Path, tmp_path: Path, calls: list[tuple[Path, dict[str, Any]]]) -> None:
    other = write(tmp_path / "other.png", ASTRONAUT[:, ::-1])
    given = {"intensity": 1.0, "face": "largest", "num_inference_steps": None, "seed": 1}
    ways: list[tuple[tuple[str | Path, ...], dict[str, Any]]] = [
        (("--emotion", "surprise"), {"emotion": "surprise"}),
        (("--blend", "happy=.6,surprise=.4"), {"emotion": {"happy": 0.6, "surprise": 0.4}}),
        (("--reference", other), {"reference": other}),
        (("--au", "AU12=.5"), {"action_units": {"AU12": 0.5}}),
        (("--au", "AU12=.5", "--au", "jawOpen=.3"), {"action_units": {"AU12": 0.5, "jawOpen": 0.3}}),
        (("--rotate", "-10", "0", "0"), {"rotate": [-10.0, 0.0, 0.0]}),
        (("--emotion", "sad", "--intensity", ".8", "--steps", "2"),
         {"emotion": "sad", "intensity": 0.8, "num_inference_steps": 2}),
    ]  # fmt: skip
    results = [ASTRONAUT]
    for i, (words, asked) in enumerate(ways):
        assert emorig("edit", photo, *words, "--seed", "1", "-o", tmp_path / f"{i}.png") == 0
        assert calls[-1] == (photo, given | asked)
        results.append(read(tmp_path / f"{i}.png"))
    assert len({pixels.tobytes() for pixels in results}) == len(results)


def test_results_repeat_without_a_seed(photo: Path, tmp_path: Path, calls: list[tuple[Path, dict[str, Any]]]) -> None:
    assert emorig("edit", photo, "--emotion", "sad", "-o", tmp_path / "out.png") == 0
    assert calls[-1][1]["seed"] == 0


def test_choose_the_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = np.concatenate([ASTRONAUT[:300, 100:400], ASTRONAUT[:300, 100:400]], axis=1)
    photo, out = write(tmp_path / "two.png", two), tmp_path / "out.png"
    sides = {"2": (False, True), "all": (True, True)}
    for face, expected in sides.items():
        assert emorig("edit", photo, "--emotion", "surprise", "--face", face, "-o", out) == 0
        changed = read(out) != two
        assert (changed[:, :300].any(), changed[:, 300:].any()) == expected
    assert "shows 2 faces" in refused(capsys, "edit", photo, "--emotion", "sad", "--face", "3", "-o", out)
    assert np.array_equal(read(out) != two, changed), "a failed run must leave the older result"


# grid, codes, export, fetch


def test_grid(photo: Path, tmp_path: Path, calls: list[tuple[Path, dict[str, Any]]]) -> None:
    assert emorig("grid", photo, "--seed", "5", "-o", tmp_path / "sheet.png") == 0
    assert [options["emotion"] for _, options in calls] == [[emotion] for emotion in EMOTIONS]
    assert {options["seed"] for _, options in calls} == {5}
    sheet = read(tmp_path / "sheet.png")
    side, step = 256, 256 + sheets.GAP
    assert sheet.shape == (3 * (side + sheets.CAPTION) + sheets.GAP, 3 * step + sheets.GAP, 3)
    places = [(row * (side + sheets.CAPTION), sheets.GAP + column * step) for row in range(3) for column in range(3)]
    cells = [sheet[y : y + sheets.CAPTION + side, x : x + side] for y, x in places]
    assert all((cell[: sheets.CAPTION] < 100).any() for cell in cells), "every picture has a caption"
    pictures = [cell[sheets.CAPTION :] for cell in cells]
    assert len({p.tobytes() for p in pictures}) == 9
    around = pictures[0][:20].astype(int)  # above the head
    assert all(abs(p[:20] - around).mean() < 1 for p in pictures), "one place"


@pytest.mark.parametrize(("box", "side"), [((10, 20, 50, 60), 256), ((100, 0, 400, 300), 480), ((0, 0, 900, 900), 512)])
def test_cut_face_stays_within_the_photo(box: tuple[float, ...], side: int) -> None:
    """The photo's colour tells the place: no tile may show anything but the photo."""
    ramp = np.full((600, 900, 3), 200, np.uint8)
    tile = np.asarray(sheets.cut_face(ramp, box))
    assert tile.shape == (side, side, 3)
    assert (tile == 200).all()


def test_codes_come_back(
    pipe: EmoRigPipeline, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert emorig("codes", photo) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert emorig("codes", photo, "--face", "1", "-o", tmp_path / "codes.json") == 0
    [face] = json.loads(printed)
    assert [face] == json.loads((tmp_path / "codes.json").read_text())
    [fitted] = pipe.encode(ASTRONAUT)
    assert face["number"] == 1
    assert face["box"] == list(fitted.face.box)
    codes = FaceCodes.from_dict(face["codes"])
    for name in ("shape", "expression", "pose", "camera", "light", "texture"):
        assert torch.equal(getattr(codes, name), getattr(fitted.codes, name)), name
    named = pipe.head.config.expression_names
    assert [face["expression"][unit] for unit in named] == face["codes"]["expression"][0]


def test_exported_folder_is_a_model(
    pipe: EmoRigPipeline, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is opened from it is the same, number by number, and edits."""
    folder, load = tmp_path / "hub", main.load_pipeline
    monkeypatch.setattr(main, "load_pipeline", lambda name: pipe if name == "emorig-open" else load(name))
    assert emorig("export", folder) == 0
    assert capsys.readouterr() == (f"{folder}\n", "")
    again = load(str(folder))
    settings = [{k: v for k, v in p.config.items() if not k.startswith("_")} for p in (pipe, again)]
    assert settings[0] == settings[1]
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            states = part.state_dict(), getattr(again, name).state_dict()
            assert states[0].keys() == states[1].keys()
            assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), name
    zero = ("--emotion", "happy", "--intensity", "0")
    assert emorig("edit", photo, *zero, "--model", folder, "-o", tmp_path / "out.png") == 0
    assert np.array_equal(read(tmp_path / "out.png"), ASTRONAUT)
    capsys.readouterr()
    assert "not empty" in refused(capsys, "export", folder)


def test_fetch_prints_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert emorig("fetch") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == list(assets.ASSETS)
    assert all(Path(line.split(": ", 1)[1]).is_file() for line in lines)


def test_fetch_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    if all(assets._installed_path(asset) for asset in assets.ASSETS.values()):
        pytest.skip("every network is installed as a package")
    assert "run `emorig fetch` once while online" in refused(capsys, "fetch")


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
        (("--emotion", "happy", "--reference", "x.jpg"), "not allowed with"),
        (("--emotion", "happy", "--face", "left"), "largest, all or a number from 1"),
        (("--emotion", "happy", "--face", "0"), "largest, all or a number from 1"),
        (("--emotion", "happy", "--seed", "-1"), "whole number"),
        (("--emotion", "happy", "--steps", "0"), "whole number from 1 to 1000"),
        (("--emotion", "happy", "--model", "nothing/here"), "emorig-open"),
        (("--emotion", "happy", "--mood", "1"), "unrecognized arguments"),
        (("--au", "AU99=1"), "AU12"),
        (("--au", "AU12=inf"), "must be a number from -2 to 2"),
        (("--rotate", "nan", "0", "0"), "three angles"),
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
