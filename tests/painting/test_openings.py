"""Lids and eyeballs on a drawn eye: what a rising lid uncovers, lashes that go along, lids that stay and that shut."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from emorig_diffusers.painting.stages.bared_teeth import BaredTeeth, paint_bared_teeth
from emorig_diffusers.painting.stages.eyeballs import RADIUS, Eyeball, paint_eyeball
from emorig_diffusers.painting.stages.flow import Warp, move_pixels
from emorig_diffusers.painting.stages.lids import LEAST_FALL, paint_lids
from emorig_diffusers.painting.stages.openings import LASHES, RIM, move_lids, move_lips
from emorig_diffusers.photo.landmarks import INNER_LIPS, IRISES, LIDS, shut_eyes

SIZE, SCALE = 160, 2000.0  # pixels, and pixels a metre
IRIS = np.array([[50.0, 82.0], [110.0, 82.0]])
SKIN, WHITE, BLUE, BLACK = 180.0, 250.0, 90.0, 10.0


def outline(middle: np.ndarray, upper: float, lower: float) -> np.ndarray:
    """The 16 points [16, 2] of an opening 48 pixels wide: corner, upper lid, corner, lower lid."""
    angle = np.pi * np.arange(16) / 8
    height = np.where(np.sin(angle) >= 0, upper, lower)
    return middle + np.column_stack([-24 * np.cos(angle), -height * np.sin(angle)])


def landmarks(upper: float, lower: float = 10.0, shift: float = 0.0) -> np.ndarray:
    points = np.zeros((478, 2))
    for place, middle, iris in zip(LIDS, IRIS, IRISES):
        points[list(place)], points[iris] = outline(middle + [shift, 0], upper, lower), middle + [shift, 0]
    return points


def draw(upper: float, lower: float = 10.0) -> np.ndarray:
    """A photo [G, G]: irises of the usual size, whites, skin, black lashes along the upper lids."""
    photo, fixed = np.full((SIZE, SIZE), SKIN, np.float32), lambda p: np.round((p - 0.5) * 16).astype(np.int32)
    for middle in IRIS:
        opening, ball = np.zeros((SIZE, SIZE), np.uint8), np.full((SIZE, SIZE), WHITE, np.float32)
        cv2.fillPoly(opening, [fixed(outline(middle, upper, lower))], 1, shift=4)
        cv2.circle(ball, tuple(fixed(middle)), round(RADIUS * SCALE * 16), BLUE, -1, shift=4)
        photo = np.where(opening > 0, ball, photo)
        cv2.polylines(photo, [fixed(outline(middle, upper, lower)[:9] + [0, 1])], False, BLACK, 2, shift=4)
    return photo


def moved(
    photo: np.ndarray, motion: np.ndarray, eyes: Sequence[Eyeball] = (), bared: BaredTeeth | None = None
) -> np.ndarray:
    x, y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
    x, y = x + motion[..., 0].astype(np.float32), y + motion[..., 1].astype(np.float32)
    colour = np.repeat(photo.astype(np.uint8)[..., None], 3, 2)
    result = cv2.remap(colour, x, y, cv2.INTER_LINEAR)
    if bared:
        paint_bared_teeth(result, colour, np.eye(2, 3), bared)
    for eye in eyes:
        paint_eyeball(result, colour, np.eye(2, 3), eye)
    return result[..., 0].astype(np.float32)


STILL = np.zeros((SIZE, SIZE, 2))


def test_lids_that_stay_change_nothing() -> None:
    points = landmarks(8)
    motion, done, eyes = move_lids(STILL, points, points, IRIS, SCALE)
    assert not motion.any() and not done.any() and not eyes
    shifted, done, eyes = move_lids(STILL - [3.0, 0], points, landmarks(8, shift=3.0), IRIS, SCALE)
    assert (shifted == [-3.0, 0]).all() and not done.any() and not eyes  # the whole eye moves


@pytest.mark.parametrize("upper", [12.0, 16.0])
def test_a_rising_lid_uncovers_a_round_iris(upper: float) -> None:
    motion, done, eyes = move_lids(STILL, landmarks(6), landmarks(upper), IRIS, SCALE)
    result = moved(draw(6), motion, eyes)
    for x, y in IRIS.astype(int):
        depth = int(upper - LASHES * SCALE)  # rows above the iris's middle that lashes leave free
        column = result[y - depth + 3 : y, x]
        assert (np.abs(column - BLUE) < 25).all()  # the photo showed lashes and skin above the sixth
        lid = result[y - int(upper) - 3 : y - int(upper) + 5, x]
        assert lid.min() < 60  # the lashes went up
        assert abs(result[y - int(upper) - int(RIM * SCALE) - 1, x] - SKIN) < 5
        assert (np.abs(result[y - 3, [x - 16, x + 16]] - WHITE) < 60).all()
    assert not motion[~done].any()
    assert done.mean() < 0.2


def test_white_that_is_clipped_stays_white_under_a_rising_lid() -> None:
    burnt = np.where(draw(8) == WHITE, 255, draw(8))
    motion, _, eyes = move_lids(STILL, landmarks(8), landmarks(14), IRIS, SCALE)
    y, x = np.nonzero((eyes[0].white > 0.95) & (eyes[0].cover > 0.99)) + eyes[0].corner[::-1, None]
    uncovered = lambda photo: moved(photo, motion, eyes)[y, x]
    assert len(y) > 10 and np.quantile(uncovered(burnt), 0.1) > 250 and uncovered(draw(8)).max() < 0.95 * WHITE


def test_an_eye_of_a_blurred_photo_has_soft_edges() -> None:
    motion, _, eyes = move_lids(STILL, landmarks(8), landmarks(14), IRIS, SCALE)
    photo = np.repeat(cv2.GaussianBlur(draw(8), (0, 0), 4).astype(np.uint8)[..., None], 3, 2)
    slopes = []
    for blur in (0.0, 4.0):
        x, y = (motion + np.mgrid[:SIZE, :SIZE][::-1].transpose(1, 2, 0)).astype(np.float32).transpose(2, 0, 1)
        result = cv2.remap(photo, x, y, cv2.INTER_LINEAR)
        for eye in eyes:
            paint_eyeball(result, photo, np.eye(2, 3), eye, blur)
        slopes.append(np.abs(np.diff(result[..., 0].astype(int), axis=1)).max())
    assert slopes[1] < 0.8 * slopes[0]


def test_a_falling_lid_takes_its_lashes_along() -> None:
    motion, done, eyes = move_lids(STILL, landmarks(12), landmarks(5), IRIS, SCALE)
    result = moved(draw(12), motion, eyes)
    for x, y in IRIS.astype(int):
        assert np.abs(result[y + 2, x] - BLUE) < 25
        assert result[y - 8 : y - 1, x].min() < 60
    behind = np.zeros((SIZE, SIZE), bool)
    for eye in eyes:
        (x, y), (height, width) = eye.corner, eye.cover.shape
        behind[y : y + height, x : x + width] = eye.cover > 0.99
    tears = (np.abs(np.diff(motion, axis=0)) > 4).any(-1)
    assert not (tears & ~behind[1:]).any()  # none is seen before the eyeball


@pytest.mark.parametrize("upper", [-10.0, -18.0])  # lids that meet, and lids that would cross
def test_shut_lids_hide_the_eye(upper: float) -> None:
    row = np.arange(SIZE) - IRIS[0, 1]
    skin = np.where((row > -30) & (row < -upper), (upper - 12) * (row + 30) / (30 - upper), 0)  # comes from above
    mesh = np.stack([np.zeros((SIZE, SIZE)), np.repeat(skin[:, None], SIZE, 1)], -1)
    motion, _, eyes = move_lids(mesh, landmarks(12), landmarks(upper), IRIS, SCALE)
    result = moved(draw(12), motion, eyes)
    for x, y in IRIS.astype(int):
        lid = result[y - 14 : y + 6, x - 12 : x + 13]
        assert (np.abs(lid - SKIN) < 10).mean() > 0.9
        line = result[y + 4 : y + 14, x - 12 : x + 13]
        assert line.min() < 60 and (np.abs(line - WHITE) < 10).mean() < 0.08  # lashes, hardly any eye


def falling(upper: float) -> tuple[np.ndarray, Warp]:
    """A photo [G, G, 3] of eyes with long lashes over the upper lid, and a warp that stretches the lid's skin down."""
    photo = draw(10)
    for middle in IRIS:
        for x, y in outline(middle, 10, 10)[1:8]:
            photo[int(y) - 7 : int(y), int(x) - 1 : int(x) + 1] = BLACK
    before, after = landmarks(10), landmarks(upper)
    motion, y = STILL.copy(), np.arange(SIZE)[:, None] + 0.5
    for middle in IRIS:
        there, here = outline(middle, upper, 10)[:9], outline(middle, 10, 10)[:9]
        x = np.arange(int(there[0, 0]), int(there[8, 0]))
        edge, fall = (np.interp(x, there[:, 0], values) for values in (there[:, 1], (there - here)[:, 1]))
        crease = middle[1] - 30
        share = np.clip((y - crease) / (edge - crease), 0, 1) * (y < edge)
        motion[:, x, 1] = -fall * share
    motion, _, eyes = move_lids(motion, before, after, IRIS, SCALE)
    blank = np.zeros((SIZE, SIZE))
    inside = lambda: (blank, blank, blank)
    warp = Warp(motion.astype(np.float32), blank > 0, blank > 0, blank > 0, inside, after, before, SCALE, eyes)
    return np.repeat(photo.astype(np.uint8)[..., None], 3, 2), warp


@pytest.mark.parametrize("upper", [-9.9, 1.0])
def test_a_lid_that_comes_down_is_smooth_skin(upper: float) -> None:
    photo, warp = falling(upper)
    moved = move_pixels(photo, np.eye(2, 3), warp)
    result = paint_lids(moved, photo, np.eye(2, 3), warp)[..., 0].astype(float)
    for x, y in IRIS.astype(int):
        lid = slice(y - 12, y - int(upper) - int(3 * RIM * SCALE)), slice(x - 12, x + 12)
        assert np.ptp(moved[lid].astype(float)) > 100  # a curtain of lashes
        assert np.ptp(result[lid]) < 40 and abs(np.median(result[lid]) - SKIN) < 25
        edge = y - int(upper)
        assert result[edge - 3 : edge + 4, x - 12 : x + 12].min(0).max() < 75  # lashes all along the edge
        assert (result[: y - 40] == photo[: y - 40, :, 0]).all()
        if upper < 0:  # shut: no white or iris between the lids
            assert result[edge - 3 : edge + 6, x - 12 : x + 12].max() < SKIN + 25
        else:
            assert (np.abs(result[edge + 6 : y + 6, x] - BLUE) < 30).all()


def test_a_shut_lid_is_as_light_as_the_skin_around() -> None:
    """Not as dark as the lid's shadow, which the photo shows above the open eye's edge."""
    photo, warp = falling(-9.9)
    for x, y in IRIS.astype(int):
        photo[y - 19 : y - 8, x - 20 : x + 20] //= 2
    moved = move_pixels(photo, np.eye(2, 3), warp)
    result = paint_lids(moved, photo, np.eye(2, 3), warp)[..., 0].astype(float)
    for x, y in IRIS.astype(int):
        lid = slice(y - 10, y + 3), slice(x - 8, x + 8)
        assert np.median(moved[lid]) < 0.6 * SKIN and np.median(result[lid]) > 0.85 * SKIN


def test_a_lid_that_hardly_comes_down_stays_the_photos() -> None:
    photo, warp = falling(10 - 0.9 * LEAST_FALL[0] * SCALE)
    moved = move_pixels(photo, np.eye(2, 3), warp)
    assert paint_lids(moved, photo, np.eye(2, 3), warp) is moved


def test_lids_at_a_larger_photo_s_own_resolution() -> None:
    photo, warp = falling(-9.9)
    large = np.repeat(np.repeat(photo, 2, 0), 2, 1)
    painted = [
        paint_lids(move_pixels(rgb, matrix, warp), rgb, matrix, warp)[..., 0].astype(np.float32)
        for rgb, matrix in ((photo, np.eye(2, 3)), (large, np.eye(2, 3) / 2))
    ]
    back = cv2.resize(painted[1], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    lid = slice(70, 100), slice(30, 130)
    assert np.abs(back - painted[0])[lid].mean() < 4


def test_a_shut_eye_is_skin_from_lid_to_lid() -> None:
    """Landmarks leave it open; the skin there goes along with both of its edges, and no eyeball stays behind."""
    before, after = landmarks(6), landmarks(10, lower=16)
    motion, done, eyes = move_lids(STILL, before, after, IRIS, SCALE, shut=(True, False))
    assert len(eyes) == 1 and eyes[0].corner[0] > IRIS.mean(0)[0] - 40
    x, y = IRIS[0].astype(int)
    column = motion[y - 10 : y + 16, x, 1]
    assert column[0] == pytest.approx(4, abs=0.5) and column[-1] == pytest.approx(-6, abs=0.5)
    assert (np.diff(column) < 0.01).all() and np.diff(column).min() > -0.7  # evenly, without a step
    assert done[y - 10 : y + 16, x].all() and not motion[: y - 20].any()


@pytest.mark.parametrize(("right", "left", "scores", "shut"), [
    ((8, 8), (8, 8), {}, (False, False)),
    ((1, 1), (8, 8), {}, (True, False)),
    ((-9, 10), (-9, 10), {}, (True, True)),
    ((3, 3), (6, 6), {"eyeBlinkRight": 0.5, "eyeBlinkLeft": 0.2}, (True, False)),  # a wink
    ((6, 6), (3, 3), {"eyeBlinkRight": 0.2, "eyeBlinkLeft": 0.5}, (False, True)),
    ((3, 3), (6, 6), {"eyeBlinkRight": 0.3, "eyeBlinkLeft": 0.2}, (False, False)),  # seen from the side
    ((5, 5), (6, 6), {"eyeBlinkRight": 0.5, "eyeBlinkLeft": 0.2}, (False, False)),
    ((3, 3), (3, 3), {"eyeBlinkRight": 0.5, "eyeBlinkLeft": 0.5, "eyeLookDownRight": 0.6}, (True, False)),
    ((3, 3), (3, 3), {"eyeBlinkRight": 0.5, "eyeBlinkLeft": 0.5}, (False, False)),  # laughter
    ((3, 3), (2, 2), {}, (True, True)),  # the other is shut
    ((4, 4), (2, 2), {}, (False, True)),
    ((3, 3), (2, 2), {"eyeBlinkRight": 0.3, "eyeBlinkLeft": 0.5}, (False, True)),  # a wink of who laughs
    ((8, 8), (8, 8), {"eyeBlinkRight": 0.5, "eyeLookDownRight": 0.6}, (False, False)),
])  # fmt: skip
def test_which_eyes_are_shut(right: tuple, left: tuple, scores: dict[str, float], shut: tuple[bool, bool]) -> None:
    points = np.zeros((478, 2))
    for place, middle, heights in zip(LIDS, IRIS, (right, left)):
        points[list(place)] = outline(middle, *heights)
    assert shut_eyes(points, scores) == shut
    assert shut_eyes(3 * points + 5, scores) == shut


def test_eyes_at_the_border_and_shut_eyes() -> None:
    for shift, upper in ((-45.0, 12.0), (200.0, 12.0), (0.0, -8.0)):
        before, after = landmarks(6), landmarks(upper)
        motion, _, eyes = move_lids(STILL, before + [shift, 0], after + [shift, 0], IRIS + [shift, 0], SCALE)
        assert np.isfinite(motion).all() and np.isfinite(moved(draw(6), motion, eyes)).all()
    motion, _, eyes = move_lids(STILL, landmarks(-5), landmarks(10), IRIS, SCALE)  # hardly any eyeball is shown
    assert np.isfinite(motion).all() and np.isfinite(moved(draw(-5), motion, eyes)).all()


def lips(width: float, upper: float, lower: float) -> np.ndarray:
    points, angle = np.zeros((478, 2)), np.pi * np.arange(20) / 10
    height = np.where(np.sin(angle) >= 0, upper, lower)
    points[list(INNER_LIPS)] = np.array([80.0, 80]) + np.column_stack([-width * np.cos(angle), -height * np.sin(angle)])
    return points


def test_lips_part_before_teeth_that_stay() -> None:
    before, after = lips(30, 6, 8), lips(33, 9, 8)
    fixed = np.round((before[list(INNER_LIPS)] - 0.5) * 16).astype(np.int32)
    photo = np.full((SIZE, SIZE), SKIN, np.float32)
    teeth = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(teeth, [fixed], 1, shift=4)
    stripes = np.where(np.arange(SIZE) // 6 % 2 > 0, WHITE, BLUE)[None] * np.ones((SIZE, 1))
    photo = np.where(teeth > 0, stripes, photo).astype(np.float32)
    motion, unseen, bared = move_lips(STILL, before, after, SCALE)
    result = moved(photo, motion, bared=bared)
    middle = slice(60, 100)
    assert (result[80, middle] == photo[80, middle]).all()  # teeth stay where they are
    assert abs(result[80 - 12, 80] - SKIN) < 5 and abs(result[80 - 4, 80] - SKIN) > 20
    assert unseen[80 - 8, 80] and not unseen[80, 80] and not unseen[80 - 12, 80]
    assert 0.05 < unseen.sum() / teeth.sum() < 0.5
    assert np.abs(result[80 - 7, middle] - stripes[0, middle]).mean() < 60  # what the lip uncovers goes on upwards
    assert not motion[:50].any() and not motion[110:].any()


@pytest.mark.parametrize("width, upper, lower", [(24, 9, 8), (20, 9, 6), (26, 10, 5)])
def test_no_lattice_along_lips_that_move_before_teeth(width: float, upper: float, lower: float) -> None:
    before, after = lips(30, 6, 8), lips(width, upper, lower)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5 - 80
    skin = np.dstack([x * (30 / width - 1), y * np.where(y < 0, 6 / upper - 1, 8 / lower - 1)])
    wave = 1.6 * np.abs(np.sin(0.9 * x))  # a lip's true edge is a little inside the landmarks here and there
    photo = np.where((x / 30) ** 2 + (y / np.where(y < 0, 6 - wave, 8 - wave)) ** 2 < 1, WHITE, BLACK)
    motion, _, bared = move_lips(skin, before, after, SCALE)
    result = moved(photo.astype(np.float32), motion, bared=bared)
    inside = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(inside, [np.round((after[list(INNER_LIPS)] - 0.5) * 16).astype(np.int32)], 1, shift=4)
    far = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    assert (result[far == 0] < WHITE / 2).mean() > 0.99
    assert (result[far > 2] > 0.7 * WHITE).mean() > 0.99  # nothing of the lip is left among the teeth


def test_lips_that_stay() -> None:
    points = lips(30, 6, 8)
    motion, unseen, bared = move_lips(STILL, points, points, SCALE)
    assert not motion.any() and not unseen.any() and bared is None
    skull = lips(30, 6, 8) + [4.0, 0]  # the whole head moves, lips and teeth with it
    motion, unseen, bared = move_lips(STILL - [4.0, 0], points, skull, SCALE)
    assert (motion == [-4.0, 0]).all() and not unseen.any() and bared is None
