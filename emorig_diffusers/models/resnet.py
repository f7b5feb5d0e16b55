"""ResNet-18 and ResNet-50 trunks (He et al. 2016) under torchvision's tensor names, without torchvision."""

from __future__ import annotations

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, inputs, H, W] -> [B, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual sum, rectified."""
        hidden = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [B, inputs, H, W] -> [B, 4 width, H/stride, W/stride].

    The stride sits on the 3x3 convolution (torchvision's "v1.5"), which checkpoints made there expect.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _projection(inputs, width * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual sum, rectified."""
        hidden = torch.relu(self.bn1(self.conv1(x)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        return torch.relu(self.bn3(self.conv3(hidden)) + self.downsample(x))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut: nothing where shapes agree, else a strided 1x1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


ARCHITECTURES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""Name -> (block, blocks in each of the four stages)."""


class ResNetTrunk(nn.Module):
    """A ResNet without its classifier: picture [B, 3, H, W] -> pooled features [B, num_features].

    Attributes:
        num_features: 512 (resnet18) or 2048 (resnet50).

    Raises:
        ValueError: an unknown architecture.
    """

    def __init__(self, architecture: str = "resnet50") -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is {architecture!r}; choose one of {', '.join(ARCHITECTURES)}.")
        block, depths = ARCHITECTURES[architecture]
        self.num_features = 512 * block.expansion
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = 64
        for stage, depth in enumerate(depths):
            width, stride = 64 * 2**stage, 1 if stage == 0 else 2
            self.add_module(f"layer{stage + 1}", _stage(block, inputs, width, depth, stride))
            inputs = width * block.expansion
        self.apply(_initialise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W], in the range the weights were trained on -> [B, num_features]."""
        hidden = self.maxpool(torch.relu(self.bn1(self.conv1(image))))
        for stage in range(1, 5):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        return hidden.mean(dim=(2, 3))


def _stage(
    block: type[BasicBlock | Bottleneck], inputs: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(depth - 1)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
