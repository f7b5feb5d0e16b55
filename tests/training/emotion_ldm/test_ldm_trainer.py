"""train_emotion_ldm.py: its loss and average against independent formulas, from photos to an edit, and refusals."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import original_ldm_training as original
import pytest
import torch
from PIL import Image
from processes import TRAIN
from safetensors.torch import load_file
from small_ldm import small_ldm
from torch import Tensor, nn

from emorig_diffusers import EmotionLDMPipeline
from emorig_diffusers.diffusion.edit_scheduler import EditDDIMScheduler
from emorig_diffusers.pipelines.base import open_pipeline
from emorig_diffusers.training.emotion_ldm.objectives import LDMNetworks, NoiseObjective
from emorig_diffusers.training.emotion_ldm.trainer import LDMRun, build, parse_args

Run = Callable[..., None]
PRESETS = TRAIN / "presets"
NULL = 8  # row of the null class
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
inversion_guidance_scale: 1
unet:
  down_block_types: [DownBlock2D, CrossAttnDownBlock2D]
  up_block_types: [CrossAttnUpBlock2D, UpBlock2D]
  block_out_channels: [8, 8]
  layers_per_block: 1
  cross_attention_dim: 12
  attention_head_dim: 2
  norm_num_groups: 4
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("preset") / "small.yaml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vqvae")
    small_ldm().vqvae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def train(run_script: Run, preset: Path, vqvae: Path, prepared64: Path) -> Run:
    """A run on two labelled photos."""
    given = ["train_emotion_ldm", "--config", preset, "--vqvae", vqvae, "--train_data_dir", prepared64]
    return lambda out, *more: run_script(*given, "--output_dir", out, *more)


@pytest.fixture(scope="module")
def trained(train: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(out)
    return out


def weights(folder: Path, part: str) -> dict[str, Tensor]:
    return load_file(folder / "pipeline" / part / "diffusion_pytorch_model.safetensors")


def losses(folder: Path) -> list[float]:
    with (folder / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


# loss and average


def batch(count: int, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {"latent": torch.randn(count, 3, 16, 16, generator=rng), "u": torch.rand(count, 2, generator=rng),
            "emotion": torch.randint(NULL, (count,), generator=rng), "seed": torch.arange(count) + seed}  # fmt: skip


def test_the_loss_and_its_gradients_are_the_published_ones() -> None:
    pipe = small_ldm()
    networks = LDMNetworks(pipe.unet, pipe.emotion_embedding).requires_grad_(True)
    given, alphas = batch(4), EditDDIMScheduler().alphas_cumprod
    dropped = torch.tensor([False, True, False, True])
    given["u"][:, 1] = torch.where(dropped, 0.1, 0.9)
    loss = NoiseObjective(alphas, NULL, per_sample=True)(networks, given)["loss"]
    noise = torch.stack([torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    t = torch.tensor([int(1000 * u) for u in given["u"][:, 0].tolist()])
    token = lambda i: pipe.emotion_embedding.weight[NULL if dropped[i] else int(given["emotion"][i])]
    network = lambda x, t, tokens: pipe.unet(x, t, encoder_hidden_states=tokens[:, None]).sample
    wanted = original.noise_loss(network, given["latent"], t, noise, torch.stack([token(i) for i in range(4)]))
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    ours, theirs = (torch.autograd.grad(one, pipe.emotion_embedding.weight)[0] for one in (loss, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)
    assert ours[NULL].any()


class Rows(nn.Module):
    """Remembers the rows that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Tensor] = []

    def forward(self, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        self.told.append(rows)
        return noisy


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_null_class_takes_a_fifth(per_sample: bool) -> None:
    """Of whole batches, as published, or of the samples."""
    network, alphas = Rows(), EditDDIMScheduler().alphas_cumprod
    objective = NoiseObjective(alphas, NULL, per_sample=per_sample)
    given = [batch(5, seed) for seed in range(200)]
    for one in given:
        objective(network, one)
    null = torch.stack(network.told) == NULL
    assert bool((null.any(1) & ~null.all(1)).any()) == per_sample
    assert float(null.float().mean()) == pytest.approx(0.2, abs=0.07)
    kept = zip(network.told, given)
    assert all(((rows == NULL) | (rows == one["emotion"])).all() for rows, one in kept)
    network.told.clear()
    objective.errors(network, given[0])
    assert torch.equal(network.told[0], given[0]["emotion"])  # the validation's, where none is dropped


def test_the_average_is_the_published_one() -> None:
    """Of weights that go 0, 1, 4, 9 ..., slowly from the first step on."""
    parameter, args = nn.Parameter(torch.tensor(7.0, dtype=torch.float64)), Namespace(ema_decay=0.9999)
    average = LDMRun.average(SimpleNamespace(parameters=[parameter], args=args))  # type: ignore[arg-type]
    values = [float(n**2) for n in range(30)]
    for number, value in enumerate(values, 1):
        parameter.data.fill_(value)
        average.step([parameter])
        assert float(average.shadow_params[0]) == pytest.approx(original.average(values[:number], 7.0), rel=1e-12)


# runs


def test_a_run_leaves_a_pipeline(trained: Path, vqvae: Path) -> None:
    pipe = open_pipeline(trained / "pipeline")
    assert isinstance(pipe, EmotionLDMPipeline) and pipe.config.crop == "aligned"  # as the shards show
    assert (pipe.config.default_num_inference_steps, pipe.config.inversion_guidance_scale) == (3, 1)
    assert (pipe.config.guidance_scale, pipe.config.strength) == (4.0, 0.5)
    frozen, before = weights(trained, "vqvae"), load_file(vqvae / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(frozen[name], before[name]) for name in before)
    with Image.open(trained / "emotions.png") as sheet:
        assert sheet.width > 10 * 192 and sheet.height > 2 * 192


def test_a_network_begins_at_zero(preset: Path, vqvae: Path) -> None:
    words = ["--config", preset, "--vqvae", vqvae, "--train_data_dir", "x", "--output_dir", "y"]
    unet = build(parse_args(list(map(str, words)))).unet
    t, token = torch.tensor([3]), torch.randn(1, 1, 12)
    assert not unet(torch.randn(1, 3, 16, 16), t, token).sample.any()
    block, transformer = unet.down_blocks[1].resnets[0], unet.down_blocks[1].attentions[0]
    assert not block.conv2.weight.any() and not transformer.proj_out.bias.any() and block.conv1.weight.any()


def test_a_resumed_run_is_the_same(train: Run, trained: Path, tmp_path: Path) -> None:
    for steps in (4, 6):
        train(tmp_path, "--resume_from_checkpoint", "latest", "--max_train_steps", steps)
    for part in ("unet", "emotion_embedding"):
        ours, theirs = weights(tmp_path, part), weights(trained, part)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_goes_on_from_a_pipeline(
    run_script: Run, trained: Path, prepared64: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("train_emotion_ldm", "--pretrained_model_name_or_path", trained / "pipeline", "--train_data_dir",
               prepared64, "--validation_data_dir", prepared64, "--output_dir", tmp_path, "--max_train_steps", 1,
               "--learning_rate", 0, "--logging_steps", 1, "--guidance_scale", 2, "--class_balanced",
               "--validation_steps_of_sampling", 2)  # fmt: skip
    ours, theirs = weights(tmp_path, "unet"), weights(trained, "unet")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    pipe = open_pipeline(tmp_path / "pipeline")
    assert (pipe.config.guidance_scale, pipe.config.default_num_inference_steps) == (2, 3)
    said = capsys.readouterr()
    assert "step 1: val_loss_ema " in said.out + said.err


def test_photos_become_an_edit(run_script: Run, preset: Path, photos: Path, hopper: np.ndarray, tmp_path: Path) -> None:
    """Painted emotions, an autoencoder, a network, and a face that changes and nothing around it."""
    run_script("paint_emotions", photos, tmp_path / "painted")
    tiny = ["--max_train_steps", 12, "--checkpointing_steps", 12, "--logging_steps", 4]
    run_script("train_vq", "--config", PRESETS / "ldm-tiny-vq.yaml", "--train_data_dir", tmp_path / "painted",
               "--output_dir", tmp_path / "vq", *tiny)  # fmt: skip
    run_script("train_emotion_ldm", "--config", preset, "--vqvae", tmp_path / "vq" / "vqvae",
               "--train_data_dir", tmp_path / "vq" / "shards", "--output_dir", tmp_path / "ldm", *tiny)  # fmt: skip
    pipe = EmotionLDMPipeline.from_pretrained(tmp_path / "ldm" / "pipeline")
    assert pipe.config.crop == "landmarks" and pipe.latents_side == 32
    [image] = pipe(hopper, "happy", source_emotion="neutral", output_type="np").images
    changed = np.argwhere((image != hopper).any(2))
    assert image.shape == hopper.shape and len(changed)
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    [face] = pipe.encode(hopper)
    x0, y0, x1, y1 = face.box
    assert top > y0 - (y1 - y0) / 2 and bottom < y1 + (y1 - y0) / 2 and left > x0 - (x1 - x0) and right < 2 * x1 - x0


def test_what_is_refused(
    refusal: Callable[..., str], preset: Path, vqvae: Path, prepared: Path, prepared64: Path, trained: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    base = ["train_emotion_ldm", "--output_dir", tmp_path / "out", "--vqvae"]
    assert "give a --config with a `unet` section" in refusal(*base, vqvae, "--train_data_dir", prepared64)
    base += [vqvae, "--config", preset, "--train_data_dir"]
    assert "No photo has an emotion label" in refusal(*base, prepared)
    assert "is no autoencoder" in refusal(*base, prepared64, "--vqvae", tmp_path)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SMALL.replace("cross_attention_dim", "cross_dim"))
    assert "cannot be built" in refusal(*base, prepared64, "--config", wrong)
    other = tmp_path / "other"
    pipe = small_ldm()
    nn.init.normal_(pipe.vqvae.quantize.embedding.weight)
    pipe.vqvae.save_pretrained(other)
    told = refusal(*base, prepared64, "--vqvae", other, "--output_dir", trained, "--resume_from_checkpoint", "latest")
    assert "was trained with another vqvae" in told
    for words, sentence in ((["--null_share", "1"], "must be at least 0 and below 1"), ([], "--vqvae is missing")):
        with pytest.raises(SystemExit):
            parse_args(["--train_data_dir", "x", "--output_dir", "y", *words])
        assert sentence in capsys.readouterr().err


def test_the_published_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--train_data_dir", "x", "--output_dir", str(tmp_path), "--vqvae", "x", "--config"]
    args: Any = parse_args([*words, str(PRESETS / "ldm-affectnet128.yaml")])
    published = SimpleNamespace(config={"latent_channels": 3, "sample_size": 128, "down_block_types": ("",) * 3})
    made: list[EmotionLDMPipeline] = []
    trainer = "emorig_diffusers.training.emotion_ldm.trainer"
    monkeypatch.setattr(f"{trainer}.open_vqvae", lambda folder: published)
    monkeypatch.setattr(f"{trainer}.EmotionLDMPipeline", lambda *parts, **settings: made.append(parts))
    with torch.device("meta"):
        build(args)
    [(_, unet, table, scheduler)] = made
    assert sum(p.numel() for p in unet.parameters()) == 156_760_483 and len(unet.state_dict()) == 626
    assert unet.config["sample_size"] == 32 and tuple(table.weight.shape) == (9, 512)
    assert (scheduler.config["beta_start"], scheduler.config["beta_end"]) == (0.0015, 0.0205)
    assert (args.learning_rate, args.adam_weight_decay, args.ema_decay, args.null_share) == (2.4e-5, 0.01, 0.9999, 0.2)
    assert (args.adam_beta1, args.adam_beta2, args.train_batch_size) == (0.9, 0.999, 24)
    assert not args.null_per_sample and args.max_grad_norm == float("inf")
