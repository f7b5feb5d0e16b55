"""train_vq.py: its losses against independent formulas, a run resumed and shared, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import original_ldm_training as original
import pytest
import torch
from diffusers import VQModel
from PIL import Image
from processes import TRAIN, start_two
from safetensors.torch import load_file
from small_ldm import small_ldm
from torch import Tensor, nn
from torch.nn import functional as F

from emorig_diffusers.training.emotion_ldm.autoencoder import VQNetworks, VQObjective
from emorig_diffusers.training.emotion_ldm.discriminator import PatchDiscriminator
from emorig_diffusers.training.emotion_ldm.vq_trainer import begin_codebook, build, open_vqvae, parse_args

Run = Callable[..., None]
PRESETS = TRAIN / "presets"
WEIGHT = 0.8  # of the discriminator
SMALL = """
train_batch_size: 2
max_train_steps: 6
learning_rate: 2.0e-3
checkpointing_steps: 3
logging_steps: 1
validation_steps: 100
perceptual_weight: 0
disc_start: 2
mirror: true
codes_from_photos: true
vqvae:
  sample_size: 32
  down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D]
  up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D]
  block_out_channels: [8, 8]
  layers_per_block: 1
  norm_num_groups: 4
  latent_channels: 3
  num_vq_embeddings: 64
discriminator: {width: 4}
"""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("preset") / "small.yaml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def trained(run_script: Run, preset: Path, prepared64: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run_script("train_vq", "--config", preset, "--train_data_dir", prepared64, "--output_dir", out)
    return out


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "vqvae" / "diffusion_pytorch_model.safetensors")


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "losses.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


# losses


def squares(drawn: Tensor, picture: Tensor) -> Tensor:
    """Stands for LPIPS."""
    return (drawn - picture).square().mean((1, 2, 3))


@pytest.fixture
def networks() -> VQNetworks:
    vqvae = small_ldm().vqvae
    torch.manual_seed(1)
    return VQNetworks(vqvae, PatchDiscriminator(4)).requires_grad_(True)


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


def decoder_of(vqvae: VQModel, pictures: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The decoder as a function of its last kernel, with gradients to all else, and the codebook's distance."""
    latents = vqvae.quant_conv(vqvae.encoder(pictures))
    codes, codebook = original.quantise(latents, vqvae.quantize.embedding.weight)
    seen: list[Tensor] = []
    handle = vqvae.decoder.conv_out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    vqvae.decoder(vqvae.post_quant_conv(latents + (codes - latents).detach()))
    handle.remove()
    return lambda kernel: F.conv2d(seen[0], kernel, vqvae.decoder.conv_out.bias, padding=1), codebook


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, module.parameters())]


def test_losses_and_gradients_are_the_published_ones(networks: VQNetworks, pictures: Tensor) -> None:
    """Of the autoencoder its own loss, of the discriminator the hinge loss, each with no gradient to the other."""
    vqvae, judge = networks.vqvae, networks.discriminator
    losses = VQObjective(squares, disc_weight=WEIGHT)(networks, {"picture": pictures})
    state = {name.removeprefix("layers."): p for name, p in judge.named_parameters()}
    frozen = {name: p.detach() for name, p in state.items()}
    draw, codebook = decoder_of(vqvae, pictures)
    last = vqvae.decoder.conv_out.weight
    loss = original.generator_loss(
        pictures, draw, last, codebook, lambda x: original.discriminate(frozen, x), squares, WEIGHT
    )
    told = original.discriminator_loss(lambda x: original.discriminate(state, x), pictures, draw(last).detach())
    assert float(losses["loss"].detach()) == pytest.approx(float((loss + told).detach()), rel=1e-5)
    assert float(losses["discriminator"].detach()) == pytest.approx(float(told.detach()), rel=1e-5)
    for module, wanted in ((vqvae, loss), (judge, told)):
        for ours, theirs in zip(gradients(module, losses["loss"]), gradients(module, wanted)):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_before_its_step_the_discriminator_neither_counts_nor_learns(networks: VQNetworks, pictures: Tensor) -> None:
    losses = VQObjective(squares, judged=False)(networks, {"picture": pictures})
    draw, codebook = decoder_of(networks.vqvae, pictures)
    wanted = original.likeness(pictures, draw(networks.vqvae.decoder.conv_out.weight), squares) + codebook
    assert float(losses["loss"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert not any(gradient.any() for gradient in gradients(networks.discriminator, losses["loss"]))
    assert any(gradient.any() for gradient in gradients(networks.vqvae, losses["loss"]))


def test_the_adaptive_weight_is_that_of_all_processes(networks: VQNetworks, pictures: Tensor) -> None:
    seen: list[torch.Size] = []

    def tripled(gradient: Tensor) -> Tensor:
        seen.append(gradient.shape)
        return gradient * (3 if len(seen) == 1 else 1)

    plain, reduced = (VQObjective(squares, **given) for given in ({}, {"reduce": tripled}))
    weight = [float(one(networks, {"picture": pictures})["weight"]) for one in (plain, reduced)]
    assert weight[1] == pytest.approx(3 * weight[0], rel=1e-5)
    assert seen == [networks.vqvae.decoder.conv_out.weight.shape] * 2


def test_the_published_discriminator() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator()
    assert sum(p.numel() for p in judge.parameters()) == 2_765_633
    assert judge(torch.zeros(1, 3, 128, 128)).shape == (1, 1, 14, 14)
    kernel, factor = judge.layers[5].weight.detach(), judge.layers[6].weight.detach()
    assert float(kernel.std()) == pytest.approx(0.02, rel=0.05) and float(factor.mean()) == pytest.approx(1, abs=0.01)


# runs


def test_a_run_leaves_an_autoencoder(trained: Path) -> None:
    vqvae = open_vqvae(trained / "vqvae")
    assert isinstance(vqvae, VQModel) and vqvae.config["sample_size"] == 32
    with Image.open(trained / "reconstructions.png") as sheet:
        assert sheet.width > 2 * 256 and sheet.height > 2 * 256
    assert [row["weight"] > 0 for row in rows(trained)] == [False] * 2 + [True] * 4
    assert {"l1", "lpips", "codebook", "adversarial", "discriminator"} <= set(rows(trained)[0])


def test_a_pipeline_s_autoencoder_can_be_taken(trained: Path, tmp_path: Path) -> None:
    pipe = small_ldm()
    pipe.save_pretrained(tmp_path)
    taken = open_vqvae(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(taken.parameters(), pipe.vqvae.parameters()))


def test_a_resumed_run_is_the_same(
    run_script: Run, preset: Path, prepared64: Path, trained: Path, tmp_path: Path
) -> None:
    for steps in (1, 4, 6):
        run_script("train_vq", "--config", preset, "--train_data_dir", prepared64, "--output_dir", tmp_path,
                   "--resume_from_checkpoint", "latest", "--max_train_steps", steps)  # fmt: skip
    ours, theirs = weights(tmp_path), weights(trained)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_take_the_same_way(preset: Path, prepared64: Path, tmp_path: Path) -> None:
    """Gradients are taken inside of the step, which processes that train together must bear."""
    scripts = start_two(
        tmp_path, TRAIN / "train_vq.py", "--config", preset, "--train_data_dir", prepared64, "--train_batch_size", 1,
        "--output_dir", tmp_path / "two", "--max_train_steps", 4,
    )  # fmt: skip
    assert [script.wait() for script in scripts] == [0, 0], [script.output for script in scripts]
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path / "two"))
    assert isinstance(open_vqvae(tmp_path / "two" / "vqvae"), VQModel)


def test_pictures_are_learnt_with_lpips(
    run_script: Run, preset: Path, prepared64: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_script("train_vq", "--config", preset, "--train_data_dir", prepared64, "--validation_data_dir", prepared64,
               "--output_dir", tmp_path, "--max_train_steps", 40, "--logging_steps", 10, "--disc_start", 100,
               "--perceptual_weight", 1, "--lpips_net", "alex", "--use_ema", "--ema_decay", 0.5)  # fmt: skip
    first, *_, last = rows(tmp_path)
    assert last["l1"] < 0.8 * first["l1"] and 0 < last["lpips"] < first["lpips"]
    said = capsys.readouterr()
    assert "step 40: val_rec_loss 0." in said.out + said.err


def test_a_codebook_of_latents(pictures: Tensor, trained: Path) -> None:
    """Channels that were alike become independent; codes are latents, and many of them are in use."""
    vqvae = small_ldm().vqvae
    with torch.no_grad():
        vqvae.quant_conv.weight[:] = vqvae.quant_conv.weight[:1] + 0.5 * vqvae.quant_conv.weight
    begin_codebook(vqvae, pictures, torch.Generator().manual_seed(0))
    codes, latents = vqvae.quantize.embedding.weight, vqvae.encode(pictures).latents.movedim(1, 3).flatten(0, 2)
    torch.testing.assert_close(torch.cov(latents.T), torch.eye(3), atol=0.01, rtol=0)
    assert latents.mean(0).abs().max() < 0.01
    assert (torch.cdist(codes, latents, compute_mode="donot_use_mm_for_euclid_dist").amin(1) < 0.01).all()
    assert len(codes.unique(dim=0)) > len(codes) / 2
    assert weights(trained)["quantize.embedding.weight"].abs().max() > 10 / 64  # an untrained one keeps to 1 / 64


def test_what_is_refused(refusal: Callable[..., str], preset: Path, prepared64: Path, tmp_path: Path) -> None:
    base = ["train_vq", "--train_data_dir", prepared64, "--output_dir", tmp_path / "out"]
    assert "give a --config with a `vqvae` section" in refusal(*base)
    assert "is no autoencoder" in refusal(*base, "--pretrained_vqvae", tmp_path)
    large = tmp_path / "large.yaml"
    large.write_text(SMALL.replace("sample_size: 32", "sample_size: 128"))
    assert "pictures of 64 pixels" in refusal(*base, "--config", large)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SMALL.replace("{width: 4}", "{depth: 4}"))
    assert "cannot be built" in refusal(*base, "--config", wrong)


def test_the_published_preset(tmp_path: Path) -> None:
    words = ["--train_data_dir", "x", "--output_dir", str(tmp_path), "--config"]
    args = parse_args([*words, str(PRESETS / "ldm-affectnet128-vq.yaml")])
    with torch.device("meta"):
        vqvae = build(args).vqvae
    assert sum(p.numel() for p in vqvae.parameters()) == 60_605_598 and len(vqvae.state_dict()) == 255
    assert (args.learning_rate, args.adam_beta1, args.adam_beta2, args.use_ema) == (3.6e-5, 0.5, 0.9, False)
    assert args.max_grad_norm == float("inf") and (args.disc_weight, args.perceptual_weight) == (0.8, 1.0)
