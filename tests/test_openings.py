"""openings.py and eyes.py on a drawn eye: what a rising lid uncovers, lashes that go along, and lids that stay."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest

from emorig_diffusers.eyes import RADIUS, Eyeball, paint_eyeball
from emorig_diffusers.models.landmarks import INNER_LIPS
from emorig_diffusers.openings import IRISES, LASHES, LIDS, RIM, move_lids, move_lips

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


def moved(photo: np.ndarray, motion: np.ndarray, eyes: Sequence[Eyeball] = ()) -> np.ndarray:
    x, y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
    x, y = x + motion[..., 0].astype(np.float32), y + motion[..., 1].astype(np.float32)
    colour = np.repeat(photo.astype(np.uint8)[..., None], 3, 2)
    result = cv2.remap(colour, x, y, cv2.INTER_LINEAR)
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


def test_an_eye_that_the_photo_shows_shut_is_not_opened() -> None:
    motion, done, eyes = move_lids(STILL, landmarks(-9.0), landmarks(10), IRIS, SCALE)
    assert not motion.any() and not done.any() and not eyes


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
    motion, unseen = move_lips(STILL, before, after, SCALE)
    result = moved(photo, motion)
    middle = slice(60, 100)
    assert (result[80, middle] == photo[80, middle]).all()  # teeth stay where they are
    assert abs(result[80 - 12, 80] - SKIN) < 5 and abs(result[80 - 4, 80] - SKIN) > 20
    assert unseen[80 - 8, 80] and not unseen[80, 80] and not unseen[80 - 12, 80]
    assert 0.05 < unseen.sum() / teeth.sum() < 0.5
    assert np.abs(result[80 - 7, middle] - stripes[0, middle]).mean() < 60  # what the lip uncovers goes on upwards
    assert not motion[:50].any() and not motion[110:].any()


def test_lips_that_stay() -> None:
    points = lips(30, 6, 8)
    motion, unseen = move_lips(STILL, points, points, SCALE)
    assert not motion.any() and not unseen.any()
    skull = lips(30, 6, 8) + [4.0, 0]  # the whole head moves, lips and teeth with it
    motion, unseen = move_lips(STILL - [4.0, 0], points, skull, SCALE)
    assert (motion == [-4.0, 0]).all() and not unseen.any()
