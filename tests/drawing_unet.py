"""A network of DiffusionRig's kind for tests: it draws the whole crop."""

from __future__ import annotations

import torch
from torch import nn

from emorig_diffusers.models.unet import RigUNet


def drawing_unet(cond_dim: int) -> RigUNet:
    """Small, random, at 64 pixels; all its inputs matter, as layers that start at zero are random too."""
    torch.manual_seed(0)
    unet = RigUNet(
        sample_size=64, block_out_channels=(8, 16), layers_per_block=1, attention_levels=(), mid_attention=False,
        norm_num_groups=4, cond_dim=cond_dim,
    )  # fmt: skip
    nn.init.normal_(unet.conv_out.weight, std=0.1)
    for name, parameter in unet.named_parameters():
        if "cond_emb_proj" in name:
            nn.init.normal_(parameter, std=0.3)
    return unet.requires_grad_(False).eval()
