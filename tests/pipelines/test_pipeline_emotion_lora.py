"""LoRAs of emotions: chosen by the edit, loaded and saved by diffusers' calls, none on the way up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import assert_close
from small_ldm import small_ldm
from torch import nn

from emorig_diffusers import EmotionLDMPipeline
from emorig_diffusers.hub.repository import export_hub
from emorig_diffusers.models.emotion_ldm import EmotionEmbedding

LAYERS = ("attn1.to_q", "ff.net.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRAs for happiness and anger that matter."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, emotion in enumerate(("happy", "anger")):
        pipe = small_ldm()
        pipe.add_lora(emotion, 2, LAYERS)
        torch.manual_seed(seed)
        for name, parameter in pipe.unet.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.5)
        pipe.save_lora_weights(folder)
    return folder


@pytest.fixture
def pipe(folder: Path) -> EmotionLDMPipeline:
    pipe = small_ldm()
    pipe.load_lora_weights(folder)
    return pipe


def edit(pipe: EmotionLDMPipeline, photo: np.ndarray, emotion: Any = "happy", **options: Any) -> np.ndarray:
    images = pipe(photo, emotion, output_type="np", **options).images
    return np.stack(images)


@pytest.fixture(scope="module")
def plain(astronaut: np.ndarray) -> dict[str, np.ndarray]:
    """Edits without LoRAs."""
    return {emotion: edit(small_ldm(), astronaut, emotion)[0] for emotion in ("happy", "anger", "fear")}


def test_an_edit_uses_the_lora_of_its_emotion(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, plain: dict[str, np.ndarray], folder: Path
) -> None:
    assert set(pipe.lora_names) == {"happy", "anger"}
    happy, anger, fear = edit(pipe, astronaut, ["happy", "anger", "fear"])
    assert (happy != plain["happy"]).any() and (anger != plain["anger"]).any() and (happy != anger).any()
    assert_close(fear, plain["fear"])
    one = small_ldm()
    one.load_lora_weights(folder / "happy.safetensors")
    assert_close(edit(one, astronaut)[0], happy)
    assert_close(edit(one, astronaut, "anger")[0], plain["anger"])
    assert np.array_equal(edit(pipe, astronaut, intensity=0)[0], astronaut)


def test_the_way_up_and_the_faces_own_emotion_use_none(pipe: EmotionLDMPipeline, astronaut: np.ndarray) -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []
    layer = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].ff.net[2]
    layer.register_forward_pre_hook(
        lambda one, _: seen.append((len(seen), () if one.disable_adapters else tuple(sorted(one.active_adapters))))
    )
    edit(pipe, astronaut, {"happy": 0.5, "anger": 0.5}, guidance_scale=1, num_inference_steps=2)
    assert [active for _, active in seen] == [()] * 2 + [("anger", "happy")] * 2 + [()] * 2
    assert layer.disable_adapters  # whoever calls the UNet afterwards has it without


def test_shares_of_a_blend_and_of_intensity_are_weights(pipe: EmotionLDMPipeline) -> None:
    table = pipe.emotion_embedding
    sad = table.weight[table.names.index("sad")][None].detach()
    weights = lambda shares, strength: dict(pipe.lora_weights(sad, table.moved(sad, shares, strength)))
    assert weights({"happy": 1.0}, 1.0) == {"happy": 1.0}
    assert weights({"happy": 0.25, "fear": 0.75}, 0.8) == {"happy": 0.2}
    assert weights({"happy": 0.6, "anger": 0.4}, 1.0) == {"happy": 0.6, "anger": 0.4}
    assert weights({"sad": 1.0}, 1.0) == weights({"happy": 1.0}, 0.0) == {}


def test_shares_undo_moved() -> None:
    torch.manual_seed(0)
    table = EmotionEmbedding(tuple("abcdefgh"), 32).requires_grad_(False)
    for source in (table.null, table.weight[2:3]):
        wanted = {"a": 0.3, "g": -0.2, "h": 1.1}
        found = table.shares(source, table.moved(source, wanted, 0.5))
        assert found == pytest.approx({name: 0.5 * wanted.get(name, 0.0) for name in table.names}, abs=1e-5)


def test_diffusers_calls_change_how_loras_are_used(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, plain: dict[str, np.ndarray], folder: Path
) -> None:
    happy, angry = edit(pipe, astronaut, ["happy", "anger"])
    pipe.disable_lora()
    assert_close(edit(pipe, astronaut)[0], plain["happy"])
    pipe.enable_lora()
    pipe.set_adapters("happy", 0.5)
    half, without = edit(pipe, astronaut, ["happy", "anger"])
    assert (half != happy).any() and (half != plain["happy"]).any()
    assert_close(without, plain["anger"])
    pipe.set_adapters(["happy", "anger"])
    for found, known in zip(edit(pipe, astronaut, ["happy", "anger"]), (happy, angry)):
        assert_close(found, known)
    assert pipe.get_list_adapters() == {"unet": ["anger", "happy"]}
    pipe.delete_adapters("anger")
    assert pipe.lora_names == ("happy",)
    assert_close(edit(pipe, astronaut, "anger")[0], plain["anger"])
    pipe.load_lora_weights(folder, weight_name="anger.safetensors")
    assert_close(edit(pipe, astronaut, "anger")[0], angry)
    pipe.unload_lora_weights()
    assert not pipe.lora_names
    assert_close(edit(pipe, astronaut)[0], plain["happy"])


def test_a_folder_keeps_loras_beside_the_plain_unet(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, tmp_path: Path
) -> None:
    expected = edit(pipe, astronaut)
    export_hub(pipe, tmp_path / "hub")
    assert np.array_equal(edit(pipe, astronaut), expected)  # saving changes nothing
    assert {file.stem for file in (tmp_path / "hub" / "lora").iterdir()} == {"anger", "happy"}
    opened = EmotionLDMPipeline.from_pretrained(tmp_path / "hub")
    opened.judge = pipe.judge
    opened.set_progress_bar_config(disable=True)
    assert np.array_equal(edit(opened, astronaut), expected)
    names = set(small_ldm().unet.state_dict())
    assert set(type(pipe.unet).from_pretrained(tmp_path / "hub" / "unet").state_dict()) == names


def test_files_that_are_no_loras_of_this_model(pipe: EmotionLDMPipeline, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is a LoRA for anger already"):
        pipe.load_lora_weights(folder)
    pipe.unload_lora_weights()
    with pytest.raises(ValueError, match="holds no LoRA: give <emotion>.safetensors"):
        pipe.load_lora_weights(tmp_path)
    with pytest.raises(ValueError, match="joy.safetensors holds no LoRA"):
        pipe.load_lora_weights(folder, weight_name="joy.safetensors")
    other = tmp_path / "joy.safetensors"
    other.write_bytes((folder / "happy.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no LoRA of an emotion that this model knows: call it after one of neutral"):
        pipe.load_lora_weights(other)
    pipe.load_lora_weights(other, adapter_name="happy")
    assert pipe.lora_names == ("happy",)
    with pytest.raises(ValueError, match="There is no LoRA for fear: load it first"):
        pipe.set_adapters("fear")
    with pytest.raises(ValueError, match="say which is fear's by weight_name"):
        pipe.load_lora_weights(folder, adapter_name="fear")
