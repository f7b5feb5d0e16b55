"""What a picture file says besides its pixels: read from any format, written to any, as far as that has a place.

Kept are resolution, EXIF and XMP (with orientation 1), IPTC, a comment, and a PNG's texts. Thumbnails are not: they
show the photo as it was.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

_IPTC = 0x0404  # number of Photoshop's resource that holds IPTC's records
_IPTC_TAG = 33723  # of TIFF
_XMP_TAG = 700  # of TIFF
_LONGEST = 65_533 - 29  # bytes of one JPEG segment, less the longest name of one
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[0-9]")
_TEXTS_OF_OTHERS = ("Comment", "XML:com.adobe.xmp")  # and "Raw profile type …": texts of a PNG that are kept apart
_GROUPS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_TIFF_TAGS = (270, 271, 272, 305, 306, 315, 316, 33432, *_GROUPS)
"""A TIFF's own EXIF, among tags that describe how its pixels lie: what is shown, camera, software, date, artist,
computer, copyright."""


def read_metadata(image: Image.Image) -> dict[str, Any]:
    """What a loaded picture says, of what is kept: dpi (x, y), exif, xmp, iptc, comment (bytes), text {name: text}.

    Parts that are damaged are left out.
    """
    found = {}
    for name, read in (("dpi", _dpi), ("exif", _exif), ("xmp", _xmp), ("iptc", _iptc), ("comment", _comment)):
        try:
            value = read(image)
        except Exception:  # Pillow meets odd tags with a dozen kinds of errors
            continue
        if value:
            found[name] = value
    texts = getattr(image, "text", None) or {}
    mine = {k: str(v) for k, v in texts.items() if k not in _TEXTS_OF_OTHERS and not k.startswith("Raw profile")}
    return found | ({"text": mine} if mine else {})


def turn_upright(image: Image.Image) -> Image.Image:
    """The picture as EXIF's orientation wants it; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # see read_metadata
        return image.copy()


def save_options(info: Mapping[Any, Any], file_format: str) -> dict[str, Any]:
    """Options of Pillow's `save` that write what `read_metadata` found, as far as a format has a place for it."""
    kept = {key: info[key] for key in _PLACES[file_format] if info.get(key)}
    if file_format == "JPEG":
        kept = {key: value for key, value in kept.items() if key == "dpi" or fits_place(value, file_format)}
        if info.get("iptc") and fits_place(info["iptc"], file_format):
            kept["extra"] = _photoshop_segment(info["iptc"])
    elif file_format == "PNG":
        kept["pnginfo"] = _texts(info)
    elif file_format == "TIFF":
        kept["tiffinfo"] = tags = _tags(info, kept.pop("exif", None))
        if any(group in tags for group in _GROUPS):
            kept["compression"] = None  # libtiff, which compresses, writes no groups of tags
    return kept


def fits_place(value: bytes, file_format: str) -> bool:
    """Whether a format has room for a value of `save_options`."""
    return file_format != "JPEG" or len(value) <= _LONGEST


_PLACES = {
    "JPEG": ("dpi", "exif", "xmp", "comment"),
    "PNG": ("dpi", "exif"),
    "WEBP": ("exif", "xmp"),
    "AVIF": ("exif", "xmp"),
    "TIFF": ("dpi", "exif"),
    "BMP": ("dpi",),
}


def _dpi(image: Image.Image) -> tuple[float, ...]:
    x, y = map(float, image.info["dpi"])
    return (x, y) if min(x, y) > 1 and max(x, y) < 1e5 else ()  # a TIFF without resolution has 1


def _exif(image: Image.Image) -> bytes:
    exif = image.getexif()
    if isinstance(image, TiffImageFile) and "exif" not in image.info:
        own, exif = exif, Image.Exif()
        for tag in _TIFF_TAGS:
            if tag in own:
                exif[tag] = own.get_ifd(tag) if tag in _GROUPS else own[tag]
    elif ExifTags.Base.Orientation in exif:
        exif[ExifTags.Base.Orientation] = 1
    return exif.tobytes() if len(exif) else b""


def _xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp.encode() if isinstance(xmp, str) else bytes(xmp))


def _iptc(image: Image.Image) -> bytes:
    if isinstance(blocks := image.info.get("photoshop"), dict):
        return bytes(blocks.get(_IPTC, b""))
    if isinstance(image, TiffImageFile):
        records = image.tag_v2.get(_IPTC_TAG) or image.get_photoshop_blocks().get(_IPTC, {}).get("data", b"")
        if isinstance(records, tuple):  # of 32-bit numbers, as some write them
            records = struct.pack(f"{image.tag_v2._endian}{len(records)}L", *records)
        return bytes(records)
    return _from_raw_profile(image.info.get("Raw profile type iptc", ""))


def _comment(image: Image.Image) -> bytes:
    comment = image.info.get("comment") or image.info.get("Comment") or b""
    return comment.encode() if isinstance(comment, str) else bytes(comment)


def _resource(iptc: bytes) -> bytes:
    """IPTC's records as a resource of Photoshop's, which is what programs look for in files."""
    return b"8BIM" + struct.pack(">HHL", _IPTC, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def _photoshop_segment(iptc: bytes) -> bytes:
    body = b"Photoshop 3.0\0" + _resource(iptc)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


def _from_raw_profile(text: str) -> bytes:
    """IPTC's records of a PNG, where ImageMagick writes them in hexadecimal digits."""
    data = bytes.fromhex("".join(text.split()[2:]))
    start = data.find(b"8BIM" + struct.pack(">H", _IPTC))
    if start < 0:
        return data
    name = data[start + 6] + 1  # a resource's name, padded to an even length
    size = start + 6 + name + name % 2
    (length,) = struct.unpack_from(">L", data, size)
    return data[size + 4 : size + 4 + length]


def _texts(info: Mapping[Any, Any]) -> PngInfo:
    texts = PngInfo()
    for name, text in info.get("text", {}).items():
        texts.add_itxt(name, text) if not text.isascii() else texts.add_text(name, text)
    if info.get("comment"):
        comment = info["comment"].decode("utf-8", "replace")
        texts.add_text("Comment", comment) if comment.isascii() else texts.add_itxt("Comment", comment)
    if info.get("xmp"):
        texts.add_itxt("XML:com.adobe.xmp", info["xmp"].decode("utf-8", "replace"))
    if info.get("iptc"):
        data = _resource(info["iptc"])
        texts.add_text("Raw profile type iptc", f"\niptc\n{len(data):8d}\n{data.hex()}\n", zip=True)
    return texts


def _tags(info: Mapping[Any, Any], exif: bytes | None) -> Image.Exif:
    tags = Image.Exif()
    tags.load(exif or b"")
    for tag in set(tags) - {*_TIFF_TAGS, ExifTags.Base.Orientation}:
        del tags[tag]  # such as a JPEG's subsampling
    if info.get("comment") and 270 not in tags:
        tags[270] = info["comment"].decode("utf-8", "replace")
    if info.get("xmp"):
        tags[_XMP_TAG] = info["xmp"]
    if info.get("iptc"):
        tags[_IPTC_TAG] = info["iptc"]
    return tags
