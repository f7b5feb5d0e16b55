"""A network that tells drawn pictures from photos, patch by patch (Isola et al. 2017), as VQGAN trains against one."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of the leaky ReLUs (Radford et al. 2016)
SPREAD = 0.02  # standard deviation of new kernels, and of BatchNorm's factors about 1 (the same)
MOST = 8  # times the first width: no layer is wider


class PatchDiscriminator(nn.Module):
    """Convolutions with BatchNorm, of stride 2 but for the last two.

    Args:
        width: Channels of the first layer; they double layer by layer.
        layers: How many halve the picture.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, MOST) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for number, (wide, wider) in enumerate(pairwise(widths), 1):
            kernel = nn.Conv2d(wide, wider, 4, 2 if number < layers else 1, 1, bias=False)
            parts += [kernel, nn.BatchNorm2d(wider), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.apply(_begin)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] -> how real each patch looks [B, 1, h, w], above 0 for photos."""
        return self.layers(pictures)

    def frozen(self, pictures: Tensor) -> Tensor:
        """The same, with gradients to the pictures alone."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return torch.func.functional_call(self, weights, (pictures,))


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, SPREAD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, SPREAD)


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """What telling photos from drawn pictures costs: real patches should be above 1, drawn ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + drawn).mean())
