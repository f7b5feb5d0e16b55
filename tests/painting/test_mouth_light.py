"""mouthlight.py: teeth are as light as skin and eyes tell, and darker on the side in shade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.mouth_light import (
    OWN,
    TeethLight,
    find_teeth_light,
    light_on_teeth,
    own_teeth,
    side_light,
)
from emorig_diffusers.photo.landmarks import INNER_LIPS, LIDS
from emorig_diffusers.photo.masks import fill_polygon

GRID = 512


@pytest.fixture(scope="module")
def opened(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    target = pipe.edit_codes(hopper_face, action_units={"jawOpen": 0.6})
    return pipe.texture.warp(*(pipe.grid_vertices(hopper_face, c, GRID) for c in (hopper_face.codes, target)), GRID)


def test_light_on_teeth(opened: Warp) -> None:
    """Dark skin does not darken teeth below what the whites of the eyes tell; a cast of the light tints both."""
    photo, colour = np.full((GRID, GRID, 3), 150, np.uint8), lambda *rgb: np.uint8(rgb)
    eyes = np.any([fill_polygon(photo.shape, opened.points[list(lids)]) for lids in LIDS], axis=0)[..., None]
    with_eyes = lambda skin, white: light_on_teeth(opened, np.where(eyes, colour(*white), photo // 150 * colour(*skin)))
    plain = with_eyes((150, 150, 150), (140, 140, 140))
    assert plain.shape == (3,) and np.ptp(plain) < 1e-3 and 0.7 < plain[0] < 1.1
    assert with_eyes((200, 200, 200), (140, 140, 140))[0] > 1.2 * plain[0]
    dark, shut = (with_eyes((60, 60, 60), (w, w, w)) for w in (140, 60))
    assert 0.8 * plain[0] < dark[0] < plain[0] * 1.01 and shut[0] < 0.5 * plain[0]
    warm = with_eyes((150, 150, 150), (160, 140, 120))
    assert warm[0] > 1.05 * warm[1] and warm[2] < 0.95 * warm[1] and warm[1] == pytest.approx(plain[1], rel=0.2)
    away = replace(opened, points=opened.points - 10 * GRID)
    assert np.ptp(light_on_teeth(away, photo)) == 0


def test_teeth_on_the_side_in_shade(opened: Warp) -> None:
    ramp = np.linspace(0.4, 1, GRID, dtype=np.float32)[None, :, None]
    lit = (np.full((GRID, GRID, 3), (220, 180, 160), np.float32) * ramp).astype(np.uint8)
    x, y = opened.points[[78, 308]].astype(int).T
    across = lambda crop: TeethLight(np.ones(3), side_light(opened, crop), np.ones(3)).on(opened)
    light = across(lit)[y, x]
    assert (light[1] > 1.15 * light[0]).all() and (light[1] / light[0]).max() < 2
    np.testing.assert_allclose(across(lit[:, ::-1])[y, x][::-1], light, rtol=0.2)
    even = across(np.full((GRID, GRID, 3), 140, np.uint8))
    np.testing.assert_allclose(even, 1, atol=1e-6)
    red = np.full((GRID, GRID, 3), 120, np.uint8)
    red[:, : int(opened.points[13, 0]), 0] = 200  # from the person's right
    right, left = across(red)[y, x]
    assert right[0] / right[2] > 1.2 > 1 / 1.2 > left[0] / left[2]


def test_teeth_that_the_photo_shows(opened: Warp) -> None:
    """Drawn teeth are as light as the photo's own, and no redder; lips and tongues are none."""
    still = replace(opened, motion=0 * opened.motion, source_points=opened.points)
    mouth = fill_polygon((GRID, GRID), still.points[list(INNER_LIPS)])[..., None]
    show = lambda *inside: np.where(mouth, np.uint8(inside), np.full((GRID, GRID, 3), (190, 150, 130), np.uint8))
    red = show(200, int(200 * OWN) - 10, 140)
    assert own_teeth(still, red) is None
    np.testing.assert_array_equal(find_teeth_light(still, red).enamel, 1)
    white, grey = (find_teeth_light(still, show(v, v, v)) for v in (240, 120))
    assert (white.enamel * white.middle > 2 * grey.enamel * grey.middle).all()
    np.testing.assert_array_equal(white.middle, grey.middle)  # the tongue is in the same light
    np.testing.assert_allclose(own_teeth(still, show(180, 180, 180)), (180 / 255) ** 2.2, rtol=0.03)
    assert own_teeth(replace(still, source_points=still.points - GRID), show(240, 240, 240)) is None
