"""Our own networks and renderer against the packages they stand in for: lpips, timm, hsemotion, torchvision, pytorch3d.

These need torchvision and so the build of torch it was made for; the extra `reference` installs them, `.ci/packages`
makes such an environment. The packages' weights lie on the net, so both sides get the same: ours, or random ones.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from random_weights import lively
from torch import nn

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.evaluation.metrics import LPIPS, HSEmotionJudge
from emorig_diffusers.evaluation.metrics.efficientnet import EfficientNet
from emorig_diffusers.evaluation.metrics.hsemotion import MODELS
from emorig_diffusers.evaluation.metrics.modules import read_module
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.resnet import ResNetTrunk
from emorig_diffusers.render.camera import ndc_to_pixels, project
from emorig_diffusers.render.rasterize import rasterize

NAMES = {"b0": "tf_efficientnet_b0.ns_jft_in1k", "b2": "tf_efficientnet_b2.ns_jft_in1k"}  # timm's


def package(name: str) -> ModuleType:
    """The package of that name.

    Where it does not import (torchvision beside another torch raises RuntimeError) the test is skipped, unless the
    environment says EMORIG_PACKAGES=required.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        if os.environ.get("EMORIG_PACKAGES") == "required":
            raise
        pytest.skip(f"{name} does not import here ({str(error).splitlines()[0]})")


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for the order of sums; relative to the spread of all values."""
    assert ours.shape == theirs.shape and theirs.std() > 0
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips(net: str, astronaut: np.ndarray) -> None:
    ours = LPIPS(net)
    theirs = package("lpips").LPIPS(net=net, pnet_rand=True, verbose=False)  # its own heads, a random backbone
    trunk = {number: layer for name, layer in theirs.net.named_modules() if (number := name.split(".")[-1]).isdigit()}
    for number, layer in ours.features.named_children():
        assert type(layer) is type(trunk[number])
        trunk[number].load_state_dict(layer.state_dict())
    for i, head in enumerate(theirs.lins):
        assert torch.equal(head.model[-1].weight.flatten(), ours.get_parameter(f"lin{i}"))
    face = torch.from_numpy(astronaut[60:188, 160:288].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    noise = 0.3 * torch.randn(face.shape, generator=torch.Generator().manual_seed(0))
    others = torch.cat((face.flip(-1), face.roll(3, -1), (face + noise).clamp(-1, 1)))
    with torch.no_grad():
        expected = theirs(face.expand_as(others), others).flatten()
    assert expected.min() > 0.01
    torch.testing.assert_close(ours(face.expand_as(others), others), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", ["b0", "b2"])
def test_efficientnet_as_timm_pickles_it(size: str, tmp_path: Path) -> None:
    theirs = lively(package("timm").create_model(NAMES[size], num_classes=8))
    torch.save(theirs, tmp_path / "module.pt")
    tensors, expected = read_module(tmp_path / "module.pt"), theirs.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    ours = EfficientNet(size, 8).eval().requires_grad_(False)
    ours.load_state_dict(tensors)
    for side in (64, 75):  # even and odd: TensorFlow's padding
        image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        close(ours(image), theirs(image))


@pytest.mark.parametrize("kind", MODELS)
def test_hsemotion(kind: str, astronaut: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theirs = MODELS[kind], package("hsemotion.facial_emotions")
    folder = tmp_path / ".hsemotion"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # it was written for a torch that loads whole modules
    outputs = len(model.classes) + 2 * model.valence_arousal
    network = lively(package("timm").create_model(NAMES[model.size], num_classes=outputs))
    network.classifier.weight /= network(torch.randn(1, 3, model.side, model.side)).std()  # no class takes it all
    torch.save(network, folder / f"{model.file}.pt")
    face = np.ascontiguousarray(astronaut[50:230, 150:300])
    best, scores = theirs.HSEmotionRecognizer(model.file).predict_emotions(face, logits=False)
    judge, box = HSEmotionJudge(kind), (0.0, 0.0, 150.0, 180.0)
    ours = judge(face, box)
    assert list(ours.values()) == pytest.approx(scores[: len(ours)].tolist(), abs=1e-4) and max(ours.values()) < 0.9
    assert max(ours, key=ours.__getitem__)[:3] == best[:3].lower()
    if model.valence_arousal:
        assert judge.valence_arousal(face, box) == pytest.approx(scores[-2:].tolist(), rel=1e-3)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_resnet(architecture: str) -> None:
    theirs = lively(package("torchvision").models.get_model(architecture))
    theirs.fc = nn.Identity()
    ours = ResNetTrunk(architecture).eval().requires_grad_(False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    close(ours(image), theirs(image))


def test_pytorch3d_draws_the_head(pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    package("pytorch3d.renderer")
    codes = astronaut_face.codes
    vertices = pipe.pose_head(codes)
    points = ndc_to_pixels(project(vertices, codes.camera), (128, 128))
    ours, theirs = (rasterize(points, pipe.head.faces, 128, 128, backend=b) for b in ("torch", "pytorch3d"))
    assert 0.1 < (ours.face >= 0).float().mean() < 0.9
    assert (ours.face == theirs.face).float().mean() > 0.999


def test_pipeline_opens_beside_torchvision(pipe: EmoRigPipeline, tmp_path: Path) -> None:
    # diffusers and transformers import other code of theirs where torchvision is installed
    package("torchvision")
    assert "diffusers" in sys.modules
    pipe.save_pretrained(tmp_path)
    again = EmoRigPipeline.from_pretrained(tmp_path)
    for name, component in pipe.components.items():
        if isinstance(component, nn.Module):
            state = getattr(again, name).state_dict()
            assert all(torch.equal(tensor, state[key]) for key, tensor in component.state_dict().items())
