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
from original_rig import SMALL, Functional, Original, State, encode, random_state
from safetensors.torch import load_file

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.convert.rig import CONVENTIONS, assemble, convert_rig, read_mean_shape, read_networks
from emorig_diffusers.folders import FolderError
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.sampling import Sampling

LAB = replace(SMALL, code=314)


def save(state: object, file: Path) -> Path:
    torch.save(state, file)
    return file


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, over the largest number; what is compared must vary."""
    assert ours.shape == theirs.shape and theirs.std() > 0.02
    return float((ours - theirs).abs().max() / theirs.abs().max())


def inputs(model: Original, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy samples with conditions, steps and codes of two faces."""
    stacked = torch.randn(2, 12, side, side, generator=seed(1))
    return stacked, torch.tensor([950, 3]), torch.randn(2, model.code, generator=seed(2))


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(SMALL)


@pytest.fixture(scope="module")
def light() -> State:
    """For small files: few numbers in the encoder."""
    return random_state(replace(SMALL, multipliers=(1, 1), blocks=1, attention=(0,)), flat=True)


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(OrderedDict(state), tmp_path_factory.mktemp("original") / "model050000.pt")


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    return convert_rig(checkpoint, checkpoint.parent / "rig")


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


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (SMALL, 32),
        (LAB, 16),
        (Original(base=32), 32),  # the six levels for 256 pixels
        (Original(base=32, multipliers=(1, 1, 2, 3, 4), attention=(3,)), 32),  # for 128
        (Original(base=64, multipliers=(0.5, 1, 1, 1.5), attention=(2,)), 16),  # 512's are (0.5, 1, 1, 2, 2, 4, 4)
        (Original(base=32, multipliers=(1, 3), blocks=1, attention=(0, 1), code=5, latent=5), 16),
        (Original(base=64, multipliers=(1, 1, 2), blocks=3, attention=()), 16),
    ],
)
def test_unet_is_the_originals(model: Original, side: int, tmp_path: Path) -> None:
    state = random_state(model)
    unet, _ = read_networks(save(state, tmp_path / "model000001.pt"))
    assert not unet.training and unet.dtype == torch.float32
    stacked, steps, code = inputs(model, side)
    original = Functional(state, model)
    with torch.no_grad():
        both = [(unet(stacked, steps, z).sample, original(stacked, steps, z)) for z in (code, None)]
    assert max(relative(*pair) for pair in both) < 1e-5
    assert (both[0][1] - both[1][1]).abs().max() > 0.1  # the code has been heard


@pytest.mark.parametrize("resnet", [18, 50])
def test_encoder_is_the_originals(resnet: int, tmp_path: Path) -> None:
    model = replace(SMALL, resnet=resnet, latent=20, code=20)
    state = random_state(model)
    _, encoder = read_networks(save(state, tmp_path / "model.pt"))
    assert encoder.config.architecture == f"resnet{resnet}" and not encoder.training
    photos = torch.rand(2, 3, 64, 64, generator=seed(3)) * torch.tensor([2.0, 0.3])[:, None, None, None] - 1
    with torch.no_grad():
        assert relative(encoder(photos), encode(state, model, photos)) < 1e-5


def test_the_released_size(tmp_path: Path) -> None:
    model = Original()
    state = random_state(model)
    assert len(state) == 712
    unet, encoder = read_networks(save(state, tmp_path / "model.pt"))
    assert sum(p.numel() for p in unet.parameters()) == 133_400_835
    assert sum(p.numel() for p in encoder.parameters()) == 11_209_344
    assert unet.config.sample_size == 256
    stacked, steps, code = inputs(model, 64)
    with torch.no_grad():
        ours = unet(stacked[:1], steps[:1], code[:1]).sample
        assert relative(ours, Functional(state, model)(stacked[:1], steps[:1], code[:1])) < 1e-5


def test_folders_open_alone(folder: Path, state: State) -> None:
    unet = RigUNet.from_pretrained(folder, subfolder="unet")
    encoder = AppearanceEncoder.from_pretrained(folder, subfolder="appearance_encoder")
    assert (unet.config.sample_size, unet.config.attention_levels, unet.config.cond_dim) == (64, [2], 64)
    stacked, steps, code = inputs(SMALL, 16)
    with torch.no_grad():
        assert relative(unet(stacked, steps, code).sample, Functional(state, SMALL)(stacked, steps, code)) < 1e-5
        photos = torch.rand(2, 3, 32, 32, generator=seed(3)) * torch.tensor([2.0, 0.3])[:, None, None, None] - 1
        assert relative(encoder(photos), encode(state, SMALL, photos)) < 1e-5
    assert sorted(p.name for p in folder.iterdir()) == [
        "appearance_encoder", "model_index.json", "pipeline_emorig.py", "scheduler", "unet"
    ]  # fmt: skip
    assert not any(folder.parent.glob(".*"))


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
    assert pipe.head is head and pipe.encoder is encoder and pipe.published
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
    pipe = EmoRigPipeline.from_pretrained(convert_rig(checkpoint, tmp_path / "rig", tmp_path / "head", parts[1]))
    pipe.set_progress_bar_config(disable=True)
    assert set(pipe.config.emotion_codes) >= {"neutral", "happy", "anger"}
    assert all(len(codes) == 53 for codes in pipe.config.emotion_codes.values())
    photo = torch.rand(1, 3, 64, 64, generator=seed(3)) * 2 - 1
    conditions, code = torch.rand(1, 9, 32, 32, generator=seed(4)), pipe.appearance_code(photo)
    noise = torch.randn(1, 3, 32, 32, generator=seed(5))
    with torch.no_grad():
        sample, _ = pipe.sample(noise, conditions, code, Sampling(20))
    expected = guided_sample({k: v.double() for k, v in state.items()}, noise, conditions, photo)
    assert expected.std() > 0.1
    torch.testing.assert_close(sample.double(), expected, atol=1e-4, rtol=0)


def guided_sample(state: State, noise: torch.Tensor, conditions: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
    """guided-diffusion's "ddim20" with clip_denoised in double precision, from the original's tensors alone.

    Its schedule is respaced: only every 50th step is kept, each with the beta that takes it from the one before.
    """
    original, code = Functional(state, SMALL), encode(state, SMALL, photo.double())
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[::50]
    bars = np.cumprod(1 - (1 - kept / np.append(1.0, kept[:-1])))
    x, conditions = noise.double(), conditions.double()
    for i in reversed(range(20)):
        epsilon = original(torch.cat([x, conditions], 1), torch.tensor([50.0 * i]).double(), code)
        clean = (np.sqrt(1 / bars[i]) * x - np.sqrt(1 / bars[i] - 1) * epsilon).clamp(-1, 1)
        epsilon = (np.sqrt(1 / bars[i]) * x - clean) / np.sqrt(1 / bars[i] - 1)
        before = bars[i - 1] if i else 1.0
        x = clean * np.sqrt(before) + np.sqrt(1 - before) * epsilon
    return x


def test_assemble_is_convert_with_parts(
    checkpoint: Path, folder: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = convert_rig(checkpoint, tmp_path / "whole", *parts)
    joined = assemble(tmp_path / "joined", *parts, rig=folder)
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(joined) for p in joined.rglob("*") if p.is_file())
    for file in files:
        if file.suffix == ".safetensors":
            first, second = load_file(whole / file), load_file(joined / file)
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
        else:
            first, second = ((place / file).read_text() for place in (whole, joined))
            assert first == second and "_name_or_path" not in first


def test_assemble_without_a_network(parts: tuple[Path, Path], tmp_path: Path) -> None:
    pipe = EmoRigPipeline.from_pretrained(assemble(tmp_path / "pipe", *parts))
    assert pipe.unet is None and isinstance(pipe.encoder, EmocaEncoder)
    assert {name: pipe.config[name] for name in CONVENTIONS} == CONVENTIONS
    assert pipe.config.emotion_codes is None
    first = load_file(parts[0] / "diffusion_pytorch_model.safetensors")
    assert torch.equal(pipe.head.shape_basis, first["shape_basis"])


def test_the_labs_code(parts: tuple[Path, Path], tmp_path: Path) -> None:
    file = save(random_state(LAB, flat=True), tmp_path / "model010000.pt")
    pipe = EmoRigPipeline.from_pretrained(convert_rig(file, tmp_path / "rig", *parts))
    assert pipe.code_parts == ("appearance", "shape", "shape", "texture")
    assert pipe.unet.config.cond_dim == 314


def test_code_parts_said(parts: tuple[Path, Path], tmp_path: Path) -> None:
    file = save(random_state(replace(SMALL, code=114), flat=True), tmp_path / "model.pt")
    with pytest.raises(ConvertError, match="code of 114 numbers, of which its encoder gives 64: say in code_parts"):
        convert_rig(file, tmp_path / "rig", *parts)
    with pytest.raises(ConvertError, match="a code of 114 numbers, but appearance shape of these parts have 164"):
        convert_rig(file, tmp_path / "rig", *parts, code_parts="appearance shape")
    with pytest.raises(ConvertError, match="Unknown code part 'jaw'"):
        convert_rig(file, tmp_path / "rig", code_parts="appearance jaw")
    assert not (tmp_path / "rig").exists()
    convert_rig(file, tmp_path / "rig", *parts, code_parts="appearance expression")
    assert EmoRigPipeline.from_pretrained(tmp_path / "rig").code_parts == ("appearance", "expression")


def test_mean_shape(checkpoint: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    shape = torch.randn(1, 100, generator=seed(6))
    file = tmp_path / "mean_shape.pkl"
    file.write_bytes(pickle.dumps(shape))
    pipe = EmoRigPipeline.from_pretrained(convert_rig(checkpoint, tmp_path / "rig", *parts, mean_shape=file))
    assert torch.equal(torch.tensor([pipe.config.shape]), shape)
    joined = EmoRigPipeline.from_pretrained(assemble(tmp_path / "a", *parts, rig=tmp_path / "rig"))
    assert joined.config.shape == pipe.config.shape
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
    return lambda _: random_state(replace(SMALL, **settings), flat=True)


U = "denoisingUNet."
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
    "no levels": (lambda s: {k: v for k, v in s.items() if ".output_blocks." not in k}, "no complete UNet"),
    "half of the levels": (lambda s: {k: v for k, v in s.items() if "output_blocks.3" not in k}, "no complete UNet"),
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
    refused(save(make(light), tmp_path / "model.pt"), expected)


def refused(file: Path, expected: str) -> None:
    """One sentence that names the file, and nothing left behind."""
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(ConvertError, match=expected) as caught:
        convert_rig(file, file.parent / "new" / "rig")
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and file.name in message
    assert sorted(file.parent.rglob("*")) == before


def test_damaged_and_malicious_files(checkpoint: Path, light: State, tmp_path: Path) -> None:
    victim, file = tmp_path.parent / f"{tmp_path.name}-victim", tmp_path / "model.pt"
    whole = checkpoint.read_bytes()
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
        convert_rig(checkpoint, tmp_path / "rig", mean_shape=pickled)
    assert not victim.exists() and not (tmp_path / "rig").exists()


def test_the_legacy_format(light: State, tmp_path: Path) -> None:
    torch.save(light, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    unet, _ = read_networks(tmp_path / "model.pt")
    assert torch.equal(unet.conv_in.weight, light[U + "input_blocks.0.0.weight"])


def test_folders_that_are_taken_or_lacking(
    checkpoint: Path, folder: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FolderError, match="is there already and not empty"):
        convert_rig(checkpoint, tmp_path)
    with pytest.raises(FolderError, match="is there already and not empty"):
        assemble(tmp_path, *parts)
    with pytest.raises(ConvertError, match="give both folders, or neither"):
        convert_rig(checkpoint, tmp_path / "rig", head=parts[0])
    with pytest.raises(ConvertError, match="no folder '.*nowhere' to read a HeadModel"):
        assemble(tmp_path / "rig", tmp_path / "nowhere", parts[1])
    with pytest.raises(ConvertError, match="is no folder of a HeadModel"):
        assemble(tmp_path / "rig", tmp_path, parts[1])
    with pytest.raises(ConvertError, match="to read a RigUNet"):
        assemble(tmp_path / "rig", *parts, rig=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
