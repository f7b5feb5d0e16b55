"""AppearanceEncoder: one code for all the photo holds that the buffers do not (hair, glasses, background)."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from .aligned import AlignedMixin
from .resnet import ResNetTrunk


class AppearanceEncoder(AlignedMixin, ResNetTrunk, ModelMixin, ConfigMixin):
    """DiffusionRig's global encoder (Ding et al. 2023): a torchvision-named ResNet; `fc` gives the code z.

    The resnet18 with a code of 64 has 11,209,344 parameters. The photo is not normalised with ImageNet's mean
    and deviation. Call `eval()` for inference (`from_pretrained` does), so that BatchNorm uses its stored
    statistics.

    Args:
        architecture: 'resnet18' or 'resnet50'.
        cond_dim: width of the code, equal to the `cond_dim` of the RigUNet it steers.

    Raises:
        ValueError: an unknown architecture.
    """

    _no_split_modules = ["BasicBlock", "Bottleneck"]

    @register_to_config
    def __init__(self, architecture: str = "resnet18", cond_dim: int = 64) -> None:
        super().__init__(architecture)
        self.fc = nn.Linear(self.num_features, cond_dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Photo [B, 3, H, W] in [-1, 1], trained at 256 x 256 -> code [B, cond_dim].

        Raises:
            ValueError: the photo is not [B, 3, H, W].
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image has shape {list(image.shape)}; give RGB as [batch, 3, height, width].")
        return self.fc(super().forward(image))
