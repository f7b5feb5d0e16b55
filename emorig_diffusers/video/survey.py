"""Who is in a clip: its people, told by frames from all over it, with one shape and one state of rest each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..face.encode import EncodedFace
from ..painting.photo_texture import FLOW_SIZE, moving_grid
from ..photo.faces import Face, NoFaceError, find_faces
from ..photo.resample import transform_points
from ..photo.sharpness import photo_blur
from .clips import Frame
from .follow import People

SAMPLE = 12  # frames of a clip that are looked at before it is edited


@dataclass(frozen=True)
class Sighting:
    """A person in one of the frames."""

    rgb: np.ndarray
    face: Face

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.face.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class Rest:
    """What does not change of a person while a clip lasts.

    Attributes:
        shape: Shape code [1, S].
        face: The person at rest, encoded with it, of the frame that is most like the others.
        blur: Of the frames around the face beyond that of sharp ones, photo pixels: measured in one frame, it jumps as
            a mouth opens.
        grid: Side of the grid on which its motion is computed, pixels: that of the largest.
    """

    shape: Tensor
    face: EncodedFace
    blur: float
    grid: int


def survey(frames: Iterable[Frame], people: People) -> dict[int, list[Sighting]]:
    """Person -> where that person was seen.

    Raises:
        NoFaceError: Nobody was.
    """
    found: dict[int, list[Sighting]] = {}
    for frame in frames:
        there: list[int] = []
        for face in find_faces(frame.rgb):
            there.append(people.recognise(frame.rgb, face, there))
            found.setdefault(there[-1], []).append(Sighting(frame.rgb, face))
    if not found:
        raise NoFaceError("No face was found in any frame: use a clip in which a face is clearly visible.")
    return found


def people_in_order(found: Mapping[int, Sequence[Sighting]]) -> list[int]:
    """People from the left, by where they are on the average."""
    return sorted(found, key=lambda person: np.mean([one.face.box[0] + one.face.box[2] for one in found[person]]))


def choose_people(found: Mapping[int, Sequence[Sighting]], which: int | str) -> list[int] | None:
    """Whose faces are edited: those of "largest", or of a number from 1, counted from the left by where people are on
    the average; `None` for "all", whoever else may come.

    Raises:
        NoFaceError: There is nobody of that number.
    """
    if which == "all":
        return None
    if which == "largest":
        return [max(found, key=lambda person: sum(one.area for one in found[person]))]
    order = people_in_order(found)
    if not isinstance(which, int) or not 1 <= which <= len(order):
        count = "1 person" if len(order) == 1 else f"{len(order)} people"
        raise NoFaceError(f"There is no face {which}: the clip shows {count}, numbered from 1 at the left.")
    return [order[which - 1]]


def find_rest(pipe: Any, sightings: Sequence[Sighting]) -> Rest:
    """One shape, the median over frames, and the frame that is most like the others, of those with open eyes."""
    dark = torch.zeros(1, 9, 3)  # the light is nobody's, and takes time to fit
    read = lambda one, shape=None: pipe.encode_face(one.rgb, one.face, shape=shape, light=dark)
    shape = torch.cat([read(one).codes.shape for one in sightings]).median(0, keepdim=True).values
    faces = [read(one, shape) for one in sightings]
    blur = float(np.median([face_blur(one.rgb, face) for one, face in zip(sightings, faces)]))
    grid = max(map(moving_grid, faces))
    faces = [face for face in faces if not any(face.shut_eyes) and not face.covered] or faces
    codes = torch.cat([face.codes.expression for face in faces])
    far = (codes - codes.median(0, keepdim=True).values).norm(dim=1)
    return Rest(shape, faces[int(far.argmin())], blur, grid)


def face_blur(rgb: np.ndarray, face: EncodedFace) -> float:
    """Blur of a frame around a face as `EncodedFace.blur`."""
    matrix = face.grid_matrix(FLOW_SIZE)
    points = transform_points(matrix, face.face.landmarks[:, :2])
    return photo_blur(rgb, matrix, points) / float(np.linalg.norm(matrix[:, 0]))
