"""Folders of people's photos with a manifest.csv; of acted expressions its columns are file, person, expression."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable
from pathlib import Path

from ..data.dataset import DataError

MANIFEST = "manifest.csv"
NEUTRAL = "neutral"
COLUMNS = ("file", "person", "expression")


def read_rows(folder: Path, columns: Iterable[str] = COLUMNS) -> list[dict[str, str]]:
    """Rows of a folder's manifest.

    Raises:
        DataError: It is not there, is no text, or lacks one of the columns.
    """
    file = folder / MANIFEST
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            rows, found = list(reader), reader.fieldnames or []
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): it must list the photos.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is no CSV file in UTF-8: save it anew.") from error
    if missing := [name for name in columns if name not in found]:
        raise DataError(f"{file} has no column {' and no column '.join(missing)}: name its columns in the first line.")
    return rows


def read_manifest(
    folder: Path, expressions: Collection[str] | None = None, without: Iterable[str] = ()
) -> dict[tuple[str, str], Path]:
    """(person, expression) -> photo: neutral ones, and those of all or of some expressions.

    Args:
        folder: With a manifest.
        expressions: Wanted ones; each must be acted by somebody.
        without: People to leave out.

    Raises:
        DataError: The manifest cannot be used, somebody to leave out is not in it, an expression is left with nobody,
            or somebody has no neutral photo.
    """
    rows, without = read_rows(folder), set(without)
    if unknown := without - {row["person"] for row in rows}:
        raise DataError(f"{folder / MANIFEST} has nobody called {', '.join(sorted(unknown))}: check whom to leave out.")
    photos = {(row["person"], row["expression"]): folder / row["file"] for row in rows if row["person"] not in without}
    if expressions is not None:
        photos = {key: file for key, file in photos.items() if key[1] in (NEUTRAL, *expressions)}
    acted = {key for key in photos if key[1] != NEUTRAL}
    if nobody := set(expressions or ()) - {expression for _, expression in acted} or (not acted and {"an expression"}):
        raise DataError(f"{folder / MANIFEST} has nobody left who acts {', '.join(sorted(nobody))}: give more photos.")
    if alone := {person for person, _ in acted if (person, NEUTRAL) not in photos}:
        raise DataError(f"{folder / MANIFEST} has no neutral photo of {', '.join(sorted(alone))}: add one.")
    return photos
