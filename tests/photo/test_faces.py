"""faces.py on two public-domain portraits: finding and numbering faces, whichever way up."""

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
from processes import PATIENCE

from emorig_diffusers.photo import faces
from emorig_diffusers.photo.faces import BLENDSHAPES, NoFaceError, choose_faces, find_faces
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.photo.resample import transform_points

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
    monkeypatch.setattr(faces, "_detect_boxes", lambda rgb, quarter: [])
    (found,) = find_faces(ASTRONAUT)
    assert np.abs(found.landmarks[:468, :2] - face.landmarks[:468, :2]).mean() < 2
    assert find_faces(skimage.data.coffee()) == []


def turned(rgb: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """A photo turned anticlockwise on a larger grey ground, and the matrix [2, 3] from its pixels to those."""
    height, width = rgb.shape[:2]
    side = int(np.ceil(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    matrix[:, 2] += side / 2 - np.array([width, height]) / 2
    centred = matrix + np.column_stack([np.zeros((2, 2)), matrix[:, :2] @ (0.5, 0.5) - 0.5])
    return cv2.warpAffine(rgb, centred, (side, side), flags=cv2.INTER_CUBIC, borderValue=(200, 200, 200)), matrix


@pytest.mark.parametrize("degrees", [75, 105, 135, 180, 225, 270])
def test_heads_any_way_up(degrees: float) -> None:
    """Two faces, of which the detector loses one at some angles; within 3 % of the height of each."""
    group = np.hstack([ASTRONAUT[:360, 40:400], resized(HOPPER, 360, 422)[:360]])
    upright, (photo, matrix) = find_faces(group), turned(group, degrees)
    found = find_faces(photo)
    assert len(found) == len(upright) == 2
    for face in upright:
        expected = transform_points(matrix, face.landmarks[:468, :2])
        errors = [np.linalg.norm(one.landmarks[:468, :2] - expected, axis=1).mean() for one in found]
        best = found[int(np.argmin(errors))]
        assert min(errors) < 0.03 * np.linalg.norm(expected[152] - expected[10])
        assert np.abs(best.blendshapes - face.blendshapes).max() < 0.4
        assert best.landmarks[1, 2] < best.landmarks[[234, 454], 2].min()


def test_upright_faces_are_looked_for_once(face: faces.Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo whose face is beyond doubt costs no look at it turned, and its landmarks are those of one pass."""
    search, looked = faces._search, []
    monkeypatch.setattr(faces, "_search", lambda rgb, quarter: looked.append(quarter) or search(rgb, quarter))
    (found,) = find_faces(ASTRONAUT)
    assert looked == [0]
    looked.clear()
    find_faces(np.rot90(ASTRONAUT, 2))
    assert looked == [0, 1, 2, 3]


def test_landmarks_that_the_detector_contradicts_are_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no way up makes the two agree, there is no face rather than a mouth on a forehead."""
    monkeypatch.setattr(faces, "_mismatch", lambda landmarks, five: 0.5)
    assert find_faces(ASTRONAUT) == []


def test_threads_agree(face: faces.Face) -> None:
    with ThreadPoolExecutor(4) as pool:
        for (found,) in pool.map(find_faces, [ASTRONAUT] * 8):
            assert np.array_equal(found.landmarks, face.landmarks)


def test_nothing_is_written_to_stderr() -> None:
    code = "import skimage.data, emorig_diffusers.photo.faces as f; f.find_faces(skimage.data.astronaut())"
    environment = os.environ | {"PYTHONPATH": str(Path(faces.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert result.stderr == ""
