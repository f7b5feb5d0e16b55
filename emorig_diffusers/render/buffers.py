"""The conditioning buffers of a head: normals, albedo and Lambertian light, drawn from its mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..photo.colour import GAMMA
from .camera import ndc_to_pixels, project, transform_ndc
from .rasterize import Backend, Fragments, Rule, interpolate, rasterize
from .spherical_harmonics import sh_shading


@dataclass
class Buffers:
    """The pictures that condition the diffusion model, in DiffusionRig's ranges; background 0.

    Attributes:
        rendered: [B, 3, H, W], albedo times shading, not clamped (may exceed 1 or be slightly negative).
        normal: [B, 3, H, W] in [-1, 1], world-space vertex normals, interpolated, not renormalised.
        albedo: [B, 3, H, W] in [0, 1], RGB.
        mask: [B, 1, H, W], 1 where the mesh is drawn.
    """

    rendered: Tensor
    normal: Tensor
    albedo: Tensor
    mask: Tensor

    def __getitem__(self, index: int) -> Buffers:
        """Those of one head [1, ...]."""
        pictures = (self.rendered, self.normal, self.albedo, self.mask)
        return Buffers(*(picture[index : index + 1] for picture in pictures))


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Sum of the area-weighted normals of the faces around each vertex, normalised as in DECA (eps 1e-6).

    Args:
        vertices: [B, V, 3] metres, as the eps is absolute: sums below 1e-6 m^2 stay shorter than 1.
        faces: int64 [F, 3], counter-clockwise seen from outside.

    Returns:
        [B, V, 3], pointing outwards.
    """
    corners = vertices[:, faces]
    cross = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    total = torch.zeros_like(vertices).index_add(1, faces.flatten(), cross.repeat_interleave(3, dim=1))
    return F.normalize(total, dim=-1, eps=1e-6)


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear look-up [B, H, W, C] in a texture [B or 1, C, h, w] as in DECA (align_corners False).

    uv [B, H, W, 2] in [0, 1] starts at the texture's bottom left (v up, as in OBJ); 0 beyond the texture.
    """
    grid = torch.stack((uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2), dim=-1)
    return F.grid_sample(texture.expand(len(uv), -1, -1, -1), grid, align_corners=False).permute(0, 2, 3, 1)


def draw_buffers(
    vertices: Tensor,
    faces: Tensor,
    camera: Tensor,
    light: Tensor,
    albedo: Tensor,
    size: int | tuple[int, int],
    uv: Tensor | None = None,
    faces_uv: Tensor | None = None,
    transform: Tensor | None = None,
    backend: Backend = "auto",
    normal_map: Tensor | None = None,
    rule: Rule = "exact",
) -> Buffers:
    """Draw the conditioning buffers of DiffusionRig (Ding et al. 2023) from a posed head.

    Args:
        vertices: [B, V, 3] posed head, metres.
        faces: int64 [F, 3], counter-clockwise seen from outside.
        camera: [B, 3], see `project`.
        light: [B, 9, 3], see `sh_shading`.
        albedo: RGB in [0, 1], [B, V, 3] per vertex or a texture [B, 3, h, w] (ValueError without `uv`).
        size: side of the picture, or (height, width).
        uv: [T, 2] texture coordinates (see `sample_texture`), wanted with textures.
        faces_uv: int64 [F, 3], rows of `uv` at the faces' corners; None uses `faces`.
        transform: [B, 3, 3] maps NDC (x, y, 1) of the fitted crop to NDC of the picture, where they differ.
        backend, rule: see `rasterize`.
        normal_map: [B, 3, h, w] normals as a texture, in place of the vertices' (ValueError without `uv`).
    """
    if (albedo.ndim == 4 or normal_map is not None) and uv is None:
        raise ValueError("pass textures [B, 3, h, w] together with uv.")
    points = project(vertices, camera)
    points = points if transform is None else transform_ndc(points, transform)
    height, width = (size, size) if isinstance(size, int) else size
    fragments = rasterize(ndc_to_pixels(points, (height, width)), faces, height, width, backend, rule)
    mask = (fragments.face >= 0).to(vertices.dtype)[..., None]
    uv_map: Any = None if uv is None else _uv_map(fragments, faces if faces_uv is None else faces_uv, uv, rule)
    look_up = lambda texture: sample_texture(texture, uv_map) * mask
    colour = look_up(albedo) if albedo.ndim == 4 else interpolate(fragments, faces, albedo)
    if normal_map is None:
        normal = interpolate(fragments, faces, vertex_normals(vertices, faces))
    else:
        normal = look_up(normal_map)
    pictures = (colour * sh_shading(normal, light), normal, colour, mask)
    return Buffers(*(picture.permute(0, 3, 1, 2).contiguous() for picture in pictures))


def _uv_map(fragments: Fragments, faces_uv: Tensor, uv: Tensor, rule: Rule) -> Tensor:
    if rule == "exact":
        return interpolate(fragments, faces_uv, uv)
    return (interpolate(fragments, faces_uv, uv * 2 - 1) + 1) / 2  # DECA's range: weights that do not sum to 1 shift it


def buffer_pictures(buffers: Buffers, textured: bool) -> dict[str, Image.Image]:
    """Normal, albedo and rendered of one head [1, 3, S, S] for the eye: sRGB, normals from [-1, 1].

    Args:
        buffers: Of one head.
        textured: Whether the albedo is a texture, which is sRGB already, or linear.
    """
    gamma = 1.0 if textured else 1 / GAMMA
    return {
        "normal": to_picture(buffers.normal[0] * 0.5 + 0.5),
        "albedo": to_picture(buffers.albedo[0].clamp(0) ** gamma),
        "rendered": to_picture(buffers.rendered[0].clamp(0) ** gamma),
    }


def to_picture(tensor: Tensor) -> Image.Image:
    """A tensor [3, H, W] in [0, 1] as a picture."""
    return Image.fromarray((tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
