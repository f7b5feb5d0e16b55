from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

from emorig_diffusers.models.unet import ConditionedResnetBlock2D, RigUNet

TINY = {
    "sample_size": 16, "in_channels": 5, "block_out_channels": (8, 16, 16), "layers_per_block": 1,
    "attention_levels": (1,), "norm_num_groups": 4, "cond_dim": 6,
}  # fmt: skip
DIFFAE = {"in_channels": 3, "cond_dim": 512, "cond_mode": "scale", "condition_channels": ()}


def build(**changes: object) -> RigUNet:
    """A tiny network whose every tensor is random, also those that start at zero."""
    torch.manual_seed(0)
    unet = RigUNet(**{**TINY, **changes}).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return unet


def count(**config: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in RigUNet(**config).parameters())


def inputs(batch: int = 2, height: int = 16, width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 5, height, width, generator=generator)
    return sample, torch.randn(batch, 6, generator=generator)


def block_by_equations(
    block: ConditionedResnetBlock2D, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor | None
) -> torch.Tensor:
    w = block.state_dict()
    groups = block.norm1.num_groups

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2)

    def norm(name: str, h: torch.Tensor) -> torch.Tensor:
        grouped = h.reshape(h.shape[0], groups, -1)
        mean, var = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
        flat = ((grouped - mean) / torch.sqrt(var + 1e-5)).reshape(h.shape)
        return flat * w[f"{name}.weight"].view(1, -1, 1, 1) + w[f"{name}.bias"].view(1, -1, 1, 1)

    def linear(name: str, code: torch.Tensor) -> torch.Tensor:
        silu = code * torch.sigmoid(code)
        return (silu @ w[f"{name}.weight"].T + w[f"{name}.bias"])[:, :, None, None]

    def resample(h: torch.Tensor) -> torch.Tensor:
        if block.up:
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return h.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) if block.down else h

    h = norm("norm1", x)
    h = conv("conv1", resample(h * torch.sigmoid(h)))
    channels = h.shape[1]
    time = linear("time_emb_proj", t)
    h = norm("norm2", h) * (1 + time[:, :channels]) + time[:, channels:]
    if z is not None:
        code = linear("cond_emb_proj", z)
        h = h * (1 + code[:, :channels])
        if code.shape[1] == 2 * channels:
            h = h + code[:, channels:]
    h = conv("conv2", h * torch.sigmoid(h))
    x = resample(x)
    return h + (conv("conv_shortcut", x) if "conv_shortcut.weight" in w else x)


@pytest.mark.parametrize("mode", ["scale_shift", "scale"])
@pytest.mark.parametrize(
    "place",
    ["down_blocks.0.resnets.0", "down_blocks.0.downsamplers.0", "mid_block.resnets.1",
     "up_blocks.0.resnets.0", "up_blocks.0.upsamplers.0"],
)  # fmt: skip
@pytest.mark.parametrize("with_code", [True, False])
def test_block_follows_the_equations(mode: str, place: str, with_code: bool) -> None:
    block = build(cond_mode=mode).get_submodule(place)
    x, t, z = torch.randn(2, block.in_channels, 6, 4), torch.randn(2, 32), torch.randn(2, 6)
    packed = torch.cat([t, z], 1) if with_code else t
    with torch.no_grad():
        difference = block(x, packed) - block_by_equations(block, x, t, z if with_code else None)
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 133_400_835),
        (dict(sample_size=128, block_out_channels=(128, 128, 256, 384, 512), attention_levels=(3,), **DIFFAE),
         103_871_619),
        (dict(sample_size=256, **DIFFAE), 138_341_891),
    ],
)  # fmt: skip
def test_parameter_counts_of_the_originals(config: dict[str, object], expected: int) -> None:
    assert count(**config) == expected


def test_wider_code_only_widens_the_projections() -> None:
    with torch.device("meta"):
        unet = RigUNet(cond_dim=314)
    projections = [m.cond_emb_proj for m in unet.modules() if isinstance(m, ConditionedResnetBlock2D)]
    assert len(projections) == 42
    rows = sum(p.out_features for p in projections)
    assert sum(p.numel() for p in unet.parameters()) == 133_400_835 + rows * (314 - 64)


def test_tensor_names_and_shapes_are_diffusers() -> None:
    with torch.device("meta"):
        names = {name: tuple(t.shape) for name, t in RigUNet().state_dict().items()}
    assert names["down_blocks.3.resnets.0.cond_emb_proj.weight"] == (512, 64)
    assert names["up_blocks.4.upsamplers.0.cond_emb_proj.bias"] == (256,)
    assert names["up_blocks.1.attentions.2.to_q.weight"] == (512, 512)
    assert names["conv_in.weight"] == (128, 12, 3, 3)
    assert sum("cond_emb_proj" not in name for name in names) == 530


@pytest.mark.parametrize(
    ("kind", "down", "up"),
    [("resnet", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"), ("conv", "DownBlock2D", "UpBlock2D")],
)
def test_without_code_it_is_diffusers_own_unet(kind: str, down: str, up: str) -> None:
    unet = build(downsample_type=kind, upsample_type=kind)
    plain = UNet2DModel(
        in_channels=5, out_channels=3, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=(down, "AttnDownBlock2D", down), up_block_types=(up, "AttnUpBlock2D", up),
        attention_head_dim=None, attn_norm_num_groups=4, resnet_time_scale_shift="scale_shift",
        downsample_type=kind, upsample_type=kind,
    ).eval()  # fmt: skip
    plain.load_state_dict({k: v for k, v in unet.state_dict().items() if "cond_emb_proj" not in k})
    sample, _ = inputs()
    with torch.no_grad():
        assert torch.allclose(unet(sample, 37).sample, plain(sample, 37).sample, atol=1e-5)


def test_time_embedding_has_cosines_first() -> None:
    frequencies = torch.exp(-math.log(10000) * torch.arange(4) / 4)
    expected = torch.cat([torch.cos(37 * frequencies), torch.sin(37 * frequencies)])
    assert torch.allclose(build().time_proj(torch.tensor([37]))[0], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["scale_shift", "scale"])
def test_code_steers_each_sample_of_the_batch(mode: str) -> None:
    unet = build(cond_mode=mode)
    sample, cond = inputs()
    changed = cond.clone()
    changed[1] += 1
    with torch.no_grad():
        first, second = unet(sample, 5, cond).sample, unet(sample, 5, changed).sample
    torch.testing.assert_close(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-3


def test_timestep_forms_agree() -> None:
    unet = build()
    sample, cond = inputs()
    with torch.no_grad():
        reference = unet(sample, 11, cond, return_dict=False)[0]
        for timestep in (11.0, torch.tensor(11), torch.tensor([11]), torch.tensor([11, 11])):
            assert torch.allclose(unet(sample, timestep, cond).sample, reference, atol=1e-6)
        mixed = unet(sample, torch.tensor([11, 600]), cond).sample
    assert torch.allclose(mixed[0], reference[0], atol=1e-6) and not torch.allclose(mixed[1], reference[1])


def test_fresh_network_ignores_the_code_and_predicts_zero() -> None:
    sample, cond = inputs()
    unet = RigUNet(**TINY).eval()
    with torch.no_grad():
        assert unet(sample, 5, cond).sample.abs().max() == 0
        torch.nn.init.normal_(unet.conv_out.weight)
        output = unet(sample, 5, cond).sample
        assert output.std() > 0.1 and torch.allclose(output, unet(sample, 5).sample, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 96), (128, 128)])
def test_unshuffle_stem(height: int, width: int) -> None:
    unet = build(unshuffle=2)
    sample, cond = inputs(1, height, width)
    assert unet.conv_in.in_channels == 20 and unet.conv_out.out_channels == 12
    with torch.no_grad():
        assert unet(sample, 5, cond).sample.shape == (1, 3, height, width)


@pytest.mark.parametrize(
    "config",
    [{}, {"cond_mode": "scale", "unshuffle": 2, "downsample_type": "conv", "upsample_type": "conv",
              "mid_attention": False, "attention_levels": (False, True, True), "attention_head_dim": 8}],
)  # fmt: skip
def test_save_and_load_give_the_same_outputs(tmp_path: Path, config: dict[str, object]) -> None:
    unet = build(**config)
    unet.save_pretrained(tmp_path)
    loaded, info = RigUNet.from_pretrained(tmp_path, output_loading_info=True)
    sample, cond = inputs()
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    assert not any(info.values())
    assert list(loaded.config.condition_channels) == ["rendered", "normal", "albedo"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(sample, 5, cond).sample, unet(sample, 5, cond).sample)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(checkpointing: bool) -> None:
    unet = build().train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    sample, cond = inputs()
    cond.requires_grad_()
    unet(sample, 5, cond).sample.square().mean().backward()
    silent = [name for name, p in unet.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert silent == [] and cond.grad.abs().max() > 0


def test_checkpointing_does_not_change_gradients() -> None:
    gradients = []
    sample, cond = inputs()
    for checkpointing in (False, True):
        unet = build().train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(sample, 5, cond).sample.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in unet.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_network_without_code_has_no_projections() -> None:
    unet = build(cond_dim=None)
    assert not any("cond_emb_proj" in name for name in unet.state_dict())
    sample, cond = inputs()
    assert unet(sample, 5).sample.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="takes no code"):
        unet(sample, 5, cond)


@pytest.mark.parametrize(
    ("sample", "timestep", "cond", "words"),
    [
        ((2, 4, 16, 16), 1, (2, 6), "takes \\[batch, 5"),
        ((5, 16, 16), 1, (2, 6), "takes \\[batch, 5"),
        ((2, 5, 16, 18), 1, (2, 6), "multiples of 4"),
        ((2, 5, 16, 16), 1, (2, 7), "takes \\[2, 6\\]"),
        ((2, 5, 16, 16), 1, (1, 6), "takes \\[2, 6\\]"),
        ((2, 5, 16, 16), torch.zeros(3), (2, 6), "timestep has shape"),
    ],
)
def test_wrong_inputs_are_explained(sample: tuple, timestep: object, cond: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()(torch.zeros(sample), timestep, torch.zeros(cond))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cond_mode": "shift"}, "cond_mode"),
        ({"downsample_type": "pool"}, "downsample_type"),
        ({"norm_num_groups": 3}, "norm_num_groups"),
        ({"attention_head_dim": 5}, "attention_head_dim"),
        ({"attention_levels": (3,)}, "attention_levels"),
        ({"attention_levels": (True, False)}, "attention_levels"),
        ({"attention_levels": (True, 2)}, "attention_levels"),
        ({"unshuffle": 0}, "unshuffle"),
    ],
)
def test_wrong_settings_are_explained(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RigUNet(**{**TINY, **change})
