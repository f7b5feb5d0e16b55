"""Evaluation without networks: what is matched, statistics of known numbers, shards, published rows, documents."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from emorig_diffusers.cli.evaluate import split_steps
from emorig_diffusers.evaluation.document import Grid, Heading, Paragraph, Picture, to_html, to_markdown
from emorig_diffusers.evaluation.figures import harmonic_score, linearity, pair_confusion
from emorig_diffusers.evaluation.pairs import REAL, UNEDITED, Plan, match
from emorig_diffusers.evaluation.scores import common_size
from emorig_diffusers.evaluation.store import Store, fingerprint
from emorig_diffusers.evaluation.table import (
    ALL,
    MAIN,
    NO_FACE,
    add_shape_drift,
    best_median_worst,
    bootstrap,
    confusion,
    published,
    summarise,
)
from emorig_diffusers.face.emotions import EMOTIONS


def touch(folder: Path, *names: str) -> Path:
    """A folder with files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def keys(plan: Plan, method: str) -> list[tuple[str, str]]:
    return [(pair.emotion, pair.name) for pair in plan.pairs if pair.method == method]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return touch(tmp_path / "source", "a.jpg", "b.c.png", "notes.txt", ".hidden.jpg", "folder.jpg/x")


# What is compared with what


def test_names_match_without_suffix(source: Path, tmp_path: Path) -> None:
    edited = touch(
        tmp_path / "rival", "happy/a.webp", "happy/b.c.JPG", "happy/stranger.png", "sad/a.png", "other/a.png"
    )
    plan = match(source, {"rival": edited})
    assert plan.methods == [UNEDITED, "rival"] and plan.emotions == ["happy", "sad"]
    assert keys(plan, "rival") == [("happy", "a"), ("happy", "b.c"), ("sad", "a")]
    assert keys(plan, UNEDITED) == [(e, n) for e in ("happy", "sad") for n in ("a", "b.c")]
    assert {(p["emotion"], p["name"], p["failure"]) for p in plan.problems} == {
        ("happy", "stranger", "There is no source of this name."),
        ("sad", "b.c", "There is no edited picture of this name."),
    }
    assert [len(group) for group in plan.by_source()] == [4, 3]


def test_a_flat_folder_needs_its_emotion(source: Path, tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "a.png", "b.c.png")
    with pytest.raises(ValueError, match="say with --emotion what all its pictures show"):
        match(source, {"flat": flat})
    assert keys(match(source, {"flat": flat}, emotions=["fear"]), "flat") == [("fear", "a"), ("fear", "b.c")]
    with pytest.raises(ValueError, match="has no folder of an emotion"):
        match(source, {"flat": flat}, emotions=["fear", "sad"])


def test_emotions_choose_subfolders(source: Path, tmp_path: Path) -> None:
    edited = touch(tmp_path / "rival", "Happy/a.png", "sad/a.png")
    assert keys(match(source, {"rival": edited}, emotions=["happy"]), "rival") == [("happy", "a")]


def test_real_photos_are_a_row_and_a_reference(source: Path, tmp_path: Path) -> None:
    edited = touch(tmp_path / "rival", "happy/a.png", "happy/b.c.png", "sad/a.png")
    real = touch(tmp_path / "real", "happy/a.jpg")
    plan = match(source, {"rival": edited}, reference=real)
    assert keys(plan, REAL) == [("happy", "a")]
    referenced = {(p.method, p.emotion, p.name) for p in plan.pairs if p.reference}
    assert referenced == {(m, "happy", "a") for m in (UNEDITED, "rival")}
    with pytest.raises(ValueError, match="no folder of an emotion"):
        match(source, {"rival": edited}, reference=touch(tmp_path / "flat", "a.jpg"))
    with pytest.raises(ValueError, match="holds no real photos of happy, sad"):
        match(source, {"rival": edited}, reference=touch(tmp_path / "fear", "fear/a.jpg"))


def test_a_pipeline_makes_every_emotion_of_every_source(source: Path, tmp_path: Path) -> None:
    plan = match(source, {}, {"ours": tmp_path / "made"})
    assert keys(plan, "ours") == [(e, n) for e in EMOTIONS for n in ("a", "b.c")]
    assert plan.pairs[-1].edited == tmp_path / "made" / "contempt" / "b.c.png"


def test_other_strengths_belong_to_the_same_pair(source: Path, tmp_path: Path) -> None:
    edited = touch(
        tmp_path / "rival", "happy/a.png", "happy/b.c.png", "Happy@0.5/a.jpg", "happy@1.25/a.png", "happy@1.25/b.c.png",
        "happy@1.25/z.png", "sad@0.5/a.png",
    )  # fmt: skip
    plan = match(source, {"rival": edited}, {"ours": tmp_path / "made"}, ["happy"], intensities=[1.0, 0.25, 1.5])
    pairs = {(pair.method, pair.name): pair for pair in plan.pairs}
    assert pairs["rival", "a"].intensity == 1 and pairs["rival", "a"].strengths == (
        (0.5, edited / "Happy@0.5/a.jpg"), (1.25, edited / "happy@1.25/a.png")
    )  # fmt: skip
    assert [strength for strength, _ in pairs["rival", "b.c"].strengths] == [1.25]
    assert {(p["name"], p["failure"]) for p in plan.problems} == {
        ("b.c", "There is no edited picture of this name at strength 0.5."),
        ("z", "There is an edited picture of this name at strength 1.25 alone."),
    }
    assert pairs["ours", "a"].strengths == tuple((i, tmp_path / f"made/happy@{i:g}/a.png") for i in (0.25, 1.5))
    before = fingerprint(pairs["rival", "a"], {})
    (edited / "happy@1.25/a.png").write_text("more")
    assert fingerprint(pairs["rival", "a"], {}) != before


@pytest.mark.parametrize(
    ("files", "label", "sentence"),
    [
        (["happy/a.png", "happy@much/a.png"], "rival", "happy@much' does not tell its strength: call it 'happy@0.5'"),
        (["happy/a.png", "happy@1/a.png"], "rival", "happy@1' is a second folder of strength 1: keep one"),
        (["happy/z.png"], "rival", "No picture of '.*' is called as one of the sources, such as 'a'"),
        (["happy/a.png", "happy/a.jpg"], "rival", "holds both a.jpg and a.png: keep one"),
        (["happy/a.png"], UNEDITED, "A method cannot be called 'unedited'"),
        (["happy/a.png"], "x/y", "A method cannot be called 'x/y'"),
    ],
)
def test_folders_that_cannot_be_scored(
    source: Path, tmp_path: Path, files: list[str], label: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        match(source, {label: touch(tmp_path / "rival", *files)})


def test_there_has_to_be_something(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is nothing to score"):
        match(source, {})
    with pytest.raises(ValueError, match="There is no folder"):
        match(tmp_path / "none", {"rival": source})
    with pytest.raises(ValueError, match="holds no photos"):
        match(touch(tmp_path / "text", "a.txt"), {"rival": source})


def test_a_pipeline_may_have_steps_of_its_own() -> None:
    assert split_steps("emorig-open@0", None) == ("emorig-open", 0)
    assert split_steps("some/where@12", 4) == ("some/where", 12)
    assert split_steps("emorig-open", 4) == ("emorig-open", 4)
    assert split_steps("me@home", None) == ("me@home", None)


def test_sizes_of_one_shape_have_a_common_one() -> None:
    assert common_size((1024, 1024), (256, 256)) == (256, 256)
    assert common_size((383, 384), (512, 512)) == (383, 384)
    with pytest.raises(ValueError, match="The source is 384 x 384 and the edited picture 384 x 376 pixels"):
        common_size((384, 384), (376, 384))


# Statistics


def test_the_interval_of_normal_data_is_the_textbooks() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    estimate = bootstrap(values, [str(i) for i in range(400)])
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert estimate.mean == pytest.approx(values.mean()) and estimate.count == 400
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.12)
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.12)
    assert estimate == bootstrap(values, [str(i) for i in range(400)])


def test_whole_photos_are_drawn_again() -> None:
    """Eight equal values of each photo say no more than one of each."""
    values, photos = np.random.default_rng(2).normal(size=50), [str(i) for i in range(50)]
    once, often = bootstrap(values, photos), bootstrap(np.repeat(values, 8), np.repeat(photos, 8))
    assert (often.low, often.high) == pytest.approx((once.low, once.high)) and often.count == 400


def test_intervals_of_few_photos() -> None:
    both = bootstrap([0.0, 1.0], ["a", "b"])
    assert (both.mean, both.low, both.high) == (0.5, 0.0, 1.0)
    assert bootstrap([0.25, 0.75], ["a", "a"]).low is None
    assert bootstrap([1.0, 1.0, 1.0], ["a", "b", "c"]).low == 1.0


def record(name: str, emotion: str, top: str | None, **figures: Any) -> dict[str, Any]:
    """A record of method "m"."""
    known = {"accuracy": float(top == emotion), "target_probability": float(top == emotion), "csim": 0.5}
    return {"method": "m", "emotion": emotion, "name": name, "failure": None, "top": top} | known | figures


def test_table_and_confusion_matrix_of_known_records() -> None:
    records = [
        record("a", "happy", "happy", psnr=30.0),
        record("b", "happy", "sad", psnr=20.0),
        record("c", "happy", None, psnr=25.0, csim=0.0),
        record("a", "sad", "sad"),
        record("d", "sad", "sad") | {"failure": "It is damaged.", "accuracy": None},
        record("a", "sad", "happy") | {"method": "other"},
    ]
    table = summarise(records, ["m"], ["happy", "sad"])
    cell = table["m"]["happy"]
    assert (cell["accuracy"].mean, cell["psnr"].mean, cell["csim"].mean) == pytest.approx((1 / 3, 25.0, 1 / 3))
    assert cell["accuracy"].count == 3 and table["m"]["sad"]["accuracy"].count == 1
    assert table["m"][ALL]["accuracy"].mean == 0.5
    assert "ssim" not in cell and "psnr" not in table["m"]["sad"]
    assert confusion(records, "m", ["happy", "sad"]) == {
        "happy": {"happy": 1, "sad": 1, NO_FACE: 1},
        "sad": {"happy": 0, "sad": 1, NO_FACE: 0},
    }


def test_best_median_and_worst() -> None:
    scores = {"a": (0.5, 0.5), "b": (0.9, 0.9), "c": (1.0, -0.2), "d": (0.9, 0.1), "e": (None, 0.7)}
    records = [record(n, "happy", "happy", target_probability=p, csim=c) for n, (p, c) in scores.items()]
    assert [(word, r["name"]) for word, r in best_median_worst(records)] == [
        ("best", "b"), ("median", "a"), ("worst", "c")
    ]  # fmt: skip
    assert best_median_worst(records[:1]) == [("best", records[0])]
    assert best_median_worst([]) == []


def test_shape_drift_is_told_in_spreads_of_people() -> None:
    base = [record(n, "happy", None, shape=s) | {"method": UNEDITED} for n, s in (("a", [0.0, 0.0]), ("b", [2.0, 0.0]))]
    edited = record("a", "happy", None, shape_change=1.0)
    real = record("a", "happy", None, shape_change=0.5) | {"method": REAL}
    assert add_shape_drift([*base, edited, real]) == pytest.approx(0.5 / np.sqrt(2))
    assert edited["shape_drift"] == pytest.approx(1 / np.sqrt(2))
    assert add_shape_drift([base[0], edited]) is None  # one person has no spread


# Published rows


def test_published_rows_carry_their_mark() -> None:
    rows, _ = published()
    assert rows.mark == "published, AffectNet" and "2308.03183" in rows.source
    assert all(method.endswith("(published, AffectNet)") for method in rows.table)
    assert len(rows.table) == 7 and all(len(row) == 6 for row in rows.table.values())
    fear = rows.table["LDM (published, AffectNet)"]["fear"]
    assert [fear[f].mean for f in MAIN if f in fear] == [0.764, 24.89, 0.824, 0.103, 0.770]
    assert set(rows.table["ground truth (published, AffectNet)"]["happy"]) == {"accuracy"}
    assert set(rows.table) & {UNEDITED, REAL} == set()


def test_published_rows_of_all_expressions_together() -> None:
    """FFE-Bench's best method, and one whose linearity was taken over two expressions alone."""
    _, rows = published()
    assert rows.judges["emotion"] == "Gemini 3 Pro" and "2603.25728" in rows.source and len(rows.table) == 12
    assert all(method.endswith("(published, FFE-Bench)") and set(row) == {ALL} for method, row in rows.table.items())
    best = rows.table["PixelSmile (published, FFE-Bench)"][ALL]
    assert {f: e.mean for f, e in best.items()} == {
        "accuracy": 0.8627, "accuracy_12": 0.6, "mscr": 0.055, "cls": 0.8078, "cls_12": 0.7305, "hes": 0.4723,
        "csim": 0.6522,
    }  # fmt: skip
    assert set(rows.table["ConceptSlider (published, FFE-Bench)"][ALL]) == {"cls_2", "hes", "csim"}


# Figures of the field


def test_harmonic_score_needs_both() -> None:
    assert harmonic_score(0.6, 0.3) == pytest.approx(0.4) and harmonic_score(1.0, 1.0) == 1
    assert harmonic_score(0.9, -0.2) == harmonic_score(0.0, 1.0) == harmonic_score(0.0, 0.0) == 0
    assert harmonic_score(None, 0.5) is harmonic_score(0.5, None) is None


def test_mscr_is_the_mean_of_four_shares() -> None:
    seen = {"fear": ["surprise", "surprise", "fear", None], "surprise": ["fear", "surprise", "surprise", "happy"],
            "anger": ["disgust"] * 4, "disgust": ["fear", "anger", "sad", "disgust"]}  # fmt: skip
    parts = {emotion: [pair_confusion(emotion, top) for top in tops] for emotion, tops in seen.items()}
    assert {e: np.mean(x) for e, x in parts.items()} == {"fear": 0.5, "surprise": 0.25, "anger": 1, "disgust": 0.25}
    records = [record(str(i), e, seen[e][i], mscr=x) for e, part in parts.items() for i, x in enumerate(part)]
    records += [record(str(i), "happy", "happy", mscr=pair_confusion("happy", "happy")) for i in range(4)]
    row = summarise(records, ["m"], [*seen, "happy"])["m"]
    assert row[ALL]["mscr"].mean == pytest.approx(0.5) and row[ALL]["mscr"].count == 16
    assert row["fear"]["mscr"].mean == 0.5 and "mscr" not in row["happy"]


def test_linearity_is_pearsons_correlation() -> None:
    strengths = [0.25, 0.5, 0.75, 1.0]
    assert linearity({s: 0.1 + 0.5 * s for s in strengths}) == pytest.approx(1)
    assert linearity({s: 1 - s for s in strengths}) == pytest.approx(-1)
    seen = [0.1, 0.9, 0.2, 0.8]
    assert linearity(dict(zip(strengths, seen))) == pytest.approx(stats.pearsonr(strengths, seen).statistic)
    assert linearity(dict.fromkeys(strengths, 0.3)) == 0
    assert linearity({0.5: 0.1, 1.0: 0.9}) is None


# Shards


def test_a_torn_line_is_passed_over_and_not_glued_to_the_next(tmp_path: Path) -> None:
    line = {"method": "m", "emotion": "happy", "name": "a", "fingerprint": "1", "failure": None}
    Store(tmp_path, 0).append(line)
    Store(tmp_path, 1).append(line | {"name": "b"})
    shard = tmp_path / "00000.jsonl"
    shard.write_bytes(shard.read_bytes() + json.dumps(line | {"name": "torn"}).encode()[:30])
    store = Store(tmp_path, 0)
    store.append(line | {"name": "c"})
    assert {key[2] for key, _ in store.read()} == {"a", "b", "c"}


def test_figures_count_more_than_failures(tmp_path: Path) -> None:
    line = {"method": "m", "emotion": "happy", "name": "a", "fingerprint": "1", "failure": "The disk is full."}
    Store(tmp_path, 1).append(line | {"failure": None, "psnr": 30.0})
    Store(tmp_path, 2).append(line)
    assert [r["failure"] for r in Store(tmp_path).read().values()] == [None]


def test_other_files_and_judges_are_other_scores(source: Path, tmp_path: Path) -> None:
    flat = touch(tmp_path / "flat", "a.png", "b.c.png")
    pair = match(source, {"flat": flat}, emotions=["sad"]).pairs[-1]
    before = fingerprint(pair, {"emotion": "fer"})
    assert before == fingerprint(pair, {"emotion": "fer"}) != fingerprint(pair, {"emotion": "HSEmotion"})
    pair.edited.write_text("more")
    assert fingerprint(pair, {"emotion": "fer"}) != before


# Documents


class Page(HTMLParser):
    """Tags, addresses and cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_documents_escape_and_carry_their_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "a b.png"
    Image.new("RGB", (3000, 20), "red").save(picture)
    blocks = [
        Heading("1 < 2", 1), Paragraph("<script>alert(1)</script>"), Grid(["a|b", "c"], [["x\ny", "<b>"]]),
        Picture(picture, 'of "red"'),
    ]  # fmt: skip
    page = Page(to_html(blocks))
    assert "script" not in page.tags and "b" not in page.tags and "<b>" in page.texts
    assert [address[:23] for address in page.addresses] == ["data:image/jpeg;base64,"]
    markdown = to_markdown(blocks)
    assert "<script" not in markdown
    assert "| a\\|b | c |\n| --- | ---: |\n| x<br>y | &lt;b> |" in markdown
    assert re.search(r"!\[of \"red\"\]\(<a b\.png>\)", markdown)
