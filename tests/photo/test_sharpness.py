"""sharpness.py: a photo's blur is measured at any size, and nothing painted has sharper edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.sharpness import finer, photo_blur

GRID = 512


@pytest.fixture(scope="module", params=["hopper", "astronaut"])
def portrait(request: pytest.FixtureRequest, pipe: EmoRigPipeline) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, its similarity to the grid and the landmarks there."""
    face: EncodedFace = request.getfixturevalue(f"{request.param}_face")
    points = pipe.head.landmarks(pipe.grid_vertices(face, face.codes, GRID)[None])[0, :, :2].numpy()
    return request.getfixturevalue(request.param), face.grid_matrix(GRID), points


def blurred(photo: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(photo, (0, 0), sigma) if sigma else photo


@pytest.mark.parametrize("noise", [0, 6])
def test_blur_is_found_and_sharp_photos_have_none(
    portrait: tuple[np.ndarray, np.ndarray, np.ndarray], noise: float
) -> None:
    photo, matrix, points = portrait
    pixel, rng = np.linalg.norm(matrix[:, 0]), np.random.default_rng(0)
    assert photo_blur(photo, matrix, points) == 0
    grainy = lambda sigma: np.clip(blurred(photo, sigma) + rng.normal(0, noise, photo.shape), 0, 255).astype(np.uint8)
    assert 0 < photo_blur(grainy(2.5), matrix, points) / pixel < 2.5
    for sigma in (4, 6):
        assert photo_blur(grainy(sigma), matrix, points) / pixel == pytest.approx(sigma, rel=0.55)


def test_blur_is_the_same_at_every_size(portrait: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    photo, matrix, points = portrait
    pixel = np.linalg.norm(matrix[:, 0])
    for times in (4, 8):
        large = lambda p: cv2.resize(p, None, fx=times, fy=times, interpolation=cv2.INTER_LANCZOS4)  # noqa: B023
        scaled = matrix / np.array([times, times, 1])
        found = [photo_blur(large(blurred(photo, sigma)), scaled, points) / pixel for sigma in (0, 4)]
        assert 0 < found[0] < 1.6  # it is as sharp as the small photo's pixels let it be
        assert found[1] == pytest.approx(4, rel=0.4)


def test_pictures_without_edges() -> None:
    """Nothing to measure: no blur that is not finite, and none in noise."""
    points = np.random.default_rng(0).uniform(100, 400, (478, 2))
    rng = np.random.default_rng(1)
    for photo in (np.zeros((GRID, GRID, 3), np.uint8), rng.integers(0, 256, (GRID, GRID, 3), np.uint8)):
        assert photo_blur(photo, np.eye(2, 3), points) < 1
    assert np.isfinite(photo_blur(np.full((40, 30, 3), 90, np.uint8), 10 * np.eye(2, 3), points))


def test_finer_grids() -> None:
    assert [finer(coarse) for coarse in (3.0, 1.0, 0.5, 0.25, 0.02)] == [1, 1, 2, 4, 4]
