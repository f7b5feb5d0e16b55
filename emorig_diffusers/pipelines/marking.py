"""What a pipeline's results say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..provenance.edits import Edit
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
    kind = type(pipe).__name__
    name = Path(str(getattr(pipe, "name_or_path", None) or kind)).name
    what = ", ".join([*_emotions(request.emotion), *others])
    points = [getattr(getattr(face, "face", face), "landmarks", None) for face in faces]
    code = (SYSTEMS.index(kind) if kind in SYSTEMS else 0) if getattr(pipe, "watermark", True) else None
    return Edit(name, what or "expression", request.intensity, code, [p for p in points if p is not None], size)


def _emotions(emotion: Any) -> list[str]:
    if isinstance(emotion, Mapping):
        return [f"{name} {amount:g}" for name, amount in emotion.items()]
    if isinstance(emotion, (list, tuple)):  # of an animation
        return [text for one in emotion for text in _emotions(one)]
    return [] if emotion is None else [str(emotion)]
