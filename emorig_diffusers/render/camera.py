"""The camera: head space to normalised device coordinates and to pixels.

Pixel coordinates have x right, y down and pixel (row j, column i) at the centre (i + 0.5, j + 0.5); smaller z is
nearer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def project(vertices: Tensor, camera: Tensor) -> Tensor:
    """DECA's weak-perspective camera (Feng et al. 2021, section 3).

    Args:
        vertices: [B, V, 3] rotated head in metres, y up, z towards the viewer.
        camera: [B, 3] scale s (NDC per metre) and translation tx, ty (metres).

    Returns:
        [B, V, 3] normalised device coordinates (NDC): s (x + tx), -s (y + ty), -s z; [-1, 1] spans the square
        crop, x right, y down, smaller z nearer.
    """
    moved = vertices + F.pad(camera[:, None, 1:], (0, 1))
    return moved * camera[:, None, :1] * camera.new_tensor((1, -1, -1))


def ndc_to_pixels(points: Tensor, size: int | tuple[int, int]) -> Tensor:
    """NDC [..., 3] to pixels: (x + 1) / 2 * W, (y + 1) / 2 * H, z / 2 * W; `size` is a side or (H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    half = points.new_tensor((width / 2, height / 2, width / 2))
    return points * half + half * points.new_tensor((1, 1, 0))


def transform_ndc(points: Tensor, transform: Tensor) -> Tensor:
    """Points [B, N, 3] in normalised device coordinates through [B, 3, 3] acting on (x, y, 1); z stays."""
    xy = F.pad(points[..., :2], (0, 1), value=1.0) @ transform.mT
    return torch.cat((xy[..., :2] / xy[..., 2:], points[..., 2:]), dim=-1)
