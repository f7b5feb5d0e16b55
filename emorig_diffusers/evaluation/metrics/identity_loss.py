"""Face recognition networks in plain torch, through which gradients flow: identity as a loss.

The judges of `identity` are for figures: they align a face by its landmarks, and run in OpenCV. Here the whole picture
is averaged to the network's side instead, which keeps the loss the same function of every pixel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emorig_diffusers.convert.files import ConvertError, load_exactly, read_checkpoint

from ...files.assets import AssetError, fetch
from .onnx import read_initializers

SIDE = 112  # pixels that the networks see
SQUEEZE = 16  # channels of IR-SE50's blocks for one of their squeezed vector


class IdentityLoss(nn.Module):
    """1 - cosine of the embeddings of two pictures, [0, 2]; a gradient flows through the first.

    Args:
        weights: "sface", which is fetched; or the file of IR-SE50 (`model_ir_se50.pth` of InsightFace_Pytorch).

    Raises:
        AssetError: The weights are not to be had, or the file is another network's.
    """

    def __init__(self, weights: str | Path = "sface") -> None:
        super().__init__()
        self.network = sface() if weights == "sface" else ir_se50(Path(weights))
        self.requires_grad_(False).eval()

    def forward(self, picture: Tensor, known: Tensor) -> Tensor:
        """Loss [B] of pictures [B, 3, H, W] in [-1, 1] against `known` ones."""
        with torch.no_grad():
            goal = self.embed(known)
        return 1 - (self.embed(picture) * goal).sum(1)

    def embed(self, picture: Tensor) -> Tensor:
        """Unit vectors [B, D] of pictures [B, 3, H, W] in [-1, 1], of which the whole is looked at."""
        return F.normalize(self.network(F.adaptive_avg_pool2d(picture.clamp(-1, 1), SIDE)))


# SFace

_SFACE_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_SFACE_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
_SFACE_SIZE = 128


class SFace(nn.Module):
    """SFace (Zhong et al. 2021, arXiv:2205.12010): [B, 3, 112, 112] in [-1, 1] -> [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1 = _sface_layer(3, 32)
        inputs = 32
        for number, (width, stride) in enumerate(zip(_SFACE_WIDTHS, _SFACE_STRIDES), 2):
            self.add_module(f"conv_{number}_dw", _sface_layer(inputs, inputs, 3, stride, inputs))
            self.add_module(f"conv_{number}", _sface_layer(inputs, width, 1))
            inputs = width
        self.bn1 = nn.BatchNorm2d(inputs, eps=2e-5)
        self.pre_fc1 = nn.Linear(inputs * 7 * 7, _SFACE_SIZE)
        self.fc1 = nn.BatchNorm1d(_SFACE_SIZE, eps=2e-5)

    def forward(self, picture: Tensor) -> Tensor:
        """Embeddings, not normalised."""
        x = self.conv_1((picture + 1) * 127.5 / 128 - 127.5 / 128)
        for number in range(2, len(_SFACE_WIDTHS) + 2):
            x = self.get_submodule(f"conv_{number}")(self.get_submodule(f"conv_{number}_dw")(x))
        return self.fc1(self.pre_fc1(self.bn1(x).flatten(1)))


def _sface_layer(inputs: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width, eps=1e-3), nn.PReLU(width))


def sface() -> SFace:
    """SFace with the weights of `IdentityJudge`, in float32.

    Raises:
        AssetError: They are not to be had.
    """
    file = fetch("sface")
    try:
        tensors = read_initializers(file)
        network = SFace()
        load_exactly(network, {name: _sface_tensor(tensors, name) for name in network.state_dict()}, file)
    except (KeyError, ValueError) as error:
        raise AssetError(f"{file} is not SFace as OpenCV's zoo has it ({error}): fetch it again.") from error
    return network


_SFACE_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def _sface_tensor(tensors: dict[str, np.ndarray], name: str) -> Tensor:
    """A tensor of `SFace` out of the file's."""
    layer, *place, kind = name.split(".")
    if kind == "num_batches_tracked":
        return torch.tensor(0)
    if layer == "pre_fc1" or place == ["0"]:
        return _dequantized(tensors, f"{layer}_{kind}" if layer == "pre_fc1" else f"{layer}_conv2d_{kind}")
    if place == ["2"]:
        return torch.from_numpy(tensors[f"{layer}_relu_gamma"].reshape(-1).copy())
    norm = f"{layer}_batchnorm" if place else layer
    return torch.from_numpy(tensors[f"{norm}_{_SFACE_NORM[kind]}"].copy())


def _dequantized(tensors: dict[str, np.ndarray], name: str) -> Tensor:
    """(q - zero point) · scale, both the same for a block of the last axis (DequantizeLinear)."""
    numbers, scale, zero, shape = (
        torch.from_numpy(tensors[f"{name}_{part}"].copy()) for part in ("quantized", "scales", "zero_point", "shape")
    )
    block = numbers.shape[-1] // scale.shape[-1]
    spread = lambda one: one.repeat_interleave(block, -1).float()
    return ((numbers.float() - spread(zero)) * spread(scale)).reshape(shape.tolist())


# IR-SE50

_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))  # width, blocks; the first block of each halves the side
_IR_SE50_SIZE = 512


class IRSE50(nn.Module):
    """ResNet-50 of ArcFace with squeeze and excitation, under InsightFace_Pytorch's names: [B, 3, 112, 112] in [-1, 1]
    -> [B, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks, inputs = [], 64
        for width, count in _STAGES:
            blocks += [_Block(inputs, width, 2), *(_Block(width, width, 1) for _ in range(count - 1))]
            inputs = width
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.Dropout(), nn.Flatten(), nn.Linear(inputs * 7 * 7, _IR_SE50_SIZE),
            nn.BatchNorm1d(_IR_SE50_SIZE),
        )  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        """Embeddings, not normalised."""
        return self.output_layer(self.body(self.input_layer(picture)))


class _Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = nn.MaxPool2d(1, stride) if inputs == width else nn.Sequential(
            nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )  # fmt: skip
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), _Excitation(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class _Excitation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(width // SQUEEZE, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


def ir_se50(file: Path) -> IRSE50:
    """IR-SE50 with a file's weights, of exactly its 397 tensors.

    Args:
        file: `model_ir_se50.pth`.

    Raises:
        AssetError: The file is not there, damaged, or another network's.
    """
    network = IRSE50()
    try:
        load_exactly(network, read_checkpoint(file), file)
    except ConvertError as error:
        raise AssetError(str(error)) from error
    return network
