"""Teeth that are drawn in a clip get a light that changes gently, and grids as fine as the clip's faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.photo_texture import FLOW_SIZE, MOVING_LEAST, PhotoTexturePainter, moving_grid
from emorig_diffusers.painting.stages.composite import mouth_changes, mouth_share
from emorig_diffusers.painting.stages.mouth_light import TeethLight, mean_light
from emorig_diffusers.video.teeth import EVERY, TeethLights

GRID = 256


def test_mean_of_lights_takes_the_colour_of_teeth_from_where_they_are_seen() -> None:
    light = lambda middle, enamel: TeethLight(np.full(3, middle), np.full(3, middle - 1), np.full(3, enamel))
    mean = mean_light([light(1.0, 1.0), light(4.0, 0.5), light(4.0, 0.9)], [2, 1, 1], [1, 1, 0])
    np.testing.assert_allclose(mean.middle, 2)
    np.testing.assert_allclose(mean.slope, 1.5)
    np.testing.assert_allclose(mean.enamel, 0.5)  # the first shows no teeth, the last hardly parts its lips
    np.testing.assert_allclose(mean_light([light(1.0, 1.0)], [1], [1]).enamel, 1)


def test_light_follows_a_lamp_without_a_jump(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lamp goes out in one frame; each look costs as much as half a frame, so there are few."""
    looks: list[float] = []

    def look(self: PhotoTexturePainter, crop: np.ndarray, face: EncodedFace) -> tuple[TeethLight, float]:
        looks.append(float(crop.mean() / hopper.mean()))
        return TeethLight(np.full(3, looks[-1]), np.zeros(3), np.ones(3)), 0.0

    monkeypatch.setattr(PhotoTexturePainter, "teeth_light", look)
    lights, dark = TeethLights(), hopper // 2
    given = [lights.at(pipe.painter, hopper if i < 50 else dark, hopper_face, i / 25) for i in range(200)]
    levels = np.array([one().middle[0] for one in given])
    assert len(looks) <= 200 / 25 / EVERY + 1
    assert levels[-1] < 0.55 * levels[0]
    assert np.abs(np.diff(levels)).max() < 0.03 * levels[0]


def test_light_of_a_face_is_what_its_photo_shows(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    seen = [TeethLights().at(pipe.painter, rgb, replace(hopper_face, blur=0.0), 0.0)() for rgb in (hopper, hopper // 2)]
    assert (seen[1].middle < 0.8 * seen[0].middle).all() and (seen[0].middle > 0.3).all()


def test_grid_is_as_fine_as_the_face(hopper_face: EncodedFace) -> None:
    def of(zoom: float) -> int:
        face = replace(hopper_face.face, landmarks=hopper_face.face.landmarks * np.float32(zoom))
        return moving_grid(replace(hopper_face, face=face))

    height = float(np.ptp(hopper_face.face.landmarks[:, 1]))
    grids = [of(pixels / height) for pixels in (40, 250, 300, 2000)]
    assert grids[0] == MOVING_LEAST < grids[1] < FLOW_SIZE == grids[3] and grids == sorted(grids)


def test_mouth_gives_way_to_speech_little_by_little(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    head = lambda jaw: pipe.grid_vertices(
        hopper_face, pipe.edit_codes(hopper_face, action_units={"jawOpen": jaw}), GRID
    )
    before, after = head(0.1), head(0.6)
    warps = [pipe.texture.warp(before, after, GRID, speaks=speaks) for speaks in (0.0, 0.01, 0.5, 0.99, 1.0)]
    shares = [mouth_share(warp) for warp in warps]
    np.testing.assert_allclose(shares, [1, 0.99, 0.5, 0.01, 0], atol=1e-6)
    assert mouth_changes(warps[3]) and not mouth_changes(warps[4])
    steps = [np.abs(a.motion - b.motion)[warps[0].mouth].mean() for a, b in zip(warps, warps[1:])]
    assert max(steps[0], steps[3]) < 0.1 * min(steps[1], steps[2])
