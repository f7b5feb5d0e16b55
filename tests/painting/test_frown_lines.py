"""Lines between the brows: they come with a frown and fade with one that is taken back, on skin between the brows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from plain_faces import GRID, HAIR, IDENTITY, SKIN

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.frown_lines import draw_frown, soften_frown
from emorig_diffusers.photo.landmarks import MIRROR

CREASE = (120, 80, 60)
FROWN = {"browDownLeft": 1.0, "browDownRight": 1.0}


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


# lines that a frown brings


@pytest.mark.parametrize("change", [{}, dict.fromkeys(FROWN, 0.0), dict.fromkeys(FROWN, -1.0), {"jawOpen": 1.0}])
def test_without_a_frown_the_photo_itself_is_given(plain: np.ndarray, warp: Warp, change: dict[str, float]) -> None:
    assert draw_frown(plain, plain, IDENTITY, warp, change) is plain


def test_no_strength_gives_the_photo_itself_and_more_strength_more(plain: np.ndarray, warp: Warp) -> None:
    assert draw_frown(plain, plain, IDENTITY, warp, FROWN, 0.0) is plain
    shaded = (draw_frown(plain, plain, IDENTITY, warp, FROWN, depth) for depth in (0.5, 1))
    change = [np.abs(one - plain.astype(float)).sum() for one in shaded]
    assert 1.7 * change[0] < change[1] < 2.3 * change[0]


def test_grooves_are_dark_and_warm_between_lighter_skin(plain: np.ndarray, warp: Warp) -> None:
    change = draw_frown(plain, plain, IDENTITY, warp, FROWN).astype(float) - plain
    for brow, corner in ((107, 55), (336, 285)):  # between the brow's head and the middle
        x, y = (0.4 * warp.points[brow] + 0.4 * warp.points[corner] + 0.2 * warp.points[8]).astype(int)
        near = change[y - 6 : y + 7, x - 6 : x + 7].reshape(-1, 3)
        red, _, blue = near[near.sum(1).argmin()] / SKIN
        assert blue < red < -0.05
    grey = change.mean(-1)
    assert grey.max() > 0.5  # ridges
    assert abs(grey.mean()) < 0.005 * np.mean(SKIN)
    y, x = np.nonzero(grey)
    low, high = warp.points[[151, 168], 1]
    assert low < y.min() and y.max() < high + 0.01 * warp.scale
    assert np.abs(x - warp.points[9, 0]).max() < 0.03 * warp.scale


def test_one_side_frowns_where_its_muscle_pulls(plain: np.ndarray, warp: Warp) -> None:
    change = np.abs(draw_frown(plain, plain, IDENTITY, warp, {"browDownRight": 1.0}).astype(float) - plain).sum(-1)
    middle = int(warp.points[9, 0])
    assert change[:, middle + 4 :].sum() < 0.1 * change.sum() > 0


def test_a_mirrored_frown_of_a_mirrored_face_is_the_mirror_image(plain: np.ndarray, warp: Warp) -> None:
    mirrored = replace(warp, points=warp.points[np.r_[MIRROR, 468 : len(warp.points)]] * [-1, 1] + [GRID, 0])
    one = draw_frown(plain, plain, IDENTITY, warp, {"browDownLeft": 0.8, "browDownRight": 0.3}).astype(int)
    other = draw_frown(plain, plain, IDENTITY, mirrored, {"browDownRight": 0.8, "browDownLeft": 0.3}).astype(int)
    assert np.abs(one - one[:, ::-1]).max() > 4 >= np.abs(other - one[:, ::-1]).max()


def test_a_fringe_hardly_changes(plain: np.ndarray, warp: Warp) -> None:
    x, y = warp.points[9].astype(int)
    photo = plain.copy()
    photo[: y + 30, :x] = HAIR  # over the right half of the forehead
    bare, fringed = (np.abs(draw_frown(p, p, IDENTITY, warp, FROWN) - p.astype(int)).max(-1) for p in (plain, photo))
    assert bare[:y, : x - 8].max() > 8 and fringed[:y, : x - 8].max() < 0.3 * bare.max()
    assert fringed[:y, x:].sum() > 0.5 * bare[:y, x:].sum()


def test_dark_skin_gets_the_same_share_of_shade_and_grey_stays_grey(plain: np.ndarray, warp: Warp) -> None:
    dark, grey = (plain * 0.4).astype(np.uint8), np.full_like(plain, 170)
    light, dim, even = ((draw_frown(p, p, IDENTITY, warp, FROWN) / p) for p in (plain, dark, grey))
    assert light[..., 1].min() < 0.95 and dim[..., 1].min() == pytest.approx(light[..., 1].min(), abs=0.02)
    assert even.min() < 0.95 and np.ptp(even, axis=-1).max() == 0


def test_clipped_skin_gets_no_shade(warp: Warp, plain: np.ndarray) -> None:
    """What is lighter than white stays white in a shade; nearer to usual skin shade comes in smoothly."""
    changes = []
    for skin in ((255, 255, 255), (255, 253, 250), (255, 255, 190), (255, 246, 225), (250, 225, 200), SKIN):
        photo = np.full_like(plain, skin)
        changes.append((draw_frown(photo, photo, IDENTITY, warp, FROWN) / photo)[..., 1].min())
    assert changes[:3] == [1, 1, 1]
    assert 0.98 > changes[3] > changes[4] > changes[5] - 0.01


def test_lines_of_a_blurred_photo_are_blurred(warp: Warp, plain: np.ndarray) -> None:
    sharp, soft = (draw_frown(plain, plain, IDENTITY, replace(warp, blur=blur), FROWN) / plain for blur in (0.0, 4.0))
    slope = lambda shade: np.abs(np.diff(shade[..., 1], axis=1)).max()
    assert slope(sharp) > 2 * slope(soft) > 0


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_photo_of_another_size_gets_the_same_lines(plain: np.ndarray, warp: Warp, ratio: float) -> None:
    size = round(ratio * GRID)
    other = np.full((size, size, 3), SKIN, np.uint8)
    scaled = np.column_stack([np.eye(2) / ratio, np.zeros(2)])
    change = lambda photo, m: draw_frown(photo, photo, m, warp, FROWN) - photo.astype(np.float32)
    small, large = (cv2.resize(c, (256, 256), interpolation=cv2.INTER_AREA).mean(-1)
                    for c in (change(plain, IDENTITY), change(other, scaled)))  # fmt: skip
    assert small.min() < -5
    assert np.abs(large - small).max() < -0.35 * small.min()
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_the_pipeline_draws_them_and_zero_switches_it_off(
    pipe: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path
) -> None:
    assert pipe.config.wrinkles == 1.0
    EmoRigPipeline(pipe.head, pipe.encoder, wrinkles=0.0).save_pretrained(tmp_path)
    off = EmoRigPipeline.from_pretrained(tmp_path)
    assert off.config.wrinkles == 0.0
    on = EmoRigPipeline(pipe.head, pipe.encoder)
    (with_them,), (without,) = (p(hopper, "anger", output_type="np").images for p in (on, off))
    change = np.abs(with_them.astype(int) - without).max(-1)
    x0, y0, x1, y1 = map(int, pipe.encode(hopper)[0].face.box)
    assert 4 < change.max() < 80
    assert not change[:y0].any() and not change[y1:].any() and not change[:, :x0].any() and not change[:, x1:].any()
    assert (change == 0).mean() > 0.9


@pytest.mark.parametrize("depth", [-0.1, float("nan")])
def test_a_depth_below_zero_is_refused(pipe: EmoRigPipeline, depth: float) -> None:
    with pytest.raises(ValueError, match="wrinkles is"):
        EmoRigPipeline(pipe.head, pipe.encoder, wrinkles=depth)
