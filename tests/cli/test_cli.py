"""The emorig command: results where they are asked for, nothing else touched, one line for every mistake."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ASTRONAUT, emorig, read, refused, write

from emorig_diffusers import EMOTIONS, EmoRigPipeline, FaceCodes
from emorig_diffusers.cli import models
from emorig_diffusers.evaluation import sheets
from emorig_diffusers.files import assets
from emorig_diffusers.provenance.verify import verify

pytestmark = pytest.mark.usefixtures("calls")


# edit


def test_edit_changes_the_face_and_nothing_else(
    pipe: EmoRigPipeline, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really."""
    monkeypatch.setattr(models, "load_pipeline", lambda name: pipe)
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
    monkeypatch.setattr(models, "load_pipeline", lambda name: pipe)
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
        (("--emotion", "fear", "--reference", other, "--modes", "pose"),
         {"emotion": "fear", "reference": other, "modes": ["pose"]}),
        (("--prompt", "a slight smile"), {"prompt": "a slight smile"}),
        (("--au", "AU12=.5"), {"action_units": {"AU12": 0.5}}),
        (("--au", "AU12=.5", "--au", "jawOpen=.3"), {"action_units": {"AU12": 0.5, "jawOpen": 0.3}}),
        (("--rotate", "-10", "0", "0"), {"rotate": [-10.0, 0.0, 0.0]}),
        (("--light-turn", "-20", "5", "--light-strength", "0"), {"light_turn": [-20.0, 5.0], "light_strength": 0.0}),
        (("--gaze", "-20", "5"), {"gaze": [-20.0, 5.0]}),
        (("--gaze", "camera", "--au", "AU1=.5"), {"gaze": "camera", "action_units": {"AU1": 0.5}}),
        (("--edits", '[{"emotion": "fear"}, {"action_units": {"AU1": 0.3}}]'),
         {"edits": [{"emotion": "fear"}, {"action_units": {"AU1": 0.3}}]}),
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


def test_edits_come_from_a_file(photo: Path, tmp_path: Path, calls: list[tuple[Path, dict[str, Any]]]) -> None:
    """Faces by their numbers, as in code; and those of a preset, which names none."""
    steps, file = [{"emotion": "sad", "intensity": 0.5}], tmp_path / "edits.json"
    for written, asked in ({"1": steps, "2": []}, {1: steps, 2: []}), ({"name": "Blue", "edits": steps}, steps):
        file.write_text(json.dumps(written))
        assert emorig("edit", photo, "--edits", file, "-o", tmp_path / "out.png") == 0
        assert calls[-1][1]["edits"] == asked


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
    said = verify(tmp_path / "sheet.png").metadata.edit
    assert said and said["Emotion"].split(", ") == list(EMOTIONS)


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
    folder, load = tmp_path / "hub", models.load_pipeline
    monkeypatch.setattr(models, "load_pipeline", lambda name: pipe if name == "emorig-open" else load(name))
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


def test_fetch_lists_every_network_without_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    assert emorig("fetch", "--list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(tmp_path.iterdir()) == []
    weights = assets.WEIGHTS
    shipped = {file.parent.relative_to(weights).as_posix(): file for file in weights.rglob("*.safetensors")}
    assert set(rows) == set(assets.ASSETS) | set(shipped)
    assert {name: row["sha256"] for name, row in rows.items() if name in assets.ASSETS} == {
        name: asset.sha256 for name, asset in assets.ASSETS.items()
    }
    for name, file in shipped.items():
        assert rows[name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert all(row[key] for row in rows.values() for key in ("version", "size", "licence", "source", "state"))
    assert emorig("fetch", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1 and all(row["sha256"] in line for row, line in zip(rows.values(), lines[1:]))
    assert len({line.index(row["sha256"]) for row, line in zip(rows.values(), lines[1:])}) == 1


def test_fetch_prints_where_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert emorig("fetch", "--json") == 0
    places = json.loads(capsys.readouterr().out)
    assert list(places) == list(assets.ASSETS) and all(Path(place).is_file() for place in places.values())
