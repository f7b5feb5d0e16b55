"""What an edit does to the codes of a face: an emotion, another photo's expression, action units, a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.head import rotation_matrix
from ..models.landmark_fit import axis_angle
from ..models.occlusion import MOUTH_UNITS, SEEN_UNITS
from .codes import FaceCodes
from .emotions import (
    RECIPES,
    action_unit_offset,
    blend_expression,
    blend_shares,
    delay_lip_parting,
    emotion_offset,
    in_order,
)
from .encode import EncodedFace, RigMixin
from .gaze import Gaze, eye_turns, gaze_at_camera, gaze_units, with_looks_of
from .relax import clamp_lid_gap, relaxed_expression
from .signs import gone_with_smile, shown_already

MAX_ANGLE = 30.0  # degrees by which moved pixels turn a head about one axis; this and the next two by eye, on six heads
MAX_TURN = 45.0  # degrees about any axis
MAX_AWAY = 45.0  # degrees between the head's direction and the camera's: beyond, the far half of the face is smeared
UNDRAWN_UNITS = ("tongueOut",)  # units of which moved pixels show nothing


class EditMixin(RigMixin):
    """Methods of a pipeline that edits codes."""

    @property
    def recipes(self) -> Mapping[str, Mapping[str, float]]:
        """Emotion recipes: the checkpoint's own or the package's."""
        own = self.config.emotions or RECIPES
        return in_order(own)

    @property
    def emotion_codes(self) -> Mapping[str, Tensor] | None:
        """Emotions as expression and jaw [E + 3], for checkpoints that have them; they replace the recipes."""
        own = self.config.emotion_codes
        return in_order({name: torch.tensor(code) for name, code in own.items()}) if own else None

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Emotions that this checkpoint knows."""
        if self.emotion_codes is not None:
            return tuple(self.emotion_codes)
        return tuple(self.recipes) if self.head.config.expression_names else ()

    def emotion_change(self, emotion: str | Mapping[str, float]) -> Tensor:
        """Expression and jaw [E + 3] to add to a relaxed face for an emotion or a blend of some.

        Raises:
            ValueError: For an unknown emotion, or a share outside [0, 1.5].
        """
        codes = self.emotion_codes
        if codes is None:
            offset = emotion_offset(emotion, self.head.config.expression_names, self.recipes)
            return torch.cat([offset, torch.zeros(3)])
        neutral = self._neutral_code()
        shares = blend_shares(emotion, codes)
        return sum((share * (codes[name] - neutral) for name, share in shares.items()), 0 * neutral)

    def _neutral_code(self) -> Tensor:
        """Expression and jaw [E + 3] of the checkpoint's relaxed face."""
        codes = self.emotion_codes or {}
        return codes.get("neutral", torch.zeros(self.head.config.num_expression + 3))

    def relaxed_face(self, face: EncodedFace, asked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Expression [1, E] and jaw [1, 3] of the person at rest, on which a change [1, E] is `asked` for.

        Where components have names they are the person's own; a code without names is the same for all.
        """
        if self.head.config.expression_names:
            limits = self.encoder.relaxed_range
            return relaxed_expression(self.head, face.codes, limits, face.offsets, asked), torch.zeros(1, 3)
        neutral = self._neutral_code()[None]
        return neutral[:, :-3], neutral[:, -3:]

    def edit_codes(
        self,
        face: EncodedFace,
        emotion: str | Mapping[str, float] | None = None,
        intensity: float = 1.0,
        reference: EncodedFace | None = None,
        action_units: Mapping[str, float] | None = None,
        rotate: Sequence[float] | None = None,
        modes: Sequence[str] = ("exp",),
        gaze: Gaze | None = None,
        start: FaceCodes | None = None,
    ) -> FaceCodes:
        """Target codes of one face; the arguments mean what they mean in `__call__`, and `start` is what an earlier
        edit has made of its codes."""
        start = face.codes if start is None else start
        target, closing = start, (0.0, 0.0)
        if emotion is not None:
            change = self.emotion_change(emotion)
            expression = delay_lip_parting(change[:-3], self.head.config.expression_names, intensity)
            target = self._express(face, target, expression[None], change[None, -3:], intensity)
            kept = self._kept(start, emotion, intensity)
            target = target.with_(expression=torch.lerp(target.expression, start.expression, kept))
        if reference is not None:
            target = self._borrow(face, target, reference, intensity, modes)
            closing = [min(intensity, 1.0) * (shut and "exp" in modes) for shut in reference.shut_eyes]
        if rotate is not None and any(rotate):
            target = target.with_(pose=torch.cat([turned(target.pose[:, :3], rotate), target.pose[:, 3:]], 1))
        if isinstance(gaze, str):
            change = (target.expression - face.codes.expression)[0].tolist()
            gaze = gaze_at_camera(face, target.pose, eye_turns(dict(zip(self.head.config.expression_names, change))))
        for units in (action_units, gaze_units(gaze) if gaze is not None else None):
            if units:
                offset = action_unit_offset(units, self.head.config.expression_names)
                target = target.with_(expression=target.expression + offset)
        if face.covered:
            target = self.keep_mouth(face.codes, target)
        if not torch.equal(target.expression, start.expression):
            target = target.with_(expression=self._settled(face, target, closing))
        return target

    def _settled(self, face: EncodedFace, target: FaceCodes, closing: Sequence[float]) -> Tensor:
        """The target's expression [1, E] with lids that a head can show, `closing` as for `clamp_lid_gap`."""
        return clamp_lid_gap(self.head, face.codes, target, face.offsets, face.shut_eyes, closing)

    def keep_mouth(self, source: FaceCodes, target: FaceCodes) -> FaceCodes:
        """The target with the source's mouth and jaw, as far as the expression's components have names."""
        return self._with_units(target, source, lambda name: name.startswith(MOUTH_UNITS))

    def _with_units(self, target: FaceCodes, other: FaceCodes, wanted: Callable[[str], bool]) -> FaceCodes:
        """The target with the other's jaw and those of its named units that are `wanted`."""
        names = self.head.config.expression_names
        if not names:
            return target
        theirs = torch.tensor([wanted(name) for name in names])
        pose = torch.cat([target.pose[:, :3], other.pose[:, 3:]], 1)
        return target.with_(expression=torch.where(theirs, other.expression, target.expression), pose=pose)

    def _kept(self, start: FaceCodes, emotion: str | Mapping[str, float], intensity: float) -> Tensor:
        """Share of every unit [E] that an emotion leaves as it is, for it is shown already. Of blends and of a
        checkpoint's own recipes or codes that is not known."""
        names, shares = self.head.config.expression_names, {emotion: 1.0} if isinstance(emotion, str) else emotion
        (name, share), *others = shares.items()
        if others or self.emotion_codes is not None or self.recipes[name] != RECIPES.get(name):
            return torch.zeros(self.head.config.num_expression)
        return shown_already(name, start.expression, names, max(share * intensity, 1.0))

    def _express(
        self, face: EncodedFace, target: FaceCodes, change: Tensor, jaw: Tensor, intensity: float
    ) -> FaceCodes:
        """Codes whose expression and jaw differ from the relaxed face's by a change [1, E] and [1, 3]."""
        relaxed, shut = self.relaxed_face(face, change)
        expression = _lerp_expression(target.expression, relaxed, change, intensity)
        if names := self.head.config.expression_names:
            gone = gone_with_smile(face.codes.expression, change, names)
            expression = blend_expression(target.expression, relaxed, change, intensity, gone)
            # where an earlier edit has turned the eyes to
            kept = with_looks_of(expression, target.expression, names)
            expression = torch.where(change == 0, kept, expression)
        pose = torch.cat([target.pose[:, :3], _lerp_expression(target.pose[:, 3:], shut, jaw, intensity)], 1)
        return target.with_(expression=expression, pose=pose)

    def _borrow(
        self, face: EncodedFace, target: FaceCodes, reference: EncodedFace, intensity: float, modes: Sequence[str]
    ) -> FaceCodes:
        share, lent = min(intensity, 1.0), reference.codes
        if "exp" in modes:
            relaxed, shut = self.relaxed_face(reference)
            before = target
            target = self._express(face, target, lent.expression - relaxed, lent.pose[:, 3:] - shut, intensity)
            if reference.covered:
                target = self._with_units(target, before, lambda name: not name.startswith(SEEN_UNITS))
        if "pose" in modes:
            head = torch.lerp(target.pose[:, :3], lent.pose[:, :3], share)
            target = target.with_(pose=torch.cat([head, target.pose[:, 3:]], 1))
        if "light" in modes:
            target = target.with_(light=torch.lerp(target.light, lent.light, share))
        return target


def _lerp_expression(source: Tensor, relaxed: Tensor, change: Tensor, intensity: float) -> Tensor:
    """From the source's at intensity 0 to the relaxed face's plus a change at 1, and beyond."""
    return torch.lerp(source, relaxed + max(intensity, 1.0) * change, min(intensity, 1.0))


def check_turn(source: FaceCodes, target: FaceCodes) -> None:
    """Raise ValueError where the photo does not show enough of a head [1, ...] to move its pixels to a pose."""
    before, after = (rotation_matrix(codes.pose[0, :3].double()) for codes in (source, target))
    angle = lambda cosine: float(np.degrees(np.arccos(np.clip(float(cosine), -1, 1))))
    turn, away, was = angle((torch.trace(before.T @ after) - 1) / 2), angle(after[2, 2]), angle(before[2, 2])
    if turn > MAX_TURN:
        raise ValueError(f"The head would turn by {turn:.0f} degrees: {MAX_TURN:g} are the most, turn it less.")
    if away > MAX_AWAY and away > was + 1:
        raise ValueError(
            f"The head would look {away:.0f} degrees past the camera, where the photo does not show it: "
            f"{MAX_AWAY:g} are the most, turn it less."
        )


def head_angles(rotation: Tensor) -> tuple[float, float, float]:
    """(yaw, pitch, roll) in degrees by which a head of axis-angle [1, 3] is turned from looking into the camera, so
    that `turned` comes to it from there."""
    matrix = rotation_matrix(rotation[0].double()).numpy()
    yaw, roll = np.arctan2(-matrix[2, 0], matrix[2, 2]), np.arctan2(-matrix[0, 1], matrix[1, 1])
    pitch = -np.arcsin(np.clip(matrix[2, 1], -1, 1))
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def turned(rotation: Tensor, degrees: Sequence[float]) -> Tensor:
    """Axis-angle [1, 3] of a head turned further by (yaw, pitch, roll) degrees, in camera axes."""
    yaw, pitch, roll = np.radians(degrees)
    turn = torch.eye(3, dtype=torch.float64)
    for angle in ((0, 0, roll), (-pitch, 0, 0), (0, yaw, 0)):
        turn = turn @ rotation_matrix(torch.tensor(angle, dtype=torch.float64))
    matrix = turn @ rotation_matrix(rotation[0].double())
    return torch.from_numpy(axis_angle(matrix.numpy())).to(rotation)[None]
