"""Where a scan lies to a head: rotation, scale and shift, by landmarks or from nothing.

Without landmarks, point-to-plane ICP runs from many starting rotations on few points, and the best go on with more.
Distances are measured at the scan's own size, which nothing can make small by shrinking the scan.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from .geometry import Surface
from .mesh_fields import similarity

LANDMARKS = {
    "nose_tip": 33, "chin": 38, "mouth_right": 0, "mouth_left": 1, "eye_outer_right": 12, "eye_outer_left": 13,
    "eye_inner_right": 10, "eye_inner_left": 11, "nose_wing_right": 14, "nose_wing_left": 15,
}  # fmt: skip
"""Anchors of NPHM by names that people can point at; right is the subject's."""
COARSE, FINE = (400, 10), (3000, 40)  # points and rounds of ICP from every start, and of the best ones
BEST = 6  # starts that go on
TRIMMED = 0.85  # share of the points, the nearest, that count
TARGET = 20_000  # points of the head's surface
FACE_MIDDLE = (0.0, -0.01, 0.045)  # metres, in NPHM's space; where the middle of a scan of the face alone lies
SCALE_DEVIATION = 0.02  # natural logarithms; of the scale where the unit is known, as scanners measure
UNKNOWN_DEVIATION = 0.3  # where it is not
REFINED_DEVIATION = 0.06  # of a scale that landmarks tell
NORMAL_WEIGHT = 0.01  # metres that normals at right angles count as
DISTANCE_NOISE = 0.004  # metres; deviation of an average head from a scan, to weigh distances against the size


@dataclass(frozen=True)
class Placement:
    """From a scan's coordinates to a head's in metres: scale · rotation · x + shift."""

    rotation: np.ndarray
    scale: float
    shift: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] of the scan on the head, metres."""
        return self.scale * points @ self.rotation.T + self.shift

    def invert(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] of the head in the scan's coordinates."""
        return (points - self.shift) @ self.rotation / self.scale


def place_by_landmarks(found: Mapping[str, np.ndarray], anchors: np.ndarray) -> Placement:
    """The similarity that brings landmarks of a scan to the anchors [A, 3] of a head, metres.

    Raises:
        ValueError: A landmark is unknown, or fewer than three span no triangle.
    """
    if unknown := set(found) - set(LANDMARKS):
        raise ValueError(f"There is no landmark {', '.join(sorted(unknown))}: use {', '.join(LANDMARKS)}.")
    points = np.array([found[name] for name in found], np.float64).reshape(-1, 3)
    if len(points) < 3 or np.linalg.svd(points - points.mean(0))[1][1] < 1e-6 * np.abs(points).max():
        raise ValueError("A scan is placed by three landmarks or more that do not lie on one line.")
    matrix, shift = similarity(points, anchors[[LANDMARKS[name] for name in found]].astype(np.float64))
    scale = float(np.cbrt(np.linalg.det(matrix)))
    return Placement(matrix / scale, scale, shift)


class Target:
    """The surface of a head, to place scans on.

    Args:
        surface: Metres.
        rng: Chooses TARGET points of it.
    """

    def __init__(self, surface: Surface, rng: np.random.Generator) -> None:
        vertices, faces = surface.vertices.detach().cpu().double().numpy(), surface.faces.cpu().numpy()
        a, b, c = (vertices[faces[:, corner]] for corner in range(3))
        cross = np.cross(b - a, c - a)
        area = np.linalg.norm(cross, axis=1)
        face = rng.choice(len(faces), TARGET, p=area / area.sum())
        bary = rng.dirichlet(np.ones(3), TARGET)
        self.points = (np.stack([a[face], b[face], c[face]], 1) * bary[..., None]).sum(1)
        self.normals = cross[face] / area[face, None].clip(1e-18)
        self.tree = KDTree(self.points)
        self.middle = (self.points.min(0) + self.points.max(0)) / 2


def place_scan(
    points: np.ndarray, normals: np.ndarray | None, target: Target, unit: float, known_unit: bool,
    rng: np.random.Generator,
) -> tuple[Placement, float]:  # fmt: skip
    """The similarity that lays a scan on a head, and what it leaves over, metres.

    Args:
        points: [N, 3], of the scan.
        normals: [N, 3] outwards; `None` where unknown or of unknown sign.
        target: The head.
        unit: Metres of the scan's unit, as far as it is known.
        known_unit: Whether it is.
        rng: Chooses points.
    """
    deviation = SCALE_DEVIATION if known_unit else UNKNOWN_DEVIATION
    fit = lambda start, size, free: _icp(points, normals, target, start, unit, deviation, size, free, rng)
    starts = [fit(start, COARSE, not known_unit) for start in _starts(points, target, unit)]
    starts.sort(key=lambda found: found[1])
    best = [fit(start, FINE, True) for start, _ in starts[:BEST]]
    return min(best, key=lambda found: found[1])


def refine_placement(
    points: np.ndarray, normals: np.ndarray | None, target: Target, start: Placement, rng: np.random.Generator
) -> tuple[Placement, float]:
    """A placement that is nearly right, made better by ICP; as `place_scan`."""
    return _icp(points, normals, target, start, start.scale, REFINED_DEVIATION, FINE, True, rng)


def _starts(points: np.ndarray, target: Target, unit: float) -> list[Placement]:
    """The 24 turns of a cube, with the scan's middle at the head's and at the face's."""
    low, high = np.percentile(points, [1, 99], axis=0)
    middles, starts = (target.middle, np.array(FACE_MIDDLE)), []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        turn = np.eye(3)[list(order)] * np.array(signs)[:, None]
        if np.linalg.det(turn) > 0:
            starts += [Placement(turn, unit, middle - unit * turn @ (low + high) / 2) for middle in middles]
    return starts


def _icp(
    points: np.ndarray, normals: np.ndarray | None, target: Target, start: Placement, unit: float, deviation: float,
    size: tuple[int, int], free: bool, rng: np.random.Generator,
) -> tuple[Placement, float]:  # fmt: skip
    """Trimmed point-to-plane ICP; `free` also scales. Gives the placement and the trimmed misfit at the scan's size."""
    rows = rng.choice(len(points), min(size[0], len(points)), replace=False)
    points, normals = points[rows], None if normals is None else normals[rows]
    place, misfit = start, np.inf
    for _ in range(size[1]):
        moved = place.apply(points)
        away, near = (np.asarray(found) for found in target.tree.query(moved))
        cost = away + (0 if normals is None else NORMAL_WEIGHT * (
            1 - (normals @ place.rotation.T * target.normals[near]).sum(1)
        ))  # fmt: skip
        kept = cost <= np.quantile(cost, TRIMMED)
        misfit = float(cost[kept].mean()) * unit / place.scale
        place = _step(place, moved[kept], target.points[near[kept]], target.normals[near[kept]], unit, deviation, free)
    return place, misfit


def _step(
    place: Placement, moved: np.ndarray, goal: np.ndarray, normal: np.ndarray, unit: float, deviation: float, free: bool
) -> Placement:
    """One Gauss-Newton step in rotation, shift and, where free, the logarithm of the scale, about the middle."""
    middle = moved.mean(0)
    arm = moved - middle
    columns = [np.cross(arm, normal), normal, (arm * normal).sum(1)[:, None]]
    matrix = np.concatenate(columns if free else columns[:2], 1)
    residual = ((goal - moved) * normal).sum(1)
    hessian = matrix.T @ matrix + 1e-9 * len(moved) * np.eye(matrix.shape[1])
    right = matrix.T @ residual
    if free:
        pull = DISTANCE_NOISE**2 / deviation**2 * len(moved) / 50  # neighbouring points err alike: 50 count as one
        hessian[6, 6] += pull
        right[6] -= pull * np.log(place.scale / unit)
    delta = np.linalg.solve(hessian, right)
    angle = np.linalg.norm(delta[:3])
    turn = _rotation(delta[:3] * min(1.0, 0.5 / max(angle, 1e-12)))
    scale = float(np.exp(np.clip(delta[6], -0.2, 0.2))) if free else 1.0
    shift = scale * turn @ (place.shift - middle) + middle + delta[3:6]
    return Placement(turn @ place.rotation, scale * place.scale, shift)


def _rotation(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def largest_part(surface: Surface) -> Surface:
    """The largest part of a surface that hangs together; what else a network draws far from all scans is dropped."""
    faces = surface.faces.cpu().numpy()
    count = len(surface.vertices)
    edges = sparse.coo_matrix((np.ones(2 * len(faces)), np.concatenate([faces[:, :2], faces[:, 1:]]).T), (count, count))
    labels = connected_components(edges, directed=False)[1]
    kept = labels[faces[:, 0]] == np.bincount(labels[faces[:, 0]]).argmax()
    used, index = np.unique(faces[kept], return_inverse=True)
    device = surface.vertices.device
    return Surface(
        surface.vertices[torch.from_numpy(used).to(device)],
        torch.from_numpy(index.reshape(-1, 3)).to(surface.faces.device),
    )
