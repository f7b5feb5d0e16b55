"""Files broken as attackers and failing disks break them: by their structure, so that readers get past the first check.

A mutator takes a file's bytes and a `random.Random`, and gives other bytes. `mutate` tells formats by their content and
applies one to three of what fits; the same seed gives the same file.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
            0xFFFFFFFF)  # fmt: skip
_LONGEST_PART = 2**16  # bytes that are repeated or put in at most
_SIDES = (0, 1, 19, 20, 9999, 10_000, 16_383, 30_000, 65_535, 100_000, 0x7FFFFFFF, 0xFFFFFFFF)  # of pictures, pixels


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to three changes, most of them such as its format suggests."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice([*_fitting(data) * 2, any_bytes])(data, rng)
    return data


def _fitting(data: bytes) -> list[Mutator]:
    for magic, mutators in _BY_START.items():
        if data.startswith(magic):
            return mutators
    if data[4:8] in (b"ftyp", b"moov"):
        return [boxes]
    if data[257:262] == b"ustar":
        return [tar]
    if data[:1] in b"{[" and (text := _parsed(data)) is not None:
        return [json_text] if text else [any_text]
    if data[:1] == b"\x80" and data[-1:] == b".":
        return [pickled]
    if len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return [safetensors]
    return [any_text] if data[:200].isascii() and data[:200].decode("ascii").isprintable() else [any_bytes]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# any file


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits, numbers and parts changed, cut off, cut out, doubled, or put in."""
    if not data:
        return rng.randbytes(rng.randrange(64))
    at, out = rng.randrange(len(data)), bytearray(data)
    end = min(len(data), at + rng.choice((1, 4, 64, 1024, _LONGEST_PART)))
    match rng.randrange(7):
        case 0:
            for _ in range(rng.choice((1, 3, 20))):
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        case 1:
            _overwrite(out, at, rng)
        case 2:
            del out[at:]
        case 3:
            del out[at:end]
        case 4:
            out[at:at] = out[at:end]
        case 5:
            out[at:end] = rng.randbytes(end - at)
        case _:
            out[at:end] = bytes([rng.choice((0, 255, 32))]) * (end - at)
    return bytes(out)


def _overwrite(out: bytearray, at: int, rng: random.Random) -> None:
    """A number of another size than the one that is there."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("big", "little"))
    number = rng.choice(_NUMBERS) % 256**width
    out[at : at + width] = number.to_bytes(width, order)[: len(out) - at]


def _parts(parts: list[Any], rng: random.Random, change: Callable[[Any], Any]) -> list[Any]:
    """A list with one of its parts dropped, doubled, moved or changed."""
    if not parts:
        return parts
    at, parts = rng.randrange(len(parts)), list(parts)
    match rng.randrange(6):
        case 0:
            del parts[at]
        case 1:
            parts.insert(rng.randrange(len(parts)), parts[at])
        case 2:
            parts.insert(rng.randrange(len(parts)), parts.pop(at))
        case _:
            parts[at] = change(parts[at])
    return parts


# pictures


def jpeg(data: bytes, rng: random.Random) -> bytes:
    """Segments with right lengths, what they hold changed; EXIF as TIFF, profiles as ICC."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((data[at + 1], data[at + 4 : end]))
        at = end
    scans = data[at:]

    def change(segment: tuple[int, bytes]) -> tuple[int, bytes]:
        marker, body = segment
        if body.startswith(b"Exif\0\0"):
            return marker, body[:6] + tiff(body[6:], rng)
        if body.startswith(b"ICC_PROFILE\0"):
            return marker, body[:14] + icc(body[14:], rng)
        if 0xC0 <= marker <= 0xC2 and rng.random() < 0.5:  # size and components
            head = struct.pack(">BHHB", rng.choice((8, 12, 2)), rng.choice(_SIDES) % 65536, rng.choice(_SIDES) % 65536,
                               rng.choice((1, 2, 3, 4, 255)))  # fmt: skip
            return marker, head + body[6:]
        if rng.random() < 0.2:
            return rng.randrange(0xC0, 0x100), body
        return marker, any_bytes(body, rng)

    segments = _parts(segments, rng, change)
    if rng.random() < 0.2:
        scans = any_bytes(scans, rng)
    head = b"".join(bytes((255, m)) + struct.pack(">H", min(len(b) + 2, 65535)) + b[:65533] for m, b in segments)
    return data[:2] + head + scans


def png(data: bytes, rng: random.Random) -> bytes:
    """Chunks with right lengths and checksums; packed ones changed inside."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size

    def change(chunk: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        name, body = chunk
        if name == b"IHDR":
            width, height, *rest = struct.unpack(">IIBBBBB", body[:13].ljust(13, b"\0"))
            sides = [rng.choice((side, side, rng.choice(_SIDES))) for side in (width, height)]
            rest = [rng.choice((value, value, rng.randrange(20))) for value in rest]
            return name, struct.pack(">IIBBBBB", *sides, *rest)
        if name == b"eXIf":
            return name, tiff(body, rng)
        if name in (b"iCCP", b"zTXt", b"IDAT") and rng.random() < 0.7:
            return name, _packed(name, body, rng)
        return (rng.choice((b"IDAT", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA", b"pHYs")), body) \
            if rng.random() < 0.15 else (name, any_bytes(body, rng))  # fmt: skip

    chunks = _parts(chunks, rng, change)
    if rng.random() < 0.15:  # much text out of few bytes
        bomb = b"Comment\0\0" + zlib.compress(b"\0" * rng.choice((10**5, 2 * 10**7, 10**8)))
        chunks.insert(1, (b"zTXt", bomb))
    crc = lambda name, body: struct.pack(">I", zlib.crc32(name + body))
    return data[:8] + b"".join(struct.pack(">I", len(b)) + n + b + crc(n, b) for n, b in chunks)


def _packed(name: bytes, body: bytes, rng: random.Random) -> bytes:
    label, body = body.split(b"\0", 1) if name != b"IDAT" and b"\0" in body else (b"", body)
    head = label + b"\0" + body[:1] if name != b"IDAT" else b""
    try:
        plain = zlib.decompress(body[1:] if name != b"IDAT" else body)
    except zlib.error:
        return any_bytes(body, rng)
    plain = icc(plain, rng) if name == b"iCCP" else any_bytes(plain, rng)
    return head + zlib.compress(plain, 1)


def riff(data: bytes, rng: random.Random) -> bytes:
    """WebP's chunks, with right lengths in most files."""
    chunks, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2

    def change(chunk: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        name, body = chunk
        if name == b"EXIF":
            return name, tiff(body, rng)
        if name == b"ICCP":
            return name, icc(body, rng)
        head = 16 if rng.random() < 0.6 else len(body)  # sizes and flags stand first
        return name, any_bytes(body[:head], rng) + body[head:]

    chunks = _parts(chunks, rng, change)
    body = b"".join(n + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for n, b in chunks)
    size = len(body) + 4 if rng.random() < 0.8 else rng.choice(_NUMBERS)
    return b"RIFF" + struct.pack("<I", size) + data[8:12] + body


def tiff(data: bytes, rng: random.Random) -> bytes:
    """Entries of a TIFF's directories: tags, types, counts, values and offsets, and rings of directories."""
    if data[:6] == b"Exif\0\0":
        return data[:6] + tiff(data[6:], rng)
    order: Any = "little" if data[:2] == b"II" else "big"
    out, at = bytearray(data), int.from_bytes(data[4:8], order)
    seen: list[int] = []
    while 8 <= at < len(data) - 2 and at not in seen:
        seen.append(at)
        at = int.from_bytes(data[at + 2 + 12 * int.from_bytes(data[at : at + 2], order) :][:4], order)
    if not seen or rng.random() < 0.15:
        return any_bytes(data, rng)
    at = rng.choice(seen)
    count = int.from_bytes(data[at : at + 2], order)
    entry = at + 2 + 12 * rng.randrange(max(count, 1))
    match rng.randrange(6):
        case 0:  # the next directory: this one, the first one, far away
            at, value, width = at + 2 + 12 * count, rng.choice((at, seen[0], *_NUMBERS)), 4
        case 1:
            at, value, width = at, rng.choice((count + 1, *_NUMBERS)), 2
        case 2:
            at, value, width = entry, rng.choice((256, 257, 258, 259, 262, 273, 274, 277, 279, 282, 33723, 34665, 34675,
                                                  34853, 700, rng.randrange(65536))), 2  # fmt: skip
        case 3:
            at, value, width = entry + 2, rng.randrange(20), 2
        case 4:
            at, value, width = entry + 4, rng.choice(_NUMBERS), 4
        case _:
            at, value, width = entry + 8, rng.choice((*_NUMBERS, *_SIDES, seen[0])), 4
    out[at : at + width] = (value % 256**width).to_bytes(width, order)
    return bytes(out)


def icc(data: bytes, rng: random.Random) -> bytes:
    """A profile's header, its table of tags, or what they hold."""
    out = bytearray(data)
    if len(out) < 132 or rng.random() < 0.3:
        return any_bytes(data, rng)
    match rng.randrange(4):
        case 0:
            _overwrite(out, rng.randrange(128), rng)
        case 1:
            out[16:20] = rng.choice((b"RGB ", b"CMYK", b"GRAY", b"Lab ", b"XYZ ", b"2CLR"))
        case 2:
            out[128:132] = rng.choice(_NUMBERS).to_bytes(4, "big")
        case _:
            _overwrite(out, 132 + 4 * rng.randrange(min(30, (len(out) - 132) // 4 or 1)), rng)
    return bytes(out)


def gif(data: bytes, rng: random.Random) -> bytes:
    """Its header and the heads of its pictures, or any block."""
    out = bytearray(data)
    pictures = [at for at in range(13, min(len(out), 4096)) if out[at] in (0x2C, 0x21)]
    match rng.randrange(3):
        case 0:
            out[6:10] = struct.pack("<HH", *(rng.choice(_SIDES) % 65536 for _ in range(2)))
        case 1 if pictures:
            _overwrite(out, rng.choice(pictures) + rng.randrange(10), rng)
        case _:
            return any_bytes(data, rng)
    return bytes(out)


def header(data: bytes, rng: random.Random) -> bytes:
    """One number of the first 64 bytes, where formats such as BMP and NumPy's have theirs."""
    out = bytearray(data)
    _overwrite(out, rng.randrange(min(len(out), 64)), rng)
    return bytes(out)


# containers

_NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"meta", b"iprp", b"ipco", b"edts", b"udta", b"dinf")


def boxes(data: bytes, rng: random.Random) -> bytes:
    """ISO boxes (MP4, MOV, AVIF, HEIC), with right lengths in most files."""
    found = _read_boxes(data)

    def change(box: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        name, body = box
        skip = 4 if name == b"meta" else 0
        if name in _NESTED and rng.random() < 0.9:
            inner = _write_boxes(_parts(_read_boxes(body[skip:]), rng, change), rng)
            return name, body[:skip] + inner
        if name in (b"mdat", b"idat"):
            return name, any_bytes(body, rng)
        head = 32 if rng.random() < 0.6 else len(body)
        return name, any_bytes(body[:head], rng) + body[head:]

    if rng.random() < 0.6:  # where structure is, and not in what it tells of
        at = max(range(len(found)), key=lambda i: found[i][0] in _NESTED)
        found[at] = change(found[at])
    else:
        found = _parts(found, rng, change)
    return _write_boxes(found, rng)


def _read_boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        found.append((data[at + 4 : at + 8], data[at + 8 : at + max(size, 8)]))
        at += max(size, 8)
    return found


def _write_boxes(found: list[tuple[bytes, bytes]], rng: random.Random) -> bytes:
    size = lambda body: rng.choice(_NUMBERS) if rng.random() < 0.02 else len(body) + 8
    return b"".join(struct.pack(">I", size(body)) + name + body for name, body in found)


def zipped(data: bytes, rng: random.Random) -> bytes:
    """Members changed inside, dropped, doubled, renamed or packed, with right checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(one.filename, archive.read(one)) for one in archive.infolist()]
    except Exception:  # broken before
        return any_bytes(data, rng)

    def change(member: tuple[str, bytes]) -> tuple[str, bytes]:
        name, body = member
        if rng.random() < 0.15:
            return rng.choice((name + "x", "../" + name, "archive/data.pkl", "x.npy", name.upper())), body
        if rng.random() < 0.03:
            return name, b"\0" * 10**8  # a bomb, where it is packed
        return name, mutate(body, rng)

    members, out = _parts(members, rng, change), io.BytesIO()
    packed = rng.random() < 0.3 or sum(len(body) for _, body in members) > 5e7
    packing = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", packing) as archive:
        written = set()
        for name, body in members:
            if name not in written:
                archive.writestr(name, body)
            written.add(name)
    return out.getvalue()


def tar(data: bytes, rng: random.Random) -> bytes:
    """Members changed inside, dropped, doubled or renamed."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(one.name, archive.extractfile(one).read()) for one in archive if one.isfile()]  # type: ignore
    except Exception:  # broken before
        return any_bytes(data, rng)
    members = _parts(members, rng, lambda member: (member[0], mutate(member[1], rng)))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


# numbers


def pickled(data: bytes, rng: random.Random) -> bytes:
    """Opcodes dropped, doubled, moved, put in, and their arguments changed."""
    try:
        at = [place for _, _, place in pickletools.genops(data)]
    except Exception:  # broken before
        return any_bytes(data, rng)
    codes = [data[a:b] for a, b in zip(at, [*at[1:], len(data)])]
    if rng.random() < 0.2:
        codes.insert(rng.randrange(len(codes)), rng.choice(_OPCODES))
    return b"".join(_parts(codes, rng, lambda code: code[:1] + any_bytes(code[1:], rng)))


_OPCODES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"R", b"b",
    b"\x81", b"}", b"]", b")", b"N", b"(", b"t", b"0", b"2", b"K\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 8,
    b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"X\xff\xff\xff\xff",
    b"r\xff\xff\xff\x7f", b"r\xff\xff\xff\x0f", b"j\0\0\0\0", b"h\0", b"s", b"u", b"e", b"a", b"Q", b"P1\n", b".",
    b"\x95" + b"\xff" * 8, b"(" * 100, b"]" * 3000, b"I1\n", b"L" + b"9" * 6000 + b"L\n",
)  # fmt: skip


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header's length, its entries, or the numbers behind it."""
    size = int.from_bytes(data[:8], "little")
    head, tail = data[8 : 8 + size], data[8 + size :]
    match rng.randrange(8):
        case 0:
            return rng.choice((*_NUMBERS, 2**40, 2**63, size + 1, size - 1)).to_bytes(8, "little") + head + tail
        case 1:
            return data[: 8 + size] + any_bytes(tail, rng)
        case _:
            head = json_text(head, rng)
            return len(head).to_bytes(8, "little") + head + tail


_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**30, -(10**30), 1e400, -1e400, float("nan"), 0.5, "", "x",
    "x" * 10_000, "\0", "../../x", "\ud800", [], {}, [1], [0, 0], [-1, 2], [[[]]], {"x": 1}, [None] * 100, "1", "NaN",
    ["os", "system"], ["x", "y"], "F64", "BF16", "I64", "U8",
)  # fmt: skip


def json_text(data: bytes, rng: random.Random) -> bytes:
    """Values of another type or size, keys dropped or added, deep nests."""
    content = _parsed(data)
    if content is None or rng.random() < 0.1:
        return any_text(data, rng)
    if rng.random() < 0.03:
        return b"[" * 100_000
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(content)
    if not places or rng.random() < 0.05:
        return json.dumps(rng.choice(_VALUES)).encode()
    for _ in range(rng.choice((1, 1, 2))):
        owner, key = rng.choice(places)
        match rng.randrange(4):
            case 0 if isinstance(owner, dict):
                owner.pop(key, None)
            case 1 if isinstance(owner, dict):
                other = rng.choice(places)
                owner[str(other[1])] = rng.choice(_VALUES)
            case 2 if isinstance(owner, dict) and key in owner and isinstance(owner[key], (int, float)):
                owner[key] = rng.choice((-owner[key], owner[key] + 1, owner[key] * 2, owner[key] * 10**6))
            case _:
                if isinstance(owner, dict) or key < len(owner):
                    owner[key] = rng.choice(_VALUES)
    return json.dumps(content).encode()


def any_text(data: bytes, rng: random.Random) -> bytes:
    """Lines and cells dropped, doubled, moved and replaced, or any bytes."""
    lines = data.split(b"\n")
    if rng.random() < 0.3 or len(lines) < 2:
        return any_bytes(data, rng)
    words = (b"", b",", b'"', b"nan", b"inf", b"-1", b"1e400", b"9" * 5000, b"\xff\xfe", b"\0", b"[", b"{", b"&a [*a]",
             b"!!python/object:os.system x", b"=cmd()", b"../x.png", b"/etc/passwd")  # fmt: skip

    def change(line: bytes) -> bytes:
        mark = rng.choice((b",", b" ", b":"))
        return mark.join(_parts(line.split(mark), rng, lambda _: rng.choice(words)))

    return b"\n".join(_parts(lines, rng, change))


_BY_START: dict[bytes, list[Mutator]] = {
    b"\xff\xd8\xff": [jpeg],
    b"\x89PNG\r\n": [png],
    b"RIFF": [riff],
    b"II*\0": [tiff],
    b"MM\0*": [tiff],
    b"GIF8": [gif],
    b"BM": [header],
    b"\x93NUMPY": [header],
    b"\x89HDF": [header, any_bytes],
    b"PK\x03\x04": [zipped],
}
