"""profiles.py: colours are what they were, and no profile describes pixels of another kind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from emorig_diffusers.photo import io as photo_io
from emorig_diffusers.photo.files import WRITABLE
from emorig_diffusers.photo.io import read_photo, save_photo
from emorig_diffusers.photo.profiles import fits, to_srgb

FEW = Image.fromarray(np.random.default_rng(0).integers(60, 190, (3, 4, 3), np.uint8))
COLOUR = np.asarray(FEW.resize((64, 48), Image.Resampling.BICUBIC))  # smooth: lossy formats keep it
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHITE = np.array([63190, 65536, 54061], ">i4").tobytes()  # D50 in XYZ, 16.16
LOSSLESS = (".png", ".webp", ".tif", ".tiff", ".bmp")


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(COLOUR)


def same(path: Path, rgb: np.ndarray) -> int:
    """The largest difference of a file's pixels from others."""
    return int(np.abs(read_photo(path).rgb.astype(int) - rgb).max())


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """Lab [N, 3] as 16-bit numbers of ICC version 2 of sRGB colours [N, 3]."""
    image = Image.fromarray(rgb.reshape(-1, 1, 3))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    light, a, b = np.asarray(lab).reshape(-1, 3).astype(int).T
    a, b = ((x + 128) % 256 for x in (a, b))
    return np.stack([light * 65280 // 255, a * 256, b * 256], 1).astype(">u2")


def header(size: int, kind: bytes) -> bytes:
    """128 bytes of a profile of that many, of version 2; `kind` is its device, its colours and what they become."""
    head = size.to_bytes(4, "big") + bytes(4) + b"\2\x20\0\0" + kind + bytes(12) + b"acsp" + bytes(28) + WHITE
    return head + bytes(128 - len(head))


def cmyk_profile() -> bytes:
    """An ICC profile (version 2, lut16) whose inks are duller than Pillow's plain conversion takes them for."""
    corners = np.array([[(i >> bit) & 1 for bit in (3, 2, 1, 0)] for i in range(16)], float)
    dull = np.array([[0.0, 0.55, 0.8], [0.85, 0.1, 0.5], [1.0, 0.9, 0.1], [0.15, 0.15, 0.15]])
    rgb = np.prod(np.where(corners[..., None] > 0, dull[None], 1.0), 1)
    table = lab_of(np.round(rgb * 255).astype(np.uint8)).tobytes()
    matrix = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 65536], ">i4").tobytes()
    line = np.array([0, 65535], ">u2").tobytes()
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + b"\0\2\0\2" + 4 * line + table + 3 * line
    text = b"text" + bytes(4) + b"made for a test\0"
    white = b"XYZ " + bytes(4) + WHITE
    name = b"desc" + bytes(4) + b"\0\0\0\5inks\0" + bytes(78)
    tags = {b"A2B0": lut, b"cprt": text, b"wtpt": white, b"desc": name}
    place, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for key, data in tags.items():
        data += bytes(-len(data) % 4)
        index += key + (place + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data
    return header(place + len(body), b"prtrCMYKLab ") + len(tags).to_bytes(4, "big") + index + body


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_inks_go_through_their_profile(suffix: str, picture: Image.Image, tmp_path: Path) -> None:
    profile = cmyk_profile()
    inks = picture.convert("CMYK")
    inks.save(tmp_path / f"a{suffix}", icc_profile=profile)
    stored = Image.open(tmp_path / f"a{suffix}")
    srgb = ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(stored, io.BytesIO(profile), srgb, outputMode="RGB")
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(stored.convert("RGB"))).mean() > 10
    photo = read_photo(tmp_path / f"a{suffix}")
    assert np.abs(photo.rgb.astype(int) - np.asarray(expected)).max() <= 1
    assert "icc_profile" not in photo.original.info
    damaged = profile[:140] + bytes(len(profile) - 140)
    inks.save(tmp_path / "b.tif", icc_profile=damaged)
    assert same(tmp_path / "b.tif", np.asarray(inks.convert("RGB"))) == 0


def test_a_cmyk_jpeg_that_is_not_adobes(picture: Image.Image, tmp_path: Path) -> None:
    """Without Adobe's mark 0 means no ink."""
    inks = picture.convert("CMYK")
    inks.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    data = (tmp_path / "a.jpg").read_bytes()
    start = data.index(b"\xff\xee")
    assert data[start + 4 : start + 9] == b"Adobe"
    (tmp_path / "b.jpg").write_bytes(data[:start] + data[start + 16 :])
    adobe, other = read_photo(tmp_path / "a.jpg").rgb, read_photo(tmp_path / "b.jpg").rgb
    assert np.abs(adobe.astype(int) - COLOUR).max() < 8
    inverted = Image.fromarray(255 - np.asarray(inks), "CMYK")
    assert np.abs(other.astype(int) - np.asarray(inverted.convert("RGB"))).max() < 8


def test_lab(picture: Image.Image, tmp_path: Path) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB").save(tmp_path / "a.tif", icc_profile=SRGB)
    photo = read_photo(tmp_path / "a.tif")
    assert np.abs(photo.rgb.astype(int) - COLOUR).mean() < 1.5 and "icc_profile" not in photo.original.info


def grey_profile(gamma: float = 1.0) -> bytes:
    """An ICC profile of grey with a power as its tone curve."""
    curve = b"curv" + bytes(4) + b"\0\0\0\1" + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    white = b"XYZ " + bytes(4) + WHITE
    index = b"kTRC" + (156).to_bytes(4, "big") + (14).to_bytes(4, "big") + b"wtpt" + (172).to_bytes(4, "big")
    body = (2).to_bytes(4, "big") + index + (20).to_bytes(4, "big") + curve + white
    return header(128 + len(body), b"mntrGRAYXYZ ") + body


@pytest.mark.parametrize("suffix", WRITABLE)
@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_stays_with_grey(mode: str, suffix: str, tmp_path: Path) -> None:
    grey, profile = COLOUR[..., 0], grey_profile(1.0)
    alpha = np.full_like(grey, 255)
    source = {"L": grey, "LA": np.dstack([grey, alpha]), "I;16": grey.astype(np.uint16) * 257}[mode]
    Image.fromarray(source).save(tmp_path / "a.png", icc_profile=profile)
    photo = read_photo(tmp_path / "a.png")
    assert photo.original.info["icc_profile"] == profile
    made = Image.open(save_photo(photo.restore(photo.rgb), tmp_path / f"b{suffix}"))
    kept = made.info.get("icc_profile")
    assert kept is None or fits(kept, made.mode)
    shown = to_srgb(photo_io.to_8_bits(read_photo(made).original)).convert("RGB")
    linear = (grey / 255.0)[..., None]
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.asarray(shown).astype(float) - expected).max() < (3 if suffix in LOSSLESS else 12)


@pytest.mark.parametrize(("mode", "profile"), [("RGB", "grey"), ("L", "colour"), ("RGB", "noise"), ("RGB", "inks")])
def test_profiles_of_something_else_are_dropped(mode: str, profile: str, picture: Image.Image, tmp_path: Path) -> None:
    data = {"grey": grey_profile(), "colour": SRGB, "noise": b"noise" * 100, "inks": cmyk_profile()}[profile]
    image = picture.convert(mode)
    image.save(tmp_path / "a.jpg", icc_profile=data, quality=95)
    photo = read_photo(tmp_path / "a.jpg")
    assert "icc_profile" not in photo.original.info
    assert "icc_profile" not in Image.open(save_photo(photo.original, tmp_path / "b.png")).info
    image.info["icc_profile"] = data
    assert "icc_profile" not in Image.open(save_photo(image, tmp_path / "c.png")).info


def test_wide_colours_keep_their_profile_and_their_numbers(picture: Image.Image, tmp_path: Path) -> None:
    wide, entry = bytearray(SRGB), SRGB.index(b"rXYZ")  # a red beyond sRGB's
    place = int.from_bytes(SRGB[entry + 4 : entry + 8], "big")
    wide[place + 8 : place + 12] = (40000).to_bytes(4, "big")
    picture.save(tmp_path / "a.png", icc_profile=bytes(wide))
    photo = read_photo(tmp_path / "a.png")
    assert np.array_equal(photo.rgb, COLOUR)
    for suffix in (".png", ".jpg", ".webp", ".tif", ".avif"):
        assert Image.open(save_photo(photo.original, tmp_path / f"b{suffix}")).info["icc_profile"] == bytes(wide)
    save_photo(photo.original, tmp_path / "b.bmp")
    assert same(tmp_path / "b.bmp", np.asarray(to_srgb(photo.original))) == 0 < same(tmp_path / "b.bmp", COLOUR)
