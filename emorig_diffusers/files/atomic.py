"""Files that appear when they are complete, never in part."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SLOTS = 100  # processes that write one file at a time under names of their own


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
    with temporary_name(place) as temporary:
        yield temporary
        if place.is_file():
            shutil.copymode(place, temporary)
        os.replace(temporary, place)


@contextmanager
def temporary_name(path: Path, folder: bool = False) -> Iterator[Path]:
    """A hidden name beside `path` that nobody else writes to in this block; what has it in the end is deleted.

    The name is always the same for one `path`, so that what a killed process left there is cleared away by the next
    that writes `path`. Several processes at once have a name each: a lock, which ends with its process, tells whose is
    in use. Where a file system knows no locks the name is a random one.

    Args:
        path: What is to be written; any name that the folder allows.
        folder: Whether the name becomes an empty folder, closed to others, instead of an empty file.
    """
    temporary, lock = _claim(path, folder) or (path.with_name(f".emorig-{secrets.token_hex(8)}.tmp"), None)
    if lock is None and folder:
        temporary.mkdir(0o700)
    inode = None if lock is None else os.fstat(lock).st_ino
    try:
        yield temporary
    finally:
        if inode is None or _inode(temporary) == inode:  # else it has its final name, and another may have this one
            _delete(temporary)
        if lock is not None:
            os.close(lock)


def _claim(path: Path, folder: bool) -> tuple[Path, int] | None:
    """An empty file or folder of a name that is ours while the descriptor is open; `None` where that cannot be had."""
    if fcntl is None:
        return None
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    with suppress(OSError):  # whoever writes there finds out
        for slot in range(_SLOTS):
            temporary = path.with_name(f".emorig-{name}-{slot}.tmp")
            lock = _lock(temporary, folder)
            if lock is not None:
                return temporary, lock
    return None


def _lock(temporary: Path, folder: bool) -> int | None:
    """The lock of a name under which there is a new file or folder now; `None` where another process has it."""
    assert fcntl is not None
    while True:
        try:
            temporary.mkdir(0o700) if folder else os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666))
            left = False
        except FileExistsError:
            left = True
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # another process has finished with it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:
            os.close(lock)
            if not left:
                _delete(temporary)
            raise
        if not left and _inode(temporary) == os.fstat(lock).st_ino:
            return lock
        if left and _inode(temporary) == os.fstat(lock).st_ino:  # nobody's any more
            _delete(temporary)
        os.close(lock)


def _inode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _delete(path: Path) -> None:
    """A file, or a folder with all in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
