"""Names of the mesh's points, held against a head on which every point has its place."""

from __future__ import annotations

import numpy as np

from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.photo.landmarks import EYES, INNER_LIPS, MESH, MIDDLE, MIRROR, OUTER_LIPS, TWINS


def test_every_point_has_its_like_on_the_other_side(head: HeadModel) -> None:
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(MESH))
    np.testing.assert_array_equal(np.flatnonzero(np.arange(MESH) == MIRROR), MIDDLE)
    points = head.landmarks(head.template[None])[0, :MESH].numpy()
    off = np.linalg.norm(points - points[MIRROR] * [-1, 1, 1], axis=1)
    assert np.median(off) < 2e-4 and off.max() < 5e-3  # metres; the points of the nose were put on the head by eye
    assert (points[TWINS[0], 0] < 0).all() and (points[TWINS[1], 0] > 0).all()


def test_outlines_mirror_onto_outlines() -> None:
    for outline in (OUTER_LIPS, INNER_LIPS, EYES):
        assert set(MIRROR[list(outline)]) == set(outline)
    assert [MIRROR[i] for i in (61, 78, 33)] == [291, 308, 263]
