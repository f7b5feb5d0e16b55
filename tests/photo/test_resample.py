"""crops.py: aligning, cropping and pasting back, on a public-domain portrait."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from emorig_diffusers.photo.faces import Face, find_faces
from emorig_diffusers.photo.resample import align, invert, paste, transform_points, warp_crop

ASTRONAUT = skimage.data.astronaut()


@pytest.fixture(scope="module")
def face() -> Face:
    (found,) = find_faces(ASTRONAUT)
    return found


@pytest.mark.parametrize("angle", [0, 25, -70, 180])
def test_align_levels_the_eyes_and_fits_the_face(angle: float, face: Face) -> None:
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


def test_matrix_helpers(face: Face) -> None:
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
def test_paste_changes_the_mask_only(size: int, face: Face) -> None:
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


def test_paste_of_the_own_crop_changes_little(face: Face) -> None:
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
