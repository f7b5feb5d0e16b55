"""What is painted over a moved face, and how it returns into the photo."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from plain_faces import GRID, IDENTITY, SIZE, make_warp
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting import photo_texture
from emorig_diffusers.painting.stages.composite import (
    LIGHT_RANGE,
    Plan,
    add_change,
    close_up,
    finish,
    mouth_changes,
    mouth_share,
    plan,
    soften,
)
from emorig_diffusers.painting.stages.flow import Warp, move_pixels
from emorig_diffusers.painting.stages.inpaint import paint_mouth, regions
from emorig_diffusers.painting.stages.mouth_light import find_teeth_light
from emorig_diffusers.photo.resample import invert, transform_points, warp_crop

# plan


def test_nothing_is_repainted_on_a_still_face(still: Warp, fine: np.ndarray) -> None:
    chosen = plan(still, fine, SIZE)
    assert not mouth_changes(still)
    assert not chosen.network_mask.any() and not chosen.mouth.any()
    assert not chosen.skin.any() and not chosen.inside.any()
    assert not np.asarray(chosen.picture()).any()
    torch.testing.assert_close(chosen.base, to_tensor(cv2.resize(fine, (SIZE, SIZE), interpolation=cv2.INTER_AREA)))


def to_tensor(crop: np.ndarray) -> Tensor:
    return torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def test_an_opened_mouth_is_repainted(opened: Warp, fine: np.ndarray) -> None:
    assert mouth_changes(opened)
    chosen = plan(opened, move_pixels(fine, IDENTITY, opened), SIZE)
    for name, channels in {"base": 3, "normal": 3, "albedo": 3, "network_mask": 1, "mouth": 1}.items():
        assert getattr(chosen, name).shape == (1, channels, SIZE, SIZE), name
    assert set(chosen.network_mask.unique().tolist()) == set(chosen.mouth.unique().tolist()) == {0, 1}
    assert not (chosen.mouth * (1 - chosen.network_mask)).any()
    x, y = ((opened.points[13] + opened.points[14]) / 4).astype(int)
    assert chosen.mouth[0, 0, y, x] == 1 and chosen.inside[2 * y, 2 * x] == 1 and chosen.drawn.shape == (GRID, GRID, 3)
    outside = (chosen.network_mask == 0)[0, 0].numpy() & (chosen.skin == 0)
    assert torch.equal(chosen.base[0][:, outside], to_tensor(chosen.moved)[0][:, outside])
    for soft in (chosen.skin, chosen.inside):
        assert soft.min() >= 0 and soft.max() <= 1 + 1e-6
    taken = chosen.skin + cv2.resize(chosen.inside, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert taken.max() <= 1 + 1e-6
    # all that the network paints is taken, and hardly more
    painted = chosen.network_mask[0, 0].numpy() > 0
    assert taken[painted].min() > 0.4
    assert not taken[~binary_dilation(painted, iterations=14) & ~small(opened.hole)].any()
    picture = np.asarray(chosen.picture())
    assert picture.dtype == np.uint8 and picture[y, x] == 255 and picture[0, 0] == 0


def small(mask: np.ndarray) -> np.ndarray:
    return binary_dilation(mask[::2, ::2], iterations=14)


def test_cheeks_that_fold_keep_the_photos_skin(smiling: Warp, fine: np.ndarray) -> None:
    """The network is not asked, whatever the mouth does: the moved photo stays, for the wrinkles to shade."""
    chosen = plan(smiling, fine, SIZE)
    cheeks = regions(smiling).folds[::2, ::2] & (chosen.network_mask == 0)[0, 0].numpy()
    assert cheeks.sum() > 0.9 * regions(smiling).folds[::2, ::2].sum()
    assert (chosen.skin[cheeks] > 0).mean() < 0.1  # where lips that part leave a hole
    assert torch.equal(chosen.base[0][:, cheeks], to_tensor(chosen.moved)[0][:, cheeks])


def test_cheeks_that_unfold_are_painted_by_the_share_that_is_asked_for(smiling: Warp, fine: np.ndarray) -> None:
    folds = regions(smiling).folds[::2, ::2]
    whole, half = (plan(smiling, fine, SIZE, (share, 0.0)) for share in (1.0, 0.5))
    assert whole.network_mask[0, 0].numpy()[folds].mean() < 0.1  # it would put folds of its own there
    assert torch.equal(whole.network_mask, half.network_mask) and torch.equal(whole.base, half.base)
    assert whole.skin[folds].mean() > 0.8
    hole = whole.skin == half.skin
    np.testing.assert_allclose(half.skin[~hole], np.maximum(whole.skin / 2, plan(smiling, fine, SIZE).skin)[~hole])
    assert (~hole & folds).sum() > 0.9 * folds.sum()


def test_an_open_mouth_that_stays_as_it_is(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace, fine: np.ndarray
) -> None:
    warp = make_warp(pipe, astronaut_face, browInnerUp=0.8)
    assert warp.mouth.sum() > 300 and warp.motion.any()
    chosen = plan(warp, fine, SIZE)
    for mask in (chosen.mouth, chosen.network_mask, torch.from_numpy(chosen.inside)):
        assert not mask.any()


# finish


def blob(centre: tuple[int, int], radius: int) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    soft = cv2.GaussianBlur((np.hypot(x - centre[0], y - centre[1]) < radius).astype(np.float32), (0, 0), 2)
    return np.where(soft < 0.02, 0, soft)


def plan_of(moved: np.ndarray, skin: np.ndarray, inside: np.ndarray) -> Plan:
    blank = torch.zeros(1, 3, SIZE, SIZE)
    drawn = np.full((SIZE, SIZE, 3), 0.5, np.float32)  # as the base, so what the network adds is what arrives
    return Plan(moved, blank, blank, blank, blank[:, :1], blank[:, :1], skin, inside, drawn, IDENTITY)


@pytest.mark.parametrize("zoom", [0.4, 1.0, 2.5])
def test_finish_on_a_turned_and_scaled_face(zoom: float) -> None:
    """A constant change of the skin and a new mouth arrive where the matrix says; the rest stays."""
    rng = np.random.default_rng(0)
    photo = rng.integers(40, 200, (420, 380, 3), np.uint8)
    photo = cv2.GaussianBlur(photo, (0, 0), 3)
    angle = np.radians(35)
    linear = zoom * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([linear, np.array([128, 128]) - linear @ [200, 190]])
    skin, inside = blob((128, 100), 30), blob((140, 170), 15)
    crop = warp_crop(photo, matrix, SIZE)
    chosen = plan_of(crop, skin * (1 - inside), inside)
    painted = to_tensor(crop) + 20 / 127.5
    colour = torch.tensor([0.5, -0.25, 0.1])
    painted = torch.where(torch.from_numpy(inside) > 0, colour.view(3, 1, 1), painted[0])[None].float()
    result = finish(photo, chosen, painted, matrix).astype(int)

    pixels = np.stack(np.meshgrid(np.arange(380) + 0.5, np.arange(420) + 0.5), -1)
    place = transform_points(matrix, pixels)
    reach = np.ceil(1 + zoom).astype(int)
    seen = sample(binary_dilation((skin > 0) | (inside > 0), np.ones((3, 3)), iterations=reach), place)
    assert seen.mean() < 0.6
    assert np.array_equal(result[~seen], photo[~seen])
    whole_skin = sample(binary_erosion((skin > 0.999) & (inside == 0), iterations=reach + 2), place)
    assert whole_skin.sum() > 20
    assert (np.abs((result - photo)[whole_skin] - 20) <= 2).mean() > 0.999
    whole_mouth = sample(binary_erosion(inside > 0.999, iterations=reach), place)
    assert whole_mouth.sum() > 5
    expected = (colour.numpy() + 1) / 2 * 255
    assert np.abs(result[whole_mouth] - expected).max() < 3


def test_the_network_spreads_the_light_in_the_drawn_mouth() -> None:
    """With `light_blur` teeth keep their drawn edges, colour and mean light, and get the network's shade."""
    inside = np.zeros((2 * SIZE, 2 * SIZE), np.float32)
    inside[300:360, 180:340] = 1
    teeth = np.where(np.arange(2 * SIZE) // 8 % 2 > 0, 0.5, 0.2)[None, :, None] * np.ones((2 * SIZE, 1, 3))
    mouth = torch.zeros(1, 1, SIZE, SIZE)
    mouth[..., 150:180, 90:170] = 1
    photo, base = np.full((SIZE, SIZE, 3), 100, np.uint8), torch.full((1, 3, SIZE, SIZE), -0.3)
    chosen = replace(plan_of(photo, np.zeros((SIZE, SIZE)), inside), base=base, mouth=mouth, drawn=teeth,
                     place=2 * IDENTITY)  # fmt: skip
    scaled = lambda factor: (base + 1) * factor - 1
    noise = 0.2 * torch.rand(base.shape, generator=torch.Generator().manual_seed(0)) - 0.1
    middle, identity = (slice(155, 175), slice(100, 160)), np.array([[1.0, 0, 0], [0, 1.0, 0]])
    look = lambda painted: finish(photo, chosen, painted, identity, 3.0)[middle].astype(float)
    drawn = look(base)
    assert np.ptp(drawn) > 50  # the stripes
    lit = look(scaled(1.2) + noise) / drawn
    assert np.median(lit) == pytest.approx(1, abs=0.03) and lit.std() < 0.05
    red = torch.tensor([1.3, 1.0, 1.0]).view(1, 3, 1, 1)
    np.testing.assert_allclose(look(scaled(red)), drawn, atol=4)
    slope = look(scaled(1 + 0.2 * torch.linspace(-1, 1, SIZE) * SIZE / 80)) / drawn
    assert slope[:, -5:].mean() - slope[:, :5].mean() > 0.2 and np.median(slope) == pytest.approx(1, abs=0.05)
    half = torch.where(torch.arange(SIZE) < 130, 0.05, 1.0)
    assert (look(scaled(half)) / drawn)[:, :20].mean() == pytest.approx(LIGHT_RANGE[0], abs=0.03)
    own = finish(photo, chosen, base + 0.2, identity)[middle].astype(float)
    assert np.abs(own - drawn - 0.1 * 255).mean() < 3
    outside = finish(photo, chosen, scaled(half), identity, 3.0)
    assert (outside[:140] == 100).all() and (outside[190:] == 100).all()


# blurred and large photos


def test_soften_blurs_what_is_taken_as_one() -> None:
    """Both together are what a blurred photo shows; a constant stays, and nothing outside the mask is read."""
    mask = np.zeros((64, 64), np.float32)
    mask[20:40, 10:50] = 1
    picture = np.where(mask[..., None] > 0, [[[0.8, 0.5, 0.2]]], np.random.default_rng(0).random((64, 64, 3)))
    same = soften(picture, mask, 0.0)
    assert same[0] is picture and same[1] is mask
    soft, taken = soften(picture, mask, 3.0)
    np.testing.assert_allclose(soft[taken > 0], np.broadcast_to([0.8, 0.5, 0.2], soft[taken > 0].shape), atol=1e-5)
    assert taken.sum() == pytest.approx(mask.sum(), rel=0.02) and taken.max() <= 1
    assert np.abs(np.diff(taken, axis=0)).max() == pytest.approx(1 / (3 * np.sqrt(2 * np.pi)), rel=0.1)
    assert not taken[:8].any() and not taken[52:].any()


def test_a_close_up_is_the_same_mouth_finer(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, opened: Warp
) -> None:
    target = pipe.edit_codes(hopper_face, action_units={"jawOpen": 0.6})
    there, matrix = pipe.grid_vertices(hopper_face, target, GRID), hopper_face.grid_matrix(GRID)
    assert close_up(pipe.texture, opened, there, hopper, matrix) is None  # no more pixels than the grid
    large = cv2.resize(hopper, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    assert close_up(pipe.texture, replace(opened, blur=1.5), there, large, matrix / [6, 6, 1]) is None
    for matrix_of_clip, times in ((matrix / np.linalg.norm(matrix[:, 0]), 2), (2 * matrix, 1)):  # grids of moving faces
        found = close_up(pipe.texture, opened, there, hopper, matrix_of_clip, moving=True)
        assert (found.times if found else 1) == times
    near = close_up(pipe.texture, opened, there, large, matrix / [6, 6, 1])
    assert near is not None and near.times == 4 and len(near.picture) == len(near.warp.mouth)
    np.testing.assert_allclose(transform_points(near.matrix, opened.points), near.warp.points, atol=0.01)
    light = find_teeth_light(opened, warp_crop(hopper, matrix, GRID))
    whole = paint_mouth(opened, light)
    fine = warp_crop(paint_mouth(near.warp, light), invert(near.matrix), GRID)
    inside = binary_erosion(opened.mouth, iterations=2)
    assert inside.sum() > 500 and np.abs(fine - whole)[inside].mean() < 0.02
    assert warp_crop(near.warp.mouth.astype(np.float32), invert(near.matrix), GRID)[inside].min() > 0.9


@pytest.mark.parametrize(("times", "blur"), [(1, 3.0), (6, 0.0)])
def test_nothing_that_is_painted_is_sharper_than_the_photo(
    pipe: EmoRigPipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch, times: int, blur: float
) -> None:
    head = astronaut[30:190, 140:310]
    large = cv2.resize(head, None, fx=times, fy=times, interpolation=cv2.INTER_LANCZOS4)
    photo = cv2.GaussianBlur(large, (0, 0), blur) if blur else large

    def steepest() -> float:
        edited = pipe(photo, "surprise", output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
        changed = np.abs(edited.astype(int) - photo).max(-1) > 8
        mouth = changed & (np.arange(len(photo)) > 0.6 * len(photo))[:, None]
        assert mouth.sum() > 200 * times**2
        return slope(edited)[mouth].max() / slope(photo).max()

    assert steepest() < 1.25
    if blur:
        monkeypatch.setattr(photo_texture, "photo_blur", lambda *_: 0.0)
        assert steepest() > 1.6


def slope(rgb: np.ndarray) -> np.ndarray:
    """Grey levels a pixel [H, W]."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, *axis, ksize=3, scale=0.125) for axis in ((1, 0), (0, 1))))


def sample(mask: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Mask [S, S] at places [H, W, 2] of the crop; False outside."""
    x, y = np.floor(place).astype(int).transpose(2, 0, 1)
    inside = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
    return inside & mask[np.clip(y, 0, SIZE - 1), np.clip(x, 0, SIZE - 1)]


def test_finish_keeps_the_photos_detail_on_skin() -> None:
    """A photo much finer than the crop keeps its pores where the network changes the skin's shade."""
    photo = np.random.default_rng(1).integers(90, 150, (1024, 1024, 3), np.uint8)
    matrix = np.array([[0.25, 0, 0], [0, 0.25, 0]])
    crop = warp_crop(photo, matrix, SIZE)
    chosen = replace(plan_of(crop, blob((128, 128), 60), np.zeros((SIZE, SIZE))), base=to_tensor(crop))
    result = finish(photo, chosen, to_tensor(crop) + 30 / 127.5, matrix)
    middle = (slice(400, 624),) * 2
    np.testing.assert_allclose(result[middle].astype(int) - photo[middle], 30, atol=1)


def test_finish_without_a_plan_changes_nothing() -> None:
    photo = np.random.default_rng(2).integers(0, 256, (100, 120, 3), np.uint8)
    nothing = np.zeros((SIZE, SIZE))
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    result = finish(photo, plan_of(crop, nothing, nothing), torch.rand(1, 3, SIZE, SIZE), IDENTITY)
    assert np.array_equal(result, photo)


def test_every_grey_level_survives_a_zero_change() -> None:
    photo = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    skin = np.zeros((SIZE, SIZE))
    skin[200:, 200:] = 1
    result = finish(photo, plan_of(np.zeros((SIZE, SIZE, 3), np.uint8), skin, skin * 0),
                    torch.ones(1, 3, SIZE, SIZE), IDENTITY)  # fmt: skip
    assert np.array_equal(result, photo)


def test_add_change_meets_pixel_centres() -> None:
    change = np.zeros((SIZE, SIZE, 3), np.float32)
    change[100, 60] = 0.9
    matrix = np.array([[0.5, 0, 7], [0, 0.5, -3]])  # the crop is half as fine as the photo
    result = add_change(np.zeros((300, 300, 3), np.uint8), change, matrix)[..., 0].astype(float)
    y, x = np.mgrid[:300, :300] + 0.5
    centre = np.array([(x * result).sum(), (y * result).sum()]) / result.sum()
    np.testing.assert_allclose(centre, transform_points(invert(matrix), np.array([60.5, 100.5])), atol=0.05)
    assert result.sum() == pytest.approx(4 * 0.9 * 255, rel=0.05)


@pytest.mark.parametrize("shift", [(-100, 10), (60, -150), (5000, 0)])
def test_add_change_beside_the_photo(shift: tuple[int, int]) -> None:
    """A face at the photo's border: what lies outside is dropped, what lies inside arrives."""
    photo = np.full((200, 220, 3), 100, np.uint8)
    matrix = np.array([[1.0, 0, shift[0]], [0, 1.0, shift[1]]])
    result = add_change(photo, np.full((SIZE, SIZE, 3), 51.8 / 255), matrix)
    x, y = (np.arange(n) + 0.5 + s for n, s in zip((220, 200), shift, strict=True))
    inside = ((x > 1) & (x < SIZE - 1))[None] & ((y > 1) & (y < SIZE - 1))[:, None]
    outside = ((x < -1) | (x > SIZE + 1))[None] | ((y < -1) | (y > SIZE + 1))[:, None]
    assert inside.any() == (shift[0] < 5000)
    assert (result[inside] == 152).all()
    assert (result[outside] == 100).all()


@pytest.mark.parametrize("share, anew", [(1.45, False), (1.0, False), (0.85, False), (0.6, True), (0.1, True)])
def test_teeth_stay_the_photos_unless_lips_come_far_over_them(
    still: Warp, opened: Warp, share: float, anew: bool
) -> None:
    shut, wide = still.points, opened.points
    half = shut + 0.5 * (wide - shut)
    lips = replace(opened, hole=np.zeros_like(opened.hole), source_points=half, points=shut + share * (half - shut))
    assert mouth_changes(lips) == anew
    assert (mouth_share(lips) > 0) == anew
