"""XMP in files that no library writes it into: videos in boxes (MP4, QuickTime) and GIF."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # of the box that holds XMP (XMP specification, part 3)
_GIF_NAME = b"\x21\xff\x0bXMP DataXMP"
_GIF_END = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"  # readers that take the packet for blocks find its end here
_LONGEST = 2**24  # bytes of a packet that is read
_FIRST_BOXES, _MATROSKA = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), b"\x1a\x45\xdf\xa3"
BOXED = (".mp4", ".m4v", ".mov")
"""Suffixes of videos in boxes."""


def is_video(path: Path) -> bool:
    """Whether a file begins as MP4, QuickTime, Matroska or WebM do: FFmpeg finds pictures in any text, too."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(8)
    return head[4:] in _FIRST_BOXES or head.startswith(_MATROSKA)


def append_box(path: Path, packet: bytes) -> None:
    """Add XMP to a complete MP4 or QuickTime file: a box at the end, which moves nothing."""
    with open(path, "ab") as file:
        file.write(struct.pack(">L4s16s", 24 + len(packet), b"uuid", _UUID) + packet)


def read_box(path: Path) -> bytes | None:
    """XMP of an MP4 or QuickTime file."""
    with open(path, "rb") as file:
        for kind, start, size in _boxes(file):
            if kind == b"uuid" and size - 16 <= _LONGEST:
                file.seek(start)
                if file.read(16) == _UUID:
                    return file.read(size - 16)
    return None


def _boxes(file: IO[bytes]) -> list[tuple[bytes, int, int]]:
    """Kind, start and size of what the boxes of a file hold, up to the first that is damaged."""
    end, place, found = file.seek(0, 2), 0, []
    while place + 8 <= end:
        file.seek(place)
        size, kind = struct.unpack(">L4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0], 16
        size = size or end - place
        if size < head or place + size > end:
            break
        found.append((kind, place + head, size - head))
        place += size
    return found


def add_to_gif(data: bytes, packet: bytes) -> bytes:
    """A GIF with XMP before its first picture."""
    flags = data[10]
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return b"GIF89a" + data[6:start] + _GIF_NAME + packet + _GIF_END + data[start:]


def read_gif(data: bytes) -> bytes | None:
    """XMP of a GIF."""
    start = data.find(_GIF_NAME)
    end = data.find(_GIF_END[:16], start)
    return data[start + len(_GIF_NAME) : end] if 0 <= start < end else None
