"""What a visitor has made of a photo: a history of looks, each of them edits of the photo's own faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offer import UNITS
from texts import say, say_emotion

from emorig_diffusers.pipelines.request import ARGUMENTS, MODES

ALL = "all"
LEAST = 1e-3  # of a slider's change that counts
MOST_LOOKS = 60  # that are kept


@dataclass(frozen=True)
class Settings:
    """What the controls ask of a face.

    Attributes:
        emotion, intensity: What, and how strongly.
        reference, modes: A photo, and what it lends, of MODES; its expression takes the emotion's place.
        action_units, rotate: Changes of single movements, and of yaw, pitch and roll in degrees.
        gaze: (yaw, pitch) in degrees from where the eyes look, or "camera".
        light_turn, light_strength: (yaw, pitch) in degrees by which the light turns; how hard it is, 1 is the photo's.
        attributes, shape_guidance: For pipelines that have them.
    """

    emotion: str | None = None
    intensity: float = ARGUMENTS["intensity"].default
    reference: str | None = None
    modes: Sequence[str] = ARGUMENTS["modes"].default
    action_units: Mapping[str, float] = field(default_factory=dict)
    rotate: Sequence[float] = (0.0, 0.0, 0.0)
    gaze: Sequence[float] | str = (0.0, 0.0)
    light_turn: Sequence[float] = (0.0, 0.0)
    light_strength: float = 1.0
    attributes: Mapping[str, float] = field(default_factory=dict)
    shape_guidance: float = 0.0

    @property
    def step(self) -> dict[str, Any]:
        """The same as arguments of a pipeline, as far as something is asked; empty where nothing is."""
        lent = [mode for mode in MODES if self.reference and mode in self.modes]
        what = {
            "emotion": None if "exp" in lent else self.emotion,
            "reference": self.reference if lent else None,
            "modes": lent if tuple(lent) != ARGUMENTS["modes"].default else None,
            "rotate": tuple(self.rotate) if any(abs(angle) > LEAST for angle in self.rotate) else None,
            "gaze": self.gaze if isinstance(self.gaze, str) or any(self.gaze) else None,
            "light_turn": self.light_turn if any(self.light_turn) else None,
            "action_units": {unit: amount for unit, amount in self.action_units.items() if abs(amount) > LEAST},
            "attributes": dict(self.attributes),
        }
        given = {name: value for name, value in what.items() if value}
        if self.light_strength != 1:
            given["light_strength"] = self.light_strength
        held = {"shape_guidance": self.shape_guidance} if self.shape_guidance else {}
        return {"intensity": self.intensity, **given, **held} if given else {}


@dataclass(frozen=True)
class Edits:
    """Of one face: the steps that were gone on from, and what the controls ask after them."""

    done: tuple[Mapping[str, Any], ...] = ()
    open: Settings = Settings()

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        """All of them, as `EditRequest.edits` takes them."""
        return [*self.done, *filter(None, [self.open.step])]


@dataclass(frozen=True)
class Look:
    """One state of the photo.

    Attributes:
        faces: Number of a face -> its edits.
        face: Whom the controls are for, a number or ALL.
        seed, count: Of the noise; the network's steps.
        result, stage, thumbnail: Paths of the picture: in full, as large as the stage is, and small.
    """

    faces: Mapping[int, Edits]
    face: str
    seed: int = 0
    count: int | None = None
    result: str | None = None
    stage: str | None = None
    thumbnail: str | None = None

    @property
    def numbers(self) -> list[int]:
        """Faces that the controls are for."""
        return sorted(self.faces) if self.face == ALL else [int(self.face)]

    @property
    def edits(self) -> Edits:
        """Of the face that the controls show."""
        return self.faces[self.numbers[0]]

    @property
    def steps(self) -> dict[int, list[Mapping[str, Any]]]:
        """Number -> steps, of the faces that have some."""
        return {number: edits.steps for number, edits in self.faces.items() if edits.steps}

    def asking(self, settings: Settings) -> Look:
        """The look with these settings for its present face or faces; its picture is not made yet."""
        mine = {number: replace(self.faces[number], open=settings) for number in self.numbers}
        return replace(self, faces={**self.faces, **mine}, result=None, stage=None, thumbnail=None)

    def going_on(self) -> Look:
        """The same picture, from which the controls go on."""
        return replace(self, faces={n: Edits(tuple(edits.steps)) for n, edits in self.faces.items()})

    def same(self, other: Look) -> bool:
        """Whether both ask for the same picture."""
        key = lambda look: (look.steps, (look.seed, look.count) if look.steps else None)
        return key(self) == key(other)


@dataclass(frozen=True)
class History:
    """Looks of a photo in the order in which they were made; the first one is the photo itself.

    Attributes:
        photo, before: Its path, and that of a picture of it for the stage.
        looks: Where there is a photo with faces.
        at: Which of them is shown.
        wish: Steps that the next photo begins with.
    """

    photo: str | None = None
    before: str | None = None
    looks: tuple[Look, ...] = ()
    at: int = 0
    wish: tuple[Mapping[str, Any], ...] = ()

    @property
    def look(self) -> Look | None:
        return self.looks[self.at] if self.looks else None

    def then(self, look: Look) -> History:
        """With a new look after the present one; what was undone is gone, and of very many the oldest are."""
        looks = (*self.looks[: self.at + 1], look)
        looks = (looks[0], *looks[1:][1 - MOST_LOOKS :])
        return replace(self, looks=looks, at=len(looks) - 1)

    def now(self, look: Look) -> History:
        """With another look in the present one's place."""
        return replace(self, looks=(*self.looks[: self.at], look, *self.looks[self.at + 1 :]))

    def back(self, by: int) -> History:
        """At an earlier look, or at a later one where `by` is negative."""
        return replace(self, at=min(max(self.at - by, 0), max(len(self.looks) - 1, 0)))


@dataclass
class Sitting:
    """Of one visitor. Events that run at the same time all read and change the newest history.

    Attributes:
        history: Of the present photo.
        format: Of downloads.
        eight: Paths of the small pictures of all emotions.
    """

    history: History = History()
    format: str = "PNG"
    eight: Sequence[str] = ()


def tell(look: Look) -> str:
    """What a look shows, in words."""
    faces = [(number, [tell_step(step) for step in steps]) for number, steps in sorted(look.steps.items())]
    if not faces:
        return say("look.photo")
    told = [(number, say("look.then").join(steps)) for number, steps in faces]
    if len(look.faces) == 1:
        return told[0][1]
    return " · ".join(say("faces.one", number=number, what=what) for number, what in told)


def tell_step(step: Mapping[str, Any]) -> str:
    """One step in words."""
    parts = []
    percent = f"{100 * step.get('intensity', 1):.0f} %"
    emotion = step.get("emotion")
    if emotion is not None:
        names = [emotion] if isinstance(emotion, str) else list(emotion)
        parts.append(f"{' + '.join(say_emotion(name) for name in names)} {percent}")
    if "reference" in step:
        lent = say(f"look.reference.{'_'.join(step.get('modes', ('exp',)))}", name=Path(str(step["reference"])).name)
        parts.append(f"{lent} {percent}")
    units: Mapping[str, float] = step.get("action_units") or {}
    parts += [f"{say_unit(unit)} {units[unit]:+.2f}" for unit in dict.fromkeys((*UNITS, *units)) if unit in units]
    parts += [f"{name.replace('_', ' ')} {amount:+.2f}" for name, amount in step.get("attributes", {}).items()]
    for axis, angle in zip(("yaw", "pitch", "roll"), step.get("rotate", ())):
        parts += [f"{say(f'look.{axis}')} {angle:+.0f}°"] * (abs(angle) > LEAST)
    if (gaze := step.get("gaze")) is not None:
        parts.append(say("look.camera") if gaze == "camera" else say("look.gaze", yaw=gaze[0], pitch=gaze[1]))
    if (turn := step.get("light_turn")) is not None:
        parts.append(say("look.light", yaw=turn[0], pitch=turn[1]))
    if (strength := step.get("light_strength")) is not None:
        parts.append(say("look.light_strength", percent=100 * strength))
    return ", ".join(parts)


def say_unit(unit: str) -> str:
    """A single movement for the eye."""
    try:
        return say(f"units.{unit}")
    except KeyError:  # of one side, where the sliders have both
        both = f"units.AU{unit[1:]}"
    try:
        return say(f"units.side.{unit[0]}", movement=say(both))
    except KeyError:
        return unit
