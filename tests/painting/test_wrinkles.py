"""Wrinkles of expression: they follow the muscles that pull, lie on skin alone and leave the rest bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from plain_faces import GRID, HAIR, IDENTITY, SKIN
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.wrinkles import FOLDS, fold_release, shade_wrinkles, shading, strokes
from emorig_diffusers.photo.landmarks import MIRROR

ANGER = {"browDownLeft": 1.0, "browDownRight": 1.0, "noseSneerLeft": 0.5, "noseSneerRight": 0.5}
RAISED = {"browInnerUp": 1.0, "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0}
SMILE = {f"mouth{unit}{side}": 0.4 for unit in ("Smile", "UpperUp") for side in ("Left", "Right")}
FROWN = {"mouthFrownLeft": 1.0, "mouthFrownRight": 1.0}


@pytest.fixture(scope="module")
def warp(pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> Warp:
    """The astronaut's face, unmoved."""
    head = pipe.grid_vertices(astronaut_face, astronaut_face.codes, GRID)
    return pipe.texture.warp(head, head, GRID)


@pytest.fixture(scope="module")
def light(astronaut_face: EncodedFace) -> Tensor:
    return astronaut_face.codes.light[0]


def field_of(warp: Warp, change: dict[str, float], light: Tensor) -> np.ndarray:
    return shading(strokes(warp, change), warp, light)


@pytest.mark.parametrize("change", [{}, dict.fromkeys(ANGER, 0.0), dict.fromkeys(ANGER, -1.0), {"jawOpen": 1.0}])
def test_nothing_that_folds_skin_gives_the_photo_itself(
    plain: np.ndarray, warp: Warp, light: Tensor, change: dict[str, float]
) -> None:
    assert shade_wrinkles(plain, plain, IDENTITY, warp, change, light) is plain


def test_no_strength_gives_the_photo_itself_and_more_strength_more(
    plain: np.ndarray, warp: Warp, light: Tensor
) -> None:
    assert shade_wrinkles(plain, plain, IDENTITY, warp, ANGER, light, 0.0) is plain
    shaded = (shade_wrinkles(plain, plain, IDENTITY, warp, ANGER, light, depth) for depth in (0.5, 1))
    change = [np.abs(one - plain.astype(float)).sum() for one in shaded]
    assert 1.7 * change[0] < change[1] < 2.3 * change[0]


@pytest.mark.parametrize(
    ("unit", "rows"),
    [("browDown", (151, 168)), ("browOuterUp", (10, 52)), ("noseSneer", (8, 212)), ("cheekSquint", (52, 280)),
     ("mouthSmile", (101, 210)), ("mouthFrown", (142, 210))],
)
def test_one_side_wrinkles_where_its_muscle_pulls(
    warp: Warp, light: Tensor, unit: str, rows: tuple[int, int]
) -> None:
    field = np.abs(field_of(warp, {f"{unit}Right": 1.0}, light))
    y, x = np.nonzero(field > 0.03)
    middle = warp.points[168, 0]
    assert len(x) > 40
    assert field[:, int(middle + 0.004 * warp.scale) :].sum() < (0.2 if unit == "noseSneer" else 0.08) * field.sum()
    low, high = warp.points[list(rows), 1]
    assert low - 0.01 * warp.scale < y.min() and y.max() < high + 0.01 * warp.scale


def test_a_mirrored_change_of_a_mirrored_face_gives_the_mirrored_field(warp: Warp, light: Tensor) -> None:
    flip = lambda points: points[np.r_[MIRROR, 468 : len(points)]] * [-1, 1] + [GRID, 0]
    normal = warp.normal[:, ::-1] * np.float32([-1, 1, 1])
    mirrored = replace(
        warp, points=flip(warp.points), source_points=flip(warp.source_points), normal=np.ascontiguousarray(normal)
    )
    change = {"browDownLeft": 0.8, "noseSneerRight": 0.6, "browOuterUpLeft": 0.9, "browInnerUp": 0.5,
              "mouthSmileLeft": 0.7, "mouthFrownRight": 0.9, "mouthShrugLower": 0.5}  # fmt: skip
    swapped = {n.replace("Left", "*").replace("Right", "Left").replace("*", "Right"): v for n, v in change.items()}
    other = light * torch.tensor([1.0, -1, 1, 1, -1, -1, 1, 1, 1])[:, None]  # x, xy and xz
    field = field_of(warp, change, light)
    assert np.abs(field - field[:, ::-1]).max() > 0.1
    np.testing.assert_allclose(field_of(mirrored, swapped, other), field[:, ::-1], atol=1e-4)


def test_every_landmark_beside_the_midline_has_a_twin(warp: Warp) -> None:
    used = np.unique([landmark for fold in FOLDS for anchor in fold.path for landmark in anchor[:2]])
    off = np.abs(warp.points[used, 0] - warp.points[168, 0]) / warp.scale
    alone = used[MIRROR[used] == used]
    assert len(used) > 50 and off[np.isin(used, alone)].max() < 0.006
    y = warp.points[used, 1] - warp.points[MIRROR[used], 1]
    assert np.abs(y).max() < 0.008 * warp.scale


def at(field: np.ndarray, warp: Warp, first: int, second: int, share: float = 0.5) -> float:
    """The field at a share of the way between two landmarks, on the side where it is weaker."""
    places = [warp.points[i] + share * (warp.points[j] - warp.points[i])
              for i, j in ((first, second), (MIRROR[first], MIRROR[second]))]  # fmt: skip
    return min((float(field[int(y), int(x)]) for x, y in places), key=abs)


def near(field: np.ndarray, warp: Warp, first: int, second: int, share: float = 0.5) -> float:
    """The darkest within three millimetres of a place as `at` takes it, on the side where it is lighter."""
    reach = round(0.003 * warp.scale)
    darkest = cv2.erode(field, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return at(darkest, warp, first, second, share)


def test_a_smile_draws_a_line_from_the_noses_wing_to_the_mouths_corner(warp: Warp, light: Tensor) -> None:
    field = field_of(warp, SMILE, light)
    assert all(near(field, warp, *place) < -0.05 for place in ((129, 203, 0.9), (203, 206), (206, 216)))
    for far in (4, 50, 200, 152, 9):
        assert abs(at(field, warp, far, far)) < 0.03
    stronger = field_of(warp, {unit: 1.5 * amount for unit, amount in SMILE.items()}, light)
    assert 1.1 < stronger.min() / field.min() < 1.6


def test_a_line_lies_where_the_face_has_moved_to(warp: Warp, light: Tensor) -> None:
    shift = np.array([0, -0.012 * warp.scale])
    cheeks = [203, 206, 216, 207, 212, 214, 129, 36, 49, 142]
    points = warp.points.copy()
    points[[*cheeks, *MIRROR[cheeks]]] += shift
    moved = replace(warp, points=points)
    field, before = field_of(moved, SMILE, light), field_of(warp, SMILE, light)
    assert near(field, moved, 129, 203, 0.9) < -0.05 < near(before, moved, 129, 203, 0.9)


def test_a_mouth_turned_down_draws_lines_below_its_corners(warp: Warp, light: Tensor) -> None:
    field = field_of(warp, FROWN, light)
    assert near(field, warp, 57, 202) < -0.03 and near(field, warp, 203, 206) < -0.03
    assert near(field_of(warp, SMILE, light), warp, 57, 202) > -0.03


def test_folds_go_when_a_smile_goes_but_not_when_sorrow_or_anger_takes_its_place() -> None:
    gone = {unit: -amount for unit, amount in SMILE.items()}
    assert fold_release({}) == fold_release(SMILE) == fold_release(FROWN) == fold_release(ANGER) == 0
    assert fold_release(gone) == 1
    assert fold_release(gone | FROWN) < 0.2
    assert fold_release(gone | dict.fromkeys(("noseSneerLeft", "noseSneerRight"), 0.8)) < 0.2
    assert fold_release({unit: 0.15 * amount for unit, amount in gone.items()}) == 0  # hardly a smile
    shares = [fold_release({unit: part * amount for unit, amount in gone.items()}) for part in np.linspace(0, 1, 11)]
    assert shares == sorted(shares) and any(0.1 < share < 0.9 for share in shares)


def test_grooves_are_dark_and_warm_between_lighter_skin(plain: np.ndarray, warp: Warp, light: Tensor) -> None:
    change = shade_wrinkles(plain, plain, IDENTITY, warp, ANGER, light).astype(float) - plain
    points, depth, _ = strokes(warp, ANGER)[0]  # the frown's line
    x, y = points[depth.argmax()].astype(int)
    assert change[y, x].max() < -8
    red, _, blue = change[y, x] / SKIN
    assert blue < red < 0
    grey = change.mean(-1)
    assert grey.max() > 2  # ridges
    assert abs(grey.sum()) < 0.75 * np.abs(grey).sum()
    assert abs(grey.mean()) < 0.005 * np.mean(SKIN)


def test_lines_are_not_ruled(warp: Warp) -> None:
    points, depth, _ = next(s for s in strokes(warp, RAISED) if len(s[0]) > 80)
    line = np.polynomial.Polynomial.fit(points[:, 0], points[:, 1], 2)
    assert 0.3 < np.abs(points[:, 1] - line(points[:, 0])).max() < 0.002 * warp.scale
    inner = depth[len(depth) // 4 : -len(depth) // 4]
    assert inner.std() > 0.03 * inner.mean()


def test_only_skin_changes(plain: np.ndarray, warp: Warp, light: Tensor) -> None:
    x, top, bottom = int(warp.points[9, 0]), *(int(warp.points[i, 1]) for i in (10, 9))
    photo = plain.copy()
    photo[top - 60 : bottom, :x] = HAIR  # a fringe over the right half of the forehead
    bare, fringed = (shade_wrinkles(p, p, IDENTITY, warp, RAISED, light) != p for p in (plain, photo))
    assert bare[top:bottom, :x].sum() > 1000
    assert not fringed[: bottom - 8, : x - 8].any()
    assert fringed[top:bottom, x:].sum() > 0.7 * bare[top:bottom, x:].sum()


def test_lines_that_are_there_are_not_drawn_again(plain: np.ndarray, warp: Warp, light: Tensor) -> None:
    waves = 1 + 0.16 * np.sin(2 * np.pi * np.arange(GRID) / (0.005 * warp.scale))
    lined = (plain * waves[:, None, None]).round().clip(0, 255).astype(np.uint8)
    smooth, rough = (
        np.abs(shade_wrinkles(p, p, IDENTITY, warp, RAISED, light) - p.astype(float)).sum() for p in (plain, lined)
    )
    assert rough < 0.5 * smooth


def test_dark_skin_gets_the_same_share_of_shade(warp: Warp, light: Tensor, plain: np.ndarray) -> None:
    dark = (plain * 0.4).astype(np.uint8)
    shares = [(shade_wrinkles(p, p, IDENTITY, warp, RAISED, light) / p)[..., 1].min() for p in (plain, dark)]
    assert shares[0] < 0.95 and shares[1] == pytest.approx(shares[0], abs=0.02)


def test_clipped_skin_gets_no_shade(warp: Warp, light: Tensor, plain: np.ndarray) -> None:
    """What is lighter than white stays white in a shade; nearer to usual skin shade comes in smoothly."""
    changes = []
    for skin in ((255, 255, 255), (255, 253, 250), (255, 255, 190), (255, 246, 225), (250, 225, 200), SKIN):
        photo = np.full_like(plain, skin)
        changes.append((shade_wrinkles(photo, photo, IDENTITY, warp, ANGER, light) / photo)[..., 1].min())
    assert changes[:3] == [1, 1, 1]
    assert 0.97 > changes[3] > changes[4] > changes[5] - 0.01


def test_wrinkles_of_a_blurred_photo_are_blurred(warp: Warp, light: Tensor, plain: np.ndarray) -> None:
    sharp, soft = (shade_wrinkles(plain, plain, IDENTITY, replace(warp, blur=blur), RAISED, light) / plain
                   for blur in (0.0, 8.0))  # fmt: skip
    slope = lambda shade: np.abs(np.diff(shade[..., 1], axis=0)).max()
    assert slope(sharp) > 4 * slope(soft) > 0
    assert (1 - soft).sum() == pytest.approx((1 - sharp).sum(), rel=0.3)


def test_a_grey_photo_stays_grey(warp: Warp, light: Tensor) -> None:
    grey = np.full((GRID, GRID, 3), 170, np.uint8)
    shaded = shade_wrinkles(grey, grey, IDENTITY, warp, ANGER, light)
    assert shaded.min() < 160
    assert np.ptp(shaded, axis=-1).max() == 0


def test_a_side_that_is_turned_away_gets_nothing(warp: Warp, light: Tensor) -> None:
    middle = int(warp.points[9, 0])
    normal = warp.normal.copy()
    normal[:, :middle] = (-1, 0, 0)
    turned = replace(warp, normal=normal)
    before, after = (np.abs(field_of(w, ANGER | RAISED, light)) for w in (warp, turned))
    edge = int(0.015 * warp.scale)  # what the other side's lines throw across the middle
    assert before[:, : middle - edge].max() > 0.1
    assert not after[:, : middle - edge].any()
    assert after[:, middle + edge :].max() > 0.1


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_photo_of_another_size_gets_the_same_wrinkles(
    warp: Warp, light: Tensor, astronaut: np.ndarray, astronaut_face: EncodedFace, ratio: float
) -> None:
    matrix = astronaut_face.grid_matrix(GRID)
    size = round(ratio * len(astronaut))
    other = cv2.resize(astronaut, (size, size), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    scaled = np.column_stack([matrix[:, :2] / ratio, matrix[:, 2]])
    change = lambda photo, m: shade_wrinkles(photo, photo, m, warp, ANGER, light) - photo.astype(np.float32)
    small, large = (cv2.resize(c, (256, 256), interpolation=cv2.INTER_AREA).mean(-1)
                    for c in (change(astronaut, matrix), change(other, scaled)))  # fmt: skip
    assert small.min() < -8
    assert np.abs(large - small).max() < -0.35 * small.min()
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_the_pipeline_shades_its_edits_and_zero_switches_it_off(
    pipe: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path
) -> None:
    assert pipe.config.wrinkles == 1.0
    EmoRigPipeline(pipe.head, pipe.encoder, wrinkles=0.0).save_pretrained(tmp_path)
    off = EmoRigPipeline.from_pretrained(tmp_path)
    assert off.config.wrinkles == 0.0
    on = EmoRigPipeline(pipe.head, pipe.encoder)
    (with_them,), (without,) = (p(hopper, "fear", output_type="np").images for p in (on, off))
    change = np.abs(with_them.astype(int) - without).max(-1)
    x0, y0, x1, y1 = map(int, pipe.encode(hopper)[0].face.box)
    assert 4 < change.max() < 80
    assert not change[:y0].any() and not change[y1:].any() and not change[:, :x0].any() and not change[:, x1:].any()
    assert (change == 0).mean() > 0.9


@pytest.mark.parametrize("depth", [-0.1, float("nan")])
def test_a_depth_below_zero_is_refused(pipe: EmoRigPipeline, depth: float) -> None:
    with pytest.raises(ValueError, match="wrinkles is"):
        EmoRigPipeline(pipe.head, pipe.encoder, wrinkles=depth)
