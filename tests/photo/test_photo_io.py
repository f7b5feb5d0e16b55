"""photo_io.py: modes and untouched pixels survive; bad input gets one sentence."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageCms

from emorig_diffusers.photo import io as photo_io
from emorig_diffusers.photo.io import PhotoError, read_photo, save_photo
from emorig_diffusers.video.reading import ClipError, open_clip

H, W = 30, 40
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (H, W), dtype=np.uint16)


def image_of(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(GREY16)
    if mode == "RGBA":
        return Image.fromarray(RNG.integers(0, 256, (H, W, 4), dtype=np.uint8))
    if mode == "LA":
        return Image.fromarray(RNG.integers(0, 256, (H, W, 2), dtype=np.uint8))
    return Image.fromarray(COLOUR).convert(mode)


def brighten(rgb: np.ndarray) -> np.ndarray:
    """Change the upper left quarter only."""
    edited = rgb.copy()
    corner = edited[: H // 2, : W // 2]
    corner[:] = np.where(corner < 128, corner + 100, corner - 100)
    return edited


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_mode_and_untouched_pixels_stay(mode: str) -> None:
    source = image_of(mode)
    photo = read_photo(source)
    assert photo.rgb.shape == (H, W, 3)
    assert photo.rgb.dtype == np.uint8
    assert np.array_equal(np.asarray(photo.restore(photo.rgb.copy())), np.asarray(source))
    result = photo.restore(brighten(photo.rgb))
    assert result.mode == mode
    old, new = np.asarray(source), np.asarray(result)
    assert np.array_equal(new[H // 2 :], old[H // 2 :])
    assert np.array_equal(new[:, W // 2 :], old[:, W // 2 :])
    assert (new[: H // 2, : W // 2] != old[: H // 2, : W // 2]).any()
    if mode.endswith("A"):
        assert np.array_equal(new[..., -1], old[..., -1])


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_edit_is_what_is_read_back(mode: str) -> None:
    photo = read_photo(image_of(mode))
    edited = brighten(photo.rgb)
    again = read_photo(photo.restore(edited)).rgb.astype(int)
    assert np.abs(again - edited).max() <= (0 if mode == "RGB" else 1)


@pytest.mark.parametrize(("mode", "expected"), [("P", "RGB"), ("CMYK", "RGB"), ("1", "L"), ("YCbCr", "RGB")])
def test_other_modes_are_converted(mode: str, expected: str) -> None:
    source = image_of(mode)
    photo = read_photo(source)
    assert photo.original.mode == expected
    assert np.array_equal(photo.rgb, np.asarray(source.convert("RGB")))


def test_palette_with_transparency_keeps_it(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).quantize(8)
    palette.save(tmp_path / "p.png", transparency=3)
    result = read_photo(tmp_path / "p.png").original
    assert result.mode == "RGBA"
    assert np.array_equal(np.asarray(result)[..., 3] == 0, np.asarray(palette) == 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    stored = Image.fromarray(COLOUR)
    stored.save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png")
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Image.Transpose values
    expected = stored if turns[orientation] is None else stored.transpose(turns[orientation])
    assert np.array_equal(photo.rgb, np.asarray(expected))
    save_photo(photo.restore(photo.rgb), tmp_path / "b.png")
    again = read_photo(tmp_path / "b.png")
    assert np.array_equal(again.rgb, photo.rgb)
    written = Image.open(tmp_path / "b.png").getexif()
    assert (written[0x0112], written[0x010F]) == (1, "Maker")


def test_icc_profile_survives(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", icc_profile=profile)
    photo = read_photo(tmp_path / "a.jpg")
    save_photo(photo.restore(brighten(photo.rgb)), tmp_path / "b.webp")
    assert Image.open(tmp_path / "b.webp").info["icc_profile"] == profile


def test_arrays_and_tensors_mean_the_same_photo() -> None:
    floats = COLOUR.astype(np.float32) / 255
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    for source in (
        COLOUR,
        floats,
        floats.astype(np.float64),
        COLOUR.astype(np.uint16) * 257,
        tensor,
        tensor.double(),
    ):
        assert np.array_equal(read_photo(source).rgb, COLOUR)
    assert read_photo(COLOUR[:, :, 0]).original.mode == "L"
    assert read_photo(GREY16).original.mode == "I;16"
    assert np.array_equal(np.asarray(read_photo(GREY16).original), GREY16)


def test_16_bit_png_from_disk(tmp_path: Path) -> None:
    Image.fromarray(GREY16).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    save_photo(photo.restore(photo.rgb), tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), GREY16)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_photo(tmp_path / "a.gif").rgb == (255, 0, 0)).all()


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture at all")
    Image.fromarray(np.tile(COLOUR, (10, 10, 1))).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (19, 100)).save(tmp_path / "small.png")
    messages = {
        "missing.jpg": "no file",
        ".": "no file",
        "empty.jpg": "is empty",
        "text.jpg": "not a readable picture",
        "cut.jpg": "damaged",
        "small.png": "19 x 100 pixels",
    }
    for name, message in messages.items():
        with pytest.raises(PhotoError, match=message):
            read_photo(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 60_000])
def test_bomb_is_refused_from_its_header(side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (100, 100)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PhotoError, match="100 megapixels"):
        read_photo(tmp_path / "a.png")
    assert side * side > photo_io.MAX_PIXELS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, H, W), np.uint8), r"got \[3, 30, 40\]"),
        (np.zeros((H, W, 2), np.uint8), "array must be"),
        (np.zeros((H, W), np.int64), "int64"),
        (np.full((H, W), np.nan), "NaN"),
        (np.full((H, W), np.inf), "infinite"),
        (np.full((H, W, 3), 255.0), r"\[0, 1\]"),
        (np.zeros((10, W), np.uint8), "40 x 10"),
        (torch.zeros(H, W, 3), "tensor"),
        (17, "got int"),
        (Image.fromarray(np.full((H, W), 1 << 20, np.int32)), "32 bits"),
    ],
)
def test_bad_values(source: object, message: str) -> None:
    with pytest.raises(PhotoError, match=message):
        read_photo(source)  # type: ignore[arg-type]


def test_restore_refuses_another_shape() -> None:
    photo = read_photo(COLOUR)
    with pytest.raises(ValueError, match="must be uint8"):
        photo.restore(COLOUR[:-1])
    with pytest.raises(ValueError, match="must be uint8"):
        photo.restore(COLOUR.astype(np.float32))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".JPG"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_every_mode_can_be_saved(mode: str, suffix: str, tmp_path: Path) -> None:
    image = image_of(mode)
    again = Image.open(save_photo(image, tmp_path / f"a{suffix}"))
    again.load()
    assert again.size == image.size
    if suffix != ".JPG" and mode != "I;16":
        assert np.array_equal(np.asarray(again.convert("RGBA")), np.asarray(image.convert("RGBA")))
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_saving_errors(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="does not exist"):
        save_photo(image_of("RGB"), tmp_path / "nowhere" / "a.png")
    with pytest.raises(PhotoError, match="use .jpg"):
        save_photo(image_of("RGB"), tmp_path / "a.xyz")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(PhotoError, match="Cannot write"):
        save_photo(image_of("RGB"), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_nothing_outside_is_run_for_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow tells formats by content, and draws EPS by a program."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    Image.fromarray(COLOUR).save(tmp_path / "photo.jpg", "EPS")
    with pytest.raises(PhotoError, match="is not a readable picture"):
        read_photo(tmp_path / "photo.jpg")
    assert photo_io.count_frames(tmp_path / "photo.jpg") == 1
    with pytest.raises(ClipError):
        open_clip(tmp_path / "photo.jpg")


@pytest.mark.parametrize("kind", [kind for kind in photo_io.FORMATS if kind != "HEIF"])  # is read, not written
def test_all_that_is_promised_is_read(tmp_path: Path, kind: str) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "photo", kind)
    assert read_photo(tmp_path / "photo").rgb.shape == (H, W, 3)
