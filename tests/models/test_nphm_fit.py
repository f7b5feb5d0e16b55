"""Fitting neural heads to scans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emorig_diffusers.models import nphm_fit
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.models.nphm_fit import HeadFitter, canonical_points, fit_scan
from emorig_diffusers.models.scan_alignment import Placement

SIZES = {"num_global": 8, "num_local": 4, "width": 20, "layers": 4, "anchor_width": 8, "num_expression": 3,
         "expression_width": 24, "expression_layers": 4, "num_compressed": 4}  # fmt: skip
NOWHERE = Placement(np.eye(3), 1.0, np.zeros(3))


def make_head(deformation: str) -> NeuralHeadModel:
    """A head that starts as an ellipsoid, whose shape and expression codes bend it."""
    torch.manual_seed(0)
    head = NeuralHeadModel(**SIZES, deformation=deformation).eval().requires_grad_(False)
    torch.nn.init.normal_(head.expression.linears[-1].weight, std=0.02)
    head.shape_std.fill_(0.05)
    head.expression_std.fill_(1.0)
    return head


@pytest.mark.parametrize("deformation", ["backward", "forward"])
def test_a_fit_comes_closer(deformation: str) -> None:
    """To a scan of the head itself with codes of its own, through either deformation; and its place is kept."""
    head = make_head(deformation)
    shape = 0.15 * torch.randn(1, head.num_shape, generator=torch.Generator().manual_seed(1))
    code = torch.tensor([[1.5, -1.0, 0.5]])
    surface = head.surface(shape, code, resolution=64)
    points = surface.vertices.double().numpy()
    steps = []
    fitter = HeadFitter(head, steps=60, points=300)
    found = fitter.fit(points, None, NOWHERE, progress=lambda step, _: steps.append(step))
    start = float(head.distance(surface.vertices[None] / 0.25, head.shape_mean[None]).abs().median()) * 0.25
    assert steps == list(range(60)) and found.losses[-1] < 0.6 * found.losses[0]
    assert found.misfit < 0.6 * start and found.expression is not None
    assert np.linalg.norm(found.placement.apply(points) - points, axis=1).mean() < 0.01


def test_codes_alone_are_fitted() -> None:
    head = make_head("backward")
    points = head.surface(head.shape_mean[None], None, resolution=64).vertices.double().numpy()
    found = HeadFitter(head, 30, 200, free_placement=False, with_expression=False).fit(points, None, NOWHERE)
    assert found.expression is None and found.placement.scale == 1 and not found.placement.shift.any()
    assert found.misfit < 2e-3


def test_an_interrupted_fit_gives_what_it_has() -> None:
    head = make_head("backward")
    points = head.surface(head.shape_mean[None], None, resolution=64).vertices.double().numpy()

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    found = HeadFitter(head, 50, 100).fit(points, None, NOWHERE, progress=stop)
    assert found.interrupted and len(found.losses) == 4 and np.isfinite(found.misfit)


@pytest.mark.parametrize("stopped", [True, False])
def test_the_best_is_kept(stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are far too long lead away from a good start: the fit is no worse for them, stopped or not."""
    head = make_head("backward")
    points = head.surface(head.shape_mean[None], None, resolution=64).vertices.double().numpy()
    monkeypatch.setattr(nphm_fit, "RATES", {name: 40 * rate for name, rate in nphm_fit.RATES.items()})

    def stop(step: int, _: float) -> None:
        if stopped and step == 17:
            raise KeyboardInterrupt

    found = HeadFitter(head, 18, 100).fit(points, None, NOWHERE, progress=stop)
    assert found.interrupted == stopped and len(found.losses) == 18
    assert found.losses[-1] > 5 * found.losses[0] and found.misfit < 0.001


def test_normals_count() -> None:
    """Turned ones cost more."""
    head = make_head("backward")
    surface = head.surface(head.shape_mean[None], None, resolution=64)
    points = surface.vertices.double().numpy()
    normals = head.sdf_and_gradient(surface.vertices[None] / 0.25, head.shape_mean[None])[1][0]
    normals = torch.nn.functional.normalize(normals, dim=-1).double().numpy()
    last = [HeadFitter(head, 4, 200, False).fit(points, sign * normals, NOWHERE).losses[-1] for sign in (1, -1)]
    assert last[1] > last[0] + 0.5


def test_canonical_points() -> None:
    """They deform to the posed ones; gradients in codes and places agree with finite differences."""
    head = make_head("forward").double()
    torch.nn.init.normal_(head.expression.linears[-1].weight, std=0.05)
    rng = torch.Generator().manual_seed(3)
    shape, code, posed = (
        torch.randn(size, generator=rng).double() * 0.3 for size in ((1, head.num_shape), (1, 3), (1, 5, 3))
    )
    found = canonical_points(head, posed, shape, code)
    assert torch.allclose(head.deform(found, shape, code), posed, atol=1e-5)
    code.requires_grad_(True)
    posed.requires_grad_(True)
    total = lambda c, p: canonical_points(head, p, shape, c).square().sum()
    by_code, by_place = torch.autograd.grad(total(code, posed), (code, posed))
    for value, gradient, name in ((code, by_code, "code"), (posed, by_place, "posed")):
        step = torch.zeros_like(value)
        step.view(-1)[1] = 1e-4
        arguments = lambda sign: (code + sign * step, posed) if name == "code" else (code, posed + sign * step)  # noqa: B023
        slope = (total(*arguments(1)) - total(*arguments(-1))) / 2e-4
        assert float(gradient.view(-1)[1]) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)


def test_a_scan_anywhere_is_fitted() -> None:
    """Landmarks turn it; the unit makes metres of it."""
    head = make_head("backward")
    average = head.surface(head.shape_mean[None], None, resolution=64).vertices.double().numpy()
    anchors = head.anchors(head.shape_mean[None])[0].numpy() * 0.25
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    move = lambda points: 1000 * points @ turn.T + 7
    landmarks = {"nose_tip": move(anchors[33]), "chin": move(anchors[38]), "mouth_left": move(anchors[1]),
                 "eye_outer_right": move(anchors[12])}  # fmt: skip
    found = fit_scan(head, move(average), None, 0.001, landmarks=landmarks, steps=3, with_expression=False)
    assert np.linalg.norm(found.placement.apply(move(average)) - average, axis=1).mean() < 0.004
