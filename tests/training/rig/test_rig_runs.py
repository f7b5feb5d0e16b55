"""Runs of train_rig.py of a few steps: what they leave, resumed, killed, on two processes, and on an album."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import PATIENCE, TRAIN, start_script, start_two
from safetensors.torch import load_file

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.face.emotions import RECIPES
from emorig_diffusers.training.checkpoints import checkpoints
from emorig_diffusers.training.rig.data import mean_shape

SCRIPT = TRAIN / "train_rig.py"
TINY = TRAIN / "presets" / "tiny.yaml"
Run = Callable[..., None]


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "losses.csv").open() as file:
        return list(csv.DictReader(file))


def states(folder: Path) -> dict[str, bytes]:
    """The bytes of what a checkpoint says of network, optimiser and average."""
    return {n: (folder / n).read_bytes() for n in ("model.safetensors", "optimizer.bin", "average.safetensors")}


def weights(folder: Path) -> bytes:
    return (folder / "diffusion_pytorch_model.safetensors").read_bytes()


# a run of the open default


@pytest.fixture(scope="module")
def repaint(run_script: Run, prepared: Path, window_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps at once."""
    out = tmp_path_factory.mktemp("repaint")
    run_script("train_rig", *repaint_arguments(prepared, window_cache, out), "--report_to", "tensorboard")
    return out


def repaint_arguments(prepared: Path, cache: Path, out: Path) -> list[str | Path]:
    options = {"max_train_steps": 6, "logging_steps": 2, "checkpointing_steps": 2, "validation_steps": 4,
               "num_validation_images": 0, "code_dropout": 0.2}  # fmt: skip
    common = ["--config", TINY, "--train_data_dir", prepared, "--cache_dir", cache, "--output_dir", out]
    return common + [f"--{name}={value}" for name, value in options.items()]


def test_what_a_run_leaves(repaint: Path) -> None:
    assert {p.name for p in repaint.iterdir()} == {
        "checkpoint-4", "checkpoint-6", "losses.csv", "losses.png", "emotions-4.png", "emotions.png", "windows-4.png",
        "windows.png", "pipeline", "train_rig",
    }  # fmt: skip
    rows = losses(repaint)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert list(rows[0]) == ["step", "loss", "v", "learning_rate", "images_per_second"]
    assert all(0.1 < float(row["v"]) < 10 and float(row["images_per_second"]) > 0 for row in rows)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1.5e-3, 5e-4, 0], abs=1e-9)  # half a cosine
    assert any(p.name.startswith("events") for p in (repaint / "train_rig").iterdir())
    with Image.open(repaint / "windows-4.png") as picture:
        assert picture.size == (5 * 160, 2 * 160)  # of two photos: photo, base, 1, 2 and 4 steps
        assert np.asarray(picture).std() > 20
    shims = {p.name for p in (repaint / "pipeline").rglob("*.py")}  # for diffusers' own class
    assert shims == {"blocks_emorig.py", "pipeline_emorig.py", "head_emorig.py", "encoder_emorig.py", "unet_emorig.py"}


def test_the_result_is_the_average(repaint: Path, hopper: np.ndarray) -> None:
    average = load_file(repaint / "checkpoint-6" / "average.safetensors")
    last = load_file(repaint / "checkpoint-6" / "model.safetensors")
    pipe = EmoRigPipeline.from_pretrained(repaint / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    for ours, kept in zip(pipe.unet.parameters(), average.values(), strict=True):
        assert torch.equal(ours, kept)
    assert not torch.equal(pipe.unet.conv_out.weight, last["unet.conv_out.weight"])
    assert pipe.unet.conv_out.weight.any()  # begins at zero: it has learnt
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    still = pipe(hopper, "happy", 0, output_type="np").images[0]
    assert np.array_equal(still, hopper)
    edited = pipe(hopper, "happy", output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
    assert (edited != hopper).any()


def test_a_second_run_needs_another_folder(
    refusal: Callable[..., str], repaint: Path, prepared: Path, window_cache: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in repaint.rglob("*")}
    arguments = repaint_arguments(prepared, window_cache, repaint)
    assert "holds checkpoints of an earlier run" in refusal("train_rig", *arguments)
    told = refusal("train_rig", *arguments, "--resume_from_checkpoint", "latest", "--resolution", 32)
    assert "checkpoint-6 was trained with another resolution: " in told
    assert {p: p.stat().st_mtime_ns for p in repaint.rglob("*")} == before


def test_the_bundled_pipeline_is_the_trained_one_in_half_the_bytes(
    run_script: Run, repaint: Path, hopper: np.ndarray, tmp_path: Path
) -> None:
    target = tmp_path / "open"
    target.mkdir()
    (target / "old").write_text("goes away")
    run_script("tools/bundle", repaint / "pipeline", target)
    assert [p.name for p in tmp_path.iterdir()] == ["open"]
    assert {p.name for p in target.iterdir()} == {
        "model_index.json", "pipeline_emorig.py", "modular_config.json", "modular_model_index.json",
        "blocks_emorig.py", "head", "encoder", "unet", "scheduler",
    }  # fmt: skip
    assert len(weights(target / "unet")) < 0.55 * len(weights(repaint / "pipeline" / "unet"))
    before, after = (EmoRigPipeline.from_pretrained(f) for f in (repaint / "pipeline", target))
    assert after.recipes == RECIPES
    assert after.head.template.dtype == after.unet.dtype == torch.float32
    for ours, kept in zip(after.unet.parameters(), before.unet.parameters(), strict=True):
        torch.testing.assert_close(ours, kept, atol=1e-3, rtol=1e-3)
    edit = {"emotion": "surprise", "output_type": "np", "num_inference_steps": 1}
    results = []
    for pipe in (before, after):
        pipe.set_progress_bar_config(disable=True)
        results.append(pipe(hopper, **edit, generator=torch.Generator().manual_seed(0)).images[0].astype(int))
    assert np.abs(results[0] - results[1]).mean() < 0.1


# bare photos, several processes, and one that is killed


def test_two_processes_prepare_and_train_as_one(
    run_script: Run, repaint: Path, photos: Path, prepared: Path, tmp_path: Path
) -> None:
    """Started as `accelerate launch` starts them; half the batch each, one sample after the other."""
    out = tmp_path / "out"
    arguments = [*repaint_arguments(photos, tmp_path / "windows", out), "--validation_steps", 9]
    arguments += ["--train_batch_size", 1, "--gradient_accumulation_steps", 2]
    scripts = start_two(tmp_path, SCRIPT, *arguments)
    assert [script.wait() for script in scripts] == [0, 0], [script.output for script in scripts]
    assert "2 of 3 photos prepared" in scripts[0].output and "prepared" not in scripts[1].output
    shard = out / "shards" / "00000.tar"
    assert shard.read_bytes() == (prepared / "00000.tar").read_bytes()
    for ours, alone in zip(losses(out), losses(repaint), strict=True):
        for name in ("step", "loss", "v", "learning_rate"):
            assert float(ours[name]) == pytest.approx(float(alone[name]), rel=1e-4, abs=1e-9)
    ours, alone = (load_file(f / "checkpoint-6" / "model.safetensors") for f in (out, repaint))
    torch.testing.assert_close(ours, alone, atol=1e-3, rtol=0)  # Adam takes rounding of tiny gradients for steps
    written = shard.stat().st_mtime_ns
    run_script("train_rig", *arguments, "--resume_from_checkpoint", "latest", "--max_train_steps", 7)
    assert shard.stat().st_mtime_ns == written and (out / "checkpoint-7").is_dir()


def test_a_killed_run_goes_on(run_script: Run, prepared: Path, window_cache: Path, tmp_path: Path) -> None:
    """The script as a program of its own, and SIGKILL."""
    arguments = [*repaint_arguments(prepared, window_cache, tmp_path), "--max_train_steps", 100_000]
    arguments += ["--logging_steps", 1, "--validation_steps", 100_000, "--resume_from_checkpoint", "latest"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "checkpoint-6").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    output = process.communicate()[0]
    kept = checkpoints(tmp_path)
    assert process.returncode == -signal.SIGKILL and kept, output
    assert f"There is no checkpoint in {tmp_path}: a new run starts." in output
    step = int(kept[-1].name.split("-")[1])
    run_script("train_rig", *arguments, "--max_train_steps", step + 3)
    assert [int(row["step"]) for row in losses(tmp_path)] == list(range(1, step + 4))
    assert [f.name for f in checkpoints(tmp_path)] == [f"checkpoint-{step + i}" for i in (2, 3)]
    optimizer = torch.load(tmp_path / f"checkpoint-{step + 3}" / "optimizer.bin", weights_only=True)
    assert {int(s["step"]) for s in optimizer["state"].values()} == {step + 3}
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert EmoRigPipeline.from_pretrained(tmp_path / "pipeline").unet.conv_out.weight.any()


# runs of a network that draws whole faces


@pytest.fixture(scope="module")
def published(
    run_script: Run, prepared64: Path, published_preset: Path, emoca: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Four steps at once, every emotion equally often, with a loss that keeps the shape."""
    out = tmp_path_factory.mktemp("published")
    run_script("train_rig", *published_arguments(prepared64, published_preset, emoca, out))
    yield out
    shutil.rmtree(out)  # 300 MB


def published_arguments(prepared64: Path, published_preset: Path, emoca: Path, out: Path) -> list[str | Path | float]:
    common = ["--config", published_preset, "--train_data_dir", prepared64, "--output_dir", out, "--class_balanced"]
    return [*common, "--shape_weight", 0.5, "--shape_encoder", emoca / "encoder"]


def test_a_run_that_draws_whole_faces(published: Path, hopper: np.ndarray) -> None:
    assert {p.name for p in published.iterdir()} == {
        "checkpoint-4", "losses.csv", "losses.png", "emotions.png", "pipeline",
    }  # fmt: skip
    rows = losses(published)
    assert list(rows[0]) == ["step", "loss", "mse", "shape", "learning_rate", "images_per_second"]
    assert len(rows) == 4 and all(float(row["shape"]) > 0 and 0.5 < float(row["mse"]) < 2 for row in rows)
    pipe = EmoRigPipeline.from_pretrained(published / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert "whole_crop" in pipe.capabilities
    assert pipe.config.crop_size == 64 and pipe.config.default_num_inference_steps == 3
    assert pipe.code_parts == ("appearance", "shape")
    edited = pipe(hopper, "happy", output_type="np", generator=torch.Generator().manual_seed(0)).images[0]
    assert edited.shape == hopper.shape and (edited != hopper).any()


def test_a_resumed_run_is_the_run(
    run_script: Run, published: Path, prepared64: Path, published_preset: Path, emoca: Path, tmp_path: Path
) -> None:
    """Bit for bit, with dropout and BatchNorm."""
    arguments = published_arguments(prepared64, published_preset, emoca, tmp_path)
    run_script("train_rig", *arguments, "--max_train_steps", 2)
    assert states(tmp_path / "checkpoint-2") != states(published / "checkpoint-4")
    run_script("train_rig", *arguments, "--resume_from_checkpoint", "latest")
    assert states(tmp_path / "checkpoint-4") == states(published / "checkpoint-4")
    for name in ("unet", "appearance_encoder"):
        assert weights(tmp_path / "pipeline" / name) == weights(published / "pipeline" / name)
    timeless = lambda rows: [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
    assert timeless(losses(tmp_path)) == timeless(losses(published))
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def album(run_script: Run, published: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on bare photos, which are prepared on the way."""
    out = tmp_path_factory.mktemp("album")
    options = {"stage": "album", "pretrained_model_name_or_path": published / "pipeline", "train_data_dir": photos,
               "output_dir": out, "resolution": 64, "max_train_steps": 2, "logging_steps": 1,
               "num_validation_images": 0, "num_inference_steps": 2}  # fmt: skip
    run_script("train_rig", *(f"--{name}={value}" for name, value in options.items()))
    return out


def test_an_album_changes_only_the_denoiser(album: Path, published: Path) -> None:
    before, after = published / "pipeline", album / "pipeline"
    for name in ("appearance_encoder", "head", "encoder"):  # with BatchNorm's statistics
        assert weights(before / name) == weights(after / name), name
    ours, theirs = (load_file(f / "unet" / "diffusion_pytorch_model.safetensors") for f in (after, before))
    assert all(not torch.equal(ours[name], theirs[name]) for name in ("conv_in.weight", "conv_out.weight"))
    rows = losses(album)
    assert [float(row["learning_rate"]) for row in rows] == [1e-5, 1e-5]
    assert all(0 < float(row["prior"]) < 0.1 for row in rows)  # dropout, and what has been learnt since


def test_an_album_has_one_shape(album: Path) -> None:
    shards = CodeShards(album / "shards")
    assert shards.keys == ["astronaut", "hopper"]
    pipe = EmoRigPipeline.from_pretrained(album / "pipeline")
    assert pipe.config.default_num_inference_steps == 2
    torch.testing.assert_close(torch.tensor(pipe.config.shape), mean_shape(shards)[0])


def test_the_result_is_opened_by_another_program(album: Path, tmp_path: Path) -> None:
    """Where nothing of training was imported."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, emorig_diffusers as e\n"
        "published = 'whole_crop' in e.EmoRigPipeline.from_pretrained(sys.argv[1]).capabilities\n"
        "print(published, [name for name in sys.modules if 'training' in name.split('.')])"
    )
    other = start_script(tmp_path, program, album / "pipeline")
    assert other.wait() == 0 and other.output.splitlines()[-1] == "True []", other.output
