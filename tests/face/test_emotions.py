"""Emotions, action units and their amounts."""

from __future__ import annotations

import json
import math

import pytest
import torch

from emorig_diffusers import ACTION_UNITS, EMOTIONS
from emorig_diffusers.face.emotions import (
    PARTING,
    RECIPES,
    action_unit_offset,
    blend_expression,
    check_amount,
    check_emotion,
    delay_lip_parting,
    emotion_offset,
    expand_unit,
    mirrored_units,
)
from emorig_diffusers.models.head import HeadModel


def moved(offset: torch.Tensor, names: tuple[str, ...]) -> dict[str, float]:
    return {n: round(float(v), 6) for n, v in zip(names, offset, strict=True) if v != 0}


def test_names_and_order_are_affectnets() -> None:
    assert EMOTIONS == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
    assert tuple(RECIPES) == EMOTIONS


def test_unknown_emotion_lists_the_eight(names: tuple[str, ...]) -> None:
    listed = "neutral, happy, sad, surprise, fear, disgust, anger, contempt"
    for wrong in ("joy", "Happy", ""):
        with pytest.raises(ValueError, match=f"Unknown emotion '{wrong}': choose one of {listed}"):
            check_emotion(wrong)
    with pytest.raises(ValueError, match=listed):
        emotion_offset({"happy": 0.5, "glee": 0.5}, names)
    with pytest.raises(ValueError, match=r"choose one of calm\."):
        check_emotion("happy", {"calm": {}})


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -0.01, 1.51, 1.6, "1", None, True])
def test_wrong_amounts(wrong: object, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^intensity must be a number from 0 to 1\.5, got "):
        check_amount("intensity", wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^The share of happy must be a number from 0 to 1.5"):
        emotion_offset({"happy": wrong}, names)  # type: ignore[dict-item]


def test_right_amounts() -> None:
    assert [check_amount("intensity", v) for v in (0, 0.3, 1, 1.5)] == [0.0, 0.3, 1.0, 1.5]
    assert check_amount("zoom", 9, limit=10) == 9.0


def test_every_unit_exists_in_the_open_head(names: tuple[str, ...]) -> None:
    for unit, parts in ACTION_UNITS.items():
        expanded = expand_unit(unit, names)
        for part, share in parts.items():
            ours = {n: v for n, v in expanded.items() if n in (part, part + "Left", part + "Right")}
            assert len(ours) in (1, 2), f"{unit} {part}"
            assert set(ours.values()) == {share}
    for emotion, recipe in RECIPES.items():
        offset = action_unit_offset(recipe, names)
        assert (offset != 0).any() == (emotion != "neutral")
        assert offset.abs().max() <= 1.2


def test_emotions_differ_from_each_other(names: tuple[str, ...]) -> None:
    offsets = torch.stack([emotion_offset(e, names) for e in EMOTIONS])
    distance = torch.cdist(offsets, offsets) + torch.eye(8) * 9
    assert distance.min() > 0.5


def test_what_emotions_do(names: tuple[str, ...]) -> None:
    unit = lambda emotion: moved(emotion_offset(emotion, names), names)
    assert unit("neutral") == {}
    assert unit("happy")["mouthSmileLeft"] == unit("happy")["mouthSmileRight"] > 0.4
    assert unit("surprise")["jawOpen"] > 0.3 < unit("surprise")["browInnerUp"]
    assert unit("anger")["browDownLeft"] > 0.5 > unit("anger").get("mouthSmileLeft", 0)
    assert unit("sad")["mouthFrownLeft"] > 0.5
    contempt = unit("contempt")  # one side only
    assert contempt["mouthSmileRight"] > 0.3
    assert "mouthSmileLeft" not in contempt


def test_sides_of_action_units(names: tuple[str, ...]) -> None:
    left, right, both = (action_unit_offset({u: 0.8}, names) for u in ("L12", "R12", "AU12"))
    for offset, side in ((left, "Left"), (right, "Right")):
        expected = {part + side: 0.8 * share for part, share in ACTION_UNITS["AU12"].items()}
        assert moved(offset, names) == pytest.approx(expected)
    torch.testing.assert_close(left + right, both)
    assert moved(action_unit_offset({"mouthSmile": 0.5}, names), names) == {
        "mouthSmileLeft": 0.5,
        "mouthSmileRight": 0.5,
    }
    # a unit without sides moves as a whole whichever side is asked for
    assert moved(action_unit_offset({"L26": 1.0}, names), names) == {"jawOpen": 0.5}
    assert moved(action_unit_offset({"jawOpen": -0.3, "eyeBlinkLeft": 2}, names), names) == {
        "eyeBlinkLeft": 2.0,
        "jawOpen": -0.3,
    }


@pytest.mark.parametrize("unit", ["AU99", "12", "X12", "AU", "au12", "L", "smile", "", "AU12L"])
def test_unknown_action_unit(unit: str, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"Unknown action unit '{unit}': use one of AU1, AU2, .*jawOpen"):
        action_unit_offset({unit: 1.0}, names)


@pytest.mark.parametrize("amount", [math.nan, math.inf, "1", None])
def test_amounts_of_action_units(amount: object, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="The amount of AU12 must be a number"):
        action_unit_offset({"AU12": amount}, names)  # type: ignore[dict-item]


def test_a_head_without_names() -> None:
    with pytest.raises(ValueError, match="no named units"):
        action_unit_offset({"AU12": 1.0}, ())


def test_blends_are_linear(names: tuple[str, ...]) -> None:
    happy, surprise = (emotion_offset(e, names) for e in ("happy", "surprise"))
    blend = emotion_offset({"happy": 0.6, "surprise": 0.4}, names)
    torch.testing.assert_close(blend, 0.6 * happy + 0.4 * surprise)
    torch.testing.assert_close(emotion_offset({"happy": 1}, names), happy)
    assert not emotion_offset({"happy": 0.0}, names).any()


def test_own_recipes(names: tuple[str, ...]) -> None:
    offset = emotion_offset("calm", names, {"calm": {"AU43": 0.5}})
    assert moved(offset, names) == {"eyeBlinkLeft": 0.5, "eyeBlinkRight": 0.5}


def test_the_order_of_names_changes_no_bit(names: tuple[str, ...]) -> None:
    """A saved pipeline's recipes come back sorted."""
    sorted_recipes = json.loads(json.dumps(RECIPES, sort_keys=True))
    backwards = {emotion: dict(reversed(recipe.items())) for emotion, recipe in RECIPES.items()}
    blend = {"surprise": 0.3, "happy": 0.6, "anger": 0.1}
    for emotion in (*EMOTIONS, blend, dict(reversed(blend.items()))):
        offset = emotion_offset(emotion, names)
        assert torch.equal(emotion_offset(emotion, names, sorted_recipes), offset)
        assert torch.equal(emotion_offset(emotion, names, backwards), offset)
    assert torch.equal(emotion_offset(blend, names), emotion_offset(dict(sorted(blend.items())), names))


def test_intensity_on_a_relaxed_face() -> None:
    relaxed, offset = torch.randn(2, 1, 52, generator=torch.Generator().manual_seed(0))
    for intensity in (0.0, 0.4, 1.0, 1.5):
        result = blend_expression(relaxed, relaxed, offset[0], intensity)
        torch.testing.assert_close(result, relaxed + intensity * offset)


def test_a_smiles_lips_part_late(names: tuple[str, ...]) -> None:
    happy = emotion_offset("happy", names)
    strengths = (0.0, PARTING[0], 0.55, 0.65, PARTING[1], 1.0, 1.5)
    amounts = [moved(delay_lip_parting(happy, names, i), names) for i in strengths]
    jaw = [a.get("jawOpen", 0.0) for a in amounts]
    assert jaw[:2] == [0, 0] and jaw == sorted(jaw) and 0 < jaw[2] < jaw[3] < jaw[4]
    assert jaw[4:] == [pytest.approx(RECIPES["happy"]["jawOpen"])] * 3
    for unit in ("mouthSmileLeft", "cheekSquintRight", "mouthPressLeft"):
        assert len({a[unit] for a in amounts}) == 1
    for emotion in ("surprise", "fear", "disgust", {"happy": 0.1, "surprise": 0.9}):
        offset = emotion_offset(emotion, names)
        assert torch.equal(delay_lip_parting(offset, names, 0.5), offset)
    assert not delay_lip_parting(torch.zeros(4), (), 0.5).any()  # a code without names


def test_intensity_zero_is_the_photos_own_expression() -> None:
    source, relaxed, offset = torch.randn(3, 4, 52, generator=torch.Generator().manual_seed(1))
    assert torch.equal(blend_expression(source, relaxed, offset[0], 0.0), source)


def test_what_the_photo_shows_gives_way_unless_it_is_more_of_the_same() -> None:
    relaxed = torch.full((1, 4), 0.1)
    shown = torch.tensor([[0.5, 0.5, 0.2, -0.3]])
    asked = torch.tensor([0.0, 0.3, 0.3, 0.3])
    result = blend_expression(relaxed + shown, relaxed, asked, 1.0)
    # nothing asked: relaxed; less asked than shown: kept; more asked, or the opposite: what was asked
    torch.testing.assert_close(result, relaxed + torch.tensor([[0.0, 0.5, 0.3, 0.3]]))
    half = blend_expression(relaxed + shown, relaxed, asked, 0.5)
    torch.testing.assert_close(half, (relaxed + shown + result) / 2)


def test_every_unit_has_its_twin(names: tuple[str, ...]) -> None:
    assert mirrored_units(("jawLeft", "jawOpen", "jawRight", "blinkLeft")) == [2, 1, 0, 3]
    twins = mirrored_units(names)
    assert [twins[i] for i in twins] == list(range(len(names)))
    assert names[twins[names.index("mouthSmileLeft")]] == "mouthSmileRight"


def test_lips_pucker_and_stay_shut(head: HeadModel) -> None:
    """AU18 draws the mouth's corners together; the unit of the head alone opens the lips, as no kiss does."""
    names = head.config.expression_names

    def lips(units: dict[str, float]) -> tuple[float, float]:
        offset = action_unit_offset(units, names) if units else torch.zeros(len(names))
        points = head.landmarks68(head(torch.zeros(1, head.config.num_shape), offset[None], torch.zeros(1, 6)))[0]
        return float(points[48, 0] - points[54, 0]), float(points[62, 1] - points[66, 1])

    width, gap = lips({})
    puckered, shut = lips({"AU18": 1.0})
    _, open_ = lips({"mouthPucker": 0.5})
    assert abs(puckered) < 0.96 * abs(width)
    assert abs(shut - gap) < 0.3 * abs(open_ - gap)
