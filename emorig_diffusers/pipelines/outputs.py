"""What pipelines hand over: edited photos, and what happened to each face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from ..face.codes import FaceCodes
from ..photo.io import Photo


@dataclass
class EditedFace:
    """What happened to one face.

    Attributes:
        number: 1 for the leftmost face of the photo.
        box: (x0, y0, x1, y1) in photo pixels.
        source, target: Codes before and after.
        crop: Aligned crop of the result.
        buffers: The head under the target codes: `normal`, `albedo`, `rendered`, and `repainted`, the mask of what
            the network painted.
        vertices: Target head [V, 3] in metres, where the target's camera sees it in the crop.
        drawn: The network's own picture of the whole crop, where it draws one: what DiffusionRig saves.
        notes: Sentences on what was left as it is.
    """

    number: int
    box: tuple[float, float, float, float]
    source: FaceCodes
    target: FaceCodes
    crop: Image.Image
    buffers: dict[str, Image.Image]
    vertices: Tensor
    drawn: Image.Image | None = None
    notes: tuple[str, ...] = ()


@dataclass
class EditedCode:
    """What happened to one face in a Diffusion Autoencoder.

    Attributes:
        number: 1 for the leftmost face of the photo.
        box: (x0, y0, x1, y1) in photo pixels.
        source, target: Semantic codes z_sem [1, C] before and after.
        latents: The stochastic code x_T [1, 3, S, S] that both were decoded with.
        crop: Crop of the result.
        buffers: `photo`, what the network saw; `edited`, what it drew; and, where the photo's own detail is kept,
            `reconstructed`, drawn from the source's code, and `replaced`, the mask of where `edited` stands for itself.
        drawn: The same as `edited`.
        probabilities: Emotion -> its probability in source and target, in [0, 1].
    """

    number: int
    box: tuple[float, float, float, float]
    source: Tensor
    target: Tensor
    latents: Tensor
    crop: Image.Image
    buffers: dict[str, Image.Image]
    drawn: Image.Image
    probabilities: dict[str, tuple[float, float]]


@dataclass
class EmoRigOutput(BaseOutput):
    """Result of a pipeline.

    Attributes:
        images: Edited photos, each of its input's size and mode: PIL images, or uint8 arrays [H, W, 3] for
            `output_type="np"`, or float tensors [3, H, W] in [0, 1] for `output_type="pt"`.
        faces: For every photo, the faces that were edited.
    """

    images: list[Any]
    faces: list[list[EditedFace]] | list[list[EditedCode]]


def notes_of(faces: Sequence[EditedFace] | Sequence[EditedCode]) -> list[str]:
    """What is to be said of a photo's edited faces, each sentence once; of several faces, with their numbers."""
    said = [(face.number, note) for face in faces if isinstance(face, EditedFace) for note in face.notes]
    return list(dict.fromkeys(f"Face {number}: {note}" if len(faces) > 1 else note for number, note in said))


def as_type(photo: Photo, rgb: np.ndarray, output_type: str) -> Any:
    """A result uint8 [H, W, 3] as "pil" (of the photo's own mode), "np", or "pt" [3, H, W] in [0, 1]."""
    if output_type == "np":
        return rgb
    if output_type == "pt":
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255
    return photo.restore(rgb)
