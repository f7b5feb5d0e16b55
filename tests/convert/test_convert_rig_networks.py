"""DiffusionRig's networks, converted: they compute what the original's equations give, whatever the layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from original_rig import SMALL, TINY, Functional, Original, State, encode, pooled_state, random_state
from rig_checkpoints import inputs, relative, save, seed

from emorig_diffusers.convert.adm import Heads, filled, read_layout, rename, settings_of
from emorig_diffusers.convert.rig import read_networks
from emorig_diffusers.models.unet import RigUNet

U = "denoisingUNet."


def unet_of(state: State, heads: Heads = Heads()) -> RigUNet:  # noqa: B008
    """What `read_networks` makes of a UNet, without a file."""
    file, tensors = Path("model.pt"), {k.removeprefix(U): v for k, v in state.items() if k.startswith(U)}
    layout = read_layout(tensors, file)
    settings = settings_of(tensors, layout, heads, file)
    return filled(RigUNet, settings, rename(tensors, layout, heads), file, "DiffusionRig")


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (replace(TINY, embedding=72), 16),
        (Original(base=32), 32),  # the six levels for 256 pixels
        (Original(base=32, multipliers=(1, 1, 2, 3, 4), attention=(3,)), 32),  # for 128
        (Original(base=64, multipliers=(0.5, 1, 1, 1.5), attention=(2,)), 16),  # 512's are (0.5, 1, 1, 2, 2, 4, 4)
        (Original(base=32, multipliers=(1, 3), blocks=1, attention=(0, 1), code=5, latent=5), 16),
        (Original(base=64, multipliers=(1, 1, 2), blocks=3, attention=()), 16),
    ],
)
def test_unet_is_the_originals(model: Original, side: int) -> None:
    state = random_state(model, flat=True)
    check_unet(unet_of(state), state, model, side)


@pytest.mark.parametrize("model", [SMALL, replace(TINY, code=314)])
def test_unet_from_a_file_is_the_originals(model: Original, tmp_path: Path) -> None:
    state = random_state(model, flat=True)
    unet, _ = read_networks(save(state, tmp_path / "model000001.pt"))
    assert not unet.training and unet.dtype == torch.float32
    check_unet(unet, state, model, 16)


def check_unet(unet: RigUNet, state: State, model: Original, side: int) -> None:
    stacked, steps, code = inputs(model, side)
    original = Functional(state, model)
    with torch.no_grad():
        both = [(unet(stacked, steps, z).sample, original(stacked, steps, z)) for z in (code, None)]
    assert max(relative(*pair) for pair in both) < 1e-5
    assert (both[0][1] - both[1][1]).abs().max() > 0.1  # the code has been heard


@pytest.mark.parametrize("resnet", [18, 50])
def test_encoder_is_the_originals(resnet: int, tmp_path: Path) -> None:
    model = replace(SMALL, resnet=resnet, latent=20, code=20)
    state = random_state(model)
    _, encoder = read_networks(save(state, tmp_path / "model.pt"))
    assert encoder.config.architecture == f"resnet{resnet}" and not encoder.training
    photos = torch.rand(2, 3, 64, 64, generator=seed(3)) * torch.tensor([2.0, 0.3])[:, None, None, None] - 1
    with torch.no_grad():
        assert relative(encoder(photos), encode(state, model, photos)) < 1e-5


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("settings", [{"heads": 1}, {"heads": 2}, {"heads": 4}, {"head_channels": 16}])
@torch.no_grad()
def test_attention_heads(settings: dict[str, int], new_order: bool, tmp_path: Path) -> None:
    model = replace(TINY, attention=(0, 1), new_order=new_order, **settings)
    state = random_state(model, flat=True)
    heads = Heads(model.heads, model.head_channels, new_order)
    stacked, steps, code = inputs(model, 16)
    wanted, unet = Functional(state, model)(stacked, steps, code), unet_of(state, heads)
    assert relative(unet(stacked, steps, code).sample, wanted) < 1e-5
    if settings != {"heads": 1}:
        others = (unet_of(state), unet_of(state, replace(heads, new_order=not new_order)))
        assert all(relative(other(stacked, steps, code).sample, wanted) > 0.01 for other in others)
    unet.save_pretrained(tmp_path / "unet")
    again = RigUNet.from_pretrained(tmp_path / "unet")
    assert relative(again(stacked, steps, code).sample, wanted) < 1e-5


def test_the_released_size(tmp_path: Path) -> None:
    model = Original()
    state = pooled_state(model)
    assert len(state) == 712
    unet, encoder = read_networks(save(state, tmp_path / "model.pt"))
    assert sum(p.numel() for p in unet.parameters()) == 133_400_835
    assert sum(p.numel() for p in encoder.parameters()) == 11_209_344
    assert unet.config.sample_size == 256
    stacked, steps, code = inputs(model, 32)
    with torch.no_grad():
        ours = unet(stacked[:1], steps[:1], code[:1]).sample
        assert relative(ours, Functional(state, model)(stacked[:1], steps[:1], code[:1])) < 1e-5
