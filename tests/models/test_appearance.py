from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.resnet import ResNetTrunk


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Weights, BatchNorm statistics included, that no wrong order of layers leaves unnoticed."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
            torch.nn.init.uniform_(norm.weight, 0.5, 1)
    return module.eval()


def resnet_by_names(
    w: dict[str, torch.Tensor], x: torch.Tensor, depths: tuple[int, ...], convs: int
) -> torch.Tensor:
    """The published network from torchvision's tensor names; the stride is on the first 3x3 of a block."""

    def bn(name: str, h: torch.Tensor) -> torch.Tensor:
        part = (w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(h, *part, eps=1e-5)

    h = F.relu(bn("bn1", F.conv2d(x, w["conv1.weight"], stride=2, padding=3)))
    h = F.max_pool2d(h, 3, 2, 1)
    strided = 1 if convs == 2 else 2
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            prefix, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            shortcut, y = h, h
            if f"{prefix}.downsample.0.weight" in w:
                shortcut = F.conv2d(h, w[f"{prefix}.downsample.0.weight"], stride=stride)
                shortcut = bn(f"{prefix}.downsample.1", shortcut)
            for c in range(1, convs + 1):
                kernel = w[f"{prefix}.conv{c}.weight"]
                y = F.conv2d(y, kernel, stride=stride if c == strided else 1, padding=kernel.shape[-1] // 2)
                y = bn(f"{prefix}.bn{c}", y)
                y = F.relu(y + shortcut if c == convs else y)
            h = y
    return h.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "depths", "convs", "width"),
    [("resnet18", (2, 2, 2, 2), 2, 512), ("resnet50", (3, 4, 6, 3), 3, 2048)],
)
def test_trunk_is_the_published_network(name: str, depths: tuple[int, ...], convs: int, width: int) -> None:
    trunk = randomise(ResNetTrunk(name))
    image = torch.rand(1, 3, 70, 64) * 2 - 1
    with torch.no_grad():
        got, expected = trunk(image), resnet_by_names(trunk.state_dict(), image, depths, convs)
    assert got.shape == (1, width) and trunk.num_features == width
    assert (expected > 0).float().mean() > 0.2
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_counts_of_the_originals() -> None:
    with torch.device("meta"):
        encoder, wide = AppearanceEncoder(), AppearanceEncoder("resnet50", 314)
        trunk = ResNetTrunk("resnet50")
    assert sum(p.numel() for p in encoder.parameters()) == 11_209_344
    assert len(trunk.state_dict()) == 318
    assert sum(p.numel() for p in trunk.parameters()) == 25_557_032 - 2048 * 1000 - 1000
    assert wide.fc.weight.shape == (314, 2048) and len(wide.state_dict()) == 320


def test_tensor_names_are_torchvisions() -> None:
    with torch.device("meta"):
        names = AppearanceEncoder().state_dict()
    heads = {name.split(".")[0] for name in names}
    assert heads == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    assert {"layer2.0.downsample.1.num_batches_tracked", "layer4.1.bn2.running_var", "fc.bias"} <= set(names)
    assert "layer1.0.downsample.0.weight" not in names


def test_code_of_a_photo_survives_saving(tmp_path: Path) -> None:
    encoder = randomise(AppearanceEncoder(cond_dim=12))
    encoder.save_pretrained(tmp_path)
    loaded = AppearanceEncoder.from_pretrained(tmp_path)
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        code = encoder(image)
        assert code.shape == (2, 12) and (code[0] - code[1]).abs().max() > 1e-3
        torch.testing.assert_close(code, loaded(image))
    assert dict(loaded.config)["cond_dim"] == 12 and not loaded.training


def test_gradients_reach_every_parameter() -> None:
    encoder = AppearanceEncoder(cond_dim=4)
    encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_wrong_calls_are_explained() -> None:
    with pytest.raises(ValueError, match="choose one of resnet18, resnet50"):
        AppearanceEncoder("resnet34")
    with pytest.raises(ValueError, match="give RGB"):
        AppearanceEncoder()(torch.zeros(3, 64, 64))
