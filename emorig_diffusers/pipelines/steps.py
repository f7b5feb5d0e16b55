"""Edits that come one after the other: each goes on from the codes that the one before made, and only the last codes
are painted, so that the photo's pixels are moved once however many edits there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..face.encode import EncodedFace
from ..photo.faces import choose_faces, find_faces
from ..photo.io import read_photo
from .naming import naming_reference
from .request import ARGUMENTS, EditRequest

if TYPE_CHECKING:
    from .base import FacePipeline

STEP_ARGUMENTS = (
    *(name for name, one in ARGUMENTS.items() if one.metadata["asks"] and name != "edits"),
    "intensity",
    "modes",
)
"""Arguments that one of several edits may have."""


def steps_of(request: EditRequest, number: int) -> list[EditRequest]:
    """What comes before a request's own edit, of the face with a number from 1 at the left."""
    edits = request.edits
    steps = edits.get(number, ()) if isinstance(edits, Mapping) else edits or ()
    return [EditRequest(**step) for step in steps]


def encode_references(pipe: FacePipeline, request: EditRequest) -> EditRequest:
    """A request whose several edits have the faces of their reference photos instead of the photos."""
    edits = request.edits
    if not edits:
        return request
    by_face = edits if isinstance(edits, Mapping) else {0: edits}
    read = {number: [_with_face(pipe, step) for step in steps] for number, steps in by_face.items()}
    return replace(request, edits=read if isinstance(edits, Mapping) else read[0])


def _with_face(pipe: FacePipeline, step: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = step.get("reference")
    if reference is None or isinstance(reference, EncodedFace):
        return step
    with naming_reference():
        return {**step, "reference": pipe.encode(read_photo(reference).rgb, "largest")[0]}


def faces_of_edits(request: EditRequest, rgb: np.ndarray, faces: Any) -> Any:
    """Faces to encode in a photo uint8 [H, W, 3]: those that edits name by number, where they do, else `faces`.

    Raises:
        NoFaceError: There is no face of a number.
    """
    if not isinstance(request.edits, Mapping) or request.faces is not None:
        return faces
    found = find_faces(rgb)
    return [choose_faces(found, number)[0] for number in sorted(request.edits)]


def check_edits(pipe: FacePipeline, edits: Any) -> None:
    """Raise ValueError with one sentence for edits that cannot be done one after the other."""
    by_face = isinstance(edits, Mapping)
    numbered = by_face and edits and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in edits)
    if by_face and not numbered:
        raise ValueError(f"edits of several faces are given by their numbers from 1, got {list(edits)!r}.")
    for steps in edits.values() if by_face else [edits]:
        if not isinstance(steps, Sequence) or not all(isinstance(step, Mapping) for step in steps):
            raise ValueError(f"edits must be a list such as [{{'emotion': 'happy', 'intensity': 0.5}}], got {steps!r}.")
        for step in steps:
            _check_step(pipe, step)


def _check_step(pipe: FacePipeline, step: Mapping[str, Any]) -> None:
    for name in step:
        if name not in STEP_ARGUMENTS:
            raise ValueError(f"edits cannot have {name!r}: give {', '.join(STEP_ARGUMENTS)}.")
    if isinstance(step.get("emotion"), (list, tuple)):
        raise ValueError("Each of several edits has one emotion, or a blend of some.")
    try:
        pipe.check(EditRequest(**step))
    except ValueError as error:
        raise ValueError(f"edits: {error}") from None
