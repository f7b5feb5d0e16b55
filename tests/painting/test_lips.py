"""Lips that close: their flesh, the line between them, and nothing left of the teeth."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.painting.stages.composite import mouth_changes
from emorig_diffusers.painting.stages.flow import Warp, move_pixels
from emorig_diffusers.painting.stages.inpaint import TEETH_EDGE, regions
from emorig_diffusers.painting.stages.lips import (
    DARKNESS,
    LOWER_LIP,
    MOST_FLESH,
    TOUCHING,
    draw_lip_line,
    limit_lip_thickness,
)
from emorig_diffusers.painting.stages.mouth_light import between_photo_lips
from emorig_diffusers.photo.landmarks import INNER_LIPS, lips_apart
from emorig_diffusers.photo.masks import fill_polygon

GRID = 512
SAME = np.eye(2, 3)  # a photo that is the grid
LIP = np.full((GRID, GRID, 3), (180, 110, 105), np.uint8)
WIDE = {"jawOpen": 0.4, "mouthUpperUp": 0.3}


def vertices(pipe: EmoRigPipeline, face: EncodedFace, **units: float) -> Tensor:
    return pipe.grid_vertices(face, pipe.edit_codes(face, action_units=units), GRID)


def thickness(head: HeadModel, vertices: Tensor) -> np.ndarray:
    points = head.landmarks(vertices[None])[0, :, :2].numpy()
    return np.linalg.norm(points[LOWER_LIP[0]] - points[LOWER_LIP[1]], axis=1)


@pytest.fixture(scope="module")
def closed(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    """An open mouth that closes; unlike the photo's, whose lips touch."""
    return pipe.texture.warp(vertices(pipe, hopper_face, **WIDE), vertices(pipe, hopper_face), GRID)


def test_a_lip_that_closes_stays_as_thick_as_it_was(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    here, there = vertices(pipe, hopper_face), vertices(pipe, hopper_face, mouthClose=0.8, jawOpen=-0.1)
    before, after = thickness(pipe.head, here), thickness(pipe.head, there)
    assert (after / before).max() > 1.2
    kept = limit_lip_thickness(pipe.head, here, there)
    assert (thickness(pipe.head, kept) / before).max() < MOST_FLESH + 0.05
    slim = after < MOST_FLESH * before
    np.testing.assert_allclose(thickness(pipe.head, kept)[slim], after[slim], rtol=0.05)
    motion = pipe.head.landmarks((kept - there)[None])[0].norm(dim=-1)
    assert motion[LOWER_LIP[0]].max() > 1
    assert motion[[33, 263, 1, 0, 152, 234, 454, *LOWER_LIP[1]]].max() < 0.6  # eyes, nose, chin, ears, inner lip
    assert torch.equal(kept[:, 2], there[:, 2])


def test_a_lip_that_does_not_swell_is_left_alone(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    here, there = vertices(pipe, hopper_face), vertices(pipe, hopper_face, jawOpen=0.5)
    assert limit_lip_thickness(pipe.head, here, there) is there


def test_lips_meet_in_a_dark_line_from_corner_to_corner(closed: Warp) -> None:
    drawn = np.log(draw_lip_line(LIP, SAME, closed).mean(-1) / LIP.mean(-1))
    points, scale = closed.points, closed.scale
    line = (points[[13, 81, 311]] + points[[14, 178, 402]]) / 2
    for x, y in line.astype(int):
        column = drawn[:, x - 1 : x + 2].mean(1)
        assert abs(column.argmin() - y) <= 2
        assert -1.2 * DARKNESS[1] < column.min() < -0.6 * DARKNESS[0]
        below = column[y : y + round(0.003 * scale)]
        assert 0.02 < below.max() < 0.15  # the lower lip's edge catches light
        assert not column[: y - round(0.003 * scale)].any() and not column[y + round(0.004 * scale) :].any()
    inside, far = np.sort(points[[61, 291], 0])
    assert not drawn[:, : int(inside) - 3].any() and not drawn[:, int(far) + 3 :].any()


def test_a_laugh_stays_open_when_it_is_to_look_happy(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    """Lips are closed by mouthClose on the way to a relaxed face; a laugh is not to lose its open mouth by that."""
    laugh = {"jawOpen": 0.5, "mouthClose": -0.2, "mouthSmile": 0.5, "mouthUpperUp": 0.3}
    face = replace(hopper_face, codes=pipe.edit_codes(hopper_face, action_units=laugh))
    points = lambda codes: pipe.head.landmarks(pipe.grid_vertices(face, codes, GRID)[None])[0, :, :2].numpy()
    opening = lambda codes: lips_apart(points(codes))
    shown = opening(face.codes)
    assert shown > 20
    assert opening(pipe.edit_codes(face, "happy")) > 0.85 * shown
    assert opening(pipe.edit_codes(face, "neutral")) < 0.05 * shown


def test_lips_that_run_through_each_other_are_closed(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    here = vertices(pipe, hopper_face)
    for units, apart in (({"mouthClose": 0.5}, False), ({"jawOpen": 0.3}, True)):
        warp = pipe.texture.warp(here, vertices(pipe, hopper_face, **units), GRID)
        assert lips_apart(warp.points) * (1 if apart else -1) > 0.002 * warp.scale
        assert warp.mouth.any() == apart and mouth_changes(warp) == apart


def test_parted_lips_get_no_line(closed: Warp) -> None:
    apart = closed.points.copy()
    apart[[*LOWER_LIP[1]]] += [0, 3 * TOUCHING[1] * closed.scale]
    result = draw_lip_line(LIP, SAME, replace(closed, points=apart))
    x = int(apart[13, 0])
    assert np.array_equal(result[:, x - 20 : x + 20], LIP[:, x - 20 : x + 20])
    assert (result != LIP).any()  # corners still touch


def test_a_larger_photo_gets_the_same_line(closed: Warp) -> None:
    large = draw_lip_line(np.repeat(np.repeat(LIP, 2, 0), 2, 1), SAME / 2, closed)
    back = cv2.resize(large, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(back - draw_lip_line(LIP, SAME, closed)).max() < 6


def test_nothing_that_may_be_teeth_stays_between_lips_that_close(closed: Warp) -> None:
    """Teeth that the photo shows a little outside the landmarks of its open mouth are painted over too."""
    warp = replace(closed, motion=closed.motion - np.float32([0, 0.002 * closed.scale]))  # a lip pulled down
    mouth = fill_polygon((GRID, GRID), warp.source_points[list(INNER_LIPS)]).astype(np.uint8)
    spill = 2 * round(0.0006 * warp.scale) + 1
    teeth = cv2.dilate(mouth, np.ones((spill, spill), np.uint8))
    white = move_pixels(np.where(teeth[..., None] > 0, np.uint8(255), LIP), SAME, warp)[..., 1] > 160
    edge, line = regions(warp).edge, regions(replace(warp, source_points=0 * warp.source_points)).edge
    assert (white & ~line).sum() > 10  # outside the band along the lips' line
    assert not (white & ~edge).any()
    assert edge.sum() < 2 * line.sum()
    assert not between_photo_lips(warp, TEETH_EDGE)[: int(warp.points[0, 1])].any()
