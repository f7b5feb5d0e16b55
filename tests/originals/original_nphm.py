"""NPHM (Giebenhain et al. 2023) from its equations: identity and expression networks as the authors' files hold them.

Written point by point and network by network, without any code of the package: keys and shapes of both state dicts,
random checkpoints in their layout, signed distances and deformations.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

PAIRS, MIDDLE, GLOBAL, LOCAL, EXPRESSION, COMPRESSED = 16, 7, 64, 32, 200, 32
ANCHORS = 2 * PAIRS + MIDDLE
CODE = GLOBAL + (ANCHORS + 1) * LOCAL
PEOPLE, SCANS = 30, 40  # rows of the training codes, which nobody else may get


def identity_shapes(anchor_width: int = 256) -> dict[str, tuple[int, ...]]:
    """Tensors of the identity network."""
    sizes = [(200, 99), (101, 200), (200, 200), (200, 200), (1, 200)]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, size in enumerate(sizes):
        shapes[f"ensembled_deep_sdf.lin{number}.weight"] = (24, *size)
        shapes[f"ensembled_deep_sdf.lin{number}.bias"] = (24, size[0])
    for number, size in ((0, (anchor_width, GLOBAL)), (2, (anchor_width,) * 2), (4, (ANCHORS * 3, anchor_width))):
        shapes |= {f"mlp_pos.{number}.weight": size, f"mlp_pos.{number}.bias": size[:1]}
    return shapes


def expression_shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the expression network."""
    inputs = 3 + COMPRESSED + EXPRESSION
    sizes = [(512, inputs), (512, 512), (512 - inputs, 512), (512, 512), (512, 512), (512, 512), (3, 512)]
    shapes: dict[str, tuple[int, ...]] = {"compressor.0.weight": (COMPRESSED, CODE + ANCHORS * 3)}
    shapes["compressor.0.bias"] = (COMPRESSED,)
    for number, size in enumerate(sizes):
        shapes |= {f"defDeepSDF.lin{number}.weight": size, f"defDeepSDF.lin{number}.bias": size[:1]}
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    """Numbers under which every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(size, generator=generator) for name, size in shapes.items()}
    return {name: t / math.sqrt(t.shape[-1]) if name.endswith("weight") else 0.1 * t for name, t in drawn.items()}


def random_anchors(seed: int = 7) -> np.ndarray:
    """Mean anchors [39, 3], float64."""
    return 0.25 * np.random.default_rng(seed).standard_normal((ANCHORS, 3))


def save(state: State, rows: int, width: int, file: Path) -> Path:
    """A checkpoint as the authors' trainer writes it, training codes included."""
    generator = torch.Generator().manual_seed(rows)
    codes = lambda count: {"weight": 0.1 * torch.randn(count, width, generator=generator) + 0.05}
    torch.save(
        {
            "epoch": 15000,
            "decoder_state_dict": state,
            "optimizer_encoder_state_dict": {"state": {}, "param_groups": [{"lr": 5e-4, "params": [0, 1]}]},
            "optimizer_lat_state_dict": {"state": {}, "param_groups": []},
            "optimizer_lat_val_state_dict": {"state": {}, "param_groups": []},
            "latent_codes_state_dict": codes(rows),
            "latent_codes_val_state_dict": codes(10),
        },
        file,
    )
    return file


def anchors(state: State, mean: Tensor, code: Tensor) -> Tensor:
    """Anchors [39, 3] of one code."""
    hidden = code[:GLOBAL]
    for number in (0, 2, 4):
        hidden = state[f"mlp_pos.{number}.weight"] @ hidden + state[f"mlp_pos.{number}.bias"]
        hidden = hidden.clamp(min=0) if number < 4 else hidden
    return mean + hidden.reshape(ANCHORS, 3)


def smooth(x: Tensor) -> Tensor:
    return F.softplus(x, beta=100, threshold=20)


def sdf(state: State, mean: Tensor, points: Tensor, code: Tensor, training: bool = True) -> Tensor:
    """Signed distances [N] of points [N, 3] for one code; outside of training the last point is outside by 1."""
    places = anchors(state, mean, code)
    top, bottom = torch.zeros(len(points)), torch.full((len(points),), 1e-6)
    for net in range(ANCHORS + 1):
        share = net // 2 if net < 2 * PAIRS else PAIRS + net - 2 * PAIRS
        if net < ANCHORS:
            local, squared = points - places[net], ((points - places[net]).norm(dim=1) + 1e-5) ** 2
        else:
            local, squared = points, torch.full((len(points),), 0.2)
        if net < 2 * PAIRS and net % 2 == 1:
            local = torch.stack([-local[:, 0], local[:, 1], local[:, 2]], 1)
        own = code[GLOBAL + net * LOCAL : GLOBAL + (net + 1) * LOCAL]
        seen = torch.cat([local, torch.cat([code[:GLOBAL], own]).expand(len(points), -1)], 1)
        hidden = seen
        for number in range(5):
            hidden = torch.cat([hidden, seen], 1) / 2**0.5 if number == 2 else hidden
            weight, bias = (state[f"ensembled_deep_sdf.lin{number}.{kind}"][share] for kind in ("weight", "bias"))
            hidden = hidden @ weight.T + bias
            hidden = smooth(hidden) if number < 4 else hidden
        value = hidden[:, 0]
        if not training:
            value = torch.cat([value[:-1], torch.ones(1)])
        weight = torch.exp(-squared / 0.1**2)
        top, bottom = top + weight * value, bottom + weight
    return top / bottom


def deform(state: State, points: Tensor, code: Tensor, places: Tensor, expression: Tensor) -> Tensor:
    """Posed points [N, 3] of canonical ones."""
    identity = torch.cat([code, places.flatten()])
    compressed = state["compressor.0.weight"] @ identity + state["compressor.0.bias"]
    seen = torch.cat([points, torch.cat([compressed, expression]).expand(len(points), -1)], 1)
    hidden = seen
    for number in range(7):
        hidden = torch.cat([hidden, seen], 1) / 2**0.5 if number == 3 else hidden
        hidden = hidden @ state[f"defDeepSDF.lin{number}.weight"].T + state[f"defDeepSDF.lin{number}.bias"]
        hidden = smooth(hidden) if number < 6 else hidden
    return points + hidden
