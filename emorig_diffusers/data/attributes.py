"""The ±1 attribute lists of CelebA, CelebA-HQ and DiffAE's classifiers.

The first line is the count of rows, the second the names, every other `file ±1 ±1 …` with blanks of any width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from emorig_diffusers.data.dataset import DataError

from ..face.emotions import EMOTIONS
from ..files.atomic import write_file

ONE_HOT_NAMES = tuple(f"Label_{i}" for i in range(len(EMOTIONS)))
"""Attribute names of a list that holds one of AffectNet's eight emotions a row."""

_VALUES = {"1": 1, "-1": -1, "+1": 1}


def read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Read a ±1 list.

    Returns:
        The names, and for each file (as the list writes it, in the list's order) 1 or -1 for each name.

    Raises:
        DataError: the list cannot be read, or breaks the format; the message tells the line.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The attribute list '{path}' cannot be read ({error}): give a text file.") from error
    if len(lines) < 2 or not re.fullmatch(r"\s*[0-9]+\s*", lines[0]):
        raise DataError(f"'{path}' is no attribute list: line 1 must be the count of rows, line 2 the names.")
    names = tuple(lines[1].split())
    rows: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(lines[2:], 3):
        if line.strip():
            file, values = _row(line, len(names), f"'{path}', line {number}")
            if file in rows:
                raise DataError(f"'{path}', line {number}: {file} is listed twice; delete one of the rows.")
            rows[file] = values
    count = int(lines[0])
    if len(rows) != count:
        raise DataError(f"'{path}', line 1: the count is {count}, but {len(rows)} rows follow; it may be cut off.")
    return names, rows


def _row(line: str, width: int, place: str) -> tuple[str, tuple[int, ...]]:
    file, *values = line.split()
    if len(values) != width:
        raise DataError(f"{place}: {len(values)} values for {width} names; write 'file' and one ±1 for each name.")
    try:
        return file, tuple([_VALUES[value] for value in values])
    except KeyError as error:
        raise DataError(f"{place}: {error.args[0]!r} is not a value; every value must be 1 or -1.") from None


def write_attributes(path: Path, names: Sequence[str], rows: Mapping[str, Sequence[int]]) -> None:
    """Write a ±1 list, atomically.

    Args:
        path: replaced if it exists.
        names: of the attributes, without blanks.
        rows: file name without blanks -> 1 or -1 for each name.

    Raises:
        DataError: a name holds blanks, a row has another length or values, or the file cannot be written.
    """
    for name in (*names, *rows):
        if not name or name.split() != [name]:
            raise DataError(f"{name!r} cannot stand in an attribute list: names must not be empty or hold blanks.")
    for file, row in rows.items():
        if len(row) != len(names) or not set(row) <= {1, -1}:
            raise DataError(f"The row of {file} must be {len(names)} values of 1 or -1, got {list(row)}.")
    body = "".join(f"{file} {' '.join(map(str, map(int, row)))}\n" for file, row in rows.items())
    try:
        write_file(Path(path), f"{len(rows)}\n{' '.join(names)}\n{body}".encode())
    except OSError as error:
        raise DataError(f"Cannot write the attribute list '{path}': {error.strerror or error}.") from error


def one_hot_rows(labels: Iterable[str | None]) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """What `write_attributes` writes for emotions of pictures numbered from 0, as DiffAE's classifier trains on.

    Args:
        labels: of EMOTIONS, one for each picture.

    Returns:
        `Label_0` … `Label_7`, and rows "0.jpg" -> (-1, 1, -1, …) with a single 1.

    Raises:
        DataError: a label is no emotion.
    """
    hot = {name: tuple(1 if name == other else -1 for other in EMOTIONS) for name in EMOTIONS}
    rows = {}
    for i, label in enumerate(labels):
        if label not in hot:
            raise DataError(f"Picture {i} has the label {label!r}: use one of {', '.join(EMOTIONS)}.")
        rows[f"{i}.jpg"] = hot[label]
    return ONE_HOT_NAMES, rows


def one_hot_label(row: Sequence[int]) -> str | None:
    """The emotion of a row of `one_hot_rows`; None unless exactly one value is 1."""
    return EMOTIONS[list(row).index(1)] if list(row).count(1) == 1 else None
