"""Face recognition as a loss: SFace and IR-SE50 in plain torch, against OpenCV and the equations."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emorig_diffusers.evaluation.metrics.emotion_loss import EmotionLoss
from emorig_diffusers.evaluation.metrics.face_api import FaceApiJudge
from emorig_diffusers.evaluation.metrics.identity import IdentityJudge
from emorig_diffusers.evaluation.metrics.identity_loss import IdentityLoss, sface
from emorig_diffusers.evaluation.metrics.onnx import read_initializers
from emorig_diffusers.files.assets import AssetError


def unit(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def faces(astronaut: np.ndarray, hopper: np.ndarray) -> list[np.ndarray]:
    """Heads, uint8 [112, 112, 3]."""
    return [cv2.resize(rgb, (112, 112), interpolation=cv2.INTER_AREA) for rgb in (astronaut[:240, 110:350], hopper)]


def test_sface_is_what_opencv_computes(faces: list[np.ndarray]) -> None:
    network, judge = sface().eval(), IdentityJudge()
    for face in faces:
        with torch.no_grad():
            found = network(unit(face))[0].numpy()
        np.testing.assert_allclose(found, judge._forward(face), atol=2e-5)


def test_identity_loss_tells_people_apart_and_has_a_gradient(faces: list[np.ndarray]) -> None:
    loss, (one, other) = IdentityLoss(), map(unit, faces)
    brighter = (one * 0.95 + 0.05).requires_grad_(True)
    same = loss(brighter, one)
    assert loss(one, one).abs() < 1e-6 and same < 0.1 < 0.4 < loss(other, one)
    same.sum().backward()
    assert brighter.grad is not None and brighter.grad.abs().max() > 0
    wide = F.interpolate(one, (128, 128), mode="bilinear")
    assert loss(wide, one) < 0.2 and not any(p.requires_grad for p in loss.parameters())


def test_onnx_files_that_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x06:\xff\xff\x01*")
    (tmp_path / "b.onnx").write_bytes(b"")
    for name in ("a.onnx", "b.onnx"):
        with pytest.raises(ValueError, match="is no .onnx file, or is cut off"):
            read_initializers(tmp_path / name)


# IR-SE50


def shapes_of_ir_se50() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `model_ir_se50.pth`, written down from the paper's tables: 397 tensors."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (width,)
        found[f"{name}.num_batches_tracked"] = ()

    found["input_layer.0.weight"] = (64, 3, 3, 3)
    norm("input_layer.1", 64)
    found["input_layer.2.weight"] = (64,)
    inputs = 64
    for i, width in enumerate([64] * 3 + [128] * 4 + [256] * 14 + [512] * 3):
        if inputs != width:
            found[f"body.{i}.shortcut_layer.0.weight"] = (width, inputs, 1, 1)
            norm(f"body.{i}.shortcut_layer.1", width)
        norm(f"body.{i}.res_layer.0", inputs)
        found[f"body.{i}.res_layer.1.weight"] = (width, inputs, 3, 3)
        found[f"body.{i}.res_layer.2.weight"] = (width,)
        found[f"body.{i}.res_layer.3.weight"] = (width, width, 3, 3)
        norm(f"body.{i}.res_layer.4", width)
        found[f"body.{i}.res_layer.5.fc1.weight"] = (width // 16, width, 1, 1)
        found[f"body.{i}.res_layer.5.fc2.weight"] = (width, width // 16, 1, 1)
        inputs = width
    norm("output_layer.0", 512)
    found["output_layer.3.weight"], found["output_layer.3.bias"] = (512, 25088), (512,)
    norm("output_layer.4", 512)
    return found


def embed(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network as functions of its tensors."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        shape = (1, -1, 1, 1)[: x.ndim]
        return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))

    x = prelu("input_layer.2", norm("input_layer.1", F.conv2d(x, state["input_layer.0.weight"], padding=1)))
    for i in range(24):
        block, stride = f"body.{i}", 2 if i in (0, 3, 7, 21) else 1
        short = x[:, :, ::stride, ::stride]
        if f"{block}.shortcut_layer.0.weight" in state:
            short = norm(f"{block}.shortcut_layer.1", F.conv2d(short, state[f"{block}.shortcut_layer.0.weight"]))
        y = F.conv2d(norm(f"{block}.res_layer.0", x), state[f"{block}.res_layer.1.weight"], padding=1)
        y = F.conv2d(prelu(f"{block}.res_layer.2", y), state[f"{block}.res_layer.3.weight"], stride=stride, padding=1)
        y = norm(f"{block}.res_layer.4", y)
        squeezed = y.mean((2, 3)) @ state[f"{block}.res_layer.5.fc1.weight"][:, :, 0, 0].T
        gate = torch.sigmoid(squeezed.clamp(min=0) @ state[f"{block}.res_layer.5.fc2.weight"][:, :, 0, 0].T)
        x = y * gate[:, :, None, None] + short
    x = norm("output_layer.0", x).flatten(1) @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    x = norm("output_layer.4", x)
    return x / x.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as InsightFace_Pytorch's, of random weights of a size that keeps numbers near 1."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes_of_ir_se50().items():
        draw = torch.randn(shape, generator=generator)
        fan = max(draw[0].numel(), 1) if draw.ndim > 1 else 1
        positive = name.endswith(("running_var", "weight")) and draw.ndim == 1
        state[name] = torch.tensor(5) if draw.ndim == 0 else draw.abs() + 0.5 if positive else draw / fan**0.5
    file = tmp_path_factory.mktemp("insightface") / "model_ir_se50.pth"
    torch.save(state, file)
    return file


def test_ir_se50_of_an_original_file(original: Path, faces: list[np.ndarray]) -> None:
    state, loss = torch.load(original, weights_only=True), IdentityLoss(original).double()
    assert len(state) == 397 and sum(p.numel() for p in loss.parameters()) == 43_797_696
    shown = torch.cat([unit(face) for face in faces]).double()
    expected = embed({name: tensor.double() for name, tensor in state.items()}, shown)
    torch.testing.assert_close(loss.embed(shown), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(loss(shown[:1], shown[1:]), 1 - (expected[:1] * expected[1:]).sum(1), atol=1e-9, rtol=0)


def test_other_files_are_refused(original: Path, tmp_path: Path) -> None:
    state, other = torch.load(original, weights_only=True), tmp_path / "other.pth"
    del state["body.7.shortcut_layer.1.bias"]
    torch.save(state | {"head.weight": torch.zeros(1)}, other)
    with pytest.raises(AssetError, match="lacks body.7.shortcut_layer.1.bias and has beyond the model head.weight"):
        IdentityLoss(other)
    with pytest.raises(AssetError, match="nothing.pth"):
        IdentityLoss(tmp_path / "nothing.pth")


# emotion


def test_emotion_loss_is_the_judges(faces: list[np.ndarray]) -> None:
    """Of pictures of the network's own side, of which nothing is resized."""
    judge, face = FaceApiJudge(), faces[0]
    with torch.no_grad():
        shares = judge.network(torch.from_numpy(face).permute(2, 0, 1)[None].float()).softmax(1)[0]
    for name, share in zip(("neutral", "happy", "sad", "anger"), shares.tolist()):
        assert EmotionLoss(name, "face-api")(unit(face)).item() == pytest.approx(-np.log(share), abs=1e-3)
    shown = unit(face).requires_grad_(True)
    EmotionLoss("anger", "face-api")(shown).sum().backward()
    assert shown.grad is not None and shown.grad.abs().max() > 0
    with pytest.raises(ValueError, match="does not know 'contempt'"):
        EmotionLoss("contempt", "face-api")
