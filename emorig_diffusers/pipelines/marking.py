"""What a pipeline's results say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..photo.faces import find_faces, same_place
from ..provenance.edits import Edit
from ..provenance.watermark import mark_faces, settled
from .request import ARGUMENTS, EditRequest

SYSTEMS = ("", "EmoRigPipeline", "DiffAEEmotionPipeline", "EmotionLDMPipeline")
"""Pipelines by the code of their mark; others have the first one."""
_OTHERS = [name for name, one in ARGUMENTS.items() if one.metadata["asks"] and name not in ("emotion", "prompt")]
"""What an edit may be besides an emotion, by names of `EditRequest`."""


def edit_of(pipe: Any, request: EditRequest, faces: Sequence[Any] = (), size: tuple[int, int] = (0, 0)) -> Edit | None:
    """What results of a request say; `None` where it asks for no change.

    Args:
        pipe: The pipeline, or blocks of one.
        request: Of one emotion.
        faces: Of the photo, as `FacePipeline.encode` returns them, for the mark; none for clips.
        size: (width, height) of the photo.
    """
    others = [name.replace("_", " ") for name in _OTHERS if getattr(request, name) is not None]
    if request.intensity == 0 and others in ([], ["reference"]):
        return None
    name = Path(str(getattr(pipe, "name_or_path", None) or type(pipe).__name__)).name
    what = ", ".join([*_emotions(request.emotion), *others])
    points = [getattr(getattr(face, "face", face), "landmarks", None) for face in faces]
    known = [one for one in points if one is not None]
    return Edit(name, what or "expression", request.intensity, code_of(pipe), known, size)


def code_of(pipe: Any) -> int | None:
    """The code of a pipeline's mark; `None` where it is to leave none."""
    kind = type(pipe).__name__
    return (SYSTEMS.index(kind) if kind in SYSTEMS else 0) if getattr(pipe, "watermark", True) else None


def marked(pipe: Any, photo: np.ndarray, result: np.ndarray, boxes: Iterable[Sequence[float]]) -> np.ndarray:
    """A result uint8 [H, W, 3] with the mark in its edited faces, for those who take pixels and write no file here.

    Args:
        pipe: What made it.
        photo: What it was made of, uint8 [H, W, 3].
        result: The edited photo.
        boxes: Of the edited faces (x0, y0, x1, y1), pixels.
    """
    code = code_of(pipe)
    if code is None or (photo == result).all():
        return result
    edited = [face for face in find_faces(result) if any(same_place(face.box, tuple(box)) for box in boxes)]
    return mark_faces(result, [settled(result, face) for face in edited], code)


def _emotions(emotion: Any) -> list[str]:
    if isinstance(emotion, Mapping):
        return [f"{name} {amount:g}" for name, amount in emotion.items()]
    if isinstance(emotion, (list, tuple)):  # of an animation
        return [text for one in emotion for text in _emotions(one)]
    return [] if emotion is None else [str(emotion)]
