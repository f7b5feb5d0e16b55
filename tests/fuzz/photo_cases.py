"""Photos in every format that is read, with everything that a file may say, and their mutants."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from mutators import mutate
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from worker import Suite

from emorig_diffusers.photo.faces import NoFaceError, find_faces
from emorig_diffusers.photo.io import PhotoError, count_frames, read_photo, save_photo

FACES, EDITS = 20, 200
"""Every so many photos are also looked at for faces, and edited."""
_SIDE = 160  # pixels of the photos


def suite(seed: int, with_faces: bool = True) -> Suite:
    """Photos through reading and writing; a share through the search for faces, a smaller one through an edit."""
    seeds = dict(make_photos())
    kinds, pipes = sorted(seeds), []

    def make(case: int, folder: Path) -> str:
        rng = random.Random(f"photos {seed} {case}")
        kind = kinds[rng.randrange(len(kinds))]
        data = mutate(seeds[kind], rng)
        (folder / f"photo.{kind.split('-')[0]}").write_bytes(data)
        return kind

    def read(case: int, folder: Path) -> None:
        (file,) = folder.iterdir()
        count_frames(file)
        photo = read_photo(file)
        if with_faces and case % FACES == 0:
            find_faces(photo.rgb)
        if with_faces and case % EDITS == 0:
            photo = read_photo(pipes[0](file, "happy", num_inference_steps=1).images[0])
        out = save_photo(photo.restore(photo.rgb), folder / ("out" + (".png", ".jpg", ".tif", ".webp")[case % 4]))
        out.unlink()

    def start() -> None:
        from emorig_diffusers import EmoRigPipeline

        pipes.append(EmoRigPipeline.from_pretrained("emorig-open"))
        pipes[0].set_progress_bar_config(disable=True)

    return Suite(make, read, (PhotoError, NoFaceError), *([start] if with_faces else []))


def make_photos() -> Iterator[tuple[str, bytes]]:
    """Kind -> a photo of a face; the kind begins with the suffix."""
    face = Image.fromarray(skimage.data.astronaut()[:260, 90:350]).resize((_SIDE, _SIDE))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif, xmp = _exif(), b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    told: dict[str, Any] = {"exif": exif, "icc_profile": srgb}
    inks = srgb[:16] + b"CMYK" + srgb[20:]
    grey, alpha = face.convert("L"), face.copy()
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)

    yield "jpg", _saved(face, "JPEG", quality=80, dpi=(300, 300), comment=b"a comment", xmp=xmp, **told)
    yield "jpg-progressive", _saved(face, "JPEG", progressive=True, exif=exif)
    yield "jpg-grey", _saved(grey, "JPEG", exif=exif)
    yield "jpg-inks", _saved(face.convert("CMYK"), "JPEG", icc_profile=inks)
    yield "jpg-album", _saved(face, "MPO", save_all=True, append_images=[face.rotate(90)], exif=exif)
    texts = PngInfo()
    texts.add_text("Title", "a face", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
    iptc = b"8BIM" + struct.pack(">HHL", 0x0404, 0, 6) + b"\x1c\x02\x78\0\1x"
    texts.add_text("Raw profile type iptc", f"\niptc\n{len(iptc):8d}\n{iptc.hex()}\n", zip=True)
    yield "png", _saved(face, "PNG", pnginfo=texts, dpi=(300, 300), **told)
    yield "png-alpha", _saved(alpha, "PNG", icc_profile=srgb)
    yield "png-palette", _saved(face.quantize(64), "PNG", transparency=3)
    yield "png-deep", _saved(deep, "PNG")
    yield "png-bits", _saved(face.convert("1"), "PNG", transparency=1)
    yield "png-frames", _saved(face, "PNG", save_all=True, append_images=[face.rotate(90)], duration=40)
    yield "png-interlaced", _interlaced(np.asarray(face))
    yield "webp", _saved(face, "WEBP", xmp=xmp, **told)
    yield "webp-lossless", _saved(alpha, "WEBP", lossless=True, **told)
    yield "webp-frames", _saved(face, "WEBP", save_all=True, append_images=[face.rotate(90)], duration=40)
    yield "avif", _saved(face, "AVIF", **told)
    yield "avif-frames", _saved(alpha, "AVIF", save_all=True, append_images=[alpha.rotate(90)])
    for packing in ("raw", "tiff_adobe_deflate", "tiff_lzw", "packbits", "jpeg", "group4"):
        picture = face.convert("1") if packing == "group4" else face
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[33723], tags[700], tags[270] = iptc[12:], xmp, "a face"
        yield f"tif-{packing}", _saved(picture, "TIFF", compression=packing, tiffinfo=tags, icc_profile=srgb)
    yield "tif-groups", _saved(face, "TIFF", exif=exif)
    yield "tif-deep", _saved(deep, "TIFF")
    yield "tif-float", _saved(grey.convert("F").point(lambda v: v / 255 + 0), "TIFF")
    yield "tif-inks", _saved(face.convert("CMYK"), "TIFF", icc_profile=inks)
    yield "tif-lab", _saved(_lab(face), "TIFF")
    yield "tif-pages", _saved(face, "TIFF", save_all=True, append_images=[grey, alpha])
    yield "bmp", _saved(face, "BMP")
    yield "bmp-palette", _saved(face.quantize(16), "BMP")
    yield "gif", _saved(face.quantize(64), "GIF", comment=b"a comment", transparency=3)
    yield "gif-frames", _saved(face, "GIF", save_all=True, append_images=[face.rotate(90)], duration=40, loop=0)
    if heic := make_heic(np.asarray(face)):
        yield "heic", heic


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.copy().save(out, file_format, **options)
    return out.getvalue()


def _exif() -> bytes:
    """With orientation, camera, place, and a thumbnail's directory."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "a camera", "2020:01:01 00:00:00"
    exif.get_ifd(0x8769).update({0x829A: TiffImagePlugin.IFDRational(1, 60), 0x927C: b"maker's own" * 8})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    return exif.tobytes()


def _lab(image: Image.Image) -> Image.Image:
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(image, lab)


def _interlaced(rgb: np.ndarray) -> bytes:
    """Adam7, which Pillow reads and does not write."""
    rows = []
    for x, y, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                         (0, 1, 1, 2)):  # fmt: skip
        rows += [b"\0" + row.tobytes() for row in rgb[y::dy, x::dx]]
    height, width = rgb.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    pack = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pack(*chunk) for chunk in chunks)


def make_heic(rgb: np.ndarray) -> bytes:
    """A picture that x265 codes, in HEIF's boxes, as telephones write it; empty where there is no x265."""
    import av

    if "libx265" not in av.codecs_available:
        return b""
    height, width = rgb.shape[:2]
    movie = io.BytesIO()
    with av.open(movie, "w", format="matroska") as container:
        stream: Any = container.add_stream("libx265", rate=Fraction(1), options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        picture.pts = 0
        for packet in [*stream.encode(picture), *stream.encode(None)]:
            container.mux(packet)
    movie.seek(0)
    with av.open(movie) as container:
        stream = container.streams.video[0]
        coded = next(bytes(packet) for packet in container.demux(stream) if packet.size)
        told = bytes(stream.codec_context.extradata)
    box = lambda name, *parts: struct.pack(">I", 8 + sum(map(len, parts))) + name + b"".join(parts)
    full = lambda name, *parts, version=0: box(name, struct.pack(">I", version << 24), *parts)
    ftyp = box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(place: int) -> bytes:
        entry = full(b"infe", struct.pack(">HH", 1, 0), b"hvc1\0", version=2)
        parts = box(b"ipco", box(b"hvcC", told), full(b"ispe", struct.pack(">II", width, height)))
        where = struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, place, len(coded))
        return full(
            b"meta", full(b"hdlr", b"\0\0\0\0pict" + b"\0" * 13), full(b"pitm", struct.pack(">H", 1)),
            full(b"iloc", where), full(b"iinf", struct.pack(">H", 1), entry),
            box(b"iprp", parts, full(b"ipma", struct.pack(">IHB", 1, 1, 2), b"\x81\x02")),
        )  # fmt: skip

    return ftyp + meta(len(ftyp) + len(meta(0)) + 8) + box(b"mdat", coded)
