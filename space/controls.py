"""What the controls of the tab of photos ask, and what they get so that they ask for something."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from editor import Editor
from looks import ALL, LEAST, Edits, History, Look, Settings
from offer import UNITS
from photo_page import AXES, MAX_ANGLE, MOST_SHAPE, Page

Update = dict[Any, Any]
"""Component -> what it gets."""
UNIT_STEP = 0.05  # of the sliders of single movements


class Controls:
    """Between the page's controls and `Settings`. Sliders of the head start where the photo's face is: what they ask is
    by how far they were moved.

    Args:
        editor: Tells what faces show.
        shown: The page.
    """

    def __init__(self, editor: Editor, shown: Page) -> None:
        self.editor, self.shown = editor, shown
        self.lent = gr.State()  # a path that the reference is to get, and when: it takes no updates (`parts.upload`)

    @property
    def components(self) -> list[Any]:
        """What gets updates."""
        return [self.lent if one is self.shown.reference else one for one in self.shown.controls]

    def wanted(self, history: History, controls: Sequence[Any]) -> Look:
        """The look that controls ask for."""
        face, seed, count, basis, emotion, strength, reference, lends, shape, names, amount, *moved = controls
        (camera, *eyes, lamp_yaw, lamp_pitch, hard), moved = moved[:6], moved[6:]
        # sliders of one face may come with the choice of another, if that was just made: their basis comes with them
        own, others = json.loads(basis) if basis else ([0.0] * len(moved), {})
        changed = [round(value - start, 3) for value, start in zip(moved, own, strict=True)]
        turned, units = tuple(changed[: len(AXES)]), dict(zip(UNITS, changed[len(AXES) :]))
        units = {unit: round(units.get(unit, 0.0) + others.get(unit, 0.0), 3) for unit in [*units, *others]}
        settings = Settings(
            emotion,
            strength,
            reference,
            tuple(lends),
            units,
            turned,
            "camera" if camera else tuple(eyes),
            (lamp_yaw, lamp_pitch),
            hard,
            dict.fromkeys(names, amount),
            MOST_SHAPE * shape,
        )
        look = history.look or Look({1: Edits()}, "1")
        faces = look.faces if self.editor.offer.head else dict.fromkeys(look.faces, Edits())
        face = face if face == ALL or face in map(str, faces) else look.face
        return replace(look, faces=faces, face=face, seed=int(seed or 0), count=count).asking(settings)

    def _sliders(self, history: History, settings: Settings) -> dict[str, dict[str, float]]:
        """Values of the sliders: what the face shows, and what settings change of it."""
        if not history.look:
            return {"angles": dict.fromkeys(AXES, 0.0), "units": dict.fromkeys(UNITS, 0.0)}
        angles, units = self.editor.shown(str(history.photo), history.look)
        step = lambda value: round(UNIT_STEP * round(min(max(value, -1.0), 1.0) / UNIT_STEP), 2)
        changes: Mapping[str, float] = settings.action_units
        return {
            "angles": {axis: round(own) + change for axis, own, change in zip(AXES, angles, settings.rotate)},
            "units": {unit: step(step(own) + changes.get(unit, 0.0)) for unit, own in units.items()},
        }

    def slider_updates(self, history: History, settings: Settings) -> Update:
        """Sliders of the head that ask for settings."""
        sliders, basis = self._sliders(history, settings), self._sliders(history, Settings())
        own, shown = basis["angles"], {unit: sliders["units"][unit] - start for unit, start in basis["units"].items()}
        # what sliders do not reach, and units that have none, go with them
        others = {unit: round(amount - shown.get(unit, 0.0), 3) for unit, amount in settings.action_units.items()}
        others = {unit: amount for unit, amount in others.items() if abs(amount) > LEAST}
        limits = lambda axis: {"minimum": own[axis] - MAX_ANGLE, "maximum": own[axis] + MAX_ANGLE}
        turned = zip(self.shown.angles, own)
        return {
            self.shown.basis: json.dumps([[*own.values(), *basis["units"].values()], others]),
            **{one: gr.update(value=sliders["angles"][axis], **limits(axis)) for one, axis in turned},
            **{one: sliders["units"][unit] for one, unit in zip(self.shown.units, UNITS)},
        }

    def own(self, history: History, sliders: Sequence[Any]) -> Update:
        """Some of the head's sliders where the face is."""
        updates = self.slider_updates(history, Settings())
        return {one: updates[one] for one in sliders}

    def updates(self, history: History, settings: Settings | None = None) -> Update:
        """Controls that ask for settings, or else for what the present look does."""
        shown, look = self.shown, history.look
        settings = settings or (look.edits.open if look else Settings())
        names, amount = shown.attributes
        camera, *eyes = shown.gaze
        angles = (0.0, 0.0) if isinstance(settings.gaze, str) else settings.gaze
        return {
            shown.face: look.face if look else gr.skip(),
            shown.sampling[0]: look.seed if look else 0,
            shown.sampling[1]: look and look.count or self.editor.offer.steps,
            shown.emotion: settings.emotion,
            shown.strength: settings.intensity,
            self.lent: (settings.reference, time.monotonic()),
            shown.lends: list(settings.modes),
            shown.shape: settings.shape_guidance / MOST_SHAPE,
            names: list(settings.attributes),
            amount: next(iter(settings.attributes.values()), 1.0),
            camera: settings.gaze == "camera",
            **dict(zip(eyes, angles)),
            **dict(zip(shown.light, (*settings.light_turn, settings.light_strength))),
            **self.slider_updates(history, settings),
        }
