"""files.py, and photos of every kind of device."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers.photo import files
from emorig_diffusers.photo.io import PhotoError, count_frames, read_photo, save_photo

FEW = Image.fromarray(np.random.default_rng(0).integers(60, 190, (3, 4, 3), np.uint8))
COLOUR = np.asarray(FEW.resize((64, 48), Image.Resampling.BICUBIC))  # smooth: lossy formats keep it

# the astronaut's face in 32 x 40 pixels as a phone stores a portrait: lying, with a box that turns it upright
HEIC = base64.b64decode(
    """
    AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERA
    AAIAAQAAAAAB4gABAAAACgAAAS8AAgAAAAADEQABAAAACgAAADYAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQAC
    AABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAA
    AAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaA
    AAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAACgAAAABAAAAIAAAAAH////oAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAA
    ABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAW1tZGF0AAABKygBr1hj0hLgf5jJgHCEWDOtYDqQloAsaQgT
    dYHoPHeE/hEIowwly3V83TFS300SXZXBySqTCCwM6Vgit7H0V+joP56bA33duUGO//XEgpM3sHYOCVwKSDRcVPlxCDCEOssgD6nbloDwdTxY4Gh9VgOS
    XoeISkIiBfiGyS5pHhwrxhCKy3gHgH1UZrw3GrSwr8KVRWgijQ8vas1MgJBKdhLhFlrJBgJWnAhiwR61kMEwN7ZJgNrt1uTvo6s1/5MRI22lbOXHDnhR
    wYhRu76W07NPO8OJ647QujD6gSpWDgQnIljTFBy+SX/q+NdAtpLKni+HAxKI3oQiVPMiE92TOFKhKG1vv2Inq2UeC121EZjWFqCbLL80019vrym2l9Rg
    wbwfVpV+apEQobN3AAAABkV4aWYAAE1NACoAAAAIAAIBDwACAAAABgAAACYBEgADAAAAAQAGAAAAAAAAQXBwbGUA"""
)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(COLOUR)


def same(path: Path, rgb: np.ndarray) -> int:
    """The largest difference of a file's pixels from others."""
    return int(np.abs(read_photo(path).rgb.astype(int) - rgb).max())


def test_a_phones_portrait_is_read_upright(astronaut: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    photo = read_photo(tmp_path / "a.heic")
    face = Image.fromarray(astronaut[30:230, 150:310]).resize((32, 40), Image.Resampling.LANCZOS)
    assert photo.rgb.shape == (40, 32, 3) and np.abs(photo.rgb.astype(int) - np.asarray(face)).mean() < 12
    save_photo(photo.original, tmp_path / "b.jpg")
    assert same(tmp_path / "b.jpg", photo.rgb) < 16
    assert dict(Image.open(tmp_path / "b.jpg").getexif()) == {0x010F: "Apple", 0x0112: 1}
    for size in range(0, len(HEIC) - 1, 97):
        (tmp_path / "cut.heic").write_bytes(HEIC[:size])
        with pytest.raises(PhotoError, match="is empty|not a readable picture|damaged") as error:
            read_photo(tmp_path / "cut.heic")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [s for s in files.READABLE if s not in (".heic", ".heif")])
def test_every_kind_is_read(suffix: str, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / f"a{suffix}")
    assert files.is_photo(f"A{suffix.upper()}")
    assert same(tmp_path / f"a{suffix}", COLOUR) < (40 if suffix == ".gif" else 20)


def test_frames_are_counted(picture: Image.Image, tmp_path: Path) -> None:
    others = [Image.fromarray(COLOUR[::-1]), Image.fromarray(COLOUR[:, ::-1])]
    for suffix in (".gif", ".webp", ".png", ".tif"):
        picture.save(tmp_path / f"a{suffix}", save_all=True, append_images=others)
        assert count_frames(tmp_path / f"a{suffix}") == 3
        picture.save(tmp_path / f"b{suffix}")
        assert count_frames(tmp_path / f"b{suffix}") == 1
    picture.save(tmp_path / "a.mpo", save_all=True, append_images=others)  # a phone's JPEG with its depth
    shutil.move(tmp_path / "a.mpo", tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("none")
    assert [count_frames(tmp_path / name) for name in ("a.jpg", "b.jpg", "none.gif")] == [1, 1, 1]


def test_what_results_are_called() -> None:
    names = ["a.heic", "a.jpg", "b/c.GIF", "d.HEIC", "d.heif", "e.avif"]
    expected = {"a.heic": "a.heic.jpg", "a.jpg": "a.jpg", "b/c.GIF": "b/c.png", "d.HEIC": "d.jpg",
                "d.heif": "d.heif.jpg", "e.avif": "e.avif"}  # fmt: skip
    assert files.result_names(names) == expected
    assert files.kinds(["x.mov", "README", "y.MOV", "z.txt"]) == "2 .mov, 1 .txt, 1 without a suffix"


def test_names_are_told_without_torch() -> None:
    code = "import sys; from emorig_diffusers.photo import files, io; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.stdout == "False\n"


@pytest.mark.parametrize("hidden", [0, 255])
def test_hidden_colours_do_not_show(hidden: int, astronaut: np.ndarray) -> None:
    """What the package works on goes on smoothly where the picture is see-through; the file's own pixels come back."""
    y, x = np.mgrid[:512, :512]
    alpha = np.clip(150 - np.hypot(x - 224, y - 120), 0, 1)
    pixels = np.dstack([np.where(alpha[..., None] > 0, astronaut, hidden), alpha * 255]).astype(np.uint8)
    photo = read_photo(pixels)
    seen = alpha == 1
    assert np.array_equal(photo.rgb[seen], astronaut[seen])
    outside = (alpha == 0) & (np.hypot(x - 224, y - 120) < 152)
    assert (np.abs(photo.rgb[outside].astype(int) - hidden).max(1) > 20).mean() > 0.9
    edited = 255 - photo.rgb
    result = np.asarray(photo.restore(edited))
    assert np.array_equal(result[alpha == 0], pixels[alpha == 0]) and np.array_equal(result[..., 3], pixels[..., 3])
    assert np.array_equal(result[seen][:, :3], 255 - astronaut[seen])
    assert np.array_equal(np.asarray(photo.restore(photo.rgb)), pixels)
