"""PhotoTexture: motion of pixels for known motions of the head, holes, and the field of fit residuals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import MOUTH_SHUT, REACH, Warp, fade_out, move_pixels, soften_steps
from emorig_diffusers.photo.resample import transform_points, warp_crop
from emorig_diffusers.render.rasterize import rasterize

GRID = 256
IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


@pytest.fixture(scope="module")
def source(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Tensor:
    return pipe.grid_vertices(hopper_face, hopper_face.codes, GRID)


@pytest.fixture(scope="module")
def crop(hopper: np.ndarray, hopper_face: EncodedFace) -> np.ndarray:
    return warp_crop(hopper, hopper_face.grid_matrix(GRID), GRID)


@pytest.fixture(scope="module")
def opened(pipe: EmoRigPipeline, hopper_face: EncodedFace, source: Tensor) -> Warp:
    """Grace Hopper's closed mouth opens."""
    target = pipe.edit_codes(hopper_face, action_units={"jawOpen": 0.6})
    return pipe.texture.warp(source, pipe.grid_vertices(hopper_face, target, GRID), GRID)


def silhouette(pipe: EmoRigPipeline, vertices: Tensor) -> np.ndarray:
    return rasterize(vertices[None], pipe.head.faces, GRID, GRID).face[0].numpy() >= 0


def flat_warp(motion: np.ndarray) -> Warp:
    size = len(motion)
    blank = np.zeros((size, size))
    points = np.zeros((478, 2))
    colours = np.zeros((size, size, 3))
    inside = lambda: (colours, colours, blank)
    return Warp(motion.astype(np.float32), blank > 0, blank > 0, blank > 0, inside, points, points, 1000.0)


def test_no_motion_between_equal_heads(pipe: EmoRigPipeline, source: Tensor, crop: np.ndarray) -> None:
    warp = pipe.texture.warp(source, source.clone(), GRID)
    assert not warp.motion.any()
    assert not warp.hole.any()
    moved = move_pixels(crop, IDENTITY, warp)
    assert np.array_equal(moved, crop)
    assert moved is not crop


def test_attributes_of_a_warp(pipe: EmoRigPipeline, source: Tensor) -> None:
    warp = pipe.texture.warp(source, source, GRID)
    on = silhouette(pipe, source)
    assert np.array_equal((warp.normal != 0).any(-1), on)
    assert np.linalg.norm(warp.normal, axis=-1).max() < 1.001
    nose = np.round(warp.points[1] - 0.5).astype(int)
    assert warp.normal[nose[1], nose[0], 2] > 0.7  # towards the viewer
    cheek = np.round(warp.points[[234, 454]] - 0.5).astype(int)
    assert warp.normal[cheek[0, 1], cheek[0, 0] + 3, 0] < -0.3  # her right, left in the picture
    assert warp.normal[cheek[1, 1], cheek[1, 0] - 3, 0] > 0.3
    np.testing.assert_allclose(warp.points, warp.source_points)
    eyes = np.linalg.norm(warp.points[33] - warp.points[263]) / warp.scale
    assert 0.07 < eyes < 0.11  # metres between the outer corners
    assert not warp.mouth.any() and not warp.depth.any()


@pytest.mark.parametrize("shift", [(3, -2), (-5, 4)])
def test_a_shift_moves_the_face_by_that_shift(
    pipe: EmoRigPipeline, source: Tensor, crop: np.ndarray, shift: tuple[int, int]
) -> None:
    warp = pipe.texture.warp(source, source + torch.tensor([*shift, 0.0]), GRID)
    moved = move_pixels(crop, IDENTITY, warp).astype(int)
    expected = np.roll(crop, (shift[1], shift[0]), (0, 1)).astype(int)
    outline = np.zeros((GRID, GRID), np.uint8)
    cv2.fillConvexPoly(outline, cv2.convexHull(np.round(warp.points).astype(np.int32)), 1)
    face = binary_erosion((outline > 0) & silhouette(pipe, source + torch.tensor([*shift, 0.0])), iterations=8)
    face &= border_distance() > 0.1 * GRID
    assert face.sum() > 0.15 * GRID**2
    assert np.abs(moved - expected)[face].max() <= 1
    assert np.abs(crop.astype(int) - expected)[face].mean() > 4  # the shift is no matter of course
    np.testing.assert_allclose(
        warp.motion[face], np.broadcast_to(np.negative(shift), (face.sum(), 2)), atol=1e-3
    )


def border_distance() -> np.ndarray:
    edge = np.minimum(np.arange(GRID), np.arange(GRID)[::-1])
    return np.minimum(edge[:, None], edge[None])


def test_pixels_out_of_reach_stay(
    pipe: EmoRigPipeline, source: Tensor, crop: np.ndarray, opened: Warp, hopper_face: EncodedFace
) -> None:
    target = pipe.edit_codes(hopper_face, action_units={"jawOpen": 0.6})
    on = silhouette(pipe, pipe.grid_vertices(hopper_face, target, GRID))
    far = distance_transform_edt(~on) > 1.5 * REACH * opened.scale
    assert far.sum() > 1000
    moved = move_pixels(crop, IDENTITY, opened)
    assert np.array_equal(moved[far], crop[far])
    rim = border_distance() == 0
    assert np.array_equal(moved[rim], crop[rim])
    still = ~opened.motion.any(-1)
    assert np.array_equal(moved[still], crop[still])
    assert (moved != crop).any(-1).mean() > 0.1


def test_surroundings_move_no_more_than_the_head(opened: Warp) -> None:
    on = (opened.normal != 0).any(-1)
    length = np.hypot(*opened.motion.transpose(2, 0, 1))
    near = ~on & (distance_transform_edt(~on) < 5)
    assert 0.2 * length[on].max() < length[near].max() <= length[on].max() + 1e-3
    assert length[near].mean() > 2 * length[~on & ~near].mean()


def test_fade_out_of_a_disc() -> None:
    size, scale = 200, 1000.0
    y, x = np.mgrid[:size, :size] + 0.5
    radius = np.hypot(x - 100, y - 100)
    on = radius < 30
    motion = fade_out(np.where(on[..., None], [4.0, 0.0], 0).astype(np.float32), on, scale, REACH)
    assert (motion[on] == [4, 0]).all()
    length = motion[100, 100:, 0]
    assert (np.diff(length) <= 1e-4).all()  # less and less outwards
    assert length[29 + int(REACH * scale / 2)] == pytest.approx(2, abs=0.5)
    assert not motion[radius > 30 + 2 * REACH * scale].any()


def test_a_jump_of_the_skin_becomes_a_slope() -> None:
    """Below a lip that hides ten rows, motion goes over by steps smaller than the jump, and without overshoot."""
    motion = np.zeros((60, 60, 2), np.float32)
    motion[30:, :, 1] = -10
    skin = np.zeros((60, 60), bool)
    skin[:, :40] = True
    soft = soften_steps(motion, skin, 2.0)
    steps = np.diff(soft[:, 20, 1])
    assert -3 < steps.min() < -1 and steps.max() <= 1e-4
    assert np.array_equal(soft[:20], motion[:20]) and np.array_equal(soft[40:], motion[40:])
    assert np.array_equal(soft[:, 40:], motion[:, 40:])
    gentle = np.cumsum(np.full((60, 60, 2), 0.4, np.float32), axis=0)
    assert np.array_equal(soften_steps(gentle, skin, 2.0), gentle)


def test_photo_of_another_frame() -> None:
    """A grid turned by 90 degrees and half as fine: its shifts are turned and twice as long in the photo."""
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (400, 360, 3), np.uint8), (0, 0), 2)
    matrix = np.array([[0.0, 0.5, 10], [-0.5, 0, 190]])  # photo pixels to grid pixels
    motion = np.zeros((200, 200, 2))
    motion[60:140, 60:140] = [3, -2]  # where each grid pixel comes from
    moved = move_pixels(photo, matrix, flat_warp(motion))
    inner = transform_points(matrix, np.stack(np.meshgrid(np.arange(360) + 0.5, np.arange(400) + 0.5), -1))
    inside = ((inner > 62) & (inner < 138)).all(-1)
    outside = ((inner < 58) | (inner > 142)).any(-1)
    assert inside.sum() > 10000
    back = np.linalg.inv(matrix[:, :2]) @ [3, -2]
    np.testing.assert_allclose(back, [4, 6])
    expected = np.roll(photo, (-6, -4), (0, 1))
    assert np.abs(moved.astype(int) - expected)[inside].max() <= 1
    assert np.array_equal(moved[outside], photo[outside])


def test_motion_finer_than_a_pixel(crop: np.ndarray) -> None:
    ramp = np.repeat(np.linspace(0, 250, 100).round().astype(np.uint8)[None, :, None], 100, 0).repeat(3, 2)
    motion = np.zeros((100, 100, 2))
    motion[20:80, 20:80, 0] = 4.5
    moved = move_pixels(ramp, IDENTITY, flat_warp(motion))
    change = moved[50, 25:75, 0].astype(float) - ramp[50, 25:75, 0]
    assert change.mean() == pytest.approx(4.5 * 250 / 99, abs=0.3)


@pytest.mark.parametrize("zoom", [0.25, 1.0, 3.0])
def test_motion_meets_pixel_centres(zoom: float) -> None:
    """A stretch about a known place, on a grid coarser and finer than the photo."""
    photo = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    size = int(200 * zoom)
    place = np.arange(size) + 0.5
    motion = np.zeros((size, size, 2))
    motion[..., 0] = 0.4 * (100 * zoom - place)  # from the middle outwards
    moved = move_pixels(photo, np.array([[zoom, 0, 0], [0, zoom, 0]]), flat_warp(motion))
    x = np.arange(60, 140) + 0.5
    expected = x + 0.4 * (100 - x) - 0.5
    assert abs((moved[30, 60:140, 0] - expected).mean()) < 0.05
    np.testing.assert_allclose(moved[30, 60:140, 0], expected, atol=0.8)


def test_motion_at_the_photos_border() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    motion = np.full((60, 60, 2), 25.0)
    moved = move_pixels(photo, np.array([[1.0, 0, 20], [0, 1.0, 20]]), flat_warp(motion))
    assert moved.shape == photo.shape
    assert (moved[10:, 10:] == photo[-1, -1]).all()  # beyond the photo its edge goes on


def test_an_opening_mouth_is_a_hole(opened: Warp) -> None:
    upper, lower = opened.points[13], opened.points[14]
    assert np.linalg.norm(upper - lower) > 3 * MOUTH_SHUT * opened.scale
    assert opened.mouth.sum() > 200
    x, y = np.round((upper + lower) / 2 - 0.5).astype(int)
    assert opened.mouth[y, x] and opened.hole[y, x]
    assert (opened.hole & opened.mouth).sum() > 0.8 * opened.mouth.sum()
    assert opened.hole.sum() < 0.1 * opened.hole.size
    assert opened.depth[opened.mouth].max() > 0.01  # metres to the throat
    around = cv2.dilate(opened.mouth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not opened.depth[~around].any()


def test_a_mouth_that_was_open_is_no_hole(pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    face = astronaut_face
    here = pipe.grid_vertices(face, face.codes, GRID)
    target = pipe.edit_codes(face, action_units={"jawOpen": 0.05})
    warp = pipe.texture.warp(here, pipe.grid_vertices(face, target, GRID), GRID)
    assert warp.mouth.sum() > 200
    assert (warp.hole & warp.mouth).sum() < 0.3 * warp.mouth.sum()


def test_skin_that_was_hidden_is_a_hole(
    pipe: EmoRigPipeline, hopper_face: EncodedFace, source: Tensor
) -> None:
    target = pipe.edit_codes(hopper_face, rotate=(30, 0, 0))
    warp = pipe.texture.warp(source, pipe.grid_vertices(hopper_face, target, GRID), GRID)
    holes = np.nonzero(warp.hole)[1]
    assert len(holes) > 50
    # turned to her left, her right cheek and temple come into sight, in the picture's left half
    assert (holes < warp.points[1, 0]).mean() > 0.6


def test_a_turning_head_tears_nothing(pipe: EmoRigPipeline, hopper_face: EncodedFace, source: Tensor) -> None:
    target = pipe.edit_codes(hopper_face, rotate=(10, 0, 0))
    warp = pipe.texture.warp(source, pipe.grid_vertices(hopper_face, target, GRID), GRID, turning=True)
    across, down = (np.abs(np.diff(warp.motion, axis=a)).max() for a in (1, 0))
    assert np.hypot(*warp.motion.transpose(2, 0, 1)).max() > 5
    assert max(across, down) < 4  # pixels from one pixel to the next
    nose = np.round(warp.points[4] - 0.5).astype(int)
    moved = warp.source_points[4] - warp.points[4]  # the face itself moves as the mesh does
    np.testing.assert_allclose(warp.motion[nose[1], nose[0]], moved, atol=0.7)
    assert not (warp.hole & ~warp.mouth).any()


def test_eyelids_hide_and_free_the_eye(
    pipe: EmoRigPipeline, hopper_face: EncodedFace, source: Tensor
) -> None:
    closed = pipe.edit_codes(hopper_face, action_units={"AU43": 0.9})
    warp = pipe.texture.warp(source, pipe.grid_vertices(hopper_face, closed, GRID), GRID)
    lid = warp.points[[159, 386]] - warp.source_points[[159, 386]]
    assert (lid[:, 1] > 0.004 * warp.scale).all()  # down
    x, y = np.round(warp.points[[159, 386]] - [0.5, 2]).astype(int).T
    assert (warp.motion[y, x, 1] < -2).all()  # what is there now comes from above


def test_a_chin_that_comes_up_smears_nothing(pipe: EmoRigPipeline, hopper_face: EncodedFace, source: Tensor) -> None:
    shouting = pipe.edit_codes(hopper_face, action_units={"jawOpen": 1.0})
    warp = pipe.texture.warp(pipe.grid_vertices(hopper_face, shouting, GRID), source, GRID)
    chin = warp.points[152].astype(int)
    assert warp.motion[chin[1] - 3, chin[0], 1] > 15
    origin = warp.motion[chin[1] - 3 :, chin[0], 1] + np.arange(GRID - chin[1] + 3)
    assert np.diff(origin).min() > 0.1  # rows of the photo a row: at 0 one row would be drawn as stripes


def test_lips_that_speak_show_all_of_the_photo_as_they_meet(
    pipe: EmoRigPipeline, hopper_face: EncodedFace
) -> None:
    """A mouth that is just open comes to be just shut: without speech what was seen between the lips is gone."""
    head = lambda jaw: pipe.grid_vertices(
        hopper_face, pipe.edit_codes(hopper_face, action_units={"jawOpen": jaw}), GRID
    )
    opening = lambda vertices: pipe.texture.warp(vertices, vertices, GRID).mouth.any()
    amounts = np.arange(0.02, 0.3, 0.02)
    first = next(i for i, jaw in enumerate(amounts) if opening(head(jaw)))
    before, after = head(amounts[first]), head(amounts[first - 1])
    silent, speaking = (pipe.texture.warp(before, after, GRID, speaks=speaks) for speaks in (0.0, 1.0))
    assert silent.hole.sum() > 20
    assert not speaking.hole.any()
