"""Checkpoints of emotion latent diffusion: the converted pipeline computes what the original's equations give, or one
sentence says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import original_ldm as original
import pytest
import torch
from diffusers import UNet2DConditionModel, VQModel
from original_ldm import SMALL, Autoencoder, Denoiser, Original, State
from torch import Tensor

from emorig_diffusers.cli import main
from emorig_diffusers.convert.emotion_ldm import (
    average_name,
    convert_emotion_ldm,
    read_parts,
    unet_config,
    unet_name,
    vq_config,
    vq_name,
)
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.pipelines.base import open_pipeline
from emorig_diffusers.pipelines.emotion_ldm import EmotionLDMPipeline

STEPS, STRENGTH, SCALE = 3, 0.3, 2.5
RAW = "model.diffusion_model."


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, over the largest number; what is compared must vary."""
    assert ours.shape == theirs.shape and theirs.std() > 0.02
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="module")
def state() -> State:
    return original.random_state()


@pytest.fixture(scope="module")
def file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original.save(state, tmp_path_factory.mktemp("original") / "epoch=000025-val_loss_ema=0.110.ckpt")


@pytest.fixture(scope="module")
def pipe(file: Path) -> EmotionLDMPipeline:
    out = file.parent / "out"
    assert main.main(["convert", "emotion-ldm", str(file), str(out)]) == 0
    pipe = open_pipeline(out)
    assert isinstance(pipe, EmotionLDMPipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(*size: int, seed: int = 5) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def vq(state: State) -> Autoencoder:
    prefix = "first_stage_model."
    return Autoencoder({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})


def test_names_and_shapes_of_the_published_size() -> None:
    with torch.device("meta"):
        unet, vqvae = UNet2DConditionModel(**unet_config(160)), VQModel(**vq_config(128))
    theirs = dict(original.unet_shapes(Original()))
    assert {unet_name(name): tuple(t.shape) for name, t in unet.state_dict().items()} == theirs
    assert len(theirs) == len({average_name(name) for name in theirs}) == 626
    codes = {vq_name(name): t.numel() for name, t in vqvae.state_dict().items()}
    assert codes == {name: torch.Size(size).numel() for name, size in original.vq_shapes(Original())}
    assert (len(codes), sum(codes.values())) == (255, 60_605_598)
    assert average_name("input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.bias") == (
        "diffusion_modelinput_blocks41transformer_blocks0attn1to_out0bias"
    )


@torch.no_grad()
def test_the_autoencoder_is_the_originals(pipe: EmotionLDMPipeline, state: State) -> None:
    picture = drawn(1, 3, 32, 32)
    latent = pipe.vqvae.encode(picture).latents
    assert relative(latent, vq(state).encode(picture)) < 1e-4
    spread = drawn(2, 3, 8, 8, seed=6)
    assert relative(pipe.decode(spread), vq(state).decode(spread)) < 1e-4


@torch.no_grad()
def test_the_network_is_the_originals(pipe: EmotionLDMPipeline, state: State) -> None:
    x, token = drawn(2, 3, 8, 8), drawn(2, SMALL.token, seed=6)
    predict = lambda t, seen: pipe.unet(x, t, encoder_hidden_states=seen[:, None]).sample
    theirs = Denoiser(original.averaged(state))
    assert relative(predict(473, token), theirs(x, 473, token)) < 1e-4
    assert relative(predict(473, -token), predict(473, token)) > 0.02  # the token counts
    assert relative(predict(1, token), predict(473, token)) > 0.02


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_up_and_down_are_the_originals(pipe: EmotionLDMPipeline, state: State, scale: float) -> None:
    network, table = Denoiser(original.averaged(state)), state["cond_stage_model.embedding.weight"]
    null, x = state["cond_stage_model.uncond_embedding.weight"], drawn(1, 3, 8, 8)
    source, target = table[EMOTIONS.index("sad")][None], table[EMOTIONS.index("happy")][None]
    noisy = original.up(x, original.guided(network, source, null, scale), STEPS, STRENGTH)
    ours = pipe.add_noise(x, source, STEPS, STRENGTH, scale)
    assert relative(ours, noisy) < 1e-4
    back = original.down(noisy, original.guided(network, target, null, scale), STEPS, STRENGTH)
    assert relative(pipe.remove_noise(ours, target, Sampling(STEPS), STRENGTH, scale), back) < 1e-4


def test_the_one_token_needs_no_queries(pipe: EmotionLDMPipeline) -> None:
    """Softmax over one key is 1: attention to the token is the same vector everywhere."""
    x, token = drawn(1, 3, 8, 8), drawn(1, SMALL.token, seed=6)
    predict = lambda: pipe.unet(x, 10, encoder_hidden_states=token[:, None]).sample.detach()
    before = predict()
    dead = [p for name, p in pipe.unet.named_parameters() if ".attn2.to_q." in name or ".attn2.to_k." in name]
    kept = [parameter.detach().clone() for parameter in dead]
    with torch.no_grad():
        for parameter in dead:
            parameter.zero_()
        after = predict()
        for parameter, value in zip(dead, kept):
            parameter.copy_(value)
    assert len(dead) == 32 and relative(after, before) < 1e-6


def test_tokens_licence_and_settings(pipe: EmotionLDMPipeline, state: State) -> None:
    assert pipe.emotion_names == EMOTIONS
    wanted = torch.cat([state[f"cond_stage_model.{name}.weight"] for name in ("embedding", "uncond_embedding")])
    assert torch.equal(pipe.emotion_embedding.weight, wanted)
    assert "AffectNet, non-commercial" in pipe.brought
    assert (pipe.config.strength, pipe.config.guidance_scale, pipe.config.default_num_inference_steps) == (0.5, 4, 20)


@pytest.fixture(scope="module")
def tuned(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As tuning with CLIP writes it: other last weights, the average from before, and the networks of the losses."""
    generator = torch.Generator().manual_seed(11)
    scaled = lambda t: t * (1 + 0.2 * torch.randn(t.shape, generator=generator)) if t.ndim > 1 else t
    last = {name: scaled(tensor) for name, tensor in state.items() if name.startswith(RAW)}
    losses = {
        "id_loss_func.facenet.input_layer.0.weight": torch.randn(4, 3, 3, 3),
        "id_loss_func.facenet.output_layer.3.weight": torch.randn(8, 4),
        "clip_loss_func.model.visual.conv1.weight": torch.randn(4, 3, 2, 2).half(),
        "clip_loss_func.model.logit_scale": torch.tensor(4.6),
    }
    file = tmp_path_factory.mktemp("tuned") / "happy" / "last tuned.ckpt"
    file.parent.mkdir()
    return original.save(state | last | losses, file)


def test_last_weights_are_taken_where_they_are_asked_for(state: State, file: Path) -> None:
    last = state[f"{RAW}input_blocks.0.0.weight"]
    assert torch.equal(read_parts(file, raw=True)["unet"].conv_in.weight, last)
    assert not torch.equal(read_parts(file)["unet"].conv_in.weight, last)


@torch.no_grad()
def test_a_tuned_model_is_its_last_weights(
    tuned: Path, state: State, pipe: EmotionLDMPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its average is the model's from before, which nobody wants: the last weights are taken, and it is said."""
    assert main.main(["convert", "emotion-ldm", str(tuned), str(tmp_path / "out")]) == 0
    assert "is CLIP-tuned" in capsys.readouterr().err
    converted = open_pipeline(tmp_path / "out")
    written = torch.load(tuned, weights_only=True)["state_dict"]
    last = {name.removeprefix(RAW): tensor for name, tensor in written.items() if name.startswith(RAW)}
    x, token = drawn(2, 3, 8, 8), drawn(2, SMALL.token, seed=6)
    found = converted.unet(x, 473, encoder_hidden_states=token[:, None]).sample
    assert relative(found, Denoiser(last)(x, 473, token)) < 1e-4
    assert relative(found, Denoiser(original.averaged(state))(x, 473, token)) > 0.02
    assert relative(converted.decode(drawn(1, 3, 8, 8)), pipe.decode(drawn(1, 3, 8, 8))) < 1e-6
    assert torch.equal(converted.emotion_embedding.weight, pipe.emotion_embedding.weight)
    said: list[str] = []
    read_parts(tuned, raw=True, say=said.append)
    assert not said  # as asked


# emorig doctor


def test_doctor_tells_checkpoints_by_what_they_hold(
    state: State, file: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some models"
    (folder / "tuned").mkdir(parents=True)
    (folder / "model.ckpt").symlink_to(file)
    (folder / "tuned" / "happy.ckpt").symlink_to(tuned)
    alone = original.random_tensors(original.vq_shapes(SMALL), seed=9)
    original.save(alone | {"loss.discriminator.main.0.weight": torch.zeros(3)}, folder / "vq.ckpt")
    original.save(without("cond_stage_model.uncond")(state), folder / "cut.ckpt")
    original.save({"something": torch.zeros(3)}, folder / "other.ckpt")
    (folder / "torn.ckpt").write_bytes(file.read_bytes()[:500])
    assert main.main(["doctor", str(folder)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    told = {line.split(": ")[0].split()[-1]: line for line in lines if ".ckpt: " in line}
    assert told.keys() == {"model.ckpt", "happy.ckpt", "vq.ckpt", "cut.ckpt"} and err == ""
    assert "from before the tuning" in told["happy.ckpt"] and "the autoencoder alone" in told["vq.ckpt"]
    assert told["cut.ckpt"].startswith("unreadable") and "without cond_stage_model.uncond_embedding.*" in out
    assert sum("non-commercial" in line for line in lines) == 4 and "FLAME" not in out
    assert lines[-2:] == [
        f"Next: `emorig convert emotion-ldm '{folder}/{name}' OUT`, where OUT is a new folder (one for each model)."
        for name in ("model.ckpt", "tuned/happy.ckpt")
    ]
    (folder / "model.ckpt").unlink(), (folder / "tuned" / "happy.ckpt").unlink()
    assert main.main(["doctor", str(folder)]) == 0
    assert "Next: get a checkpoint of the whole model from https://" in capsys.readouterr().out


def test_another_autoencoder(state: State, file: Path, tmp_path: Path) -> None:
    alone = original.random_tensors(original.vq_shapes(SMALL), seed=9)
    both = alone | {"loss.discriminator.main.0.weight": torch.zeros(3), "loss.perceptual_loss.lin0.x": torch.zeros(3)}
    taken = read_parts(file, vq=original.save(both, tmp_path / "vq.ckpt"))["vqvae"]
    assert torch.equal(taken.encoder.conv_in.weight, alone["encoder.conv_in.weight"])


def without(*parts: str) -> Callable[[State], State]:
    return lambda state: {name: t for name, t in state.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    "change, words",
    [
        (without("model_ema."), r"no model_ema\.\*: take the last ones \(--raw\)"),
        (without("cond_stage"), "no usable embedding.weight"),
        (without("first_stage_model.decoder.mid.attn_1.q"), "lacks decoder.mid_block.attentions.0.to_q.weight"),
        (without("output_blocks81proj_out"), "lacks up_blocks.2.attentions.2.proj_out.weight"),
        (lambda state: state | {"model_ema.diffusion_modelx": torch.zeros(1)}, "has beyond the model diffusion_modelx"),
        (lambda state: state | {"logvar": torch.zeros(1)}, "is no checkpoint .* 'logvar'"),
        (lambda state: state | {"alphas_cumprod": torch.ones(1000)}, "another noise schedule"),
        (lambda state: state | {"cond_stage_model.embedding.weight": torch.zeros(5, SMALL.token)}, "not AffectNet's 8"),
        (lambda state: state | {"first_stage_model.quant_conv.bias": torch.full((3,), torch.nan)}, "not finite"),
        (lambda state: state | {"cond_stage_model.more": torch.zeros(1)}, "has beyond the model more"),
    ],
)  # fmt: skip
def test_what_is_refused(state: State, tmp_path: Path, change: Callable[[State], State], words: str) -> None:
    file = original.save(change(dict(state)), tmp_path / "bad.ckpt")
    with pytest.raises(ConvertError, match=words) as caught:
        convert_emotion_ldm(file, tmp_path / "out")
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
