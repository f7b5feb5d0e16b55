"""Eyes that look elsewhere: on a drawn eye, and in a photo."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_openings import BLUE, IRIS, SIZE, WHITE, draw, landmarks

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.gaze import EYES_KEPT
from emorig_diffusers.painting.stages.eyeballs import RADIUS
from emorig_diffusers.painting.stages.gaze import CORNEA, TURNING_RADIUS, TurningEye, paint_turned_eye
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.photo.landmarks import IRISES, LIDS

IRIS_PIXELS = RADIUS * 2000  # of the drawn eyes
LENS = 14  # pixels around an eye of the portrait


def turned(photo: np.ndarray, degrees: tuple[float, float], upper: float = 14.0) -> np.ndarray:
    """The first drawn eye turned by (right, down) in the picture [G, G]; its lids stay."""
    x, y = np.sin(np.radians(degrees))
    ahead, aside = np.array([0, 0, 1.0]), np.array([x, y, np.sqrt(1 - x * x - y * y)])
    outline = landmarks(upper, 14)[list(LIDS[0])]
    eye = TurningEye(IRIS[0], IRIS_PIXELS, outline, outline, np.zeros(2), ahead, ahead, aside)
    colour = np.repeat(np.clip(photo, 0, 255).astype(np.uint8)[..., None], 3, 2)
    return paint_turned_eye(colour, colour, eye)[..., 0].astype(float)


def iris_of(picture: np.ndarray) -> tuple[float, float]:
    """Middle x and width of what is as blue as an iris, in rows around the middle of the first eye."""
    x = np.nonzero(np.abs(picture[int(IRIS[0, 1]) - 3 : int(IRIS[0, 1]) + 4, : SIZE // 2] - BLUE).max(0) < 50)[0]
    return (x.min() + x.max() + 1) / 2, float(np.ptp(x) + 1)


@pytest.mark.parametrize("angle", [-20.0, -10.0, 10.0, 20.0])
def test_an_iris_goes_aside_whole_before_white(angle: float) -> None:
    photo = draw(14, 14)
    result = turned(photo, (angle, 0))
    middle, width = iris_of(result)
    wanted = TURNING_RADIUS * IRIS_PIXELS * np.sin(np.radians(angle))
    assert middle - IRIS[0, 0] == pytest.approx(wanted, abs=0.8)
    assert width / iris_of(photo)[1] == pytest.approx(np.cos(np.radians(angle)), abs=0.06)
    left = round(IRIS[0, 0] - 0.5 - np.sign(angle) * (IRIS_PIXELS - 0.5))
    assert np.abs(result[int(IRIS[0, 1]), left] - WHITE) < 30  # where it was
    changed = result != photo
    assert changed.any() and not changed[:, SIZE // 2 :].any()
    rows, columns = np.nonzero(changed)
    assert rows.min() >= IRIS[0, 1] - 14 and rows.max() < IRIS[0, 1] + 14
    assert columns.min() > IRIS[0, 0] - 24 and columns.max() < IRIS[0, 0] + 24


def test_what_a_lid_hides_of_an_iris_is_completed() -> None:
    photo = draw(5, 14)  # a lid before half of the upper half
    result = turned(photo, (0, 20), upper=5)
    x, top = int(IRIS[0, 0]), int(IRIS[0, 1] - 1)
    assert (np.abs(result[top : top + 8, x - 4 : x + 5] - BLUE) < 16).all()


def test_a_reflection_stays_behind_the_iris() -> None:
    photo = draw(14, 14)
    x, y = IRIS[0].astype(int)
    photo[y - 3 : y, x - 2 : x + 1] = 250
    result, shift = turned(photo, (20, 0)), TURNING_RADIUS * IRIS_PIXELS * np.sin(np.radians(20))
    seen = result[y - 3 : y, x - 3 : x + int(shift) + 5].mean(0) - BLUE
    at = (seen * np.arange(-3, int(shift) + 5)).sum() / seen.sum()
    assert seen.max() > 40
    assert at == pytest.approx(CORNEA * shift - 1, abs=0.8)


def painted(pipe: EmoRigPipeline, photo: np.ndarray, face: EncodedFace, **asked: Any) -> np.ndarray:
    return pipe(photo, faces=[face], output_type="np", **asked).images[0]


@pytest.mark.parametrize("gaze", [(25, 0), (-25, 0)])
def test_irises_of_a_photo_are_found_where_they_were_asked(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, gaze: tuple[float, float]
) -> None:
    result, points = painted(pipe, hopper, hopper_face, gaze=gaze), hopper_face.face.landmarks[:, :2]
    found = find_faces(result)[0].landmarks[:, :2]
    radius = np.linalg.norm(points[IRISES[0] + 1] - points[IRISES[0]])
    shift = (found - points)[list(IRISES), 0].mean() / (TURNING_RADIUS * radius * np.sin(np.radians(gaze[0])))
    assert 0.4 < shift < 1.1  # the detector shows some seven tenths of it
    boxes = [cv2.boundingRect(points[list(lids)].astype(np.float32)) for lids in LIDS]
    outside = np.ones(hopper.shape[:2], bool)
    for x, y, width, height in boxes:
        outside[y : y + height, x : x + width] = False
    assert np.array_equal(result[outside], hopper[outside])


def test_lids_follow_a_look_down(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    gap = lambda codes: float(np.diff(pipe.head.landmarks(pipe.pose_head(codes))[0, [145, 159], 1].numpy())[0])
    look = lambda pitch: gap(pipe.edit_codes(hopper_face, gaze=(0, pitch)))
    assert look(-25) < look(-10) - 0.001 < gap(hopper_face.codes) - 0.002 < look(25)


def test_eyes_that_are_not_seen_do_not_turn(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, dark = hopper_face.face.landmarks[:, :2], hopper.copy()
    for lids in LIDS:
        (x0, y0), (x1, y1) = points[list(lids)].min(0).astype(int), points[list(lids)].max(0).astype(int)
        dark[y0 - LENS : y1 + LENS, x0 - LENS : x1 + LENS] = 15
    with pytest.warns(UserWarning, match=EYES_KEPT):
        assert np.array_equal(painted(pipe, dark, hopper_face, gaze=(20, -20)), dark)
    monkeypatch.setattr(EncodedFace, "shut_eyes", property(lambda face: (True, False)))
    with pytest.warns(UserWarning, match=EYES_KEPT):
        wink = painted(pipe, hopper, hopper_face, gaze=(20, 0))
    middle = int(points[6, 0])
    assert np.array_equal(wink[:, :middle], hopper[:, :middle]) and not np.array_equal(wink, hopper)


def test_a_mouth_is_painted_as_without_a_gaze(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    smile = lambda **asked: painted(
        pipe, hopper, hopper_face, emotion="happy", generator=torch.Generator().manual_seed(0), **asked
    )
    plain, aside = smile(), smile(gaze=(20, 0))
    below = int(hopper_face.face.landmarks[[145, 374], 1].max()) + 6
    assert np.array_equal(plain[below:], aside[below:]) and not np.array_equal(plain, aside)
