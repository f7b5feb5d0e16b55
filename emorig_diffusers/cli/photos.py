"""Photos that commands read, and the files that they write."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..photo.files import WRITABLE, result_names

if TYPE_CHECKING:
    from ..pipelines.base import FacePipeline
    from ..pipelines.outputs import EmoRigOutput

Job = tuple[Path, Path]
"""A photo, and where its result goes."""


def file_job(photo: Path, out: Path) -> Job:
    """A photo and its result, which takes the photo's name in a folder; ValueError where a
    result cannot be."""
    check_photo(photo)
    target = out / result_names([photo.name])[photo.name] if out.is_dir() else out
    if target.suffix.lower() not in WRITABLE:
        raise ValueError(f"Cannot tell the format of '{target}': use {', '.join(WRITABLE)}.")
    if not target.parent.is_dir():
        raise ValueError(f"The folder '{target.parent}' does not exist: create it first.")
    refuse_same(photo, target)
    return photo, target


def check_photo(photo: Path) -> None:
    """Raise ValueError unless there is such a file; what is in it, `read_photo` finds out."""
    if not photo.exists():
        raise ValueError(f"There is no file '{photo}'.")
    if photo.is_dir():
        raise ValueError(f"'{photo}' is a folder: give a photo.")


def refuse_same(photo: Path, out: Path) -> None:
    """Raise ValueError if writing `out` would replace `photo`."""
    if out.exists() and out.samefile(photo):
        raise ValueError(f"'{out}' is what is read: give the result another name.")


def check_reference(reference: Path | None, *outs: Path) -> None:
    """Raise ValueError unless a reference, where there is one, is a file that no result replaces."""
    if reference is not None:
        check_photo(reference)
        for out in outs:
            refuse_same(reference, out)


def find_faces_in(pipe: FacePipeline, photo: Path, face: int | str) -> list[Any]:
    """The chosen faces of a photo as the pipeline encodes them."""
    from ..photo.io import read_photo

    rgb = read_photo(photo).rgb
    with naming(photo):
        return pipe.encode(rgb, face)


@contextmanager
def naming(photo: Path) -> Iterator[None]:
    """Say in which photo no face was found."""
    from ..photo.faces import NoFaceError

    try:
        yield
    except NoFaceError as error:
        raise NoFaceError(f"'{photo}': {error}") from error


def say_notes(source: Path, result: EmoRigOutput) -> None:
    """Lines on stderr about what an edit of a photo left as it is."""
    from tqdm import tqdm

    from ..pipelines.outputs import notes_of

    for note in notes_of(result.faces[0]):
        tqdm.write(f"emorig: '{source}': {note}", file=sys.stderr)
