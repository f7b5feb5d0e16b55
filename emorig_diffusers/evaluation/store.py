"""Scores on disk: lines appended while a run goes on, read again by the next."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.texts import parse_json
from ..version import __version__
from .pairs import Pair

Record = dict[str, Any]
Key = tuple[str, str, str]


class Store:
    """JSONL shards in a folder, one for each process: it reads all and appends to its own.

    A line that a killed process left half-written is passed over, and so is one that has changed since: every line
    ends with its own CRC-32. Records are told apart by method, emotion, name and
    `fingerprint`, so that lines of other pictures and judges may lie beside them.

    Args:
        folder: Made if it is not there.
        process: Number of this process.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / f"{process:05d}.jsonl"
        self._end_torn_line()

    def read(self) -> dict[tuple[Key, str], Record]:
        """(key, fingerprint) -> record of all shards; a failure only where no process has figures."""
        records: dict[tuple[Key, str], Record] = {}
        for shard in sorted(self.folder.glob("*.jsonl")):
            for line in shard.read_bytes().splitlines():
                record = _whole(line)
                if record is None:
                    continue
                place = (record["method"], record["emotion"], record["name"]), record["fingerprint"]
                if place not in records or records[place]["failure"]:
                    records[place] = record
        return records

    def append(self, record: Record) -> None:
        """Add a line, in one write.

        Raises:
            OSError: The disk is full.
        """
        line = _text(record | {_SUM: _sum(record)}) + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _end_torn_line(self) -> None:
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            with open(self._path, "ab") as file:
                file.write(b"\n")


_SUM = "crc32"  # key of a line's own checksum


def _whole(line: bytes) -> Record | None:
    """The record of a line, if it is as it was written."""
    try:
        record = parse_json(line)
        return record if record.pop(_SUM) == _sum(record) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _text(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _sum(record: Record) -> int:
    return zlib.crc32(_text(record))


def fingerprint(pair: Pair, judges: Mapping[str, str]) -> str:
    """What figures depend on: the files (size and time), their strengths, the judges, this package's version."""
    strengths = [pair.intensity, *(intensity for intensity, _ in pair.strengths)]
    files = [pair.source, pair.edited, pair.reference, *(file for _, file in pair.strengths), *(pair.own or ())]
    text = json.dumps([[file and file_state(file) for file in files], strengths, dict(judges), __version__])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_state(path: Path) -> list[int] | None:
    """Size (bytes) and time (ns) of a file; `None` where there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]
