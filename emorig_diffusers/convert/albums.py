"""Which album a model of DiffusionRig's second stage belongs to: its mean shape lies beside it or in its LMDB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

MODEL_NAME = r"(?:stage(\d)_)?model(\d+)(?:_([^/.]+))?\.pt"
"""modelNNNNNN.pt, or as DiffusionRig-EMO's lab names it, stage2_modelNNNNNN_PERSON.pt."""

_DEPTH = 3  # folders above a file that may tell of its stage and person: stage2/PERSON/deca_resnet18/modelNNNNNN.pt
_COMMON = {"lmdb", "personal", "aligned", "log", "logs", "stage2", "model", "models", "v1", "v2", "data"}


def model_number(path: Path) -> tuple[int, int] | None:
    """(stage or 0, steps) of a model's file, of which the larger is to be preferred; `None` for another file."""
    match = re.fullmatch(MODEL_NAME, path.name)
    if match is None:
        return None
    told = match[1] or next((m[1] for m in map(re.compile(r"stage(\d)").match, _above(path)) if m), "0")
    return int(told), int(match[2])


def shape_for(model: Path, shapes: Sequence[Path]) -> Path | None:
    """The mean_shape.pkl that a model was trained with, as far as names tell; `None` where they do not.

    One beside the model is its own. One in an LMDB is, if model and LMDB name the same person, or if there is no other
    and neither names another; a model of stage 1 has none.
    """
    beside = [shape for shape in shapes if shape.parent == model.parent]
    if beside:
        return beside[0]
    albums = [shape for shape in shapes if _is_lmdb(shape.parent)]
    stage, _ = model_number(model) or (0, 0)
    if stage == 1 or not albums:
        return None
    match = re.fullmatch(MODEL_NAME, model.name)
    if match and match[3]:
        albums = [shape for shape in albums if _words(match[3]) <= _words(shape.parent.name)]
    known = set().union(*map(_words, _above(model)), _words(model.stem))
    shared = [len(known & _words(shape.parent.name)) for shape in albums]
    best = [shape for shape, count in zip(albums, shared) if count == max(shared)]
    return best[0] if len(best) == 1 else None


def _above(path: Path) -> list[str]:
    """Names of the folders that a file lies in, the nearest first."""
    return [folder.name for folder in list(path.parents)[:_DEPTH]]


def _words(name: str) -> set[str]:
    return set(re.split(r"[_\W]+", name.lower())) - _COMMON - {""}


def _is_lmdb(folder: Path) -> bool:
    return folder.suffix == ".lmdb" or (folder / "data.mdb").is_file()
