"""LandmarkEncoder: known heads are found again from their projected landmarks; its solver against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from emorig_diffusers import FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.head import HeadModel, rotation_matrix
from emorig_diffusers.models.landmark_fit import UNSEEN_UNITS, FitResult, LandmarkEncoder, axis_angle, solve_bounded
from emorig_diffusers.photo.faces import BLENDSHAPES
from emorig_diffusers.photo.resample import transform_points
from emorig_diffusers.render.camera import project

PIXEL = 2 / 384  # normalised device coordinates
RIGID = [33, 133, 362, 263, 1, 168, 61, 291, 152]
# seed of the person, (yaw, pitch, roll) in degrees, what the face does
PEOPLE = [
    (0, (0, 0, 0), {}),
    (1, (12, -8, 4), {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5, "mouthUpperUpLeft": 0.3}),
    (2, (25, 0, 0), {"jawOpen": 0.6, "browInnerUp": 0.8}),
    (3, (-25, 10, -10), {"browDownLeft": 0.7, "browDownRight": 0.7}),
    (4, (10, 15, 20), {"eyeBlinkLeft": 0.8, "jawOpen": 0.2}),
]


def person(encoder: LandmarkEncoder, seed: int, angles: tuple, units: dict, names: tuple) -> FaceCodes:
    """A random person at the encoder's relaxed expression plus `units`."""
    generator = torch.Generator().manual_seed(seed)
    expression = encoder.prior_offset.clone()
    for name, amount in units.items():
        expression[names.index(name)] += amount
    turn = Rotation.from_euler("YXZ", angles, degrees=True).as_rotvec()
    return FaceCodes(
        shape=0.8 * torch.randn(1, 80, generator=generator),
        expression=expression[None],
        pose=torch.tensor([[*turn, 0, 0, 0]]).float(),
        camera=torch.tensor([[6.5 + seed / 4, 0.01 * seed, -0.02]]),
        light=torch.zeros(1, 9, 3),
        texture=torch.zeros(1, 0),
    )


def projected(head: HeadModel, codes: FaceCodes) -> np.ndarray:
    """Landmarks [478, 2] in normalised device coordinates."""
    vertices = head(codes.shape, codes.expression, codes.pose)
    return head.landmarks(project(vertices, codes.camera))[0, :, :2].numpy()


def scores_for(encoder: LandmarkEncoder, names: tuple[str, ...], units: dict[str, float]) -> dict[str, float]:
    """Scores that the encoder's prior turns into `units`, as far as it can."""
    scale = dict(zip(names, encoder.prior_scale.tolist(), strict=True))
    return {n: min(v / scale[n], 1.0) for n, v in units.items() if scale[n] > 0.05}


@pytest.mark.parametrize(("seed", "angles", "units"), PEOPLE)
def test_known_heads_are_found_again(
    head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...], seed: int, angles: tuple, units: dict
) -> None:
    codes = person(encoder, seed, angles, units, names)
    landmarks = projected(head, codes)
    fit = encoder(head, landmarks, scores_for(encoder, names, units))
    again = projected(head, fit.codes)
    error = np.linalg.norm(again - landmarks, axis=1)[:468] / PIXEL
    assert error.mean() < 0.5
    assert error.max() < 2.5
    turned = Rotation.from_rotvec(fit.codes.pose[0, :3]) * Rotation.from_rotvec(codes.pose[0, :3]).inv()
    assert np.degrees(turned.magnitude()) < 2
    assert float(fit.codes.camera[0, 0] / codes.camera[0, 0]) == pytest.approx(1, abs=0.08)
    # what the fit reports is what its codes leave over
    np.testing.assert_allclose(fit.residual, landmarks - again, atol=0.1 * PIXEL)
    np.testing.assert_allclose(fit.error, np.linalg.norm(fit.residual, axis=1))


def test_shape_and_size_of_codes(head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...]) -> None:
    codes = person(encoder, 7, (0, 0, 0), {}, names)
    fit = encoder(head, projected(head, codes), {})
    sizes = {n: tuple(v.shape) for n, v in vars(fit.codes).items()}
    assert sizes == {
        "shape": (1, 80),
        "expression": (1, 52),
        "pose": (1, 6),
        "camera": (1, 3),
        "light": (1, 9, 3),
        "texture": (1, 0),
    }
    assert not fit.codes.pose[0, 3:].any()  # the open head's jaw moves by its units
    unseen = [i for i, n in enumerate(names) if n.startswith(UNSEEN_UNITS)]
    assert not fit.codes.expression[0, unseen].any()
    assert fit.codes.expression.min() >= -0.6 and fit.codes.expression.max() <= 1.3


def test_expression_is_told_from_shape(head: HeadModel, encoder: LandmarkEncoder, names: tuple[str, ...]) -> None:
    units = {"jawOpen": 0.5, "mouthSmileLeft": 0.4, "mouthSmileRight": 0.4}
    scores = scores_for(encoder, names, units)
    calm, lively = (
        encoder(head, projected(head, person(encoder, 5, (8, 0, 0), u, names)), s).codes
        for u, s in (({}, {}), (units, scores))
    )
    change = dict(zip(names, (lively.expression - calm.expression)[0].tolist(), strict=True))
    for name, amount in units.items():
        assert change[name] == pytest.approx(amount, abs=0.15), name
    assert (lively.shape - calm.shape).norm() < 0.35 * calm.shape.norm()


def test_a_moved_or_scaled_face_moves_only_the_camera(
    head: HeadModel, encoder: LandmarkEncoder, astronaut_face: EncodedFace
) -> None:
    landmarks, scores = detection(astronaut_face)
    here, there = (encoder(head, points, scores).codes for points in (landmarks, landmarks * 0.7 + [0.1, -0.2]))
    torch.testing.assert_close(there.expression, here.expression, atol=1e-3, rtol=0)
    torch.testing.assert_close(there.pose, here.pose, atol=1e-3, rtol=0)
    (scale, *shift), (scale2, *shift2) = here.camera[0].tolist(), there.camera[0].tolist()
    assert scale2 == pytest.approx(0.7 * scale, rel=1e-3)
    assert scale2 * shift2[0] == pytest.approx(0.7 * scale * shift[0] + 0.1, abs=1e-3)
    assert scale2 * shift2[1] == pytest.approx(0.7 * scale * shift[1] + 0.2, abs=1e-3)  # y up


def detection(face: EncodedFace) -> tuple[np.ndarray, dict[str, float]]:
    points = transform_points(face.grid_matrix(2), face.face.landmarks[:, :2]) - 1
    return points, dict(zip(BLENDSHAPES, face.face.blendshapes.tolist(), strict=True))


def fit_of(encoder: LandmarkEncoder, head: HeadModel, face: EncodedFace) -> FitResult:
    return encoder(head, *detection(face))


def test_real_faces(
    head: HeadModel,
    encoder: LandmarkEncoder,
    astronaut_face: EncodedFace,
    hopper_face: EncodedFace,
    names: tuple[str, ...],
) -> None:
    for face in (astronaut_face, hopper_face):
        fit = fit_of(encoder, head, face)
        assert fit.error[:468].mean() < 2 * PIXEL
        landmarks, _ = detection(face)
        np.testing.assert_allclose(projected(head, fit.codes) + fit.residual, landmarks, atol=0.1 * PIXEL)
        assert np.degrees(np.linalg.norm(fit.codes.pose[0, :3])) < 20  # both look into the camera
        assert fit.codes.expression.min() >= -0.6001 and fit.codes.expression.max() <= 1.3001
    smile = [names.index("mouthSmileLeft"), names.index("mouthSmileRight")]
    assert (astronaut_face.codes.expression - hopper_face.codes.expression)[0, smile].min() > 0.2


def test_too_few_landmarks(head: HeadModel, encoder: LandmarkEncoder) -> None:
    with pytest.raises(ValueError, match="needs 478 landmarks, got 468"):
        encoder(head, np.zeros((468, 2)), {})


def test_axis_angle_inverts_rotation_matrix() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(50, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    for vector in direction * np.array([0, 1e-7, 0.01, 1, 3.0]).repeat(10)[:, None]:
        matrix = Rotation.from_rotvec(vector).as_matrix()
        np.testing.assert_allclose(axis_angle(matrix), vector, atol=1e-9)
        ours = rotation_matrix(torch.from_numpy(vector)).numpy()
        np.testing.assert_allclose(axis_angle(ours), vector, atol=1e-7)


def bounded_problem(
    seed: int, tightness: float, rows: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A least-squares problem [rows x 30] whose solution breaks bounds, the more the tighter they are."""
    rng = np.random.default_rng(seed)
    matrix, goal = rng.normal(size=(rows, 30)), rng.normal(size=rows) * 3
    width = np.abs(np.linalg.lstsq(matrix, goal, rcond=None)[0]).max() * tightness
    return matrix, goal, -width * rng.uniform(0.8, 1, 30), width * rng.uniform(0.8, 1, 30)


def test_solve_bounded_where_unknowns_hardly_interact() -> None:
    met = 0
    for seed in range(20):
        matrix, goal, low, high = bounded_problem(seed, 0.6, rows=3000)
        ours = solve_bounded(matrix.T @ matrix, matrix.T @ goal, low, high)
        expected = lsq_linear(matrix, goal, (low, high), tol=1e-12).x
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
        met += ((ours == low) | (ours == high)).sum()
    assert met >= 60


@pytest.mark.parametrize("tightness", [0.9, 0.5, 0.2])
def test_solve_bounded_finds_the_minimum(tightness: float) -> None:
    for seed in range(20):
        matrix, goal, low, high = bounded_problem(seed, tightness)
        ours = solve_bounded(matrix.T @ matrix, matrix.T @ goal, low, high)
        expected = lsq_linear(matrix, goal, (low, high), tol=1e-12).x
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_solve_bounded_keeps_within_bounds() -> None:
    for seed in range(20):
        matrix, goal, low, high = bounded_problem(seed, 0.2)
        ours = solve_bounded(matrix.T @ matrix, matrix.T @ goal, low, high)
        assert (ours >= low).all() and (ours <= high).all()
        loss = lambda x, m=matrix, g=goal: np.square(m @ x - g).sum()
        clipped = np.clip(np.linalg.lstsq(matrix, goal, rcond=None)[0], low, high)
        assert loss(ours) <= loss(clipped)
    free = np.full(30, np.inf)
    ours = solve_bounded(matrix.T @ matrix, matrix.T @ goal, -free, free)
    np.testing.assert_allclose(ours, np.linalg.lstsq(matrix, goal, rcond=None)[0], atol=1e-9)
