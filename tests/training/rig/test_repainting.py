"""The open default's objective: what a prediction costs, and what the network is shown for it."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from oracle import Batch, Oracle, part
from torch import Tensor
from torch.utils.data import default_collate

from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.training.rig.objectives import (
    MASK_SHARE,
    OUTSIDE_WEIGHT,
    RepaintObjective,
    RigNetworks,
    repaint_inputs,
)
from emorig_diffusers.training.rig.trainer import training_timesteps
from emorig_diffusers.training.rig.windows import WindowData


@pytest.fixture
def windows(data: WindowData) -> Batch:
    return default_collate([data.sample(i % 2, i) for i in range(4)])


def repaint(scheduler: DDIMScheduler, **changes: object) -> RepaintObjective:
    settings = {
        "alphas": scheduler.alphas_cumprod, "residual_scale": 2.0, "timesteps": training_timesteps(scheduler, None),
        "terminal_share": 0.5, "code_dropout": 0.0, "lpips": None, "lpips_weight": 0.0,
    }  # fmt: skip
    return RepaintObjective(**(settings | changes))


def painter(windows: Batch, scheduler: DDIMScheduler, error: Tensor | float = 0.0) -> Oracle:
    """x0 = (photo - base) within the mask, twice."""
    base, _ = repaint_inputs(windows)
    return Oracle((windows["photo"] - base) * windows["mask"] * 2, scheduler.alphas_cumprod, error)


@pytest.mark.parametrize("terminal_share", [0.0, 1.0])
def test_perfect_painting_costs_nothing(windows: Batch, scheduler: DDIMScheduler, terminal_share: float) -> None:
    loss = repaint(scheduler, terminal_share=terminal_share)
    losses = loss(painter(windows, scheduler), windows)
    assert losses["v"] < 1e-5 and losses["loss"] == losses["v"]
    weight = windows["mask"] + OUTSIDE_WEIGHT * (1 - windows["mask"])
    expected = 0.01 * weight.mean() / MASK_SHARE
    torch.testing.assert_close(loss(painter(windows, scheduler, 0.1), windows)["v"], expected, rtol=1e-3, atol=0)


def test_loss_counts_what_is_painted(windows: Batch, scheduler: DDIMScheduler) -> None:
    loss = repaint(scheduler, terminal_share=1.0)
    costs = []
    for where in (windows["mask"], 1 - windows["mask"]):
        cost = loss(painter(windows, scheduler, where), windows)["v"]
        costs.append(cost.item() / where.mean().item())
    assert costs[0] / costs[1] == pytest.approx(1 / OUTSIDE_WEIGHT, rel=1e-2)


def test_the_painter_sees_base_and_head(windows: Batch, scheduler: DDIMScheduler) -> None:
    network = painter(windows, scheduler)
    repaint(scheduler)(network, windows)
    sample, _, code, picture = network.shown[0]
    base, mask, mouth = sample[:, 3:6], windows["mask"], windows["mouth"]
    assert sample.shape == (4, 14, 64, 64) and picture is None and torch.equal(code, windows["code"])
    known, painted = (mask == 0).expand_as(base), (mouth > 0).expand_as(base)
    torch.testing.assert_close(base[known], windows["moved"][known])
    torch.testing.assert_close(base[painted], windows["painted"][painted])
    given = torch.cat([windows[name] for name in ("normal", "albedo", "mask", "mouth")], 1)
    assert torch.equal(sample[:, 6:], given)


def test_perceptual_loss_sees_the_finished_picture(windows: Batch, scheduler: DDIMScheduler) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy:
        def distance(self, a: Tensor, b: Tensor) -> Tensor:
            seen.append((a, b))
            return (a - b).square().mean((1, 2, 3))

    losses = repaint(scheduler, lpips=Spy(), lpips_weight=0.7)(painter(windows, scheduler), windows)
    (guess, answer), base = seen[0], repaint_inputs(windows)[0]
    assert torch.equal(answer, windows["photo"])
    painted = windows["mask"].expand_as(guess) > 0
    torch.testing.assert_close(guess[painted], windows["photo"][painted], atol=1e-2, rtol=0)
    assert torch.equal(guess[~painted], base[~painted])
    assert losses["lpips"] > 0
    torch.testing.assert_close(losses["loss"], losses["v"] + 0.7 * losses["lpips"])


def test_timesteps_and_codes_that_are_trained(windows: Batch, scheduler: DDIMScheduler) -> None:
    assert sorted(training_timesteps(scheduler, None).tolist()) == list(range(1000))
    steps = training_timesteps(scheduler, 4)
    assert steps.tolist() == [999, 749, 499, 249]
    assert scheduler.alphas_cumprod[999] == 0  # pure noise
    loss = repaint(scheduler, timesteps=steps, terminal_share=0.5, code_dropout=0.2)
    network = painter(windows, scheduler)
    top = 1 - 2**-24  # the greatest float32 below 1
    u = torch.tensor([[0.3, 0.5, 0.2], [0.0, 0.9, 0.19], [top, top, top], [0.5, 0.49, 0.0]])
    loss(network, windows | {"u": u})
    _, t, code, _ = network.shown[0]
    assert t.tolist() == [749, 999, 249, 999]  # of the last, u[1] says: the first
    kept = torch.tensor([[1.0], [0], [1], [0]])
    assert torch.equal(code, windows["code"] * kept)


def test_a_batch_may_be_split(windows: Batch, scheduler: DDIMScheduler, tiny_unet: RigUNet) -> None:
    networks, loss = RigNetworks(tiny_unet, None, ("expression", "pose")), repaint(scheduler)
    whole = loss(networks, windows)["v"]
    halves = [loss(networks, part(windows, *index))["v"] for index in ((0, 1), (2, 3))]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)
