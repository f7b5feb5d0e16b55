"""Traced pictures of distance fields are those of the surface they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from emorig_diffusers.models.head import rotation_matrix
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.render.buffers import draw_buffers
from emorig_diffusers.render.sphere_trace import trace, trace_buffers

LOW, HIGH = (-0.1, -0.12, -0.1), (0.1, 0.12, 0.1)
CAMERA = torch.tensor([8.0, 0.01, -0.02])
BALL, RADIUS = (0.02, 0.03, -0.01), 0.06


def ball(points: Tensor) -> Tensor:
    return (points - torch.tensor(BALL)).norm(dim=1) - RADIUS


def places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y [H, W] of pixels' middles in head space."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (2 * x / width - 1) / 8 - 0.01, -(2 * y / height - 1) / 8 + 0.02


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
@pytest.mark.parametrize("slope", [0.5, 1.0, 1.2])
def test_ball_is_drawn_as_its_equation_says(size: tuple[int, int], slope: float) -> None:
    drawn = trace_buffers(lambda points: slope * ball(points), CAMERA, size, LOW, HIGH)
    x, y = places(*size)
    squared = RADIUS**2 - (x - BALL[0]) ** 2 - (y - BALL[1]) ** 2
    rim = squared.abs() < 2e-5  # grazing rays may go either way
    assert torch.equal(drawn.mask[0, 0].bool()[~rim], (squared > 0)[~rim]) and drawn.mask.mean() > 0.1
    seen = drawn.mask[0, 0].bool() & ~rim
    height = squared[seen].sqrt()
    away = (drawn.depth[0, 0][seen] - height - BALL[2]) * height / RADIUS  # along the normal
    assert away.abs().max() < 6e-5
    normal = torch.stack([x[seen] - BALL[0], y[seen] - BALL[1], height], 1) / RADIUS
    assert (drawn.normal[0, :, seen].T - normal).abs().max() < 0.012  # where rays graze it
    assert not drawn.normal[0, :, ~drawn.mask[0, 0].bool()].any() and not drawn.depth[0, 0][~seen & ~rim].any()


def test_crossed_surfaces_are_found_again() -> None:
    """A field steeper than was said, so that steps jump through the surface."""
    count = 50
    origins = torch.stack([torch.linspace(0, 0.04, count), torch.zeros(count), torch.full((count,), 0.1)], 1)
    toward = torch.tensor([0.0, 0.0, -1.0]).expand(count, 3)
    steep = lambda points: 1.6 * (points.norm(dim=1) - 0.05)
    at, met = trace(steep, origins, toward, torch.zeros(count), torch.full((count,), 0.2), slope=1.0)
    assert met.all()
    assert (at - (0.1 - (0.05**2 - origins[:, 0] ** 2).sqrt())).abs().max() < 5e-5


def test_thin_parts_are_not_jumped_over() -> None:
    sheet = lambda points: torch.maximum((points[:, 2] - 0.05).abs() - 2e-4, points[:, :2].abs().amax(1) - 0.03)
    drawn = trace_buffers(lambda points: torch.minimum(ball(points), sheet(points)), CAMERA, 64, LOW, HIGH)
    x, y = places(64, 64)
    on_it = (x.abs() < 0.029) & (y.abs() < 0.029)
    assert (drawn.depth[0, 0][on_it] - 0.0502).abs().max() < 1e-4


def test_neural_head_is_drawn_as_its_mesh() -> None:
    torch.manual_seed(0)
    head = NeuralHeadModel(16, 7, 4, 3, 24, 2, 8, 0).requires_grad_(False)
    shape = 0.05 * torch.randn(1, head.num_shape)
    turn = rotation_matrix(torch.tensor([0.2, 0.5, 0.1]))
    camera = torch.tensor([6.0, 0.0, 0.0])
    drawn = trace_buffers(head.field(shape), camera, 96, *head.bounds, rotation=turn)
    surface = head.surface(shape, resolution=64)
    vertices = (surface.vertices @ turn.T)[None]
    mesh = draw_buffers(
        1000 * vertices, surface.faces, camera[None] / torch.tensor([1000, 1, 1]), torch.ones(1, 9, 3), vertices * 0, 96
    )
    both = (mesh.mask * drawn.mask)[0, 0].bool()
    assert both.sum() > 0.98 * torch.maximum(mesh.mask, drawn.mask).sum() > 1000
    cosine = torch.nn.functional.cosine_similarity(mesh.normal, drawn.normal)[0][both]
    assert cosine.median() > 0.999 and cosine.mean() > 0.98


def test_empty_pictures_are_empty() -> None:
    drawn = trace_buffers(lambda points: points.norm(dim=1) + 1, CAMERA, 32, LOW, HIGH)
    assert not drawn.mask.any() and not drawn.normal.any()
