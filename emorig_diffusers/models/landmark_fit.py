"""LandmarkEncoder: face codes by fitting a head model to detected landmarks, in tens of milliseconds on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from ..face.codes import FaceCodes
from ..photo.landmarks import EYES, INNER_LIPS, MESH, OUTER_LIPS
from ..render.camera import project
from .aligned import AlignedMixin
from .head import HeadModel, rotation_matrix

UNSEEN_UNITS = ("eyeLook", "tongueOut")  # units that landmarks say nothing about stay at zero


@dataclass
class FitResult:
    """A fit and what it left over.

    Attributes:
        codes: Fitted codes [1, ...]; a fit to landmarks leaves their light 0.
        residual: Detected minus fitted landmarks [N, 2], normalised device coordinates of the crop (y down).
        error: Length of the residual [N], same unit; 2 / crop size is one pixel.
    """

    codes: FaceCodes
    residual: np.ndarray
    error: np.ndarray


def compare(head: HeadModel, codes: FaceCodes, points: np.ndarray) -> FitResult:
    """What codes of one face leave over of detected landmarks; 0 for landmarks that have no place on the head.

    Args:
        head: The head the codes belong to, with a landmark embedding.
        codes: One face [1, ...].
        points: Detected points [N or more, 2+], normalised device coordinates of the crop of `codes.camera`.

    Raises:
        ValueError: If there are fewer points than the head has landmarks.
    """
    goal = landmark_goal(head, points)
    vertices = head(codes.shape, codes.expression, codes.pose)
    shown = project(head.landmarks(vertices), codes.camera)[0, :, :2].double().numpy()
    residual = np.where(head.landmark_weight.numpy()[:, None] > 0, goal - shown, 0.0)
    return FitResult(codes, residual, np.linalg.norm(residual, axis=1))


def landmark_goal(head: HeadModel, points: np.ndarray) -> np.ndarray:
    """The points [N, 2] that a head of N landmarks is fitted to, float64; ValueError if there are fewer."""
    count = head.config.num_landmarks
    if len(points) < count:
        raise ValueError(f"The fit needs {count} landmarks, got {len(points)}.")
    return np.asarray(points, np.float64)[:count, :2]


class LandmarkEncoder(AlignedMixin, ModelMixin, ConfigMixin):
    """Gauss-Newton fit of shape, expression, rotation and weak-perspective camera to 2-D landmarks.

    Minimises |w (landmark - projection)|² / σ² + a |β|² + b |ψ - ψ0|², ψ in [-0.6, 1.3], where ψ0 is linear in
    the detector's blendshape scores; without ψ0 shape and expression explain each other.

    Args:
        num_expression: Length E of the expression code.
        iterations: Gauss-Newton steps.
        noise: σ, landmark noise as a share of the face's spread.
        shape_weight, expression_weight: a and b.
        lip_weight, eye_weight: Extra weight of the points that carry expression.
    """

    _keep_in_fp32_modules = ["prior_offset", "prior_scale", "neutral_low", "neutral_high"]

    @register_to_config
    def __init__(
        self,
        num_expression: int,
        iterations: int = 8,
        noise: float = 0.012,
        shape_weight: float = 1.4,
        expression_weight: float = 43.0,
        lip_weight: float = 2.0,
        eye_weight: float = 1.5,
    ) -> None:
        super().__init__()
        zeros = torch.zeros(num_expression)
        # learnt from fits to photos: ψ0 = offset + scale * score, and the range of units on relaxed faces
        self.prior_offset = nn.Parameter(zeros.clone(), requires_grad=False)
        self.prior_scale = nn.Parameter(zeros.clone(), requires_grad=False)
        self.neutral_low = nn.Parameter(zeros.clone(), requires_grad=False)
        self.neutral_high = nn.Parameter(zeros.clone(), requires_grad=False)

    @property
    def crop(self) -> str:
        """The frame of points and camera: always the aligned crop."""
        return "aligned"

    @property
    def branches(self) -> tuple[str, ...]:
        """None: only networks read codes as DECA or EMOCA do."""
        return ()

    @torch.no_grad()
    def forward(
        self, head: HeadModel, landmarks: np.ndarray, scores: dict[str, float], shape: Tensor | None = None
    ) -> FitResult:
        """Fit one face.

        Args:
            head: Head with named expression units and a landmark embedding.
            landmarks: Detected points [N, 2+] in normalised device coordinates of the crop (x right, y down).
            scores: Blendshape scores in [0, 1] by unit name.
            shape: The person's shape [1, S] where it is known; the rest is fitted to it.

        Raises:
            ValueError: If there are fewer points than the head has landmarks.
        """
        problem = _Problem(head, self, landmarks, scores, shape)
        with _linear_algebra().limit(limits=1, user_api="blas"):
            state = problem.start()
            for _ in range(self.config.iterations):
                state = problem.step(state)
        return problem.result(state)

    def fit(
        self,
        head: HeadModel,
        points: np.ndarray,
        scores: dict[str, float],
        crop: Callable[[int], Tensor],
        branch: str | None = None,
        shape: Tensor | None = None,
    ) -> FitResult:
        """Fit one face: `forward`, under the signature that all encoders share; the picture is not looked at.

        Args:
            head: Head with named expression units and a landmark embedding.
            points: Detected landmarks [N, 2+] in normalised device coordinates of the aligned crop.
            scores: Blendshape scores in [0, 1] by unit name.
            crop: Gives the aligned crop of a side in pixels as [1, 3, side, side] in [0, 1].
            branch: `None`; there is none to choose.
            shape: As for `forward`.

        Raises:
            ValueError: If a branch is chosen, or there are fewer points than the head has landmarks.
        """
        if branch is not None:
            raise ValueError(
                f"This encoder fits landmarks and has no DECA or EMOCA branch: leave {branch!r} out, or take a rig "
                "with a converted DECA or EMOCA."
            )
        return self(head, points, scores, shape)

    @property
    def relaxed_range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of every unit on relaxed faces [E]."""
        return self.neutral_low, self.neutral_high


@functools.lru_cache(maxsize=1)
def _linear_algebra() -> ThreadpoolController:
    """Switch of the threads of BLAS: on such small systems they only wait for each other, on a busy machine for long
    (twelve times the fit's own time was measured)."""
    return ThreadpoolController()


@dataclass(frozen=True)
class _Bases:
    """A head at its N landmarks, float64.

    Attributes:
        read: What tells whether the head has changed since.
        template: [N, 3].
        shapes, units: Bases of shape [S, N, 3] and expression [E, N, 3].
        free: Units that landmarks tell [E] bool.
        shapes_flat, units_flat: Bases of shape and of those units, [3, N * S] and [3, N * F].
    """

    read: tuple
    template: np.ndarray
    shapes: np.ndarray
    units: np.ndarray
    free: np.ndarray
    shapes_flat: np.ndarray
    units_flat: np.ndarray


_bases: WeakKeyDictionary[HeadModel, _Bases] = WeakKeyDictionary()


def _bases_of(head: HeadModel) -> _Bases:
    """They are read once, and again when the head's numbers are others."""
    tensors = head.template, head.shape_basis, head.expression_basis, head.landmark_bary
    read = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
    known = _bases.get(head)
    if known is None or known.read != read:
        corners = head.faces[head.landmark_faces]
        place = lambda basis: (basis[..., corners, :] * head.landmark_bary[..., None]).sum(-2).double().numpy()
        template, shapes, units = place(head.template), place(head.shape_basis), place(head.expression_basis)
        free = np.array([not name.startswith(UNSEEN_UNITS) for name in head.config.expression_names])
        flat = lambda basis: np.ascontiguousarray(basis.transpose(2, 1, 0)).reshape(3, -1)
        known = _bases[head] = _Bases(read, template, shapes, units, free, flat(shapes), flat(units[free]))
    return known


@dataclass
class _State:
    rotation: np.ndarray  # 3x3
    scale: float
    shift: np.ndarray  # 2, after scaling
    shape: np.ndarray
    expression: np.ndarray


class _Problem:
    """The least-squares problem of one face; y points up inside."""

    def __init__(
        self,
        head: HeadModel,
        encoder: LandmarkEncoder,
        landmarks: np.ndarray,
        scores: dict[str, float],
        shape: Tensor | None = None,
    ) -> None:
        bases = _bases_of(head)
        self.template, self.shapes, self.units, self.free = bases.template, bases.shapes, bases.units, bases.free
        self.bends = [bases.units_flat] if shape is not None else [bases.shapes_flat, bases.units_flat]
        self.known_shape = None if shape is None else shape[0].double().numpy()
        if self.known_shape is not None:
            self.template = self.template + np.tensordot(self.known_shape, self.shapes, 1)
            self.shapes = self.shapes[:0]
        self.goal = landmark_goal(head, landmarks) * [1, -1]
        self.spread = np.linalg.norm(self.goal.std(0))
        self.weight = head.landmark_weight.double().numpy().copy()
        for points, value in ((INNER_LIPS, "lip_weight"), (OUTER_LIPS, "eye_weight"), (EYES, "eye_weight")):
            self.weight[list(points)] *= encoder.config[value]
        self.weight[MESH:] = 0  # irises tell the gaze, not the shape
        self.weight /= self.spread * encoder.config.noise
        names = head.config.expression_names
        offset, scale = encoder.prior_offset.double().numpy(), encoder.prior_scale.double().numpy()
        self.prior = (offset + scale * [scores.get(n, 0.0) for n in names]) * self.free
        self.config = encoder.config
        self.head = head

    def start(self) -> _State:
        scale = float(self.spread / np.linalg.norm(self.template[:, :2].std(0)))
        shift = self.goal.mean(0) - scale * self.template[:, :2].mean(0)
        return _State(np.eye(3), scale, shift, np.zeros(len(self.shapes)), self.prior.copy())

    def points(self, state: _State) -> np.ndarray:
        """Rotated landmarks [N, 3] in metres."""
        rest = self.template + np.tensordot(state.shape, self.shapes, 1) + np.tensordot(state.expression, self.units, 1)
        return rest @ state.rotation.T

    def step(self, state: _State) -> _State:
        """Linearise, solve within the bounds, move."""
        turned = self.points(state)
        residual = (self.goal - state.scale * turned[:, :2] - state.shift) * self.weight[:, None]
        columns = self._jacobian(state, turned)
        prior = np.concatenate([np.zeros(6), -state.shape, (self.prior - state.expression)[self.free]])
        ridge = np.concatenate([
            np.full(6, 1e-8),
            np.full(len(state.shape), self.config.shape_weight),
            np.full(self.free.sum(), self.config.expression_weight),
        ])  # fmt: skip
        normal = columns.T @ columns + np.diag(ridge)
        right = columns.T @ residual.ravel() + ridge * prior
        low, high = np.full(len(ridge), -np.inf), np.full(len(ridge), np.inf)
        low[-self.free.sum() :] = np.minimum(-0.6 - state.expression[self.free], 0)
        high[-self.free.sum() :] = np.maximum(1.3 - state.expression[self.free], 0)
        return self._move(state, solve_bounded(normal, right, low, high))

    def _jacobian(self, state: _State, turned: np.ndarray) -> np.ndarray:
        """d projection / d (rotation 3, log scale, shift 2, shape, free expression) [2N, P], weighted."""
        x, y, z = turned.T
        zero, one = np.zeros_like(x), np.ones_like(x)
        s, unit = state.scale, self.spread
        rigid = np.array([[zero, -s * z], [s * z, zero], [-s * y, s * x], [s * x, s * y], [one * unit, zero],
                          [zero, one * unit]]).transpose(2, 1, 0)  # fmt: skip
        plane = s * state.rotation[:2]
        bend = [(plane @ basis).reshape(2, len(x), -1).transpose(1, 0, 2) for basis in self.bends]
        columns = np.concatenate([rigid, *bend], 2) * self.weight[:, None, None]
        return columns.reshape(-1, columns.shape[-1])

    def _move(self, state: _State, delta: np.ndarray) -> _State:
        turn = rotation_matrix(torch.from_numpy(delta[:3].copy())).numpy()
        expression = state.expression.copy()
        expression[self.free] += delta[6 + len(state.shape) :]
        return _State(
            turn @ state.rotation,
            state.scale * float(np.exp(np.clip(delta[3], -0.5, 0.5))),
            state.shift + delta[4:6] * self.spread,
            state.shape + delta[6 : 6 + len(state.shape)],
            expression,
        )

    def result(self, state: _State) -> FitResult:
        fitted = state.scale * self.points(state)[:, :2] + state.shift
        residual = (self.goal - fitted) * [1, -1]
        tensor = lambda value: torch.tensor(np.atleast_2d(value), dtype=torch.float32)
        shape = state.shape if self.known_shape is None else self.known_shape
        # the fit turns the head about the origin, the head model about its root joint
        rest = self.head.rest_vertices(tensor(shape), tensor(state.expression))[0]
        root = (self.head.joint_regressor[0] @ rest).double().numpy()
        camera = np.concatenate([[state.scale], state.shift / state.scale - (root - state.rotation @ root)[:2]])
        pose = np.concatenate([axis_angle(state.rotation), np.zeros(3)])
        codes = FaceCodes(tensor(shape), tensor(state.expression), tensor(pose), tensor(camera),
                          torch.zeros(1, 9, 3), torch.zeros(1, 0))  # fmt: skip
        return FitResult(codes, residual, np.linalg.norm(residual, axis=1))


def axis_angle(rotation: np.ndarray) -> np.ndarray:
    """Axis-angle [3] in radians of a rotation matrix [3, 3] of less than half a turn."""
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(rotation) - 1) / 2
    return axis / 2 * (np.arctan2(sine, cosine) / sine if sine > 1e-9 else 1.0)


def solve_bounded(normal: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Minimise xᵀAx/2 - bᵀx within bounds: primal-dual active set (Hintermüller, Ito, Kunisch 2002)."""
    x, pull = np.linalg.solve(normal, right), np.zeros(len(right))
    side = np.zeros(len(right), int)
    for _ in range(20):
        # a bound is left again as soon as the gradient points inwards
        new = (x + pull > high).astype(int) - (x + pull < low)
        if (new == side).all():
            break
        side, free = new, new == 0
        x = np.where(side > 0, high, np.where(side < 0, low, 0.0))
        x[free] = np.linalg.solve(normal[np.ix_(free, free)], right[free] - normal[np.ix_(free, ~free)] @ x[~free])
        pull = np.where(free, 0, (right - normal @ x) / normal.diagonal())
    return np.clip(x, low, high)
