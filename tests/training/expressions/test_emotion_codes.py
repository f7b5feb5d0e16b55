"""fit_emotions.py: emotions of a pipeline from labelled shards whose class means are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.shards import CodeShards, Sample, write_shard
from emorig_diffusers.face.emotions import EMOTIONS, RECIPES, emotion_offset
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.hub.repository import fetch
from emorig_diffusers.training.expressions.emotion_codes import (
    Photos,
    fit_classes,
    geometric_median,
    held_out_shares,
    read_photos,
)

COUNTS = {"neutral": 40, "happy": 41, "sad": 30, "surprise": 24, "anger": 6}
SPREAD = 0.1
WRONG = 0.25  # share of labels that are another emotion's


@pytest.fixture(scope="module")
def means(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """True code [E + 3] of every emotion: the recipes, a face at rest that is not zero, and a jaw that opens."""
    rest = torch.full((len(names),), 0.05)
    jaw = lambda name: torch.tensor([0.3 if name == "surprise" else 0.01, 0.0, 0.0])
    return {name: torch.cat([rest + emotion_offset(name, names), jaw(name)]).double().numpy() for name in EMOTIONS}


def draw(means: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Codes [N, E + 3] under each label, some of another emotion; all eight are as spread in truth."""
    codes = {}
    for name, count in COUNTS.items():
        wrong = np.arange(count) < WRONG * count
        other = [list(COUNTS)[i] for i in rng.integers(len(COUNTS), size=count)]
        true = np.stack([means[o if w else name] for o, w in zip(other, wrong)])
        codes[name] = true + SPREAD * rng.normal(size=true.shape) * ([1] * (true.shape[1] - 3) + [0.2] * 3)
        codes[name][:, -1] = 0  # a number that never changes
    return codes


def sample(like: Sample, key: str, label: str | None, code: np.ndarray, error: float = 1.0) -> Sample:
    code = torch.from_numpy(code).float()[None]
    pose = torch.cat([torch.randn(1, 3), code[:, -3:]], 1)  # the head's own pose is nobody's emotion
    codes = like.codes.with_(expression=code[:, :-3], pose=pose)
    return replace(like, key=key, codes=codes, info=like.info | {"label": label, "error": error})


@pytest.fixture(scope="module")
def like(prepared64: Path) -> Sample:
    """What the other samples are made from, with a picture that is read at once."""
    return replace(CodeShards(prepared64)[0], picture=np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def shards(like: Sample, means: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    codes = draw(means, np.random.default_rng(0))
    samples = [sample(like, f"{n}{i}", n, c) for n, rows in codes.items() for i, c in enumerate(rows)]
    samples += [sample(like, f"none{i}", None, 9 + means["happy"]) for i in range(5)]
    write_shard(folder, 0, samples[::2], {}, {"resolution": 8})
    write_shard(folder, 1, samples[1::2], {}, {"resolution": 8})
    return folder


@pytest.fixture(scope="module")
def fitted(
    shards: Path, run_script: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, np.ndarray]]:
    """The pipeline folder, and the codes in its index."""
    folder = tmp_path_factory.mktemp("fitted") / "new" / "pipe"
    run_script("fit_emotions", "--train_data_dir", shards, "--output_dir", folder)
    index = json.loads((folder / "model_index.json").read_text())
    return folder, {name: np.array(code) for name, code in index["emotion_codes"].items()}


def test_codes_are_the_class_means(fitted: tuple[Path, dict[str, np.ndarray]], means: dict[str, np.ndarray]) -> None:
    codes = fitted[1]
    assert set(codes) == set(EMOTIONS)
    for name in ("neutral", "happy", "sad", "surprise"):
        away = {other: np.linalg.norm(codes[name] - mean) for other, mean in means.items()}
        assert away[name] < 0.35 and min(away, key=away.get) == name, name
    assert codes["surprise"][-3] == pytest.approx(0.3, abs=0.03) and abs(codes["sad"][-3]) < 0.03


def test_emotions_with_few_photos_keep_their_change_from_neutral(
    fitted: tuple[Path, dict[str, np.ndarray]], names: tuple[str, ...], shards: Path, run_script: Callable[..., None],
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    folder, codes = fitted
    change = codes["contempt"] - codes["neutral"]
    assert np.allclose(change[:-3], emotion_offset("contempt", names).numpy(), atol=1e-5) and not change[-3:].any()
    options = ("--train_data_dir", shards, "--pretrained_model_name_or_path", folder, "--min_photos", 35)
    run_script("fit_emotions", *options, "--output_dir", tmp_path / "again")
    printed = capsys.readouterr().out
    again = json.loads((tmp_path / "again" / "model_index.json").read_text())["emotion_codes"]
    assert "surprise: 24 photos are too few, it keeps the pipeline's code" in printed
    kept = np.array(again["surprise"]) - again["neutral"]
    assert np.allclose(kept, codes["surprise"] - codes["neutral"], atol=1e-5)
    rows = {line.split()[0]: line.split() for line in printed.splitlines()}
    assert rows["neutral"][1] == "40" and float(rows["happy"][6]) == 0 < float(rows["happy"][5])


def test_pipeline_uses_the_codes(fitted: tuple[Path, dict[str, np.ndarray]], astronaut_face: EncodedFace) -> None:
    folder, codes = fitted
    pipe = EmoRigPipeline.from_pretrained(folder)
    assert pipe.unet is not None
    target = pipe.edit_codes(astronaut_face, "surprise")
    change = torch.from_numpy(codes["surprise"] - codes["neutral"]).float()
    assert torch.allclose(target.pose[0, 3:], change[-3:], atol=1e-5)
    brow = pipe.head.config.expression_names.index("browInnerUp")
    assert target.expression[0, brow] > astronaut_face.codes.expression[0, brow] + 0.3


def test_weights_are_kept_bit_for_bit(fitted: tuple[Path, dict[str, np.ndarray]], pipe: EmoRigPipeline) -> None:
    folder, source = fitted[0], Path(fetch("emorig-open"))
    files = sorted(p.relative_to(source) for p in source.rglob("*.safetensors"))
    assert files and all((folder / f).read_bytes() == (source / f).read_bytes() for f in files)
    assert not list(folder.parent.glob(".*"))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["emotions"] == json.loads((source / "model_index.json").read_text())["emotions"]


def test_geometric_median_withstands_what_the_mean_does_not() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(70, 5)), 50 + rng.normal(size=(30, 5))])
    even = np.ones(100)
    assert np.linalg.norm(points.mean(0)) > 30 > 2 > np.linalg.norm(geometric_median(points, even))
    heavy = np.where(np.arange(100) < 70, 1.0, 10.0)
    assert np.linalg.norm(geometric_median(points, heavy) - 50) < 2
    corners = np.array([[0.0, 0], [4, 0], [0, 4], [4, 4], [1, 1]])
    pulls = corners - (middle := geometric_median(corners, np.ones(5)))
    lengths = np.linalg.norm(pulls, axis=1, keepdims=True)
    assert np.linalg.norm((pulls / np.maximum(lengths, 1e-9))[lengths[:, 0] > 0.01].sum(0)) < 1.01, middle


def test_held_out_share_tells_emotions_from_noise() -> None:
    rng, labels = np.random.default_rng(0), np.repeat(["happy", "sad"], 200)
    noise = rng.normal(size=(400, 6)) * [1, 1, 1, 1, 0.01, 0]
    apart = noise + np.where(labels == "sad", 0.04, 0)[:, None] * [0, 0, 0, 0, 1, 0]  # four standard deviations
    classes = fit_classes(Photos(apart, labels, np.ones(400)))
    assert classes.distances(classes.centres["sad"][None])[0] == pytest.approx([4, 0], abs=0.5)
    clear, none = (held_out_shares(Photos(codes, labels, np.ones(400))) for codes in (apart, noise))
    assert min(clear.values()) > 0.9 and 0.4 < np.mean(list(none.values())) < 0.6


def test_photos_that_are_read(like: Sample, means: dict[str, np.ndarray], tmp_path: Path) -> None:
    errors = {"a": 1.0, "b": 1.0, "c": 3.0, "d": 1.0}
    samples = [sample(like, k, "fear", means["fear"] + i, e) for i, (k, e) in enumerate(errors.items())]
    write_shard(tmp_path, 0, samples, {}, {"resolution": 8})
    length = len(means["fear"]) - 3
    photos = read_photos(CodeShards(tmp_path), length, 100, weigh=True)
    assert np.allclose(photos.weights, [0.5, 0.5, 0.1, 0.5]) and photos.names() == ["fear"]
    assert np.allclose(photos.codes[2], means["fear"] + 2, atol=1e-5)
    some = read_photos(CodeShards(tmp_path), length, 2)
    assert np.allclose(some.codes[:, 0] - means["fear"][0], [0, 3], atol=1e-5) and set(some.weights) == {1.0}


def test_refusals(
    refusal: Callable[..., str], run_script: Callable[..., None], shards: Path, prepared: Path, like: Sample,
    means: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fit = lambda folder, *options: refusal(
        "fit_emotions", "--train_data_dir", folder, "--output_dir", tmp_path / "out", *options
    )
    assert "has an emotion label" in fit(prepared)
    assert "has no prepared shards" in fit(tmp_path / "nothing")
    assert "No emotion has 100 photos" in fit(shards, "--min_photos", 100)
    (tmp_path / "flame").mkdir()
    write_shard(tmp_path / "flame", 0, [sample(like, "a", "sad", means["sad"][2:])], {}, {"resolution": 8})
    assert "holds 50 expression coefficients a photo" in fit(tmp_path / "flame")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert "not empty" in fit(shards)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(SystemExit):
        run_script("fit_emotions", "--train_data_dir", "a", "--output_dir", "b", "--min_photos", 1)
    assert "at least 2" in capsys.readouterr().err


def test_head_without_names_and_codes_leaves_emotions_out(
    pipe: EmoRigPipeline, shards: Path, run_script: Callable[..., None], capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    config = {k: v for k, v in pipe.head.config.items() if not k.startswith("_")} | {"expression_names": ()}
    head = type(pipe.head)(**config)
    head.load_state_dict(pipe.head.state_dict())
    EmoRigPipeline(head, pipe.encoder).save_pretrained(tmp_path / "nameless")
    options = ("--train_data_dir", shards, "--pretrained_model_name_or_path", tmp_path / "nameless")
    run_script("fit_emotions", *options, "--output_dir", tmp_path / "out")
    assert "contempt: 0 photos are too few, it is left out" in capsys.readouterr().out
    fitted = EmoRigPipeline.from_pretrained(tmp_path / "out")
    assert fitted.emotion_names == ("neutral", "happy", "sad", "surprise") and len(RECIPES) == 8
