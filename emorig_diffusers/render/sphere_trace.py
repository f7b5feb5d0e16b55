"""Distance fields on pixels: rays that step by the distance (Hart 1996) give depth, normals and mask without a mesh.

A ray that comes to the inside has crossed the surface, which is then found between its last two points. The camera is
`project`'s; its rays are parallel, so that a block of pixels can first be traced as one thick ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .isosurface import CHUNK, Field

TOLERANCE = 2e-5  # field's units; distance at which a ray has arrived. In metres a fifth of a tenth of a millimetre
STEPS = 192  # of a ray at most; those that graze the surface need the most
SHORTEST = 1e-4  # field's units; step of a ray at least, so that grazing rays get on; nothing thinner is sure to be met
REFINEMENTS = 8  # rounds of false position, once a ray has crossed the surface
BLOCK = 8  # side of the blocks that are traced as one thick ray, pixels
SLOPE = 1.25  # of the field at most, so that steps do not jump over thin parts; exact distances have 1


@dataclass
class FieldBuffers:
    """Pictures of a distance field; background 0.

    Attributes:
        normal: [1, 3, H, W] in [-1, 1], unit length, in head space.
        depth: [1, 1, H, W], height of the surface towards the viewer, in the field's unit: z of head space, as turned.
        mask: [1, 1, H, W], 1 where the surface is seen.
    """

    normal: Tensor
    depth: Tensor
    mask: Tensor


@torch.no_grad()
def trace(
    field: Field,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    slope: float = SLOPE,
    radius: float = 0.0,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """How far along rays a field's surface lies [N], and which rays meet it [N].

    Args:
        field: Signed distances.
        origins, directions: [N, 3]; directions of unit length.
        near, far: Where rays begin and end [N], from their origins.
        slope: Of the field at most.
        radius: Of thick rays: they stop where anything of them may touch the surface.
        chunk: Points evaluated at once, which bounds memory.
    """
    at, before, value_before = near.clone(), near.clone(), torch.full_like(near, torch.inf)
    met, crossed = torch.zeros_like(near, dtype=torch.bool), torch.zeros_like(near, dtype=torch.bool)
    active = (near < far).nonzero()[:, 0]
    for _ in range(STEPS):
        if not len(active):
            break
        value = _along(field, origins, directions, at, active, chunk) / slope - radius
        inside, arrived = value < 0, value.abs() < TOLERANCE
        met[active[inside | arrived]] = True
        crossed[active[inside & ~arrived]] = True
        going = active[~(inside | arrived)]
        before[going], value_before[going] = at[going], value[~(inside | arrived)]
        at[going] += value_before[going] if radius else value_before[going].clamp(min=SHORTEST)
        active = going[at[going] < far[going]]
    if radius:
        met[active] = True  # still under way
        return torch.minimum(before, far), met
    return _between(field, origins, directions, before, at, slope * value_before, crossed, chunk), met


def _between(
    field: Field, origins: Tensor, directions: Tensor, low: Tensor, high: Tensor, value: Tensor, crossed: Tensor,
    chunk: int,
) -> Tensor:  # fmt: skip
    """`high`; for rays that crossed the surface since `low`, of that value, where they did (Illinois method)."""
    rays = (crossed & value.isfinite()).nonzero()[:, 0]
    if not len(rays):
        return high
    result, a, b, outside = high.clone(), low[rays], high[rays], value[rays]
    inside = _along(field, origins, directions, high, rays, chunk)
    last = torch.zeros_like(outside)
    for _ in range(REFINEMENTS):
        middle = a + (b - a) * outside / (outside - inside).clamp(min=1e-12)
        result[rays] = middle
        found = _along(field, origins, directions, result, rays, chunk)
        if found.abs().max() < TOLERANCE:
            break
        out = found > 0
        outside, inside = (
            torch.where(out, found, torch.where(last < 0, outside / 2, outside)),
            torch.where(out, torch.where(last > 0, inside / 2, inside), found),
        )
        a, b, last = torch.where(out, middle, a), torch.where(out, b, middle), found.sign()
    return result


def _along(field: Field, origins: Tensor, directions: Tensor, at: Tensor, rays: Tensor, chunk: int) -> Tensor:
    parts = rays.split(chunk)
    return torch.cat([field(origins[part] + at[part, None] * directions[part]) for part in parts])


def trace_buffers(
    field: Field,
    camera: Tensor,
    size: int | tuple[int, int],
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    rotation: Tensor | None = None,
    slope: float = SLOPE,
    chunk: int = CHUNK,
) -> FieldBuffers:
    """Draw normals and depth of a field as `draw_buffers` draws a mesh.

    Args:
        field: Differentiable signed distances, in metres for `project`'s cameras.
        camera: [3], see `project`.
        size: Side of the picture, or (height, width).
        low, high: Box that the surface lies in, before it is turned.
        rotation: [3, 3] that turns the head about the origin.
        slope, chunk: As for `trace`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    turn = torch.eye(3).to(camera) if rotation is None else rotation
    corners = torch.cartesian_prod(*(torch.tensor(pair) for pair in zip(low, high))).to(camera) @ turn.T
    front, back = corners[:, 2].max(), corners[:, 2].min()
    x, y = _pixel_places(camera, height, width)
    reach = float(corners.norm(dim=1).max())
    inside = (x.abs() <= reach) & (y.abs() <= reach)
    toward = -turn[2].expand(height * width, 3)  # the viewer looks along -z
    origins = torch.stack([x, y, front.expand_as(x)], 1) @ turn
    far = (front - back).expand_as(x).contiguous()
    near = _thick_rays(field, origins, toward, far, camera, (height, width), slope, chunk)
    near = torch.where(inside, near, far)
    at, met = trace(field, origins, toward, near, far, slope, chunk=chunk)
    hits = met.nonzero()[:, 0]
    normal, depth = origins.new_zeros(height * width, 3), origins.new_zeros(height * width)
    if len(hits):
        points = origins[hits] + at[hits, None] * toward[hits]
        normal[hits] = torch.cat([_normals(field, part) for part in points.split(chunk)]) @ turn.T
        depth[hits] = front - at[hits]
    shape = lambda picture: picture.view(1, height, width, -1).permute(0, 3, 1, 2).contiguous()
    return FieldBuffers(shape(normal), shape(depth), shape(met.to(origins.dtype)))


def _pixel_places(camera: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y [H * W] of pixels' middles in head space, inverse to `project` and `ndc_to_pixels`."""
    row, column = (torch.arange(n).to(camera) + 0.5 for n in (height, width))
    y, x = torch.meshgrid(row / height * 2 - 1, column / width * 2 - 1, indexing="ij")
    return x.flatten() / camera[0] - camera[1], -y.flatten() / camera[0] - camera[2]


def _thick_rays(
    field: Field, origins: Tensor, toward: Tensor, far: Tensor, camera: Tensor, size: tuple[int, int], slope: float,
    chunk: int,
) -> Tensor:  # fmt: skip
    """How far [H * W] every pixel's ray may go at once, as the thick ray of its block does not touch the surface."""
    height, width = size
    blocks = lambda picture: F.pad(
        picture.view(height, width, -1).permute(2, 0, 1)[None], (0, -width % BLOCK, 0, -height % BLOCK), "replicate"
    )
    spread = F.avg_pool2d(blocks(origins), BLOCK)
    middle = spread[0].permute(1, 2, 0).reshape(-1, 3)
    edge = 2 / float(camera[0]) * max(1 / width, 1 / height)  # of a pixel, in head space
    radius = edge * BLOCK * 0.5 * 2**0.5
    if height % BLOCK or width % BLOCK:
        radius *= 2  # blocks at the rim have their middle elsewhere
    reach = far[0].expand(len(middle)).contiguous()
    at, met = trace(field, middle, toward[: len(middle)], torch.zeros_like(reach), reach, slope, radius, chunk)
    at = torch.where(met, at, reach).view(1, 1, *spread.shape[2:])
    return F.interpolate(at, scale_factor=BLOCK)[0, 0, :height, :width].reshape(-1)


def _normals(field: Field, points: Tensor) -> Tensor:
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        [gradient] = torch.autograd.grad(field(points).sum(), points)
    return F.normalize(gradient, dim=1)
