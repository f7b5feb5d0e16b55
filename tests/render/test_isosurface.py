"""Surfaces found from coarse to fine are those of the dense grid, thin parts and all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from emorig_diffusers.render.isosurface import extract_surface

LOW, HIGH = (-0.5, -0.6, -0.45), (0.5, 0.6, 0.55)
COARSE, FINE = 16, 64


def box(points: Tensor, middle: tuple[float, ...], half: tuple[float, ...]) -> Tensor:
    away = (points - torch.tensor(middle)).abs() - torch.tensor(half)
    return away.clamp(min=0).norm(dim=1) + away.amax(1).clamp(max=0)


def ball(points: Tensor, middle: tuple[float, ...], radius: float) -> Tensor:
    return (points - torch.tensor(middle)).norm(dim=1) - radius


def with_thin_parts(points: Tensor) -> Tensor:
    """A ball with a sheet and a crumb, both thinner than the cells of the coarse grid and between its corners."""
    sheet = box(points, (0.3, 0.0, 0.078), (0.15, 0.2, 0.012))
    crumb = ball(points, (-0.34, 0.49, -0.17), 0.02)
    return torch.minimum(torch.minimum(ball(points, (0, 0, 0), 0.25), sheet), crumb)


class Counted:
    """A field that counts its points."""

    def __init__(self, slope: float = 1.0) -> None:
        self.slope, self.count, self.most = slope, 0, 0

    def __call__(self, points: Tensor) -> Tensor:
        self.count, self.most = self.count + len(points), max(self.most, len(points))
        return self.slope * with_thin_parts(points)


@pytest.mark.parametrize("slope", [0.2, 1.0, 3.0])
def test_surface_is_that_of_the_dense_grid(slope: float) -> None:
    field, chunk = Counted(slope), 1000
    vertices, faces = extract_surface(field, LOW, HIGH, FINE, COARSE, chunk)
    dense = extract_surface(Counted(slope), LOW, HIGH, FINE, FINE)
    assert torch.equal(vertices, dense[0]) and torch.equal(faces, dense[1])
    assert field.count < 0.25 * (FINE + 1) ** 3 and field.most == chunk
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and sorted(part.volume > 1e-3 for part in mesh.split()) == [False, True]
    assert mesh.volume > 0.06  # outwards


def test_change_of_sign_alone_would_miss_the_crumb() -> None:
    """The coarse grid has no corner in it, so that the test above can fail."""
    axes = [torch.linspace(a, b, COARSE + 1) for a, b in zip(LOW, HIGH)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
    assert (ball(points, (-0.34, 0.49, -0.17), 0.02) > 0).all()


def test_surface_that_leaves_split_cells_is_followed() -> None:
    """A spike that steepens between coarse corners, where no slope near the surface tells of it."""

    def spike(points: Tensor) -> Tensor:
        thin = ((points[:, 0] - 0.01) ** 2 + (points[:, 1] - 0.02) ** 2).sqrt() - 0.03
        beam = torch.maximum(20 * thin, points[:, 2].abs() - 0.4)
        return torch.minimum(ball(points, (0, 0, 0), 0.2), beam)

    vertices, faces = extract_surface(spike, LOW, HIGH, FINE, COARSE)
    assert trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).is_watertight
    assert vertices[:, 2].abs().max() > 0.39


def test_progress_counts_every_point() -> None:
    field, counted = Counted(), []
    extract_surface(field, LOW, HIGH, FINE, COARSE, progress=counted.append)
    assert sum(counted) == field.count


def test_what_has_no_surface_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no surface in the box"):
        extract_surface(lambda points: points.norm(dim=1) + 1, LOW, HIGH, FINE, COARSE)
    for resolution in (8, 48, 100):
        with pytest.raises(ValueError, match="16 times a power of two"):
            extract_surface(Counted(), LOW, HIGH, resolution, COARSE)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"emorig-diffusers\[heads\]"):
        extract_surface(Counted(), LOW, HIGH, FINE, COARSE)


def test_surface_lies_where_the_field_is_zero() -> None:
    vertices, _ = extract_surface(lambda points: ball(points, (0, 0, 0), 0.3), LOW, HIGH, FINE, COARSE)
    assert np.abs(np.linalg.norm(vertices.numpy(), axis=1) - 0.3).max() < 5e-4
