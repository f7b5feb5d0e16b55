"""A sentence such as "a slight, crooked smile with wide eyes" or 「少し笑って、目を大きく」 as what it asks of a face.

A small grammar (`grammar.py`) of the words in `words.toml` (`vocabulary.py`), English and Japanese. No network. Left
and right are the person's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .emotions import ACTION_UNITS, MAX_INTENSITY, RECIPES, delay_lip_parting, emotion_offset
from .gaze import MAX_GAZE, Gaze
from .grammar import Reader, Wish
from .light import MAX_LIGHT_STRENGTH, MAX_LIGHT_TURN
from .vocabulary import lexicon, table, words_of

MAX_UNIT = 1.0  # amount of a unit, however strong the words are
MAX_TURN = 25.0  # degrees of the head about one axis, likewise
BLEND = {1: 1.0, 2: 0.65, 3: 0.5}  # share of each of so many emotions, by eye: halves are too weak to be told
LEAST = 0.02  # of an amount that counts
LOOKS = ("gaze", "rotate", "light_turn", "light_strength")
"""What a sentence sets besides an expression."""
LONGEST = 500  # characters that are read
ONE_SIDE = "right"  # whose one side is meant where none is named: that of contempt's corner
NEAR = 0.7  # how alike a word must be that is named in the place of an unknown one (difflib's ratio)


@dataclass
class Reading:
    """What a sentence asks for, as arguments of a pipeline.

    Attributes:
        emotion, intensity, action_units, gaze, rotate, light_turn, light_strength: As in `EditRequest`.
        unknown: Words that were not understood, in order.
    """

    emotion: str | dict[str, float] | None = None
    intensity: float = 1.0
    action_units: dict[str, float] = field(default_factory=dict)
    gaze: Gaze | None = None
    rotate: tuple[float, float, float] | None = None
    light_turn: tuple[float, float] | None = None
    light_strength: float | None = None
    unknown: tuple[str, ...] = ()

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments that it sets."""
        given = {name: getattr(self, name) for name in ("emotion", "action_units", *LOOKS)}
        given = {name: value for name, value in given.items() if value not in (None, {})}
        return given | ({"intensity": self.intensity} if self.emotion else {})

    def __str__(self) -> str:
        emotions = self.emotion if isinstance(self.emotion, dict) else {self.emotion: 1.0} if self.emotion else {}
        parts = [f"{name} {self.intensity * share:.2f}" for name, share in emotions.items()]
        parts += [f"{unit} {amount:+.2f}" for unit, amount in self.action_units.items()]
        if self.gaze is not None:
            parts.append("gaze " + (self.gaze if isinstance(self.gaze, str) else "{:+.0f} {:+.0f}".format(*self.gaze)))
        if self.rotate is not None:
            parts.append("head " + " ".join(f"{angle:+.0f}" for angle in self.rotate))
        if self.light_turn is not None:
            parts.append("light {:+.0f} {:+.0f}".format(*self.light_turn))
        if self.light_strength is not None:
            parts.append(f"light's strength {self.light_strength:.2f}")
        return ", ".join(parts)


def read(text: str) -> Reading:
    """What a sentence asks of a face.

    Raises:
        ValueError: If nothing in it was understood; it names known words that are near.
    """
    if not isinstance(text, str):
        raise ValueError(f"A prompt is one sentence, got {text!r}.")
    if not text.strip():
        raise ValueError("The sentence is empty: say something such as 'a slight smile with wide eyes'.")
    reader = Reader()
    for said, word in words_of(text[:LONGEST]):
        reader.take(said, word)
    reader.end("all")
    reading = _meaning(reader.wishes)
    if not reading.asked:
        raise ValueError(_not_understood(text, reader.unknown))
    reading.unknown = tuple(dict.fromkeys(reader.unknown))
    return reading


def _not_understood(text: str, unknown: Sequence[str]) -> str:
    known = [entry for entry in lexicon() if entry.isascii() and not lexicon()[entry].get("fill")]
    near = dict.fromkeys(hit for word in unknown for hit in difflib.get_close_matches(word, known, 2, NEAR))
    hint = f"did you mean {' or '.join(map(repr, list(near)[:3]))}?" if near else "say something such as"
    example = "" if near else " 'a slight smile with wide eyes' or '少し笑って、目を大きく'."
    return f"Nothing of {text.strip()[:60]!r} was understood: {hint}{example}"


def _meaning(wishes: Sequence[Wish]) -> Reading:
    """What a sentence asks for, together."""
    reading = Reading()
    wanted, denied = [wish for wish in wishes if not wish.denied], [wish for wish in wishes if wish.denied]
    refused = {name for wish in denied for name in wish.does.get("emotion", ())}
    emotions = [_emotion_of(wish) for wish in wanted]
    emotions = [{k: v for k, v in one.items() if k not in refused or len(one) > 1} for one in emotions]
    _set_emotion(reading, [one for one in emotions if one])
    brought = _brought(reading)
    units: dict[str, float] = {}
    for wish in wanted:
        for unit, amount in _units_of(wish).items():
            missing = min(MAX_UNIT, amount) - (_shown(unit, brought) if amount > 0 else 0)
            if abs(missing) > LEAST and (amount < 0 or missing > 0):
                units[unit] = max(units.get(unit, missing), missing, key=abs)
    off = {base for wish in wanted for base in wish.does.get("off", ())} | {b for wish in denied for b in _bases(wish)}
    for base in sorted(off):
        if brought.get(base, 0.0) > LEAST:
            units[base] = -brought[base]
    reading.action_units = {unit: round(amount, 3) for unit, amount in units.items()}
    reading.gaze, reading.rotate = _looks(wanted), _turns(wanted)
    reading.light_turn, reading.light_strength = _lamp(wanted), _hardness(wanted)
    if not reading.asked and (off or denied):
        reading.emotion = "neutral"  # what is not to be shown, the relaxed face does not show
    return reading


def _emotion_of(wish: Wish) -> dict[str, float]:
    if wish.side in ("left", "right", "one") and "sided" in wish.does:
        return {}
    return {name: share * wish.amount for name, share in wish.does.get("emotion", {}).items()}


def _set_emotion(reading: Reading, emotions: Sequence[Mapping[str, float]]) -> None:
    """One emotion with its intensity, or the blend of several."""
    shares: dict[str, float] = {}
    strong = [one for one in emotions if set(one) != {"neutral"}] or emotions
    kinds = len({tuple(one) for one in strong})
    for one in strong:
        for name, share in one.items():
            shares[name] = max(shares.get(name, 0.0), share * BLEND.get(kinds, BLEND[3]))
    total = min(sum(shares.values()), MAX_INTENSITY)
    if len(shares) == 1:
        reading.emotion, reading.intensity = next(iter(shares)), round(total, 3)
    elif shares:  # below 1 the intensity takes the photo's own expression along, so it says how much there is in all
        reading.intensity = round(min(total, 1.0), 3)
        scale = total / sum(shares.values()) / reading.intensity
        reading.emotion = {name: round(share * scale, 3) for name, share in shares.items()}


def _brought(reading: Reading) -> dict[str, float]:
    """Amounts of single units, without sides, that a reading's emotion brings to a relaxed face."""
    if reading.emotion is None:
        return {}
    bases = {base for parts in ACTION_UNITS.values() for base in parts}
    own = {unit for recipe in RECIPES.values() for unit in recipe if not unit.lstrip("AULR").isdecimal()}
    names = tuple(sorted(bases | own))
    offset = delay_lip_parting(emotion_offset(reading.emotion, names), names, reading.intensity)
    amounts: dict[str, float] = {}
    for name, amount in zip(names, (offset * reading.intensity).tolist()):
        base = name.removesuffix("Left").removesuffix("Right")
        amounts[base] = amounts.get(base, 0.0) + amount
    return amounts


def _expanded(unit: str) -> Mapping[str, float]:
    """Single units without sides of an action unit."""
    number = unit.removeprefix("AU").lstrip("LR")
    return ACTION_UNITS[f"AU{number}"] if number.isdecimal() else {unit.removesuffix("Left").removesuffix("Right"): 1.0}


def _shown(unit: str, brought: Mapping[str, float]) -> float:
    """How much of a unit there is in amounts of single ones."""
    return max(0.0, min(brought.get(base, 0.0) / share for base, share in _expanded(unit).items()))


def _units_of(wish: Wish) -> dict[str, float]:
    """Units of a wish at its degree, on its side."""
    side = ONE_SIDE if wish.side == "one" or (wish.side is None and wish.does.get("one")) else wish.side
    sided = side in ("left", "right")
    units = wish.does["sided"] if sided and "sided" in wish.does else wish.does.get("units", {})
    return {_on_side(unit, side) if sided else unit: amount * wish.amount for unit, amount in units.items()}


def _on_side(unit: str, side: str | None) -> str:
    """A unit of one side of the face, as far as it has sides."""
    if unit.startswith("AU"):
        return f"{'L' if side == 'left' else 'R'}{unit.removeprefix('AU')}"
    return unit


def _bases(wish: Wish) -> Iterator[str]:
    """Single units of what is denied."""
    for unit in {**wish.does.get("units", {}), **dict.fromkeys(wish.does.get("units_if_denied", ()))}:
        yield from _expanded(unit)


def _farthest(angles: Sequence[Sequence[float]], limits: Sequence[float]) -> tuple[float, ...]:
    """About every axis the widest of some angles, within limits, in whole degrees."""
    widest = [max(axis, key=abs) for axis in zip(*angles)]
    return tuple(float(round(min(max(angle, -most), most))) for angle, most in zip(widest, limits))


def _looks(wishes: Sequence[Wish]) -> Gaze | None:
    looks = [wish for wish in wishes if "gaze" in wish.does]
    if any(isinstance(wish.does["gaze"], str) for wish in looks):
        return "camera"
    turns = [[wish.amount * angle for angle in wish.does["gaze"]] for wish in looks]
    return _farthest(turns, MAX_GAZE) if turns else None


def _turns(wishes: Sequence[Wish]) -> tuple[float, float, float] | None:
    turns = [[wish.amount * angle for angle in wish.does["turn"]] for wish in wishes if "turn" in wish.does]
    if not turns:
        return None
    yaw, pitch, roll = _farthest(turns, (MAX_TURN,) * 3)
    return yaw, pitch, roll


def _lamp(wishes: Sequence[Wish]) -> tuple[float, float] | None:
    """Where the light is to come from, from the left where no side is named of what comes from one."""
    angles, sides = [], table()["parts"]["light"]
    for wish in wishes:
        if "light" in wish.does:
            yaw, pitch = wish.does["light"]
            if wish.side == "right" and wish.does.get("one"):
                yaw = -yaw
            elif wish.side in sides and not yaw:
                yaw = sides[wish.side]["light"][0]  # from the upper left
            angles.append([wish.amount * yaw, wish.amount * pitch])
    if not angles:
        return None
    yaw, pitch = _farthest(angles, MAX_LIGHT_TURN)
    return yaw, pitch


def _hardness(wishes: Sequence[Wish]) -> float | None:
    """How hard the light is to be: as far from the photo's as the degree says."""
    amounts = [1 + wish.amount * (wish.does["hardness"] - 1) for wish in wishes if "hardness" in wish.does]
    return round(min(max(amounts[-1], 0.0), MAX_LIGHT_STRENGTH), 2) if amounts else None
