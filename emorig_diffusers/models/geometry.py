"""What every head model offers, whatever it is made of: codes in, a surface in metres out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """A head as a mesh.

    Attributes:
        vertices: [V, 3] in metres: x to the subject's left, y up, z to the viewer.
        faces: int64 [F, 3], counter-clockwise seen from outside.
    """

    vertices: Tensor
    faces: Tensor


class HeadGeometry(Protocol):
    """A head model as fits, measures and files see it: HeadModel and NeuralHeadModel.

    Beyond it a linear head has what follows from its fixed mesh: `faces`, landmarks, parts, joints and textures. A
    neural head has no fixed mesh: its surfaces differ in their vertices from person to person, its 39 anchors are its
    only named points, and its jaw and eyes move by the expression code alone. What needs a linear head's mesh (the
    conditioning's albedo, painting, textures from photos) takes a HeadModel.
    """

    @property
    def num_shape(self) -> int:
        """Length of the identity code."""
        ...

    @property
    def num_expression(self) -> int:
        """Length of the expression code."""
        ...

    def surface(self, shape: Tensor, expression: Tensor | None = None) -> Surface:
        """The surface of one head, neither turned nor moved.

        Args:
            shape: Identity code [1, num_shape].
            expression: Expression code [1, num_expression]; `None` for a head at rest.
        """
        ...
