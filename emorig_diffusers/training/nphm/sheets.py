"""Sheets of heads: what cameras see of a surface, coloured by its normals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...render.normal_pictures import normal_picture

if TYPE_CHECKING:
    from ...models.nphm import NeuralHeadModel

RESOLUTION = 128  # cells a side of a sheet's surfaces
VIEWS = ((0.0, 0.0, 1.0), (0.7, 0.1, 0.7), (1.0, 0.0, 0.0))


@torch.no_grad()
def heads_sheet(head: NeuralHeadModel, shapes: Tensor, expressions: Tensor | None = None) -> Image.Image:
    """A row for each head [B, S], seen from the front, between and the side; black where it has no surface."""
    rows = []
    for number in range(len(shapes)):
        one = slice(number, number + 1)
        code = shapes[one]
        try:
            surface = head.surface(code, None if expressions is None else expressions[one], RESOLUTION)
        except ValueError:
            surface = None  # at the start of training
        rows.append(np.hstack([normal_picture(surface, torch.tensor(view)) for view in VIEWS]))
    return Image.fromarray(np.vstack(rows))
