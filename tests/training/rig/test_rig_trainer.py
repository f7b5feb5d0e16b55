"""train_rig.py: its arguments and presets, what it builds, what it refuses, and the sheets it draws."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from PIL import Image
from processes import TRAIN

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.shards import CodeShards, write_shard
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.painting.diffusion_rig import published_scheduler
from emorig_diffusers.training.rig import trainer
from emorig_diffusers.training.rig.sheets import emotion_grid
from emorig_diffusers.training.rig.trainer import parse_args

PRESETS = TRAIN / "presets"
TINY = PRESETS / "tiny.yaml"
Refusal = Callable[..., str]


def parse(*arguments: object) -> argparse.Namespace:
    return parse_args([str(a) for a in arguments])


# arguments and presets


def test_preset_values_arrive(tmp_path: Path) -> None:
    for name in ("tiny", "open-256", "diffusionrig-256", "emorig-256", "lab-314"):
        file = PRESETS / f"{name}.yaml"
        args = parse("--config", file, "--train_data_dir", "a", "--output_dir", tmp_path, "--seed", 7)
        assert args.seed == 7
        for key, value in yaml.safe_load(file.read_text()).items():
            assert getattr(args, key) == value, (name, key)


def test_an_album_has_defaults_of_its_own(published_preset: Path) -> None:
    common = ["--train_data_dir", "a", "--output_dir", "b"]
    rig, album = parse(*common), parse(*common, "--stage", "album")
    assert (rig.learning_rate, rig.train_batch_size, rig.max_train_steps) == (1e-4, 16, 10000)
    assert (album.learning_rate, album.train_batch_size, album.max_train_steps) == (1e-5, 4, 5000)
    assert parse(*common, "--stage", "album", "--config", published_preset).max_train_steps == 4
    assert parse(*common, "--stage", "album", "--learning_rate", 0.5).learning_rate == 0.5


def test_arguments_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in (
        (["--output_dir", "b"], "--train_data_dir is missing."),
        (["--train_data_dir", "a"], "--output_dir is missing."),
        (["--train_data_dir", "a", "--output_dir", "b", "--push_to_hub"], "--push_to_hub needs --hub_model_id owner/n"),
        (["--train_data_dir", "a", "--output_dir", "b", "--logging_steps", 0], "--logging_steps must be at least 1."),
    ):
        with pytest.raises(SystemExit) as stop:
            parse(*arguments)
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err


# what is built


def build(*arguments: object) -> EmoRigPipeline:
    return trainer.build(parse("--train_data_dir", "a", "--output_dir", "b", *arguments))


@pytest.fixture
def sizes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without weights: the published ones have half a gigabyte of them."""

    def on_meta(**config: object) -> RigUNet:
        with torch.device("meta"):
            return RigUNet(**config)

    monkeypatch.setattr(trainer, "RigUNet", on_meta)


def test_the_published_network(sizes_only: None) -> None:
    built = build("--config", PRESETS / "diffusionrig-256.yaml")
    assert sum(p.numel() for p in built.unet.parameters()) == 133_400_835
    assert sum(p.numel() for p in built.appearance_encoder.parameters()) == 11_209_344
    assert "whole_crop" in built.capabilities and built.config.crop_size == 256
    assert built.config.default_num_inference_steps == 20
    assert built.code_parts == ("appearance",)
    plain = lambda scheduler: {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    assert plain(built.scheduler) == plain(published_scheduler())


def test_the_open_networks(scheduler: DDIMScheduler, pipe: EmoRigPipeline) -> None:
    for name, steps in (("tiny", 1), ("open-256", 1)):
        built = build("--config", PRESETS / f"{name}.yaml")
        assert "whole_crop" not in built.capabilities and built.appearance_encoder is None
        assert (built.unet.config.in_channels, built.unet.config.cond_dim) == (14, 58)
        assert built.config.default_num_inference_steps == steps
        assert torch.equal(built.scheduler.alphas_cumprod, scheduler.alphas_cumprod)
        trained = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())["resolution"]
        assert all(side % built.unet.size_multiple == 0 for side in (trained, pipe.config.repaint_window[2]))
    shipped = {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
    assert {k: v for k, v in built.unet.config.items() if not k.startswith("_")} == shipped


@pytest.mark.parametrize(("name", "width"), [("emorig-256", 64), ("lab-314", 64 + 80 + 80 + 50)])
def test_networks_that_are_told_of_emocas_codes(
    sizes_only: None, emoca: Path, hopper_face: EncodedFace, name: str, width: int
) -> None:
    built = build("--config", PRESETS / f"{name}.yaml", "--pretrained_model_name_or_path", emoca)
    assert "whole_crop" in built.capabilities and built.unet.config.cond_dim == width
    codes = hopper_face.codes.with_(texture=torch.zeros(1, 50))
    assert built.condition_code(codes, torch.zeros(1, 64)).shape == (1, width)


def test_the_trained_pipeline_keeps_its_settings(pipe: EmoRigPipeline, tmp_path: Path) -> None:
    settings = {"emotions": {"calm": {"AU43": 0.3}}, "residual_scale": 3.0}
    EmoRigPipeline(pipe.head, pipe.encoder, **settings).save_pretrained(tmp_path)
    built = build("--config", TINY, "--pretrained_model_name_or_path", tmp_path)
    assert {name: built.config[name] for name in settings} == settings


def test_going_on_with_trained_networks(pipe: EmoRigPipeline, emoca: Path) -> None:
    built = build("--no-from_scratch", "--num_inference_steps", 7)
    assert torch.equal(built.unet.conv_out.weight, pipe.unet.conv_out.weight)
    assert built.config.default_num_inference_steps == 7
    for how in (["--no-from_scratch"], ["--stage", "album"]):
        with pytest.raises(SystemExit, match=r"has no network to go on with: train a rig first\.$"):
            build(*how, "--pretrained_model_name_or_path", emoca)


def test_what_cannot_be_built(emoca: Path) -> None:
    with pytest.raises(SystemExit, match="needs its sizes: give a --config with a `unet` section"):
        build()
    for preset in ("emorig-256", "lab-314"):
        with pytest.raises(SystemExit, match="trains on the codes of EMOCA, but emorig-open has another encoder: conv"):
            build("--config", PRESETS / f"{preset}.yaml")
    with pytest.raises(SystemExit, match="trains on the codes of DECA, but .* has another encoder"):
        build("--config", TINY, "--encoder", "deca", "--pretrained_model_name_or_path", emoca)


# what a run is refused


def test_data_and_losses_that_do_not_fit(
    refusal: Refusal, prepared: Path, prepared64: Path, published_preset: Path, tmp_path: Path
) -> None:
    refused = partial(refusal, "train_rig", "--output_dir", tmp_path / "run", "--config")
    told = refused(published_preset, "--train_data_dir", prepared)
    assert "The shards hold pictures of 256 pixels: prepare them with --resolution 64, or give that number" in told
    assert "aligned crops of 256 pixels: run train/prepare.py" in refused(TINY, "--train_data_dir", prepared64)
    (tmp_path / "empty").mkdir()
    assert "empty' is empty: give a folder with photos" in refused(TINY, "--train_data_dir", tmp_path / "empty")
    assert "2 of 2 photos have no emotion label" in refused(TINY, "--train_data_dir", prepared, "--class_balanced")
    told = refused(TINY, "--train_data_dir", prepared, "--shape_weight", 1)
    assert told == "--shape_weight needs whole faces: the open default paints mouths only. Leave it out."
    told = refused(published_preset, "--train_data_dir", prepared64, "--shape_weight", 1)
    assert told == "--shape_weight needs a network that reads shapes: give an EmocaEncoder as --shape_encoder."
    assert not list((tmp_path / "run").iterdir())


def test_shards_of_another_head(refusal: Refusal, prepared: Path, tmp_path: Path) -> None:
    shards = CodeShards(prepared)
    codes = shards[0].codes
    foreign = replace(shards[0], codes=codes.with_(shape=codes.shape[:, :5]))
    write_shard(tmp_path, 0, [foreign], {}, shards.manifest["settings"])
    told = refusal("train_rig", "--config", TINY, "--train_data_dir", tmp_path, "--output_dir", tmp_path / "run")
    assert told.endswith("was prepared with another head: run train/prepare.py with the pipeline you train.")


def test_a_loss_that_is_no_number(refusal: Refusal, prepared: Path, window_cache: Path, tmp_path: Path) -> None:
    common = ["--config", TINY, "--train_data_dir", prepared, "--cache_dir", window_cache, "--output_dir", tmp_path]
    told = refusal("train_rig", *common, "--learning_rate", 1e30, "--logging_steps", 3)
    assert told.startswith("The loss is no number any more at step 3: resume the last checkpoint with a smaller --lea")


# sheets


def test_emotion_grid(
    tiny_pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for the photo with a face: itself, then its emotions; none for the wall."""
    monkeypatch.setattr("emorig_diffusers.training.rig.sheets.EMOTIONS", ("happy", "surprise"))
    wall = np.full((64, 64, 3), 128, np.uint8)
    grid = np.asarray(emotion_grid(tiny_pipe, [wall, hopper]))
    assert grid.shape == (192, 3 * 192, 3)
    itself, *edits = np.split(grid.astype(float), 3, 1)
    (face,) = tiny_pipe(hopper, "happy", 0).faces[0]
    np.testing.assert_array_equal(itself, np.asarray(face.crop.resize((192, 192), Image.Resampling.LANCZOS)))
    for edit in edits:
        assert 0.5 < np.abs(edit - itself).mean() < 40
    assert np.abs(edits[0] - edits[1]).mean() > 0.5
    assert emotion_grid(tiny_pipe, [wall]).height == 192
