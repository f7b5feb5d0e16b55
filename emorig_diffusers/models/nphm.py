"""A neural parametric head: identity as signed distances around anchors, expression as a deformation of space.

NPHM (Giebenhain et al. 2023), exact to its released checkpoints. Space: x to the subject's left, y up, z to the viewer,
as FLAME's; one unit is `metres_per_unit`, 0.25 m in NPHM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..render.isosurface import CHUNK, COARSE, RESOLUTION, Field, extract_surface
from .aligned import AlignedMixin
from .geometry import Surface
from .nphm_fields import DeformationField, LocalFields

COMPRESSOR_NOISE = 1 / 200  # deviation, added to a compressed identity in training, NPHM's
SPREAD = 0.85  # of people's own, of heads that are drawn by chance, NPHM's
PRUNING = 1e-4  # share of a point's weights up to which a network is left out: 2e-5 units of error at 7 times the speed

Deformation = Literal["forward", "backward"]

ANCHORS = (
    (-.0957, -.2110, .1506), (.0939, -.2106, .1471), (-.2706, -.0965, -.0398), (.2702, -.0954, -.0411),
    (-.1310, -.2726, .1110), (.1305, -.2737, .1090), (-.2026, -.0811, .1146), (.2056, -.0786, .1141),
    (-.1453, .1476, .1773), (.1491, .1524, .1768), (-.0718, .0704, .1423), (.0732, .0702, .1419),
    (-.1765, .0745, .1186), (.1786, .0741, .1186), (-.0704, -.0803, .1805), (.0704, -.0804, .1804),
    (-.2211, -.2647, -.0753), (.2200, -.2665, -.0768), (-.2624, .0723, .0220), (.2626, .0766, .0196),
    (-.2884, -.0054, -.2136), (.2887, -.0052, -.2111), (-.1597, .3398, .1051), (.1578, .3397, .1009),
    (-.2007, .4539, -.1408), (.1941, .4546, -.1444), (.2026, .2440, -.5236), (-.2107, .2439, -.5215),
    (.1773, -.1698, -.3653), (-.1513, -.1663, -.4079), (-.2875, -.4578, -.3908), (.2848, -.4560, -.3903),
    (-.0021, -.4516, -.0497), (.0013, -.0460, .2841), (.0017, -.2405, .1907), (.0000, -.1580, .2316),
    (.0007, .0626, .2147), (.0011, .1982, .2040), (.0008, -.3713, .1544),
)  # fmt: skip
"""Mean places of NPHM's 39 anchors in units, to 1e-4 (anchors_39.npy of its MIT-licensed repository): 16 mirrored
pairs, of which the members of the 14th and 15th are the other way round, and 7 on the mid-line."""


class NeuralHeadModel(AlignedMixin, ModelMixin, ConfigMixin):
    """Identity and expression codes -> signed distances, and where expression moves points.

    The identity code is [global, local of every anchor, local of the background] (64 + 40 x 32 in NPHM).
    Expressions deform space: *forward*, from the person's canonical head to the posed one (NPHM), so that one surface
    is extracted a person and its vertices are moved; or *backward*, from posed points to canonical ones (MonoNPHM and
    later heads), so that posed distances are had at any point.

    Args:
        num_pairs, num_middle: Anchors: mirrored pairs, whose networks share weights, then those on the mid-line.
        num_global, num_local: Length of the global code and of the code at an anchor.
        width, layers: Hidden layers of a local network.
        anchor_width: Of the network that places anchors.
        num_expression: Length of the expression code; 0 for a head without expressions.
        expression_width, expression_layers: Hidden layers of the deformation network.
        num_compressed: What the deformation network sees of an identity.
        deformation: "forward" or "backward".
        num_hyper: Coordinates besides x, y, z that a backward deformation gives to the local networks.
        blend_epsilon: Added to the sum of weights that distances are divided by. 1e-6 in NPHM, whose distances far from
            all anchors shrink by it to the background network's times .002; 0 in heads trained here. The surface is
            the same.
        compat_last_point: In eval mode the last point of every head in a call is outside by 1, whatever is there: a
            slip of NPHM, wanted only to compare with its own output.
        metres_per_unit: Size of a unit.
        box: Corners of the box that the canonical head is looked for in, in units; NPHM's, which cuts the neck.

    Attributes:
        mean_anchors: [A, 3] in units, not trained.
        shape_mean, shape_std, expression_mean, expression_std: Of people's codes; deviations of 0 where unknown.
        identity: LocalFields.
        anchor_net: From the global code to the anchors' offsets.
        compressor, expression: Of the deformation; `None` without expressions.

    Raises:
        ValueError: Arguments that contradict each other.
    """

    @register_to_config
    def __init__(
        self,
        num_pairs: int = 16,
        num_middle: int = 7,
        num_global: int = 64,
        num_local: int = 32,
        width: int = 200,
        layers: int = 4,
        anchor_width: int = 256,
        num_expression: int = 200,
        expression_width: int = 512,
        expression_layers: int = 6,
        num_compressed: int = 32,
        deformation: Deformation = "forward",
        num_hyper: int = 0,
        blend_epsilon: float = 0.0,
        compat_last_point: bool = False,
        metres_per_unit: float = 0.25,
        box: tuple[tuple[float, ...], tuple[float, ...]] = ((-0.55, -0.5, -0.95), (0.55, 0.75, 0.4)),
    ) -> None:
        super().__init__()
        if deformation not in ("forward", "backward"):
            raise ValueError(f"deformation must be 'forward' or 'backward', got {deformation!r}.")
        if num_hyper and (deformation == "forward" or not num_expression):
            raise ValueError("Hyper-coordinates come from a backward deformation: set num_hyper to 0 without one.")
        self.identity = LocalFields(num_pairs, num_middle, num_global, num_local, width, layers, num_hyper)
        anchors = self.identity.num_anchors
        known = (num_pairs, num_middle) == (16, 7)
        self._constant("mean_anchors", torch.tensor(ANCHORS) if known else torch.zeros(anchors, 3))
        for name, count in (("shape", self.num_shape), ("expression", num_expression)):
            self._constant(f"{name}_mean", torch.zeros(count))
            self._constant(f"{name}_std", torch.zeros(count))
        last = nn.Linear(anchor_width, anchors * 3)
        nn.init.zeros_(last.weight)  # anchors start from their means
        nn.init.zeros_(last.bias)
        self.anchor_net = nn.Sequential(
            nn.Linear(num_global, anchor_width), nn.ReLU(), nn.Linear(anchor_width, anchor_width), nn.ReLU(), last
        )
        self.compressor = self.expression = None
        if num_expression:
            self.compressor = nn.Linear(self.num_shape + anchors * 3, num_compressed)
            codes = num_compressed + num_expression
            self.expression = DeformationField(codes, expression_width, expression_layers, 3 + num_hyper)
        if known:
            self.identity.start_from_ellipsoid(self.mean_anchors)

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    @property
    def num_shape(self) -> int:
        """Length of the identity code."""
        return self.config.num_global + (self.identity.num_anchors + 1) * self.config.num_local

    @property
    def num_expression(self) -> int:
        """Length of the expression code."""
        return self.config.num_expression

    def identity_parameters(self) -> Iterator[nn.Parameter]:
        """What the first stage of training learns besides codes."""
        yield from self.identity.parameters()
        yield from self.anchor_net.parameters()

    def expression_parameters(self) -> Iterator[nn.Parameter]:
        """What the second stage learns besides codes; nothing for a head without expressions."""
        for network in (self.compressor, self.expression):
            if network is not None:
                yield from network.parameters()

    # identity

    def split_code(self, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Global code [B, num_global] and local codes [B, A + 1, num_local] of identity codes [B, num_shape]."""
        if shape.ndim != 2 or shape.shape[1] != self.num_shape:
            raise ValueError(
                f"This head takes identity codes [B, {self.num_shape}], got {list(shape.shape)}: use codes made for it."
            )
        size = self.config.num_global
        return shape[:, :size], shape[:, size:].unflatten(1, (-1, self.config.num_local))

    def paired_codes(self, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Local codes [B, num_pairs, num_local] of the first and of the second members of the mirrored pairs."""
        pairs = self.split_code(shape)[1][:, : 2 * self.config.num_pairs].unflatten(1, (-1, 2))
        return pairs[:, :, 0], pairs[:, :, 1]

    def anchors(self, shape: Tensor) -> Tensor:
        """Places [B, A, 3] of the anchors in units, on the canonical head."""
        return self.mean_anchors + self.anchor_net(self.split_code(shape)[0]).unflatten(1, (-1, 3))

    def sdf(self, points: Tensor, shape: Tensor, expression: Tensor | None = None, threshold: float = 0.0) -> Tensor:
        """Signed distances [B, N] in units, positive outside.

        Args:
            points: [B, N, 3] in units, on the canonical head, or posed with an expression. Without an expression they
                may come as `deform` gives them, with hyper-coordinates; left out these are 0.
            shape: Identity codes [B, num_shape].
            expression: Expression codes [B, num_expression], for backward deformations only.
            threshold: Prunes networks, see `LocalFields`; PRUNING suits inference, 0 is exact.

        Raises:
            ValueError: Codes of another length, or an expression for a head that deforms forward.
        """
        return self._sdf(points, shape, expression, threshold, self.config.blend_epsilon)

    def distance(
        self, points: Tensor, shape: Tensor, expression: Tensor | None = None, threshold: float = PRUNING
    ) -> Tensor:
        """As `sdf`, without `blend_epsilon` and quirks: the surface is the same, and so are distances far away."""
        return self._sdf(points, shape, expression, threshold, 0.0, quirks=False)

    def _sdf(
        self, points: Tensor, shape: Tensor, expression: Tensor | None, threshold: float, epsilon: float,
        quirks: bool = True,
    ) -> Tensor:  # fmt: skip
        if expression is not None:
            if self.config.deformation == "forward":
                raise ValueError("A forward deformation gives no posed distances: move the surface's vertices by it.")
            points = self.deform(points, shape, expression)
        missing = 3 + self.config.num_hyper - points.shape[-1]
        points = nn.functional.pad(points, (0, missing)) if missing else points
        last = quirks and self.config.compat_last_point and not self.training
        codes = self.split_code(shape)
        return self.identity(points, self.anchors(shape), *codes, threshold, epsilon, last)

    def sdf_and_gradient(
        self,
        points: Tensor,
        shape: Tensor,
        expression: Tensor | None = None,
        threshold: float = 0.0,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Signed distances [B, N] and their gradient [B, N, 3], which is the normal on the surface.

        Args:
            points, shape, expression, threshold: As for `sdf`.
            create_graph: Keep what losses on the gradient need.
        """
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_(True)
            sdf = self.sdf(points, shape, expression, threshold)
            [gradient] = torch.autograd.grad(sdf.sum(), points, create_graph=create_graph, retain_graph=create_graph)
        return (sdf if create_graph else sdf.detach()), gradient[..., :3]

    # expression

    def deform(self, points: Tensor, shape: Tensor, expression: Tensor) -> Tensor:
        """Points [B, N, 3] moved: canonical to posed in a forward deformation, posed to canonical in a backward one.

        In training mode the identity that the network sees is noisy. A backward deformation appends hyper-coordinates.

        Raises:
            ValueError: Codes of another length, or a head without expressions.
        """
        if self.compressor is None or self.expression is None:
            raise ValueError("This head has no expressions: leave the expression out, or convert it with them.")
        if expression.ndim != 2 or expression.shape[1] != self.num_expression:
            raise ValueError(
                f"This head takes expression codes [B, {self.num_expression}], got {list(expression.shape)}: "
                "use codes made for it."
            )
        seen = self.compressor(torch.cat([shape, self.anchors(shape).flatten(1)], 1))[:, None]
        if self.training:
            seen = seen.expand(-1, points.shape[1], -1)
            seen = seen + COMPRESSOR_NOISE * torch.randn_like(seen)
        codes = torch.cat([seen, expression[:, None].expand(-1, seen.shape[1], -1)], -1)
        offset = self.expression(points[..., :3], codes)
        return torch.cat([points[..., :3] + offset[..., :3], offset[..., 3:]], -1)

    # surfaces

    @property
    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Corners of the box that the canonical head lies in, in metres."""
        unit = self.config.metres_per_unit
        low, high = ((x * unit, y * unit, z * unit) for x, y, z in self.config.box)
        return low, high

    def field(self, shape: Tensor, expression: Tensor | None = None, threshold: float = PRUNING) -> Field:
        """One head's signed distance in metres as a function of points [N, 3] in metres, e.g. to trace rays.

        Args:
            shape: Identity code [1, num_shape].
            expression: Expression code [1, num_expression], for backward deformations only.
            threshold: As for `sdf`.
        """
        unit = self.config.metres_per_unit
        return lambda points: unit * self.distance(points[None] / unit, shape, expression, threshold)[0]

    @torch.no_grad()
    def surface(
        self,
        shape: Tensor,
        expression: Tensor | None = None,
        resolution: int = RESOLUTION,
        threshold: float = PRUNING,
        progress: Callable[[int], None] | None = None,
    ) -> Surface:
        """The surface of one head in its box, in metres; extracted, and moved where expressions deform forward.

        Args:
            shape: Identity code [1, num_shape].
            expression: Expression code [1, num_expression]; `None` for the canonical head.
            resolution: Cells of the box a side: up to 64, or 64 times a power of two.
            threshold: As for `sdf`.
            progress: Gets the number of points evaluated, now and then.

        Raises:
            ValueError: As `extract_surface`, or codes of another length.
        """
        unit, posed = self.config.metres_per_unit, expression if self.config.deformation == "backward" else None
        low, high = self.bounds
        field = self.field(shape, posed, threshold)
        vertices, faces = extract_surface(
            field, low, high, resolution, min(COARSE, resolution), device=shape.device, progress=progress
        )
        if expression is not None and posed is None:
            moved = [self.deform(part[None].to(shape) / unit, shape, expression)[0] for part in vertices.split(CHUNK)]
            vertices = unit * torch.cat(moved).to(vertices)
        return Surface(vertices, faces)

    # codes

    def sample(
        self, count: int = 1, generator: torch.Generator | None = None, spread: float = SPREAD
    ) -> tuple[Tensor, Tensor]:
        """Identity [count, num_shape] and expression codes [count, num_expression] of heads by chance.

        Args:
            count: Heads.
            generator: On the CPU, for repeatable heads.
            spread: Deviation in terms of people's own.

        Raises:
            ValueError: The head does not tell how people's codes spread.
        """
        drawn = []
        for name in ("shape", "expression"):
            mean, std = getattr(self, f"{name}_mean"), getattr(self, f"{name}_std")
            if len(mean) and not std.any():
                raise ValueError(
                    f"This head does not tell how people's {name} codes spread: convert it with their statistics."
                )
            noise = torch.randn(count, len(mean), generator=generator).to(mean)
            drawn.append(mean + spread * std * noise)
        return drawn[0], drawn[1]
