"""What cameras around a mesh see of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from emorig_diffusers.models.head import surface_points
from emorig_diffusers.render.visible import around, draw_rows, fibonacci_sphere, look_at, visible_points


def tensors(mesh: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(mesh.vertices)).float(), torch.from_numpy(np.array(mesh.faces))


def test_cameras_look_at_the_origin() -> None:
    """Right-handed frames; y points down in the picture, and the camera's axis away from it."""
    for direction in (*around(), torch.tensor([0.0, 1.0, 0.0])):
        turn = look_at(direction)
        assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6) and turn.det() == pytest.approx(1, abs=1e-5)
        assert torch.allclose(turn @ direction, torch.tensor([0.0, 0.0, -1.0]), atol=1e-6)
    assert look_at(torch.tensor([0.0, 0.0, 1.0]))[1] @ torch.tensor([0.0, 1.0, 0.0]) == -1
    assert len(around()) == 10 and fibonacci_sphere(12)[[0, -1], 1].tolist() == [1, -1]


def test_points_lie_on_the_mesh() -> None:
    vertices, faces = tensors(trimesh.creation.icosphere(3, 0.1))
    seen = visible_points(vertices, faces, around(), 0.1)
    again = surface_points(vertices[None], faces, seen.face, seen.bary)[0]
    assert torch.allclose(seen.points, again, atol=1e-6)
    assert torch.allclose(seen.points / 0.1, seen.normals, atol=0.03)
    assert set(seen.view.tolist()) == set(range(10))


def test_only_what_is_seen() -> None:
    """A ball within a ball is hidden, and so is, through a hole, the inner side of a ball."""
    outer, inner = trimesh.creation.icosphere(3, 0.1), trimesh.creation.icosphere(3, 0.05)
    both = trimesh.util.concatenate([outer, inner])
    seen = visible_points(*tensors(both), around(), 0.1)
    assert (seen.face < len(outer.faces)).all()
    vertices, faces = tensors(outer)
    open_faces = faces[vertices[faces][:, :, 1].mean(1) < 0.05]
    seen = visible_points(vertices, open_faces, around(), 0.1)
    assert (seen.points * seen.normals).sum(1).min() > 0


def test_rows_by_chance() -> None:
    rows = draw_rows(10, 10, torch.Generator().manual_seed(0))
    assert sorted(rows.tolist()) == list(range(10))
    assert len(draw_rows(3, 10, torch.Generator().manual_seed(0))) == 10
