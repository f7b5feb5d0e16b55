"""Flicker is what changes beyond the source's own motion."""

from __future__ import annotations

import numpy as np
import pytest

from emorig_diffusers.evaluation.metrics.flicker import FlickerMeter
from emorig_diffusers.photo.faces import find_faces


@pytest.fixture(scope="module")
def landmarks(astronaut: np.ndarray) -> np.ndarray:
    return find_faces(astronaut)[0].landmarks


def test_moved_picture_does_not_flicker_and_an_unsteady_one_does(astronaut: np.ndarray, landmarks: np.ndarray) -> None:
    steady, unsteady = FlickerMeter(), FlickerMeter()
    for i in range(3):
        source = np.roll(astronaut, 2 * i, axis=1)
        here = landmarks + [2 * i, 0, 0]
        same = steady(source, source, [here, here])
        darker = unsteady(source, source // (1 + i % 2), [here, here])
    assert same is not None and darker is not None
    assert np.array_equal(same[:, 0], same[:, 1]) and same.max() < 3
    assert (darker[:, 1] > 20).all() and np.array_equal(darker[:, 0], same[:, 0])


def test_mouth_is_told_apart(astronaut: np.ndarray, landmarks: np.ndarray) -> None:
    meter, mouth = FlickerMeter(), landmarks[[61, 291, 0, 17]].astype(int)
    popping = astronaut.copy()
    popping[mouth[2, 1] + 3 : mouth[3, 1] - 3, mouth[0, 0] + 6 : mouth[1, 0] - 6] = 0
    meter(astronaut, astronaut, [landmarks] * 2)
    whole, without = meter(astronaut, popping, [landmarks] * 2)
    assert whole[1] > 2 and without[1] < 0.3 * whole[1] and whole[0] == without[0] == 0


def test_nothing_is_compared_across_a_cut(astronaut: np.ndarray, landmarks: np.ndarray) -> None:
    meter = FlickerMeter()
    assert meter(astronaut, astronaut, [landmarks] * 2) is None
    assert meter(astronaut, astronaut, None) is None
    assert meter(astronaut, astronaut, [landmarks] * 2) is None
    assert meter(astronaut, astronaut, [landmarks] * 2) is not None
