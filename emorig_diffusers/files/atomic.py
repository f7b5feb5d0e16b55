"""Files that appear when they are complete, never in part."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the name `path` when the block ends well; after an error nothing has changed.

    The bytes are on the disk before the name is theirs. A link stays a link, and the file it leads to is replaced;
    a file that is replaced keeps its permissions; devices and pipes are written into.

    Write into the file with its own `write`: C encoders that take its descriptor (Pillow's do) pass over a write that
    a full disk cuts short.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as stream:
            yield stream
        return
    with replacing(path) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`, for what writes files by name, which becomes `path` when the block ends well. Links and
    permissions as for `write_atomically`."""
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".emorig-{secrets.token_hex(8)}.tmp")  # any name that the folder allows may be written
    try:
        yield temporary
        if place.is_file():
            shutil.copymode(place, temporary)
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically.

    Raises:
        OSError: It cannot be written; the error names `path`, not the temporary file.
    """
    write_files({path: data})


def write_files(files: Mapping[Path, bytes | memoryview]) -> None:
    """Write files that belong together: none takes its name before there was room for all.

    Raises:
        OSError: One cannot be written; the error names it, not the temporary file.
    """
    path = None
    try:
        with ExitStack() as stack:
            for path, data in files.items():
                file = stack.enter_context(write_atomically(path))
                file.write(data)
                file.flush()
    except OSError as error:  # the second name is that of a renaming
        raise OSError(error.errno, error.strerror, str(error.filename2 or path)) from error
