"""Lines between the brows: they fade with a frown that is taken back, between the brows alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from plain_faces import GRID, IDENTITY, SKIN

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.frown_lines import soften_frown

CREASE = (120, 80, 60)


@pytest.fixture(scope="module")
def warp(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    """A calm face, unmoved."""
    head = pipe.grid_vertices(hopper_face, hopper_face.codes, GRID)
    return pipe.texture.warp(head, head, GRID)


def beside(warp: Warp, brow: int) -> np.ndarray:
    """A point between the brows, on the side of a brow's inner end."""
    return warp.points[9] + 0.4 * (warp.points[brow] - warp.points[9])


@pytest.fixture(scope="module")
def creased(warp: Warp) -> np.ndarray:
    """Skin with two lines between the brows, and one on a cheek."""
    photo = np.full((GRID, GRID, 3), SKIN, np.uint8)
    for x, y in (beside(warp, 107), beside(warp, 336), warp.points[50]):
        cv2.line(photo, (int(x), int(y) - 8), (int(x), int(y) + 8), CREASE, 2)
    return photo


def contrast(photo: np.ndarray, point: np.ndarray) -> float:
    """Grey levels between a line at a point and the skin beside it."""
    x, y = point.astype(int)
    grey = photo[y - 4 : y + 4].mean((0, 2))
    return float(grey[x - 12 : x + 12].max() - grey[x - 3 : x + 4].min())


@pytest.mark.parametrize("gone", [0.3, 1.0])
def test_lines_between_the_brows_fade_with_the_frown(creased: np.ndarray, warp: Warp, gone: float) -> None:
    change = {"browDownLeft": -gone, "browDownRight": -gone}
    softened = soften_frown(creased, creased, IDENTITY, warp, change)
    line, cheek = beside(warp, 107), warp.points[50]
    left = contrast(softened, line) / contrast(creased, line)
    assert 1 - gone < left < 1 - 0.3 * gone
    assert contrast(softened, cheek) == contrast(creased, cheek)
    below = int(warp.points[4, 1])
    np.testing.assert_array_equal(softened[below:], creased[below:])


def test_a_frown_that_stays_or_deepens_keeps_every_pixel(creased: np.ndarray, warp: Warp) -> None:
    for change in ({}, {"browDownLeft": 0.5, "browDownRight": 0.5}, {"mouthSmileLeft": -1.0}):
        assert soften_frown(creased, creased, IDENTITY, warp, change) is creased


def test_smooth_skin_and_the_lights_own_edge_stay(warp: Warp) -> None:
    release = {"browDownLeft": -1.0, "browDownRight": -1.0}
    smooth = np.full((GRID, GRID, 3), SKIN, np.uint8)
    np.testing.assert_array_equal(soften_frown(smooth, smooth, IDENTITY, warp, release), smooth)
    edge = smooth.copy()
    x, y = warp.points[9].astype(int)
    edge[:, x:] //= 5  # the other half lies in the dark
    softened = soften_frown(edge, edge, IDENTITY, warp, release)
    row = softened[y - 3 : y + 3].mean((0, 2))
    assert row[x - 4] - row[x + 4] > 60
