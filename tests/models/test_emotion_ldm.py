"""Attention to one token without queries and keys: the same numbers, files and gradients as diffusers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from small_ldm import TOKEN, small_ldm
from torch.utils.flop_counter import FlopCounterMode

from emorig_diffusers.models.emotion_ldm import OneTokenAttnProcessor, fold_one_token_attention


@pytest.fixture
def plain() -> UNet2DConditionModel:
    """A UNet as diffusers makes it, of which every attention counts."""
    unet = small_ldm().unet
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


def predict(unet: UNet2DConditionModel, tokens: torch.Tensor) -> torch.Tensor:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return unet(x, 10, encoder_hidden_states=tokens, return_dict=False)[0]


def tokens(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, count, TOKEN, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_same_numbers_for_less(plain: UNet2DConditionModel) -> None:
    counters = [FlopCounterMode(display=False) for _ in range(2)]
    with counters[0]:
        before = predict(plain, tokens(1)), predict(plain, tokens(3))
    fold_one_token_attention(plain)
    kinds = {name.split(".")[-2]: type(one) for name, one in plain.attn_processors.items()}
    assert kinds == {"attn1": AttnProcessor2_0, "attn2": OneTokenAttnProcessor}
    with counters[1]:
        after = predict(plain, tokens(1)), predict(plain, tokens(3))
    assert (after[0] - before[0]).abs().max() < 1e-6 * before[0].abs().max()
    assert torch.equal(after[1], before[1])  # several tokens need queries
    assert (predict(plain, tokens(1, seed=2)) - after[0]).abs().max() > 1e-3  # and the token counts
    spent = [counter.get_total_flops() for counter in counters]
    assert spent[1] < spent[0]


def test_all_parameters_take_part_in_training(plain: UNet2DConditionModel) -> None:
    plain.requires_grad_(True)
    fold_one_token_attention(plain)
    predict(plain, tokens(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in plain.parameters())


def test_who_has_chosen_another_attention_keeps_it(plain: UNet2DConditionModel) -> None:
    chosen = AttnProcessor()
    plain.set_attn_processor(chosen)
    fold_one_token_attention(plain)
    assert set(plain.attn_processors.values()) == {chosen}


@torch.no_grad()
def test_saved_and_opened_by_diffusers(plain: UNet2DConditionModel, tmp_path: Path) -> None:
    names = set(plain.state_dict())
    fold_one_token_attention(plain)
    assert set(plain.state_dict()) == names
    plain.save_pretrained(tmp_path)
    again, told = UNet2DConditionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert (predict(again, tokens(1)) - predict(plain, tokens(1))).abs().max() < 1e-6


@torch.no_grad()
def test_adapters_on_values_count(plain: UNet2DConditionModel, tmp_path: Path) -> None:
    """LoRA (Hu et al. 2021) as diffusers adds, saves and loads it: the same numbers with and without the shortcut."""
    peft = pytest.importorskip("peft")
    bare = predict(plain, tokens(1))
    plain.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False))
    wanted = predict(plain, tokens(1))
    plain.save_lora_adapter(tmp_path)
    plain.unload_lora()
    pipe = small_ldm()
    pipe.unet.load_state_dict(plain.state_dict())
    pipe.unet.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    assert OneTokenAttnProcessor in map(type, pipe.unet.attn_processors.values())
    found = predict(pipe.unet, tokens(1))
    assert (wanted - bare).abs().max() > 1e-3 and (found - wanted).abs().max() < 1e-5
