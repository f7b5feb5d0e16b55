"""train_diffae.py: what its presets build, a run resumed, the second step, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import TRAIN
from safetensors.torch import load_file
from small_diffae import small_diffae

from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.pipelines.base import open_pipeline
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline
from emorig_diffusers.training.diffae.trainer import build, parse_args
from emorig_diffusers.training.pictures import PictureData

Run = Callable[..., None]
PRESETS = TRAIN / "presets"
SMALL = """
train_batch_size: 2
max_train_steps: 6
learning_rate: 2.0e-3
ema_decay: 0.5
checkpointing_steps: 3
logging_steps: 1
validation_steps: 100
validation_steps_of_sampling: 2
num_inference_steps: 3
inversion_steps: 4
scheduler: {beta_schedule: squaredcos_cap_v2, prediction_type: v_prediction, timestep_spacing: leading}
unet:
  sample_size: 16
  block_out_channels: [8, 16]
  layers_per_block: 1
  attention_levels: []
  mid_attention: false
  norm_num_groups: 4
  dropout: 0.1
semantic_encoder:
  sample_size: 16
  block_out_channels: [8, 16]
  layers_per_block: 1
  attention_levels: []
  norm_num_groups: 4
  cond_dim: 8
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("preset") / "small.yaml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def trained(run_script: Run, preset: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run_script("train_diffae", "--config", preset, "--train_data_dir", prepared, "--output_dir", out)
    return out


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "pipeline" / part / "diffusion_pytorch_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_a_pipeline(trained: Path, hopper: np.ndarray) -> None:
    pipe = open_pipeline(trained / "pipeline")
    assert isinstance(pipe, DiffAEEmotionPipeline) and pipe.config.crop == "aligned"
    assert (pipe.config.default_num_inference_steps, pipe.config.inversion_steps) == (3, 4)
    assert pipe.reconstruct(hopper).size == (16, 16)
    with Image.open(trained / "reconstructions.png") as sheet:
        assert sheet.width > 2 * 256 and sheet.height > 4 * 256
    assert (trained / "losses.png").is_file()


def test_the_loss_falls(run_script: Run, preset: Path, prepared: Path, tmp_path: Path) -> None:
    run_script("train_diffae", "--config", preset, "--train_data_dir", prepared, "--output_dir", tmp_path,
               "--max_train_steps", 60, "--checkpointing_steps", 60, "--logging_steps", 15)  # fmt: skip
    with (tmp_path / "losses.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_code_learns_the_expression(run_script: Run, preset: Path, prepared: Path, tmp_path: Path) -> None:
    run_script("train_diffae", "--config", preset, "--train_data_dir", prepared, "--output_dir", tmp_path,
               "--code_weight", 1, "--max_train_steps", 40, "--checkpointing_steps", 40, "--logging_steps", 10,
               "--learning_rate", 0.01)  # fmt: skip
    with (tmp_path / "losses.csv").open() as file:
        losses = [float(row["code"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]
    assert isinstance(open_pipeline(tmp_path / "pipeline"), DiffAEEmotionPipeline)  # the probe is not part of it


def test_a_resumed_run_on_bare_photos_is_the_same(
    run_script: Run, preset: Path, photos: Path, trained: Path, tmp_path: Path
) -> None:
    common = ["--config", preset, "--train_data_dir", photos, "--crop", "aligned", "--output_dir", tmp_path]
    common += ["--resume_from_checkpoint", "latest"]
    for steps in (3, 6):
        run_script("train_diffae", *common, "--max_train_steps", steps)
    for part in ("unet", "semantic_encoder"):
        assert same(weights(tmp_path, part), weights(trained, part))
    assert CodeShards(tmp_path / "shards").manifest["settings"]["resolution"] == 256


def test_the_second_step_trains_the_unet_alone(
    run_script: Run, refusal: Callable[..., str], prepared: Path, trained: Path, tmp_path: Path
) -> None:
    small_diffae(32).save_pretrained(tmp_path / "start")
    common = ["--stage", "shape", "--train_data_dir", prepared, "--train_batch_size", 2, "--max_train_steps", 2]
    out = tmp_path / "out"
    run_script("train_diffae", *common, "--pretrained_model_name_or_path", tmp_path / "start", "--output_dir", out,
               "--logging_steps", 1, "--validation_steps_of_sampling", 2)  # fmt: skip
    start = lambda part: load_file(tmp_path / "start" / part / "diffusion_pytorch_model.safetensors")
    assert same(weights(out, "semantic_encoder"), start("semantic_encoder"))
    assert same(weights(out, "emotion_classifier"), start("emotion_classifier"))
    assert not same(weights(out, "unet"), start("unet"))
    with (out / "losses.csv").open() as file:
        assert {"mse", "keep", "expression"} <= set(next(csv.DictReader(file)))
    bare = ["train_diffae", *common, "--pretrained_model_name_or_path", trained / "pipeline", "--output_dir", out]
    assert "has no emotion classifier" in refusal(*bare)


def test_what_is_refused(
    refusal: Callable[..., str], preset: Path, prepared: Path, prepared64: Path, tmp_path: Path
) -> None:
    base = ["train_diffae", "--train_data_dir", prepared, "--output_dir", tmp_path]
    assert "give a --config" in refusal(*base)
    assert "pictures of 256 pixels" in refusal(*base, "--config", preset, "--resolution", 512)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SMALL.replace("  dropout: 0.1", "  depth: 3"))
    assert "cannot be built" in refusal(*base, "--config", wrong)


def test_stage_shape_needs_a_pipeline(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--stage", "shape", "--train_data_dir", str(prepared), "--output_dir", str(tmp_path)])
    assert "needs --pretrained_model_name_or_path" in capsys.readouterr().err


def test_a_preset_says_what_is_kept(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--stage", "shape", "--pretrained_model_name_or_path", "x", "--train_data_dir", str(prepared)]
    words += ["--output_dir", str(tmp_path), "--config"]
    assert parse_args([*words, str(PRESETS / "diffae-shape.yaml")]).keep == ["shape"]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("keep: [shape, hair]")
    with pytest.raises(SystemExit):
        parse_args([*words, str(wrong)])
    assert "keep must be one of shape" in capsys.readouterr().err


def test_pictures(prepared: Path) -> None:
    shards = CodeShards(prepared)
    plain, mirrored = (PictureData([shards], 64, mirror) for mirror in (False, True))
    original = plain[0, 5]["picture"]
    wanted = torch.from_numpy(np.array(Image.fromarray(shards[0].picture).reduce(4))).permute(2, 0, 1) / 127.5 - 1
    assert (original - wanted).abs().max() < 2.5 / 127.5
    drawn = [mirrored[0, seed]["picture"] for seed in range(12)]
    flipped = [torch.equal(one, original.flip(2)) for one in drawn]
    assert any(flipped) and not all(flipped)
    assert all(flip or torch.equal(one, original) for one, flip in zip(drawn, flipped))
    assert torch.equal(plain[0, 5]["transform"], torch.from_numpy(shards[0].transform))


def test_two_sets_are_one(prepared: Path, prepared64: Path) -> None:
    shards = [CodeShards(folder) for folder in (prepared, prepared64)]
    both, parts = PictureData(shards, 32, False), [PictureData([one], 32, False) for one in shards]
    for index, (part, place) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(both[index, 1]["picture"], parts[part][place, 1]["picture"])


@pytest.mark.parametrize("name, count", [("diffae-ffhq128", 128_545_155), ("diffae-ffhq256", 168_492_291)])
def test_published_presets(name: str, count: int, tmp_path: Path) -> None:
    args = parse_args(
        ["--config", str(PRESETS / f"{name}.yaml"), "--train_data_dir", "x", "--output_dir", str(tmp_path)]
    )
    with torch.device("meta"):
        pipe = build(args)
    sizes = [p.numel() for part in (pipe.unet, pipe.semantic_encoder) for p in part.parameters()]
    assert sum(sizes) == count
    assert pipe.scheduler.config.prediction_type == "epsilon" and pipe.config.crop == "ffhq"
