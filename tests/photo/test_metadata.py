"""metadata.py: what files say besides their pixels is in the results too."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, IptcImagePlugin, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from emorig_diffusers.photo.io import read_photo, save_photo
from emorig_diffusers.photo.metadata import _photoshop_segment

FEW = Image.fromarray(np.random.default_rng(0).integers(60, 190, (3, 4, 3), np.uint8))
COLOUR = np.asarray(FEW.resize((64, 48), Image.Resampling.BICUBIC))  # smooth: lossy formats keep it
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" dc:rights="Ich"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x78\x00\x05hello\x1c\x02\x05\x00\x03abc"


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(COLOUR)


def same(path: Path, rgb: np.ndarray) -> int:
    """The largest difference of a file's pixels from others."""
    return int(np.abs(read_photo(path).rgb.astype(int) - rgb).max())


def full_jpeg(path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x829A] = 0.01
    exif.get_ifd(0x8825)[1] = "N"
    more = {"xmp": XMP, "comment": "schön", "extra": _photoshop_segment(IPTC), "icc_profile": SRGB}
    Image.fromarray(COLOUR).save(path, exif=exif, dpi=(300, 300), **more)


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [(".jpg", ""), (".png", ""), (".tif", "comment"), (".webp", "dpi iptc comment"), (".avif", "dpi iptc comment")],
)
def test_metadata_stays(suffix: str, lost: str, tmp_path: Path) -> None:
    """In the result, and in a JPEG made of the result; a TIFF's comment is its description."""
    full_jpeg(tmp_path / "a.jpg")
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.rgb.shape[:2] == COLOUR.shape[1::-1]
    save_photo(photo.restore(255 - photo.rgb), tmp_path / f"b{suffix}")
    again = read_photo(tmp_path / f"b{suffix}").original
    assert again.size == photo.original.size
    save_photo(again, tmp_path / "c.jpg")
    info = Image.open(tmp_path / "c.jpg")
    exif = info.getexif()
    assert (exif[0x010F], exif.get(0x0112, 1)) == ("Maker", 1)
    assert exif.get_ifd(0x8769)[0x829A] == pytest.approx(0.01) and exif.get_ifd(0x8825)[1] == "N"
    assert info.info["xmp"] == XMP.replace(b"6", b"1") and info.info["icc_profile"] == SRGB
    if "dpi" not in lost:
        assert info.info["dpi"] == (300, 300)
    if "iptc" not in lost:
        assert IptcImagePlugin.getiptcinfo(info) == {(2, 120): b"hello", (2, 5): b"abc"}
    if "comment" not in lost:
        assert info.info["comment"].decode() == "schön"
    elif suffix == ".tif":
        assert exif[0x010E] == "sch?n"


def test_texts_of_a_png_and_tags_of_a_tiff(picture: Image.Image, tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Author", "ich")
    texts.add_itxt("Title", "größer")
    texts.add_text("Comment", "a word")
    picture.save(tmp_path / "a.png", pnginfo=texts, dpi=(72, 144))
    save_photo(read_photo(tmp_path / "a.png").original, tmp_path / "b.png")
    image = Image.open(tmp_path / "b.png")
    assert image.text == {"Author": "ich", "Title": "größer", "Comment": "a word"}
    assert image.info["dpi"] == pytest.approx((72, 144), abs=0.02)
    save_photo(read_photo(tmp_path / "a.png").original, tmp_path / "c.jpg")
    assert Image.open(tmp_path / "c.jpg").info["comment"] == b"a word"

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[271], tags[315], tags[33723] = "Maker", "Me", IPTC
    picture.save(tmp_path / "a.tif", tiffinfo=tags, dpi=(200, 200))
    save_photo(read_photo(tmp_path / "a.tif").original, tmp_path / "b.jpg")
    image = Image.open(tmp_path / "b.jpg")
    assert dict(image.getexif()) == {271: "Maker", 315: "Me"} and image.info["dpi"] == (200, 200)
    assert IptcImagePlugin.getiptcinfo(image)[2, 120] == b"hello"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_odd_metadata_does_not_cost_the_photo(suffix: str, picture: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    for odd in ({"exif": exif, "xmp": b"x" * 70_000, "comment": b"y" * 70_000}, {"exif": b"Exif\0\0no such thing"}):
        picture.save(tmp_path / "a.png", exif=odd["exif"])
        photo = read_photo(tmp_path / "a.png")
        photo.original.info |= {key: odd[key] for key in ("xmp", "comment") if key in odd}
        assert same(save_photo(photo.restore(photo.rgb), tmp_path / f"b{suffix}"), COLOUR) < 8


def test_no_thumbnail_of_the_unedited_photo(picture: Image.Image, tmp_path: Path) -> None:
    exif, thumbnail = Image.Exif(), io.BytesIO()
    picture.save(thumbnail, "JPEG")
    exif[0x010F] = "Maker"
    exif.get_ifd(1).update({0x0201: 100, 0x0202: len(thumbnail.getvalue())})
    picture.save(tmp_path / "a.jpg", exif=exif.tobytes() + thumbnail.getvalue())
    save_photo(read_photo(tmp_path / "a.jpg").original, tmp_path / "b.jpg")
    assert thumbnail.getvalue()[:200] not in (tmp_path / "b.jpg").read_bytes()
