"""The field that carries what a fit leaves over meets the landmarks and is smooth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.head import PARTS
from emorig_diffusers.models.mesh_fields import residual_offsets, similarity
from emorig_diffusers.photo.faces import BLENDSHAPES
from emorig_diffusers.photo.resample import transform_points


def test_residual_offsets_carry_the_residual(pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    face, head = astronaut_face.face, pipe.head
    landmarks = transform_points(astronaut_face.grid_matrix(2), face.landmarks[:, :2]) - 1
    fit = pipe.encoder(head, landmarks, dict(zip(BLENDSHAPES, face.blendshapes.tolist(), strict=True)))
    offsets = torch.from_numpy(residual_offsets(head, fit.residual))
    carried = head.landmarks(torch.cat([offsets, offsets[:, :1]], 1)[None].float())[0, :468, :2].numpy()
    error = np.linalg.norm(carried - fit.residual[:468], axis=1) * 192  # pixels of 384
    before = np.linalg.norm(fit.residual[:468], axis=1) * 192
    assert before.mean() > 0.3
    assert error.mean() < 0.05
    assert np.quantile(error, 0.9) < 0.1
    assert offsets.abs().max() < 2 * np.abs(fit.residual).max()
    np.testing.assert_allclose(astronaut_face.offsets.numpy(), offsets.numpy(), atol=1e-6)


def test_residual_offsets_are_linear_and_smooth(pipe: EmoRigPipeline) -> None:
    head = pipe.head
    constant = residual_offsets(head, np.full((478, 2), 0.01))
    skin = head.faces[head.face_part == PARTS.index("skin")].unique().numpy()
    front = skin[head.template[skin, 2].numpy() > 0.03]
    assert np.quantile(np.abs(constant[front] - 0.01), 0.9) < 5e-4  # a shift stays a shift
    one = np.zeros((478, 2))
    one[4, 0] = 0.01  # the nose's tip
    field = residual_offsets(head, one)
    np.testing.assert_allclose(residual_offsets(head, -3 * one), -3 * field, atol=1e-9)
    place = head.template.numpy()
    far = np.linalg.norm(place - place[np.abs(field[:, 0]).argmax()], axis=1) > 0.04
    assert np.abs(field[far]).max() < 0.15 * np.abs(field).max()
    assert not residual_offsets(head, np.zeros((478, 2))).any()


@pytest.mark.parametrize("weighted", [False, True])
def test_similarity_is_found_and_never_mirrors(weighted: bool) -> None:
    random = np.random.default_rng(0)
    points, weight = random.normal(size=(30, 3)), random.random(30)
    weight = weight / weight.sum() if weighted else None
    turn = Rotation.from_euler("XYZ", (20, -35, 50), degrees=True).as_matrix()
    matrix, shift = similarity(points, 2.5 * points @ turn.T + [7, 0, -1], weight)
    np.testing.assert_allclose(matrix, 2.5 * turn, atol=1e-12)
    np.testing.assert_allclose(shift, [7, 0, -1], atol=1e-12)
    mirrored, _ = similarity(points, points * [-1.0, 1, 1], weight)
    assert np.linalg.det(mirrored) > 0


def test_similarity_is_the_closest_one() -> None:
    """No turn, scale or shift beside it comes closer to noisy points."""
    random = np.random.default_rng(1)
    points, weight = random.normal(size=(30, 3)), random.random(30) / 15
    target = points * [1.5, 1, 1] + random.normal(0, 0.3, points.shape)
    matrix, shift = similarity(points, target, weight / weight.sum())
    off = lambda matrix, shift: weight @ np.square(points @ matrix.T + shift - target).sum(1)
    for _ in range(50):
        turn = Rotation.from_rotvec(random.normal(0, 0.02, 3)).as_matrix()
        assert off(random.normal(1, 0.02) * turn @ matrix, shift + random.normal(0, 0.01, 3)) > off(matrix, shift)
