"""Signs of expressions: each is told from ordinary faces and from the others, and taken back as far as it is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import action_unit_offset, emotion_offset
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.relax import RANGE_MARGIN, relaxed_expression
from emorig_diffusers.face.signs import (
    SIGNS,
    gone_with_smile,
    shown_already,
    shown_signs,
    shown_smile,
    without_signs,
    without_smile,
)
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.photo.resample import warp_crop

# what the fit read in the middle of ordinary photos, and of a person's acted expressions
ORDINARY = {"browDown": 0.36, "browInnerUp": -0.6, "browOuterUp": -0.41, "eyeSquint": 0.38, "eyeWide": -0.05,
            "mouthDimple": 0.11, "mouthFrown": -0.11, "mouthRollLower": -0.31, "mouthRollUpper": 0.51,
            "mouthShrugLower": 0.1, "mouthShrugUpper": -0.14, "mouthSmile": 0.1, "mouthUpperUp": -0.12,
            "noseSneer": 0.22}  # fmt: skip
ACTED = {
    "frown": {"browDown": 0.75, "mouthFrown": 0.0, "mouthSmile": 0.02, "mouthShrugLower": 0.39},
    "raised brows": {"browDown": 0.04, "browOuterUp": 0.11, "mouthPucker": 0.25, "mouthUpperUp": -0.12},
    "sorrow": {"browInnerUp": -0.4, "mouthFrown": 0.14, "mouthShrugLower": 0.5, "browDown": 0.2},
    "disgust": {"browDown": 0.5, "mouthUpperUp": 0.19, "mouthSmile": 0.03},
}
SURPRISED = ORDINARY | {"browOuterUp": 0.11, "eyeWide": 0.29, "jawOpen": 0.35, "mouthRollLower": -0.46,
                        "mouthRollUpper": 0.37}  # fmt: skip


def face(names: tuple[str, ...], **units: float) -> Tensor:
    """ψ [1, E] of an ordinary face with other amounts of some units."""
    return action_unit_offset(ORDINARY | units, names)[None]


@pytest.mark.parametrize("kind", ACTED)
def test_an_expression_is_told_and_an_ordinary_face_shows_none(kind: str, names: tuple[str, ...]) -> None:
    shown = shown_signs(face(names, **ACTED[kind]), names)
    assert shown[kind] > 0.6 and all(share < 0.35 for other, share in shown.items() if other != kind)
    assert not any(shown_signs(face(names), names).values())


def test_squinting_into_the_sun_with_a_smile_is_no_frown(names: tuple[str, ...]) -> None:
    shown = [shown_signs(face(names, browDown=0.75, mouthSmile=smile), names)["frown"] for smile in (0.3, 0.05)]
    assert shown[0] == 0 and shown[1] > 0.5


@pytest.mark.parametrize("kind", SIGNS)
def test_what_is_taken_back_grows_softly_from_the_limit(kind: str, names: tuple[str, ...]) -> None:
    unit, weight = next(iter(SIGNS[kind].reads.items()))
    reads = lambda evidence: action_unit_offset({unit: evidence / weight}, names)[None]
    limit, slope = SIGNS[kind].limit, SIGNS[kind].slope
    shares = [
        shown_signs(reads(limit + more), names)[kind] for more in (-0.3, 0.0, 0.25 / slope, 0.5 / slope, 2 / slope)
    ]
    assert shares == pytest.approx([0, 0, 0.25, 0.5, 1], abs=1e-5)


@pytest.mark.parametrize(("kind", "own", "other"), [("frown", "anger", "surprise"), ("sorrow", "sad", "happy")])
def test_what_an_emotion_asks_for_is_taken_back_only_if_it_is_plain(
    kind: str, own: str, other: str, names: tuple[str, ...]
) -> None:
    """Before its own emotion a doubtful sign would undo the edit."""
    unit, weight = next(iter(SIGNS[kind].reads.items()))
    limit, slope = SIGNS[kind].limit, SIGNS[kind].slope
    asked = {emotion: emotion_offset(emotion, names)[None] for emotion in (own, other)}
    for more, before in ((0.8 / slope, 0.8), (2.5 / slope, 1.0)):
        face = action_unit_offset({unit: (limit + more) / weight}, names)[None]
        shown = {emotion: shown_signs(face, names, change)[kind] for emotion, change in asked.items()}
        assert shown_signs(face, names)[kind] == pytest.approx(before, abs=1e-5)
        assert shown[own] == (0 if before < 1 else 1) and shown[other] > shown[own] - 1e-6
        assert shown[other] == pytest.approx(before, abs=0.15)


def test_an_emotion_is_not_undone_by_a_doubtful_sign(
    pipe: EmoRigPipeline, names: tuple[str, ...], hopper_face: EncodedFace
) -> None:
    """A heavy brow may be a frown or a person's own: anger moves it all the same."""
    expression = hopper_face.codes.expression.clone()
    brow = names.index("browDownLeft")
    frown = SIGNS["frown"]
    evidence = lambda: sum(w * expression[0, names.index(u + "Left")].item() for u, w in frown.reads.items())
    for side in ("Left", "Right"):
        for unit in frown.reads:
            expression[0, names.index(unit + side)] = expression[0, names.index(unit + "Left")]
    low = frown.limit + 0.8 / frown.slope - evidence()
    expression[0, [brow, names.index("browDownRight")]] += low
    face = replace(hopper_face, codes=hopper_face.codes.with_(expression=expression))
    moved = (pipe.edit_codes(face, "anger").expression - expression)[0, brow]
    assert moved > 0.8 * emotion_offset("anger", names)[brow]
    assert (pipe.edit_codes(face, "neutral").expression - expression)[0, brow] < -0.5


def test_a_unit_of_two_expressions_goes_once(names: tuple[str, ...]) -> None:
    none = torch.zeros(1, len(names))
    taken = -without_signs(none, {"raised brows": 1.0, "sorrow": 1.0, "frown": 0.2}, names)[0]
    both = [SIGNS[kind].takes["browInnerUp"] for kind in ("raised brows", "sorrow")]
    assert taken[names.index("browInnerUp")] == pytest.approx(max(both))
    assert taken[names.index("browOuterUpLeft")] == taken[names.index("browOuterUpRight")] == pytest.approx(0.8)


def test_a_calm_mouth_that_is_fitted_unevenly_does_not_smile(names: tuple[str, ...]) -> None:
    uneven = face(names, mouthSmileLeft=-0.02, mouthSmileRight=0.06)  # 0.13 and 0.21
    assert not any(shown_smile(uneven, names).values())
    crooked = face(names, mouthSmileRight=0.3)
    gone = (crooked - without_smile(crooked, shown_smile(crooked, names), names))[0]
    assert gone[names.index("mouthSmileRight")] > 0.3 and abs(gone[names.index("mouthSmileLeft")]) < 1e-6


def test_units_without_names_show_nothing() -> None:
    code = torch.ones(1, 4)
    assert not any(shown_signs(code, ()).values())
    assert torch.equal(without_signs(code, shown_signs(code, ()), ()), code) and not shown_smile(code, ())


@pytest.mark.parametrize(("emotion", "unit"), [("anger", "browDownLeft"), ("surprise", "browOuterUpRight")])
def test_neutral_takes_back_what_brows_do(
    head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...], hopper_face: EncodedFace, emotion: str, unit: str
) -> None:
    """Most of an emotion's brows go, also where they are within the range of relaxed faces."""
    calm = hopper_face.codes.with_(expression=relaxed_expression(head, hopper_face.codes, encoder.relaxed_range))
    acted = calm.with_(expression=calm.expression + emotion_offset(emotion, names))
    relaxed = [relaxed_expression(head, codes, encoder.relaxed_range)[0, names.index(unit)] for codes in (calm, acted)]
    asked = emotion_offset(emotion, names)[names.index(unit)]
    shown = calm.expression[0, names.index(unit)] + asked
    assert shown - relaxed[1] > 0.6 * asked
    assert relaxed[0] == pytest.approx(calm.expression[0, names.index(unit)].item(), abs=0.05)


def test_units_a_little_outside_the_range_stay(
    head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...], hopper_face: EncodedFace
) -> None:
    codes, unit = hopper_face.codes, names.index("eyeSquintLeft")
    low, high = encoder.neutral_low[unit].item(), encoder.neutral_high[unit].item()
    width = RANGE_MARGIN * (high - low)
    for amount, kept in ((low - 0.9 * width, True), (high + 0.9 * width, True), (low - 2 * width, False)):
        expression = relaxed_expression(head, codes, encoder.relaxed_range)
        expression[0, unit] = amount
        relaxed = relaxed_expression(head, codes.with_(expression=expression), encoder.relaxed_range)[0, unit].item()
        assert relaxed == pytest.approx(amount if kept else low, abs=1e-5)


@pytest.mark.parametrize("emotion", ["happy", "surprise", "disgust"])
def test_an_emotion_put_on_its_own_result_changes_little(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, emotion: str
) -> None:
    """More than 35 dB between the first result and the second, where the first is not 30 to the photo."""
    results = [hopper]
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        results.append(pipe(results[-1], emotion, generator=generator, output_type="np").images[0])
    crops = [warp_crop(photo, hopper_face.grid_matrix(256), 256).astype(float) for photo in results]
    first, second = (10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-3)) for a, b in zip(crops, crops[1:]))
    assert first < 30 and second > 35


def test_what_is_shown_already_stays_and_more_of_it_can_be_asked_for(names: tuple[str, ...]) -> None:
    surprised, calm = (action_unit_offset(units, names)[None] for units in (SURPRISED, ORDINARY))
    assert (shown_already("surprise", surprised, names) == 1).all()
    assert (shown_already("surprise", surprised, names, 1.5) < 0.6).all()
    assert not shown_already("surprise", calm, names).any() and not shown_already("sad", surprised, names).any()
    assert not shown_already("surprise", torch.ones(1, 4), ()).any()


def test_a_grin_made_happy_keeps_its_lips(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace, names: tuple[str, ...]
) -> None:
    change = (pipe.edit_codes(astronaut_face, "happy").expression - astronaut_face.codes.expression)[0]
    lips = torch.tensor([name.startswith(("mouth", "jaw")) for name in names])
    assert not change[lips].any() and change[names.index("cheekSquintLeft")] > 0.1
    assert pipe.edit_codes(astronaut_face, {"happy": 1.0}).expression.equal(astronaut_face.codes.expression + change)
    own = EmoRigPipeline(pipe.head, pipe.encoder, emotions={"happy": {"AU12": 1.5, "AU26": 0.5}})
    assert (own.edit_codes(astronaut_face, "happy").expression - astronaut_face.codes.expression)[0, lips].any()


def test_a_mouth_that_a_smile_has_opened_goes_with_the_smile(
    pipe: EmoRigPipeline, names: tuple[str, ...], astronaut_face: EncodedFace
) -> None:
    grin = astronaut_face.codes.expression
    assert min(shown_smile(grin, names).values()) > 0.5
    jaw, lids = names.index("jawOpen"), names.index("cheekSquintLeft")
    for emotion, stays in (("happy", True), ("disgust", False), ({"happy": 0.7, "disgust": 0.3}, True)):
        asked = pipe.emotion_change(emotion)[None, :-3]
        relaxed, _ = pipe.relaxed_face(astronaut_face, asked)
        shown = grin - relaxed
        assert shown[0, jaw] > asked[0, jaw] > 0  # which without a smile would be kept
        gone = gone_with_smile(grin, asked, names)
        assert gone[jaw] == (0 if stays else pytest.approx(min(max(shown_smile(grin, names).values()), 1)))
        assert gone[lids] == 0
    assert gone_with_smile(grin, pipe.emotion_change("fear")[None, :-3], names)[jaw] < 0.3  # asks for it too
    target = pipe.edit_codes(astronaut_face, "disgust").expression
    relaxed, _ = pipe.relaxed_face(astronaut_face, pipe.emotion_change("disgust")[None, :-3])
    share = gone_with_smile(grin, pipe.emotion_change("disgust")[None, :-3], names)[jaw]
    wanted = torch.lerp(grin[0, jaw], relaxed[0, jaw] + pipe.emotion_change("disgust")[jaw], share)
    torch.testing.assert_close(target[0, jaw], wanted)
    calm = face(names, jawOpen=0.4)  # speaks, or gasps
    assert not gone_with_smile(calm, pipe.emotion_change("fear")[None, :-3], names).any()
    assert not gone_with_smile(torch.zeros(1, 2), torch.zeros(1, 2), ("a", "b")).any()
