"""The open default without its work: it notes what it is asked, and paints faces in a colour that tells what it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.pipelines.outputs import as_type


class RecordingPipeline(EmoRigPipeline):
    """Reads photos, finds faces and refuses as the open default does; a call takes no longer than that.

    Attributes:
        calls: (photo, options) of every call; a generator is told by its seed, "seed".
    """

    def __init__(self, **components: Any) -> None:
        super().__init__(**components)
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, image: Any, emotion: Any = None, **options: Any) -> EmoRigOutput:
        """One photo, one or some emotions; the results differ in the chosen faces' boxes alone."""
        output_type, face = options.pop("output_type", "pil"), options.get("face", "largest")
        if generator := options.pop("generator", None):
            options["seed"] = generator.initial_seed()
        photo = read_photo(image)
        faces = self.encode(photo.rgb, options.pop("faces", face))
        if options.get("reference") is not None:
            self.encode(read_photo(options["reference"]).rgb, "largest")
        asked = options if emotion is None else options | {"emotion": emotion}
        self.calls.append((image, asked))
        emotions = emotion if isinstance(emotion, list) else [emotion]
        pictures = [_painted(photo.rgb, faces, options | {"emotion": one}) for one in emotions]
        edited = [[SimpleNamespace(number=f.face.index + 1, box=f.face.box, notes=()) for f in faces] for _ in emotions]
        return EmoRigOutput([as_type(photo, rgb, output_type) for rgb in pictures], edited)


def _painted(rgb: np.ndarray, faces: list[Any], asked: dict[str, Any]) -> np.ndarray:
    plain = {key: value.name if isinstance(value, Path) else value for key, value in asked.items()}
    colour = list(hashlib.sha256(repr(sorted(plain.items())).encode()).digest()[:3])
    result = rgb.copy()
    for face in faces if asked.get("intensity", 1.0) else []:
        x0, y0, x1, y1 = (round(max(x, 0)) for x in face.face.box)
        result[y0:y1, x0:x1] = colour
    return result
