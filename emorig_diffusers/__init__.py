"""Change the emotion of a face in a photo and keep the person."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .codes import FaceCodes
    from .emotions import ACTION_UNITS, EMOTIONS
    from .faces import NoFaceError
    from .photos import PhotoError
    from .pipeline_diffae import DiffAEEmotionPipeline
    from .pipeline_emorig import EmoRigOutput, EmoRigPipeline

_HOMES = {
    "ACTION_UNITS": "emotions",
    "DiffAEEmotionPipeline": "pipeline_diffae",
    "EMOTIONS": "emotions",
    "EmoRigOutput": "pipeline_emorig",
    "EmoRigPipeline": "pipeline_emorig",
    "FaceCodes": "codes",
    "NoFaceError": "faces",
    "PhotoError": "photos",
}

__all__ = [
    "__version__", "ACTION_UNITS", "DiffAEEmotionPipeline", "EMOTIONS", "EmoRigOutput", "EmoRigPipeline",
    "FaceCodes", "NoFaceError", "PhotoError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): torch takes seconds, which `emorig --help` need not wait for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
