"""Another light on a face: a drawn head in both, and photos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from plain_faces import GRID, IDENTITY
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.codes import FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.light import edited_light, possible_light
from emorig_diffusers.painting.stages.relight import _lit, relight_photo
from emorig_diffusers.photo.colour import GAMMA
from emorig_diffusers.photo.landmarks import MESH
from emorig_diffusers.photo.masks import fill_polygon

BACKDROP = (90, 120, 160)


@pytest.fixture(scope="module")
def soft(astronaut_face: EncodedFace) -> Tensor:
    """The light of the photo."""
    return possible_light(astronaut_face.codes.light)


def drawn(pipe: EmoRigPipeline, face: EncodedFace, light: Tensor) -> np.ndarray:
    """The bare head in a light, before a backdrop [GRID, GRID, 3]."""
    codes: FaceCodes = face.codes.with_(light=light)
    heads = pipe.draw_head(codes, GRID, face.transform)
    picture = (heads.rendered[0].permute(1, 2, 0).clamp(0, 1).numpy() ** (1 / GAMMA) * 255).round().astype(np.uint8)
    return np.where(heads.mask.reshape(GRID, GRID, 1).numpy() > 0, picture, np.array(BACKDROP, np.uint8))


@pytest.mark.parametrize(("turn", "strength"), [((50, 0), 1.0), ((-30, 30), 1.0), ((0, 0), 0.2), ((0, 0), 1.6)])
def test_a_drawn_head_looks_as_if_drawn_in_the_other_light(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace, soft: Tensor, turn: tuple[float, float], strength: float
) -> None:
    grey = soft.mean(-1, keepdim=True).expand(1, 9, 3)
    other = edited_light(grey, turn, strength)
    before, wanted = (drawn(pipe, astronaut_face, light).astype(float) for light in (grey, other))
    codes, none = astronaut_face.codes, torch.zeros_like(astronaut_face.offsets)
    vertices = pipe.place_vertices(codes, none, codes, GRID)
    after = relight_photo(before.astype(np.uint8), IDENTITY, GRID, vertices, pipe.texture, grey, other)
    points = pipe.head.landmarks(vertices[None])[0, :MESH, :2].numpy()
    face = fill_polygon(before.shape, cv2.convexHull(points.astype(np.float32))[:, 0])
    off = lambda picture: np.abs(picture - wanted)[face].mean()
    assert off(after) < 0.45 * off(before) and off(before) > 4
    corner = after[:40, :40]
    assert (corner == BACKDROP).all()


def test_gains_of_one_change_no_level_and_lighter_stays_below_white() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    lit = lambda gain: _lit(levels, np.float32(gain))
    assert np.array_equal(lit(1.0), levels)
    for gain in (0.3, 0.8, 1.3, 2.7):
        assert (np.diff(lit(gain)[0, :, 0].astype(int)) >= 0).all()
    brighter = lit(2.7)[0, :, 0].astype(int)
    assert (brighter >= levels[0, :, 0]).all() and brighter[240] < 255 and brighter[128] > 180


def test_light_alone_leaves_what_is_far_and_the_persons_detail(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    result = pipe(astronaut, faces=[astronaut_face], light_turn=(60, 10), output_type="np").images[0]
    left, top, right, bottom = astronaut_face.face.box
    changed = (result != astronaut).any(-1)
    assert changed[int(top) : int(bottom), int(left) : int(right)].mean() > 0.8
    height = bottom - top
    assert not changed[int(bottom + height) :].any()
    grey = lambda x: np.log(x[int(top) : int(bottom), int(left) : int(right)].astype(float).mean(-1) + 4)
    fine = lambda x: grey(x)[1:, 1:] - grey(x)[:-1, :-1]
    assert np.corrcoef(fine(result).ravel(), fine(astronaut).ravel())[0, 1] > 0.95
    half = (right - left) / 2
    ratio = lambda x: grey(x)[:, -int(0.7 * half) :].mean() - grey(x)[:, : int(0.7 * half)].mean()
    assert ratio(result) > ratio(astronaut) + 0.2  # the subject's left is lighter than before, against the right
    steps = {"edits": [{"light_turn": (30, 10)}], "light_turn": (30, 0)}
    again = pipe(astronaut, faces=[astronaut_face], output_type="np", **steps)
    assert np.abs(again.images[0].astype(int) - result).mean() < 3


def test_light_comes_with_an_emotion(pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace) -> None:
    paint = lambda **light: pipe(
        astronaut, "happy", faces=[astronaut_face], generator=torch.manual_seed(0), output_type="np", **light
    )
    happy, lit = paint(), paint(light_strength=2.0)
    assert (happy.images[0] != lit.images[0]).any()
    codes = [output.faces[0][0].target for output in (happy, lit)]
    assert torch.equal(codes[0].expression, codes[1].expression)
