"""The networks of a Diffusion Autoencoder besides its UNet: sizes, shapes, gradients, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emorig_diffusers.models.diffae import LatentNet, SemanticEncoder
from emorig_diffusers.models.unet import RigUNet

TINY = {"sample_size": 16, "block_out_channels": (8, 16, 16), "norm_num_groups": 4, "attention_levels": (1,),
        "layers_per_block": 1, "cond_dim": 6}  # fmt: skip


def trainable(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def tiny(**settings: object) -> SemanticEncoder:
    torch.manual_seed(0)
    return SemanticEncoder(**TINY | settings).eval()


def small_net() -> LatentNet:
    torch.manual_seed(0)
    return LatentNet(6, 12, 3, 8).eval()


def test_sizes_are_the_papers() -> None:
    with torch.device("meta"):
        unet = RigUNet(128, 3, 3, (128, 128, 256, 384, 512), attention_levels=(3,), cond_dim=512, cond_mode="scale",
                       condition_channels=())  # fmt: skip
        encoder, net = SemanticEncoder(), LatentNet()
        large = SemanticEncoder(256, 3, (128, 128, 256, 256, 512, 512, 512), 2, (4,))
    assert trainable(unet) + trainable(encoder) == 128_545_155
    assert [trainable(module) for module in (encoder, large, net)] == [24_673_536, 30_150_400, 54_109_696]
    assert len(unet.state_dict()) - len(encoder.state_dict()) > 0
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {"mean", "std"}


# the encoder


@torch.no_grad()
def test_codes_see_every_picture_alone() -> None:
    encoder, pictures = tiny(), torch.rand(3, 3, 16, 24) * 2 - 1
    codes = encoder(pictures)
    assert codes.shape == (3, 6) and codes.std(0).min() > 1e-4
    torch.testing.assert_close(codes[1:2], encoder(pictures[1:2]), atol=1e-5, rtol=0)
    assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, 6)


@torch.no_grad()
def test_unshuffle_is_a_stem() -> None:
    encoder = tiny(unshuffle=2)
    assert encoder.conv_in.in_channels == 12 and encoder(torch.rand(2, 3, 16, 16)).shape == (2, 6)
    with pytest.raises(ValueError, match="make both sides multiples of 8"):
        encoder(torch.rand(1, 3, 16, 20))


def test_attention_is_where_it_was_asked_for() -> None:
    encoder = tiny(attention_levels=(0, 2), layers_per_block=2)
    assert [len(level.attentions) for level in encoder.down_blocks] == [2, 0, 2]
    assert len(encoder.mid_block.attentions) == 1 and not encoder.down_blocks[-1].downsamplers


def test_all_of_the_encoder_learns() -> None:
    encoder = tiny().train()
    encoder(torch.rand(2, 3, 16, 16)).square().sum().backward()
    dead = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # a constant added to all keys changes no softmax
    assert dead in ([], [name for name in dead if name.endswith("to_k.bias")])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 16, 16), "give RGB as"), ((1, 4, 16, 16), "give RGB as"), ((1, 3, 16, 18), "multiples of 4")],
)
def test_pictures_that_do_not_fit(shape: tuple[int, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        tiny()(torch.zeros(shape))


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"norm_num_groups 5 does not divide widths \[8, 16, 16\]"):
        tiny(norm_num_groups=5)


@torch.no_grad()
def test_the_encoder_comes_back(tmp_path: Path) -> None:
    encoder, pictures = tiny(), torch.rand(1, 3, 16, 16)
    encoder.save_pretrained(tmp_path)
    torch.testing.assert_close(SemanticEncoder.from_pretrained(tmp_path)(pictures), encoder(pictures))


# the network that draws codes


@torch.no_grad()
def test_noise_depends_on_code_and_time() -> None:
    net, codes = small_net(), torch.randn(2, 6)
    early, late = net(codes, 10), net(codes, torch.tensor([10, 900]))
    assert early.shape == (2, 6)
    torch.testing.assert_close(early[0], late[0])
    assert (early[1] - late[1]).abs().max() > 1e-4 and (early[0] - early[1]).abs().max() > 1e-3
    torch.testing.assert_close(net(codes[1:], 900), late[1:])


def test_the_layers_see_the_input_again() -> None:
    net = small_net()
    assert [layer.linear.in_features for layer in net.layers] == [6, 18] and net.proj_out.in_features == 18


@torch.no_grad()
def test_normalisation_is_kept_and_undone(tmp_path: Path) -> None:
    net, codes = small_net(), torch.randn(4, 6) * 3 + 2
    assert torch.equal(net.normalise(codes), codes)  # until it is known
    net.mean.copy_(codes.mean(0)), net.std.copy_(codes.std(0))
    normal = net.normalise(codes)
    torch.testing.assert_close(normal.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(6))
    torch.testing.assert_close(net.denormalise(normal), codes)
    net.save_pretrained(tmp_path)
    again = LatentNet.from_pretrained(tmp_path)
    assert torch.equal(again.mean, net.mean) and torch.equal(again.std, net.std)
    torch.testing.assert_close(again(codes, 5), net(codes, 5))
    assert not again.mean.requires_grad


def test_training_leaves_the_normalisation_alone() -> None:
    net = small_net().train()
    net(torch.randn(3, 6), torch.tensor([1, 500, 999])).square().mean().backward()
    untouched = {name for name, p in net.named_parameters() if p.grad is None}
    assert untouched == {"mean", "std"} and all(p.grad.any() for p in net.parameters() if p.requires_grad)
