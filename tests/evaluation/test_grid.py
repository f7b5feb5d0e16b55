"""One pipeline at several settings: what a grid means, and its rows in a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import pytest
from pictures import assert_close
from PIL import Image
from small_ldm import small_ldm

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main, models
from emorig_diffusers.evaluation import scores
from emorig_diffusers.evaluation.grid import numeric_arguments, read_grids, row_label
from emorig_diffusers.evaluation.metrics import psnr
from emorig_diffusers.evaluation.pictures import tradeoff
from emorig_diffusers.evaluation.table import Estimate
from emorig_diffusers.pipelines.emotion_ldm import EmotionLDMPipeline

JUDGES = ("--judge", "face-api", "--identity", "sface")


def test_grids_are_all_combinations_and_stand_beside_each_other() -> None:
    assert read_grids([]) == []
    assert read_grids([["strength=.3,.5", "steps=6,20"]]) == [
        {"strength": s, "num_inference_steps": n} for s in (0.3, 0.5) for n in (6, 20)
    ]
    both = read_grids([["guidance_scale=1,2"], ["guidance=2,4"]])
    assert both == [{"guidance_scale": 1}, {"guidance_scale": 2}, {"guidance_scale": 4}]
    assert row_label("ldm", {"strength": 0.5, "num_inference_steps": 6}) == "ldm strength=0.5 num_inference_steps=6"


def test_numbers_of_a_call_are_told_by_their_types() -> None:
    known = numeric_arguments()
    assert known["guidance_scale"] is known["intensity"] is known["shape_guidance"] is float
    assert known["num_inference_steps"] is known["best_of"] is known["inversion_steps"] is int
    assert not {"emotion", "face", "detail", "latents", "rotate"} & known.keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["emotion=1,2"], "A grid cannot run over 'emotion': choose from intensity"),
        (["strength"], "'strength' does not give numbers"),
        (["steps=1.5,2"], "'steps=1.5,2' does not give whole numbers"),
        (["strength=.3,much"], "does not give numbers with commas between, such as strength=1,2"),
        (["guidance=1", "guidance_scale=2"], "guidance_scale is named twice in one grid"),
    ],
)
def test_wrong_grids(words: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_grids([words])


def test_rows_of_one_pipeline_are_a_line_in_the_plot() -> None:
    estimate = lambda mean: Estimate(mean, mean - 0.05, mean + 0.05, 9)
    points = {str(i): (estimate(0.2 * i), estimate(1 - 0.1 * i)) for i in range(1, 5)}
    alone = {"rival": {"": (Estimate(0.5, None, None, 1), Estimate(0.5, None, None, 1))}}
    plots = [np.asarray(tradeoff(series, "nobody")) for series in ({"ldm, strength": points}, alone)]
    assert all(plot.shape[0] > 300 and plot.std() > 5 for plot in plots) and (plots[0] != plots[1]).any()


# the command


@pytest.fixture(scope="module")
def ldm(pipe: EmoRigPipeline) -> Iterator[EmotionLDMPipeline]:
    """Opened as "ldm" by the command line, and all judges once."""
    opened = small_ldm()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_pipeline", lambda name: opened if name == "ldm" else pipe)
        patch.setattr(scores, "load_judges", cache(scores.load_judges))
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    shutil.copy(str(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)), folder / "hopper.jpg")
    return folder


def emorig(*args: str | Path) -> int:
    return main.main(["evaluate", *map(str, args)])


def test_a_grid_of_a_pipeline_is_rows_of_a_report(
    ldm: EmotionLDMPipeline, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []
    watched = ldm.unet.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    out = tmp_path / "report"
    run = ("--source", source, "--pipeline", "ldm", "--emotions", "happy,sad", *JUDGES, "--steps", "2",
           "--grid", "guidance_scale=1,4", "--grid", "steps=3", "--reconstructions", "-o", out)  # fmt: skip
    assert emorig(*run) == 0
    watched.remove()
    # sad is what the judge sees: one inversion a row, then happy and the face as it is together
    assert calls == [1, 1, 2, 2] + [2, 2, 4, 4] + [2, 2, 2, 4, 4, 4]
    content = json.loads((out / "scores.json").read_text())
    rows = ["ldm guidance_scale=1", "ldm guidance_scale=4", "ldm num_inference_steps=3"]
    assert list(content["table"]) == ["unedited", *rows]
    assert content["edited"][rows[0]]["point"] == {"guidance_scale": 1}
    records = {(r["method"], r["emotion"], r["name"]): r for r in content["pictures"]}
    assert not any(r["failure"] for r in records.values())
    hopper = Image.open(source / "hopper.jpg").convert("RGB")
    wanted = ldm(hopper, "happy", num_inference_steps=2, guidance_scale=4, output_type="np")
    made = out / "edited" / rows[1]
    assert_close(Image.open(made / "happy/hopper.png"), Image.fromarray(wanted.images[0]))
    drawn, own = wanted.faces[0][0].drawn, ldm.reconstruct(hopper)
    assert_close(Image.open(made / "happy+network/hopper.png"), drawn)
    assert_close(Image.open(made / "reconstruction/hopper.png"), own)
    figure = records[rows[1], "happy", "hopper"]["own_psnr"]
    assert figure == pytest.approx(psnr(np.asarray(drawn), np.asarray(own)), abs=0.05)
    assert figure != pytest.approx(records[rows[1], "happy", "hopper"]["psnr"], abs=1)
    for record in records.values():
        shown = max(record["probabilities_before"], key=record["probabilities_before"].get)
        assert record["accuracy_changed"] == (None if shown == record["emotion"] else record["accuracy"])
    text = (out / "report.md").read_text()
    assert "## Table against reconstructions" in text and "PSNR to the reconstruction ↑" in text
    assert "identity-accuracy.png" in text
    with Image.open(out / "identity-accuracy.png") as plot:
        assert np.asarray(plot).std() > 5
    state = {file: file.stat().st_mtime_ns for file in made.rglob("*.png")}
    assert emorig(*run) == 0 and state == {file: file.stat().st_mtime_ns for file in made.rglob("*.png")}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--edited", "a={source}", "--emotion", "sad", "--grid", "strength=.3"), "give --pipeline"),
        (("--pipeline", "ldm", "--grid", "strength=.3,2"), "strength must be a number from 0.01 to 0.999, got 2.0"),
        (("--pipeline", "emorig-open", "--grid", "guidance=2"), "guidance_scale needs an emotion latent-diffusion"),
        (("--pipeline", "emorig-open", "--reconstructions"), "--reconstructions needs a pipeline"),
        (("--pipeline", "ldm", "--grid", "intensity=.5,1", "--intensities", "0,.5,1"), "do not go together"),
    ],
)
def test_mistakes_take_one_sentence(
    ldm: EmotionLDMPipeline, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...],
    sentence: str,
) -> None:  # fmt: skip
    words = [word.format(source=source) for word in args]
    assert emorig("--source", source, *words, "-o", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("emorig: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
