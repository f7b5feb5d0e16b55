"""Weights lie at addresses that 64 divides, however a model or a pipeline was opened."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from small_diffae import CODE, small_diffae
from torch import nn

import emorig_diffusers.models
from emorig_diffusers import DiffAEEmotionPipeline, EmoRigPipeline
from emorig_diffusers.evaluation.metrics import FerJudge
from emorig_diffusers.evaluation.metrics.perceptual import LPIPS
from emorig_diffusers.hub.repository import export_hub, resolve
from emorig_diffusers.models.aligned import ALIGNMENT, AlignedMixin, align_weights
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.detail import DetailModel
from emorig_diffusers.models.diffae import LatentNet, SemanticEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.emotion_ldm import EmotionEmbedding
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.models.semantic_classifier import LatentClassifier
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.pipelines.base import open_pipeline

MODELS: dict[type, Callable[[], nn.Module]] = {
    AppearanceEncoder: lambda: AppearanceEncoder(cond_dim=5),
    DetailModel: lambda: DetailModel("small", 16, num_expression=7, image_size=32),
    EmocaEncoder: lambda: EmocaEncoder("small", 16, 5, 0, 7, 32, shared_trunk=True, calibrated=True),
    EmotionEmbedding: lambda: EmotionEmbedding(("happy", "sad"), 5),
    HeadModel: lambda: HeadModel(7, 2, 5, 3, 7, expression_names=tuple("abcdefg")),
    LandmarkEncoder: lambda: LandmarkEncoder(7),
    LatentClassifier: lambda: LatentClassifier(("a", "b", "c"), 5),
    LatentNet: lambda: LatentNet(CODE, 32, 3),
    NeuralHeadModel: lambda: NeuralHeadModel(1, 1, 3, 2, 16, 2, 5, 3, 16, 2, 4),
    RigUNet: lambda: RigUNet(
        block_out_channels=(8, 16), layers_per_block=1, attention_levels=(0,), norm_num_groups=4, cond_dim=5
    ),
    SemanticEncoder: lambda: SemanticEncoder(
        block_out_channels=(8, 16), layers_per_block=1, attention_levels=(1,), norm_num_groups=4, cond_dim=5
    ),
}  # fmt: skip


def odd(module: nn.Module) -> list[str]:
    """Names of weights and buffers at other addresses."""
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    assert tensors
    return [name for name, tensor in tensors.items() if tensor.data_ptr() % ALIGNMENT]


def shift(folder: Path) -> None:
    """Pad the header of every safetensors file so that its first tensor lies 8 bytes after a multiple of 64."""
    for file in folder.rglob("*.safetensors"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        padded = length + -length % ALIGNMENT
        file.write_bytes(padded.to_bytes(8, "little") + data[8 : 8 + length].ljust(padded) + data[8 + length :])


def saved(model: nn.Module, folder: Path, **options: object) -> Path:
    model.save_pretrained(folder, **options)
    shift(folder)
    return folder


def test_every_model_of_the_package_is_here() -> None:
    def below(kind: type) -> set[type]:
        return {kind, *(one for child in kind.__subclasses__() for one in below(child))}

    package = emorig_diffusers.models.__name__
    ours = {kind for kind in below(diffusers.ModelMixin) if kind.__module__.startswith(package)}
    assert ours == MODELS.keys() and all(issubclass(kind, AlignedMixin) for kind in ours)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_models(kind: type, tmp_path: Path) -> None:
    model = MODELS[kind]()
    folder = saved(model, tmp_path / "model")
    with safe_open(folder / "diffusion_pytorch_model.safetensors", "pt") as mapped:
        assert any(mapped.get_tensor(name).data_ptr() % ALIGNMENT for name in mapped.keys())  # noqa: SIM118
    opened = kind.from_pretrained(folder)
    assert not odd(opened) and not opened.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, opened.state_dict()[name]), name


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({}, {"disable_mmap": True}),
        ({}, {"low_cpu_mem_usage": False}),
        ({}, {"torch_dtype": torch.float16}),
        ({}, {"torch_dtype": torch.float64}),
        ({"variant": "one"}, {"variant": "one"}),
        ({"max_shard_size": "20KB"}, {}),
        ({"safe_serialization": False}, {"use_safetensors": False}),
    ],
    ids=str,
)
def test_ways_to_open_a_model(written: dict, read: dict, tmp_path: Path) -> None:
    folder = saved(MODELS[RigUNet](), tmp_path, **written)
    assert not odd(RigUNet.from_pretrained(folder, **read))
    opened, info = RigUNet.from_pretrained(folder, output_loading_info=True, **read)
    assert not odd(opened) and not info["missing_keys"]


def test_half_precision_files(tmp_path: Path) -> None:
    """Their tensors begin at every second byte."""
    folder = saved(MODELS[RigUNet]().half(), tmp_path)
    for dtype in (torch.float16, torch.float32):
        opened = RigUNet.from_pretrained(folder, torch_dtype=dtype)
        assert opened.dtype == dtype and not odd(opened)


def test_parameters_stay_the_same_objects(tmp_path: Path) -> None:
    kept = torch.frombuffer(bytearray(4 * 100 + 64), dtype=torch.float32)
    start = next(i for i in range(16) if kept[i:].data_ptr() % ALIGNMENT)
    module = nn.Linear(10, 10, bias=False)
    module.weight.data = kept[start : start + 100].view(10, 10)
    module.register_buffer("mean", kept[start : start + 3])
    weight = module.weight
    assert odd(module) == ["weight", "mean"]
    align_weights(module)
    assert not odd(module) and module.weight is weight and weight.requires_grad


# pipelines


@pytest.fixture(scope="module")
def folder(tiny_pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline whose files' tensors lie at odd addresses."""
    folder = tmp_path_factory.mktemp("pipe") / "saved"
    tiny_pipe.save_pretrained(folder)
    shift(folder)
    return folder


def modules(pipe: diffusers.DiffusionPipeline) -> list[nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


@pytest.mark.parametrize(
    "way",
    [
        EmoRigPipeline.from_pretrained,
        open_pipeline,
        lambda folder: EmoRigPipeline.from_pretrained(folder, unet=RigUNet.from_pretrained(folder / "unet")),
        lambda folder: EmoRigPipeline.from_pretrained(folder, disable_mmap=True),
        lambda folder: EmoRigPipeline.from_pipe(EmoRigPipeline.from_pretrained(folder)),
        lambda folder: EmoRigPipeline(**EmoRigPipeline.from_pretrained(folder).components),
        lambda folder: copy.deepcopy(EmoRigPipeline.from_pretrained(folder)),
        lambda folder: pickle.loads(pickle.dumps(EmoRigPipeline.from_pretrained(folder))),
    ],
)
def test_ways_to_open_a_pipeline(folder: Path, way: Callable[[Path], EmoRigPipeline]) -> None:
    parts = modules(way(folder))
    assert len(parts) == 3 and not any(map(odd, parts))


def test_other_pipelines(pipe: EmoRigPipeline, emoca: Path, tmp_path: Path) -> None:
    assert not any(map(odd, modules(pipe)))
    assert not odd(EmocaEncoder.from_pretrained(resolve("encoder-open")))
    assert not any(map(odd, modules(open_pipeline(emoca))))
    exported = export_hub(small_diffae(), tmp_path / "diffae")
    shift(exported)
    opened = open_pipeline(exported)
    assert isinstance(opened, DiffAEEmotionPipeline) and not any(map(odd, modules(opened)))


def test_models_of_other_packages(tmp_path: Path) -> None:
    """A pipeline aligns what diffusers opened."""
    plain = diffusers.UNet2DModel(
        8, 3, 3, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,),
        norm_num_groups=4,
    )  # fmt: skip
    opened = diffusers.UNet2DModel.from_pretrained(saved(plain, tmp_path))
    small = small_diffae()
    DiffAEEmotionPipeline(**small.components | {"latent_net": opened})
    assert not odd(opened)


# what is no pipeline


@pytest.mark.parametrize("made", [lambda: LPIPS("alex"), lambda: FerJudge().network])
def test_judges(made: Callable[[], nn.Module]) -> None:
    assert not odd(made())


def test_resumed_training(tmp_path: Path) -> None:
    accelerator = Accelerator()
    network = MODELS[RigUNet]()
    network, optimizer = accelerator.prepare(network, torch.optim.AdamW(network.parameters()))
    accelerator.save_state(str(tmp_path))
    shift(tmp_path)
    accelerator.load_state(str(tmp_path))
    assert not odd(accelerator.unwrap_model(network))
