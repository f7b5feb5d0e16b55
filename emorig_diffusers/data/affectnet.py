"""AffectNet (Mollahosseini et al. 2019): photos with one of eleven labels, valence and arousal.

Either a tree with `<id>_exp.npy`, `_val.npy` and `_aro.npy` beside each image (or in `annotations/` for images in
`images/`), or the CSV lists of the manual annotation. Landmarks and face boxes are not read: faces are found anew.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from emorig_diffusers.data.dataset import UNUSED_LABELS, DataError, Dataset, PhotoReader, Source, stem, unique_keys

from ..face.emotions import EMOTIONS
from ..photo.files import is_photo, walk

LABELS = (*EMOTIONS, *UNUSED_LABELS)
"""AffectNet's labels 0-10."""
LABEL_ENDING = "_exp.npy"
IMAGES = "Manually_Annotated_Images"

_COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height",
    "facial_landmarks", "expression", "valence", "arousal",
)  # fmt: skip
_USED = ("subDirectory_filePath", "expression", "valence", "arousal")


def read_tree(root: Path) -> Dataset:
    """The labelled images of a tree of images and `.npy` files, at any depth.

    Counted in `dropped`: "None", "Uncertain", "Non-Face", "missing image" (a label alone), "missing label" (an image
    alone), "repeated image" (0.jpg beside 0.png).

    Raises:
        DataError: there are no labels, or one of them is no plain number of AffectNet's.
    """
    files = list(walk(root))
    photos = sorted(filter(is_photo, files), reverse=True)
    images = {_sample(stem(file)): file for file in photos}
    labels = {_sample(name): name for name in (f.removesuffix(LABEL_ENDING) for f in files if f.endswith(LABEL_ENDING))}
    if not labels:
        raise DataError(f"'{root}' has no files <id>{LABEL_ENDING}: give AffectNet's folder, or its CSV list.")
    dropped = Counter(
        {
            "missing image": len(labels.keys() - images.keys()),
            "missing label": len(images.keys() - labels.keys()),
            "repeated image": len(photos) - len(images),
        }
    )
    samples = sorted(labels.keys() & images.keys())
    sources = []
    for sample, key in zip(_progress(samples), unique_keys(samples, samples)):
        label, name = _tree_label(root, labels[sample]), labels[sample]
        if label in UNUSED_LABELS:
            dropped[label] += 1
        else:
            valence, arousal = (_affect(_number(root / f"{name}_{kind}.npy")) for kind in ("val", "aro"))
            sources.append(Source(key, images[sample], label, valence, arousal))
    return Dataset("affectnet", sources, PhotoReader(root), +dropped)


def read_lists(lists: list[Path]) -> Dataset:
    """The photos of CSV lists, with or without a header line.

    The images are in Manually_Annotated_Images/ beside the list's folder or in it, else in the list's folder itself.
    Counted in `dropped`: "None", "Uncertain", "Non-Face", "missing image", "repeated image".

    Raises:
        DataError: a list breaks the format (the message tells the line), or none of its images is there.
    """
    root = _images_root(lists[0].parent)
    present, found = set(filter(is_photo, walk(root))), {}
    dropped: Counter[str] = Counter()
    for file, label, valence, arousal in _progress([row for path in lists for row in _rows(path)]):
        if label in UNUSED_LABELS:
            dropped[label] += 1
        elif file not in present:
            dropped["missing image"] += 1
        elif file in found:
            dropped["repeated image"] += 1
        else:
            found[file] = label, valence, arousal
    if not found and dropped["missing image"]:
        raise DataError(f"None of the photos of '{lists[0]}' is in '{root}': put {IMAGES} beside the list.")
    files = sorted(found)
    keys = unique_keys(files, map(stem, files))
    return Dataset("affectnet", [Source(k, f, *found[f]) for k, f in zip(keys, files)], PhotoReader(root), dropped)


def is_list(path: Path) -> bool:
    """Whether the first line of a CSV file is one of AffectNet's lists."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return _COLUMNS[0] in first or (len(first) == len(_COLUMNS) and first[6].strip().isdigit())


def _progress(items: list) -> tqdm:
    return tqdm(items, desc="reading labels", unit="photo", leave=False, delay=1)


def _sample(name: str) -> str:
    """The same for `a/images/7` and `a/annotations/7`."""
    return "/".join(part for part in name.split("/") if part not in ("images", "annotations"))


def _tree_label(root: Path, name: str) -> str:
    file = root / (name + LABEL_ENDING)
    return _label(_number(file), f"The label file '{file}'")


def _label(value: float | None, place: str) -> str:
    if value is None or value not in range(len(LABELS)):
        raise DataError(f"{place} holds {value}: AffectNet's labels are whole numbers from 0 to {len(LABELS) - 1}.")
    return LABELS[int(value)]


def _affect(value: float | None) -> float | None:
    """AffectNet writes -2 where valence or arousal are unknown."""
    return value if value is not None and -1 <= value <= 1 else None


def _number(path: Path) -> float | None:
    """The number in a .npy file, written as a number or as text; None if there is no such file."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged arrays make NumPy stumble in a dozen ways
        reason = "needs unpickling, which could run code" if "pickle" in str(error) else f"holds no number ({error})"
        raise DataError(f"The file '{path}' {reason}: save the number again with numpy.save.") from error


@lru_cache(1 << 16)  # a million files hold few different numbers
def _parse(data: bytes) -> float:
    return float(np.load(io.BytesIO(data), allow_pickle=False).item())


def _images_root(folder: Path) -> Path:
    places = (folder / IMAGES, folder.absolute().parent / IMAGES)
    return next((place for place in places if place.is_dir()), folder)


def _rows(path: Path) -> Iterator[tuple[str, str, float | None, float | None]]:
    """File, label, valence and arousal of each row of a CSV list."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            places = list(range(len(_COLUMNS)))
            for row in reader:
                place = f"'{path}', line {reader.line_num}"
                if reader.line_num == 1 and _COLUMNS[0] in row:
                    places = _header(row, path)
                elif row:
                    yield _row(row, places, place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The list '{path}' cannot be read ({error}): give AffectNet's CSV file.") from error


def _header(row: list[str], path: Path) -> list[int]:
    """Where the used columns are."""
    names = [name.strip() for name in row]
    missing = [name for name in _USED if name not in names]
    if missing:
        raise DataError(f"The list '{path}' has no column {', '.join(missing)}: give AffectNet's CSV file.")
    return [names.index(name) if name in _USED else -1 for name in _COLUMNS]


def _row(row: list[str], places: list[int], where: str) -> tuple[str, str, float | None, float | None]:
    if len(row) <= max(places):
        raise DataError(f"{where}: {len(row)} columns where {max(places) + 1} are needed; it may be cut off.")
    values = dict(zip(_COLUMNS, (row[place] for place in places)))
    try:
        label, valence, arousal = (float(values[name]) for name in _USED[1:])
    except ValueError as error:
        raise DataError(f"{where}: {error}; label, valence and arousal must be numbers.") from error
    file = values[_COLUMNS[0]].strip().replace("\\", "/")
    return file, _label(label, where), _affect(valence), _affect(arousal)
