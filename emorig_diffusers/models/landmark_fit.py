"""LandmarkEncoder: face codes by fitting a head model to detected landmarks, in tens of milliseconds on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from ..face.codes import FaceCodes
from ..photo.masks import ramp
from ..render.camera import project
from .aligned import AlignedMixin
from .head import HeadModel, rotation_matrix
from .signs import shown_signs, shown_smile, without_signs, without_smile

EYES = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7,
        362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382)  # fmt: skip
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
LIP_PAIRS = ((13, 14), (312, 317), (82, 87), (311, 402), (81, 178), (310, 318), (80, 88))
CLOSING_UNITS = ("jawOpen", "mouthClose", "mouthUpperUp", "mouthLowerDown")
CLOSING_RIDGE = 0.002  # metres; keeps the least-squares closing of the lips tame
CLOSED_BELOW_JAW = 0.2  # mouthClose up to which lips close while the jaw stays; relaxed people have 0.1 to 0.22
CLOSING_STEPS = 3  # a wide mouth's lips meet in one place before they do in others
LIPS_TOUCH = 0.0003  # metres of opening at which lips count as closed
LIPS_CLOSED = 0.0009, 0.0014  # metres of opening that landmarks of closed lips show, and from which lips are parted
RANGE_MARGIN = 0.3  # of a relaxed range's width, by which a face without other expression may leave it unchanged
LID_PAIRS = {"eyeBlinkRight": ((160, 144), (159, 145), (158, 153)),
             "eyeBlinkLeft": ((385, 380), (386, 374), (387, 373))}  # fmt: skip
LID_UNITS = ("eyeBlink", "eyeWide", "eyeLook")  # units that raise or lower the upper lid
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


def relaxed_expression(
    head: HeadModel, codes: FaceCodes, low: Tensor, high: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """A person's own relaxed face [1, E]: no smile, ψ within a range, no other expression that the face shows, then
    lips closed by the units that can.

    A fit tells an expression by few of its units (`signs.SIGNS`, `signs.SMILE`), so the whole of it is taken back in
    proportion. (From 26 people's toothy smiles the lips then go 83 % of the way to the same people's neutral photos, by
    the range alone 58 %: `tests/benchmarks/smile_distance.py --back`.) Units that tell people apart rather than
    emotions (how lips roll, where the jaw sits) are kept by a wide range. Without named units no lips are closed, and
    a range of zero width, as for FLAME, gives expression zero.

    Args:
        head: The head the codes belong to.
        codes: Codes of one face [1, ...].
        low, high: Range of every unit on relaxed faces [E].
        offsets: Vertex offsets [V, 2] that the fit left over, normalised device coordinates.
    """
    names = head.config.expression_names
    closing = [i for i, name in enumerate(names) if name.startswith(CLOSING_UNITS)]
    signs, smile = shown_signs(codes.expression, names), shown_smile(codes.expression, names)
    expression = without_smile(codes.expression, smile, names)
    shown = lambda name: max([0.0, *signs.values(), *(v for side, v in smile.items() if name.endswith(side))])
    calm = torch.tensor([1 - min(shown(name), 1.0) for name in names]) if names else 1.0
    low, high = _own_range(codes.expression, low, high, RANGE_MARGIN * calm)
    low[:, closing] = torch.minimum(low, expression)[:, closing]  # nothing parts lips that are closed
    expression = without_signs(expression.clamp(low, high), signs, names)
    return _close_lips(head, codes, expression, closing, offsets) if closing else expression


def _own_range(shown: Tensor, low: Tensor, high: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
    """A range of units [1, E], widened by what a face shows outside it up to a share of its width; further out it
    counts less and less, and from twice as far on it is an expression."""
    margin = share * (high - low)
    kept = lambda beyond: beyond.clamp(min=0).minimum((2 * margin - beyond).clamp(min=0))
    return low - kept(low - shown), high + kept(shown - high)


def _close_lips(
    head: HeadModel, codes: FaceCodes, expression: Tensor, closing: Sequence[int], offsets: Tensor | None
) -> Tensor:
    """ψ [1, E] with lips as closed as the photo's `codes` show them, or wholly where those are parted."""
    expression, names = expression.clone(), head.config.expression_names
    most = torch.full_like(expression, torch.inf)
    if "mouthClose" in names:
        i = names.index("mouthClose")
        most[0, i] = max(expression[0, i].item(), CLOSED_BELOW_JAW)
    shown = _gaps(head, codes, LIP_PAIRS, offsets)
    parted = float(ramp(shown.mean().item(), *LIPS_CLOSED))
    kept = torch.lerp(shown.clamp(min=LIPS_TOUCH), torch.tensor(LIPS_TOUCH), parted)
    for _ in range(CLOSING_STEPS):
        free = [i for i in closing if expression[0, i] < most[0, i]]
        slope = _heights(head, head.expression_basis[free], LIP_PAIRS).T  # [pairs, units], metres
        excess = (_gaps(head, codes.with_(expression=expression), LIP_PAIRS, offsets) - kept).clamp(min=0)
        ridge = CLOSING_RIDGE**2 * torch.eye(len(LIP_PAIRS))
        expression[:, free] -= slope.T @ torch.linalg.solve(slope @ slope.T + ridge, excess)
        expression = expression.minimum(most)
    return expression


def settle_lids(
    head: HeadModel,
    source: FaceCodes,
    target: FaceCodes,
    offsets: Tensor,
    shut: Sequence[bool] = (False, False),
    closing: Sequence[float] = (0.0, 0.0),
) -> Tensor:
    """The target's ψ [1, E] with lids that meet but do not cross. Eyes that the photo shows shut stay as they are, for
    nobody knows what is behind.

    Args:
        source, target: Codes of the photo and of the edit [1, ...].
        offsets: As for `relaxed_expression`.
        shut: Whether the photo shows the person's right and left eye shut, as `openings.shut_eyes`.
        closing: How far each of them is to be closed at least, from 0 (not at all) to 1 (lids meet).
    """
    expression, names = target.expression.clone(), head.config.expression_names
    for (unit, pairs), stays, closed in zip(LID_PAIRS.items(), shut, closing):
        if unit not in names:
            continue
        if stays:
            side = unit.removeprefix("eyeBlink")
            kept = [i for i, name in enumerate(names) if name.startswith(LID_UNITS) and name.endswith(side)]
            expression[0, kept] = source.expression[0, kept]
        slope = _heights(head, head.expression_basis[names.index(unit)][None], pairs).mean().item()
        edited = target.with_(expression=expression)
        shown, asked = (_gaps(head, codes, pairs, offsets).mean().item() for codes in (source, edited))
        wanted = shown if stays else min(asked, asked + closed * (min(shown, 0.0) - asked))
        if slope < 0:
            expression[0, names.index(unit)] += (max(wanted, min(shown, 0.0)) - asked) / slope
    return expression


def _heights(head: HeadModel, field: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Upper minus lower points [B, pairs] of vertices, or of their offsets, [B, V, 3]; y points up."""
    upper, lower = (list(points) for points in zip(*pairs))
    y = head.landmarks(field)[..., 1]
    return y[..., upper] - y[..., lower]


def _gaps(head: HeadModel, codes: FaceCodes, pairs: Sequence[tuple[int, int]], offsets: Tensor | None) -> Tensor:
    """Metres between pairs of landmarks [pairs] on one face at rest, `offsets` as for `relaxed_expression`."""
    gap = _heights(head, head.rest_vertices(codes.shape, codes.expression), pairs)[0]
    if offsets is not None:
        flat = torch.cat([offsets, offsets[:, :1]], 1)[None]
        gap = gap - _heights(head, flat, pairs)[0] / codes.camera[0, 0]
    return gap


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
    def forward(self, head: HeadModel, landmarks: np.ndarray, scores: dict[str, float]) -> FitResult:
        """Fit one face.

        Args:
            head: Head with named expression units and a landmark embedding.
            landmarks: Detected points [N, 2+] in normalised device coordinates of the crop (x right, y down).
            scores: Blendshape scores in [0, 1] by unit name.

        Raises:
            ValueError: If there are fewer points than the head has landmarks.
        """
        problem = _Problem(head, self, landmarks, scores)
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
    ) -> FitResult:
        """Fit one face: `forward`, under the signature that all encoders share; the picture is not looked at.

        Args:
            head: Head with named expression units and a landmark embedding.
            points: Detected landmarks [N, 2+] in normalised device coordinates of the aligned crop.
            scores: Blendshape scores in [0, 1] by unit name.
            crop: Gives the aligned crop of a side in pixels as [1, 3, side, side] in [0, 1].
            branch: `None`; there is none to choose.

        Raises:
            ValueError: If a branch is chosen, or there are fewer points than the head has landmarks.
        """
        if branch is not None:
            raise ValueError(
                f"This encoder fits landmarks and has no DECA or EMOCA branch: leave {branch!r} out, or take a rig "
                "with a converted DECA or EMOCA."
            )
        return self(head, points, scores)

    @torch.no_grad()
    def neutral(self, head: HeadModel, codes: FaceCodes, offsets: Tensor | None = None) -> Tensor:
        """The person's own relaxed face [1, E]: see `relaxed_expression`."""
        return relaxed_expression(head, codes, self.neutral_low, self.neutral_high, offsets)


@functools.lru_cache(maxsize=1)
def _linear_algebra() -> ThreadpoolController:
    """Switch of the threads of BLAS: on such small systems they only wait for each other, on a busy machine for long
    (twelve times the fit's own time was measured)."""
    return ThreadpoolController()


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
        self, head: HeadModel, encoder: LandmarkEncoder, landmarks: np.ndarray, scores: dict[str, float]
    ) -> None:
        corners = head.faces[head.landmark_faces]
        place = lambda basis: (basis[..., corners, :] * head.landmark_bary[..., None]).sum(-2).double().numpy()
        self.template = place(head.template)
        self.shapes, self.units = place(head.shape_basis), place(head.expression_basis)
        self.goal = landmark_goal(head, landmarks) * [1, -1]
        self.spread = np.linalg.norm(self.goal.std(0))
        self.weight = head.landmark_weight.double().numpy().copy()
        for points, value in ((INNER_LIPS, "lip_weight"), (OUTER_LIPS, "eye_weight"), (EYES, "eye_weight")):
            self.weight[list(points)] *= encoder.config[value]
        self.weight[468:] = 0  # irises tell the gaze, not the shape
        self.weight /= self.spread * encoder.config.noise
        names = head.config.expression_names
        self.free = np.array([not n.startswith(UNSEEN_UNITS) for n in names])
        offset, scale = encoder.prior_offset.double().numpy(), encoder.prior_scale.double().numpy()
        self.prior = (offset + scale * [scores.get(n, 0.0) for n in names]) * self.free
        self.config = encoder.config
        self.head = head

    def start(self) -> _State:
        scale = self.spread / np.linalg.norm(self.template[:, :2].std(0))
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
        bend = [np.einsum("knc,dc->ndk", basis, plane) for basis in (self.shapes, self.units[self.free])]
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
        # the fit turns the head about the origin, the head model about its root joint
        rest = self.head.rest_vertices(tensor(state.shape), tensor(state.expression))[0]
        root = (self.head.joint_regressor[0] @ rest).double().numpy()
        camera = np.concatenate([[state.scale], state.shift / state.scale - (root - state.rotation @ root)[:2]])
        pose = np.concatenate([axis_angle(state.rotation), np.zeros(3)])
        codes = FaceCodes(tensor(state.shape), tensor(state.expression), tensor(pose), tensor(camera),
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
