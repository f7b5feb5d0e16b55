"""Placing scans on heads, however they are turned and whatever unit they are in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from emorig_diffusers.models.geometry import Surface
from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.models.scan_alignment import (
    LANDMARKS,
    Placement,
    Target,
    largest_part,
    place_by_landmarks,
    place_scan,
    refine_placement,
)  # fmt: skip


@pytest.fixture(scope="module")
def target(head: HeadModel) -> Target:
    outside = (head.face_part == PARTS.index("skin")) | (head.face_part == PARTS.index("neck"))
    return Target(Surface(head.template, head.faces[outside]), np.random.default_rng(0))


def turned(target: Target, seed: int, unit: float, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan of the target itself with a millimetre of noise, turned and shifted; and its normals and true places."""
    rng, turn = np.random.default_rng(seed), Rotation.random(random_state=seed).as_matrix()
    true = target.points[rows]
    noisy = true + rng.normal(0, 0.001, true.shape)
    return (noisy @ turn.T + rng.normal(0, 0.5, 3)) / unit, target.normals[rows] @ turn.T, true


@pytest.mark.parametrize(
    ("seed", "normals", "unit", "known"), [(1, True, 0.001, True), (4, False, 1.0, True), (2, True, 0.37, False)]
)
def test_scans_are_found(target: Target, seed: int, normals: bool, unit: float, known: bool) -> None:
    """Turned anyhow, in millimetres or in no unit at all, with normals or without: within 2 mm."""
    rows = np.random.default_rng(seed).choice(len(target.points), 4000, replace=False)
    points, facing, true = turned(target, seed, unit, rows)
    start = unit if known else unit * 1.25
    place, misfit = place_scan(points, facing if normals else None, target, start, known, np.random.default_rng(0))
    assert np.linalg.norm(place.apply(points) - true, axis=1).mean() < 0.002
    assert misfit < 0.003 and place.scale == pytest.approx(unit, rel=0.01)
    assert place.invert(place.apply(points)) == pytest.approx(points, rel=1e-6, abs=1e-6)


def test_a_face_alone_is_found(target: Target) -> None:
    """The front of a head, as a depth camera sees it."""
    rows = np.flatnonzero((target.points[:, 2] > 0.0) & (target.normals[:, 2] > 0))
    points, facing, true = turned(target, 6, 0.001, rows)
    place, _ = place_scan(points, facing, target, 0.001, True, np.random.default_rng(0))
    assert np.linalg.norm(place.apply(points) - true, axis=1).mean() < 0.003


def test_landmarks_place_a_scan(target: Target) -> None:
    """Exactly where they are exact; ICP mends what a finger's width is off."""
    anchors = np.random.default_rng(0).normal(size=(39, 3)) * 0.1
    truth = Placement(Rotation.random(random_state=3).as_matrix(), 0.001, np.array([0.3, -0.1, 0.2]))
    found = {
        name: truth.invert(anchors[LANDMARKS[name]]) for name in ("nose_tip", "chin", "mouth_left", "eye_outer_left")
    }
    place = place_by_landmarks(found, anchors)
    assert place.rotation == pytest.approx(truth.rotation) and place.scale == pytest.approx(0.001)
    rows = np.random.default_rng(1).choice(len(target.points), 3000, replace=False)
    rough = Placement(Rotation.from_rotvec([0.1, -0.15, 0.1]).as_matrix(), 1.04, np.array([0.01, -0.01, 0.01]))
    mended, _ = refine_placement(target.points[rows], target.normals[rows], target, rough, np.random.default_rng(0))
    assert np.linalg.norm(mended.apply(target.points[rows]) - target.points[rows], axis=1).mean() < 0.002


@pytest.mark.parametrize(
    ("found", "said"),
    [({"nose": [0, 0, 0]}, "no landmark nose"), ({"chin": [0, 0, 0], "nose_tip": [1, 0, 0]}, "three landmarks"),
     ({"chin": [0, 0, 0], "nose_tip": [1, 0, 0], "mouth_left": [2, 0, 0]}, "one line")],
)  # fmt: skip
def test_landmarks_that_place_nothing(found: dict[str, list[float]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        place_by_landmarks({name: np.array(point) for name, point in found.items()}, np.zeros((39, 3)))


def test_the_largest_part_is_kept() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [5, 5, 5], [6, 5, 5], [5, 6, 5]])
    whole = Surface(vertices, torch.tensor([[4, 5, 6], [0, 1, 2], [1, 3, 2]]))
    part = largest_part(whole)
    assert torch.equal(part.vertices, vertices[:4]) and part.faces.tolist() == [[0, 1, 2], [1, 3, 2]]
