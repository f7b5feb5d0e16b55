"""A photo whose faces are drawn again and again under other codes: read, found and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from ..face.codes import FaceCodes
from ..face.encode import EncodedFace, unchanged
from ..face.relax import clamp_lid_gap
from ..painting.base import PhotoEdits
from ..painting.photo_texture import PhotoTexturePainter, moving_grid
from ..painting.stages.mouth_light import TeethLight
from ..photo.io import read_photo
from ..pipelines.base import FacePipeline
from ..pipelines.checks import need
from ..pipelines.emorig import EmoRigPipeline
from ..pipelines.naming import naming_reference
from ..pipelines.request import EditRequest, Emotion
from ..pipelines.steps import faces_of_edits
from .workers import in_order

Lights = Sequence[Callable[[], TeethLight]]
"""What gives the light on each face's teeth."""
_LEFT_OUT = {"latents": "latents", "callback_on_step_end": "a callback", "generator": "a generator"}


class Portrait:
    """Faces of a photo that move.

    Args:
        pipe: Any pipeline with a head.
        photo: As `FacePipeline.__call__` takes one.
        request: What is asked of the faces.
        seed: Of the noise, which is the same in all pictures.

    Attributes:
        rgb: The photo, uint8 [H, W, 3].
        faces: Those that move.
        keys: What they come to on their way, to be drawn as a photo's edit is.

    Raises:
        NoFaceError, PhotoError, ValueError: As for an edit.
    """

    def __init__(self, pipe: FacePipeline, photo: Any, request: EditRequest, seed: int = 0) -> None:
        need(pipe, "head", "face that moves")
        assert isinstance(pipe, EmoRigPipeline)  # the only ones with a head
        for name, what in _LEFT_OUT.items():
            if getattr(request, name) is not None:
                raise ValueError(f"A photo that moves cannot be given {what}: leave {name} out.")
        self.pipe, self.request, self.seed = pipe, request, seed
        self.sampling = pipe.sampling_of(request)
        self.keys: list[list[FaceCodes]] = []
        self.reference: tuple[np.ndarray, EncodedFace] | None = None
        if request.reference is not None:
            with naming_reference():
                rgb = read_photo(request.reference).rgb
                self.reference = rgb, pipe.encode(rgb, "largest", request.crop, request.target_encoder)[0]
        self.rgb = read_photo(photo).rgb
        faces: Any = request.face if request.faces is None else request.faces
        faces = faces_of_edits(request, self.rgb, faces)
        faces = pipe.encode(self.rgb, faces, request.crop, request.source_encoder)
        self.faces = [replace(face, grid=moving_grid(face)) for face in faces]

    @property
    def codes(self) -> list[FaceCodes]:
        """What the photo shows of each face."""
        return [face.codes for face in self.faces]

    def edited(self, emotion: Emotion | None) -> list[FaceCodes]:
        """Codes of each face after the edit that is asked for, with an emotion."""
        request, lent = replace(self.request, emotion=emotion), self.reference and self.reference[1]
        return [self.pipe.edit(face, request, lent) for face in self.faces]

    def closing(self, targets: Sequence[FaceCodes], share: float) -> list[FaceCodes]:
        """Codes of each face with lids as near as a share of the way to where they meet."""
        close = lambda face, codes: clamp_lid_gap(
            self.pipe.head, face.codes, codes, face.offsets, face.shut_eyes, (share, share)
        )
        return [codes.with_(expression=close(face, codes)) for face, codes in zip(self.faces, targets)]

    def landmarks(self, rgb: np.ndarray) -> list[np.ndarray]:
        """Of the faces that a picture, as `draw` gave it, changes: none where it is the photo itself."""
        return [] if rgb is self.rgb else [face.face.landmarks for face in self.faces]

    def lights(self, state: Sequence[FaceCodes]) -> Lights:
        """What gives the light on each face's teeth as a photo's edit finds it under codes: that which blinks, or lips
        on their way, show of it would make teeth flicker."""
        painter = self.pipe.painter
        if not isinstance(painter, PhotoTexturePainter):
            return []
        find = lambda face, codes: cache(partial(painter.light_of_edit, self.rgb, face, codes))
        return [find(face, codes) for face, codes in zip(self.faces, state)]

    def draw_each(self, targets: Iterable[tuple[Sequence[FaceCodes], Lights]]) -> Iterator[np.ndarray]:
        """As `draw`, one picture after the other; some are drawn at a time."""
        return in_order((partial(self.draw, *one) for one in targets), self.pipe.device)

    @torch.no_grad()
    def draw(self, targets: Sequence[FaceCodes], lights: Lights = ()) -> np.ndarray:
        """The photo uint8 [H, W, 3] with its faces under codes, and light on their teeth; the photo itself where the
        codes are its own, and what its edit gives where they are a key's."""
        if all(unchanged(*both) for both in zip(self.codes, targets)):
            return self.rgb
        sampling = replace(self.sampling, generator=torch.Generator().manual_seed(self.seed))
        at_rest = any(all(unchanged(*both) for both in zip(key, targets)) for key in self.keys)
        lights = () if at_rest else lights
        edits = PhotoEdits(
            self.rgb, self.faces, [targets], self.request, self.reference, moving=not at_rest, lights=lights
        )
        [painted] = self.pipe.painter.paint([edits], sampling)
        return painted.rgb
