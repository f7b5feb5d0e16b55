"""Which files of NPHM a folder holds, told by what they hold, and the command that converts them."""

from __future__ import annotations

import shlex
from pathlib import Path

from .doctor import check, files_below
from .files import ConvertError
from .nphm import epoch_of, kind_of

NPHM_SITE = "https://github.com/SimonGiebenhain/NPHM (the links in its README)"
LICENCE = "code MIT; weights not stated, trained on data for research only"
NETWORKS = {
    "identity": "NPHM, the network of heads at rest",
    "expression": "NPHM, the network of expressions",
}
ARRAYS = {
    "anchors_39.npy": ("anchors", "NPHM's mean anchors"),
    "nphm_lat_mean.npy": ("mean", "the mean of NPHM's identity codes"),
    "nphm_lat_std.npy": ("std", "their deviation"),
}
"""File name -> option of `emorig convert nphm`, what it is."""
_DAMAGED = "damaged"


def find_neural_heads(folder: Path) -> list[tuple[str, Path]]:
    """NPHM's files in a folder and below it, as (argument of `emorig convert nphm` or "damaged", path).

    Of several checkpoints of a network the one of the last epoch comes first.
    """
    files = files_below(folder)
    checkpoints = sorted((path for path in files if epoch_of(path) is not None), key=lambda p: -(epoch_of(p) or 0))
    kinds = [(_kind(path), path) for path in checkpoints]
    found = [(kind, path) for kind, path in kinds if kind is not None]
    return found + [(_DAMAGED if check(path) else ARRAYS[path.name][0], path) for path in files if path.name in ARRAYS]


def _kind(path: Path) -> str | None:
    if check(path):
        return _DAMAGED
    try:
        return kind_of(path)
    except ConvertError:
        return None


def report_neural_heads(folder: Path, found: list[tuple[str, Path]]) -> list[str]:
    """What `find_neural_heads` found as lines of text, and the next step as the last one."""
    about = NETWORKS | dict(ARRAYS.values()) | {_DAMAGED: "perhaps of NPHM"}
    lines = []
    for kind, path in found:
        problem = check(path) if kind == _DAMAGED else None
        lines.append(f"{'unreadable' if problem else 'found':<10}  {path.name}: {about[kind]}")
        lines.append(f"{'':<10}  {path}{f' {problem}' if problem else ''}")
        lines.append(f"{'':<10}  licence: {LICENCE}")
    return [*lines, "", _next_step(folder, found)]


def _next_step(folder: Path, found: list[tuple[str, Path]]) -> str:
    again = f"then run `emorig doctor {shlex.quote(str(folder))}` again."
    paths = dict(reversed(found))  # the first of each kind
    if _DAMAGED in paths:
        return f"Next: '{paths[_DAMAGED]}' {check(paths[_DAMAGED])}, {again}"
    identity = paths.pop("identity", None)
    if identity is None:
        wanted = f"the identity network's checkpoint_epoch_N.tar from {NPHM_SITE}"
        return f"Next: get {wanted}, put it in '{folder}', {again}"
    if ("mean" in paths) != ("std" in paths):
        paths = {kind: path for kind, path in paths.items() if kind not in ("mean", "std")}  # they belong together
    options = "".join(f" --{kind} {shlex.quote(str(path))}" for kind, path in sorted(paths.items()))
    return f"Next: `emorig convert nphm {shlex.quote(str(identity))}{options} OUT`, where OUT is a new folder."
