"""A data set as the training scripts see it: a sorted list of photos with what is known of each."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..face.emotions import EMOTIONS
from ..photo.io import read_photo

UNUSED_LABELS = ("None", "Uncertain", "Non-Face")
"""AffectNet's labels 8, 9 and 10: no face with one of the eight emotions, not used for training."""


class DataError(ValueError):
    """What users bring cannot be used; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Source:
    """One photo of a data set.

    Attributes:
        key: unique in the data set, of [A-Za-z0-9_-] only; the sample's name in shards.
        file: where it came from, relative to the data set's root (of an LMDB, its key there).
        label: one of EMOTIONS.
        valence: unpleasant -1 to pleasant 1.
        arousal: calm -1 to excited 1.
        attributes: 1 or -1 each, in the order of `Dataset.attribute_names`.
    """

    key: str
    file: str
    label: str | None = None
    valence: float | None = None
    arousal: float | None = None
    attributes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PhotoReader:
    """Reads the photos under a folder."""

    root: Path

    def __call__(self, file: str) -> np.ndarray:
        """uint8 RGB [H, W, 3], upright; PhotoError where the file cannot be read."""
        return read_photo(self.root / file).rgb


@dataclass(frozen=True)
class Dataset:
    """The usable photos of a data set; none is opened before `read`.

    Attributes:
        layout: one of `sources.LAYOUTS`.
        sources: sorted by file.
        reader: file of a source -> uint8 RGB [H, W, 3]; can be sent to another process.
        dropped: reason -> how many were left out ("None", "Uncertain", "Non-Face", "missing image", …).
        attribute_names: of `Source.attributes`.
    """

    layout: str
    sources: list[Source]
    reader: Callable[[str], np.ndarray]
    dropped: dict[str, int] = field(default_factory=dict)
    attribute_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, source: Source) -> np.ndarray:
        """The photo of `source`, uint8 RGB [H, W, 3].

        Raises:
            PhotoError: it is missing or cannot be read.
        """
        return self.reader(source.file)


def count_table(dataset: Dataset) -> str:
    """How many photos there are of each label, in AffectNet's order, then what was left out, and the total.

    One `name count` a line. Labelled sets name all eleven labels of AffectNet; others count as "Unlabelled".
    """
    found = Counter(source.label for source in dataset.sources)
    rows: dict[str, int] = {}
    if set(found) - {None}:
        rows |= {name.capitalize(): found[name] for name in EMOTIONS}
        rows |= dict.fromkeys(UNUSED_LABELS, 0)
    if found[None]:
        rows["Unlabelled"] = found[None]
    rows |= dataset.dropped
    return "\n".join(f"{name} {count}" for name, count in (rows | {"total": sum(rows.values())}).items())


def stem(file: str) -> str:
    """The path without its suffix: "a/b.c.jpg" -> "a/b.c"."""
    folder, slash, name = file.rpartition("/")
    return folder + slash + name.rpartition(".")[0]


def unique_keys(files: Iterable[str], names: Iterable[str]) -> list[str]:
    """A key of [A-Za-z0-9_-] for each of `files`, made of its name.

    Names that are equal once other characters became "_" also get eight digits of the file's sha256, so that a
    key does not depend on the files' order.
    """
    files, plain = list(files), [re.sub(r"[^A-Za-z0-9_-]", "_", name) for name in names]
    count = Counter(plain)
    return [key if count[key] == 1 else f"{key}-{_digest(file)}" for file, key in zip(files, plain, strict=True)]


def _digest(file: str) -> str:
    return hashlib.sha256(file.encode(errors="surrogateescape")).hexdigest()[:8]
