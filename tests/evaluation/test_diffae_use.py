"""A Diffusion Autoencoder where the other pipelines are used: the command line, sheets and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import assert_close
from PIL import Image
from small_diffae import CODE, small_diffae

from emorig_diffusers import EMOTIONS, EmoRigPipeline
from emorig_diffusers.cli import main, models
from emorig_diffusers.evaluation import scores, sheets
from emorig_diffusers.evaluation.compare import (
    CODE_BUFFERS,
    OtherPipeline,
    compare,
    describe_comparison,
    draw_comparison,
)
from emorig_diffusers.hub.repository import export_hub, resolve
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline

FACE = np.s_[70:180, 180:270]  # rows, columns of the astronaut's face


@pytest.fixture(scope="module")
def coded() -> DiffAEEmotionPipeline:
    """With a shape encoder, and quick."""
    pipe = small_diffae()
    pipe.register_to_config(default_num_inference_steps=4, inversion_steps=8)
    pipe.register_modules(shape_encoder=EmocaEncoder.from_pretrained(resolve("encoder-open")))
    return pipe


@pytest.fixture(scope="module")
def folder(coded: DiffAEEmotionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_hub(coded, tmp_path_factory.mktemp("models") / "dae")


@pytest.fixture(scope="module", autouse=True)
def opened_once(pipe: EmoRigPipeline) -> Iterator[None]:
    """Open every model and judge once for all tests."""
    load = cache(models.load_pipeline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_pipeline", lambda name: pipe if name == "emorig-open" else load(str(name)))
        patch.setattr(scores, "load_judges", cache(scores.load_judges))
        yield


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


@pytest.fixture(scope="module")
def hopper_photo(hopper: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "hopper.png"
    Image.fromarray(hopper).save(path)
    return path


def emorig(*args: str | Path) -> int:
    return main.main([str(arg) for arg in args])


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    capsys.readouterr()
    assert emorig(*args) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("emorig: ") and err.count("\n") == 1
    return err


# edit, grid, codes, export


def test_edits_are_the_pipelines(
    coded: DiffAEEmotionPipeline, folder: Path, photo: Path, hopper_photo: Path, tmp_path: Path, astronaut: np.ndarray
) -> None:
    ways = [
        (("--emotion", "surprise", "--steps", "3"), {"emotion": "surprise", "num_inference_steps": 3}),
        (("--blend", "happy=.6,sad=.4", "--intensity", "1.5"),
         {"emotion": {"happy": 0.6, "sad": 0.4}, "intensity": 1.5}),
        (("--reference", hopper_photo, "--face", "1"), {"reference": hopper_photo, "face": 1}),
        (("--attribute", "Young=-2", "--attribute", "Smiling=1", "--keep-shape", ".1"),
         {"attributes": {"Young": -2.0, "Smiling": 1.0}, "shape_guidance": 0.1}),
    ]  # fmt: skip
    seen = {astronaut.tobytes()}
    for words, options in ways:
        done = emorig("edit", photo, *words, "--model", folder, "--seed", "1", "--no-mark", "-o", tmp_path / "out.png")
        assert done == 0
        result = np.asarray(Image.open(tmp_path / "out.png"))
        assert_close(result, coded(astronaut, **options, output_type="np").images[0])
        assert (result[FACE] != astronaut[FACE]).any() and result.tobytes() not in seen
        seen.add(result.tobytes())


def test_grid_inverts_once(coded: DiffAEEmotionPipeline, folder: Path, photo: Path, tmp_path: Path) -> None:
    inverted: list[int] = []
    loaded = models.load_pipeline(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        invert = loaded.stochastic_code
        patch.setattr(loaded, "stochastic_code", lambda *a: inverted.append(len(a[0])) or invert(*a))
        assert emorig("grid", photo, "--model", folder, "-o", tmp_path / "sheet.png") == 0
    assert inverted == [1]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    side = 256
    places = [(row * (side + sheets.CAPTION) + sheets.CAPTION, sheets.GAP + column * (side + sheets.GAP))
              for row in range(3) for column in range(3)]  # fmt: skip
    assert len({sheet[y : y + side, x : x + side].tobytes() for y, x in places}) == 1 + len(EMOTIONS)


def test_codes_are_semantic(
    coded: DiffAEEmotionPipeline, folder: Path, photo: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert emorig("codes", photo, "--model", folder) == 0
    [face] = json.loads(capsys.readouterr().out)
    [found] = coded.encode(astronaut)
    z = coded.semantic_code(found.picture[None])
    assert face["number"] == 1 and face["box"] == list(found.box)
    assert len(face["z_sem"]) == CODE and torch.allclose(torch.tensor([face["z_sem"]]), z, atol=1e-5)
    assert list(face["emotions"]) == list(EMOTIONS) and sum(face["emotions"].values()) == pytest.approx(1)
    young = coded.attribute_classifier.probabilities(z)[0, 1].item()
    assert face["attributes"]["Young"] == pytest.approx(young, abs=1e-5)


def test_export_comes_back(folder: Path, photo: Path, tmp_path: Path) -> None:
    assert emorig("export", tmp_path / "again", "--model", folder) == 0
    for i, model in enumerate((folder, tmp_path / "again")):
        assert emorig("edit", photo, "--emotion", "fear", "--model", model, "-o", tmp_path / f"{i}.png") == 0
    assert_close(*(Image.open(tmp_path / f"{i}.png") for i in range(2)))


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("dae", ("--au", "AU12=.5"), "has no head, so no --au"),
        ("dae", ("--rotate", "5", "0", "0", "--emotion", "sad"), "has no head, so no --rotate"),
        ("dae", ("--attribute", "Beard=1"), "Unknown attribute 'Beard': choose from Smiling, Young"),
        ("dae", ("--attribute", "Young=9"), "must be a number from -5 to 5"),
        ("dae", ("--attribute", "Young"), "NAME=NUMBER"),
        ("dae", ("--emotion", "sad", "--keep-shape", "-1"), "shape_guidance must be a number from 0 to 10"),
        ("dae", ("--emotion", "joy"), "Unknown emotion"),
        ("dae", (), "Nothing to do"),
        ("open", ("--attribute", "Young=1"), "use a Diffusion Autoencoder with one, or leave --attribute out"),
        ("open", ("--emotion", "sad", "--keep-shape", "1"), "--keep-shape needs a Diffusion Autoencoder"),
    ],
)
def test_what_a_kind_cannot_do_is_said_before_a_photo_is_read(
    model: str, options: tuple[str, ...], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unread = tmp_path / "photo.png"
    unread.write_text("no picture")
    chosen = folder if model == "dae" else "emorig-open"
    assert says in refused(capsys, "edit", unread, *options, "--model", chosen, "-o", tmp_path / "out.png")


def test_a_model_without_emotions(
    folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = models.load_pipeline(str(folder))
    kept = loaded.emotion_classifier
    loaded.register_modules(emotion_classifier=None)
    try:
        out = tmp_path / "out.png"
        assert "knows no emotions" in refused(capsys, "grid", photo, "--model", folder, "-o", out)
        line = refused(capsys, "edit", photo, "--emotion", "sad", "--model", folder, "-o", out)
        assert "has no emotion classifier" in line
    finally:
        loaded.register_modules(emotion_classifier=kept)


# compare


def test_others_stand_beside_the_pairs(
    coded: DiffAEEmotionPipeline, pipe: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray
) -> None:
    plain = EmoRigPipeline(pipe.head, pipe.encoder)
    others = {"dae": OtherPipeline(coded, 3), "plain": OtherPipeline(plain)}
    comparison = compare(plain, hopper, astronaut, others=others)
    first, second = comparison.others
    own = coded(hopper, reference=astronaut, num_inference_steps=3, output_type="np")
    assert_close(first.result, own.images[0])
    assert tuple(first.buffers) == CODE_BUFFERS
    assert_close(first.buffers["edited"], own.faces[0][0].buffers["edited"])
    assert_close(second.result, comparison.pairs[0].result)
    here, there, seen = second.read["landmark"]
    pair = comparison.pairs[0]
    for codes, same in ((here, pair.before), (there, pair.wanted), (seen, pair.seen)):
        torch.testing.assert_close(codes.expression, same.expression, atol=1e-3, rtol=0)
    assert not torch.equal(first.read["landmark"][2].expression, seen.expression)
    sheet = draw_comparison(comparison)
    assert sheet.size == (3 * (256 + sheets.GAP) + sheets.GAP, 5 * (256 + sheets.CAPTION) + sheets.GAP)
    x, y = 2 * sheets.GAP + 256, 256 + 2 * sheets.CAPTION
    assert np.array_equal(sheet.crop((x, y, x + 256, y + 256)), first.crop)
    lines = describe_comparison(comparison).splitlines()
    rows = {line[:24].strip(): line[24:].split() for line in lines[3:6]}
    pair, beside = rows["S: landmark  T: landmark"], rows["plain, landmark"]
    assert beside == [pair[0], "-", pair[2], pair[3], "-", pair[5]]
    assert rows["dae, landmark"][0] == pair[0] and rows["dae, landmark"][1] == "-"
    assert comparison.milliseconds["edit, dae"] > 0 and comparison.milliseconds["edit, plain"] > 0


def test_compare_command(
    folder: Path, photo: Path, hopper_photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    run = ("compare", hopper_photo, photo, "-o", out, "--steps", "1")
    assert emorig(*run, "--with", folder, "--seed", "3") == 0
    printed, err = capsys.readouterr()
    assert err == "" and "\ndae, landmark " in printed and "\nedit, dae " in printed
    assert Image.open(out).width == 2 * (256 + sheets.GAP) + sheets.GAP
    out.unlink()
    assert "reads no head's codes" in refused(capsys, *run, "--model", folder)
    assert "can do nothing without its network" in refused(capsys, *run, "--with", f"{folder}@0")
    assert "'dae' is given twice" in refused(capsys, *run, "--with", folder, "--with", f"dae={folder}")
    assert not out.exists()


# evaluate


def test_evaluate_scores_and_goes_on(
    folder: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    judges = ("--judge", "fer", "--identity", "sface", "--emotion", "happy")
    run = ("evaluate", "--source", photo.parent, "--pipeline", f"coded={folder}@3", *judges, "-o", out)
    assert emorig(*run) == 0
    record = next(r for r in json.loads((out / "scores.json").read_text())["pictures"] if r["method"] == "coded")
    assert record["failure"] is None and record["seconds"]["edit"] > 0 and record["csim"] > 0.3
    made = out / "edited/coded/happy/astronaut.png"
    loaded = models.load_pipeline(str(folder))
    expected = loaded(photo, "happy", num_inference_steps=3, output_type="np").images[0]
    assert_close(Image.open(made), expected)
    state = made.stat().st_mtime_ns
    assert emorig(*run) == 0 and made.stat().st_mtime_ns == state
    none = ("evaluate", "--source", photo.parent, "--pipeline", f"coded={folder}@0", *judges, "-o", tmp_path / "none")
    assert "can do nothing without its network: give it 1 step or more" in refused(capsys, *none)
    assert not (tmp_path / "none").exists()
