"""Gaze: angles as units of each eye and back, and where a photo's eyes look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import action_unit_offset
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.gaze import MAX_GAZE, eye_turns, gaze_at_camera, gaze_units, look_direction, turned_look
from emorig_diffusers.photo.landmarks import IRISES


def turns(amounts: dict[str, float], names: tuple[str, ...]) -> list[tuple[float, float]]:
    return eye_turns(dict(zip(names, action_unit_offset(amounts, names).tolist())))


@pytest.mark.parametrize("gaze", [(12.0, -7.0), (-30.0, 25.0), (30.0, -25.0), (0.0, 10.0)])
def test_both_eyes_turn_by_a_gaze(gaze: tuple[float, float], names: tuple[str, ...]) -> None:
    for turn in turns(gaze_units(gaze), names):
        assert turn == pytest.approx(gaze, abs=1e-4)


def test_each_eye_turns_by_itself(names: tuple[str, ...]) -> None:
    still = pytest.approx((0, 0), abs=1e-6)
    assert turns({"R61": 0.5}, names) == [pytest.approx((15, 0)), still]
    assert turns({"L62": 0.5}, names) == [still, pytest.approx((-15, 0))]
    assert turns({"L63": 0.4, "R64": 1.0}, names) == [pytest.approx((0, -25)), pytest.approx((0, 10))]
    assert turns({"AU61": 2.0, "AU64": 2.0}, names) == [pytest.approx((MAX_GAZE[0], -MAX_GAZE[1]))] * 2


def test_a_look_turns_to_the_persons_left_and_up() -> None:
    ahead, level = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), torch.zeros(1, 6)
    assert turned_look(ahead, (30, 0), level).tolist() == pytest.approx([0.5, 0, 0.75**0.5], abs=1e-5)
    assert turned_look(ahead, (0, 30), level).tolist() == pytest.approx([0, 0.5, 0.75**0.5], abs=1e-5)
    rolled = torch.tensor([[0.0, 0.0, np.pi / 2, 0, 0, 0]])  # the person's left is up in the picture
    assert turned_look(ahead, (30, 0), rolled).tolist() == pytest.approx([0, 0.5, 0.75**0.5], abs=1e-5)


def test_eyes_that_look_past_the_camera_are_brought_back(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    codes = hopper_face.codes
    residual = hopper_face.residual.copy()
    residual[list(IRISES), 0] += 0.003 * float(codes.camera[0, 0])  # 3 mm to the person's left
    aside = replace(hopper_face, residual=residual)
    assert look_direction(aside)[0] > look_direction(hopper_face)[0] + 0.3
    yaw, pitch = gaze_at_camera(aside, codes.pose)
    assert -30 <= yaw < -15 and pitch == 0
    assert abs(turned_look(look_direction(aside), (yaw, 0), torch.zeros(1, 6))[0]) < 0.05
    turned = pipe.edit_codes(hopper_face, rotate=(20, 0, 0), gaze="camera")  # the eyes stay on it as the head turns
    change = dict(zip(pipe.head.config.expression_names, (turned.expression - codes.expression)[0].tolist()))
    straight = gaze_at_camera(hopper_face, codes.pose)[0]
    assert eye_turns(change)[0][0] == pytest.approx(straight - 20, abs=6)


def test_a_look_at_the_camera_is_left_alone(hopper_face: EncodedFace) -> None:
    residual, pose = hopper_face.residual.copy(), hopper_face.codes.pose
    past = look_direction(hopper_face)
    residual[list(IRISES), 0] -= float(past[0]) * 0.0097 * 0.7 * float(hopper_face.codes.camera[0, 0])
    assert gaze_at_camera(replace(hopper_face, residual=residual), pose) == (0, 0)


def test_an_emotion_after_a_gaze_leaves_the_eyes_where_they_are(
    pipe: EmoRigPipeline, hopper_face: EncodedFace, names: tuple[str, ...]
) -> None:
    turned = lambda codes: eye_turns(dict(zip(names, (codes.expression - hopper_face.codes.expression)[0].tolist())))
    aside = pipe.edit_codes(hopper_face, gaze=(20, -10))
    later = pipe.edit_codes(hopper_face, "happy", start=aside)
    assert turned(later) == [pytest.approx((20, -10), abs=1e-3)] * 2
    assert (later.expression - aside.expression).abs().max() > 0.3
    back = pipe.edit_codes(hopper_face, gaze="camera", start=aside)
    assert turned(back)[0][0] == pytest.approx(turned(pipe.edit_codes(hopper_face, gaze="camera"))[0][0], abs=1e-3)
