"""Sentences: what words ask of a face, in English and Japanese, and what is said where they ask for nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import MAX_INTENSITY, RECIPES, check_emotion, expand_unit
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.sentence import LONGEST, MAX_UNIT, read
from emorig_diffusers.face.vocabulary import lexicon, stems
from emorig_diffusers.pipelines.request import EditRequest

TEETH = {"jawOpen", "mouthUpperUp", "mouthLowerDown"}
EMOTIONS = {
    "happy": "happy",
    "She looks delighted!": "happy",
    "a man who is laughing": "happy",
    "嬉しそうな顔": "happy",
    "ニコニコして": "happy",
    "furious": "anger",
    "Make him angrily stare": "anger",
    "ちょっと怒った表情": "anger",
    "worried": {"sad", "fear"},
    "不安そうに": {"sad", "fear"},
    "about to cry": "sad",
    "泣きそうな顔": "sad",
    "とても悲しい": "sad",
    "horrified": "fear",
    "怯えた目": "fear",
    "びっくりした顔": "surprise",
    "utterly shocked": "surprise",
    "disgusted": "disgust",
    "気持ち悪そうに": "disgust",
    "a smirk": "contempt",
    "ドヤ顔": "contempt",
    "poker face": "neutral",
    "真顔で": "neutral",
    "not smiling": "neutral",
    "don’t frown": "neutral",
    "笑わないで": "neutral",
    "surprised, not afraid": "surprise",
    "happy and surprised": {"happy", "surprise"},
    "sad and a bit happy": {"happy", "sad"},
    "a soft, light smile": "happy",
}
"""Sentence -> its emotion, or those of its blend."""

UNITS = {
    "raised eyebrows": {"AU1", "AU2"},
    "眉を上げて": {"AU1", "AU2"},
    "raise the left eyebrow": {"L1", "L2"},
    "one eyebrow raised": {"R1", "R2"},
    "eyes and mouth wide open": {"AU5", "AU25", "AU27"},
    "mouth slightly open, eyes wide": {"AU25", "AU26", "AU5"},
    "口を大きく開けて": {"AU25", "AU27"},
    "目を細めて、口角を上げて": {"AU6", "AU7", "AU12"},
    "a wink": {"R43", "R6"},
    "wink with the left eye": {"L43", "L6"},
    "片目を閉じて": {"R43", "R6"},
    "both eyes closed": {"AU43"},
    "left eye closed": {"L43"},
    "a scowl": {"AU4"},
    "眉をひそめて": {"AU4"},
    "pouting": {"AU17", "AU18"},
    "頬を膨らませて": {"cheekPuff"},
    "the corners of the mouth down": {"AU15"},
    "a crooked smile": {"R12", "R6"},
    "smile with the left side of the mouth": {"L12", "L6"},
    "nose wrinkled": {"AU9"},
}
"""Sentence -> the units that it asks for, and nothing else."""

LOOKS: dict[str, dict[str, Any]] = {
    "looking left": {"gaze": (20, 0)},
    "look up and to the left": {"gaze": (20, 16)},
    "右上を見て": {"gaze": (-20, 16)},
    "looking slightly down": {"gaze": (0, -7)},
    "look at the camera": {"gaze": "camera"},
    "カメラ目線で": {"gaze": "camera"},
    "head to the right": {"rotate": (-15, 0, 0)},
    "顔を左に向けて": {"rotate": (15, 0, 0)},
    "head tilted": {"rotate": (0, 0, 10)},
    "head down and eyes up": {"gaze": (0, 14), "rotate": (0, -12, 0)},
    "lit from the left": {"light_turn": (60, 0)},
    "slightly lit from the right": {"light_turn": (-24, 0)},
    "hard light from the upper left": {"light_turn": (60, 40), "light_strength": 1.6},
    "soft light": {"light_strength": 0.4},
    "dramatic lighting": {"light_strength": 1.6},
    "side light from the right": {"light_turn": (-60, 0)},
    "looking left, light from above": {"gaze": (20, 0), "light_turn": (0, 40)},
    "左から光": {"light_turn": (60, 0)},
    "右上から光を当てて": {"light_turn": (-60, 40)},
    "左上からの柔らかい光": {"light_turn": (60, 40), "light_strength": 0.4},
    "下から強い光で照らして": {"light_turn": (0, -40), "light_strength": 1.6},
    "均一な照明": {"light_strength": 0.4},
}
"""Sentence -> where eyes, head and light turn, and how hard the light is, and nothing else."""


@pytest.mark.parametrize("sentence", EMOTIONS)
def test_emotions(sentence: str) -> None:
    reading, wanted = read(sentence), EMOTIONS[sentence]
    assert reading.emotion == wanted or set(reading.emotion or ()) == wanted
    assert not reading.action_units and not reading.gaze and not reading.rotate and not reading.unknown


@pytest.mark.parametrize("sentence", UNITS)
def test_units(sentence: str) -> None:
    reading = read(sentence)
    assert set(reading.action_units) == UNITS[sentence] and all(v > 0 for v in reading.action_units.values())
    assert set(reading.asked) == {"action_units"} and not reading.unknown


@pytest.mark.parametrize("sentence", LOOKS)
def test_looks(sentence: str) -> None:
    reading = read(sentence)
    assert reading.asked == LOOKS[sentence] and not reading.unknown


@pytest.mark.parametrize(
    "rising",
    [
        ["barely happy", "slightly happy", "a bit happy", "happy", "very happy", "extremely happy"],
        ["ほんの少し怒って", "少し怒って", "怒って", "とても怒って", "めちゃくちゃ怒って"],
        ["not very sad", "somewhat sad", "sad"],
        ["あまり笑わないで", "笑って", "大笑いして"],
        ["20% surprised", "surprised at 80 %", "surprised"],
    ],
)
def test_degrees_in_order(rising: list[str]) -> None:
    readings = [read(sentence) for sentence in rising]
    assert len({str(reading.emotion) for reading in readings}) == 1
    strengths = [reading.intensity for reading in readings]
    assert strengths == sorted(set(strengths)) and strengths[-1] <= MAX_INTENSITY


def test_degrees_of_parts_and_several_in_one_sentence() -> None:
    reading = read("a slight, crooked smile with very wide eyes; brows raised slightly")
    assert reading.action_units["R12"] == pytest.approx(0.4) and reading.action_units["AU5"] == MAX_UNIT
    assert reading.action_units["AU1"] == pytest.approx(0.28)
    shy = read("少し照れたように笑って、目を大きく")
    assert shy.emotion == "happy" and shy.intensity < 0.5 and shy.action_units["AU5"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    "sentence", ["happy, no teeth", "a closed-mouth smile", "a big smile without showing teeth", "歯を見せずに笑って"]
)
def test_smiles_without_teeth(sentence: str) -> None:
    reading = read(sentence)
    assert reading.emotion == "happy" and set(reading.action_units) == TEETH
    for unit, amount in reading.action_units.items():
        assert amount == pytest.approx(-reading.intensity * RECIPES["happy"][unit], abs=1e-3)


def test_denials_take_what_an_emotion_brings() -> None:
    assert read("angry without frowning").action_units == {"browDown": pytest.approx(-RECIPES["anger"]["AU4"])}
    assert set(read("驚いて、眉を上げないで").action_units) == {"browInnerUp", "browOuterUp"}
    assert not read("happy, without frowning").action_units  # there is nothing to take
    assert set(read("目が笑っていない笑顔").action_units) == {"cheekSquint", "eyeSquint"}


def test_units_are_at_least_what_is_asked_for() -> None:
    """A surprise whose eyes are wide already gets no second pair of wide eyes."""
    brought = RECIPES["surprise"]["AU5"]
    assert read("surprised with wide eyes").action_units == {"AU5": pytest.approx(0.9 - brought)}
    assert not read("surprised with slightly open mouth").action_units.keys() & {"AU26"}


def test_words_that_are_not_understood_are_told() -> None:
    reading = read("a smile like a sphinx in 東京")
    assert reading.emotion == "happy" and reading.unknown == ("sphinx", "東京")
    assert read("ピカソ風にニッコリ").unknown == ("ピカソ",)


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ("hapy", "did you mean 'happy'"),
        ("blah blah", "a slight smile with wide eyes"),
        ("何でもいいよ", "少し笑って"),
        ("  ", "is empty"),
        (("happy", "sad"), "one sentence"),
        ("x" * 10 * LONGEST, "Nothing of 'xxx"),
        ("slightly", "Nothing of"),
    ],
)
def test_nothing_understood_is_one_sentence(sentence: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read(sentence)
    assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


def test_the_table_is_of_units_and_emotions_that_there_are(pipe: EmoRigPipeline) -> None:
    names = pipe.head.config.expression_names
    words = [word["does"] for word in lexicon().values() if "does" in word]
    assert len(lexicon()) > 600 and len(words) > 300
    for does in words:
        for name in does.get("emotion", ()):
            check_emotion(name)
        assert all(expand_unit(unit, names) for key in ("units", "sided") for unit in does.get(key, ()))
        assert all(unit in names or f"{unit}Left" in names for unit in does.get("off", ()))
    for sentence in [entry for entry in stems().values() if "does" in lexicon()[entry]]:
        if "tongueOut" not in str(lexicon()[sentence]["does"]) and "off" not in lexicon()[sentence]["does"]:
            pipe.check_inputs(prompt=sentence)


def test_prompts_are_arguments_of_a_call(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    codes = lambda **given: pipe.edit(hopper_face, EditRequest(**given)).expression
    said = codes(prompt="very sad, looking left, brows down")
    assert np.array_equal(
        said, codes(emotion="sad", intensity=1.2, action_units=read("very sad, brows down").action_units, gaze=(20, 0))
    )
    assert np.array_equal(said, codes(edits=[{"prompt": "very sad, looking left, brows down"}], action_units={}))
    lit = EditRequest(prompt="happy, softly lit from the left", light_strength=0.8)
    assert (lit.light_turn, lit.light_strength) == ((60, 0), 0.8)


def test_what_is_given_besides_counts_more(pipe: EmoRigPipeline) -> None:
    request = EditRequest(prompt="slightly happy, eyes wide, looking left", emotion="sad", gaze=(0, 5))
    assert (request.emotion, request.intensity, request.gaze) == ("sad", 1.0, (0, 5))
    assert request.action_units == {"AU5": 0.9}
    request = EditRequest(prompt="slightly happy, eyes wide", intensity=0.9, action_units={"AU5": 0.1, "AU1": 0.2})
    assert (request.emotion, request.intensity) == ("happy", 0.9)
    assert request.action_units == {"AU5": 0.1, "AU1": 0.2}
    with pytest.raises(ValueError, match="tongueOut cannot be shown"):
        pipe.check_inputs(prompt="tongue out")
    with pytest.raises(ValueError, match=re.escape("edits: Nothing of 'hmm'")):
        pipe.check_inputs(edits=[{"prompt": "hmm"}])


def test_unknown_words_are_warned_of(pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace) -> None:
    plain = EmoRigPipeline(pipe.head, pipe.encoder)
    with pytest.warns(UserWarning, match="Not understood: sphinx"):
        plain(hopper, prompt="a smile like a sphinx", faces=[hopper_face])
