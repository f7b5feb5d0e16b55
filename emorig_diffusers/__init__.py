"""Change the emotion of a face in a photo and keep the person."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .face.codes import FaceCodes
    from .face.emotions import ACTION_UNITS, EMOTIONS
    from .photo.faces import NoFaceError
    from .photo.io import PhotoError
    from .pipelines.diffae import DiffAEEmotionPipeline
    from .pipelines.emorig import EmoRigOutput, EmoRigPipeline
    from .pipelines.emotion_ldm import EmotionLDMPipeline

_HOMES = {
    "ACTION_UNITS": "face.emotions",
    "DiffAEEmotionPipeline": "pipelines.diffae",
    "EMOTIONS": "face.emotions",
    "EmoRigOutput": "pipelines.outputs",
    "EmoRigPipeline": "pipelines.emorig",
    "EmotionLDMPipeline": "pipelines.emotion_ldm",
    "FaceCodes": "face.codes",
    "NoFaceError": "photo.faces",
    "PhotoError": "photo.io",
}

__all__ = [
    "__version__", "ACTION_UNITS", "DiffAEEmotionPipeline", "EMOTIONS", "EmoRigOutput", "EmoRigPipeline",
    "EmotionLDMPipeline", "FaceCodes", "NoFaceError", "PhotoError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): torch takes seconds, which `emorig --help` need not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
