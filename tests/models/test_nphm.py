"""NeuralHeadModel beyond its golden test (tests/convert/test_convert_nphm.py): pruning, gradients, both deformations,
surfaces in metres and what it says to wrong codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emorig_diffusers.hub.repository import WEIGHTS
from emorig_diffusers.models.geometry import HeadGeometry
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.nphm import PRUNING, NeuralHeadModel

SMALL = {"num_global": 4, "num_local": 3, "width": 40, "anchor_width": 8, "num_expression": 6, "expression_width": 32,
         "expression_layers": 4, "num_compressed": 5}  # fmt: skip
BACKWARD = SMALL | {"deformation": "backward", "num_hyper": 2}


def neural_head(**config: object) -> NeuralHeadModel:
    """Random weights that deform, on the published anchors."""
    torch.manual_seed(0)
    model = NeuralHeadModel(**SMALL | config).eval().requires_grad_(False)
    model.anchor_net[-1].weight.normal_(0, 0.02)
    if model.expression is not None:
        last = model.expression.linears[-1]
        last.weight.normal_(0, 0.02)
        last.bias[:] = torch.linspace(-0.02, 0.03, len(last.bias))
    return model


def codes(model: NeuralHeadModel, count: int = 1, scale: float = 0.05) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    drawn = lambda width: scale * torch.randn(count, width, generator=generator)
    return drawn(model.num_shape), drawn(model.num_expression)


def points(count: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(5)) * 1.2 - 0.6


def test_pruned_distances_are_within_their_bound() -> None:
    model, place = neural_head(), points(3000, 2)
    shape = codes(model, 2)[0]
    exact = model.sdf(place, shape)
    weight, total = model.identity.shares(place, model.anchors(shape))
    for threshold in (1e-2, PRUNING):
        pruned = model.sdf(place, shape, threshold=threshold)
        left_out = (weight <= threshold * total[..., None]).sum(-1)
        assert ((pruned - exact).abs() <= threshold * left_out).all()  # local distances are below 1 here
    kept = (weight > PRUNING * total[..., None]).sum(-1).float().mean()
    assert 0 < (pruned - exact).abs().max() < 5e-4 and kept < 15


def test_untrained_head_is_an_ellipsoid_through_the_anchors() -> None:
    model = NeuralHeadModel().requires_grad_(False)
    shape = torch.zeros(1, model.num_shape)
    place = points(2000)
    sdf = model.sdf(place, shape)[0]
    low, high = model.mean_anchors.amin(0), model.mean_anchors.amax(0)
    middle, axes = (low + high) / 2, (high - low) / 2
    axes = axes * ((model.mean_anchors - middle) / axes).norm(dim=1).mean()
    ellipsoid = (((place[0] - middle) / axes).norm(dim=1) - 1) * axes.mean()
    assert (sdf - ellipsoid).abs().mean() < 0.02
    assert ((sdf > 0) == (ellipsoid > 0)).float().mean() > 0.97


def test_mirrored_points_and_codes_have_the_same_distance() -> None:
    """Pairs share weights; what is on the mid-line and behind is not there."""
    model = neural_head(num_middle=0, num_expression=0)
    model.anchor_net[-1].weight.zero_()
    side = torch.randn(16, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    mirror = torch.tensor([-1.0, 1, 1])
    model.mean_anchors[:] = torch.stack([side, side * mirror], 1).view(-1, 3)
    shape, place = codes(model)[0], points(500)
    first, second = model.paired_codes(shape)
    swapped = torch.cat([shape[:, :4], torch.stack([second, first], 2).flatten(1), shape[:, -3:]], 1)
    near = model.identity.shares(place, model.anchors(shape))[1] > 1e-4  # where the background does not count
    assert near.sum() > 100
    difference = model.sdf(place * mirror, swapped) - model.sdf(place, shape)
    assert difference[near].abs().max() < 1e-4
    assert (model.sdf(place * mirror, shape) - model.sdf(place, shape))[near].abs().max() > 1e-3


@pytest.mark.parametrize("threshold", [0.0, PRUNING])
def test_gradient_is_that_of_the_distance(threshold: float) -> None:
    model, place = neural_head().double(), points(50, 2).double() * 0.6
    shape = codes(model, 2)[0].double()
    sdf, gradient = model.sdf_and_gradient(place, shape, threshold=threshold)
    assert torch.equal(sdf, model.sdf(place, shape, threshold=threshold)) and not gradient.requires_grad
    for axis in range(3):
        step = 1e-6 * torch.eye(3, dtype=torch.float64)[axis]
        change = model.sdf(place + step, shape) - model.sdf(place - step, shape)
        assert torch.allclose(gradient[..., axis], change / 2e-6, atol=1e-2 if threshold else 1e-6)


def test_losses_on_the_gradient_reach_weights_and_codes() -> None:
    model = neural_head().requires_grad_(True)
    shape = codes(model)[0].requires_grad_(True)
    _, gradient = model.sdf_and_gradient(points(40), shape, threshold=PRUNING, create_graph=True)
    (gradient.norm(dim=-1) - 1).square().mean().backward()
    assert shape.grad is not None and shape.grad.abs().max() > 0
    assert all(p.grad is not None for p in model.identity_parameters() if p is not model.identity.lin[-1].bias)


def test_backward_distances_are_canonical_ones_of_moved_points() -> None:
    model, place = neural_head(**BACKWARD), points(60, 2)
    shape, expression = codes(model, 2)
    moved = model.deform(place, shape, expression)
    assert moved.shape == (2, 60, 5) and (moved[..., :3] - place).norm(dim=-1).min() > 1e-3
    posed = model.sdf(place, shape, expression)
    assert torch.equal(posed, model.sdf(moved, shape))
    assert (posed - model.sdf(moved[..., :3], shape)).abs().max() > 1e-5  # hyper-coordinates count
    sdf, gradient = model.sdf_and_gradient(place, shape, expression)
    assert torch.equal(sdf, posed) and gradient.shape == place.shape


def test_training_blurs_what_a_deformation_sees_of_the_identity() -> None:
    model, place = neural_head(), points(20)
    shape, expression = codes(model)
    moved = lambda: model.deform(place, shape, expression)
    assert torch.equal(moved(), moved())
    model.train()
    assert not torch.equal(moved(), moved())


def test_forward_expressions_move_the_canonical_surface() -> None:
    model = neural_head()
    shape, expression = codes(model)
    rest, posed = model.surface(shape, resolution=32), model.surface(shape, expression, resolution=32)
    assert torch.equal(rest.faces, posed.faces) and 0.1 < rest.vertices[:, 1].max() < 0.2  # metres
    assert model.field(shape)(rest.vertices).abs().mean() < 1e-3
    moved = 0.25 * model.deform(4 * rest.vertices[None], shape, expression)[0]
    assert torch.allclose(moved, posed.vertices, atol=1e-6)
    assert (posed.vertices - rest.vertices).norm(dim=1).min() > 1e-3


def test_backward_expressions_have_their_own_surface() -> None:
    model = neural_head(**BACKWARD)
    shape, expression = codes(model)
    posed = model.surface(shape, expression, resolution=32)
    assert model.field(shape, expression)(posed.vertices).abs().mean() < 1e-3
    assert model.field(shape)(posed.vertices).abs().mean() > 1e-3


def test_every_head_offers_the_same_geometry() -> None:
    linear = HeadModel.from_pretrained(WEIGHTS / "emorig-open", subfolder="head")
    coarse = neural_head()
    coarse.surface = partial(coarse.surface, resolution=32)
    heads: list[HeadGeometry] = [linear, coarse]
    for head in heads:
        rest = head.surface(torch.zeros(1, head.num_shape))
        assert 0.12 < rest.vertices[:, 0].max() - rest.vertices[:, 0].min() < 0.35
        assert rest.faces.max() == len(rest.vertices) - 1
        other = head.surface(torch.zeros(1, head.num_shape), torch.ones(1, head.num_expression))
        assert (other.vertices - rest.vertices).norm(dim=1).max() > 1e-3


def test_what_is_saved_opens_as_it_was(tmp_path: Path) -> None:
    model = neural_head(**BACKWARD)
    model.save_pretrained(tmp_path)
    opened = NeuralHeadModel.from_pretrained(tmp_path)
    shape, expression = codes(model)
    assert torch.equal(opened.sdf(points(50), shape, expression), model.sdf(points(50), shape, expression))
    assert opened.mean_anchors.shape == (39, 3) and not opened.mean_anchors.requires_grad


def test_heads_by_chance_spread_as_people_do() -> None:
    model = neural_head()
    for name in ("shape", "expression"):
        getattr(model, f"{name}_mean").fill_(2.0)
        getattr(model, f"{name}_std").fill_(0.5)
    shape, expression = model.sample(200, torch.Generator().manual_seed(1), spread=0.6)
    assert abs(shape.mean() - 2) < 0.01 and abs(shape.std() - 0.3) < 0.01 and abs(expression.std() - 0.3) < 0.02
    assert torch.equal(shape, model.sample(200, torch.Generator().manual_seed(1), spread=0.6)[0])


def test_what_does_not_fit_is_told() -> None:
    model = neural_head()
    shape, expression = codes(model)
    for call, message in (
        (lambda: model.sdf(points(2), shape[:, 1:]), r"identity codes \[B, 124\], got \[1, 123\]"),
        (lambda: model.deform(points(2), shape, shape), r"expression codes \[B, 6\]"),
        (lambda: model.sdf(points(2), shape, expression), "gives no posed distances"),
        (lambda: neural_head(num_expression=0).surface(shape, expression, 16), "has no expressions"),
        (lambda: NeuralHeadModel(num_hyper=2), "Hyper-coordinates"),
        (lambda: NeuralHeadModel(deformation="sideways"), "'forward' or 'backward'"),
        (lambda: NeuralHeadModel(width=100), "Hidden layers of 100 cannot be joined"),
        (lambda: NeuralHeadModel(expression_width=200), "Deformation layers of 200"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
