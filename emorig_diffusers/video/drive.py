"""A photo whose face does what somebody in a clip does.

What the clip's person shows in a frame is compared with that person at rest, and the difference is put on what the
photo shows: two people's different faces do not matter. Rest is the middle of the CALMEST of some frames from all over
the clip, those whose expression is nearest to the person's own relaxed face.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluation.metrics.identity import IdentityJudge
from ..face.codes import FaceCodes
from ..face.encode import EncodedFace
from ..face.relax import clamp_lid_gap, lip_gaps, with_lip_gaps
from ..models.head import rotation_matrix
from ..models.landmark_fit import axis_angle
from ..photo.masks import ramp
from ..pipelines.base import FacePipeline
from ..pipelines.marking import edit_of
from ..pipelines.request import EditRequest
from .change import EYE_OPEN, eye_openings
from .clips import ClipSettings, Frame
from .edit import AHEAD, presence
from .follow import People, Watched, ahead, follow, without_pixels
from .portrait import Lights, Portrait
from .reading import Clip
from .survey import Sighting, choose_people, survey

SAMPLE = 16  # frames of a clip in which its person's rest is looked for
CALMEST = 3  # of them that are the rest: their mean has less of a single frame's noise
UNIT_RANGE = 0.0, 1.0  # of named units, beyond which movement of the clip does not take a face further than the photo
TURN_STEPS = 8  # halvings by which the most of a turn is found that a photo can show: to a 256th of it
LIMITED = "the clip's head turns further than the photo can show: there it turns as far as that goes."


@dataclass(frozen=True)
class DriverRest:
    """A clip's person at rest.

    Attributes:
        shape: Shape code [1, S].
        codes: Mean of the calmest frames' codes [1, ...].
        offsets: Mean of what their codes leave over [V, 2].
        openings: How far the right and left eye are open.
    """

    shape: Tensor
    codes: FaceCodes
    offsets: Tensor
    openings: Sequence[float]


class Drive:
    """A photo's faces moved by a clip.

    Args:
        pipe: Any pipeline with a head.
        photo: As `FacePipeline.__call__` takes one.
        clip: From `reading.open_clip`.
        driver: Whose face of the clip it is: "largest", or a number from 1 counted from the left.
        seed: Of the noise, which is the same in all frames.
        given: Arguments of `FacePipeline.__call__` that say which faces of the photo move, how much (`intensity`), and
            how they are drawn.

    Attributes:
        portrait: The photo.
        limited: Whether the clip's head has turned further than the photo can show, in the frames made so far.

    Raises:
        NoFaceError, PhotoError, ValueError: There is no face in the photo or in the clip, or as for an edit.
    """

    def __init__(
        self, pipe: FacePipeline, photo: Any, clip: Clip, driver: int | str = "largest", seed: int = 0, **given: Any
    ) -> None:
        request = EditRequest(**pipe.defaults | given)
        check_drive(pipe, request, driver)
        self.portrait, self.clip, self.limited = Portrait(pipe, photo, request, seed), clip, False
        self.pipe, self.share = self.portrait.pipe, request.intensity
        self.people = People(IdentityJudge().embed)
        found = survey(clip.sample(SAMPLE), self.people)
        [self.driver] = choose_people(found, driver) or [0]
        with torch.no_grad():
            self.rest = find_driver_rest(self.pipe, found[self.driver])

    @property
    def settings(self) -> ClipSettings:
        """How frames are stored: at the clip's times, in the photo's colours."""
        return ClipSettings(self.clip.settings.rate, self.clip.settings.time_base)

    def frames(self) -> Iterator[Frame]:
        """The photo for each frame of the clip; its own expression comes back where the clip's face is lost."""
        times: deque[Fraction] = deque()
        lights = self.portrait.lights(self.portrait.codes)

        def targets() -> Iterator[tuple[list[FaceCodes], Lights]]:
            for now, around in ahead(follow(self.clip.frames(), self.people), AHEAD, done=without_pixels):
                times.append(now.frame.time)
                yield self._targets(now, around), lights

        edit = edit_of(self.pipe, self.portrait.request)
        for rgb in self.portrait.draw_each(targets()):
            yield Frame(rgb, times.popleft(), edit, self.portrait.landmarks(rgb))

    @torch.no_grad()
    def _targets(self, now: Watched, around: Sequence[Watched]) -> list[FaceCodes]:
        """Codes of each face of the photo for a frame."""
        one = now.faces.get(self.driver)
        if one is None:
            return self.portrait.codes
        light = self.rest.codes.light  # any will do: nothing is lit by it
        seen = self.pipe.encode_face(now.frame.rgb, one.face, shape=self.rest.shape, light=light)
        share = presence(one, now, around)
        return [self._target(face, seen, share) for face in self.portrait.faces]

    def _target(self, face: EncodedFace, seen: EncodedFace, present: float) -> FaceCodes:
        """Codes of a face of the photo, as a face of the clip is seen, to a share."""
        share, own, rest = self.share * present, face.codes, self.rest.codes
        if share <= 0:
            return own
        change = share * (seen.codes.expression - rest.expression)
        jaw = own.pose[:, 3:] + share * (seen.codes.pose[:, 3:] - rest.pose[:, 3:])
        target = own.with_(expression=own.expression + change, pose=torch.cat([own.pose[:, :3], jaw], 1))
        if face.covered:
            target = self.pipe.keep_mouth(own, target)
        if self.pipe.head.config.expression_names:
            target = target.with_(expression=self._settled(face, seen, target, share))
        return self._turned(own, target, seen.codes, share)

    def _settled(self, face: EncodedFace, seen: EncodedFace, target: FaceCodes, share: float) -> Tensor:
        """The target's ψ [1, E] with units, lips and lids that a face can have."""
        own, head = face.codes, self.pipe.head
        low, high = own.expression.clamp(max=UNIT_RANGE[0]), own.expression.clamp(min=UNIT_RANGE[1])
        target = target.with_(expression=target.expression.clamp(low, high))
        if not face.covered and not seen.covered:
            parted = lip_gaps(head, seen.codes, seen.offsets) - lip_gaps(head, self.rest.codes, self.rest.offsets)
            wanted = lip_gaps(head, own, face.offsets) + share * parted
            target = target.with_(expression=with_lip_gaps(head, own, target, face.offsets, wanted))
        open_now = zip(eye_openings(seen.face.landmarks), self.rest.openings)
        closing = [min(share, 1.0) * (1 - float(ramp(np.float64(now / rest), *EYE_OPEN))) for now, rest in open_now]
        return clamp_lid_gap(head, own, target, face.offsets, face.shut_eyes, closing)

    def _turned(self, own: FaceCodes, target: FaceCodes, seen: FaceCodes, share: float) -> FaceCodes:
        """The target turned as the clip's head is against its rest, as far as the photo shows enough of the head."""
        turn = share * torch.from_numpy(axis_angle((_rotation(seen) @ _rotation(self.rest.codes).T).numpy()))
        if self._shows(own, after := _turned_by(target, turn)):
            return after
        self.limited, low, high = True, 0.0, 1.0
        for _ in range(TURN_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._shows(own, _turned_by(target, middle * turn)) else (low, middle)
        return _turned_by(target, low * turn)

    def _shows(self, own: FaceCodes, target: FaceCodes) -> bool:
        try:
            self.pipe.painter.check_target(own, target)
        except ValueError:
            return False
        return True


def check_drive(pipe: FacePipeline, request: EditRequest, driver: int | str = "largest") -> None:
    """Raise ValueError with one sentence for what cannot be done; arguments as for `Drive`."""
    asked: Mapping[str, Any] = {"emotion": request.emotion, "reference": request.reference, "rotate": request.rotate,
                                "action_units": request.action_units, "codes": request.codes,
                                "edits": request.edits, "gaze": request.gaze, "light_turn": request.light_turn,
                                "light_strength": request.light_strength}  # fmt: skip
    for name, value in asked.items():
        if value is not None:
            raise ValueError(f"The clip says what the face does: leave {name} out.")
    pipe.check(replace(request, rotate=(0, 0, 0)))  # which needs a head
    if driver == "all":
        raise ValueError("One person of the clip moves the photo's face: give the largest, or a number from 1.")


def find_driver_rest(pipe: Any, sightings: Sequence[Sighting]) -> DriverRest:
    """One shape, the median over frames, and the calmest of them, of those with open eyes and mouths in sight."""
    read = lambda one, shape=None: pipe.encode_face(one.rgb, one.face, shape=shape)
    shape = torch.cat([read(one).codes.shape for one in sightings]).median(0, keepdim=True).values
    faces = [read(one, shape) for one in sightings]
    faces = [face for face in faces if not any(face.shut_eyes) and not face.covered] or faces
    strength = lambda face: float((face.codes.expression - pipe.relaxed_face(face)[0]).norm())
    calm = sorted(faces, key=strength)[:CALMEST]
    mean = lambda name: torch.cat([getattr(face.codes, name) for face in calm]).mean(0, keepdim=True)
    codes = calm[0].codes.with_(**{name: mean(name) for name in ("expression", "pose", "camera")})
    openings = np.mean([eye_openings(face.face.landmarks) for face in calm], axis=0)
    offsets = torch.stack([face.offsets for face in calm]).mean(0)
    return DriverRest(shape, codes, offsets, [max(float(opening), 1e-3) for opening in openings])


def _rotation(codes: FaceCodes) -> Tensor:
    return rotation_matrix(codes.pose[0, :3].double())


def _turned_by(codes: FaceCodes, turn: Tensor) -> FaceCodes:
    """Codes with the head turned further by an axis-angle [3] in camera axes."""
    matrix = rotation_matrix(turn.double()) @ _rotation(codes)
    head = torch.from_numpy(axis_angle(matrix.numpy())).to(codes.pose)[None]
    return codes.with_(pose=torch.cat([head, codes.pose[:, 3:]], 1))
