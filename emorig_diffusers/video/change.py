"""What an edit adds to every frame of a person.

A still's edit is absolute: it relaxes the face that it finds, closes a grin, and puts the emotion there. In a clip that
is done once, to the person's rest, and what it changed there is added to every frame, so that speech, blinks and the
person's own smiles go on. Where they and the change would be at odds, the change yields smoothly:

- Own movement in the change's direction counts OWN_SHARE: somebody who laughs while looking happy laughs a little more,
  and one who laughs more than was asked keeps the laugh.
- Lids follow a blink: what raises or lowers them fades as the eye closes.
- Lips that speak keep their own distance, so that they meet at b, p and m; in silence they part as the emotion wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..face.codes import FaceCodes
from ..face.edit import turned
from ..face.emotions import PARTING_UNITS
from ..face.encode import EncodedFace
from ..face.light import relit
from ..face.relax import clamp_lid_gap, lip_gaps, with_lip_gaps
from ..models.occlusion import SEEN_UNITS
from ..photo.landmarks import LIDS, outline_height
from ..photo.masks import ramp
from ..pipelines.emorig import EmoRigPipeline
from ..pipelines.request import EditRequest

OWN_SHARE = 0.5  # of own movement that is added to a change in the same direction, by eye
SPEECH_UNITS = ("jaw", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRoll", "mouthLeft", "mouthRight", "eyeBlink",
                "eyeLook", "tongue")  # fmt: skip
"""Units whose own movement counts in full: speech, blinks and looks."""
LID_UNITS = ("eyeBlink", "eyeWide")
EYE_OPEN = 0.25, 0.8  # of its opening at rest, from which the change of lids sets in, and from which it is whole
SYLLABLE = 0.12  # seconds before and after a moment in which lips move when they speak
SPEAKS = 0.03, 0.08  # range of the lips' distance in that time, in distances of the eyes, which begins to count as
# speech, and which is speech: of people who keep still .01 to .03, of talking ones .05 to .4
SPEECH_COMES = 0.4, 0.15  # seconds before a syllable from which it counts, and from which it does so in full, and
SPEECH_GOES = 0.5, 1.0  # after it: lips part and close over the time between, and not in the pauses of a sentence
LEAST_TURN = 0.02  # of a turn that a head is left in where it has turned too far itself


class Change:
    """The change of one person's face.

    Args:
        pipe: Has the head and knows the emotions.
        rest: The person at rest.
        request: What is asked; its turn and its light are added frame by frame.
        reference: The reference's face.
    """

    def __init__(
        self, pipe: EmoRigPipeline, rest: EncodedFace, request: EditRequest, reference: EncodedFace | None = None
    ) -> None:
        self.pipe, self.rest, self.turn = pipe, rest, request.rotate
        self.light = request.light_turn, request.light_strength
        still = replace(request, rotate=None, light_turn=None, light_strength=None)
        ways = (still.emotion, reference, still.codes, still.gaze)
        asks = still.action_units or still.edits or any(way is not None for way in ways)
        target = pipe.edit(rest, still, reference) if asks else rest.codes
        self.expression = target.expression - rest.codes.expression
        self.jaw = target.pose[:, 3:] - rest.codes.pose[:, 3:]
        self.names = pipe.head.config.expression_names
        self.parting = self._gaps(rest, target) - self._gaps(rest, rest.codes) if self.names else torch.zeros(0)
        self.openings = [max(height, 1e-3) for height in eye_openings(rest.face.landmarks)]

    def codes(self, face: EncodedFace, share: float, speaking: float, hidden: float) -> FaceCodes:
        """Codes that a frame's face is to show.

        Args:
            face: The face in this frame.
            share: Of the change, in [0, 1].
            speaking: How surely the person speaks, in [0, 1].
            hidden: How surely something is before the mouth, in [0, 1]; then only eyes and brows change.
        """
        codes = face.codes
        if share <= 0:
            return codes
        change = self._yielding(codes) * share * self._weights(face, speaking, hidden)
        pose = torch.cat([codes.pose[:, :3], codes.pose[:, 3:] + share * (1 - hidden) * self.jaw], 1)
        target = codes.with_(expression=codes.expression + change, pose=pose)
        if self.names and change.any():
            wanted = self._gaps(face, codes) + share * (1 - hidden) * (1 - speaking) * self.parting
            target = target.with_(expression=with_lip_gaps(self.pipe.head, codes, target, face.offsets, wanted))
            target = target.with_(expression=clamp_lid_gap(self.pipe.head, codes, target, face.offsets))
        return self._relit(self._turned(codes, target, share), codes, share)

    def _yielding(self, codes: FaceCodes) -> Tensor:
        """The change [1, E], less where the face moves the same way by itself."""
        own = codes.expression - self.rest.codes.expression
        same = (own * self.expression > 0).float()
        if self.names:
            same = same * torch.tensor([0.0 if name.startswith(SPEECH_UNITS) else 1.0 for name in self.names])
        size = (self.expression.abs() - (1 - OWN_SHARE) * same * own.abs()).clamp(min=0)
        return size * self.expression.sign()

    def _weights(self, face: EncodedFace, speaking: float, hidden: float) -> Tensor:
        """How much of each unit's change [E] a frame takes."""
        if not self.names:
            return torch.full((1,), 1 - hidden)
        now = eye_openings(face.face.landmarks)
        opened = {side: float(ramp(h / rest, *EYE_OPEN)) for side, h, rest in zip(_SIDES, now, self.openings)}
        lids = lambda name: opened["Left" if name.endswith("Left") else "Right"] if name.startswith(LID_UNITS) else 1.0
        lips = lambda name: 1 - speaking if name.startswith(PARTING_UNITS) else 1.0
        seen = lambda name: 1.0 if name.startswith(SEEN_UNITS) else 1 - hidden
        return torch.tensor([lids(name) * lips(name) * seen(name) for name in self.names])

    def _gaps(self, face: EncodedFace, codes: FaceCodes) -> Tensor:
        return lip_gaps(self.pipe.head, codes, face.offsets)

    def _turned(self, codes: FaceCodes, target: FaceCodes, share: float) -> FaceCodes:
        """The target turned as asked, or as far as the frame shows enough of the head for it."""
        if self.turn is None or not any(self.turn):
            return target
        while share > LEAST_TURN:
            head = turned(target.pose[:, :3], [share * angle for angle in self.turn])
            after = target.with_(pose=torch.cat([head, target.pose[:, 3:]], 1))
            try:
                self.pipe.painter.check_target(codes, after)
            except ValueError:
                share *= 0.9
                continue
            return after
        return target


    def _relit(self, target: FaceCodes, codes: FaceCodes, share: float) -> FaceCodes:
        """The target in a share of the light that is asked for."""
        turn, strength = self.light
        turn = [share * angle for angle in turn] if turn is not None else None
        return relit(target, codes, turn, 1 + share * (strength - 1) if strength is not None else None)


_SIDES = ("Right", "Left")


def eye_openings(landmarks: np.ndarray) -> list[float]:
    """How far the person's right and left eye are open, in widths of the eye."""
    return [outline_height(landmarks[list(lids), :2]) for lids in LIDS]


def speaking(distances: Sequence[tuple[float, float]]) -> float:
    """How surely somebody speaks at a moment, in [0, 1], which changes smoothly.

    Args:
        distances: Of the lips, at times around the moment: (seconds after it, distance).
    """
    times, values = np.array(distances, float).reshape(-1, 2).T
    near = np.abs(times[:, None] - times) <= SYLLABLE + 1e-6
    ranges = np.array([np.ptp(values[row]) for row in near])
    surely = ramp(ranges, *SPEAKS) * ramp(-times, *(-second for second in SPEECH_COMES))
    return float((surely * ramp(times, *(-second for second in SPEECH_GOES[::-1]))).max(initial=0.0))
