"""Checkpoints of Diffusion Autoencoders: the converted pipeline computes what the original's equations give, or one
sentence says why there is none."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import original_diffae as original
import pytest
import torch
from original_diffae import (
    CODES,
    FFHQ64,
    FFHQ256,
    SMALL,
    Diffusion,
    Original,
    State,
    classifier_state,
    pooled_state,
    random_state,
    save_lightning,
    spread,
)
from PIL import Image
from torch import Tensor

from emorig_diffusers.cli import main
from emorig_diffusers.convert.adm import Heads, read_half_layout, read_layout, rename, settings_of
from emorig_diffusers.convert.diffae import (
    CELEBA_ATTRIBUTES,
    convert_diffae,
    latent_scheduler,
    read_classifier,
    read_latent_net,
    read_networks,
)
from emorig_diffusers.convert.diffae_files import read_spread
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.models.diffae import SemanticEncoder
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline

E = "ema_model."


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, over the largest number; what is compared must vary."""
    assert ours.shape == theirs.shape and theirs.std() > 0.02
    return float((ours - theirs).abs().max() / theirs.abs().max())


def doubled(state: State) -> State:
    return {name: tensor.double() for name, tensor in state.items()}


def photos(count: int, side: int) -> Tensor:
    """Smooth pictures [B, 3, S, S] in [-1, 1]."""
    rough = torch.rand(count, 3, 4, 4, generator=seed(3)) * 2 - 1
    return torch.nn.functional.interpolate(rough, (side, side), mode="bilinear")


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(SMALL, latent=True)


@pytest.fixture(scope="module")
def light() -> State:
    """For small files."""
    return random_state(SMALL, flat=True)


@pytest.fixture(scope="module")
def emotions() -> State:
    return classifier_state(8, SMALL.code)


@pytest.fixture(scope="module")
def attributes() -> State:
    return classifier_state(40, SMALL.code, seed=7)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return original.save_all(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def converted(originals: dict[str, Path]) -> Path:
    """By the command line, with everything."""
    out = originals["autoenc"].parents[1] / "new" / "pipe"
    words = [originals["autoenc"], out, "--latent", originals["latent.pkl"], "--emotions", originals["emotions"],
             "--attributes", originals["autoenc_cls"], "--latent-net", originals["autoenc_latent"]]  # fmt: skip
    assert main.main(["convert", "diffae", *map(str, words)]) == 0
    return out


@pytest.fixture(scope="module")
def pipe(converted: Path) -> DiffAEEmotionPipeline:
    pipe = DiffAEEmotionPipeline.from_pretrained(converted)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# the networks


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (SMALL, 32),
        (replace(FFHQ256, base=32, code=16), 64),
        (replace(Original(), base=32, code=16), 32),
        (Original(32, (1, 2), (0, 1), (1, 3, 2), (0,), blocks=1, code=5, size=64), 16),
        (Original(64, (1, 1, 2), (), (1, 2), (), blocks=3, code=20, size=64), 16),
        (replace(FFHQ64, base=32, code=16, embedding=96, blocks=1), 16),
        (replace(SMALL, encoder_blocks=1), 16),
        (replace(SMALL, heads=2), 16),
        (replace(SMALL, heads=4, attention=(0, 1), encoder_attention=(0, 2)), 16),
    ],
)
@torch.no_grad()
def test_networks_are_the_originals(model: Original, side: int, tmp_path: Path) -> None:
    state, blocks = random_state(model), model.encoder_blocks or model.blocks
    told = {"net_beatgans_attn_head": model.heads, "net_enc_num_res_blocks": blocks}
    unet, encoder = read_networks(save_lightning(state, tmp_path / "last.ckpt", **told))
    assert unet.config.sample_size == encoder.config.sample_size == model.size
    assert (unet.config.cond_mode, unet.config.in_channels, unet.config.condition_channels) == ("scale", 3, ())
    assert not unet.training and unet.dtype == encoder.dtype == torch.float32
    x, steps, z = torch.randn(2, 3, side, side, generator=seed(1)), torch.tensor([950, 3]), torch.randn(2, model.code)
    net = original.UNet(state, model)
    theirs = net(x, steps, z)
    assert relative(unet(x, steps, z).sample, theirs) < 1e-5
    assert (theirs - net(x, steps, 0 * z)).abs().max() > 0.1  # the code has been heard
    pictures = photos(2, max(side, 2 ** (len(model.encoder) - 1)))
    assert relative(encoder(pictures), original.encode(state, model, pictures)) < 1e-5


@torch.no_grad()
def test_attention_heads(tmp_path: Path) -> None:
    """The file says their number; one that does not is taken at its caller's word, or for one head with a note."""
    model = replace(SMALL, heads=4)
    state, said = random_state(model), []
    two, silent = (
        save_lightning(state, tmp_path / f"{heads}.ckpt", net_beatgans_attn_head=heads) for heads in (2, None)
    )
    with pytest.raises(ConvertError, match="2.ckpt' was trained with 2 attention heads, not with 4: leave num_heads"):
        convert_diffae(two, tmp_path / "pipe", num_heads=4)
    pictures = photos(2, 16)
    wanted = original.encode(state, model, pictures)
    far = relative(read_networks(two, say=said.append)[1](pictures), wanted)
    assert not said and far > 1e-3
    unet, encoder = read_networks(silent, 4, said.append)
    assert not said and relative(encoder(pictures), wanted) < 1e-5 and unet.config.num_attention_heads == 4
    one = read_networks(silent, say=said.append)
    assert one[1].config.num_attention_heads == 1 and len(said) == 1 and "does not tell its attention heads" in said[0]
    encoder.save_pretrained(tmp_path / "encoder")
    again = SemanticEncoder.from_pretrained(tmp_path / "encoder")
    assert relative(again(pictures), wanted) < 1e-5
    with pytest.raises(ValueError, match="num_attention_heads 3 does not divide"):
        SemanticEncoder(block_out_channels=(32, 64), attention_levels=(1,), num_attention_heads=3)


@torch.no_grad()
def test_true_size(tmp_path: Path) -> None:
    model = Original()
    state = pooled_state(model)
    own = {name: tensor for name, tensor in state.items() if name.startswith(E)}
    assert len(own) == 608 and sum(tensor.numel() for tensor in own.values()) == 128_545_155
    unet, encoder = read_networks(save_lightning(state, tmp_path / "last.ckpt"))
    assert sum(p.numel() for p in unet.parameters()) == 103_871_619
    assert sum(p.numel() for p in encoder.parameters()) == 24_673_536
    x, z = torch.randn(1, 3, 16, 16, generator=seed(1)), torch.randn(1, 512, generator=seed(2))
    assert relative(unet(x, 700, z).sample, original.UNet(state, model)(x, torch.tensor([700]), z)) < 1e-5
    assert relative(encoder(photos(2, 64)), original.encode(state, model, photos(2, 64))) < 1e-5


@pytest.mark.parametrize(
    ("model", "widths", "attention", "counts"),
    [
        (FFHQ256, (128, 128, 256, 256, 512, 512, 512), (4,), (138_341_891, 30_150_400)),
        (FFHQ64, (64, 128, 256, 512, 512), (2,), (71_518_723, 19_320_512)),
    ],
)
def test_true_sizes(
    model: Original, widths: tuple[int, ...], attention: tuple[int, ...], counts: tuple[int, int]
) -> None:
    """By names and shapes alone, without numbers."""
    file, one = Path("last.ckpt"), Heads()
    unet = {name.replace("time_embed.time_embed", "time_embed"): torch.empty(size, device="meta")
            for name, size in original.unet_shapes(model)}  # fmt: skip
    half = {name: torch.empty(size, device="meta") for name, size in original.encoder_shapes(model)}
    layout, encoder = read_layout(unet, file), read_half_layout(half, 2, file)
    assert encoder.widths == widths and encoder.attention == attention
    with torch.device("meta"):
        ours = RigUNet(in_channels=3, cond_mode="scale", condition_channels=(), **settings_of(unet, layout, one, file))
        code = SemanticEncoder(model.size, 3, encoder.widths, 2, encoder.attention)
    pairs = (ours, rename(unet, layout, one), counts[0]), (code, rename(half, encoder, one), counts[1])
    for module, tensors, count in pairs:
        renamed = {name.replace("out.3", "proj_out"): list(tensor.shape) for name, tensor in tensors.items()}
        own = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        if module is code:
            renamed["proj_out.weight"] = renamed["proj_out.weight"][:2]
        assert renamed == own and sum(map(prod, own.values())) == count


@torch.no_grad()
def test_latent_net_is_the_originals(originals: dict[str, Path], state: State) -> None:
    net = read_latent_net(originals["autoenc_latent"])
    x, steps = torch.randn(2, SMALL.code, generator=seed(1)), torch.tensor([999, 7])
    assert relative(net(x, steps), original.latent_noise(state, SMALL, x, steps)) < 1e-5
    assert torch.equal(net.mean, state["conds_mean"][0]) and torch.equal(net.std, state["conds_std"][0])


def test_latent_net_at_true_size(tmp_path: Path) -> None:
    state = random_state(Original(), latent=True, flat=True)
    own = {k: v for k, v in state.items() if k.startswith((E + "latent_net.", "conds_"))}
    net = read_latent_net(save_lightning(own, tmp_path / "last.ckpt"))
    assert sum(p.numel() for p in net.parameters()) == 54_109_696 + 2 * 512
    assert (net.config.num_layers, net.config.hidden, net.config.time_channels) == (10, 2048, 64)


def test_latent_scheduler() -> None:
    bars = latent_scheduler().alphas_cumprod.double().numpy()
    np.testing.assert_allclose(bars, np.cumprod(1 - CODES), rtol=2e-4)
    for name, first, last in (("const0.0015", 0.0015, 0.0015), ("linear", 1e-4, 0.02)):
        np.testing.assert_allclose(latent_scheduler(name).betas[[0, -1]], [first, last], rtol=1e-5)
    scheduler = latent_scheduler()
    scheduler.set_timesteps(20)
    assert sorted(scheduler.timesteps.tolist()) == Diffusion(20).steps


def test_half_precision_becomes_single(light: State, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in light.items()}
    unet, encoder = read_networks(save_lightning(half, tmp_path / "last.ckpt"))
    assert torch.equal(unet.conv_in.bias, half[f"{E}input_blocks.0.0.bias"].float())
    assert encoder.proj_out.weight.dtype == torch.float32


# classifiers


@torch.no_grad()
def test_classifiers(originals: dict[str, Path], emotions: State, attributes: State) -> None:
    z = torch.randn(3, SMALL.code, generator=seed(4))
    for kind, state, names in (("emotions", emotions, EMOTIONS), ("autoenc_cls", attributes, CELEBA_ATTRIBUTES)):
        classifier = read_classifier(originals[kind])
        assert classifier.names == names and (classifier.config.loss, classifier.config.move) == ("bce", "direction")
        assert relative(classifier(z), original.classify(state, z)) < 1e-5
        assert torch.equal(classifier.strength, torch.full((len(names),), 0.3)) and not classifier.means.any()
        for number in (1, len(names) - 1):
            for amount, intensity in ((1.0, 1.0), (-0.5, 1.0), (1.0, 1.5)):
                moved = classifier.moved(z, {names[number]: amount}, intensity)
                assert relative(moved, original.edit(state, z, number, 0.3 * amount * intensity)) < 1e-5
    assert len(CELEBA_ATTRIBUTES) == 40 and CELEBA_ATTRIBUTES.index("Smiling") == 31
    assert sum(p.numel() for p in read_classifier(originals["emotions"]).parameters()) == 2 * (8 * 49 + SMALL.code)


def test_the_labs_head(tmp_path: Path) -> None:
    classifier = read_classifier(save_lightning(classifier_state(8, 512), tmp_path / "last.ckpt"))
    assert classifier.weight.numel() + classifier.bias.numel() == 4_104


def test_normalisation_from_latent_pkl(originals: dict[str, Path], emotions: State, tmp_path: Path) -> None:
    bare = {name: tensor for name, tensor in emotions.items() if "ema" in name}
    file = save_lightning(bare, tmp_path / "last.ckpt")
    with pytest.raises(ConvertError, match=r"last.ckpt' does not tell how .* latent.pkl of its model.$"):
        read_classifier(file)
    expected = spread(SMALL.code)
    classifier = read_classifier(file, spread=read_spread(originals["latent.pkl"]))
    assert torch.equal(classifier.mean, expected["conds_mean"][0])
    own = read_classifier(originals["emotions"], spread=read_spread(originals["latent.pkl"]))
    assert torch.equal(own.mean, emotions["conds_mean"][0]) and not torch.equal(own.mean, classifier.mean)


def test_a_classifier_of_an_average_alone(emotions: State, tmp_path: Path) -> None:
    average = {name: tensor for name, tensor in emotions.items() if not name.startswith("classifier.")}
    classifier = read_classifier(save_lightning(average, tmp_path / "last.ckpt"))
    assert torch.equal(classifier.weight, emotions["ema_classifier.weight"])


def test_names_of_other_classes(originals: dict[str, Path], tmp_path: Path) -> None:
    file = save_lightning(classifier_state(3, SMALL.code), tmp_path / "last.ckpt")
    for names, expected in ((None, "names are not known: give 3"), (["a", "b"], "2 names were given: give 3"),
                            (["a", "b", "a"], "are the same")):  # fmt: skip
        with pytest.raises(ConvertError, match=expected):
            read_classifier(file, names)
    words = [originals["autoenc"], tmp_path / "pipe", "--emotions", file, "--names", "happy, sad,neutral"]
    assert main.main(["convert", "diffae", *map(str, words)]) == 0
    pipe = DiffAEEmotionPipeline.from_pretrained(tmp_path / "pipe")
    assert pipe.emotion_classifier.names == ("happy", "sad", "neutral") and pipe.latent_net is None
    with pytest.raises(ConvertError, match="5 names were given, but no classifier"):
        convert_diffae(originals["autoenc"], tmp_path / "new", emotions=originals["emotions"], names=list("abcde"))


# pipelines


def test_everything_is_in_the_pipeline(converted: Path, pipe: DiffAEEmotionPipeline, capsys: object) -> None:
    assert (pipe.config.default_num_inference_steps, pipe.config.inversion_steps) == (100, 250)
    assert (pipe.config.crop, pipe.config.resampling) == ("ffhq", "pil")
    assert pipe.emotion_names == EMOTIONS and pipe.latents_side == SMALL.size
    assert pipe.attribute_classifier.names == CELEBA_ATTRIBUTES
    parts = ["attribute_classifier", "emotion_classifier", "latent_net", "latent_scheduler", "model_index.json",
             "pipeline_diffae.py", "scheduler", "semantic_encoder", "unet"]  # fmt: skip
    assert sorted(p.name for p in converted.iterdir()) == parts and not any(converted.parent.glob(".*"))
    texts = [file.read_text() for file in converted.rglob("*.json")]
    assert not any("_name_or_path" in text or str(converted.parent) in text for text in texts)


@pytest.mark.parametrize("steps", [2, 7])
@torch.no_grad()
def test_sampling_and_its_reverse_are_the_originals(pipe: DiffAEEmotionPipeline, state: State, steps: int) -> None:
    pictures, noise = photos(2, 16), torch.randn(2, 3, 16, 16, generator=seed(5))
    both, diffusion = doubled(state), Diffusion(steps)
    z = original.encode(both, SMALL, pictures.double())
    assert relative(pipe.semantic_code(pictures).double(), z) < 1e-5
    net = original.UNet(both, SMALL)
    asked = lambda x, t: net(x, t, z)
    theirs = diffusion.reverse(asked, pictures.double())
    assert relative(pipe.stochastic_code(pictures, z.float(), steps).double(), theirs) < 2e-4
    theirs = diffusion.sample(asked, noise.double())
    assert relative(pipe.decode(noise, z.float(), Sampling(steps)).double(), theirs) < 2e-4
    assert relative(Diffusion(steps, clip=False).sample(asked, noise.double()), theirs) > 0.01  # clipping counts


def edited(state: State, emotions: State, picture: Tensor, number: int, amount: float) -> dict[str, Tensor]:
    """A picture [1, 3, S, S] edited by the original's equations alone: T_inv 5, T 4."""
    state, emotions = doubled(state), doubled(emotions)
    net, z = original.UNet(state, SMALL), original.encode(state, SMALL, picture.double())
    noise = Diffusion(5).reverse(lambda x, t: net(x, t, z), picture.double())
    moved = original.edit(emotions, z, number, amount)
    drawn = Diffusion(4).sample(lambda x, t: net(x, t, moved), noise)
    return {"source": z, "latents": noise, "target": moved, "drawn": drawn}


def assert_picture(ours: Image.Image, theirs: Tensor) -> None:
    """The same picture but for rounding, which random networks enlarge at single pixels."""
    numbers = ((theirs[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()
    difference = np.abs(np.asarray(ours) - numbers)
    assert numbers.std() > 20 and difference.mean() < 0.35 and difference.max() < 4  # rounding alone: 0.25, 0.5


def test_an_edited_picture_is_the_originals(pipe: DiffAEEmotionPipeline, state: State, emotions: State) -> None:
    picture = ((photos(1, 32)[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    seen = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    expected = edited(state, emotions, seen, EMOTIONS.index("surprise"), 0.3 * 0.7)
    result = pipe(
        Image.fromarray(picture), emotion="surprise", intensity=0.7, crop="whole", inversion_steps=5,
        num_inference_steps=4, paste="crop",
    )  # fmt: skip
    [face] = result.faces[0]
    for name, limit in (("source", 1e-5), ("target", 1e-5), ("latents", 1e-3)):  # rounding grows with the steps
        assert relative(getattr(face, name).double(), expected[name]) < limit, name
    assert_picture(face.drawn, expected["drawn"])
    assert np.abs(np.asarray(face.drawn, float) - np.asarray(face.buffers["photo"], float)).mean() > 20
    chances = original.classify(doubled(emotions), expected["source"]).sigmoid()[0]
    assert face.probabilities["surprise"][0] == pytest.approx(float(chances[3]), abs=1e-4)


@torch.no_grad()
def test_new_faces_are_the_originals(pipe: DiffAEEmotionPipeline, state: State) -> None:
    both, generator = doubled(state), seed(9)
    [ours] = pipe.generate(1, generator=seed(9), num_inference_steps=5, latent_steps=20)
    code, noise = torch.randn(1, SMALL.code, generator=generator), torch.randn(1, 3, 32, 32, generator=generator)
    asked = lambda x, t: original.latent_noise(both, SMALL, x, t)
    z = Diffusion(20, CODES, clip=False).sample(asked, code.double()) * both["conds_std"] + both["conds_mean"]
    net = original.UNet(both, SMALL)
    drawn = Diffusion(5).sample(lambda x, t: net(x, t, z), noise.double())
    assert_picture(ours, drawn)


def test_a_latent_run_is_an_autoencoder_too(
    originals: dict[str, Path], pipe: DiffAEEmotionPipeline, tmp_path: Path
) -> None:
    made = DiffAEEmotionPipeline.from_pretrained(convert_diffae(originals["autoenc_latent"], tmp_path / "pipe"))
    assert made.emotion_classifier is None and made.attribute_classifier is None
    for name in ("unet", "semantic_encoder", "latent_net"):
        ours, others = (getattr(p, name).state_dict() for p in (made, pipe))
        assert ours.keys() == others.keys() and all(torch.equal(ours[key], others[key]) for key in ours)
    alone = DiffAEEmotionPipeline.from_pretrained(convert_diffae(originals["autoenc"], tmp_path / "alone"))
    assert alone.latent_net is None and alone.latent_scheduler is None and "FFHQ" in alone.brought


def test_what_it_was_trained_on(light: State, tmp_path: Path) -> None:
    file = save_lightning(light, tmp_path / "last.ckpt", data_name="celebalmdb")
    assert "CelebA" in DiffAEEmotionPipeline.load_config(convert_diffae(file, tmp_path / "pipe"))["brought"]
