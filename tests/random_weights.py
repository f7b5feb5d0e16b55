"""Random weights for networks whose own are not at hand."""

from __future__ import annotations

import torch
from torch import nn


def lively(network: nn.Module) -> nn.Module:
    """Random weights under which every layer matters; for inference."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.2)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)
