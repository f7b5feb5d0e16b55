"""Eyes that a photo shows shut stay skin, and a reference's shut eyes shut those of the face that they are lent to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.landmarks import LIDS, outline_height
from emorig_diffusers.photo.masks import fill_polygon
from emorig_diffusers.photo.resample import align, transform_points, warp_crop

SIDE = 512  # pixels of the aligned crop on which eyes are compared
SHADE = 23.5  # grey levels by which raised brows may lighten or darken a lid; an iris painted on it does by 24 or more
Edit = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def edited(pipe: EmoRigPipeline) -> Edit:
    """A photo's edit as an array; arguments as for the pipeline."""
    seed = lambda: torch.Generator().manual_seed(0)
    return lambda photo, **edits: pipe(photo, **edits, output_type="np", generator=seed()).images[0]


@pytest.fixture(scope="module")
def shut(edited: Edit, astronaut: np.ndarray) -> dict[str, np.ndarray]:
    """The astronaut with her left eye shut, and with both."""
    return {"wink": edited(astronaut, action_units={"L43": 1.0}), "both": edited(astronaut, action_units={"AU43": 1.0})}


@pytest.fixture(scope="module")
def eyes(astronaut_face: EncodedFace) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Grey levels [N] where the astronaut's right and left eye are open in her photo, of an edit of it."""
    matrix = align(astronaut_face.face.landmarks, SIDE)
    points = transform_points(matrix, astronaut_face.face.landmarks[:, :2])
    masks = [fill_polygon((SIDE, SIDE), points[list(outline)]) for outline in LIDS]
    return lambda photo: [warp_crop(photo, matrix, SIDE)[mask].mean(-1) for mask in masks]


def opened(pipe: EmoRigPipeline, photo: np.ndarray) -> list[float]:
    """Heights of the openings of the person's right and left eye as they are read from a photo, in their widths."""
    points = pipe.encode(photo)[0].face.landmarks[:, :2]
    return [outline_height(points[list(outline)]) for outline in LIDS]


def test_shut_eyes_are_read_from_a_photo(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace, hopper_face: EncodedFace, shut: dict[str, np.ndarray]
) -> None:
    assert astronaut_face.shut_eyes == hopper_face.shut_eyes == (False, False)
    assert pipe.encode(shut["wink"])[0].shut_eyes == (False, True)
    assert pipe.encode(shut["both"])[0].shut_eyes == (True, True)


@pytest.mark.parametrize("photo", ["wink", "both"])
@pytest.mark.parametrize("emotion", ["surprise", "fear"])
def test_wide_eyes_paint_nothing_on_a_shut_lid(
    pipe: EmoRigPipeline, edited: Edit, shut: dict[str, np.ndarray], eyes: Callable, photo: str, emotion: str
) -> None:
    result = edited(shut[photo], emotion=emotion)
    before, after = eyes(shut[photo]), eyes(result)
    for side in (1,) if photo == "wink" else (0, 1):
        assert np.abs(np.sort(after[side]) - np.sort(before[side])).max() < SHADE
    if photo == "wink":
        assert opened(pipe, result)[0] > 1.15 * opened(pipe, shut["wink"])[0]


@pytest.mark.parametrize("units", [{"AU43": -0.5}, {"AU5": 1.0}, {"AU5": 1.0, "AU43": 1.0}], ids=str)
def test_units_of_the_lids_leave_a_shut_eye_alone(
    edited: Edit, shut: dict[str, np.ndarray], eyes: Callable, units: dict[str, float]
) -> None:
    wink = edited(shut["wink"], action_units=units)
    before, after = eyes(shut["wink"]), eyes(wink)
    assert (after[1] == before[1]).all() and np.abs(after[0] - before[0]).mean() > 4
    assert (edited(shut["both"], action_units=units) == shut["both"]).all()


@pytest.mark.parametrize(("reference", "closed"), [("wink", (False, True)), ("both", (True, True))])
def test_shut_eyes_are_lent(
    pipe: EmoRigPipeline, edited: Edit, hopper: np.ndarray, shut: dict[str, np.ndarray], reference: str, closed: tuple
) -> None:
    result = edited(hopper, reference=shut[reference])
    for before, after, is_shut in zip(opened(pipe, hopper), opened(pipe, result), closed):
        assert after < 0.45 * before if is_shut else after > 0.7 * before
    assert pipe.encode(result)[0].shut_eyes == closed
    half = opened(pipe, edited(hopper, reference=shut[reference], intensity=0.5))
    assert all(after > 0.35 * before for before, after in zip(opened(pipe, hopper), half))
