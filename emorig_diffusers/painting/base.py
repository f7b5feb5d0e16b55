"""What a painter is: it draws faces under edited codes into their photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from ..diffusion.sampling import Sampling
from ..face.codes import FaceCodes
from ..render.buffers import Buffers

if TYPE_CHECKING:
    from ..pipelines.request import EditRequest
    from .stages.mouth_light import TeethLight


@dataclass(frozen=True)
class PhotoEdits:
    """A photo, its faces, and what they are to show in each of its results.

    Attributes:
        rgb: The photo, uint8 [H, W, 3].
        faces: Its faces, as the pipeline encodes them.
        targets: For every result, the codes of each face.
        request: What is asked.
        reference: The photo that lends an expression, uint8, and its face.
        redraw: Whether a network that draws the whole crop draws a face under its own codes, too.
        moving: Whether they are pictures of faces that move: then what is drawn anew comes little by little.
        lights: For each face, what gives the light on its teeth, where that is known of more pictures than this one.
    """

    rgb: np.ndarray
    faces: Sequence[Any]
    targets: Sequence[Sequence[Any]]
    request: EditRequest
    reference: tuple[np.ndarray, Any] | None = None
    redraw: bool = False
    moving: bool = False
    lights: Sequence[Callable[[], TeethLight]] = ()

    @property
    def appearance(self) -> tuple[np.ndarray, Any] | None:
        """Photo and face whose code of the photo is taken; `None` for each face's own."""
        lent = "latent" in self.request.modes and self.request.intensity > 0
        return self.reference if lent else None


@dataclass(frozen=True)
class PaintedFace:
    """What was painted of a face.

    Attributes:
        mask: How much of each pixel of the crop was painted, 8 bits [S, S].
        picture: The network's picture of the whole crop [3, S, S] in [0, 1], where it draws one.
        buffers: What the network saw of the head [1, ...], where it draws the whole crop.
        notes: Sentences on what was left as it is.
    """

    mask: Image.Image
    picture: Tensor | None = None
    buffers: Buffers | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaintedPhoto:
    """A result: the photo, uint8 [H, W, 3], and each of its faces, `None` for one that is as it was."""

    rgb: np.ndarray
    faces: Sequence[PaintedFace | None]


class Painter(Protocol):
    """Draws edited faces for a pipeline.

    Attributes:
        capabilities: What of a request it can do besides expressions and turns: names of `EditRequest`'s `needs`.
        max_angle: Degrees by which it can turn a head about an axis.
        undrawn_units: Units of expression that it cannot show.
        keeps_fit_residual: Whether its heads keep what the landmark fit left over.
        keeps_covered_mouths: Whether it leaves a mouth alone that something covers.
        latents_side: Side of what the network sees, pixels of the crop.
    """

    max_angle: float
    undrawn_units: Sequence[str] = ()
    keeps_fit_residual: bool = False
    keeps_covered_mouths: bool = False

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset()

    @property
    def latents_side(self) -> int: ...

    def check(self, request: EditRequest) -> None:
        """Raise ValueError with one sentence for what this painter cannot do."""

    def check_target(self, source: FaceCodes, target: FaceCodes) -> None:
        """Raise ValueError with one sentence for codes [1, ...] that cannot be shown."""

    def place_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """Vertices [B, V, 3] in metres of the target's head where the picture shows it."""
        ...

    def paint(self, photos: Sequence[PhotoEdits], sampling: Sampling) -> list[PaintedPhoto]:
        """Every result of every photo; `sampling.generator`, where it is a list, has one for each result."""
        ...
