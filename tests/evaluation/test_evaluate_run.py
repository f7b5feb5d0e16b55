"""`emorig evaluate` on real photos: right figures, bad pictures listed, killed runs resumed, processes agreeing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from processes import start_two

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main, models
from emorig_diffusers.evaluation import scores
from emorig_diffusers.evaluation.figures import linearity
from emorig_diffusers.evaluation.metrics import LPIPS, FaceApiJudge, FerJudge, IdentityJudge, psnr, ssim
from emorig_diffusers.evaluation.metrics.codes import CodeJudge
from emorig_diffusers.evaluation.pairs import Pair
from emorig_diffusers.evaluation.run import Editor
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.pipelines.outputs import EmoRigOutput

JUDGES = ("--judge", "face-api", "--identity", "sface")


@pytest.fixture(scope="module", autouse=True)
def one_pipeline(pipe: EmoRigPipeline) -> Iterator[None]:
    """Open models and judges once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_pipeline", lambda name: pipe)
        patch.setattr(scores, "load_judges", cache(scores.load_judges))
        yield


def save(path: Path, picture: np.ndarray, size: tuple[int, int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    (image.resize(size, Image.Resampling.LANCZOS) if size else image).save(path)


@pytest.fixture(scope="module")
def folders(
    astronaut: np.ndarray, hopper: np.ndarray, edit: Callable[[str], EmoRigOutput],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """`source`, `rival` with everything that can be wrong with a rival's pictures, and `real` smiles."""
    top = tmp_path_factory.mktemp("folders")
    save(top / "source/astronaut.png", astronaut)
    save(top / "source/hopper.png", hopper)
    save(top / "rival/surprise/astronaut.png", edit("surprise").images[0])
    save(top / "rival/surprise/hopper.png", hopper[:, ::-1], (256, 300))
    save(top / "rival/surprise/stranger.png", hopper)
    save(top / "rival/happy/astronaut.png", np.ascontiguousarray(skimage.data.coffee()[:400, :400]), (512, 512))
    (top / "rival/happy/hopper.jpg").write_text("no picture")
    save(top / "real/happy/astronaut.jpg", np.ascontiguousarray(astronaut[:300, 60:360, :][:, ::-1]))
    return top


def emorig(*args: str | Path) -> int:
    return main.main(["evaluate", *map(str, args)])


def evaluate(folders: Path, out: Path, *args: str | Path) -> int:
    rival = f"rival={folders / 'rival'}"
    return emorig("--source", folders / "source", "--edited", rival, *JUDGES, "-o", out, *args)


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "scores.json").read_text())


def without_times(out: Path) -> dict[str, Any]:
    """`scores.json` without what differs between two runs."""
    content = read(out)
    for record in content["pictures"]:
        record.pop("seconds", None)
    return content


@pytest.fixture(scope="module")
def report(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the rival, with everything."""
    out = tmp_path_factory.mktemp("report") / "report"
    assert evaluate(folders, out, "--reference", folders / "real", "--published", "--sets") == 1
    return out


@pytest.fixture(scope="module")
def plain(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the rival alone."""
    out = tmp_path_factory.mktemp("plain") / "report"
    assert evaluate(folders, out) == 1
    return out


@pytest.fixture(scope="module")
def records(report: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(r["method"], r["emotion"], r["name"]): r for r in read(report)["pictures"]}


def test_figures_of_a_pair_are_the_metrics(
    records: dict, astronaut: np.ndarray, edit: Callable[[str], EmoRigOutput], pipe: EmoRigPipeline
) -> None:
    record, edited = records["rival", "surprise", "astronaut"], edit("surprise").images[0]
    assert record["failure"] is None and record["note"] is None and record["size"] == [512, 512]
    tensors = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for x in (astronaut, edited))
    identity, faces = IdentityJudge(), [find_faces(x)[0] for x in (astronaut, edited)]
    embeddings = [identity.embed(x, face.landmarks) for x, face in zip((astronaut, edited), faces)]
    expected = {
        "psnr": psnr(astronaut, edited),
        "ssim": ssim(astronaut, edited),
        "lpips": float(LPIPS("alex").distance(*tensors)),
        "csim": identity.similarity(*embeddings),
        "landmark_error": CodeJudge(pipe).read(edited, faces[1]).error * 192,
    }
    assert {name: record[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert record["face_psnr"] < record["psnr"] and record["face_lpips"] > record["lpips"]
    assert record["gain"] == pytest.approx(
        record["probabilities_after"]["surprise"] - record["probabilities_before"]["surprise"], abs=1e-5
    )
    first, second = (judge(edited, faces[1].box) for judge in (FaceApiJudge(), FerJudge()))
    assert record["probabilities_after"] == pytest.approx(first, abs=1e-5)
    assert (record["top"], record["second_top"]) == (max(first, key=first.get), max(second, key=second.get))
    assert record["second_accuracy"] == float(record["second_top"] == "surprise")
    assert record["agreement"] == float(record["top"] == record["second_top"])
    assert record["expression_gain"] > 0.3 and record["background"] == 0


def test_unedited_and_real_photos_are_rows(records: dict) -> None:
    assert records["unedited", "happy", "astronaut"]["accuracy"] == 1  # she smiles
    assert records["unedited", "happy", "hopper"]["accuracy"] == 0
    assert "psnr" not in records["unedited", "happy", "astronaut"]
    real = records["ground truth", "happy", "astronaut"]
    assert real["accuracy"] == 1 and real["csim"] > 0.6
    assert records["unedited", "happy", "astronaut"]["reference_lpips"] > 0.02  # mirrored, but moved onto her


def test_another_size_is_noted_and_scored_at_the_smaller(records: dict) -> None:
    record = records["rival", "surprise", "hopper"]
    assert "scored at 256 x 300" in record["note"] and record["size"] == [256, 300]
    assert record["csim"] > 0.5 and 8 < record["psnr"] < 25  # mirrored: the same man elsewhere


def test_no_face_is_a_miss(records: dict) -> None:
    record = records["rival", "happy", "astronaut"]
    assert record["failure"] is None and record["note"] == "no face in the edited picture"
    assert (record["accuracy"], record["target_probability"], record["csim"]) == (0, 0, 0)
    assert record["second_accuracy"] == 0 and record["agreement"] is None
    assert record["psnr"] < 15 and record["gain"] < -0.9


def test_bad_files_are_listed_and_count_nowhere(records: dict, report: Path) -> None:
    assert "is not a readable picture" in records["rival", "happy", "hopper"]["failure"]
    assert records["rival", "surprise", "stranger"]["failure"] == "There is no source of this name."
    assert read(report)["table"]["rival"]["happy"]["accuracy"] == {"mean": 0, "low": None, "high": None, "count": 1}
    text = (report / "report.md").read_text()
    assert "rival: 3 of 5" in text
    for name in ("stranger (surprise)", "hopper (happy)"):
        assert f"| rival | 1 | {name} |" in text
    assert "KID needs at least 100 pictures in each set, not 2." in text


def test_the_report_names_judges_and_marks_what_is_published(report: Path, plain: Path) -> None:
    markdown, page = ((report / f"report{suffix}").read_text() for suffix in (".md", ".html"))
    for text in (markdown, page):
        assert "SFace" in text
        assert all(f"Accuracy by {judge} ↑" in text for judge in ("face-api", "fer (weak)", "HSEmotion enet_b2_7"))
    rows = [line for line in markdown.splitlines() if any(name in line for name in ("GANmut", "StarGAN", "LDM"))]
    assert len(rows) == 5 and all("(published, AffectNet) |" in row for row in rows)
    row = next(line for line in markdown.splitlines() if "PixelSmile (" in line)
    assert row.startswith("| PixelSmile (published, FFE-Bench) | 0.863 | 0.652 |")
    assert "Accuracy by Gemini 3 Pro ↑" in page
    assert page.count("GANmut (published, AffectNet)") == page.count("GANmut") > 0
    assert (
        all(word not in page for word in ("<script", "http:", "https:"))
        and page.count("<img") == page.count('src="data:') == 2
    )
    for file in ("report.md", "report.html", "scores.json"):
        assert "AffectNet" not in (plain / file).read_text()


def test_sheet_and_plot_are_pictures(report: Path) -> None:
    for file, least in (("sheet-rival.png", 500), ("identity-expression.png", 300)):
        with Image.open(report / file) as image:
            assert min(image.size) >= least and np.asarray(image.convert("L")).std() > 10


# Going on


def test_a_killed_run_goes_on(folders: Path, plain: Path, tmp_path: Path) -> None:
    """Of a run killed half-way, with its last line torn, the next one adds only what is missing."""
    cut = shutil.copytree(plain, tmp_path / "cut")
    (cut / "scores.json").unlink()
    shard = cut / "scores/00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    kept = lines[: len(lines) // 2]
    shard.write_bytes(b"".join(kept) + lines[-1][:40])
    assert evaluate(folders, cut) == 1
    assert without_times(cut) == without_times(plain)
    after = shard.read_bytes().splitlines(keepends=True)
    assert after[: len(kept)] == kept and len(after) == len(lines) + 1  # the torn one
    assert evaluate(folders, cut) == 1
    again = shard.read_bytes().splitlines(keepends=True)[len(after) :]
    assert [json.loads(line)["failure"] is None for line in again] == [False]  # only a failure is tried again


def test_two_processes_find_the_same(folders: Path, plain: Path, tmp_path: Path) -> None:
    """Started as `accelerate launch` starts them."""
    folder = ("--source", folders / "source", "--edited", f"rival={folders / 'rival'}", "-o", tmp_path / "two")
    scripts = start_two(tmp_path, "emorig_diffusers", "evaluate", *JUDGES, *folder)
    assert [script.wait() for script in scripts] == [1, 1], [script.output for script in scripts]
    assert "7 of 9 pictures scored" in scripts[0].output and "scored" not in scripts[1].output
    shards = sorted((tmp_path / "two/scores").iterdir())
    assert [len(shard.read_bytes().splitlines()) for shard in shards] == [4, 4]
    assert without_times(tmp_path / "two") == without_times(plain)


def test_linearity_of_strength(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline's strengths are made, and scored as another's folders of the same pictures are."""
    source, out = tmp_path / "source", tmp_path / "report"
    source.mkdir()
    shutil.copy(folders / "source/hopper.png", source)
    run = ("--source", source, "--emotion", "surprise", *JUDGES)
    ours = ("--pipeline", "ours=emorig-open", "--steps", "1", "--intensities", "0.2,0.6,1", "-o", out)
    assert emorig(*run, *ours) == 0
    (_, record), edited = read(out)["pictures"], out / "edited/ours"
    folders_made = sorted(path.name for path in edited.iterdir() if path.is_dir())
    assert folders_made == ["surprise", "surprise@0.2", "surprise@0.6"]
    strengths = record["strengths"]
    assert list(strengths) == ["0.2", "0.6", "1"] and strengths["1"] == record["target_probability"] > strengths["0.2"]
    assert record["cls"] == pytest.approx(linearity({float(s): p for s, p in strengths.items()}), abs=1e-4)
    probability, csim = record["target_probability"], record["csim"]
    assert record["hes"] == pytest.approx(2 * probability * csim / (probability + csim), abs=1e-5)
    assert record["mscr"] == float(record["top"] == "fear")
    text = (out / "report.md").read_text()
    assert all(title in text for title in ("| HES ↑ |", "| mSCR ↓ |", "| CLS ↑ |")) and "Pearson's correlation" in text
    (edited / "surprise@0.6/hopper.png").write_text("no picture")
    assert emorig(*run, "--edited", f"theirs={edited}", "-o", tmp_path / "again") == 0
    other = read(tmp_path / "again")["pictures"][1]
    assert other["strengths"] == pytest.approx({"0.2": strengths["0.2"], "1": strengths["1"]}) and other["cls"] is None
    assert other["note"].startswith("strength 0.6 left out: ") and other["hes"] == pytest.approx(record["hes"])


def test_a_pipeline_makes_its_pictures_once(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "report"
    source.mkdir()
    shutil.copy(folders / "source/hopper.png", source)
    run = ("--source", source, "--pipeline", "ours=emorig-open", "--emotion", "sad", "--steps", "1", *JUDGES, "-o", out)
    assert emorig(*run) == 0
    assert read(out)["pictures"][1]["seconds"]["edit"] > 0
    edited = out / "edited/ours/sad/hopper.png"
    first, picture = edited.stat().st_mtime_ns, edited.read_bytes()
    assert emorig(*run) == 0
    assert edited.stat().st_mtime_ns == first
    capsys.readouterr()
    assert emorig(*run, "--intensity", "0.5") == 2
    assert "pictures made with other settings" in capsys.readouterr().err
    save(source / "hopper.png", np.asarray(Image.open(folders / "source/hopper.png"))[:500])
    assert emorig(*run) == 0
    assert edited.read_bytes() != picture and Image.open(edited).size == (512, 500)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "There is nothing to score: give --edited or --pipeline."),
        (("--edited", "nowhere"), "There is no folder 'nowhere'."),
        (("--edited", "rival="), "The method 'rival' has no folder: give each as LABEL=DIR."),
        (("--edited", "a=x", "--edited", "a=y"), "The method 'a' is given twice"),
        (("--edited", "a=x", "--pipeline", "a=emorig-open"), "The method 'a' is given twice"),
        (("--edited", "a=x", "--emotion", "joy"), "Unknown emotion 'joy'"),
        (("--edited", "a={rival}", "--judge", "me"), "There is no judge of emotions 'me'"),
        (("--edited", "a={rival}", "--reference", "none"), "There is no folder 'none'."),
        (("--pipeline", "emorig-open", "--intensities", "0,1"), "--intensities needs 3 or more"),
        (("--pipeline", "emorig-open", "--intensities", "0,1,9"), "intensity must be a number from 0 to 1.5"),
        (("--pipeline", "emorig-open", "--intensities", "low,high"), "'low,high' is not numbers with commas between"),
        (("--edited", "a={rival}", "--intensities", "0,0.5,1"), "--intensities are those of pipelines"),
        (("--pipeline", "emorig-open", "--intensity", "9"), "intensity must be a number from 0 to 1.5"),
    ],
)
def test_mistakes_take_one_sentence(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], sentence: str
) -> None:
    words = [word.format(rival=folders / "rival") for word in args]
    assert emorig("--source", folders / "source", *words, "-o", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("emorig: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["h5py", "matplotlib"])
def test_a_missing_package_is_named_before_anything_is_done(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert emorig("--source", folders / "source", "--edited", folders / "rival", "-o", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("emorig: Scoring needs") and "pip install 'emorig-diffusers[eval]'" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folders, folders) == 2
    assert "holds other files: give a new folder" in capsys.readouterr().err
    assert sorted(path.name for path in folders.iterdir()) == ["real", "rival", "source"]


def test_a_photo_is_fitted_once_for_all_its_edits(tmp_path: Path, astronaut: np.ndarray, hopper: np.ndarray) -> None:
    fitted, given = [], []

    class Recorder:
        noise_per_result = True

        def encode(self, photo: np.ndarray) -> list[str]:
            fitted.append(photo.shape)
            return [f"face {len(fitted)}"]

        def __call__(self, source: Path, emotion: str, intensity: float, **how: Any) -> EmoRigOutput:
            given.append((source.stem, emotion, intensity, *how["faces"]))
            return EmoRigOutput([Image.open(source)], [])

    editor = Editor("model", pipe=cast(Any, Recorder()))
    for name, picture in (("astronaut", astronaut), ("hopper", hopper)):
        save(tmp_path / f"{name}.png", picture)
        for emotion in ("happy", "sad"):
            weak, strong = (tmp_path / f"{emotion}{strength}" / f"{name}.png" for strength in ("@0.5", ""))
            editor.make(Pair("m", emotion, name, tmp_path / f"{name}.png", strong, strengths=((0.5, weak),)))
            assert weak.is_file() and strong.is_file()
    assert fitted == [astronaut.shape, hopper.shape]
    assert [case[-1] for case in given] == ["face 1"] * 4 + ["face 2"] * 4
    assert given[:2] == [("astronaut", "happy", 1.0, "face 1"), ("astronaut", "happy", 0.5, "face 1")]
