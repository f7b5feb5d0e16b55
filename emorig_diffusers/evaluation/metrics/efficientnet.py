"""EfficientNet-B0 and B2 (Tan & Le 2019, arXiv:1905.11946) with timm's tensor names, for inference."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

# Table 1 of the paper: expansion, channels, blocks, stride of the first, kernel.
_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip
_SCALES = {"b0": (1.0, 1.0), "b2": (1.1, 1.2)}  # of channels, of blocks


class EfficientNet(nn.Module):
    """timm's tf_efficientnet_b0_ns or _b2_ns: TensorFlow's padding and BatchNorm epsilon (1e-3).

    Args:
        size: "b0" or "b2".
        outputs: length of the last layer, `classifier`.
    """

    def __init__(self, size: str, outputs: int) -> None:
        super().__init__()
        width, depth = _SCALES[size]
        channels, features = _rounded(32, width), _rounded(1280, width)
        self.conv_stem, self.bn1 = SameConv(3, channels, 3, 2), _norm(channels)
        self.blocks = nn.Sequential()
        for expansion, base, repeats, stride, kernel in _STAGES:
            stage = nn.Sequential()
            for i in range(math.ceil(repeats * depth)):
                stage.append(_block(channels, _rounded(base, width), expansion, kernel, 1 if i else stride))
                channels = _rounded(base, width)
            self.blocks.append(stage)
        self.conv_head, self.bn2 = SameConv(channels, features, 1), _norm(features)
        self.classifier = nn.Linear(features, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, outputs] of pictures [B, 3, H, W], normalised as ImageNet's."""
        hidden = self.blocks(F.silu(self.bn1(self.conv_stem(image))))
        return self.classifier(F.silu(self.bn2(self.conv_head(hidden))).mean((2, 3)))


class SameConv(nn.Conv2d):
    """A convolution without bias whose output has ceil(input / stride) pixels a side, as TensorFlow's "SAME".

    An odd number of padded pixels puts the odd one right and below.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        missing = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
        padding = [pad for rows in reversed(missing) for pad in (rows // 2, rows - rows // 2)]
        return super().forward(F.pad(x, padding))


class _Excite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_expand(F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class _Separable(nn.Module):
    """The block without expansion; the squeeze is a quarter of the input."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = SameConv(channels, channels, kernel, stride, channels), _norm(channels)
        self.se = _Excite(channels, channels // 4)
        self.conv_pw, self.bn2 = SameConv(channels, out_channels, 1), _norm(out_channels)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_pw(self.se(F.silu(self.bn1(self.conv_dw(x))))))
        return x + y if self.residual else y


class _Inverted(nn.Module):
    """The block with expansion; the squeeze is a quarter of the input before it."""

    def __init__(self, channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv_pw, self.bn1 = SameConv(channels, wide, 1), _norm(wide)
        self.conv_dw, self.bn2 = SameConv(wide, wide, kernel, stride, wide), _norm(wide)
        self.se = _Excite(wide, channels // 4)
        self.conv_pwl, self.bn3 = SameConv(wide, out_channels, 1), _norm(out_channels)
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn2(self.conv_dw(F.silu(self.bn1(self.conv_pw(x))))))
        y = self.bn3(self.conv_pwl(self.se(y)))
        return x + y if self.residual else y


def _block(channels: int, out_channels: int, expansion: int, kernel: int, stride: int) -> nn.Module:
    if expansion == 1:
        return _Separable(channels, out_channels, kernel, stride)
    return _Inverted(channels, out_channels, expansion, kernel, stride)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _rounded(channels: int, scale: float) -> int:
    """Scaled to the nearest multiple of 8, but by no more than a tenth down."""
    wanted = channels * scale
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
