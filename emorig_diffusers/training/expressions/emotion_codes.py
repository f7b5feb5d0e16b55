"""A pipeline's emotions from labelled photos: one code an emotion, in the middle of what its photos show."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...data.shards import CodeShards
from ...face.emotions import EMOTIONS
from ...files.folders import write_folder
from ...hub.repository import fetch, rewrite_index
from ...pipelines.emorig import EmoRigPipeline

STEPS = 100  # of Weiszfeld's iteration
NEAREST = 1e-3  # standard deviations; a photo at the very centre does not hold it for ever
STILL = 1e-6  # standard deviations of a step that ends the iteration
UNUSED = dict.fromkeys(("unet", "scheduler", "appearance_encoder", "detail"))  # networks tell nothing here


@dataclass
class Photos:
    """Labelled codes.

    Attributes:
        codes: Expression and jaw's axis-angle [N, E + 3].
        labels: Emotion of each [N].
        weights: How much each counts [N].
    """

    codes: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def take(self, chosen: np.ndarray) -> Photos:
        """Those photos."""
        return Photos(self.codes[chosen], self.labels[chosen], self.weights[chosen])

    def names(self) -> list[str]:
        """Emotions that occur, in AffectNet's order."""
        return [name for name in EMOTIONS if name in self.labels]


@dataclass
class Classes:
    """Where emotions lie among codes.

    Attributes:
        centres: Emotion to code [E + 3].
        spread: Standard deviation within a class of every number of a code [E + 3]; 1 for what never changes.
    """

    centres: dict[str, np.ndarray]
    spread: np.ndarray

    def distances(self, codes: np.ndarray) -> np.ndarray:
        """From codes [N, E + 3] to the centres [N, classes], in standard deviations within a class."""
        centres = np.stack(list(self.centres.values()))
        return np.linalg.norm((codes[:, None] - centres) / self.spread, axis=2)


def read_photos(shards: CodeShards, length: int, max_photos: int, weigh: bool = False) -> Photos:
    """Labelled codes of shards.

    Args:
        shards: Of train/prepare.py.
        length: E of the pipeline's head.
        max_photos: Of one emotion; where there are more, some of all shards are taken.
        weigh: Photos whose landmarks the codes explain badly count less: 1 / (1 + (error / median error)²).

    Raises:
        DataError: If no photo has a label, or the codes are of another length.
    """
    chosen = []
    for name in EMOTIONS:
        own = [i for i, label in enumerate(shards.labels) if label == name]
        chosen += [own[i] for i in np.linspace(0, len(own) - 1, min(len(own), max_photos)).astype(int)]
    if not chosen:
        raise DataError(f"No photo in {shards.folder} has an emotion label: prepare a labelled data set (AffectNet).")
    codes, errors = [], []
    for i in tqdm(chosen, desc="read codes", mininterval=5):
        sample = shards[i]
        found = sample.codes.expression.shape[1]
        if found != length:
            raise DataError(
                f"{shards.folder} holds {found} expression coefficients a photo, the pipeline's head takes {length}: "
                "run train/prepare.py with this pipeline."
            )
        codes.append(torch.cat([sample.codes.expression, sample.codes.pose[:, 3:]], 1)[0].double().numpy())
        errors.append(sample.info.get("error") or 0.0)
    ratio = np.array(errors) / max(np.median(errors), 1e-9)
    weights = 1 / (1 + ratio**2) if weigh else np.ones(len(chosen))
    return Photos(np.stack(codes), np.array([shards.labels[i] for i in chosen]), weights)


def fit_classes(photos: Photos) -> Classes:
    """Geometric median of every emotion, with distances in standard deviations within a class.

    Annotators of AffectNet agree on six photos in ten, and single fits fail: the mean would follow them. The geometric
    median does not until they are half of the weight, needs no share of outliers to be guessed, and, unlike a median
    of every number for itself, is a blend of photos that exist.
    """
    groups = {name: photos.take(photos.labels == name) for name in photos.names()}
    deviation = np.concatenate([g.codes - np.median(g.codes, 0) for g in groups.values()])
    robust, plain = 1.4826 * np.median(np.abs(deviation), 0), deviation.std(0)
    spread = np.where(robust > 1e-6, robust, np.where(plain > 1e-6, plain, 1.0))
    return Classes({n: spread * geometric_median(g.codes / spread, g.weights) for n, g in groups.items()}, spread)


def geometric_median(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The point [D] with the smallest weighted sum of distances to points [N, D] (Weiszfeld's iteration)."""
    centre = np.median(points, 0)
    for _ in range(STEPS):
        pull = weights / np.maximum(np.linalg.norm(points - centre, axis=1), NEAREST)
        moved = pull @ points / pull.sum()
        if np.abs(moved - centre).max() < STILL:
            break
        centre = moved
    return moved


def held_out_shares(photos: Photos) -> dict[str, float]:
    """Share of an emotion's photos that lie nearest to its own centre, in the half that the centres do not know."""
    order = {name: np.flatnonzero(photos.labels == name) for name in photos.names()}
    known, unknown = (photos.take(np.concatenate([o[first::2] for o in order.values()])) for first in (0, 1))
    classes = fit_classes(known)
    nearest = np.array(list(classes.centres))[classes.distances(unknown.codes).argmin(1)]
    return {name: float((nearest == name)[unknown.labels == name].mean()) for name in order}


def table(photos: Photos, classes: Classes, shares: Mapping[str, float]) -> str:
    """Lines about the emotions: photos, size of the code, how far apart they are, how well they tell photos apart."""
    names, jaw = list(classes.centres), slice(-3, None)
    rows = [" ".join([f"{'emotion':9s} photos  |psi|   jaw  own  distance to", *(f"{n[:8]:>8s}" for n in names)])]
    for name, row in zip(names, classes.distances(np.stack(list(classes.centres.values())))):
        code, count = classes.centres[name], (photos.labels == name).sum()
        opening = np.degrees(np.linalg.norm(code[jaw]))
        about = f"{name:9s} {count:6,d} {np.linalg.norm(code[:-3]):6.2f} {opening:4.1f}° {shares[name]:4.0%}" + " " * 12
        rows.append(" ".join([about, *(f"{distance:8.2f}" for distance in row)]))
    rows.append(
        f"own: held-out photos nearest to their own emotion, {np.mean(list(shares.values())):.0%} on average, "
        f"{1 / len(names):.0%} by chance; distances in standard deviations within an emotion"
    )
    return "\n".join(rows)


def emotion_codes(pipe: EmoRigPipeline, centres: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Absolute codes of all emotions: centres, and, for the pipeline's other emotions, its own change from neutral.

    Args:
        pipe: Pipeline with recipes or with codes.
        centres: Emotion to code [E + 3].
    """
    former = {name: pipe.emotion_change(name).double().numpy() for name in pipe.emotion_names if name not in centres}
    zero = np.zeros(pipe.head.config.num_expression + 3)
    neutral = centres.get("neutral", np.array((pipe.config.emotion_codes or {}).get("neutral", zero)))
    codes = {name: neutral + change for name, change in former.items()} | dict(centres)
    return {name: [round(float(x), 6) for x in code] for name, code in codes.items()}


def fit_emotions(
    shards: CodeShards, source: str, out: Path, min_photos: int, max_photos: int, weigh: bool = False
) -> None:
    """Write a copy of a pipeline with `emotion_codes` in its index, and print how far emotions are apart.

    Args:
        shards: Labelled photos, prepared with the same pipeline.
        source: Folder or name of the pipeline.
        out: New or empty folder.
        min_photos: An emotion with fewer keeps what the pipeline had for it.
        max_photos: Photos of an emotion that are read.
        weigh: Photos whose landmarks were fitted badly count less.

    Raises:
        DataError: No emotion has enough photos, or the codes are another head's.
        FolderError: `out` cannot be written.
    """
    pipe = EmoRigPipeline.from_pretrained(source, **UNUSED)
    photos = read_photos(shards, pipe.head.config.num_expression, max_photos, weigh)
    counts = {name: int((photos.labels == name).sum()) for name in EMOTIONS}
    enough = [name for name, count in counts.items() if count >= min_photos]
    if not enough:
        raise DataError(f"No emotion has {min_photos} photos: prepare more, or give a smaller --min_photos.")
    photos = photos.take(np.isin(photos.labels, enough))
    classes = fit_classes(photos)
    codes = emotion_codes(pipe, classes.centres)
    print(table(photos, classes, held_out_shares(photos)))
    for name in (name for name in EMOTIONS if name not in enough):
        what = "keeps the pipeline's code" if name in codes else "is left out: the pipeline has no code for it"
        print(f"{name}: {counts[name]} photos are too few, it {what}")
    write_folder(out, lambda folder: write_pipeline(source, folder, codes))
    print(f"{out}: emotions from {len(photos.labels):,} photos")


def write_pipeline(source: str, folder: Path, codes: Mapping[str, list[float]]) -> None:
    """Copy a pipeline as it is, but for the emotions in its index."""
    shutil.copytree(fetch(source), folder, dirs_exist_ok=True)
    rewrite_index(folder, {"emotion_codes": codes})
