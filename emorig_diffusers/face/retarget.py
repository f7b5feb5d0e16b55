"""Emotions for heads whose expression components have no names, such as FLAME: the open head shows what to look like.

A recipe of action units means something on a head with named units only. Posed there, it moves landmarks; the codes of
another head are those that move the same landmarks alike (expression transfer by landmark displacements).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..models.head import HeadModel
from ..models.landmark_fit import solve_bounded
from ..models.mesh_fields import similarity
from ..photo.landmarks import BROWS, EYES, INNER_LIPS, MESH, OUTER_LIPS
from .emotions import RECIPES, check_amount, emotion_offset

TOLERANCE = 0.0002
"""Metres of landmark error (RMS) that weigh as much as one standard deviation of the expression code."""
JAW_SPREAD = (0.2, 0.02, 0.02)
"""Standard deviations of the jaw's turn, radians: it opens about x, and hardly turns about y or z."""
MAX_EXPRESSION = 3.0  # standard deviations either way
MAX_OPENING = 0.5  # radians about x; none the other way, where the teeth are

MIN_LANDMARKS = 20
ITERATIONS = 8
STILL = 1e-3  # standard deviations, or radians

DENSE_WEIGHTS = ((INNER_LIPS, 3.0), (OUTER_LIPS, 2.0), (EYES, 2.0), (sum(BROWS, ()), 4.0))
IBUG_WEIGHTS = ((range(17), 0.05), (range(17, 27), 4.0), (range(36, 48), 2.0), (range(48, 60), 2.0),
                (range(60, 68), 3.0))  # fmt: skip
"""Contour (it slides along the skin), brows, eyes, outer and inner lips of the 68; all other points weigh 1."""


def retarget_emotions(
    source: HeadModel,
    target: HeadModel,
    recipes: Mapping[str, Mapping[str, float]] = RECIPES,
    intensity: float = 1.0,
    tolerance: float = TOLERANCE,
) -> dict[str, list[float]]:
    """Codes of a head with which it shows the emotions that recipes describe on another head.

    Both heads have mean shape. See `Retargeting` for what is minimised.

    Args:
        source: Head with named expression units, such as the open head.
        target: Head to find codes for, such as FLAME; its expression components need no names.
        recipes: Emotion -> amounts of action or expression units, as `emotions.RECIPES`.
        intensity: Share of the recipes to show, 0 to 1.5.
        tolerance: As for `Retargeting`.

    Returns:
        Emotion -> E + 3 numbers: expression, then the jaw's axis-angle in radians, both absolute. "neutral" is among
        them, all zeros unless a recipe says otherwise.

    Raises:
        ValueError: If the source has no named units, the heads share fewer than 20 landmarks, a recipe names an
            unknown unit, or intensity is out of range.
    """
    amount = check_amount("intensity", intensity)
    names = source.config.expression_names
    recipes = {"neutral": {}} | dict(recipes)
    offsets = {name: amount * emotion_offset(name, names, recipes) for name in recipes}
    retargeting = Retargeting(source, target, tolerance)
    return {name: retargeting.solve(offset).tolist() for name, offset in offsets.items()}


class Retargeting:
    """Expression transfer between two heads of mean shape, by the displacements of the landmarks both have.

    For the source's expression e it finds the target's expression ψ and jaw turn θ (axis-angle) that minimise

        Σ w_i |D_i(ψ, θ) - d_i(e)|² / σ² + |ψ|² + Σ (θ_k / τ_k)²      with Σ w_i = 1

    d_i is where landmark i of the source goes from neutral, in metres; D_i is the same of the target, carried into the
    source's frame by the similarity that fits the two neutral sets of landmarks (Umeyama 1991), so that size, place
    and orientation of the target do not matter. ψ counts in standard deviations, as FLAME's coefficients N(0, 1) do;
    σ is `tolerance`, τ is `JAW_SPREAD`. Gauss-Newton within |ψ| <= 3 and an opening of 0 to 0.5 rad.

    Landmarks are the 68 of iBUG, and the dense ones that have a place on both heads; irises do not count.

    Args:
        source: Head that shows the expressions.
        target: Head to find codes for.
        tolerance: σ, metres on the source: a larger one gives smaller codes and a weaker likeness.

    Raises:
        ValueError: If the heads share fewer than 20 landmarks.
    """

    def __init__(self, source: HeadModel, target: HeadModel, tolerance: float = TOLERANCE) -> None:
        weight = landmark_weights(source, target)
        self.shared = weight > 0
        if self.shared.sum() < MIN_LANDMARKS:
            raise ValueError(
                f"The two heads share {int(self.shared.sum())} landmarks where {MIN_LANDMARKS} are needed: convert "
                "the head together with its landmark embedding."
            )
        self.source, self.target = source, target
        self.weight = weight[self.shared] / weight.sum()
        self.codes = target.config.num_expression
        spread = torch.tensor([1.0] * self.codes + list(JAW_SPREAD), dtype=torch.float64)
        self.ridge = (tolerance / spread).square().numpy()
        self.high = np.array([MAX_EXPRESSION] * self.codes + [MAX_OPENING, np.inf, np.inf])
        self.low = -self.high
        self.low[self.codes] = 0.0
        self.source_rest = self._source_points(torch.zeros(source.config.num_expression))
        self.target_rest = self._target_points(torch.zeros(self.codes + 3))
        rest = self.target_rest.numpy(), self.source_rest.numpy()
        self.to_source = torch.from_numpy(similarity(*rest, self.weight.numpy())[0])

    @torch.no_grad()
    def wanted(self, expression: Tensor) -> Tensor:
        """Displacements [N, 3] in metres of the shared landmarks under an expression [E] of the source."""
        return self._source_points(expression) - self.source_rest

    @torch.no_grad()
    def shown(self, code: Tensor) -> Tensor:
        """The same under a code [E + 3] of the target (expression, jaw), in the source's frame and metres."""
        return (self._target_points(code) - self.target_rest) @ self.to_source.T

    def solve(self, expression: Tensor) -> Tensor:
        """Code of the target [E + 3], float64, for an expression [E] of the source."""
        wanted, code = self.wanted(expression), torch.zeros(self.codes + 3, dtype=torch.float64)
        for _ in range(ITERATIONS):
            delta = self._step(code, wanted)
            code = code + delta
            if delta.abs().max() < STILL:
                break
        return code

    def _step(self, code: Tensor, wanted: Tensor) -> Tensor:
        """Linearise about a code, solve within the bounds; the change [E + 3]."""
        root = self.weight.sqrt()[:, None]
        slope = torch.func.jacfwd(self._target_points)(code)  # [N, 3, E + 3]
        slope = torch.einsum("dc,nck->ndk", self.to_source, slope) * root[..., None]
        columns = slope.flatten(0, 1).numpy()
        residual = ((wanted - self.shown(code)) * root).flatten().numpy()
        at = code.numpy()
        normal = columns.T @ columns + np.diag(self.ridge)
        delta = solve_bounded(normal, columns.T @ residual - self.ridge * at, self.low - at, self.high - at)
        return torch.from_numpy(delta)

    def _source_points(self, expression: Tensor) -> Tensor:
        return self._points(self.source, expression, torch.zeros(3))

    def _target_points(self, code: Tensor) -> Tensor:
        return self._points(self.target, code[: self.codes], code[self.codes :])

    def _points(self, head: HeadModel, expression: Tensor, jaw: Tensor) -> Tensor:
        """Shared landmarks [N, 3] of a posed head, float64 on the CPU."""
        expression, jaw = (x.to(head.template) for x in (expression, jaw))
        pose = torch.cat([torch.zeros_like(jaw), jaw])[None]
        vertices = head(expression.new_zeros(1, head.config.num_shape), expression[None], pose)
        return all_landmarks(head, vertices)[0].double().cpu()[: len(self.shared)][self.shared]


def landmark_weights(source: HeadModel, target: HeadModel) -> Tensor:
    """Weight [68 + N] of every landmark of `all_landmarks`, float64; 0 where one of the heads has no place for it."""
    count = min(source.config.num_landmarks, target.config.num_landmarks)
    ibug, dense = torch.ones(68, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    for weight, groups in ((ibug, IBUG_WEIGHTS), (dense, DENSE_WEIGHTS)):
        for points, value in groups:
            weight[[i for i in points if i < len(weight)]] = value
    for head in (source, target):
        ibug *= head.landmark68_bary.cpu().sum(-1) > 0.5
        dense *= head.landmark_weight[:count].cpu()
    dense[MESH:] = 0
    return torch.cat([ibug, dense])


def all_landmarks(head: HeadModel, vertices: Tensor) -> Tensor:
    """The 68 landmarks and the dense ones after them [B, 68 + N, 3], from posed vertices [B, V, 3]."""
    return torch.cat([head.landmarks68(vertices), head.landmarks(vertices)], 1)
