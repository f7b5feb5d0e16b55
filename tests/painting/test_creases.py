"""What a smile leaves on the cheeks when it goes: told from the change, found in the photo, taken out of its detail."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from plain_faces import GRID, HAIR, SIZE, SKIN

from emorig_diffusers.painting.stages.composite import add_change, finish, line_share, plan
from emorig_diffusers.painting.stages.creases import corner_creases, corner_release, evenness, fold_release, grain
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.skin import darker
from emorig_diffusers.photo.landmarks import OUTER_LIPS

ANGER = {"browDownLeft": 1.0, "browDownRight": 1.0, "noseSneerLeft": 0.5, "noseSneerRight": 0.5}
SMILE = {f"mouth{unit}{side}": 0.4 for unit in ("Smile", "UpperUp") for side in ("Left", "Right")}
FROWN = {"mouthFrownLeft": 1.0, "mouthFrownRight": 1.0}


def test_folds_go_when_a_smile_goes_but_not_when_sorrow_or_anger_takes_its_place() -> None:
    gone = {unit: -amount for unit, amount in SMILE.items()}
    assert fold_release({}) == fold_release(SMILE) == fold_release(FROWN) == fold_release(ANGER) == 0
    assert fold_release(gone) == 1
    assert fold_release(gone | FROWN) < 0.2
    assert fold_release(gone | dict.fromkeys(("noseSneerLeft", "noseSneerRight"), 0.8)) < 0.2
    assert fold_release({unit: 0.15 * amount for unit, amount in gone.items()}) == 0  # hardly a smile
    shares = [fold_release({unit: part * amount for unit, amount in gone.items()}) for part in np.linspace(0, 1, 11)]
    assert shares == sorted(shares) and any(0.1 < share < 0.9 for share in shares)


def test_creases_at_the_corners_go_with_a_smile_whatever_comes() -> None:
    gone = {unit: -amount for unit, amount in SMILE.items()}
    assert corner_release({}) == corner_release(SMILE) == corner_release(FROWN) == corner_release(ANGER) == 0
    assert corner_release(gone) == corner_release(gone | FROWN) == corner_release(gone | ANGER) == 1


def plain(marks: list[np.ndarray], dark: float = 0.6) -> np.ndarray:
    """Skin [G, G, 3] with dark dots of 2 mm at points [2]."""
    skin = np.full((GRID, GRID, 3), SKIN, np.float32)
    for x, y in marks:
        spot = np.zeros((GRID, GRID), np.float32)
        cv2.circle(spot, (round(x), round(y)), 3, 1.0, -1)
        skin *= 1 - (1 - dark) * cv2.GaussianBlur(spot, (0, 0), 1.0)[..., None]
    return skin.round().astype(np.uint8)


def dark_of(warp: Warp, picture: np.ndarray) -> np.ndarray:
    return darker([picture], warp)[..., 0]


def test_dark_creases_beside_the_mouth_are_found_and_no_others(still: Warp) -> None:
    beside = [still.points[57], still.points[210], still.points[287]]
    cheek, chin = still.points[205], still.points[199]
    assert not corner_creases(still, dark_of(still, plain([]))).any()
    found = corner_creases(still, dark_of(still, plain([*beside, cheek, chin])))
    at = lambda point: found[round(point[1]), round(point[0])] > 0.9
    assert all(at(point) for point in beside) and not at(cheek) and not at(chin)
    assert not corner_creases(still, dark_of(still, plain(beside, dark=0.97))).any()  # as skin varies


def test_a_fold_that_reaches_a_corner_is_not_cut_off(still: Warp) -> None:
    x, y = np.round(still.points[207]).astype(int)
    folded = plain([])
    folded[y - 60 : y + 10, x - 2 : x + 3] = folded[0, 0] * 0.6
    found = corner_creases(still, dark_of(still, folded))[y - 60 : y + 10, x]
    assert found[-3] > 0.9 and found[0] == 0 and np.abs(np.diff(found)).max() < 0.2


def test_beards_are_not_even(still: Warp) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (GRID, GRID))
    hair = noise - cv2.GaussianBlur(noise, (0, 0), 0.0015 * still.scale)
    rough = np.clip(plain([]) * (1 + 0.4 * hair[..., None]), 0, 255).astype(np.uint8)
    fine = np.clip(plain([]) * (1 + 0.02 * hair[..., None]), 0, 255).astype(np.uint8)
    assert evenness(still, plain([])) == evenness(still, fine) == 1 and evenness(still, rough) == 0


def test_a_crease_is_filled_with_the_skin_around_it(still: Warp) -> None:
    """At the photo's own resolution, without a bright or a dark line where it was."""
    x, y = still.points[210]
    creased, whole = plain([(x, y)]), plain([])
    chosen = plan(still, creased, SIZE, release=(0.0, 1.0))
    assert chosen.even == 1 and not chosen.network_mask.any()
    result = finish(creased, chosen, chosen.base, np.array([[0.5, 0, 0], [0, 0.5, 0]]))
    near = np.s_[round(y) - 12 : round(y) + 13, round(x) - 12 : round(x) + 13]
    off = lambda picture: np.abs(picture[near].astype(int) - whole[near]).max()
    assert off(creased) > 60 and off(result) < 12
    assert np.array_equal(result[:200], creased[:200])


def test_thin_lines_go_with_what_is_added_and_pores_stay() -> None:
    photo = np.full((1024, 1024, 3), 150, np.uint8)
    photo[:, 510:514] = 60  # a line of one pixel of the crop
    photo[::7, 100] = 140
    crop = cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    change, matrix = (150 - crop.astype(np.float32)) / 255, np.array([[0.25, 0, 0], [0, 0.25, 0]])
    change[:, :100] = 0
    part = np.s_[300:700, 480:544]
    off = lambda picture: np.abs(picture[part].astype(int) - 150).max()
    kept, gone = add_change(photo, change, matrix), add_change(photo, change, matrix, line_share(change))
    assert off(gone) < 0.6 * off(kept)
    assert np.array_equal(gone[:, :300], photo[:, :300])


@pytest.mark.parametrize("exposure", [1.0, 0.4])
def test_folds_are_filled_in_from_skin_and_neither_from_a_moustache_nor_from_painted_lips(
    still: Warp, exposure: float
) -> None:
    """Hair and lips reach into what is filled in, or border on it: a smear of theirs would be left on the cheek."""
    photo = (plain([]) * exposure).astype(np.float32)
    lip = np.round(still.points[[57, 92, 164, 322, 287, 0]]).astype(np.int32)
    cv2.fillConvexPoly(photo, cv2.convexHull(lip), tuple(np.multiply(HAIR, 0.6 * exposure)))
    cv2.fillPoly(photo, [np.round(still.points[list(OUTER_LIPS)]).astype(np.int32)], (150, 20, 60))
    fine = photo.round().astype(np.uint8)
    chosen = plan(still, fine, SIZE, release=(1.0, 0.0))
    base = (chosen.base[0].permute(1, 2, 0).numpy() + 1) * 127.5
    cheeks = still.points[[205, 206, 425, 426]] * (SIZE / GRID)
    filled = np.array([base[round(y), round(x)] for x, y in cheeks])
    assert np.abs(filled / chosen.moved[0, 0] - 1).max() < 0.05  # which is in usual light


def test_what_moves_uncover_beside_the_face_is_not_filled_in_with_skin(still: Warp) -> None:
    fine = plain([])
    fine[:, :60] = 10
    hole = np.zeros((GRID, GRID), bool)
    hole[200:230, 20:40] = True
    chosen = plan(replace(still, hole=hole), fine, SIZE, release=(1.0, 1.0))
    uncovered = chosen.base[0, :, 100:115, 10:20]
    assert (chosen.skin[102:112, 12:18] > 0.5).all() and (uncovered - chosen.base[0, :, 20:21, 10:11]).abs().max() < 0.1


def test_what_is_filled_in_is_as_grainy_as_skin_and_keeps_no_line(still: Warp) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (SIZE, SIZE, 1))
    x, y = np.round(still.points[205] * (SIZE / GRID)).astype(int)
    even = np.full((SIZE, SIZE, 3), SKIN) + noise
    lined = even.copy()
    lined[y - 8 : y + 8, x] *= 0.6
    everywhere, scale = np.ones((SIZE, SIZE), np.float32), still.scale * SIZE / GRID
    kept = grain(np.clip(lined, 0, 255).astype(np.uint8), everywhere, scale)
    spread = 255 * kept[20:60, 20:60].std()
    assert 2.5 < spread < 5 and np.abs(255 * kept[y - 6 : y + 6, x]).max() < 3 < 0.3 * SKIN[0]
    assert np.abs(grain(np.full((SIZE, SIZE, 3), SKIN, np.uint8), everywhere, scale)).max() < 1e-6
