"""Which files are photos, by their names; without torch, so that a wrong path is told at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

WRITABLE = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp")
"""Suffixes that results can have."""
READABLE = (*WRITABLE, ".heic", ".heif", ".gif")
"""Suffixes of files that count as photos (in any case)."""
_RESULTS = {".heic": ".jpg", ".heif": ".jpg", ".gif": ".png"}  # as lossy as what was read


def is_photo(file: str) -> bool:
    """Whether the name ends as a photo's."""
    return file.lower().endswith(READABLE)


def walk(root: Path, recursive: bool = True) -> Iterator[str]:
    """Files under `root` as paths relative to it with "/", hidden ones left out; links are followed, once each."""
    seen: set[tuple[int, int]] = set()
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    yield name
                elif recursive and entry.is_dir():
                    status = os.stat(entry)  # a DirEntry's own stat has no inode on Windows
                    if (status.st_dev, status.st_ino) not in seen:
                        seen.add((status.st_dev, status.st_ino))
                        folders.append(name + "/")


def result_names(files: Iterable[str]) -> dict[str, str]:
    """What the results of some files, relative to a folder, are called in another folder.

    A file of a kind that cannot be written becomes a JPEG or PNG; where another result has that name already, its own
    suffix stays before the new one: "a.jpg" beside "a.heic" and "a.heic.jpg".
    """
    files = list(files)
    names = {file: file for file in files if PurePath(file).suffix.lower() in WRITABLE}
    taken = {name.lower() for name in names.values()}
    for file in files:
        if file not in names:
            suffix = _RESULTS.get(PurePath(file).suffix.lower(), PurePath(file).suffix)
            name = PurePath(file).with_suffix(suffix).as_posix()
            names[file] = name if name.lower() not in taken else file + suffix
            taken.add(names[file].lower())
    return names


def kinds(files: Iterable[str]) -> str:
    """How many files there are of each suffix: "2 .mov, 1 .txt, 1 without a suffix"."""
    count = Counter(PurePath(file).suffix.lower() for file in files)
    order = sorted(count.items(), key=lambda kind: (-kind[1], kind[0] or "~"))
    return ", ".join(f"{number} {suffix or 'without a suffix'}" for suffix, number in order)
