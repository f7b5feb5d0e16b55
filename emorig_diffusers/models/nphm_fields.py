"""The two fields of a neural parametric head: local signed distances around anchors, and the deformation by expression.

Codes enter the first layer of a network and, once more, the one in its middle. They are the same for all points of a
head, so their products are formed once a call and only coordinates are multiplied point by point.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARPNESS = 100.0  # β of Softplus, NPHM's and DeepSDF's
BLEND_VARIANCE = 0.1**2  # square units; a net weighs exp(-d²/this) at distance d from its anchor, NPHM's
ANCHOR_OFFSET = 1e-5  # units added to distances from anchors, NPHM's
BACKGROUND = 0.2  # square units; the constant d² of the net without an anchor, NPHM's
START_NOISE = 0.1  # share of the random last layer that stays beside the ellipsoid to start from


def softplus(x: Tensor) -> Tensor:
    """A smooth ReLU; linear from 20 / SHARPNESS on, torch's limit."""
    return F.softplus(x, beta=SHARPNESS)


def _sphere(count: int) -> Tensor:
    """Directions [count, 3] that cover the sphere evenly, on a Fibonacci spiral."""
    number = torch.arange(count, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * number / count, math.pi * (1 + math.sqrt(5)) * number
    around = (1 - z.square()).sqrt()
    return torch.stack([around * turn.cos(), around * turn.sin(), z], 1).float()


class SetLinear(nn.Module):
    """`sets` linear layers side by side; `weight` [sets, out, in] and `bias` [sets, out]."""

    def __init__(self, sets: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # torch's own for linear layers
        self.weight = nn.Parameter(torch.empty(sets, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(sets, outputs).uniform_(-bound, bound))


class LocalFields(nn.Module):
    """Signed distances of a head as a blend of small networks, one at every anchor and one for the rest.

    Anchors come as mirrored pairs (2k, 2k + 1), whose networks share weights (the second one sees x negated), then
    those on the mid-line. Each network sees the point from its anchor, the head's global code and its own.

    Args:
        num_pairs, num_middle: Anchors.
        num_global, num_local: Length of the global code and of a network's own.
        width, layers: Hidden layers; after half of them their output is joined by the input again.
        num_hyper: Coordinates of a point besides x, y, z.

    Raises:
        ValueError: Layers too narrow for their input.
    """

    def __init__(
        self, num_pairs: int, num_middle: int, num_global: int, num_local: int, width: int, layers: int, num_hyper: int
    ) -> None:
        super().__init__()
        self.num_pairs, self.num_middle, self.layers = num_pairs, num_middle, layers
        self.coordinates, self.skip = 3 + num_hyper, layers // 2
        inputs = self.coordinates + num_global + num_local
        if width < inputs + 2 or self.skip < 1:
            raise ValueError(
                f"Hidden layers of {width} cannot be joined by an input of {inputs} numbers after {self.skip} of them: "
                "use at least 2 layers that are wider than their input by 2."
            )
        ins = [inputs] + [width] * layers
        outs = [width - inputs if layer + 1 == self.skip else width for layer in range(layers)] + [1]
        sets = num_pairs + num_middle + 1
        self.lin = nn.ModuleList(SetLinear(sets, *size) for size in zip(ins, outs))

    @property
    def linears(self) -> list[SetLinear]:
        """The layers."""
        return cast(list[SetLinear], list(self.lin))

    @property
    def num_anchors(self) -> int:
        """How many anchors there are; there is one network more."""
        return 2 * self.num_pairs + self.num_middle

    def weight_set(self, net: int) -> int:
        """Which of the shared weights a network has."""
        return net // 2 if net < 2 * self.num_pairs else net - self.num_pairs

    @torch.no_grad()
    def start_from_ellipsoid(self, anchors: Tensor) -> None:
        """Let all networks start from the ellipsoid through the anchors [A, 3], whatever the codes add to it.

        The first layer's units look along directions that cover the sphere evenly, so that their mean is a quarter of
        the distance from the middle. Two units of the later layers carry its difference u to the radius on, which
        Softplus keeps: softplus(u) - softplus(-u) = u.
        """
        low, high = anchors.amin(0), anchors.amax(0)
        middle = (low + high) / 2
        axes = (high - low) / 2
        axes = axes * ((anchors - middle) / axes).norm(dim=-1).mean()
        radius = axes.mean()
        first = self.linears[0]
        looks = _sphere(first.weight.shape[1]).to(anchors) * radius / axes
        firsts = [*range(0, 2 * self.num_pairs, 2), *range(2 * self.num_pairs, self.num_anchors)]
        first.weight[:, :, :3] = looks
        first.bias[:] = (torch.cat([anchors[firsts], torch.zeros_like(middle)[None]]) - middle) @ looks.T
        for layer, linear in list(enumerate(self.linears))[1:]:
            last = layer == self.layers
            rows, bias = (part[:, : 1 if last else 2] for part in (linear.weight, linear.bias))
            rows.mul_(START_NOISE if last else 0.0)
            bias.zero_()
            scale = math.sqrt(2) if layer == self.skip else 1.0  # what is joined was divided by it
            signs = rows.new_tensor([scale, -scale])[: rows.shape[1], None]
            if layer == 1:
                rows[:, :, : len(looks)] = 4 / len(looks) * signs
                bias[:] = -radius * signs[:, 0] / scale
            else:
                rows[:, :, :2] = signs * rows.new_tensor([1.0, -1.0])

    def shares(self, points: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [B, N, A + 1] of all networks at points [B, N, 3], not normalised, and their sum [B, N]."""
        away = (points[:, :, None] - anchors[:, None]).norm(dim=-1) + ANCHOR_OFFSET
        squares = torch.cat([away.square(), torch.full_like(away[..., :1], BACKGROUND)], -1)
        weight = (-squares / BLEND_VARIANCE).exp()
        return weight, weight.sum(-1)

    def forward(
        self,
        points: Tensor,
        anchors: Tensor,
        global_code: Tensor,
        local_codes: Tensor,
        threshold: float = 0.0,
        epsilon: float = 0.0,
        outside_last: bool = False,
    ) -> Tensor:
        """Signed distances [B, N] in units, positive outside.

        Args:
            points: [B, N, 3 + num_hyper] in units.
            anchors: [B, A, 3].
            global_code: [B, num_global].
            local_codes: [B, A + 1, num_local].
            threshold: Networks whose share of a point's weights is at most this are left out there. The error is at
                most threshold x networks left out x the largest local distance; at 1e-4 it is about 2e-5 units.
            epsilon: Added to the sum by which weights are divided.
            outside_last: The last point of every head is told to be outside by 1, as NPHM's slip has it.
        """
        batch, count = points.shape[:2]
        weight, total = self.shares(points[..., :3], anchors)
        kept = weight > threshold * total[..., None] if threshold > 0 else None
        weight = weight / (total + epsilon)[..., None]
        flat, head = points.flatten(0, 1), torch.arange(batch, device=points.device).repeat_interleave(count)
        weight, sdf = weight.flatten(0, 1), points.new_zeros(batch * count)
        mirror = points.new_tensor([-1.0] + [1.0] * (self.coordinates - 1))
        first, second = self._code_terms(global_code, local_codes)
        for net in range(self.num_anchors + 1):
            rows: Any = slice(None) if kept is None else kept[..., net].flatten().nonzero()[:, 0]
            local, whose = flat[rows], head[rows] if batch > 1 else 0
            if net < self.num_anchors:
                local = local - F.pad(anchors[:, net], (0, self.coordinates - 3))[whose]
            if net % 2 and net < 2 * self.num_pairs:
                local = local * mirror
            own = self._net(self.weight_set(net), local, first[net, whose], second[net, whose])
            part = weight[rows, net] * own
            sdf = sdf + part if kept is None else sdf.index_add(0, rows, part)
        sdf = sdf.view(batch, count)
        if outside_last:
            last = (total / (total + epsilon))[:, -1:]
            sdf = torch.cat([sdf[:, :-1], last], 1)
        return sdf

    def _code_terms(self, global_code: Tensor, local_codes: Tensor) -> tuple[Tensor, Tensor]:
        """What codes add to the first layer and to that after the skip [A + 1, B, width], with their biases."""
        nets = self.num_anchors + 1
        code = torch.cat([global_code[:, None].expand(-1, nets, -1), local_codes], -1).transpose(0, 1)
        which = [self.weight_set(net) for net in range(nets)]
        first, joined = self.linears[0], self.linears[self.skip]
        term = lambda linear, scale: torch.baddbmm(
            linear.bias[which][:, None], code, linear.weight[which][:, :, -code.shape[-1] :].mT, alpha=scale
        )
        return term(first, 1.0), term(joined, 1 / math.sqrt(2))

    def _net(self, member: int, local: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """One network at local coordinates [M, 3 + num_hyper]; `first`, `second`: terms of its codes, [W] or [M, W]."""
        coordinates, hidden = self.coordinates, local
        for layer, linear in enumerate(self.linears):
            weight, bias = linear.weight[member], linear.bias[member]
            if layer == 0:
                hidden = torch.addmm(first, local, weight[:, :coordinates].T)
            elif layer == self.skip:
                width = hidden.shape[1]
                joined = torch.cat([hidden, local], 1) * (1 / math.sqrt(2))
                hidden = torch.addmm(second, joined, weight[:, : width + coordinates].T)
            else:
                hidden = torch.addmm(bias, hidden, weight.T)
            hidden = softplus(hidden) if layer < self.layers else hidden
        return hidden[:, 0]


class DeformationField(nn.Module):
    """Where expression moves points: offsets from coordinates and codes.

    Args:
        num_codes: Length of all codes together.
        width, layers: Hidden layers; after half of them their output is joined by the input again.
        outputs: Numbers of an offset, at least 3.
    """

    def __init__(self, num_codes: int, width: int, layers: int, outputs: int = 3) -> None:
        super().__init__()
        inputs, self.layers, self.skip = 3 + num_codes, layers, layers // 2
        if width <= inputs or self.skip < 1:
            raise ValueError(f"Deformation layers of {width} cannot be joined by an input of {inputs} numbers: widen.")
        outs = [width - inputs if layer + 1 == self.skip else width for layer in range(layers)] + [outputs]
        self.lin = nn.ModuleList(nn.Linear(*size) for size in zip([inputs] + [width] * layers, outs))
        nn.init.zeros_(self.linears[-1].weight)  # starts from no deformation
        nn.init.zeros_(self.linears[-1].bias)

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers."""
        return cast(list[nn.Linear], list(self.lin))

    def forward(self, points: Tensor, codes: Tensor) -> Tensor:
        """Offsets [B, N, outputs] of points [B, N, 3], from codes [B, 1 or N, C]."""
        hidden, scale = points, 1 / math.sqrt(2)
        for layer, linear in enumerate(self.linears):
            if layer in (0, self.skip):
                width = 3 if layer == 0 else hidden.shape[-1] + 3
                joined = points if layer == 0 else torch.cat([hidden, points], -1) * scale
                term = codes @ linear.weight[:, width:].T * (1.0 if layer == 0 else scale) + linear.bias
                hidden = joined @ linear.weight[:, :width].T + term
            else:
                hidden = linear(hidden)
            hidden = softplus(hidden) if layer < self.layers else hidden
        return hidden
