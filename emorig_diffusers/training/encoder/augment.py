"""Crops moved, mirrored, tinted and spoilt; codes and landmarks follow."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

from ...face.codes import FaceCodes
from ...models.head import HeadModel, rotation_matrix
from .data import Batch

SCALE, TURN, SHIFT = (0.94, 1.08), 0.12, 0.06  # crops are moved by this much: times, radians, NDC


class Mirror:
    """Mirror images of codes and vertices of a head whose template is symmetric.

    Bases need no named components: a mirrored basis vector is written in the basis by least squares.
    """

    def __init__(self, head: HeadModel) -> None:
        self.sides = torch.tensor([-1.0, 1, 1])
        template = head.template.detach().cpu()
        self.order = torch.from_numpy(KDTree(template.numpy()).query((template * self.sides).numpy())[1])
        self.shape, self.expression = self._matrix(head.shape_basis), self._matrix(head.expression_basis)

    def _matrix(self, basis: Tensor) -> Tensor:
        basis = basis.detach().cpu().double()
        flipped = (basis[:, self.order] * self.sides).flatten(1)
        return torch.linalg.lstsq(basis.flatten(1).T, flipped.T, driver="gelsd").solution.T.float()

    def codes(self, codes: FaceCodes) -> FaceCodes:
        """Codes [B, ...] of the mirrored pictures."""
        light = codes.light.clone()
        light[:, [1, 4, 5]] *= -1  # x, xy and xz
        return replace(
            codes,
            shape=codes.shape @ self.shape.to(codes.shape),
            expression=codes.expression @ self.expression.to(codes.shape),
            pose=codes.pose * codes.pose.new_tensor([1, -1, -1, 1, -1, -1]),
            camera=codes.camera * codes.camera.new_tensor([1, -1, 1]),
            light=light,
        )

    def vertices(self, vertices: Tensor) -> Tensor:
        """Mirrored heads [B, V, 3] with vertices in their usual order."""
        return vertices[:, self.order.to(vertices.device)] * self.sides.to(vertices)


def plane_turn(angle: Tensor) -> Tensor:
    """Rotations [B, 3, 3] about the viewing axis, anticlockwise for the viewer; radians [B]."""
    return rotation_matrix(F.pad(angle[:, None], (2, 0)))


def move(head: HeadModel, codes: FaceCodes, scale: Tensor, angle: Tensor, shift: Tensor) -> FaceCodes:
    """Codes of a picture that was scaled [B], turned anticlockwise [B] and shifted [B, 2] (NDC, y down)."""
    turn = plane_turn(angle)
    rest = head.rest_vertices(codes.shape, codes.expression)
    root = torch.einsum("v,bvc->bc", head.joint_regressor[0], rest)
    pose = rotation_vector(turn @ rotation_matrix(codes.pose[:, :3]))
    size = codes.camera[:, :1] * scale[:, None]
    # the head turns about its root joint, the picture about its middle
    offset = torch.einsum("bij,bj->bi", turn, F.pad(codes.camera[:, 1:], (0, 1)) + root) - root
    offset = offset[:, :2] + shift * shift.new_tensor([1, -1]) / size
    light = turn_light(codes.light, angle)
    return replace(
        codes, pose=torch.cat([pose, codes.pose[:, 3:]], 1), camera=torch.cat([size, offset], 1), light=light
    )


def turn_light(light: Tensor, angle: Tensor) -> Tensor:
    """Light [B, 9, 3] that turned with the picture, anticlockwise by an angle [B]."""
    light, x = light.clone(), light
    for first, second, times in ((1, 2, 1), (5, 6, 1), (7, 4, 2)):  # (x, y), (xz, yz), (x²-y², xy): twice the angle
        cos, sin = (times * angle).cos()[:, None], (times * angle).sin()[:, None]
        light[:, first] = x[:, first] * cos - x[:, second] * sin
        light[:, second] = x[:, first] * sin + x[:, second] * cos
    return light


def rotation_vector(matrix: Tensor) -> Tensor:
    """Axis-angle [B, 3] of rotation matrices [B, 3, 3] of less than half a turn."""
    axis = torch.stack([matrix[:, 2, 1] - matrix[:, 1, 2], matrix[:, 0, 2] - matrix[:, 2, 0],
                        matrix[:, 1, 0] - matrix[:, 0, 1]], 1) / 2  # fmt: skip
    sine = axis.norm(dim=1, keepdim=True)
    cosine = (matrix.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) - 1) / 2
    return axis * torch.where(sine > 1e-6, torch.atan2(sine, cosine) / sine.clamp(min=1e-6), 1.0)


def move_points(points: Tensor, scale: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Points [B, N, 2] (NDC, y down) of a picture that was scaled, turned and shifted: see `move`."""
    linear = scale[:, None, None] * plane_turn(-angle)[:, :2, :2]  # y points down: the other sense
    return points @ linear.mT + shift[:, None]


class Augment:
    """Moves, mirrors, tints, blurs and compresses crops; codes and landmarks follow."""

    def __init__(self, head: HeadModel, mirror: Mirror, image_size: int) -> None:
        self.head, self.mirror, self.side = head, mirror, image_size

    @torch.no_grad()
    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        draw = lambda low, high, *size: torch.from_numpy(rng.uniform(low, high, (len(batch), *size))).to(batch.image)  # noqa: E731
        motion = draw(*SCALE), draw(-TURN, TURN), draw(-SHIFT, SHIFT, 2)
        image = moved_picture(batch.image, *motion, self.side)
        codes = move(self.head, batch.codes, *motion)
        flip = torch.from_numpy(rng.random(len(batch)) < 0.5).to(image.device)
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        codes = _choose(flip, self.mirror.codes(codes), codes)
        image = spoil(tint(image, rng), rng)
        return replace(batch, image=image, codes=codes, points=move_points(batch.points, *motion), mirrored=flip)


def _choose(which: Tensor, first: FaceCodes, second: FaceCodes) -> FaceCodes:
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(FaceCodes))
    return FaceCodes(*(torch.where(which.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


def moved_picture(image: Tensor, scale: Tensor, angle: Tensor, shift: Tensor, side: int) -> Tensor:
    """Pictures [B, 3, side, side] scaled, turned and shifted: see `move`; edge pixels repeat."""
    back = plane_turn(angle)[:, :2, :2] / scale[:, None, None]
    grid = F.affine_grid(torch.cat([back, -(back @ shift[..., None])], 2), [len(image), 3, side, side], False)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def tint(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change exposure, white balance, contrast and saturation of pictures [B, 3, S, S]."""
    count = len(image)
    draw = lambda low, high, *size: torch.from_numpy(rng.uniform(low, high, (count, *size, 1, 1))).to(image)  # noqa: E731
    image = image.clamp(1e-3, 1) ** draw(0.75, 1.35, 1) * draw(0.75, 1.2, 1) * draw(0.92, 1.08, 3)
    middle, grey = image.mean((1, 2, 3), keepdim=True), image.mean(1, keepdim=True)
    saturation = torch.where(draw(0, 1, 1) < 0.1, 0.0, draw(0.6, 1.3, 1))
    image = grey + (image - grey) * saturation
    return (middle + (image - middle) * draw(0.8, 1.2, 1)).clamp(0, 1)


def spoil(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur a third of the pictures, compress a third, add noise to a third."""
    kind = torch.from_numpy(rng.random((3, len(image))) < 1 / 3).to(image.device)[..., None, None, None]
    small = F.interpolate(image, scale_factor=rng.uniform(0.35, 0.8), mode="area")
    image = torch.where(kind[0], F.interpolate(small, image.shape[-2:], mode="bilinear"), image)
    image = torch.where(kind[1], compress(image, rng.uniform(0.02, 0.12)), image)
    noise = rng.uniform(0.005, 0.03) * torch.randn_like(image)
    return torch.where(kind[2], image + noise, image).clamp(0, 1)


def compress(image: Tensor, step: float) -> Tensor:
    """What JPEG does to pictures [B, 3, S, S], S a multiple of 8: round the cosine transform of 8 x 8 blocks.

    Args:
        image: In [0, 1].
        step: Rounding step of the finest frequency; coarser ones have smaller steps.
    """
    k = torch.arange(8, device=image.device, dtype=image.dtype)
    cosines = torch.cos(torch.pi / 8 * (k + 0.5) * k[:, None]) / 2
    cosines[0] /= 2**0.5
    steps = step * (1 + k + k[:, None]) / 4
    blocks = image.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    rounded = (cosines @ blocks @ cosines.T / steps).round() * steps
    return (cosines.T @ rounded @ cosines).transpose(3, 4).flatten(4, 5).flatten(2, 3).clamp(0, 1)
