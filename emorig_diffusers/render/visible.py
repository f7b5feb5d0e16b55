"""What cameras around a head see of its mesh: points on the surface, without hidden insides."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .rasterize import interpolate, rasterize

VIEWS = 12  # of a Fibonacci sphere, of which the poles are left out; NPHM's protocol
DISTANCE = 0.6  # metres from the camera to the head's origin, NPHM's
PICTURE, FOCAL = (960, 1280), 2440.0  # width and height, focal length in pixels, NPHM's
GRAZING = 0.01  # least cosine between a ray and the surface it meets, NPHM's
NEAREST = 0.05  # metres; what comes nearer to a camera is not drawn


class SurfacePoints(NamedTuple):
    """Points on a mesh that were seen.

    Attributes:
        points: [N, 3] in metres.
        normals: [N, 3] of unit length, outwards.
        face: int64 [N], the mesh's face.
        bary: [N, 3], place in that face.
        view: int64 [N], by which camera.
    """

    points: Tensor
    normals: Tensor
    face: Tensor
    bary: Tensor
    view: Tensor

    def __getitem__(self, rows: Tensor) -> SurfacePoints:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Some of the points."""
        return SurfacePoints(*(field[rows] for field in tuple(self)))


def fibonacci_sphere(count: int) -> Tensor:
    """Directions [count, 3], evenly spread from (0, 1, 0) to (0, -1, 0)."""
    steps = torch.arange(count, dtype=torch.float64)
    y = 1 - 2 * steps / max(count - 1, 1)
    radius, angle = (1 - y.square()).clamp(min=0).sqrt(), steps * math.pi * (3 - math.sqrt(5))
    return torch.stack([angle.cos() * radius, y, angle.sin() * radius], 1).float()


def around() -> Tensor:
    """The protocol's directions [10, 3] from which a whole head is seen."""
    return fibonacci_sphere(VIEWS)[1:-1]


def look_at(direction: Tensor) -> Tensor:
    """Rotation [3, 3] into a camera at that direction [3] from the origin: x right, y down, z away from the camera."""
    away = -F.normalize(direction, dim=0)
    up = away.new_tensor([0.0, 1.0, 0.0]) if away[1].abs() < 0.999 else away.new_tensor([0.0, 0.0, 1.0])
    right = F.normalize(torch.linalg.cross(away, up), dim=0)
    return torch.stack([right, torch.linalg.cross(away, right), away])


@torch.no_grad()
def visible_points(vertices: Tensor, faces: Tensor, directions: Tensor, scale: float = 1.0) -> SurfacePoints:
    """Every pixel's point on a mesh, from perspective cameras that look at the origin.

    Args:
        vertices: [V, 3] in metres, the head around the origin.
        faces: int64 [F, 3], counter-clockwise seen from outside.
        directions: [K, 3], where cameras stand, DISTANCE away.
        scale: Of the protocol's pictures; at 1 a pixel is 0.25 mm wide.
    """
    width, height = (round(side * scale) for side in PICTURE)
    corner = mesh_normals(vertices, faces)
    found = []
    for number, direction in enumerate(directions):
        seen = vertices @ look_at(direction).T
        depth = (seen[:, 2] + DISTANCE).clamp(min=NEAREST)
        focal = FOCAL * scale
        pixels = torch.stack(
            [seen[:, 0] / depth * focal + width / 2, seen[:, 1] / depth * focal + height / 2, depth], 1
        )
        fragments = rasterize(pixels[None], faces, height, width)
        bary = fragments.bary / depth[faces[fragments.face.clamp(min=0)]]  # straight in space, not in the picture
        bary = bary / bary.sum(-1, keepdim=True).clamp(min=1e-12)
        fragments = fragments._replace(bary=bary)
        both = interpolate(fragments, faces, torch.cat([vertices, corner], 1))[0]
        points, normals = both[..., :3], F.normalize(both[..., 3:], dim=-1)
        ray = F.normalize(points - direction * DISTANCE, dim=-1)
        rows = (fragments.face[0] >= 0) & ((ray * normals).sum(-1) < -GRAZING)
        # an inside seen through a hole: there the face itself looks away, however its corners' normals are
        a, b, c = vertices[faces[fragments.face[0][rows]]].unbind(1)
        front = (torch.linalg.cross(b - a, c - a) * ray[rows]).sum(-1) < 0
        found.append(SurfacePoints(
            points[rows][front], normals[rows][front], fragments.face[0][rows][front], bary[0][rows][front],
            torch.full((int(front.sum()),), number),
        ))  # fmt: skip
    return SurfacePoints(*(torch.cat(field) for field in zip(*found)))


def mesh_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals [V, 3] of unit length by the area of the faces around; as `buffers.vertex_normals`, for any size."""
    corners = vertices[faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = torch.zeros_like(vertices).index_add(0, faces.flatten(), cross.repeat_interleave(3, dim=0))
    return F.normalize(total, dim=-1, eps=1e-20)


def draw_rows(count: int, size: int, rng: torch.Generator) -> Tensor:
    """`size` of `count` rows by chance: all different where there are as many, else with repetitions."""
    if count >= size:
        return torch.randperm(count, generator=rng)[:size]
    return torch.randint(count, (size,), generator=rng)
