"""Where eyes look: angles as units of a head, and back; and where they look in a photo, as far as landmarks tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..models.head import rotation_matrix
from ..photo.landmarks import IRISES, LIDS
from .encode import EncodedFace

MAX_GAZE = 30.0, 25.0  # degrees of yaw and pitch, either way: as far as eyes go before the head follows
UNIT_DEGREES = {"eyeLookOut": 30.0, "eyeLookIn": 30.0, "eyeLookUp": 25 / 0.6, "eyeLookDown": 25.0}
"""By how many degrees one unit turns an eye, so that a whole action unit (`emotions.ACTION_UNITS`) makes MAX_GAZE."""
ASIDE_UNITS = "eyeLookOut", "eyeLookIn"  # those that lids do not follow
SIDES = "Right", "Left"  # of the person, in the order of landmarks
TURNING_RADIUS = 0.0097  # metres on the head from the middle of an eyeball to its iris (Gullstrand's eye: 10 mm)
ASIDE_READ = 0.7  # of an eye's turn aside that MediaPipe's irises show; measured on edits of seven people
PAST_CAMERA = 0.6  # sine of the farthest that an eye is taken to look past the camera, by eye
SEEMS_UP = 0.15  # sine of the pitch at which people who look at the camera seem to look: medians .18, .13 of 51 and 112
SURE = 3.5  # degrees of yaw past the camera that may be chance: twice the deviation of 51 people who look at it
EYES_KEPT = "Eyes that are shut or hidden were left as they look."
Gaze = Sequence[float] | Literal["camera"]


def gaze_units(gaze: Sequence[float]) -> dict[str, float]:
    """Action units of a gaze (yaw, pitch) in degrees, to the person's left and up, against the photo's own."""
    yaw, pitch = (float(angle) / most for angle, most in zip(gaze, MAX_GAZE))
    return {"AU61": max(yaw, 0.0), "AU62": max(-yaw, 0.0), "AU63": max(pitch, 0.0), "AU64": max(-pitch, 0.0)}


def eye_turns(change: Mapping[str, float]) -> list[tuple[float, float]]:
    """(yaw, pitch) in degrees by which a change of named units turns the person's right and left eye, to the person's
    left and up, within MAX_GAZE."""
    turns = []
    for side in SIDES:
        out, inwards, up, down = (degrees * change.get(unit + side, 0.0) for unit, degrees in UNIT_DEGREES.items())
        yaw = out - inwards if side == "Left" else inwards - out
        yaw, pitch = (min(max(angle, -most), most) for angle, most in zip((yaw, up - down), MAX_GAZE))
        turns.append((yaw, pitch))
    return turns


def with_looks_of(expression: Tensor, other: Tensor, names: Sequence[str], units: Sequence[str] = ()) -> Tensor:
    """An expression [1, E] whose named units that turn eyes are another one's; or of these, units without sides."""
    turning = [unit + side for unit in units or UNIT_DEGREES for side in SIDES]
    return torch.where(torch.tensor([name in turning for name in names], dtype=torch.bool), other, expression)


def look_direction(face: EncodedFace) -> Tensor:
    """Where a face looks in its photo: a unit vector [3] in the camera's axes (right, up, to the viewer), float64.

    The head's eyes look straight ahead; how far irises were found from there, against the lids around them, tells the
    rest. Both eyes together: what lids and vergence shift, they shift in opposite ways. Of 51 people who look at the
    camera its yaw deviates by 1.7 degrees; its pitch by 5, and it hardly follows the eyes, for lids go along with them.
    """
    ahead = rotation_matrix(face.codes.pose[0, :3].double())[:, 2]
    metres = torch.from_numpy(np.asarray(face.residual)).double() / face.codes.camera[0, 0].double()
    right, left = (metres[iris] - metres[list(lids)].mean(0) for iris, lids in zip(IRISES, LIDS))
    aside = (right + left) / 2 / TURNING_RADIUS
    flat = ahead[:2] + torch.stack([aside[0] / ASIDE_READ, -aside[1] - SEEMS_UP])
    flat = flat * (PAST_CAMERA / flat.norm().clamp(min=PAST_CAMERA))
    return torch.cat([flat, (1 - flat.square().sum()).sqrt()[None]])


def carried_look(face: EncodedFace, pose: Tensor) -> Tensor:
    """The same [3] after the head has turned to a pose [1, 6] and its eyes have gone along."""
    before, after = (rotation_matrix(angles[0, :3].double()) for angles in (face.codes.pose, pose))
    return after @ before.T @ look_direction(face)


def turned_look(look: Tensor, turn: tuple[float, float], pose: Tensor) -> Tensor:
    """A direction [3] turned by (yaw, pitch) in degrees about the axes of a head in a pose [1, 6]."""
    yaw, pitch = np.radians(turn)
    head = rotation_matrix(pose[0, :3].double())
    aside, up = (rotation_matrix(torch.tensor(angle, dtype=torch.float64)) for angle in ((0, yaw, 0), (-pitch, 0, 0)))
    return head @ aside @ up @ head.T @ look


def gaze_at_camera(
    face: EncodedFace, pose: Tensor, turns: Sequence[tuple[float, float]] = ((0.0, 0.0),)
) -> tuple[float, float]:
    """The gaze (yaw, 0) in degrees, within MAX_GAZE, with which a face looks at the camera once its head has a pose
    [1, 6] and its eyes have turned already; no yaw where it does so without one."""
    x, _, z = carried_look(face, pose).tolist()
    past = float(np.degrees(np.arctan2(x, z)))
    yaw = -(past if abs(past) > SURE else 0.0) - float(np.mean([turn[0] for turn in turns]))
    return float(np.clip(yaw, -MAX_GAZE[0], MAX_GAZE[0])), 0.0
