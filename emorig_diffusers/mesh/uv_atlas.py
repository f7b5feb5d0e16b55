"""Where a head's surface lies in its texture."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..models.head import HeadModel
from ..painting.stages.flow import CAVITY, EYES, NECK, TEETH

DENSITY = {**dict.fromkeys(EYES, 1.5), **dict.fromkeys(TEETH, 0.8), CAVITY: 0.3, NECK: 0.3}
"""Texels a metre of parts in a packed layout, relative to the skin's."""
FACE_ZOOM = 2.5  # of the face in a packed layout, relative to the rest of the skin
GAP = 0.006  # between islands of a packed layout


def uv_layout(head: HeadModel) -> np.ndarray:
    """Texture coordinates float64 [T, 2] in [0, 1] for `head.faces_uv`: the head's own, else its islands packed.

    DENSITY says how large packed islands are; the face is enlarged by FACE_ZOOM.
    """
    uv = head.uv.numpy().astype(np.float64)
    if uv.min() >= 0 and uv.max() <= 1:
        return uv
    islands = _islands(head, uv)
    boxes = [np.ptp(shape, axis=0) for _, shape in islands]
    order = sorted(range(len(islands)), key=lambda k: -boxes[k][1])
    side = max(map(max, boxes))
    while (corners := _shelves([boxes[k] for k in order], side)) is None:
        side *= 1.02
    packed = np.zeros_like(uv)
    for k, corner in zip(order, corners):
        rows, shape = islands[k]
        packed[rows] = (shape - shape.min(0) + corner) / side
    return packed


def triangle_areas(corners: np.ndarray) -> np.ndarray:
    """Areas [F] of triangles [F, 3, 3]."""
    edges = corners[:, 1:] - corners[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2


def _islands(head: HeadModel, uv: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of `uv` and their coordinates, as large as the island is to be, of every connected piece."""
    faces, ends = head.faces_uv.numpy(), (len(uv), len(uv))
    links = sparse.coo_matrix((np.ones(faces.size), (faces.ravel(), np.roll(faces, 1, 1).ravel())), ends)
    label = connected_components(links, directed=False)[1]
    place, part = head.template.numpy()[head.faces.numpy()], head.face_part.numpy()
    islands = []
    for island in np.unique(label[faces]):
        own = label[faces[:, 0]] == island
        flat = np.pad(uv[faces[own]], ((0, 0), (0, 0), (0, 1)))
        density = DENSITY.get(int(np.bincount(part[own]).argmax()), 1.0)
        rows = np.flatnonzero(label == island)
        shape = uv[rows] * density * np.sqrt(triangle_areas(place[own]).sum() / triangle_areas(flat).sum())
        islands.append((rows, _enlarge_face(shape, np.isin(rows, _landmark_rows(head)))))
    return islands


def _landmark_rows(head: HeadModel) -> np.ndarray:
    """Rows of `uv` around the landmarks, with repetitions."""
    return head.faces_uv.numpy()[head.landmark_faces.numpy()[head.landmark_weight.numpy() > 0]].ravel()


def _enlarge_face(shape: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Stretch an island [N, 2] along both axes where the vertices marked in `face` [N] are."""
    if face.sum() < 100:
        return shape
    stretched = np.empty_like(shape)
    for axis, values in enumerate(shape.T):
        knots = np.array([values.min(), values[face].min(), values[face].max(), values.max()])
        steps = np.diff(knots) * [1, FACE_ZOOM, 1]
        stretched[:, axis] = np.interp(values, knots, np.concatenate([[0], steps.cumsum() / steps.sum()]))
    return stretched * np.ptp(shape, axis=0)


def _shelves(boxes: list[np.ndarray], side: float) -> list[tuple[float, float]] | None:
    """Lower left corners of boxes [width, height], tallest first, in rows on a square; `None` if it is too small."""
    gap, corners = GAP * side, []
    x, y, top = gap, gap, 0.0
    for width, height in boxes:
        if x + width + gap > side:
            x, y, top = gap, top + gap, 0.0
        if x + width + gap > side or y + height + gap > side:
            return None
        corners.append((x, y))
        x, top = x + width + gap, max(top, y + height)
    return corners
