"""A small network's change, brought into a large photo."""

from __future__ import annotations

import numpy as np

from emorig_diffusers.painting.detail_transfer import paste_change

SIDE, SCALE = 64, 8  # of the pictures; photo pixels a picture's pixel
MATRIX = np.array([[1 / SCALE, 0, 0], [0, 1 / SCALE, 0]])


def photo() -> np.ndarray:
    """A fine checkerboard around grey, which no picture of 64 pixels can hold."""
    y, x = np.indices((SIDE * SCALE, SIDE * SCALE))
    return np.repeat(np.where((x + y) % 2, 148, 108)[..., None], 3, 2).astype(np.uint8)


def flat(value: float) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, np.float32)


def test_no_change_keeps_every_bit() -> None:
    rgb = photo()
    result, replaced = paste_change(rgb, flat(0.5), flat(0.5), MATRIX)
    assert np.array_equal(result, rgb) and not replaced.any()


def test_a_small_change_keeps_the_photos_detail() -> None:
    rgb = photo()
    result, replaced = paste_change(rgb, flat(0.5), flat(0.51), MATRIX)
    inner = (slice(100, -100), slice(100, -100))
    assert not replaced[20:-20, 20:-20].any()
    shift = result[inner].astype(int) - rgb[inner]
    assert abs(shift - 0.01 * 255).max() <= 1  # shifted alike, light and dark squares


def test_a_great_change_replaces_the_photo() -> None:
    after = flat(0.5)
    after[24:40, 24:40] = 0.9
    result, replaced = paste_change(photo(), flat(0.5), after, MATRIX)
    middle = result[28 * SCALE : 36 * SCALE, 28 * SCALE : 36 * SCALE]
    assert replaced[30:34, 30:34].min() == 1
    assert abs(middle.astype(int) - round(0.9 * 255)).max() <= 1  # no checkerboard is left
    assert np.array_equal(result[:80], photo()[:80])  # nothing changed there


def test_the_border_of_the_picture_is_the_photos() -> None:
    result, _ = paste_change(photo(), flat(0.2), flat(0.8), MATRIX)
    edge = abs(result[0].astype(int) - photo()[0])
    assert edge.max() <= 2 and abs(result[256, 256].astype(int) - 204).max() <= 1


def test_a_face_half_outside_the_photo() -> None:
    matrix = np.array([[1 / SCALE, 0, 30], [0, 1 / SCALE, -20]])
    result, _ = paste_change(photo(), flat(0.2), flat(0.8), matrix)
    assert result.shape == photo().shape and (result != photo()).any()


def test_a_face_beside_the_photo_changes_nothing() -> None:
    matrix = np.array([[1 / SCALE, 0, 500], [0, 1 / SCALE, 0]])
    result, _ = paste_change(photo(), flat(0.2), flat(0.8), matrix)
    assert np.array_equal(result, photo())
