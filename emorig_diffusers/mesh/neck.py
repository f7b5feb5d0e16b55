"""A neck that was cut across its mesh ends in teeth: it is cut again, on a plane through its triangles."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..models.head import HeadModel

JAGGED = 0.003  # metres along the neck between neighbours on its border from which that is no clean loop
ABOVE = 0.0005  # metres above the highest of the border's vertices at which it is cut: no slivers
MOST = 0.03  # metres that may be cut off


def neck_height(head: HeadModel) -> np.ndarray | None:
    """Metres [V] above the plane on which the template's neck is to be cut; `None` where it ends cleanly."""
    place = head.template.detach().cpu().double().numpy()
    edges = _border(head.faces[~_spikes(head.faces)])
    if not len(edges):
        return None
    graph = sparse.coo_matrix((np.ones(len(edges)), tuple(edges.T)), shape=(len(place),) * 2)
    loop = connected_components(graph, directed=False)[1]
    middles = {name: place[edges[loop[edges[:, 0]] == name].ravel(), 1].mean() for name in set(loop[edges[:, 0]])}
    edges = edges[loop[edges[:, 0]] == min(middles, key=lambda name: middles[name])]
    border = place[np.unique(edges)]
    centre = border.mean(0)
    axis = np.linalg.svd(border - centre)[2][2]
    height = (place - centre) @ (axis * np.sign(axis[1]))
    if np.abs(np.subtract(*height[edges.T])).max() < JAGGED:
        return None
    height -= height[np.unique(edges)].max() + ABOVE
    return height if height.min() > -MOST else None


def cut(faces: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """The part of a mesh above height 0.

    Args:
        faces: int64 [F, 3].
        height: Of the vertices [N].

    Returns:
        Faces [F', 3] with the same winding, and the new vertices as means [N', N] of the old ones: those that stay, in
        their order, then those on the cut.
    """
    above = height > 0
    kept = above[faces].sum(1)
    triangles, ends = list(faces[kept == 3]), {}

    def crossing(one: int, other: int) -> int:
        return ends.setdefault((min(one, other), max(one, other)), len(height) + len(ends))

    for face in faces[(kept > 0) & (kept < 3)]:
        polygon = []
        for one, other in zip(face, np.roll(face, -1)):
            polygon += [one] if above[one] else []
            polygon += [crossing(one, other)] if above[one] != above[other] else []
        triangles += [(polygon[0], *polygon[k : k + 2]) for k in range(1, len(polygon) - 1)]
    pairs = np.array(list(ends), np.int64).reshape(-1, 2)
    share = height[pairs[:, 0]] / (height[pairs[:, 0]] - height[pairs[:, 1]])
    rows = np.arange(len(pairs)).repeat(2)
    new = sparse.coo_matrix((np.column_stack([1 - share, share]).ravel(), (rows, pairs.ravel())),
                            shape=(len(pairs), len(height)))  # fmt: skip
    used, index = np.unique(np.array(triangles), return_inverse=True)
    return index.reshape(-1, 3), sparse.vstack([sparse.identity(len(height)), new]).tocsr()[used]


def _border(faces: Tensor) -> np.ndarray:
    """Edges [E, 2] of one face only."""
    edges = torch.stack([faces, faces.roll(-1, 1)], -1).sort(-1).values.flatten(0, 1)
    unique, count = edges.unique(dim=0, return_counts=True)
    return unique[count == 1].numpy()


def _spikes(faces: Tensor) -> Tensor:
    """Faces [F] that hang on the rest by one edge."""
    edges = torch.stack([faces, faces.roll(-1, 1)], -1).sort(-1).values.flatten(0, 1)
    _, edge, count = (edges @ edges.new_tensor([len(faces) * 3, 1])).unique(return_inverse=True, return_counts=True)
    return (count[edge].view(-1, 3) == 1).sum(1) > 1
