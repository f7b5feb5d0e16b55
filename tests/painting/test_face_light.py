"""facelight.py: the light on a face is measured in any light and behind shades, and brought to usual light and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.face_light import Adaptation, face_light, find_adaptation, linear
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.mouth import ENAMEL
from emorig_diffusers.painting.stages.mouth_light import light_on_teeth
from emorig_diffusers.photo.colour import GAMMA
from emorig_diffusers.photo.landmarks import LIDS
from emorig_diffusers.photo.masks import fill_polygon
from emorig_diffusers.photo.resample import warp_crop

SIZE = 256
LIGHTS = {
    "red": (1.6, 0.25, 0.12), "green": (0.2, 1.1, 0.2), "blue": (0.12, 0.3, 1.8), "magenta": (1.3, 0.2, 1.2),
    "cyan": (0.15, 1.0, 1.1), "dim blue": (0.02, 0.05, 0.3), "blue alone": (0.0, 0.01, 1.5),
}  # fmt: skip
SHADES = {"black": (10, 10, 14), "blue": (60, 110, 220), "silver": (190, 195, 200), "green": (30, 160, 60)}


@pytest.fixture(scope="module", params=["hopper", "astronaut"])
def portrait(request: pytest.FixtureRequest, pipe: EmoRigPipeline) -> tuple[Warp, np.ndarray]:
    """A face that does not move, and its crop."""
    face: EncodedFace = request.getfixturevalue(f"{request.param}_face")
    vertices = pipe.grid_vertices(face, face.codes, SIZE)
    crop = warp_crop(request.getfixturevalue(request.param), face.grid_matrix(SIZE), SIZE)
    return pipe.texture.warp(vertices, vertices, SIZE), crop


def lit(crop: np.ndarray, light: object) -> np.ndarray:
    """A crop in another light [3] or scalar, linear; clipped and rounded as cameras do."""
    return encoded(linear(crop) * np.float32(light))


def encoded(colours: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(colours, 0, 1) ** (1 / GAMMA)).astype(np.uint8)


def teeth(warp: Warp, crop: np.ndarray) -> np.ndarray:
    """Grey levels [3] of painted teeth in a crop's light."""
    adaptation = find_adaptation(crop, warp.points) or Adaptation(np.eye(3), np.ones(3))
    usual = (ENAMEL * light_on_teeth(warp, adaptation(crop))) ** (1 / GAMMA)
    return np.clip(255 * adaptation.undo(usual), 0, 255)


def covered(warp: Warp, crop: np.ndarray, colour: tuple[int, ...], eyes: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """A crop with a lens before some of the eyes."""
    crop = crop.copy()
    for eye in eyes:
        opening = warp.points[list(LIDS[eye])]
        (x, y), width = opening.mean(0), np.linalg.norm(opening[8] - opening[0])
        crop[int(y - 0.6 * width) : int(y + 0.75 * width), int(x - 0.8 * width) : int(x + 0.8 * width)] = colour
    return crop


def hue(colour: np.ndarray) -> np.ndarray:
    """a and b of Lab."""
    return cv2.cvtColor(np.float32([[colour / 255]]), cv2.COLOR_RGB2LAB)[0, 0, 1:]


def test_usual_light_is_left_alone(portrait: tuple[Warp, np.ndarray]) -> None:
    warp, crop = portrait
    assert find_adaptation(crop, warp.points) is None
    assert find_adaptation(lit(crop, 0.6), warp.points) is None
    found = face_light(linear(crop), warp.points)
    assert found.trust == 1 and 0.4 < found.level < 2 and 0 < found.white_level < 1


@pytest.mark.parametrize("pigment", [1.0, 0.35])
@pytest.mark.parametrize("stops", [-5, -4, -3, -2, -1])
def test_teeth_do_not_glow_in_dim_light(portrait: tuple[Warp, np.ndarray], stops: int, pigment: float) -> None:
    """At most 1.3 times as light as the lightest of skin and eyes, also on dark skin; but lighter than the skin."""
    warp, crop = portrait
    eyes = np.any([fill_polygon(crop.shape, warp.points[list(lids)]) for lids in LIDS], axis=0)
    dim = lit(np.where(eyes[..., None], crop, lit(crop, pigment)), 2.0**stops)
    hull = cv2.convexHull(warp.points[:468].astype(np.float32))[:, 0]
    level, skin = dim.max(-1), fill_polygon(crop.shape, hull) & ~eyes
    painted, plain = teeth(warp, dim), teeth(warp, crop)
    assert painted.max() <= 1.3 * max(np.quantile(level[skin], 0.99), np.quantile(level[eyes], 0.95)) + 1
    assert painted.mean() > 1.1 * np.median(dim[skin])
    assert np.abs(hue(painted) - hue(plain)).max() < 12


@pytest.mark.parametrize("name", LIGHTS)
def test_teeth_have_the_hue_of_coloured_light(portrait: tuple[Warp, np.ndarray], name: str) -> None:
    warp, crop = portrait
    expected = encoded(linear(np.round(teeth(warp, crop)).astype(np.uint8)) * np.float32(LIGHTS[name]))
    painted = teeth(warp, lit(crop, LIGHTS[name]))
    assert np.linalg.norm(hue(painted) - hue(expected)) < 22  # without adaptation up to 90
    assert 0.7 < painted.max() / expected.max() < 1.4


@pytest.mark.parametrize("name", SHADES)
def test_shades_are_not_taken_for_whites_of_eyes(portrait: tuple[Warp, np.ndarray], name: str) -> None:
    warp, crop = portrait
    hidden = covered(warp, crop, SHADES[name])
    assert face_light(linear(hidden), warp.points).trust < (0.7 if name == "silver" else 0.1)
    np.testing.assert_allclose(teeth(warp, hidden), teeth(warp, crop), rtol=0.16)
    dim = lit(hidden, 2.0**-4)
    np.testing.assert_allclose(teeth(warp, dim), teeth(warp, lit(crop, 2.0**-4)), rtol=0.3)


def test_one_eye_is_enough(portrait: tuple[Warp, np.ndarray]) -> None:
    warp, crop = portrait
    found = [face_light(linear(covered(warp, crop, (0, 0, 0), (eye,))), warp.points) for eye in (0, 1)]
    both = face_light(linear(crop), warp.points)
    assert min(light.trust for light in found) == 1
    for light in found:
        np.testing.assert_allclose(light.white, both.white, rtol=0.5)
        assert light.white_level == pytest.approx(both.white_level, rel=0.5)


def test_clipped_skin_tells_no_cast_and_teeth_are_white(portrait: tuple[Warp, np.ndarray]) -> None:
    warp, crop = portrait
    burnt = lit(crop, 16)
    assert find_adaptation(burnt, warp.points) is None
    assert teeth(warp, burnt).min() > 245
    levels = [teeth(warp, lit(crop, 2.0**stops)).mean() for stops in np.linspace(-4, 4, 17)]
    assert all(after > before - 3 for before, after in zip(levels, levels[1:], strict=False))


def test_there_and_back(portrait: tuple[Warp, np.ndarray]) -> None:
    warp, crop = portrait
    dim = lit(crop, np.float32(LIGHTS["blue"]) / 4)
    adaptation = find_adaptation(dim, warp.points)
    assert adaptation is not None
    usual = adaptation(dim)
    assert usual.dtype == np.uint8 and usual.mean() > 1.1 * dim.mean()
    whole = (usual < 255).all(-1)
    assert np.abs(adaptation.undo(usual.astype(np.float32)) - dim)[whole].max() < 1.5


@pytest.mark.parametrize("level", [0, 255])
def test_where_nothing_is_seen(portrait: tuple[Warp, np.ndarray], level: int) -> None:
    warp, crop = portrait
    blank = np.full_like(crop, level)
    assert find_adaptation(blank, warp.points) is None and np.isfinite(light_on_teeth(warp, blank)).all()
    assert find_adaptation(crop, warp.points + 10 * SIZE) is None
    noise = np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8)
    assert np.isfinite(teeth(warp, noise)).all()


@pytest.mark.parametrize(("stops", "light"), [(-4, (1.0, 1.0, 1.0)), (0, LIGHTS["blue"])])
def test_a_mouth_in_an_edited_photo(
    pipe: EmoRigPipeline, hopper: np.ndarray, stops: int, light: tuple[float, ...]
) -> None:
    """Painted teeth neither glow in a dim photo nor are beige in a blue one."""
    photo = lit(hopper, np.float32(light) * 2.0**stops)
    edited = pipe(photo, "happy", output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
    face = pipe.encode(photo)[0].face
    x0, y0, x1, y1 = map(int, face.box)
    chin = slice((y0 + 2 * y1) // 3, y1), slice(x0, x1)
    before, after = (picture[chin].reshape(-1, 3).astype(int) for picture in (photo, edited))
    assert np.abs(after - before).max() > 6
    assert np.quantile(after, 0.999) <= 1.3 * np.quantile(photo[y0:y1, x0:x1], 0.99)
    if stops == 0:
        new = after[(after - before).max(-1) > 25]
        teeth = new[new.sum(1) >= np.quantile(new.sum(1), 0.9)]
        assert len(teeth) > 100 and np.median(teeth[:, 2] / teeth[:, 0]) > 1.7


def test_lenses_before_the_eyes_get_no_eyes(pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace) -> None:
    """Raised lids paint no whites and irises onto shades."""
    points, photo = hopper_face.face.landmarks[:, :2], hopper.copy()
    for lids in LIDS:
        (x, y), width = points[list(lids)].mean(0), np.linalg.norm(points[lids[8]] - points[lids[0]])
        rows = slice(int(y - 0.65 * width), int(y + 0.75 * width))
        columns = slice(int(x - 0.9 * width), int(x + 0.9 * width))
        photo[rows, columns] = (60, 110, 220)
    edited = pipe(photo, "surprise", output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
    middle = [points[list(lids)].mean(0).astype(int) for lids in LIDS]
    for x, y in middle:
        assert np.ptp(edited[y - 6 : y + 7, x - 10 : x + 11].reshape(-1, 3), axis=0).max() <= 6
