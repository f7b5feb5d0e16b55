"""Folders that appear when they are complete, never in part."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from .atomic import temporary_name

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FolderError(ValueError):
    """A folder cannot be written; one sentence."""


def write_folder(out: Path, write: Callable[[Path], None]) -> Path:
    """Fill a folder and only then give it its name; after an error nothing stays behind.

    Args:
        out: A folder that is new or empty; the ones above it are made.
        write: Fills the folder that it is given, which lies beside `out`.

    Returns:
        `out` as an absolute path.

    Raises:
        FolderError: `out` is a file or a folder with files, or the disk is full; whatever else `write` raises.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderError(f"{out} is there already and not empty: give a new or an empty folder.")
    missing = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary_name(out, folder=True) as scratch:
            part = scratch / out.name  # made here, as that folder is closed to others
            part.mkdir()
            write(part)
            if out.exists():
                out.rmdir()  # Windows does not rename onto an empty folder
            os.replace(part, out)
    except BaseException as error:
        for folder in missing:
            folder.rmdir()
        if reason := _no_room(error):
            raise FolderError(f"{out} cannot be written ({reason}): make room there.") from error
        raise
    return out


def update_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write files into a folder that may hold others, which stay; none takes its name before all are complete.

    Args:
        folder: It and the ones above it are made.
        write: Fills the folder that it is given with files, as a model's `save_pretrained` does.

    Raises:
        FolderError: The disk is full; whatever else `write` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_name(folder, folder=True) as scratch:
        try:
            write(scratch)
        except Exception as error:
            if reason := _no_room(error):
                raise FolderError(f"{folder} cannot be written ({reason}): make room there.") from error
            raise
        for file in sorted(scratch.iterdir()):
            os.replace(file, folder / file.name)


def _no_room(error: BaseException) -> str:
    """What says that a disk is full; empty for other errors."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.strerror or str(error)
    serialized = isinstance(error, SafetensorError) and str(error).startswith("Error while serializing")
    return str(error).rpartition("I/O error: ")[2] if serialized else ""
