"""Linear heads that neural ones are compared with, and their fit to scans.

Global PCA is a basis of whole registered heads. Local PCA has one for the surroundings of every anchor, blended by the
weights that NPHM blends its networks by. The open head and FLAME bring their own bases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from ...models.head import HeadModel
from ...models.nphm_fields import ANCHOR_OFFSET, BACKGROUND, BLEND_VARIANCE

METRES = 0.25  # a unit of BLEND_VARIANCE, NPHM's
SAMPLES = 12_000  # points of the mesh that scans are compared with
POINTS = 4_000  # of the scan that are fitted
ROUNDS = 14
LOOSENING = (30.0, 1.0)  # times the prior, in the first round and from the middle on
POINT_NOISE = 0.0012  # metres that distances deviate by, to weigh them against the prior
INDEPENDENT = 8.0  # neighbouring points err alike: so many count as one
OUTLIER = 0.01  # metres from which on distances count less and less (Cauchy)
TANGENTIAL = 0.05  # weight of distances along the surface, against ones from it
LOCAL_COMPONENTS = 12  # of every anchor's basis
KEPT_VARIANCE = 0.999  # by the components of the global basis


@dataclass(frozen=True)
class LinearHead:
    """vertices = mean + Σ c · basis, each c of deviation 1.

    Attributes:
        mean: [V, 3] in metres.
        basis: [K, V, 3].
        faces: int64 [F, 3].
    """

    mean: np.ndarray
    basis: np.ndarray
    faces: np.ndarray


def global_pca(heads: np.ndarray, faces: np.ndarray) -> LinearHead:
    """From registered heads [N, V, 3]."""
    mean = heads.mean(0)
    return LinearHead(mean, _components((heads - mean).reshape(len(heads), -1)).reshape(-1, *mean.shape), faces)


def local_pca(heads: np.ndarray, faces: np.ndarray, anchors: np.ndarray) -> LinearHead:
    """From registered heads [N, V, 3], with a basis around each anchor [A, 3] of the mean head."""
    mean = heads.mean(0)
    squares = (np.linalg.norm(mean[:, None] - anchors, axis=2) / METRES + ANCHOR_OFFSET) ** 2
    squares = np.concatenate([squares, np.full((len(mean), 1), BACKGROUND)], 1)
    weights = np.exp(-(squares - squares.min(1, keepdims=True)) / BLEND_VARIANCE)
    weights /= weights.sum(1, keepdims=True)
    parts = []
    for weight in weights.T:
        rows = weight > 1e-4
        if not rows.any():
            continue
        local = ((heads - mean)[:, rows] * weight[rows, None]).reshape(len(heads), -1)
        components = _components(local, LOCAL_COMPONENTS)
        basis = np.zeros((len(components), *mean.shape), np.float32)
        basis[:, rows] = components.reshape(len(components), -1, 3)
        parts.append(basis)
    return LinearHead(mean, np.concatenate(parts), faces)


def _components(rows: np.ndarray, most: int | None = None) -> np.ndarray:
    """Principal components [K, D] of centred rows [N, D], as long as their deviations."""
    values, vectors = np.linalg.eigh(rows @ rows.T)  # of N x N, as there are far fewer heads than coordinates
    order = np.argsort(-values)
    values, vectors = values[order].clip(0), vectors[:, order]
    kept = int(np.searchsorted(np.cumsum(values) / max(values.sum(), 1e-30), KEPT_VARIANCE)) + 1
    kept = min(kept, len(values), most or len(values))
    # (rows' u) / √λ is a unit vector; its deviation over people is √(λ / N)
    return (vectors[:, :kept].T @ rows / np.sqrt(len(rows))).astype(np.float32)


def linear_head(head: HeadModel, shift: np.ndarray, faces: np.ndarray, units: float = 0.3) -> LinearHead:
    """The open head or FLAME with its own bases, laid into NPHM's space by a shift [3] in metres.

    Args:
        units: Deviation of expression components with names, which lie in [0, 1].
    """
    scale = units if head.config.expression_names else 1.0
    basis = np.concatenate([head.shape_basis.numpy(), head.expression_basis.numpy() * scale])
    return LinearHead(head.template.numpy() + shift, basis, faces)


def fit_linear(head: LinearHead, points: np.ndarray, normals: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """Vertices [V, 3] of the head that fits a scan which lies in its space, by non-rigid ICP under the Gaussian prior.

    Args:
        points: [N, 3] in metres; normals: [N, 3], to match only what faces the same way; `None` where unknown.
    """
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(points), min(POINTS, len(points)), replace=False)
    points, normals = points[rows].astype(np.float64), None if normals is None else normals[rows]
    sample = _Samples(head, rng)
    code = np.zeros(len(head.basis) + 6)  # rigid motion first
    for number in range(ROUNDS):
        share = min(1.0, 2 * number / ROUNDS)
        prior = LOOSENING[0] ** (1 - share) * LOOSENING[1] ** share
        code = code + _linear_step(head, sample, code, points, normals, prior)
    return head.mean + np.tensordot(code[6:], head.basis, 1) + _rigid(code, head.mean)


def _rigid(code: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Small turn and shift at points [N, 3], metres."""
    return np.cross(code[:3], at) + code[3:6]


class _Samples:
    """Points fixed on a head's mesh."""

    def __init__(self, head: LinearHead, rng: np.random.Generator) -> None:
        corners = head.mean[head.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        self.face = rng.choice(len(area), SAMPLES, p=area / area.sum())
        self.bary = rng.dirichlet(np.ones(3), SAMPLES)[..., None]
        self.corners = head.faces[self.face]
        self.basis = self.place(head.basis.transpose(1, 0, 2))  # [M, K, 3]

    def place(self, values: np.ndarray) -> np.ndarray:
        """Values [V, ...] of vertices at the points."""
        bary = self.bary.reshape(len(self.bary), 3, *[1] * (values.ndim - 1)).astype(values.dtype)
        return (values[self.corners] * bary).sum(1)

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """Normals [M, 3] of the faces."""
        a, b, c = (vertices[self.corners[:, k]] for k in range(3))
        cross = np.cross(b - a, c - a)
        return cross / np.linalg.norm(cross, axis=1, keepdims=True).clip(1e-18)


def _linear_step(
    head: LinearHead, sample: _Samples, code: np.ndarray, points: np.ndarray, normals: np.ndarray | None, prior: float
) -> np.ndarray:
    """What to add to the code [6 + K]: one Gauss-Newton step."""
    vertices = head.mean + np.tensordot(code[6:], head.basis, 1) + _rigid(code, head.mean)
    at, facing = sample.place(vertices), sample.normals(vertices)
    away, near = (np.asarray(found) for found in KDTree(at).query(points))
    weight = 1 / (1 + (away / OUTLIER) ** 2)
    if normals is not None:
        weight = weight * ((normals * facing[near]).sum(1) > 0.3)
    rest = sample.place(head.mean)[near]
    rigid = np.concatenate([np.cross(np.eye(3)[None], rest[:, None]), np.broadcast_to(np.eye(3), (len(near), 3, 3))], 1)
    moves = np.concatenate([rigid, sample.basis[near]], 1)  # [P, 6 + K, 3]
    residual, normal = points - at[near], facing[near]
    along = np.einsum("pkc,pc->pk", moves, normal)
    hessian = (along * weight[:, None]).T @ along * (1 - TANGENTIAL)
    flat = (moves * np.sqrt(weight * TANGENTIAL)[:, None, None]).transpose(0, 2, 1).reshape(-1, moves.shape[1])
    hessian += flat.T @ flat
    right = along.T @ (weight * (residual * normal).sum(1)) * (1 - TANGENTIAL)
    right += flat.T @ (residual * np.sqrt(weight * TANGENTIAL)[:, None]).ravel()
    ridge = np.full(len(code), prior * POINT_NOISE**2 * INDEPENDENT)
    ridge[:6] = 1e-9
    return np.linalg.solve(hessian + np.diag(ridge), right - ridge * code)


def registered_heads(scans: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(vertices, faces) of scans as heads [N, V, 3] and their faces.

    Raises:
        ValueError: They are of different templates, or too few.
    """
    if len({len(vertices) for vertices, _ in scans}) > 1:
        raise ValueError("The scans are registered with different templates: PCA needs one.")
    if len(scans) < 3:
        raise ValueError("PCA needs at least three scans with a registered template (vertices and faces).")
    return np.stack([vertices for vertices, _ in scans]).astype(np.float64), scans[0][1]
