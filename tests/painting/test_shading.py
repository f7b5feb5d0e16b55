"""Shade of expressions: on skin alone, on the side that moves, taken back with the expression, never between lips."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from plain_faces import GRID, HAIR, IDENTITY, SKIN

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.shading import (
    CORNER,
    CORNER_LIGHT,
    DARKEST,
    LIGHTEST,
    sample_maps,
    shade_expression,
)
from emorig_diffusers.photo.landmarks import LIDS, MOUTH_CORNERS


@pytest.fixture(scope="module")
def warp(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    """A calm face, unmoved."""
    head = pipe.grid_vertices(hopper_face, hopper_face.codes, GRID)
    return pipe.texture.warp(head, head, GRID)


@pytest.fixture(scope="module")
def still(names: tuple[str, ...]) -> dict[str, float]:
    return dict.fromkeys(names, 0.0)


def darkening(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return before.astype(int).sum(-1) - after.astype(int).sum(-1)


def test_no_change_and_no_strength_give_the_photo_itself(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    assert shade_expression(plain, plain, IDENTITY, warp, head, still) is plain
    frown = still | {"browDownLeft": 1.0}
    assert shade_expression(plain, plain, IDENTITY, warp, head, frown, 0.0) is plain


def test_a_frown_darkens_the_root_of_the_nose_and_leaves_the_chin(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    frown = still | {"browDownLeft": 1.0, "browDownRight": 1.0}
    shaded = darkening(plain, shade_expression(plain, plain, IDENTITY, warp, head, frown))
    at = lambda point: shaded[tuple(warp.points[point].astype(int)[::-1])]
    brow_corner = shaded[tuple(((warp.points[55] + warp.points[190]) / 2).astype(int)[::-1])]
    assert brow_corner > 60 and abs(at(152)) < 6 and abs(at(0)) < 20


def test_one_side_is_shaded_where_one_side_moves(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    total = {}
    for side in ("Left", "Right"):
        change = still | {"noseSneer" + side: 1.0}
        shaded = np.abs(darkening(plain, shade_expression(plain, plain, IDENTITY, warp, head, change)))
        middle = int(warp.points[168, 0])  # the person's right is the picture's left
        total[side] = shaded[:, :middle].sum() / shaded.sum()
    assert total["Right"] > 0.85 and total["Left"] < 0.15


def test_a_frown_that_goes_lightens_what_it_darkened(warp: Warp, head: HeadModel, names: tuple[str, ...]) -> None:
    amounts = torch.zeros(len(names))
    amounts[[names.index("browDownLeft"), names.index("browDownRight")]] = 0.3
    frown, release = (sample_maps(head.shading(sign * amounts).numpy(), warp) for sign in (1, -1))
    assert frown.min() < -0.03
    np.testing.assert_allclose(release, -frown, atol=1e-6)


def test_a_frown_that_goes_lightens_creases_and_not_plain_skin(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    """A face that has no crease where people's frowns darken gets neither light nor dark spots."""
    release = still | {"browDownLeft": -1.0, "browDownRight": -1.0}
    creased = plain.copy()
    middle = ((warp.points[55] + warp.points[190]) / 2).astype(int)
    cv2.circle(creased, tuple(middle.tolist()), 8, [c // 2 for c in SKIN], -1)
    lighter = [-darkening(p, shade_expression(p, p, IDENTITY, warp, head, release)) for p in (plain, creased)]
    assert np.abs(lighter[0]).max() <= 6
    assert lighter[1][middle[1], middle[0]] > 25
    painted_over = -darkening(plain, shade_expression(plain, creased, IDENTITY, warp, head, release))
    assert painted_over.max() <= 6


def test_what_is_no_skin_of_the_face_stays_bit_for_bit(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    hair = plain.copy()
    rows = slice(0, int(warp.points[[105, 334], 1].min()) - 30)
    hair[rows] = HAIR
    smile = still | {name: 1.0 for name in still if name.startswith(("mouthSmile", "browInnerUp", "browOuterUp"))}
    shaded = shade_expression(hair, hair, IDENTITY, warp, head, smile)
    assert np.abs(darkening(hair, shaded)[rows]).max() <= 3  # within a grey level of each channel
    outside = (warp.place < 0).all(-1)
    np.testing.assert_array_equal(shaded[outside], hair[outside])


def test_nothing_is_shaded_between_parted_lips_or_lids(
    pipe: EmoRigPipeline, hopper_face: EncodedFace, plain: np.ndarray, head: HeadModel, names: tuple[str, ...]
) -> None:
    target = pipe.edit_codes(hopper_face, "surprise")
    source, there = (pipe.grid_vertices(hopper_face, codes, GRID) for codes in (hopper_face.codes, target))
    opened = pipe.texture.warp(source, there, GRID)
    change = dict(zip(names, (target.expression - hopper_face.codes.expression)[0].tolist()))
    shaded = darkening(plain, shade_expression(plain, plain, IDENTITY, opened, head, change))
    assert opened.mouth.sum() > 500 and not shaded[opened.mouth].any() and np.abs(shaded).max() > 20
    iris = opened.points[[159, 145]].mean(0).astype(int)
    assert abs(shaded[iris[1], iris[0]]) <= 3


def test_shut_lids_get_little_of_a_frowns_shade(warp: Warp, head: HeadModel, names: tuple[str, ...]) -> None:
    """The maps show the skin about open eyes where lids are when they are shut."""
    amounts = torch.zeros(len(names))
    amounts[[names.index("browDownLeft"), names.index("browDownRight")]] = 1.0
    shade, upper, lower = head.shading(amounts).numpy(), (160, 159, 158), (144, 145, 153)
    shut = warp.points.copy()
    for lid, middle in zip(LIDS, (145, 374)):
        shut[list(lid), 1] = shut[middle, 1]
    fields = [sample_maps(shade, replace(warp, points=points)) for points in (warp.points, shut)]
    middle = (warp.points[list(upper)].mean(0) * 0.5 + warp.points[27] * 0.5).astype(int)
    elsewhere = warp.points[list(lower)].mean(0).astype(int) + [0, 40]
    ratio = lambda place: abs(fields[1][place[1], place[0]]) / abs(fields[0][place[1], place[0]])
    assert fields[0][middle[1], middle[0]] < -0.05 and ratio(middle) < 0.5
    np.testing.assert_array_equal(fields[1][elsewhere[1]], fields[0][elsewhere[1]])


def test_shade_is_bounded_whatever_is_asked(plain: np.ndarray, warp: Warp, head: HeadModel, still: dict) -> None:
    wild = dict.fromkeys(still, 2.0)
    shaded = shade_expression(plain, plain, IDENTITY, warp, head, wild).astype(float)
    ratio = shaded[..., 1] / plain[..., 1]  # green is neither warmed nor cooled
    assert np.exp(DARKEST) - 0.01 <= ratio.min() and ratio.max() <= np.exp(LIGHTEST) + 0.01


def test_dark_skin_is_shaded_more_above_all_where_it_gets_lighter(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    sneer = still | {"noseSneerLeft": 0.8, "noseSneerRight": 0.8, "mouthUpperUpLeft": 0.5, "mouthUpperUpRight": 0.5}
    tones = [(plain * exposure).astype(np.uint8) for exposure in (1.0, 0.8, 0.3)]
    light, dimmer, dark = (
        np.log(shade_expression(p, p, IDENTITY, warp, head, sneer)[..., 1] / p[..., 1]) for p in tones
    )
    raised, fold = light > 0.08, light < -0.15
    assert raised.sum() > 100 and fold.sum() > 100
    more = lambda tone, where: np.median(tone[where] / light[where])
    assert more(dark, raised) > 1.3 and 1.1 < more(dark, fold) < 1.35
    assert 0.9 < more(dimmer, raised) < 1.1 and 0.9 < more(dimmer, fold) < 1.1


@pytest.mark.parametrize("slope, least, most", [(0.2, 0.97, 1.03), (1.2, 1.15, 1.45), (4.0, 1.3, 1.55)])
def test_hard_light_makes_folds_stronger_as_far_as_cheeks_differ(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float], slope: float, least: float, most: float
) -> None:
    frown = still | {"browDownLeft": 0.8, "browDownRight": 0.8}
    across = (np.arange(GRID) - warp.points[168, 0]) / (0.15 * warp.scale)  # faces are that wide
    lit = np.clip(plain * np.exp(slope * across)[None, :, None], 0, 225).astype(np.uint8)
    shade = lambda p: np.log((shade_expression(p, p, IDENTITY, warp, head, frown)[..., 1] + 4.0) / (p[..., 1] + 4.0))
    even, hard = shade(plain), shade(lit)
    near = np.abs(across) < 0.15
    fold = (even < -0.1) & near[None]
    assert fold.sum() > 100
    assert least < np.median(hard[fold] / even[fold]) < most


def test_a_head_without_maps_shades_nothing(plain: np.ndarray, warp: Warp, head: HeadModel, still: dict) -> None:
    config = {k: v for k, v in head.config.items() if not k.startswith("_")} | {"shading_units": (), "shading_size": 0}
    bare = HeadModel(**config)
    frown = still | {"browDownLeft": 1.0}
    assert shade_expression(plain, plain, IDENTITY, replace(warp, place=None), bare, frown) is plain


def test_both_strengths_are_checked(pipe: EmoRigPipeline) -> None:
    with pytest.raises(ValueError, match="shading is -1: give a number from 0"):
        EmoRigPipeline(pipe.head, pipe.encoder, shading=-1)


def test_creases_that_a_face_has_not_are_not_lightened(
    plain: np.ndarray, warp: Warp, head: HeadModel, still: dict[str, float]
) -> None:
    """The people whom shade was measured on have dark corners of the mouth, which a sneer smooths out."""
    sneer = still | {"noseSneerLeft": 1.0, "noseSneerRight": 1.0, "mouthFrownLeft": 0.8, "mouthFrownRight": 0.8,
                     "mouthUpperUpLeft": 0.5, "mouthUpperUpRight": 0.5}  # fmt: skip
    grid, amounts = np.indices(plain.shape[:2])[::-1], torch.tensor([sneer[n] for n in head.config.expression_names])
    distance = np.min([np.hypot(*(grid - warp.points[c][:, None, None])) for c in MOUTH_CORNERS], 0)
    corner = distance < CORNER[0] * warp.scale
    measured = sample_maps(head.shading(amounts).numpy(), warp)[corner]
    assert measured.max() > 2 * CORNER_LIGHT
    after = shade_expression(plain, plain, IDENTITY, warp, head, sneer)
    lighter = np.log(after[corner].mean(-1) / plain[corner].mean(-1))
    assert lighter.max() < 1.5 * CORNER_LIGHT and lighter.min() < -CORNER_LIGHT
