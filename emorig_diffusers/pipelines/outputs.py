"""What pipelines hand over: edited photos, and what happened to each face."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from ..photo.io import Photo, save_photo
from ..provenance.edits import Edit


class DrawnWhenAsked(Mapping[str, Image.Image]):
    """Pictures by name that are drawn when somebody looks at one: most callers want the photo alone.

    Args:
        draw: Draws all.
    """

    def __init__(self, draw: Callable[[], dict[str, Image.Image]]) -> None:
        self._draw = draw

    @cached_property
    def _pictures(self) -> dict[str, Image.Image]:
        with torch.no_grad():
            return self._draw()

    def __getitem__(self, name: str) -> Image.Image:
        return self._pictures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Image.Image]]]:
        return dict, (self._pictures,)  # other processes get pictures


@dataclass(frozen=True, eq=False)
class EditedFace:
    """What happened to one face.

    Attributes:
        number: 1 for the leftmost face of the photo.
        box: (x0, y0, x1, y1) in photo pixels.
        source, target: Codes before and after: the `FaceCodes` of a head, a Diffusion Autoencoder's z_sem [1, C], or an
            emotion latent-diffusion model's token [1, D].
        crop: Crop of the result around the face.
        buffers: For the eye. Of a head under the target codes `normal`, `albedo`, `rendered`, and `repainted`, the mask
            of what was painted. Of networks that see a picture of the face `photo`, that picture, `edited`, what they
            drew, and, where the photo's own detail is kept, `reconstructed`, drawn from the source's code, and
            `replaced`, the mask of where `edited` stands for itself.
        drawn: The network's own picture of the whole crop, where it draws one.
        vertices: Target head [V, 3] in metres, where the target's camera sees it in the crop, where there is a head.
        latents: The noise x_T [1, 3, S, S] that a Diffusion Autoencoder decoded both codes with.
        probabilities: Emotion -> its probability in source and target, in [0, 1], where a classifier tells it.
        notes: Sentences on what was left as it is.
    """

    number: int
    box: tuple[float, float, float, float]
    source: Any
    target: Any
    crop: Image.Image
    buffers: Mapping[str, Image.Image]
    drawn: Image.Image | None = None
    vertices: Any = None
    latents: Tensor | None = None
    probabilities: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class EmoRigOutput(BaseOutput):
    """Result of a pipeline.

    Attributes:
        images: Edited photos, each of its input's size and mode: PIL images, or uint8 arrays [H, W, 3] for
            `output_type="np"`, or float tensors [3, H, W] in [0, 1] for `output_type="pt"`.
        faces: For every photo, the faces that were edited.
    """

    images: list[Any]
    faces: list[list[EditedFace]]

    def save(self, path: str | Path, index: int = 0, **how: Any) -> Path:
        """Write an edited photo, which says so in its metadata and by an invisible mark; the photo as it was where
        nothing changed.

        Args:
            path: The file; its suffix chooses the format.
            index: Which of `images`.
            how: `mark`, `keep_metadata` and `sign`, as for `photo.io.save_photo`.

        Raises:
            PhotoError: As `save_photo`.
            ValueError: The pictures are arrays or tensors.
        """
        if not isinstance(self.images[index], Image.Image):
            raise ValueError("Arrays and tensors are not saved: ask for output_type='pil'.")
        return save_photo(self.images[index], path, **how)


def notes_of(faces: Sequence[EditedFace]) -> list[str]:
    """What is to be said of a photo's edited faces, each sentence once; of several faces, with their numbers."""
    said = [(face.number, note) for face in faces for note in face.notes]
    return list(dict.fromkeys(f"Face {number}: {note}" if len(faces) > 1 else note for number, note in said))


def as_type(photo: Photo, rgb: np.ndarray, output_type: str, edit: Edit | None = None) -> Any:
    """A result uint8 [H, W, 3] as "pil" (of the photo's own mode), "np", or "pt" [3, H, W] in [0, 1].

    A picture that differs from its photo knows of the edit, which `save_photo` writes into its file.
    """
    if output_type == "np":
        return rgb
    if output_type == "pt":
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255
    result = photo.restore(rgb)
    if edit is not None and (rgb != photo.rgb).any():
        result.info["edit"] = edit
    return result
