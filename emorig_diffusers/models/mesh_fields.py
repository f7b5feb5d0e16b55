"""Smooth fields on a head's mesh, what landmarks say of vertices; and the similarity between two of its shapes."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from ..photo.landmarks import MESH
from .head import HeadModel

# weights of the residual field, of a landmark's misfit: by eye, so that landmarks are met and nothing folds
BENDING, STRETCHING, HOLD = 0.02, 0.003, 1e-5
SHORTEST = 1e-4  # metres that an edge counts at least

_solvers: WeakKeyDictionary[HeadModel, Callable[[np.ndarray], np.ndarray]] = WeakKeyDictionary()


def residual_offsets(head: HeadModel, residual: np.ndarray) -> np.ndarray:
    """Smooth 2-D vertex offsets [V, 2] that carry the landmark residual [N, 2] of a fit, in its unit.

    Minimises landmark misfit plus bending (squared graph Laplacian), so that the fitted head meets the detected
    landmarks exactly and nothing folds. The factorised system is kept as long as the head is.
    """
    if head not in _solvers:
        _solvers[head] = _residual_solver(head)
    return _solvers[head](residual)


def _residual_solver(head: HeadModel) -> Callable[[np.ndarray], np.ndarray]:
    embed, laplacian = landmark_embedding(head), graph_laplacian(head)
    weight = head.landmark_weight.numpy().astype(np.float64) ** 2
    weight[MESH:] = 0  # gaze is not a deformation of the eyeball
    bending = smoothness(laplacian, BENDING, STRETCHING, HOLD)
    factor = splu((embed.T @ sparse.diags(weight) @ embed + bending).tocsc())
    return lambda residual: factor.solve(np.asarray(embed.T @ (weight[:, None] * residual), np.float64))


def landmark_embedding(head: HeadModel) -> sparse.csr_matrix:
    """Matrix [N, V] from vertices to the head's landmarks."""
    corners = head.faces.numpy()[head.landmark_faces.numpy()]
    rows = np.repeat(np.arange(len(corners)), 3)
    shape = len(corners), head.config.num_vertices
    return sparse.csr_matrix((head.landmark_bary.numpy().ravel(), (rows, corners.ravel())), shape)


def graph_laplacian(head: HeadModel) -> sparse.csr_matrix:
    """Laplacian [V, V] of the mesh's edges, each as stiff as it is short on the template; its diagonal's mean is 1."""
    count, faces, place = head.config.num_vertices, head.faces.numpy(), head.template.numpy()
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    stiff = 1 / np.linalg.norm(place[edges[:, 0]] - place[edges[:, 1]], axis=1).clip(SHORTEST)
    graph = sparse.coo_matrix((stiff, edges.T), (count, count))
    graph = graph + graph.T
    laplacian = sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph
    return laplacian / laplacian.diagonal().mean()


def smoothness(laplacian: sparse.csr_matrix, bending: float, stretching: float, hold: float) -> sparse.csr_matrix:
    """Quadratic form [V, V] of a field's bending, stretching and size, each with its weight."""
    return bending * laplacian.T @ laplacian + stretching * laplacian + hold * sparse.eye(len(laplacian.diagonal()))


def similarity(
    source: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix [3, 3] and shift [3] of the turn and scale that bring points [N, 3] closest to a target (Umeyama 1991).

    trimesh's `procrustes` takes the ratio of both sizes for the scale, which is not the closest one.

    Args:
        source, target: float64, any units.
        weight: [N], sums to 1; `None` where all points count alike.
    """
    middle = (lambda x: x.mean(0)) if weight is None else (lambda x: weight @ x)
    a, b = source - middle(source), target - middle(target)
    left, size, right = np.linalg.svd(b.T @ (a if weight is None else weight[:, None] * a))
    sign = np.array([1, 1, np.sign(np.linalg.det(left @ right))])  # no mirror image
    squares = (a**2).sum() if weight is None else weight @ (a**2).sum(1)
    matrix = (left * sign) @ right * (size * sign).sum() / squares
    return matrix, middle(target) - matrix @ middle(source)
