"""DiffusionRig's checkpoints: the converted networks compute what the original's equations give, or one sentence."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from original_diffae import Diffusion
from original_rig import SMALL, TINY, Functional, State, encode, random_state
from rig_checkpoints import inputs, relative, save, seed
from safetensors.torch import load_file

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.convert.adm import Heads
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.convert.rig import (
    CONVENTIONS,
    LAB_CODES,
    assemble,
    convert_rig,
    read_mean_shape,
    read_networks,
    sampling_of,
)
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.diffusion.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler
from emorig_diffusers.files.folders import FolderError
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet

LAB = replace(TINY, code=314)
MODEL = replace(SMALL, blocks=1)
ONE_HEAD, U = Heads(), "denoisingUNet."


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(MODEL)


@pytest.fixture(scope="module")
def light() -> State:
    """For small files: few numbers in the encoder."""
    return random_state(TINY, flat=True)


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(OrderedDict(state), tmp_path_factory.mktemp("original") / "model050000.pt")


@pytest.fixture(scope="module")
def small_file(light: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(light, tmp_path_factory.mktemp("light") / "model050000.pt")


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    return convert_rig(checkpoint, checkpoint.parent / "rig", heads=ONE_HEAD)


@pytest.fixture(scope="module")
def parts(pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A head and an encoder with FLAME's numbers of codes: the open head's mesh, bases and weights at random.

    Its units have names, so that no emotions are carried over, which takes seconds."""
    torch.manual_seed(0)
    config = {k: v for k, v in pipe.head.config.items() if not k.startswith("_")}
    head = HeadModel(**config | {"num_shape": 100, "num_expression": 50, "expression_names": tuple("e" * 50)})
    own = pipe.head.state_dict()
    vertices = config["num_vertices"]
    bases = {"shape_basis": 100, "expression_basis": 50}
    own |= {name: 1e-3 * torch.randn(count, vertices, 3) for name, count in bases.items()}
    head.load_state_dict(own)
    encoder = EmocaEncoder("small", hidden=32, image_size=32, shared_trunk=True)
    folder = tmp_path_factory.mktemp("parts")
    for part, name in ((head, "head"), (encoder, "encoder")):
        part.save_pretrained(folder / name)
    return folder / "head", folder / "encoder"


# the networks


def test_folders_open_alone(folder: Path, state: State) -> None:
    unet = RigUNet.from_pretrained(folder, subfolder="unet")
    encoder = AppearanceEncoder.from_pretrained(folder, subfolder="appearance_encoder")
    assert (unet.config.sample_size, unet.config.attention_levels, unet.config.cond_dim) == (64, [2], 64)
    stacked, steps, code = inputs(MODEL, 16)
    with torch.no_grad():
        assert relative(unet(stacked, steps, code).sample, Functional(state, MODEL)(stacked, steps, code)) < 1e-5
        photos = torch.rand(2, 3, 32, 32, generator=seed(3)) * torch.tensor([2.0, 0.3])[:, None, None, None] - 1
        assert relative(encoder(photos), encode(state, MODEL, photos)) < 1e-5
    assert sorted(p.name for p in folder.iterdir()) == [
        "appearance_encoder", "blocks_emorig.py", "model_index.json", "modular_config.json",
        "modular_model_index.json", "pipeline_emorig.py", "scheduler", "unet",
    ]  # fmt: skip
    assert not any(folder.parent.glob(".*"))


def test_heads_that_do_not_fit(small_file: Path, tmp_path: Path) -> None:
    for heads, expected in ((Heads(3), "num_attention_heads 3"), (Heads(1, 24), "attention_head_dim 24")):
        with pytest.raises(ConvertError, match=f"no layout of DiffusionRig: {expected} does not divide"):
            convert_rig(small_file, tmp_path / "rig", heads=heads)
    with pytest.raises(ValueError, match="exclude each other"):
        RigUNet(num_attention_heads=2, attention_head_dim=16)


def test_half_precision_becomes_single(light: State, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in light.items()}
    unet, _ = read_networks(save(half, tmp_path / "model.pt"))
    assert torch.equal(unet.conv_in.bias, half["denoisingUNet.input_blocks.0.0.bias"].float())


# pipelines


def test_networks_alone_ask_for_the_others(folder: Path, parts: tuple[Path, Path]) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    assert index["head"] == index["encoder"] == [None, None]
    head, encoder = HeadModel.from_pretrained(parts[0]), EmocaEncoder.from_pretrained(parts[1])
    pipe = EmoRigPipeline.from_pretrained(folder, head=head, encoder=encoder)
    assert pipe.head is head and pipe.encoder is encoder and "whole_crop" in pipe.capabilities
    assert pipe.code_parts == ("appearance",) and pipe.config.crop == "ffhq"
    assert (pipe.config.resampling, pipe.config.rasterizer) == ("skimage", "pytorch3d")
    assert (pipe.config.crop_size, pipe.config.default_num_inference_steps) == (64, 20)
    assert pipe.config.shape is None and pipe.config.emotion_codes is None


def test_complete_pipeline_samples_as_the_original(
    checkpoint: Path, parts: tuple[Path, Path], state: State, tmp_path: Path
) -> None:
    head = HeadModel.from_pretrained(parts[0])
    head.register_to_config(expression_names=())
    head.save_pretrained(tmp_path / "head")
    made = convert_rig(checkpoint, tmp_path / "rig", tmp_path / "head", parts[1], heads=ONE_HEAD)
    pipe = EmoRigPipeline.from_pretrained(made)
    pipe.set_progress_bar_config(disable=True)
    assert set(pipe.config.emotion_codes) >= {"neutral", "happy", "anger"}
    assert all(len(codes) == 53 for codes in pipe.config.emotion_codes.values())
    photo = torch.rand(1, 3, 64, 64, generator=seed(3)) * 2 - 1
    conditions, code = torch.rand(1, 9, 32, 32, generator=seed(4)), pipe.painter.appearance_code(photo)
    noise = torch.randn(1, 3, 32, 32, generator=seed(5))
    double = {k: v.double() for k, v in state.items()}
    original, z = Functional(double, MODEL), encode(double, MODEL, photo.double())
    asked = lambda x, t: original(torch.cat([x, conditions.double()], 1), t, z)
    for steps in (3, 7):  # 1,000 is no multiple of either
        with torch.no_grad():
            sample, _ = pipe.sample(noise, conditions, code, Sampling(steps))
        expected = Diffusion(steps).sample(asked, noise.double())
        assert expected.std() > 0.1
        torch.testing.assert_close(sample.double(), expected, atol=1e-4, rtol=0)


def test_assemble_is_convert_with_parts(small_file: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"heads": Heads(2), "sampler": "ddpm", "best_of": 4}
    folder = convert_rig(small_file, tmp_path / "alone", **options)
    whole = convert_rig(small_file, tmp_path / "whole", *parts, **options)
    joined = assemble(tmp_path / "joined", *parts, rig=folder)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(joined) for p in joined.rglob("*") if p.is_file())
    for file in files:
        if file.suffix == ".safetensors":
            first, second = load_file(whole / file), load_file(joined / file)
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
        else:
            first, second = ((place / file).read_text() for place in (whole, joined))
            assert first == second and '"_name_or_path"' not in first


def test_assemble_without_a_network(parts: tuple[Path, Path], tmp_path: Path) -> None:
    pipe = EmoRigPipeline.from_pretrained(assemble(tmp_path / "pipe", *parts))
    assert pipe.unet is None and isinstance(pipe.encoder, EmocaEncoder)
    assert {name: pipe.config[name] for name in CONVENTIONS} == CONVENTIONS
    assert pipe.config.emotion_codes is None
    first = load_file(parts[0] / "diffusion_pytorch_model.safetensors")
    assert torch.equal(pipe.head.shape_basis, first["shape_basis"])


def test_the_labs_code(parts: tuple[Path, Path], tmp_path: Path) -> None:
    file = save(random_state(LAB, flat=True), tmp_path / "model010000.pt")
    said: list[str] = []
    made = EmoRigPipeline.from_pretrained(convert_rig(file, tmp_path / "rig", *parts, say=said.append))
    assert made.code_parts == ("appearance", "shape", "shape", "texture")
    assert made.unet.config.cond_dim == 314
    assert isinstance(made.scheduler, RespacedDDPMScheduler) and made.scheduler.config.num_train_timesteps == 500
    assert made.config.default_num_inference_steps == 500
    assert len(said) == 2 and "attention heads: one is assumed" in said[0] and "500 steps of DDPM" in said[1]


@pytest.mark.parametrize(
    ("names", "chosen", "kind", "total", "steps"),
    [
        (("appearance",), {}, RespacedDDIMScheduler, 1000, 20),
        (("appearance",), {"sampler": "ddpm"}, RespacedDDPMScheduler, 1000, 1000),
        (("appearance",), {"diffusion_steps": 500}, RespacedDDIMScheduler, 500, 20),
        (LAB_CODES[0], {"sampler": "ddim"}, RespacedDDIMScheduler, 500, 50),
        (LAB_CODES[1], {}, RespacedDDPMScheduler, 500, 500),
        (LAB_CODES[1], {"diffusion_steps": 1000}, RespacedDDPMScheduler, 1000, 1000),
        (LAB_CODES[0], {"diffusion_steps": 30, "sampler": "ddim"}, RespacedDDIMScheduler, 30, 30),
    ],
)
def test_how_a_network_is_sampled(
    names: tuple[str, ...], chosen: dict[str, object], kind: type, total: int, steps: int
) -> None:
    scheduler, count = sampling_of(names, **chosen)
    assert type(scheduler) is kind and (scheduler.config.num_train_timesteps, count) == (total, steps)
    bars = np.cumprod(1 - np.linspace(0.1 / total, 20 / total, total))
    np.testing.assert_allclose(scheduler.alphas_cumprod, bars, rtol=5e-4, atol=1e-6)


def test_samplers_that_there_are_not(small_file: Path, tmp_path: Path) -> None:
    for options, expected in (({"sampler": "euler"}, "ddim or ddpm"), ({"diffusion_steps": 7}, "from 21 to 10000")):
        with pytest.raises(ConvertError, match=expected):
            convert_rig(small_file, tmp_path / "rig", heads=ONE_HEAD, **options)


def test_code_parts_said(parts: tuple[Path, Path], tmp_path: Path) -> None:
    file, sure = save(random_state(replace(TINY, code=114), flat=True), tmp_path / "model.pt"), {"heads": ONE_HEAD}
    with pytest.raises(ConvertError, match="code of 114 numbers, of which its encoder gives 64: say in code_parts"):
        convert_rig(file, tmp_path / "rig", *parts)
    with pytest.raises(ConvertError, match="a code of 114 numbers, but appearance shape of these parts have 164"):
        convert_rig(file, tmp_path / "rig", *parts, code_parts="appearance shape")
    with pytest.raises(ConvertError, match="Unknown code part 'jaw'"):
        convert_rig(file, tmp_path / "rig", code_parts="appearance jaw")
    assert not (tmp_path / "rig").exists()
    convert_rig(file, tmp_path / "rig", *parts, code_parts="appearance expression", **sure)
    assert EmoRigPipeline.from_pretrained(tmp_path / "rig").code_parts == ("appearance", "expression")


def test_mean_shape(small_file: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    shape = torch.randn(1, 100, generator=seed(6))
    file = tmp_path / "mean_shape.pkl"
    file.write_bytes(pickle.dumps(shape))
    made = convert_rig(small_file, tmp_path / "rig", *parts, mean_shape=file, heads=ONE_HEAD)
    pipe = EmoRigPipeline.from_pretrained(made)
    assert torch.equal(torch.tensor([pipe.config.shape]), shape)
    joined = EmoRigPipeline.load_config(assemble(tmp_path / "a", *parts, rig=tmp_path / "rig"))
    assert joined["shape"] == pipe.config.shape
    file.write_bytes(pickle.dumps(shape[:, :80]))
    with pytest.raises(ConvertError, match="The mean shape has 80 numbers, the head's shapes 100"):
        assemble(tmp_path / "b", *parts, rig=tmp_path / "rig", mean_shape=file)
    for wrong in (torch.zeros(100), torch.zeros(2, 100), torch.full((1, 100), float("nan")), [0.0] * 100):
        file.write_bytes(pickle.dumps(wrong))
        with pytest.raises(ConvertError, match="give DiffusionRig's mean_shape.pkl"):
            read_mean_shape(file)


# what is refused


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.victim}",)


def without(name: str) -> Callable[[State], object]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def changed(name: str, value: object) -> Callable[[State], object]:
    return lambda state: {**state, name: value}


def other(**settings: int) -> Callable[[State], object]:
    return lambda _: random_state(replace(TINY, **settings), flat=True)


WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "a missing bias": (without(U + "middle_block.1.proj_out.bias"), "mid_block.attentions.0.to_out.0.bias"),
    "a missing block": (without(U + "out.2.weight"), "no usable tensor out.2.weight"),
    "a missing counter": (without("encoder.bn1.num_batches_tracked"), "bn1.num_batches_tracked"),
    "a surplus tensor": (changed(U + "label_emb.weight", torch.zeros(8, 128)), "label_emb.weight"),
    "a surplus layer": (changed(U + "middle_block.0.extra.weight", torch.zeros(1)), "middle_block.0.extra.weight"),
    "a wrong shape": (changed(U + "input_blocks.2.0.in_layers.2.weight", torch.zeros(32, 32, 1, 1)), "conv1.weight"),
    "a scalar qkv": (changed(U + "middle_block.1.qkv.weight", torch.tensor(1.0)), "qkv.weight"),
    "short qkv": (changed(U + "middle_block.1.qkv.weight", torch.zeros(32, 32, 1)), "to_q.weight"),
    "other inputs": (other(inputs=15), "15 input and 3 output channels"),
    "a learnt variance": (other(outputs=6), "12 input and 6 output channels"),
    "narrow levels": (other(base=16), "no layout of DiffusionRig: norm_num_groups"),
    "plain downsampling": (changed(U + "input_blocks.2.0.op.weight", torch.zeros(1)), "resblock_updown.*not supported"),
    "plain upsampling": (changed(U + "output_blocks.1.1.conv.bias", torch.zeros(1)), "resblock_updown.*not supported"),
    "time that only shifts": (changed(U + "input_blocks.1.0.emb_layers.1.weight", torch.zeros(32, 128)),
                              "without use_scale_shift_norm.*not supported"),
    "fewer blocks on the way down": (
        lambda s: {k: v for k, v in s.items() if "input_blocks.3." not in k}, "no complete UNet .*3 input_blocks"
    ),
    "no levels": (lambda s: {k: v for k, v in s.items() if ".output_blocks." not in k}, "no complete UNet"),
    "half of a level": (lambda s: {k: v for k, v in s.items() if "output_blocks.3" not in k}, "no complete UNet"),
    "no encoder": (lambda s: {k: v for k, v in s.items() if not k.startswith("encoder.")}, "usable tensor fc.weight"),
    "an optimizer": (lambda _: {"state": {}, "param_groups": []}, "is no model of DiffusionRig"),
    "a wrapped model": (lambda s: {"model": s}, "is no model of DiffusionRig.*found 'model'"),
    "nothing": (lambda _: {}, "is no model of DiffusionRig.*found nothing"),
    "a list": (lambda s: list(s.values())[:3], "holds a list"),
    "numbers by names": (lambda _: {U + "out.0.weight": 3}, "is no model of DiffusionRig"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_checkpoints(name: str, light: State, tmp_path: Path) -> None:
    make, expected = WRONG[name]
    message = refused(save(make(light), tmp_path / "model.pt"), expected)
    assert "download" not in message  # the file is whole: it would come out the same


def refused(file: Path, expected: str) -> str:
    """One sentence that names the file, and nothing left behind."""
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(ConvertError, match=expected) as caught:
        convert_rig(file, file.parent / "new" / "rig")
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and file.name in message
    assert sorted(file.parent.rglob("*")) == before
    return message


def test_damaged_and_malicious_files(small_file: Path, light: State, tmp_path: Path) -> None:
    victim, file = tmp_path.parent / f"{tmp_path.name}-victim", tmp_path / "model.pt"
    whole = small_file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:100], b"<!DOCTYPE html><html>Sign in", b"no file" * 99):
        file.write_bytes(content)
        refused(file, "model.pt")
    for legacy in (True, False):
        torch.save({**light, "evil": Malice(victim)}, file, _use_new_zipfile_serialization=not legacy)
        refused(file, "system")
    file.unlink()
    with pytest.raises(ConvertError):
        convert_rig(file, tmp_path / "rig")
    pickled = tmp_path / "mean_shape.pkl"
    pickled.write_bytes(pickle.dumps(Malice(victim)))
    with pytest.raises(ConvertError, match="system"):
        convert_rig(small_file, tmp_path / "rig", mean_shape=pickled)
    assert not victim.exists() and not (tmp_path / "rig").exists()


def test_the_legacy_format(light: State, tmp_path: Path) -> None:
    torch.save(light, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    unet, _ = read_networks(tmp_path / "model.pt")
    assert torch.equal(unet.conv_in.weight, light[U + "input_blocks.0.0.weight"])


def test_folders_that_are_taken_or_lacking(parts: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FolderError, match="is there already and not empty"):
        convert_rig(tmp_path / "never_read.pt", tmp_path)
    with pytest.raises(FolderError, match="is there already and not empty"):
        assemble(tmp_path, *parts)
    with pytest.raises(ConvertError, match="give both folders, or neither"):
        convert_rig(tmp_path / "never_read.pt", tmp_path / "rig", head=parts[0])
    with pytest.raises(ConvertError, match="no folder '.*nowhere' to read a HeadModel"):
        assemble(tmp_path / "rig", tmp_path / "nowhere", parts[1])
    with pytest.raises(ConvertError, match="is no folder of a HeadModel"):
        assemble(tmp_path / "rig", tmp_path, parts[1])
    with pytest.raises(ConvertError, match="to read a RigUNet"):
        assemble(tmp_path / "rig", *parts, rig=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
