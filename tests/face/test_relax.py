"""A person's own relaxed face: lips that close, lids that meet, a smile that is taken back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from emorig_diffusers import FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.relax import LID_PAIRS, LIPS_CLOSED, LIPS_TOUCH, clamp_lid_gap, relaxed_expression
from emorig_diffusers.face.signs import SMILE, SMILE_SHOWN
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.photo.landmarks import LIP_PAIRS


def gaps(
    head: HeadModel, codes: FaceCodes, expression: Tensor, offsets: Tensor | None = None,
    pairs: Sequence[tuple[int, int]] = LIP_PAIRS,
) -> np.ndarray:  # fmt: skip
    """Openings between pairs of landmarks, of the lips unless told, in metres, seen from the front."""
    points = head.landmarks(head.rest_vertices(codes.shape, expression))[0, :, 1]
    if offsets is not None:  # y down, normalised device coordinates
        points = points - head.landmarks(torch.cat([offsets, offsets[:, :1]], 1)[None])[0, :, 1] / codes.camera[0, 0]
    upper, lower = zip(*pairs, strict=True)
    return (points[list(upper)] - points[list(lower)]).numpy()


@pytest.mark.parametrize("with_offsets", [False, True])
def test_neutral_closes_the_lips(
    head: HeadModel,
    encoder: LandmarkEncoder,
    names: tuple[str, ...],
    astronaut_face: EncodedFace,
    with_offsets: bool,
) -> None:
    codes = astronaut_face.codes
    expression = codes.expression.clone()
    for name, amount in {"jawOpen": 0.6, "mouthLowerDownLeft": 0.4, "mouthLowerDownRight": 0.4}.items():
        expression[0, names.index(name)] += amount
    wide = codes.with_(expression=expression)
    offsets = astronaut_face.offsets if with_offsets else None
    before = gaps(head, wide, expression, offsets)
    relaxed = relaxed_expression(head, wide, encoder.relaxed_range, offsets)
    after = gaps(head, wide, relaxed, offsets)
    assert before.min() > 0.012
    assert after.mean() < LIPS_TOUCH + 0.0003
    assert after.max() < 0.0015
    assert after.min() > -0.002  # the lips do not run through each other
    assert relaxed.shape == (1, 52)
    assert torch.equal(wide.expression, expression)  # the argument is left alone


def test_relaxing_moves_a_jaw_no_more_than_it_must(
    head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...], astronaut_face: EncodedFace
) -> None:
    """A jaw firmer than the range of relaxed faces stays, under closed lips; to close lips it goes part of the way."""
    codes, jaw = astronaut_face.codes, names.index("jawOpen")
    shut = relaxed_expression(head, codes, encoder.relaxed_range)
    shut[0, jaw] = encoder.neutral_low[jaw] - 0.1
    assert gaps(head, codes, shut).max() < LIPS_TOUCH
    torch.testing.assert_close(relaxed_expression(head, codes.with_(expression=shut), encoder.relaxed_range), shut)
    parted = shut.clone()
    parted[0, jaw] += 0.3
    relaxed = relaxed_expression(head, codes.with_(expression=parted), encoder.relaxed_range)
    chin = lambda e: head.landmarks(head.rest_vertices(codes.shape, e))[0, 152, 1].item()
    assert gaps(head, codes, relaxed).mean() - gaps(head, codes, parted).mean() < -0.0015
    assert 0 < chin(relaxed) - chin(parted) < 0.6 * (chin(shut) - chin(parted))


def test_lips_closed_as_landmarks_tell_stay_as_they_are(
    head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...], astronaut_face: EncodedFace
) -> None:
    """Landmarks of closed lips lie up to a millimetre apart: nothing is closed there, and everything where lips are
    parted."""
    codes, jaw = astronaut_face.codes, names.index("jawOpen")
    shut = relaxed_expression(head, codes, encoder.relaxed_range)
    moved = []
    for opening in (0.5 * LIPS_CLOSED[0], 1.5 * LIPS_CLOSED[1]):
        expression = shut.clone()
        while gaps(head, codes, expression).mean() < opening:
            expression[0, jaw] += 0.004
        relaxed = relaxed_expression(head, codes.with_(expression=expression), encoder.relaxed_range)
        moved.append((relaxed - expression).abs().max().item())
    assert moved[0] < 1e-4 and moved[1] > 0.02


@pytest.mark.parametrize("amount", [0.2, 1.5])
def test_lids_do_not_cross(head: HeadModel, names: tuple[str, ...], astronaut_face: EncodedFace, amount: float) -> None:
    codes, offsets = astronaut_face.codes, astronaut_face.offsets
    lids = [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]
    expression = codes.expression.clone()
    expression[0, lids[0]] += amount
    wink = codes.with_(expression=expression)
    settled = clamp_lid_gap(head, codes, wink, offsets)
    right, left = (gaps(head, wink, settled, offsets, pairs).mean() for pairs in LID_PAIRS)
    assert right > 0.004 and torch.equal(settled[0, lids[1]], expression[0, lids[1]])
    if amount < 1:
        assert torch.equal(settled, expression) and left > 0.002
    else:
        assert settled[0, lids[0]] < expression[0, lids[0]] and left == pytest.approx(0, abs=1e-5)
    opened = wink.with_(expression=settled.clone())
    opened.expression[0, lids[0]] -= 0.5
    again = clamp_lid_gap(head, wink.with_(expression=settled), opened, offsets)
    assert torch.equal(again, opened.expression)


@pytest.mark.parametrize("units", [{"eyeWide": 1.0}, {"eyeBlink": -0.5}, {"eyeBlink": 0.7}, {"eyeSquint": 0.8}])
def test_lids_of_a_shut_eye_stay_as_far_apart_as_the_landmarks_are(
    head: HeadModel, names: tuple[str, ...], astronaut_face: EncodedFace, units: dict[str, float]
) -> None:
    codes, offsets = astronaut_face.codes, astronaut_face.offsets
    target = codes.with_(expression=codes.expression.clone())
    for unit, amount in units.items():
        target.expression[0, [names.index(unit + side) for side in ("Right", "Left")]] += amount
    settled = clamp_lid_gap(head, codes, target, offsets, shut=(False, True))
    pairs = dict(zip(("Right", "Left"), LID_PAIRS))
    apart = lambda expression, side: gaps(head, codes, expression, offsets, pairs[side]).mean().item()
    assert apart(settled, "Left") == pytest.approx(apart(codes.expression, "Left"), abs=1e-5)
    assert abs(apart(settled, "Right") - apart(codes.expression, "Right")) > 4e-4
    assert torch.equal(settled[:, names.index("eyeWideLeft")], codes.expression[:, names.index("eyeWideLeft")])


def test_eyes_close_as_far_as_they_are_told_to(
    head: HeadModel, names: tuple[str, ...], astronaut_face: EncodedFace
) -> None:
    codes, offsets = astronaut_face.codes, astronaut_face.offsets
    pairs = dict(zip(("Right", "Left"), LID_PAIRS))
    apart = lambda expression, side: gaps(head, codes, expression, offsets, pairs[side]).mean().item()
    for share in (0.5, 1.0):
        settled = clamp_lid_gap(head, codes, codes, offsets, closing=(share, 0.0))
        wanted = (1 - share) * apart(codes.expression, "Right")
        assert apart(settled, "Right") == pytest.approx(wanted, abs=1e-5)
        assert apart(settled, "Left") == apart(codes.expression, "Left")


def test_a_smile_is_taken_back_on_the_side_that_shows_it(
    head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...], astronaut_face: EncodedFace
) -> None:
    """Less of the smile's units than their range leaves; nothing on a side that does not smile."""
    codes, calm = astronaut_face.codes, torch.zeros(1, 52)
    for unit, amount in (("browOuterUp", -0.4), ("mouthUpperUp", -0.12)):  # as fits read calm faces
        calm[0, [names.index(unit + "Left"), names.index(unit + "Right")]] = amount
    pick = lambda expression, unit: expression[0, names.index(unit)].item()
    for side, other in (("Left", "Right"), ("Right", "Left")):
        shown = calm.clone()
        shown[0, names.index("mouthSmile" + side)] = 0.5
        relaxed = [relaxed_expression(head, codes.with_(expression=e), encoder.relaxed_range) for e in (shown, calm)]
        assert pick(relaxed[0], "mouthSmile" + side) < 0.05
        assert pick(relaxed[0], "mouthPress" + side) < pick(relaxed[1], "mouthPress" + side) - 0.1
        for unit in SMILE:
            assert pick(relaxed[0], unit + other) == pytest.approx(pick(relaxed[1], unit + other), abs=1e-6)
    slight = calm.clone()
    slight[0, [names.index("mouthSmileLeft"), names.index("mouthSmileRight")]] = SMILE_SHOWN[0]
    kept = relaxed_expression(head, codes.with_(expression=slight), encoder.relaxed_range)
    assert pick(kept, "mouthSmileLeft") == pytest.approx(SMILE_SHOWN[0], abs=1e-5)


def test_neutral_of_a_relaxed_face_is_itself(
    head: HeadModel, encoder: LandmarkEncoder, astronaut_face: EncodedFace
) -> None:
    once = relaxed_expression(head, astronaut_face.codes, encoder.relaxed_range)
    twice = relaxed_expression(head, astronaut_face.codes.with_(expression=once), encoder.relaxed_range)
    torch.testing.assert_close(twice, once, atol=0.08, rtol=0)
