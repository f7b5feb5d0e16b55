"""DetailModel: DECA's wrinkles, a displacement map read from a crop, and the normals of the head that wears it.

Feng et al., "Learning an animatable detailed 3D face model from in-the-wild images", SIGGRAPH 2021, section 4.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..render.buffers import vertex_normals
from ..render.rasterize import Rule, interpolate, rasterize
from .aligned import AlignedMixin
from .emoca import CodeRegressor, build_trunk
from .head import HeadModel

UV_SIDE = 256  # texels of the maps in UV space
MAX_DISPLACEMENT = 0.01  # metres

_FIRST_SIDE = 8
_WIDTHS = (128, 128, 64, 64, 32, 16)  # channels at 8, 16, ... 256 texels
_WIDE_EPS = 0.8  # of all normalisations but the first; as published, surely meant for another argument
DECA_MARGINS = (2, 5)  # texels at the left and right, and at the top and bottom, that DECA's fine mesh leaves out
EMOCA_MARGINS = (0, 0)


class DetailModel(AlignedMixin, ModelMixin, ConfigMixin):
    """Crop, jaw and expression -> displacements along the coarse head's normals, in UV space.

    `E_detail.*` and `D_detail.*` have the published names: 318 + 4 tensors, and a generator of 8 x 8 to 256 x 256.
    Call `eval()` for inference (`from_pretrained` does).

    Args:
        backbone: 'resnet50' as published, or another of `emoca.BACKBONES`.
        hidden: Width between the encoder's two linear layers.
        num_detail: Length D of the detail code.
        num_expression: Length E of the expression code.
        image_size: Side S of the crop the encoder sees, pixels.
        margins: Columns and rows of texels at each border of the UV map that the fine mesh leaves out.
        blended: Outside the mask the normals are the coarse head's, as DECA has it; EMOCA takes the fine mesh's
            everywhere.

    Attributes:
        mask: Share of the predicted displacement that counts [1, 1, 256, 256] (`uv_face_eye_mask`), 1 in the face.
        fixed: Displacement that every face has [256, 256], metres.
    """

    _keep_in_fp32_modules = ["mask", "fixed"]

    @register_to_config
    def __init__(
        self,
        backbone: str = "resnet50",
        hidden: int = 1024,
        num_detail: int = 128,
        num_expression: int = 50,
        image_size: int = 224,
        margins: tuple[int, int] | list[int] = DECA_MARGINS,
        blended: bool = True,
    ) -> None:
        super().__init__()
        self.E_detail = CodeRegressor(build_trunk(backbone, image_size), hidden, num_detail, calibrated=False)
        self.D_detail = DisplacementGenerator(3 + num_expression + num_detail)
        self.mask = nn.Parameter(torch.ones(1, 1, UV_SIDE, UV_SIDE), requires_grad=False)
        self.fixed = nn.Parameter(torch.zeros(UV_SIDE, UV_SIDE), requires_grad=False)

    def code(self, image: Tensor) -> Tensor:
        """Detail code [B, D] of crops [B, 3, S, S], RGB in [0, 1]: what of the wrinkles is the person's own."""
        return self.E_detail(self.E_detail.encoder(image))

    def decode(self, code: Tensor, jaw: Tensor, expression: Tensor) -> Tensor:
        """Displacements [B, 1, 256, 256] in metres from codes [B, D], under a jaw [B, 3] and expression [B, E]."""
        return self.D_detail(torch.cat([jaw, expression, code], 1))

    def forward(self, image: Tensor, jaw: Tensor, expression: Tensor) -> Tensor:
        """Displacements that crops show, under other expressions if wanted.

        Args:
            image: Crops [B, 3, S, S], RGB in [0, 1].
            jaw: Axis-angle of the jaw [B, 3], radians.
            expression: ψ [B, E].

        Returns:
            [B, 1, 256, 256] in metres, within ±0.01; neither masked nor with the fixed part, see `normals`.
        """
        return self.decode(self.code(image), jaw, expression)

    def normals(self, head: HeadModel, vertices: Tensor, displacement: Tensor, rule: Rule = "exact") -> Tensor:
        """As `detail_normals`, with this checkpoint's mask, fixed displacement, margins and way outside the mask."""
        moved, mask, fixed = (t.to(vertices.device, torch.float32) for t in (displacement, self.mask, self.fixed))
        return detail_normals(head, vertices, moved, mask, fixed, tuple(self.config.margins), self.config.blended, rule)


class DisplacementGenerator(nn.Module):
    """A linear layer (`l1.0`) to 128 x 8 x 8, then five times bilinear doubling and a convolution (`conv_blocks`).

    [B, inputs] -> [B, 1, 256, 256] in metres, within ±0.01.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.l1 = nn.Sequential(nn.Linear(inputs, _WIDTHS[0] * _FIRST_SIDE**2))
        layers: list[nn.Module] = [nn.BatchNorm2d(_WIDTHS[0])]
        for before, after in zip(_WIDTHS, _WIDTHS[1:]):
            layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), _conv(before, after)]
            layers += [nn.BatchNorm2d(after, _WIDE_EPS), nn.LeakyReLU(0.2)]
        self.conv_blocks = nn.Sequential(*layers, _conv(_WIDTHS[-1], 1), nn.Tanh())

    def forward(self, codes: Tensor) -> Tensor:
        small = self.l1(codes).unflatten(1, (_WIDTHS[0], _FIRST_SIDE, _FIRST_SIDE))
        return MAX_DISPLACEMENT * self.conv_blocks(small)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def detail_normals(
    head: HeadModel,
    vertices: Tensor,
    displacement: Tensor,
    mask: Tensor,
    fixed: Tensor,
    margins: tuple[int, int] = DECA_MARGINS,
    blended: bool = True,
    rule: Rule = "exact",
) -> Tensor:
    """World-space normals of a head with wrinkles, as a texture that `buffers.draw_buffers` takes.

    The coarse surface is drawn in UV space and moved along its normals; the result is the normals of the fine mesh over
    the texels, as DiffusionRig's and EMOCA's `displacement2normal` (Ding et al. 2023, Daněček et al. 2022).

    Args:
        head: Head whose `uv` and `faces_uv` are the ones the displacements were learnt for.
        vertices: Posed head [B, V, 3], metres.
        displacement: [B, 1, 256, 256], metres.
        mask: [1, 1, 256, 256] in [0, 1].
        fixed: [256, 256], metres.
        margins, blended: As for `DetailModel`.
        rule: As for `rasterize.rasterize`.

    Returns:
        [B, 3, 256, 256]: x, y, z, of length 1 where the fine ones count; beyond the UV map 0, but for the fine mesh's
        border.
    """
    coarse = torch.cat([vertices, vertex_normals(vertices, head.faces)], 2)
    places, normals = draw_uv(head, coarse, rule).split(3, 3)
    moved = places + (displacement * mask + fixed)[:, 0, :, :, None] * normals
    mesh = grid_faces(UV_SIDE, margins).to(vertices.device)
    fine = vertex_normals(moved.flatten(1, 2), mesh).view_as(normals).permute(0, 3, 1, 2)
    return torch.lerp(normals.permute(0, 3, 1, 2), fine, mask) if blended else fine


def draw_uv(head: HeadModel, attributes: Tensor, rule: Rule = "exact") -> Tensor:
    """Attributes of vertices [B, V, C] at the texels of the UV map [B, 256, 256, C]; row 0 is its top, v = 1."""
    pixels = torch.stack([head.uv[:, 0], 1 - head.uv[:, 1], torch.zeros_like(head.uv[:, 0])], 1) * UV_SIDE
    shown = rasterize(pixels[None], head.faces_uv, UV_SIDE, UV_SIDE, rule=rule)
    batch, _, channels = attributes.shape
    beside = attributes.transpose(0, 1).flatten(1)  # the map is the same for all: drawn once
    return interpolate(shown, head.faces, beside)[0].unflatten(-1, (batch, channels)).movedim(2, 0)


def grid_faces(side: int, margins: tuple[int, int] = DECA_MARGINS) -> Tensor:
    """Two triangles a cell of a grid of side x side points in rows, int64 [F, 3], without the cells of the margins.

    The diagonal runs from bottom left to top right. Seen from outside they turn as u and v do, counter-clockwise.
    """
    x, y = (torch.arange(margin, side - 1 - margin) for margin in margins)
    y, x = torch.meshgrid(y, x, indexing="ij")
    here = (y * side + x).flatten()
    right, below, across = here + 1, here + side, here + side + 1
    return torch.cat([torch.stack([here, below, right], 1), torch.stack([right, below, across], 1)])
