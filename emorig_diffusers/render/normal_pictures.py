"""Pictures of surfaces coloured by their normals, to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .rasterize import interpolate, rasterize
from .visible import look_at, mesh_normals

if TYPE_CHECKING:
    from ..models.geometry import Surface

SIDE, WIDTH = 256, 0.34  # pixels of a picture; metres that it shows
BACKGROUND = 24  # grey


@torch.no_grad()
def normal_picture(surface: Surface | None, direction: Tensor, side: int = SIDE) -> np.ndarray:
    """uint8 [side, side, 3] of a surface seen from a direction [3], without perspective; empty for `None`."""
    picture = np.full((side, side, 3), BACKGROUND, np.uint8)
    if surface is None or not len(surface.faces):
        return picture
    vertices = surface.vertices.detach().cpu().float()
    turn = look_at(F.normalize(direction.float(), dim=0))
    seen = vertices @ turn.T
    pixels = torch.cat([seen[:, :2] / WIDTH * side + side / 2, seen[:, 2:]], 1)
    fragments = rasterize(pixels[None], surface.faces, side, side)
    normals = F.normalize(interpolate(fragments, surface.faces, mesh_normals(vertices, surface.faces) @ turn.T), dim=-1)
    colours = (normals[0] * torch.tensor([1.0, -1.0, -1.0]) + 1) * 127.5
    return np.where((fragments.face[0] >= 0)[..., None].numpy(), colours.byte().numpy(), picture)
