"""From the figures of single pictures to a table: means with bootstrap intervals, confusion matrices, ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .pairs import REAL, UNEDITED

Record = dict[str, Any]

RESAMPLES = 1000
ALL = "all"
"""The column over all emotions."""
NO_FACE = "no face"
_BLOCK = 1_000_000  # draws at once
PUBLISHED = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Column:
    """How a figure is shown: its title (↑ more is better, ↓ less is; {roles} of judges), and how many decimals."""

    title: str
    decimals: int

    def named(self, judges: Mapping[str, str]) -> str:
        """The title with the judges' names; roles are the keys."""
        return self.title.format_map(judges)


MAIN = {
    "accuracy": Column("Accuracy by {emotion} ↑", 3),
    "second_accuracy": Column("Accuracy by {second} ↑", 3),
    "agreement": Column("Judges agree", 3),
    "psnr": Column("PSNR ↑", 2),
    "ssim": Column("SSIM ↑", 3),
    "lpips": Column("LPIPS ↓", 3),
    "csim": Column("CSIM ↑", 3),
}
"""The main figures, accuracy by both judges and how far these agree among them."""

EXTRA = {
    "target_probability": Column("Target probability ↑", 3),
    "gain": Column("Gain of it ↑", 3),
    "accuracy_changed": Column("Accuracy where the source shows another ↑", 3),
    "hes": Column("HES ↑", 3),
    "mscr": Column("mSCR ↓", 3),
    "cls": Column("CLS ↑", 3),
    "expression_change": Column("Expression change", 3),
    "expression_gain": Column("Expression gain", 3),
    "shape_drift": Column("Shape drift ↓", 3),
    "landmark_error": Column("Landmark error, px ↓", 2),
    "background": Column("Background change ↓", 4),
    "face_psnr": Column("Face PSNR ↑", 2),
    "face_ssim": Column("Face SSIM ↑", 3),
    "face_lpips": Column("Face LPIPS ↓", 3),
    "own_psnr": Column("PSNR to the reconstruction ↑", 2),
    "own_ssim": Column("SSIM to the reconstruction ↑", 3),
    "own_lpips": Column("LPIPS to the reconstruction ↓", 3),
    "reference_lpips": Column("LPIPS to real ↓", 3),
    "reference_expression": Column("Expression to real ↓", 3),
    "reference_csim": Column("CSIM to real ↑", 3),
}
"""Figures beside the main ones; those without values are not shown."""

COLUMNS = MAIN | EXTRA

OWN = {name: COLUMNS[name] for name in ("accuracy", "own_psnr", "own_ssim", "own_lpips", "csim")}
"""The main figures as papers tell them that hold an edit against what the network makes of the face as it is, which
leaves out what the network loses of the photo."""

PUBLISHED_ONLY = {
    "accuracy_12": Column("Accuracy, 12 expressions ↑", 3),
    "cls_2": Column("CLS, happy and surprise ↑", 3),
    "cls_12": Column("CLS, 12 expressions ↑", 3),
}
"""Figures of other expressions than a run's."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: Over `count` pictures.
        low, high: 2.5th and 97.5th percentile of the bootstrap means; `None` where there is only one photo.
        count: Number of pictures.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


Table = dict[str, dict[str, dict[str, Estimate]]]
"""method -> emotion (or ALL) -> figure -> estimate; figures without a value are left out."""


def bootstrap(values: Sequence[float], photos: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean with a percentile interval (Efron & Tibshirani 1993, chapter 13); whole photos are drawn again.

    A photo brings all its values, so that eight edits of one face do not count as eight faces.

    Args:
        values: Figures, at least one.
        photos: The photo that each belongs to.
    """
    _, place = np.unique(photos, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    mean, number = float(np.mean(values)), len(sums)
    if number < 2:
        return Estimate(mean, None, None, len(values))
    ends = stats.bootstrap(
        (sums, counts), lambda s, n, axis: s.sum(axis) / n.sum(axis), n_resamples=resamples, vectorized=True,
        paired=True, batch=max(1, _BLOCK // number), method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(mean, float(ends.low), float(ends.high), len(values))


def summarise(records: Sequence[Record], methods: Sequence[str], emotions: Sequence[str]) -> Table:
    """All estimates of a run; records with a `failure` do not count, and ALL is empty where an emotion is missing."""
    table: Table = {}
    scored = [r for r in records if not r.get("failure")]
    for method in methods:
        mine = [r for r in scored if r["method"] == method]
        table[method] = {e: _estimates([r for r in mine if r["emotion"] == e]) for e in emotions}
        whole = {r["emotion"] for r in mine} == set(emotions)  # some emotions are easier than others
        table[method][ALL] = _estimates(mine) if whole else {}
    return table


def _estimates(records: Sequence[Record]) -> dict[str, Estimate]:
    estimates = {}
    for figure in COLUMNS:
        known = [(r[figure], r["name"]) for r in records if r.get(figure) is not None]
        if known:
            figures, photos = zip(*known)
            estimates[figure] = bootstrap(figures, photos)
    return estimates


def add_shape_drift(records: Sequence[Record]) -> float | None:
    """Give every record with a `shape_change` its `shape_drift`: the change in units of the spread between people.

    The unit is the length of the standard deviations of the sources' shape codes. Returns one person's own drift,
    the median over real photos of the same people, below which a drift means nothing; `None` without such photos.
    """
    shapes = {r["name"]: r["shape"] for r in records if r.get("shape")}
    if len(shapes) < 2:
        return None
    unit = float(np.linalg.norm(np.std(list(shapes.values()), axis=0, ddof=1)))
    for record in records:
        if record.get("shape_change") is not None and unit > 0:
            record["shape_drift"] = record["shape_change"] / unit
    own = [r["shape_drift"] for r in records if r["method"] == REAL and "shape_drift" in r]
    return float(np.median(own)) if own else None


def confusion(records: Iterable[Record], method: str, judged: Sequence[str]) -> dict[str, dict[str, int]]:
    """Emotion asked for -> what the judge saw (or NO_FACE) -> number of pictures."""
    matrix: dict[str, dict[str, int]] = {}
    for record in records:
        if record["method"] == method and not record.get("failure"):
            row = matrix.setdefault(record["emotion"], dict.fromkeys([*judged, NO_FACE], 0))
            row[record["top"] or NO_FACE] += 1
    return matrix


def rank_score(record: Record) -> float:
    """Target probability times identity (CSIM, at least 0): what sheets are sorted by.

    Where the judge does not know the emotion, identity alone.
    """
    probability = record["target_probability"]
    return (1.0 if probability is None else probability) * max(record["csim"], 0.0)


def best_median_worst(records: Sequence[Record]) -> list[tuple[str, Record]]:
    """The three pictures that show a method's range; fewer where there are fewer."""
    ranked = sorted(records, key=lambda r: (-rank_score(r), r["name"]))
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    return [(word, ranked[place]) for word, place in list(places.items())[: len(ranked)]]


@dataclass(frozen=True)
class Published:
    """Figures from one source, which no run of ours measured.

    Attributes:
        mark: What every row has to carry.
        source, setting: Where they come from, and how they were taken.
        judges: Role -> who judged.
        table: method (with the mark) -> emotion (or ALL) -> figure -> estimate without interval.
    """

    mark: str
    source: str
    setting: str
    judges: dict[str, str]
    table: Table


def published() -> list[Published]:
    """The sources of `published.json`; a method's name never comes without its source's mark."""
    return [_published(content) for content in json.loads(PUBLISHED.read_text("utf-8"))["sources"]]


def _published(content: Mapping[str, Any]) -> Published:
    table: Table = {}
    for row in content["rows"]:
        marked = f"{row['method']} ({content['mark']})"
        figures = {name: Estimate(row[name], None, None, 0) for name in COLUMNS | PUBLISHED_ONLY if name in row}
        table.setdefault(marked, {})[row["emotion"]] = figures
    return Published(content["mark"], content["source"], content["setting"], content["judges"], table)


def is_method(label: str) -> bool:
    """Whether a row is a method's, not one of the two it is held against."""
    return label not in (UNEDITED, REAL)
