"""faces.py on two public-domain portraits: finding, numbering, aligning, cropping and pasting back."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
from PIL import Image

from emorig_diffusers import faces
from emorig_diffusers.faces import (
    BLENDSHAPES,
    NoFaceError,
    align,
    choose_faces,
    find_faces,
    invert,
    paste,
    transform_points,
    warp_crop,
)
from emorig_diffusers.photos import read_photo

ASTRONAUT = skimage.data.astronaut()
HOPPER = np.asarray(Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")).convert("RGB"))
EYES = [33, 133, 362, 263]


def resized(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    method = cv2.INTER_AREA if width < rgb.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(rgb, (width, height), interpolation=method)


@pytest.fixture(scope="module")
def face() -> faces.Face:
    (found,) = find_faces(ASTRONAUT)
    return found


def test_one_face_with_landmarks_and_scores(face: faces.Face) -> None:
    assert face.landmarks.shape == (478, 3)
    assert face.landmarks.dtype == face.blendshapes.dtype == np.float32
    assert face.index == 0
    assert face.score > 0.6
    # the irises, read off the enlarged photo by eye
    eyes = face.landmarks[EYES, :2].reshape(2, 2, 2).mean(axis=1)
    assert np.abs(eyes - [[204, 101], [247, 103]]).max() < 4
    assert face.landmarks[1, 2] < face.landmarks[[234, 454], 2].min()  # the nose is nearer than the cheeks
    scores = dict(zip(BLENDSHAPES, face.blendshapes, strict=True))
    assert len(scores) == 51
    assert min(scores["mouthSmileLeft"], scores["mouthSmileRight"]) > 0.5
    assert scores["mouthFrownLeft"] < 0.1


def test_two_faces_are_numbered_from_the_left() -> None:
    hopper = resized(HOPPER, 437, 512)
    left, right = find_faces(np.hstack([ASTRONAUT, hopper]))
    assert (left.index, right.index) == (0, 1)
    assert left.box[2] < 512 < right.box[0]
    assert choose_faces([left, right], "largest") == [right]
    assert choose_faces([left, right], 1) == [left]
    assert choose_faces([left, right], "all") == [left, right]


@pytest.mark.parametrize("side", [60, 128, 1500])
def test_other_sizes_give_the_same_place(side: int, face: faces.Face) -> None:
    (found,) = find_faces(resized(ASTRONAUT, side, side))
    error = np.abs(found.landmarks[:468, :2] * 512 / side - face.landmarks[:468, :2]).mean()
    assert error < (3 if side == 60 else 1.5)


def test_6000_px_photo(face: faces.Face) -> None:
    large = cv2.resize(ASTRONAUT, (6000, 6000), interpolation=cv2.INTER_LINEAR)
    (found,) = find_faces(large)
    assert np.abs(found.landmarks[:468, :2] * 512 / 6000 - face.landmarks[:468, :2]).mean() < 1.5


def test_tight_crop_and_turned_head(face: faces.Face) -> None:
    x0, y0, x1, y1 = (round(v) for v in face.box)
    (tight,) = find_faces(ASTRONAUT[y0:y1, x0:x1])
    assert np.abs(tight.landmarks[:468, :2] + (x0, y0) - face.landmarks[:468, :2]).mean() < 2
    turn = cv2.getRotationMatrix2D((256, 256), 40, 1)
    (turned,) = find_faces(cv2.warpAffine(ASTRONAUT, turn, (512, 512)))
    expected = transform_points(turn, face.landmarks[:468, :2])
    assert np.abs(turned.landmarks[:468, :2] - expected).mean() < 3


def test_sources_that_are_not_plain_rgb(tmp_path: Path) -> None:
    colour = Image.fromarray(ASTRONAUT)
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif)
    grey = np.asarray(colour.convert("L"))
    for source in (tmp_path / "turned.jpg", grey, grey.astype(np.uint16) * 257, colour.convert("RGBA")):
        (found,) = find_faces(read_photo(source).rgb)
        assert np.abs(np.array(found.box) - (180, 70, 272, 179)).max() < 5


def test_no_face_and_wrong_number(face: faces.Face) -> None:
    # coffee shows a cup in which the landmark network alone sees a face
    for empty in (skimage.data.coffee(), skimage.data.chelsea(), np.zeros((300, 200, 3), np.uint8)):
        assert find_faces(empty) == []
    with pytest.raises(NoFaceError, match="No face"):
        choose_faces([])
    with pytest.raises(NoFaceError, match="no face 2: the photo shows 1 face"):
        choose_faces([face], 2)
    with pytest.raises(NoFaceError, match="no face 0"):
        choose_faces([face], 0)
    for wrong in ("biggest", True, 1.5, None):
        with pytest.raises(ValueError, match="chosen by"):
            choose_faces([face], wrong)  # type: ignore[arg-type]


def test_a_face_the_detector_misses_is_found_by_the_landmark_network(
    face: faces.Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "_detect_boxes", lambda rgb: [])
    (found,) = find_faces(ASTRONAUT)
    assert np.abs(found.landmarks[:468, :2] - face.landmarks[:468, :2]).mean() < 2
    assert find_faces(skimage.data.coffee()) == []


def test_threads_agree(face: faces.Face) -> None:
    with ThreadPoolExecutor(4) as pool:
        for (found,) in pool.map(find_faces, [ASTRONAUT] * 8):
            assert np.array_equal(found.landmarks, face.landmarks)


def test_nothing_is_written_to_stderr() -> None:
    code = "import skimage.data, emorig_diffusers.faces as f; f.find_faces(skimage.data.astronaut())"
    environment = os.environ | {"PYTHONPATH": str(Path(faces.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stderr == ""


@pytest.mark.parametrize("angle", [0, 25, -70, 180])
def test_align_levels_the_eyes_and_fits_the_face(angle: float, face: faces.Face) -> None:
    turn = cv2.getRotationMatrix2D((100, 50), angle, 1.7)
    matrix = align(transform_points(turn, face.landmarks), 256)
    points = transform_points(matrix @ np.vstack([turn, (0, 0, 1)]), face.landmarks[:468, :2])
    right, left = points[[33, 133]].mean(axis=0), points[[362, 263]].mean(axis=0)
    assert abs(right[1] - left[1]) < 1e-6
    assert right[0] < left[0]
    assert np.allclose(points.min(axis=0) + points.max(axis=0), 256)
    extent = max(np.linalg.norm(points[152] - points[10]), 1.25 * np.linalg.norm(points[454] - points[234]))
    assert extent == pytest.approx(0.66 * 256)
    assert points.min() > 0
    assert points.max() < 256


def test_align_refuses_a_point() -> None:
    with pytest.raises(ValueError, match="fall together"):
        align(np.ones((478, 3)), 256)


def test_matrix_helpers(face: faces.Face) -> None:
    matrix = align(face.landmarks, 256)
    crop_points = transform_points(matrix, face.landmarks)
    assert np.allclose(transform_points(invert(matrix), crop_points), face.landmarks, atol=1e-3)
    zoom = np.linalg.norm(matrix[:, 0])
    assert np.allclose(crop_points[:, 2], face.landmarks[:, 2] * zoom)


@pytest.mark.parametrize(("zoom", "angle"), [(1, 0), (0.5, 0), (0.21, 30), (0.9, -50), (3.0, 10)])
def test_warp_crop_puts_pixels_where_the_matrix_says(zoom: float, angle: float) -> None:
    """On a ramp whose value is its pixel coordinate, the crop must show the inverse matrix."""
    height, width = 700, 900
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    ramp = np.stack([x, y, x], axis=2).astype(np.float32)
    size = 64
    linear = cv2.getRotationMatrix2D((0, 0), angle, zoom)[:, :2]
    matrix = np.column_stack([linear, size / 2 - linear @ (450, 350)])
    crop = warp_crop(ramp, matrix, size)
    grid = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=2)
    expected = transform_points(invert(matrix), grid)
    error = (crop[..., :2] * (width, height) - expected) * zoom
    assert np.abs(error).max() < 0.06 * max(1, zoom)  # crop px; OpenCV rounds positions to 1/32 photo px


def test_warp_crop_does_not_alias() -> None:
    checks = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    photo = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    matrix = np.array([[0.13, 0, 0], [0, 0.13, 0]])
    crop = warp_crop(photo, matrix, 128)
    assert np.abs(crop.astype(int) - 128).max() < 30


def test_warp_crop_repeats_the_edge() -> None:
    photo = np.full((50, 50, 3), 77, np.uint8)
    assert (warp_crop(photo, np.array([[1.0, 0, 30], [0, 1, -30]]), 64) == 77).all()
    assert (warp_crop(photo, np.array([[1.0, 0, 900], [0, 1, 900]]), 64) == 77).all()


@pytest.mark.parametrize("size", [128, 512])
def test_paste_changes_the_mask_only(size: int, face: faces.Face) -> None:
    matrix = align(face.landmarks, size)
    crop = warp_crop(ASTRONAUT, matrix, size)
    mask = np.zeros((size, size), np.float32)
    mask[size // 4 : size // 2, size // 3 : size // 2] = 1
    result = paste(ASTRONAUT, 255 - crop, mask, matrix)
    rows, columns = np.indices((512, 512))
    place = transform_points(matrix, np.stack([columns + 0.5, rows + 0.5], axis=2))
    far = 1.5 + 1.5 * np.linalg.norm(matrix[:, 0])
    low, high = np.array([size // 3, size // 4]), np.array([size // 2, size // 2])
    outside = ((place < low - far) | (place > high + far)).any(axis=2)
    inside = ((place > low + far) & (place < high - far)).all(axis=2)
    assert inside.sum() > 100
    assert np.array_equal(result[outside], ASTRONAUT[outside])
    assert np.abs(result[inside].astype(int) - (255 - ASTRONAUT[inside].astype(int))).mean() < 12
    assert np.array_equal(paste(ASTRONAUT, crop, np.zeros((size, size)), matrix), ASTRONAUT)


def test_paste_of_the_own_crop_changes_little(face: faces.Face) -> None:
    matrix = align(face.landmarks, 512)
    crop = warp_crop(ASTRONAUT, matrix, 512)
    mask = np.ones((512, 512), np.float32)
    same = paste(ASTRONAUT, crop, mask, matrix)
    assert np.abs(same.astype(int) - ASTRONAUT).mean() < 1
    floats = paste(ASTRONAUT, crop.astype(np.float32) / 255, mask, matrix)
    assert np.abs(floats.astype(int) - same).max() <= 1


def test_paste_at_the_photos_edge_and_off_it() -> None:
    photo = np.zeros((40, 60, 3), np.uint8)
    white, mask = np.full((32, 32, 3), 255, np.uint8), np.ones((32, 32))
    partly = paste(photo, white, mask, np.array([[1.0, 0, 10], [0, 1, 10]]))
    assert (partly[:20, :20] == 255).all()
    assert (partly[24:, 24:] == 0).all()
    assert np.array_equal(paste(photo, white, mask, np.array([[1.0, 0, 500], [0, 1, 0]])), photo)
    with pytest.raises(ValueError, match="crop's size"):
        paste(photo, white, mask[:-1], np.eye(3)[:2])
