"""What saved results say, and the mark in their faces: what pictures go through does not wear it away."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.photo.faces import choose_faces, find_faces
from emorig_diffusers.photo.io import read_photo, save_photo
from emorig_diffusers.provenance.verify import verify
from emorig_diffusers.provenance.watermark import CODES, detect, mark_faces
from emorig_diffusers.provenance.xmp import read_packet

FORMER = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description '
    b'r:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="a camera"/></r:RDF></x:xmpmeta>'
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    Image.fromarray(astronaut).save(path, quality=95, exif=exif, xmp=FORMER, dpi=(300, 300), icc_profile=SRGB)
    return path


@pytest.fixture(scope="module")
def result(pipe: EmoRigPipeline, photo: Path) -> EmoRigOutput:
    return pipe(photo, "sad")


@pytest.fixture(scope="module")
def marked(result: EmoRigOutput, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("marked") / "a.png")


def after(image: Image.Image, scale: float = 1, quality: int | None = None) -> np.ndarray:
    """As from another program."""
    image = image.convert("RGB").resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "PNG") if quality is None else image.save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_files_say_what_they_are(suffix: str, result: EmoRigOutput, tmp_path: Path) -> None:
    path = result.save(tmp_path / f"b{suffix}")
    again = read_photo(path).original
    said = read_packet(again.info["xmp"])
    assert said.source_type == "compositeWithTrainedAlgorithmicMedia" and said.tool.endswith("(emorig-open)")
    assert said.edit and (said.edit["Emotion"], said.edit["Intensity"]) == ("sad", "1")
    assert b"a camera" in again.info["xmp"]
    exif = Image.Exif()
    exif.load(again.info["exif"])
    assert exif[0x010F] == "Maker" and exif.get_ifd(0x8825)[1] == "N" and again.info["icc_profile"] == SRGB
    assert suffix in (".webp", ".avif") or again.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    report = verify(path)
    assert report.edited and report.by_us and report.mark and report.mark.marked


def test_the_photos_metadata_are_stripped_and_the_edit_is_told(result: EmoRigOutput, tmp_path: Path) -> None:
    again = read_photo(result.save(tmp_path / "b.jpg", keep_metadata=False)).original
    assert "exif" not in again.info and b"a camera" not in again.info["xmp"] and again.info["icc_profile"] == SRGB
    assert read_packet(again.info["xmp"]).edit


def test_a_full_packet_gives_way_to_the_edits(result: EmoRigOutput, tmp_path: Path) -> None:
    image = result.images[0].copy()
    image.info["xmp"] = FORMER.replace(b"a camera", b"c" * 65_200)
    said = read_packet(read_photo(save_photo(image, tmp_path / "b.jpg")).original.info["xmp"])
    assert said.edit and said.edit["Emotion"] == "sad"


def test_the_mark_lasts(marked: Path, result: EmoRigOutput) -> None:
    image = Image.open(marked).convert("RGB")
    [face] = choose_faces(find_faces(np.asarray(image)))
    x0, y0, x1, y1 = map(int, face.box)
    alone = image.crop((x0 - 20, y0 - 20, x1 + 20, y1 + 20))
    copies = [after(image), after(image, quality=75), after(image, 0.5), after(alone), after(image, 1.37, 80)]
    for seen in copies:
        found = detect(seen, find_faces(seen))
        assert found.marked and found.code == 1, found
    plain = np.asarray(result.images[0])
    assert not detect(plain, find_faces(plain)).marked
    assert not detect(copies[0], find_faces(copies[0]), seed=1).marked


def test_the_mark_is_not_seen(marked: Path, result: EmoRigOutput) -> None:
    plain, seen = np.asarray(result.images[0]).astype(float), read_photo(marked).rgb
    touched = (plain != seen).any(-1)
    assert psnr(plain, seen) > 40  # of a face of 90 pixels, which needs more than others
    x0, y0, x1, y1 = result.faces[0][0].box
    rows, columns = np.nonzero(touched)
    margin = 0.35 * (y1 - y0)
    assert x0 - margin < columns.min() and columns.max() < x1 + margin
    assert y0 - margin < rows.min() and rows.max() < y1 + margin


def test_a_large_face_is_marked_softly(astronaut: np.ndarray) -> None:
    portrait = Image.fromarray(astronaut).crop((120, 20, 330, 230))
    large = after(portrait, 3)
    [face] = find_faces(large)
    seen = mark_faces(large, [face.landmarks], 0)
    assert psnr(large, seen) > 42.8
    small = after(Image.fromarray(seen), 0.5, 75)
    assert detect(small, find_faces(small)).marked


def psnr(plain: np.ndarray, seen: np.ndarray) -> float:
    """dB of the pixels that differ."""
    error = (plain.astype(float) - seen)[(plain != seen).any(-1)]
    return 10 * np.log10(255**2 / np.mean(error**2))


def test_no_mark_where_none_is_wanted(result: EmoRigOutput, pipe: EmoRigPipeline, photo: Path, tmp_path: Path) -> None:
    same = read_photo(result.save(tmp_path / "b.png", mark=False)).rgb
    assert (same == np.asarray(result.images[0])).all()
    path = pipe(photo, "sad", intensity=0).save(tmp_path / "c.png")
    assert (read_photo(path).rgb == read_photo(photo).rgb).all()
    report = verify(path)
    assert not report.edited and report.confidence == 0 and not report.metadata.edit


def test_grey_photos_with_16_bits_and_see_through_ones(
    pipe: EmoRigPipeline, astronaut: np.ndarray, tmp_path: Path
) -> None:
    grey = astronaut.mean(2).astype(np.uint16) * 257
    see_through = np.dstack([astronaut, np.full(astronaut.shape[:2], 255, np.uint8)])
    see_through[:, :200, 3] = 0
    for picture, mode in ((grey, "I;16"), (see_through, "RGBA")):
        result = pipe(picture, "happy")
        again = read_photo(result.save(tmp_path / "b.png"))
        assert again.original.mode == mode
        assert detect(again.rgb, find_faces(again.rgb)).marked
        if mode == "RGBA":
            hidden = np.asarray(again.original)[:, :200]
            assert (hidden == see_through[:, :200]).all()


def test_codes_differ(astronaut: np.ndarray) -> None:
    faces = find_faces(astronaut)
    for code in (0, CODES - 1):
        assert detect(mark_faces(astronaut, [faces[0].landmarks], code), faces).code == code
