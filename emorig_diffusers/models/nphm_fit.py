"""Fitting a neural parametric head to a scan: rotation, scale and shift, identity and expression.

Minimises a robust mean of the scan's distances from the surface, with normals where there are any, under a Gaussian
prior on the codes. A forward deformation gives no posed distances: canonical points are found by Newton's method, and
the gradient of what they depend on by the theorem of implicit functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .head import rotation_matrix
from .nphm import NeuralHeadModel
from .scan_alignment import Placement, Target, place_by_landmarks, place_scan, refine_placement

POINTS = 1200  # of a step
STEPS = 240
RATES = {"codes": 0.08, "turn": 0.004, "size": 0.004, "shift": 0.002}  # per step: deviations, radians, log, units
CLAMPS = ((0.0, 0.1), (0.25, 0.05), (0.5, 0.02))  # from this share of the steps on, distances count up to so many units
NOISE = 0.006  # units; what a good fit's distances deviate by, to weigh them against the prior
PRIOR = 0.1  # of a code number at one deviation, in terms of the mean distance over NOISE: see `HeadFitter._loss`
UNKNOWN_SPREAD = {"shape": 0.05, "expression": 0.1}  # deviations of code numbers of heads without statistics
NORMAL_SHARE, NORMAL_WEIGHT = 0.33, 1.0  # of the points; of 1 - cosine, against distances over NOISE
NORMALS_FROM = 0.3  # share of the steps; before it normals would cost time and tell nothing
SIZE_DEVIATION = {True: 0.015, False: 0.06}  # natural logarithms; of the scale, where the scan's unit is known or not
DECAY = 0.05  # of the learning rate over all steps
NEWTON, CONVERGED = 8, 2e-3  # rounds; units to which canonical points must be found
AVERAGE_RESOLUTION = 64  # cells a side of the average head that scans are placed on
PRUNING = 1e-3  # share of weights up to which networks are left out
CHECKED = 10  # steps from one look at how good the codes are to the next; the best ones looked at are kept


@dataclass
class HeadFit:
    """What a scan was fitted by.

    Attributes:
        shape: [1, S]; expression: [1, E], or `None` for the canonical head.
        placement: From the scan to the head, metres.
        misfit: Median distance of the scan's points from the surface, metres at the head's size.
        interrupted: Whether it was stopped before its end.
        losses: Of the steps.
    """

    shape: Tensor
    expression: Tensor | None
    placement: Placement
    misfit: float = float("inf")
    interrupted: bool = False
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Checked:
    """What is fitted, as it was at some step, and its loss on points that stay the same."""

    loss: float
    state: dict[str, Tensor]


def fit_scan(
    head: NeuralHeadModel, points: np.ndarray, normals: np.ndarray | None, unit: float, known_unit: bool = True,
    landmarks: Mapping[str, np.ndarray] | None = None, steps: int = STEPS, seed: int = 0,
    with_expression: bool = True, progress: Callable[[int, float], None] | None = None,
) -> HeadFit:  # fmt: skip
    """Fit a scan that may lie anywhere: it is placed on the average head first, then all is fitted together.

    Args:
        head: With statistics of people's codes, whose means are the average head.
        points: [N, 3], of the scan, in its own unit.
        normals: [N, 3] outwards; `None` where unknown.
        unit: Metres of that unit, as far as it is known; `known_unit` tells.
        landmarks: Points of the scan by the names of LANDMARKS, to place it by; `None` to search.
        steps: Of Adam.
        seed: Of all that is random.
        with_expression: Whether an expression is fitted.
        progress: Gets the step and its loss.

    Raises:
        ValueError: Landmarks that place nothing, or a head whose average has no surface.
    """
    known = known_unit and not landmarks
    rng, unit_of_head = np.random.default_rng(seed), head.config.metres_per_unit
    average = head.surface(head.shape_mean[None], None, resolution=AVERAGE_RESOLUTION)
    target = Target(average, rng)
    if landmarks:
        anchors = head.anchors(head.shape_mean[None])[0].detach().cpu().numpy() * unit_of_head
        start = place_by_landmarks(landmarks, anchors)
        start, _ = refine_placement(points, normals, target, start, rng)
    else:
        start, _ = place_scan(points, normals, target, unit, known_unit, rng)
    return HeadFitter(head, steps, with_expression=with_expression, known_unit=known).fit(
        points, normals, start, seed, progress
    )


class HeadFitter:
    """Fits one head model to scans.

    Args:
        head: In eval mode.
        steps, points: Of Adam; of the scan in each.
        free_placement: Whether rotation, scale and shift are fitted too.
        with_expression: Whether expressions are; without, the canonical head is fitted.
        known_unit: Whether the scale that a fit starts from is the scanner's, not a guess.
        shape: Identity code [1, S] that is known; `None` to fit it.
    """

    def __init__(
        self, head: NeuralHeadModel, steps: int = STEPS, points: int = POINTS, free_placement: bool = True,
        with_expression: bool = True, known_unit: bool = True, shape: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.size_deviation = SIZE_DEVIATION[known_unit]
        self.head, self.steps, self.points, self.free = head.eval(), steps, points, free_placement
        self.with_expression = with_expression and head.num_expression > 0
        self.unit = head.config.metres_per_unit
        device = head.mean_anchors.device
        self.mean = {"shape": head.shape_mean, "expression": head.expression_mean}
        self.spread = {}
        for name in UNKNOWN_SPREAD:
            std = getattr(head, f"{name}_std")
            self.spread[name] = std if std.any() else torch.full_like(std, UNKNOWN_SPREAD[name])
        self.device, self.shape = device, shape

    @torch.enable_grad()
    def fit(
        self, points: np.ndarray, normals: np.ndarray | None, start: Placement, seed: int = 0,
        progress: Callable[[int, float], None] | None = None,
    ) -> HeadFit:  # fmt: skip
        """Fit a scan; Ctrl-C ends it with the best that was found so far.

        Steps see other points each time, and distances are clamped ever closer, so that their losses do not compare:
        every CHECKED steps the last steps' loss is taken on points that stay the same, and the best state is kept.

        Args:
            points: [N, 3], in the scan's coordinates.
            normals: [N, 3] outwards, `None` where unknown.
            start: Where the scan lies on the head.
            seed: Chooses points.
            progress: Gets the step and its loss.
        """
        rng = torch.Generator().manual_seed(seed)
        placed = torch.from_numpy(start.apply(points) / self.unit).float().to(self.device)
        turned = None if normals is None else torch.from_numpy(normals @ start.rotation.T).float().to(self.device)
        state = self._start()
        groups = [{"params": [state[n] for n in names], "lr": RATES[rate], "rate": RATES[rate]} for rate, names in (
            ("codes", ("shape", "expression")), ("turn", ("turn",)), ("size", ("size",)), ("shift", ("shift",)),
        )]  # fmt: skip
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        losses, interrupted, best = [], False, _Checked(float("inf"), state)
        same = torch.linspace(0, len(placed) - 1, self.points).long().to(self.device)
        fixed = placed[same], None if turned is None else turned[same]
        try:
            for step in range(self.steps):
                if step % CHECKED == 0:
                    best = self._better(best, state, *fixed)
                share = step / self.steps
                for group in optimizer.param_groups:
                    group["lr"] = group["rate"] * DECAY**share
                rows = torch.randint(len(placed), (self.points,), generator=rng).to(self.device)
                loss = self._loss(state, placed[rows], None if turned is None else turned[rows], share)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
                if not np.isfinite(losses[-1]):
                    break
                if progress is not None:
                    progress(step, losses[-1])
        except KeyboardInterrupt:
            interrupted = True
        best = self._better(best, state, *fixed)
        return self._result(best.state, placed, start, losses, interrupted, rng)

    def _better(self, best: _Checked, state: dict[str, Tensor], points: Tensor, normals: Tensor | None) -> _Checked:
        """The better one of the best state and this one, by the loss of a fit's end; what is no number is worse."""
        loss = float(self._loss(state, points, normals, 1.0).detach())
        if not loss < best.loss:
            return best
        return _Checked(loss, {name: value.detach().clone() for name, value in state.items()})

    def _start(self) -> dict[str, Tensor]:
        sizes = {"shape": len(self.mean["shape"]), "expression": len(self.mean["expression"]), "turn": 3, "size": 1,
                 "shift": 3}  # fmt: skip
        fixed = set() if self.free else {"turn", "size", "shift"}
        fixed |= set() if self.with_expression else {"expression"}
        fixed |= set() if self.shape is None else {"shape"}
        return {n: torch.zeros(1, k, device=self.device, requires_grad=n not in fixed) for n, k in sizes.items()}

    def _codes(self, state: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        shape, expression = (self.mean[name] + self.spread[name] * state[name] for name in ("shape", "expression"))
        return shape if self.shape is None else self.shape, expression if self.with_expression else None

    def _place(self, state: dict[str, Tensor], points: Tensor) -> Tensor:
        return state["size"].exp() * points @ rotation_matrix(state["turn"])[0].T + state["shift"]

    def _loss(self, state: dict[str, Tensor], points: Tensor, normals: Tensor | None, share: float) -> Tensor:
        """Mean clamped distance over NOISE, normals, and PRIOR times the mean square of whitened codes."""
        shape, expression = self._codes(state)
        placed = self._place(state, points)[None]
        some = int(len(points) * NORMAL_SHARE) if normals is not None and share >= NORMALS_FROM else 0
        clamp = [limit for start, limit in CLAMPS if start <= share][-1]
        sdf, gradient = self._distance(placed, shape, expression, some)
        sdf = sdf / state["size"].exp()  # at the scan's size
        near = sdf.detach().abs()[0] < clamp
        loss = sdf.abs().clamp(max=clamp).mean() / NOISE
        if gradient is not None and normals is not None:
            turned = normals[:some] @ rotation_matrix(state["turn"])[0].T
            cosine = (torch.nn.functional.normalize(gradient[0], dim=-1) * turned).sum(-1)
            loss = loss + NORMAL_WEIGHT * ((1 - cosine) * near[:some]).mean()
        prior = state["shape"].square().mean()
        if self.with_expression:
            prior = prior + state["expression"].square().mean()
        prior = PRIOR * prior + 0.5 * (state["size"] / self.size_deviation).square().mean() * PRIOR
        return loss + prior

    def _distance(
        self, placed: Tensor, shape: Tensor, expression: Tensor | None, some: int
    ) -> tuple[Tensor, Tensor | None]:
        """Distances [1, N] and, of the first `some` points, their gradients [1, some, 3] with the graph kept."""
        head = self.head
        if expression is not None and head.config.deformation == "forward":
            placed = canonical_points(head, placed, shape, expression)
            expression = None
        if not some:
            return head.distance(placed, shape, expression, PRUNING), None
        with torch.enable_grad():
            first = placed[:, :some]
            first = first if first.requires_grad else first.requires_grad_(True)
            sdf = head.distance(first, shape, expression, PRUNING)
            [gradient] = torch.autograd.grad(sdf.sum(), first, create_graph=True)
        rest = head.distance(placed[:, some:], shape, expression, PRUNING)
        return torch.cat([sdf, rest], 1), gradient[..., :3]

    @torch.no_grad()
    def _result(
        self, state: dict[str, Tensor], placed: Tensor, start: Placement, losses: list[float], interrupted: bool,
        rng: torch.Generator,
    ) -> HeadFit:  # fmt: skip
        shape, expression = self._codes(state)
        turn = rotation_matrix(state["turn"])[0].double().cpu().numpy()
        scale, shift = float(state["size"].exp()), state["shift"][0].double().cpu().numpy() * self.unit
        moved = Placement(turn @ start.rotation, scale * start.scale, scale * turn @ start.shift + shift)
        rows = torch.randperm(len(placed), generator=rng)[: 4 * self.points].to(self.device)
        points = self._place(state, placed[rows])[None]
        if expression is not None and self.head.config.deformation == "forward":
            points = canonical_points(self.head, points, shape, expression)
            distance = self.head.distance(points, shape, None, PRUNING)
        else:
            distance = self.head.distance(points, shape, expression, PRUNING)
        misfit = float(distance.abs().median()) * self.unit
        return HeadFit(shape, expression, moved, misfit, interrupted, losses)


def canonical_points(head: NeuralHeadModel, posed: Tensor, shape: Tensor, expression: Tensor) -> Tensor:
    """Where posed points [1, N, 3] lie on the canonical head under a forward deformation, differentiable in all.

    Points that Newton's method does not find stay where its last round left them, without gradient.
    """
    with torch.no_grad():
        point = posed.detach().clone()
        for _ in range(NEWTON):
            moved, jacobian = _deformed(head, point, shape, expression)
            residual = moved - posed
            if residual.norm(dim=-1).max() < CONVERGED / 10:
                break
            step = torch.linalg.solve(jacobian, residual[..., None])[..., 0]
            point = point - step * (0.1 / step.norm(dim=-1, keepdim=True).clamp(min=0.1))
        moved, jacobian = _deformed(head, point, shape, expression)
        found = ((moved - posed).norm(dim=-1, keepdim=True) < CONVERGED).to(posed)
    # to first order in codes and places: x - J⁻¹ (f(x) - y), whose value at the root is x
    error = head.deform(point, shape, expression)[..., :3] - posed
    error = error - error.detach()
    return point - found * torch.linalg.solve(jacobian, error[..., None])[..., 0]


def _deformed(head: NeuralHeadModel, point: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
    """Deformed points [1, N, 3] and the Jacobians [1, N, 3, 3] of the deformation, without a graph."""
    columns, moved = [], point
    deform = lambda at: head.deform(at, shape.detach(), expression.detach())[..., :3]
    for axis in range(3):
        tangent = torch.zeros_like(point)
        tangent[..., axis] = 1
        moved, column = torch.func.jvp(deform, (point,), (tangent,))[:2]
        columns.append(column)
    return moved, torch.stack(columns, -1)
