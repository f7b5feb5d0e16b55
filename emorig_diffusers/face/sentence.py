"""A sentence such as "a slight, crooked smile with wide eyes" or 「少し笑って、目を大きく」 as what it asks of a face.

A small grammar of the words in `words.toml`: degrees and sides go to what comes next (or came last, where nothing
comes), parts of the face go together with what they do, and denials take away. No network; English and Japanese, which
needs no tokenizer, for the longest known word wins at every place. Left and right are the person's own.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .emotions import ACTION_UNITS, MAX_INTENSITY, RECIPES, delay_lip_parting, emotion_offset
from .gaze import MAX_GAZE, Gaze
from .light import MAX_LIGHT_STRENGTH, MAX_LIGHT_TURN

TABLE = Path(__file__).with_name("words.toml")
MAX_UNIT = 1.0  # amount of a unit, however strong the words are
MAX_TURN = 25.0  # degrees of the head about one axis, likewise
BLEND = {1: 1.0, 2: 0.65, 3: 0.5}  # share of each of so many emotions, by eye: halves are too weak to be told
LEAST = 0.02  # of an amount that counts
LOOKS = ("gaze", "rotate", "light_turn", "light_strength")
"""What a sentence sets besides an expression."""
LONGEST = 500  # characters that are read
ONE_SIDE = "right"  # whose one side is meant where none is named: that of contempt's corner
NEAR = 0.7  # how alike a word must be that is named in the place of an unknown one (difflib's ratio)
_LATIN = re.compile(r"[a-z][a-z']*|\d+(?:\.\d+)?\s*%|\s+|[^a-z\s]")
_SUFFIXES = ("ingly", "edly", "ing", "ed", "ly", "es", "s")
_KATAKANA = {code: code - 0x60 for code in range(ord("ァ"), ord("ヶ") + 1)}

Word = Mapping[str, Any]
"""What a word is, by role: part, action, degree, hedge, side, denial, end, fill, or `does`, which stands for itself."""


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


@dataclass
class _Head:
    """Something that a sentence asks for: what it does (an entry of the table), how much of it, where, and whether
    that is denied; `action` is a part's, and `first` says whether it came before its part."""

    does: Mapping[str, Any]
    degree: float | None = None
    side: str | None = None
    denied: bool = False
    hedged: bool = False
    action: str | None = None
    first: bool = False

    @property
    def amount(self) -> float:
        """The degree, 1 where none is said."""
        return max(1.0 if self.degree is None else self.degree, self.does.get("least", 0.0))


def read(text: str) -> Reading:
    """What a sentence asks of a face.

    Raises:
        ValueError: If nothing in it was understood; it names known words that are near.
    """
    if not isinstance(text, str):
        raise ValueError(f"A prompt is one sentence, got {text!r}.")
    if not text.strip():
        raise ValueError("The sentence is empty: say something such as 'a slight smile with wide eyes'.")
    reader = _Reader()
    for said, word in _words(text[:LONGEST]):
        reader.take(said, word)
    reader.end("all")
    reading = _meaning(reader.heads)
    if not reading.asked:
        raise ValueError(_not_understood(text, reader.unknown))
    reading.unknown = tuple(dict.fromkeys(reader.unknown))
    return reading


def _not_understood(text: str, unknown: Sequence[str]) -> str:
    known = [entry for entry in _lexicon() if entry.isascii() and not _lexicon()[entry].get("fill")]
    near = dict.fromkeys(hit for word in unknown for hit in difflib.get_close_matches(word, known, 2, NEAR))
    hint = f"did you mean {' or '.join(map(repr, list(near)[:3]))}?" if near else "say something such as"
    example = "" if near else " 'a slight smile with wide eyes' or '少し笑って、目を大きく'."
    return f"Nothing of {text.strip()[:60]!r} was understood: {hint}{example}"


class _Reader:
    """Puts words together, one after the other: `heads` is what they ask for, `unknown` what is no word."""

    def __init__(self) -> None:
        self.heads: list[_Head] = []
        self.unknown: list[str] = []
        self.segment = 0  # heads before the present segment
        self.parts: list[str] = []  # that wait for an action
        self.joined = False  # whether only `and` stands before them
        self.part = ""  # that came last
        self.actions: list[tuple[str, Word]] = []  # that wait for a part
        self.degree: float | None = None
        self.side: str | None = None
        self.denied = self.hedged = False

    def take(self, said: str, word: Word | None) -> None:
        """The next word; `None` for one that there is not."""
        if word is None:
            self.unknown.append(said)
        elif "does" in word:
            self._drop_actions()
            self._add(word["does"])
        elif "part" in word and not ("degree" in word and not self._awaited(word["part"])):
            self._part(word["part"])
        elif "action" in word:
            self._action(word["action"], word)
        elif "degree" in word:
            self._more(word["degree"])
        elif "hedge" in word:
            self._more(word["hedge"])
            self.hedged = True
        elif "side" in word:
            self._side(word["side"])
        elif word.get("denial") == "next":
            self.denied = True
        elif word.get("denial") == "last" and self.heads:
            self.heads[-1].denied = not self.heads[-1].hedged
        elif "end" in word:
            self.end(word["end"], said)

    def end(self, kind: str, said: str = "") -> None:
        """The end of a segment: what is left goes to what came last."""
        last = self.heads[-1] if self.heads else None
        plain = _table()["plain"]
        for part in [part for part in self.parts if part in plain]:
            self.parts.remove(part)
            self._add(_table()["parts"][part][plain[part]], part)
        if self.parts and self.joined and last is not None and last.first and last.action:
            self._pair([part for part in self.parts if self._can(part, last.action)], last.action, first=True)
        for action, _ in tuple(self.actions):
            self._left_over(action)
        self._drop_actions()
        if self.heads and self.side is not None:
            self._late_side(self.heads[-1])
        if self.heads and (len(self.heads) > self.segment or kind == "all") and self.heads[-1].degree is None:
            self.heads[-1].degree, self.degree = self.degree, None
        if kind == "stop":
            self.parts.clear()
        self.joined = kind == "join"
        if said in ("or", "nor") and last is not None:
            self.denied = last.denied
        self.segment = len(self.heads)

    def _can(self, part: str, action: str) -> bool:
        return action in _table()["parts"][part]

    def _awaited(self, part: str) -> bool:
        """Whether something came that a part of this name does: "soft light", and not "light smile"."""
        return any(self._can(part, one) for one in [*(action for action, _ in self.actions), self.side or ""])

    def _add(self, does: Mapping[str, Any], action: str | None = None, first: bool = False) -> None:
        self.heads.append(_Head(does, self.degree, self.side, self.denied, self.hedged, action, first))
        self.degree, self.side, self.denied, self.hedged = None, None, False, False

    def _pair(self, parts: Sequence[str], action: str, first: bool = False) -> None:
        """Parts that do something, all with what waits for it."""
        waiting = self.degree, self.side, self.denied, self.hedged
        for part in parts:
            self.degree, self.side, self.denied, self.hedged = waiting
            self._add(_table()["parts"][part][action], action, first)
            self.part = part
        self.parts = [part for part in self.parts if part not in parts]

    def _part(self, part: str) -> None:
        if self.side is not None and self._can(part, self.side):
            side, self.side = self.side, None
            self._pair([part], side)
        doing = [action for action, _ in self.actions if self._can(part, action)]
        self.actions = [one for one in self.actions if one[0] not in doing]
        for action in doing:
            self._pair([part], action, first=True)
        if not doing:
            self.parts.append(part)
            self.part = part

    def _action(self, action: str, word: Word) -> None:
        doing = [part for part in self.parts if self._can(part, action)]
        if doing:
            self._drop_actions()
            self._pair(doing, action)
        else:
            self.actions.append((action, word))

    def _left_over(self, action: str) -> None:
        """An action without a part of its own: of the part that came last, or of the one whose it always is."""
        part: str = _table()["alone"].get(action) or (self.part if self.heads else "")
        if part and self._can(part, action):
            self.actions = [one for one in self.actions if one[0] != action]
            self._pair([part], action)

    def _drop_actions(self) -> None:
        """Actions that came to nothing count as the degrees that their words may be as well."""
        for _, word in self.actions:
            if "degree" in word:
                self._more(word["degree"])
        self.actions.clear()

    def _more(self, degree: float) -> None:
        """One more degree: of several the weakest counts, or else the strongest."""
        both = [degree, degree if self.degree is None else self.degree]
        self.degree = min(both) if min(both) < 1 else max(both)

    def _side(self, side: str) -> None:
        doing = [part for part in self.parts if self._can(part, side)]
        if doing:
            self._pair(doing, side)
        else:
            self.side = side

    def _late_side(self, last: _Head) -> None:
        """A side after which nothing comes: a direction of the part that came last, or the side of what did."""
        side, self.side = self.side, None
        if self.part and last.action and side and self._can(self.part, side):
            self._pair([self.part], side)
        elif last.side is None:
            last.side = side


def _meaning(heads: Sequence[_Head]) -> Reading:
    """What the heads of a sentence ask for, together."""
    reading = Reading()
    wanted, denied = [head for head in heads if not head.denied], [head for head in heads if head.denied]
    refused = {name for head in denied for name in head.does.get("emotion", ())}
    emotions = [_emotion_of(head) for head in wanted]
    emotions = [{k: v for k, v in one.items() if k not in refused or len(one) > 1} for one in emotions]
    _set_emotion(reading, [one for one in emotions if one])
    brought = _brought(reading)
    units: dict[str, float] = {}
    for head in wanted:
        for unit, amount in _units_of(head).items():
            missing = min(MAX_UNIT, amount) - (_shown(unit, brought) if amount > 0 else 0)
            if abs(missing) > LEAST and (amount < 0 or missing > 0):
                units[unit] = max(units.get(unit, missing), missing, key=abs)
    off = {base for head in wanted for base in head.does.get("off", ())} | {b for head in denied for b in _bases(head)}
    for base in sorted(off):
        if brought.get(base, 0.0) > LEAST:
            units[base] = -brought[base]
    reading.action_units = {unit: round(amount, 3) for unit, amount in units.items()}
    reading.gaze, reading.rotate = _looks(wanted), _turns(wanted)
    reading.light_turn, reading.light_strength = _lamp(wanted), _hardness(wanted)
    if not reading.asked and (off or denied):
        reading.emotion = "neutral"  # what is not to be shown, the relaxed face does not show
    return reading


def _emotion_of(head: _Head) -> dict[str, float]:
    if head.side in ("left", "right", "one") and "sided" in head.does:
        return {}
    return {name: share * head.amount for name, share in head.does.get("emotion", {}).items()}


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


def _units_of(head: _Head) -> dict[str, float]:
    """Units of a head at its degree, on its side."""
    side = ONE_SIDE if head.side == "one" or (head.side is None and head.does.get("one")) else head.side
    sided = side in ("left", "right")
    units = head.does["sided"] if sided and "sided" in head.does else head.does.get("units", {})
    return {_on_side(unit, side) if sided else unit: amount * head.amount for unit, amount in units.items()}


def _on_side(unit: str, side: str | None) -> str:
    """A unit of one side of the face, as far as it has sides."""
    if unit.startswith("AU"):
        return f"{'L' if side == 'left' else 'R'}{unit.removeprefix('AU')}"
    return unit


def _bases(head: _Head) -> Iterator[str]:
    """Single units of what is denied."""
    for unit in {**head.does.get("units", {}), **dict.fromkeys(head.does.get("units_if_denied", ()))}:
        yield from _expanded(unit)


def _farthest(angles: Sequence[Sequence[float]], limits: Sequence[float]) -> tuple[float, ...]:
    """About every axis the widest of some angles, within limits, in whole degrees."""
    widest = [max(axis, key=abs) for axis in zip(*angles)]
    return tuple(float(round(min(max(angle, -most), most))) for angle, most in zip(widest, limits))


def _looks(heads: Sequence[_Head]) -> Gaze | None:
    looks = [head for head in heads if "gaze" in head.does]
    if any(isinstance(head.does["gaze"], str) for head in looks):
        return "camera"
    turns = [[head.amount * angle for angle in head.does["gaze"]] for head in looks]
    return _farthest(turns, MAX_GAZE) if turns else None


def _turns(heads: Sequence[_Head]) -> tuple[float, float, float] | None:
    turns = [[head.amount * angle for angle in head.does["turn"]] for head in heads if "turn" in head.does]
    if not turns:
        return None
    yaw, pitch, roll = _farthest(turns, (MAX_TURN,) * 3)
    return yaw, pitch, roll


def _lamp(heads: Sequence[_Head]) -> tuple[float, float] | None:
    """Where the light is to come from, from the left where no side is named of what comes from one."""
    angles, sides = [], _table()["parts"]["light"]
    for head in heads:
        if "light" in head.does:
            yaw, pitch = head.does["light"]
            if head.side == "right" and head.does.get("one"):
                yaw = -yaw
            elif head.side in sides and not yaw:
                yaw = sides[head.side]["light"][0]  # from the upper left
            angles.append([head.amount * yaw, head.amount * pitch])
    if not angles:
        return None
    yaw, pitch = _farthest(angles, MAX_LIGHT_TURN)
    return yaw, pitch


def _hardness(heads: Sequence[_Head]) -> float | None:
    """How hard the light is to be: as far from the photo's as the degree says."""
    amounts = [1 + head.amount * (head.does["hardness"] - 1) for head in heads if "hardness" in head.does]
    return round(min(max(amounts[-1], 0.0), MAX_LIGHT_STRENGTH), 2) if amounts else None


# words


@functools.cache
def _table() -> dict[str, Any]:
    """The file, with parts as part -> action -> what it does."""
    table = tomllib.loads(TABLE.read_text("utf-8"))
    table["says"] = {part: about.pop("say") for part, about in table["parts"].items()}
    for part in table["parts"].values():
        for action, does in part.items():
            others = {key: does.pop(key) for key in ("off", "gaze", "turn", "light", "hardness") if key in does}
            part[action] = {"units": does, **others}
    return table


@functools.cache
def _lexicon() -> dict[str, Word]:
    """Every entry of the table, `_folded` and in hiragana, with what it is."""
    table, words = _table(), {}

    def add(says: str, **role: Any) -> None:
        for said in re.split(r",\s+", _folded(says).translate(_KATAKANA)):
            if said in words and (words[said].keys() & role.keys() or {"does", "fill"} & {*words[said], *role}):
                raise ValueError(f"{TABLE.name} has {said!r} twice.")
            words.setdefault(said, {}).update(role)

    for part, says in table["says"].items():
        add(says, part=part)
    for role, section in (
        ("action", "actions"), ("side", "sides"), ("denial", "denials"), ("end", "ends"), ("degree", "degrees"),
        ("hedge", "hedges"), ("action", "degree_actions"),
    ):  # fmt: skip
        for name, says in table[section].items():
            add(says, **{role: float(name) if role in ("degree", "hedge") else name})
    for entry in table["words"]:
        add(entry["say"], does={key: value for key, value in entry.items() if key != "say"})
    add(table["fill"]["say"], fill=True)
    return words


@functools.cache
def _stems() -> dict[str, str]:
    """Stems of the English entries -> the entry."""
    stems: dict[str, str] = {}
    for entry in filter(str.isascii, _lexicon()):
        stems.setdefault(_stemmed(entry), entry)
    return stems


def _folded(text: str) -> str:
    """Small letters, and one form for what looks alike."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("‘", "'")
    return re.sub(r"(?<=[a-z])[-‐‑–](?=[a-z])", " ", text).strip()


def _stemmed(phrase: str) -> str:
    """A phrase with its words in one form: smile, smiles, smiled, smiling."""
    return " ".join(map(_stem, phrase.split()))


@functools.cache
def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and not word.endswith("ss") and len(word) - len(suffix) > 2:
            word = word.removesuffix(suffix)
            break
    word = word.rstrip("e") if len(word) > 3 else word
    word = word[:-1] + "i" if word.endswith("y") else word
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _words(text: str) -> Iterator[tuple[str, Word | None]]:
    """The words of a sentence, the longest known one at every place, and `None` for what is unknown."""
    tokens = [token for token in _LATIN.findall(_folded(text)) if not token.isspace()]
    longest = {True: max(len(e.split()) for e in _lexicon()), False: max(map(len, _lexicon()))}
    unknown, at = "", 0
    while at < len(tokens):
        latin = tokens[at].isascii()
        length, word = _longest(tokens[at : at + longest[latin]], " " if latin else "")
        said = (" " if latin else "").join(tokens[at : at + max(length, 1)])
        if word is None and not latin:
            unknown += said
        elif unknown:
            yield from _unknown(unknown)
            unknown = ""
        if word is not None or latin:
            yield said, word
        at += max(length, 1)
    yield from _unknown(unknown)


def _longest(tokens: Sequence[str], space: str) -> tuple[int, Word | None]:
    """How many of the tokens are a known word, and that."""
    if tokens[0].endswith("%"):
        return 1, {"degree": float(tokens[0].rstrip("% ")) / 100}
    for length in range(len(tokens), 0, -1):
        said = space.join(tokens[:length])
        kana = said.translate(_KATAKANA) if length > 1 else said  # one letter is an ending, and those are hiragana
        known = _lexicon().get(kana) or (_lexicon().get(_stems().get(_stemmed(said), "")) if space else None)
        if known is not None:
            return length, known
    return 1, None


def _unknown(run: str) -> Iterator[tuple[str, None]]:
    """Letters that are no known word, but for endings of the word before."""
    if len(run) > 2 or not all("ぁ" <= letter <= "ん" or letter == "ー" for letter in run):
        yield run, None
