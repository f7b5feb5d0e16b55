"""The squares that networks see: FFHQ's and DECA's, against their own recipes written down another way."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform, warp

from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.crops import (
    IBUG68,
    deca_box,
    deca_crop,
    deca_transform,
    fan_points,
    ffhq_matrix,
    picture_matrix,
    square_matrix,
)
from emorig_diffusers.photo.resample import align, transform_points


@pytest.fixture(scope="module")
def points(astronaut_face: EncodedFace) -> np.ndarray:
    """iBUG's 68 points of the astronaut, photo pixels."""
    return astronaut_face.face.landmarks[list(IBUG68), :2].astype(np.float64)


def similarity_of(box: tuple[float, float, float]) -> SimilarityTransform:
    """skimage's transform of DECA's test data: corners of the square to 0 and 223, pixel centres at whole numbers."""
    left, top, side = box
    corners = np.array([[left, top], [left, top + side], [left + side, top]]) - 0.5
    return SimilarityTransform.from_estimate(corners, np.array([[0, 0], [0, 223], [223, 0]]))


def test_ibug_points_are_where_their_names_say(points: np.ndarray) -> None:
    assert len(set(IBUG68)) == 68
    assert points[36:42, 0].max() < points[42:48, 0].min()  # the picture's left eye first
    assert points[:17, 1].argmax() in (7, 8, 9) and points[48, 0] < points[54, 0]
    assert points[30, 1] < points[51, 1] < points[57, 1] < points[8, 1]  # nose, lips, chin


def test_decas_box_is_landmarks_box_grown(points: np.ndarray) -> None:
    left, top, side = deca_box(points)
    low, high = points.min(0), points.max(0)
    assert side == int((high - low).mean() * 1.1 * 1.25)
    np.testing.assert_allclose([left + side / 2, top + side / 2], (low + high) / 2)


@pytest.mark.parametrize("box", [(120.3, 41.8, 160.0), (-30.0, 20.5, 301.0)])
def test_decas_crop_is_skimages_warp(astronaut: np.ndarray, box: tuple[float, float, float]) -> None:
    """The second box reaches beyond the photo, where the crop is black."""
    expected = warp(astronaut / 255.0, similarity_of(box).inverse, output_shape=(224, 224), order=1)
    crop = deca_crop(astronaut, box)
    np.testing.assert_allclose(crop[0].permute(1, 2, 0).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("left", [-0.3, -20.5])
def test_decas_crop_of_a_picture_without_black(astronaut: np.ndarray, left: float) -> None:
    """A square that reaches less than a pixel beyond it stays in its range, one that reaches farther fades to black."""
    bright, box = 100 + astronaut[:64, :64] // 2, (left, 1.3, 60.0)
    expected = warp(bright / 255.0, similarity_of(box).inverse, output_shape=(224, 224), order=1)
    assert (expected.min() == bright.min() / 255) == (left > -1)
    np.testing.assert_allclose(deca_crop(bright, box)[0].permute(1, 2, 0).numpy(), expected, atol=2e-5)


def test_decas_transform_keeps_both_offsets() -> None:
    """Points in [-1, 1] are spread over 224 pixels, sent back through the warp, and divided by the picture's side."""
    box = (61.25, 40.5, 171.0)
    inverse = np.linalg.inv(similarity_of(box).params)
    given = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    pixels = np.column_stack([(given * 0.5 + 0.5) * 224, np.ones(20)]) @ inverse.T
    expected = pixels[:, :2] / 256 * 2 - 1
    found = np.column_stack([given, np.ones(20)]) @ deca_transform(box, 256).T
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-9)


def test_ffhqs_square(points: np.ndarray) -> None:
    """Against the corners of the quad that FFHQ's recipe gives."""
    eye_left, eye_right = points[36:42].mean(0), points[42:48].mean(0)
    eyes, mouth = (eye_left + eye_right) / 2, (points[48] + points[54]) / 2
    x = (eye_right - eye_left) - np.flipud(mouth - eyes) * [-1, 1]
    x *= max(np.hypot(*(eye_right - eye_left)) * 2.0, np.hypot(*(mouth - eyes)) * 1.8) / np.hypot(*x)
    y = np.flipud(x) * [-1, 1]
    centre = eyes + 0.1 * (mouth - eyes)
    corners = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    found = transform_points(ffhq_matrix(points, 256), corners)
    np.testing.assert_allclose(found, [[0, 0], [0, 256], [256, 256], [256, 0]], atol=1e-6)


def test_pictures_by_name(astronaut_face: EncodedFace) -> None:
    landmarks = astronaut_face.face.landmarks
    by_name = lambda name: picture_matrix(name, landmarks, (512, 512, 3), 64)
    assert np.array_equal(by_name("aligned"), align(landmarks, 64))
    assert np.array_equal(by_name("ffhq"), ffhq_matrix(landmarks[list(IBUG68), :2], 64))
    assert np.array_equal(by_name("whole"), square_matrix((512, 512), 64))
    with pytest.raises(ValueError, match="Unknown picture frame 'deca': choose one of aligned, ffhq, landmarks"):
        by_name("deca")
    with pytest.raises(ValueError, match="fall together"):
        ffhq_matrix(np.ones((68, 2)), 64)


def test_fan_is_asked_by_its_own_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not installed here: a module of its shape stands for it."""
    fan_points.__globals__["_fan"].cache_clear()
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(ValueError, match="pip install face-alignment"):
        fan_points(np.zeros((8, 8, 3), np.uint8))

    module = ModuleType("face_alignment")

    class LandmarksType:
        TWO_D = 1

    class FaceAlignment:
        def __init__(self, kind: int, flip_input: bool, device: str) -> None:
            assert kind == LandmarksType.TWO_D

        def get_landmarks(self, picture: np.ndarray) -> list[np.ndarray] | None:
            return [np.arange(136.0).reshape(68, 2), np.zeros((68, 2))] if picture.any() else None

    module.LandmarksType, module.FaceAlignment = LandmarksType, FaceAlignment
    monkeypatch.setitem(sys.modules, "face_alignment", module)
    found = fan_points(np.ones((8, 8, 3), np.uint8))
    assert np.array_equal(found[:2], [[0.5, 1.5], [2.5, 3.5]])  # pixel borders at whole numbers
    with pytest.raises(ValueError, match="FAN sees no face"):
        fan_points(np.zeros((8, 8, 3), np.uint8))
    fan_points.__globals__["_fan"].cache_clear()


def test_crops_of_other_sides(astronaut: np.ndarray) -> None:
    crop = deca_crop(astronaut, (100.0, 50.0, 200.0), 112)
    assert crop.shape == (1, 3, 112, 112) and crop.dtype == torch.float32
    assert crop.min() >= 0 and crop.max() <= 1
