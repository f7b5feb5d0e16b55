"""What an edit adds to frames leaves speech, blinks and the person's own expressions in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.gaze import eye_turns
from emorig_diffusers.face.light import relit
from emorig_diffusers.face.relax import lip_gaps
from emorig_diffusers.photo.landmarks import LIDS, lip_distance
from emorig_diffusers.pipelines.request import EditRequest
from emorig_diffusers.video.change import Change, speaking


def showing(pipe: EmoRigPipeline, face: EncodedFace, **units: float) -> EncodedFace:
    """The face with other amounts of some units."""
    expression, names = face.codes.expression.clone(), pipe.head.config.expression_names
    for unit, amount in units.items():
        for i, name in enumerate(names):
            if name in (unit, unit + "Left", unit + "Right"):
                expression[0, i] += amount
    return replace(face, codes=face.codes.with_(expression=expression))


def change(pipe: EmoRigPipeline, face: EncodedFace, emotion: str, **given: object) -> Change:
    return Change(pipe, face, EditRequest(emotion=emotion, **given))


def unit(pipe: EmoRigPipeline, codes: object, name: str) -> float:
    return codes.expression[0, pipe.head.config.expression_names.index(name)].item()


def test_rest_gets_what_a_photo_would(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    request = EditRequest(emotion="surprise")
    target = change(pipe, hopper_face, "surprise").codes(hopper_face, 1.0, 0.0, 0.0)
    assert torch.allclose(target.expression, pipe.edit(hopper_face, request).expression, atol=0.02)
    assert change(pipe, hopper_face, "surprise").codes(hopper_face, 0.0, 0.0, 0.0) is hopper_face.codes


@pytest.mark.parametrize("emotion", ["happy", "surprise", "disgust"])
def test_lips_that_speak_keep_their_distance(pipe: EmoRigPipeline, hopper_face: EncodedFace, emotion: str) -> None:
    edit = change(pipe, hopper_face, emotion)
    gap = lambda codes: lip_gaps(pipe.head, codes, hopper_face.offsets).mean().item()
    for jaw in (0.0, 0.2, 0.4):
        frame = showing(pipe, hopper_face, jawOpen=jaw)
        assert gap(edit.codes(frame, 1.0, 1.0, 0.0)) == pytest.approx(gap(frame.codes), abs=6e-4)  # metres
    silent = edit.codes(hopper_face, 1.0, 0.0, 0.0)
    assert gap(silent) > gap(hopper_face.codes) + 0.001


def test_shut_eyes_stay_shut_under_a_look_of_surprise(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    edit = change(pipe, hopper_face, "surprise")
    landmarks = hopper_face.face.landmarks.copy()
    for lids in LIDS:
        landmarks[list(lids[1:8])] = landmarks[list(lids[:8:-1])]
    shut = replace(hopper_face, face=replace(hopper_face.face, landmarks=landmarks))
    wide = [unit(pipe, edit.codes(face, 1.0, 0.0, 0.0), "eyeWideLeft") for face in (hopper_face, shut)]
    own = unit(pipe, hopper_face.codes, "eyeWideLeft")
    assert wide[0] > own + 0.5 and wide[1] == pytest.approx(own, abs=0.02)


def test_own_smile_adds_to_the_smile_asked_for_but_half(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    edit = change(pipe, hopper_face, "happy")
    amounts = np.linspace(0, 1.5, 7)
    frames = [showing(pipe, hopper_face, mouthSmile=a) for a in amounts]
    shown = np.array([unit(pipe, edit.codes(frame, 1.0, 0.0, 0.0), "mouthSmileLeft") for frame in frames])
    own = np.array([unit(pipe, frame.codes, "mouthSmileLeft") for frame in frames])
    assert (shown >= own - 1e-5).all()  # a laugh stays
    assert np.diff(shown)[0] == pytest.approx(0.5 * np.diff(own)[0], abs=0.01)
    assert shown[-1] == pytest.approx(own[-1], abs=0.01)


def test_covered_mouth_and_a_share_are_approached_without_a_jump(
    pipe: EmoRigPipeline, hopper_face: EncodedFace
) -> None:
    edit = change(pipe, hopper_face, "happy")
    for codes in (
        [edit.codes(hopper_face, 1.0, 0.0, hidden) for hidden in np.linspace(0, 1, 9).tolist()],
        [edit.codes(hopper_face, share, 0.0, 0.0) for share in np.linspace(0, 1, 9).tolist()],
        [edit.codes(hopper_face, 1.0, speech, 0.0) for speech in np.linspace(0, 1, 9).tolist()],
    ):
        steps = torch.stack([b.expression - a.expression for a, b in zip(codes, codes[1:])]).abs().amax((1, 2))
        assert steps.max() < 0.15
    hidden = edit.codes(hopper_face, 1.0, 0.0, 1.0)
    assert unit(pipe, hidden, "mouthSmileLeft") == unit(pipe, hopper_face.codes, "mouthSmileLeft")


def test_gaze_is_added_to_where_a_frame_looks(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    edit = Change(pipe, hopper_face, EditRequest(gaze=(20, 0)))
    for share in (0.5, 1.0):
        after = edit.codes(hopper_face, share, 1.0, 1.0)
        moved = after.expression - hopper_face.codes.expression
        turns = eye_turns(dict(zip(pipe.head.config.expression_names, moved[0].tolist())))
        assert turns == [pytest.approx((20 * share, 0), abs=1e-4)] * 2


def test_light_turns_on_from_each_frame(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    edit = Change(pipe, hopper_face, EditRequest(light_turn=(40, 0), light_strength=1.5))
    frame = replace(hopper_face, codes=hopper_face.codes.with_(light=hopper_face.codes.light.flip(-1)))
    for face in (hopper_face, frame):
        whole, half = (edit.codes(face, share, 0.0, 0.0).light for share in (1.0, 0.5))
        assert torch.equal(whole, relit(face.codes, face.codes, (40, 0), 1.5).light)
        assert torch.equal(half, relit(face.codes, face.codes, (20, 0), 1.25).light)
    assert torch.equal(edit.codes(frame, 0.0, 0.0, 0.0).light, frame.codes.light)


def test_turn_goes_as_far_as_a_frame_can_show(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    edit = Change(pipe, hopper_face, EditRequest(rotate=(25, 0, 0)))
    turned = edit.codes(hopper_face, 1.0, 0.0, 0.0)
    away = replace(hopper_face, codes=hopper_face.codes.with_(pose=turned.pose))
    further = edit.codes(away, 1.0, 0.0, 0.0)
    pipe.painter.check_target(away.codes, further)
    first, second = (np.degrees((b - a)[0, 1].item()) for a, b in ((hopper_face.codes.pose, turned.pose),
                                                                  (turned.pose, further.pose)))  # fmt: skip
    assert first > 20 and 5 < second < first


def test_speech_is_told_by_lips_that_move_and_sets_in_smoothly(hopper_face: EncodedFace) -> None:
    closed = lip_distance(hopper_face.face.landmarks)
    assert abs(closed) < 0.05
    times = np.arange(60) / 25
    opened = closed + np.where(
        times > 1, 0.15 * (1 - np.cos(2 * np.pi * 4 * (times - 1))), 0
    )  # four syllables a second
    shown = [speaking([(t - now, d) for t, d in zip(times, opened) if abs(t - now) < 0.5]) for now in times]
    assert max(shown[:12]) == 0 and min(shown[25:50]) == 1
    assert np.abs(np.diff(shown)).max() < 0.3
    trembling = [(t - 1, closed + 0.02 * (i % 2)) for i, t in enumerate(times)]
    assert speaking(trembling) == 0 and speaking([]) == 0
