"""HSEmotion: its network against transformers' EfficientNet, its files as timm's modules are pickled, its answers."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from random_weights import lively
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel

from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.evaluation.metrics import HSEmotionJudge, emotion_judge
from emorig_diffusers.evaluation.metrics.efficientnet import EfficientNet, SameConv
from emorig_diffusers.evaluation.metrics.hsemotion import MODELS, face_tensor
from emorig_diffusers.evaluation.metrics.modules import read_module
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.files.assets import AssetError

NOUNS = {"Anger": "anger", "Contempt": "contempt", "Disgust": "disgust", "Fear": "fear", "Happiness": "happy",
         "Neutral": "neutral", "Sadness": "sad", "Surprise": "surprise"}  # fmt: skip


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class that the published files name, in modules that are gone when they are read."""
    names = ("timm", "timm.models", "timm.models.efficientnet")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    kind = type("EfficientNet", (nn.Module,), {"__module__": names[2], "__qualname__": "EfficientNet"})
    sys.modules[names[2]].EfficientNet = kind
    return kind


@pytest.fixture
def publish(timm: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EfficientNet]:
    """Puts a network of random weights into an empty cache as the file that upstream offers; gives the network."""
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hsemotion").mkdir()

    def save(kind: str, outputs: int, **added: nn.Module) -> EfficientNet:
        model = MODELS[kind]
        network = lively(EfficientNet(model.size, outputs))
        theirs = pickled(network, timm)
        for name, module in added.items():
            theirs.add_module(name, module)
        theirs.act1 = nn.SiLU()
        theirs.activation = F.silu
        theirs.classifier = nn.Sequential(theirs.classifier)
        torch.save(theirs, tmp_path / "hsemotion" / f"{model.file}.pt")
        for name in [name for name in sys.modules if name.startswith("timm")]:
            monkeypatch.setitem(sys.modules, name, None)
        return network

    return save


def pickled(module: nn.Module, kind: type) -> nn.Module:
    """The same tree with classes of torch and of `kind` only."""
    if type(module) in (nn.BatchNorm2d, nn.Linear, nn.Conv2d):
        return module
    if isinstance(module, SameConv):
        conv = nn.Conv2d(1, 1, 1, bias=False)
        conv.weight = module.weight
        return conv
    copy = kind()
    for name, child in module.named_children():
        copy.add_module(name, pickled(child, kind))
    return copy


# the network


@pytest.mark.parametrize(("size", "parameters"), [("b0", 5_288_548), ("b2", 9_109_994)])
def test_sizes_are_the_published_ones(size: str, parameters: int) -> None:
    assert sum(p.numel() for p in EfficientNet(size, 1000).parameters()) == parameters


@pytest.mark.parametrize(("size", "width", "depth"), [("b0", 1.0, 1.0), ("b2", 1.1, 1.2)])
def test_the_network_is_efficientnet(size: str, width: float, depth: float) -> None:
    config = EfficientNetConfig(
        width_coefficient=width, depth_coefficient=depth, hidden_dim=1280 if size == "b0" else 1408, image_size=64
    )
    other, ours = lively(EfficientNetModel(config)), EfficientNet(size, 8).eval()
    theirs = [tensor for name, tensor in other.state_dict().items()]
    names = [name for name in ours.state_dict() if not name.startswith("classifier")]
    assert len(names) == len(theirs)
    ours.load_state_dict(dict(zip(names, theirs)), strict=False)
    image = torch.randn(2, 3, 64, 64)  # a power of two: there both pad alike
    with torch.no_grad():
        expected = ours.classifier(other(image).pooler_output.flatten(1))
        torch.testing.assert_close(ours(image), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows(side: int, kernel: int) -> None:
    # out = ceil(side / 2); the windows' overhang is split, the odd pixel right and below
    conv = SameConv(1, 1, kernel, 2)
    nn.init.ones_(conv.weight)
    picture = torch.arange(float(side * side)).view(1, 1, side, side)
    start = -((kernel - 2 if side % 2 == 0 else kernel - 1) // 2)
    inside = lambda first: slice(max(first, 0), max(first + kernel, 0))
    rows = range(start, side + start, 2)
    expected = [[picture[0, 0, inside(y), inside(x)].sum().item() for x in rows] for y in rows]
    assert conv(picture)[0, 0].tolist() == expected


# the files


def test_a_published_file_is_converted_once(publish: Callable[..., EfficientNet], tmp_path: Path) -> None:
    network = publish("enet_b0_8", 8)
    original = tmp_path / "hsemotion" / "enet_b0_8_best_vgaf.pt"
    image = torch.randn(1, 3, 64, 64)
    first = HSEmotionJudge("enet_b0_8").network(image)
    torch.testing.assert_close(first, network(image))
    record = json.loads(original.with_suffix(".json").read_text())
    assert record["sha256"] == sha256(original.read_bytes()).hexdigest()
    assert record["upstream"].endswith("/models/affectnet_emotions/enet_b0_8_best_vgaf.pt")
    original.unlink()
    torch.testing.assert_close(HSEmotionJudge("enet_b0_8").network(image), first)


def test_a_file_of_another_network_is_refused(publish: Callable[..., EfficientNet]) -> None:
    publish("enet_b0_8", 7)
    with pytest.raises(AssetError, match=r"classifier.weight \(\[7, 1280\] for \[8, 1280\]\)"):
        HSEmotionJudge("enet_b0_8")


def test_a_file_with_more_layers_is_refused(publish: Callable[..., EfficientNet]) -> None:
    publish("enet_b0_8", 8, extra=nn.Linear(2, 2))
    with pytest.raises(AssetError, match="beyond the model extra.weight, extra.bias"):
        HSEmotionJudge("enet_b0_8")


class Evil(nn.Module):
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch emorig-was-here",)


def test_a_malicious_file_runs_nothing(
    publish: Callable[..., EfficientNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish("enet_b0_8", 8, extra=Evil())
    with pytest.raises(AssetError, match="refused to load (posix|nt).system"):
        HSEmotionJudge("enet_b0_8")
    assert not Path("emorig-was-here").exists()


@pytest.mark.parametrize("symbol", [
    "torch.serialization\nload", "torch.nn.functional\nnumpy.save", "builtins\neval", "timmy\nload", "torch\nload",
    "torch._utils\n_rebuild_device_tensor_from_numpy",
])  # fmt: skip
def test_only_layers_are_stood_in_for(symbol: str, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("network/data.pkl", f"c{symbol}\n(S'x'\ntR.".encode())
    if symbol.startswith("torch.nn."):
        with pytest.raises(ConvertError, match="damaged"):  # a stand-in without tensors
            read_module(path)
    else:
        with pytest.raises(ConvertError, match=f"refused to load {symbol.replace(chr(10), '.')}, which no network"):
            read_module(path)


def test_tensors_come_as_state_dict_names_them(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))
    module[2].register_buffer("scale", torch.arange(6.0).half().view(2, 3).t())
    module[2].register_buffer("passing", torch.ones(1), persistent=False)
    torch.save(module, tmp_path / "module.pt")
    read, expected = read_module(tmp_path / "module.pt"), module.state_dict()
    assert list(read) == list(expected)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(nn.Linear(30, 30), buffer)
    whole, path = buffer.getvalue(), tmp_path / "module.pt"
    state = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, state)
    for data in (b"", b"<html>", whole[: len(whole) // 2], state.getvalue()):
        path.write_bytes(data)
        with pytest.raises(ConvertError, match="download the file again") as refused:
            read_module(path)
        assert "\n" not in str(refused.value)
    with pytest.raises(ConvertError, match="cannot be read"):
        read_module(tmp_path / "absent.pt")


def test_a_missing_file_is_fetched(
    publish: Callable[..., EfficientNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, home = publish("enet_b0_8", 8), tmp_path / "upstream"
    (tmp_path / "hsemotion").rename(home)
    for switch in ("EMORIG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.setattr("emorig_diffusers.evaluation.metrics.hsemotion._UPSTREAM", f"{home.as_uri()}/")
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(HSEmotionJudge("enet_b0_8").network(image), network(image))
    with pytest.raises(AssetError, match="'enet_b2_7' is missing .* did not answer: .*: put .* at "):
        HSEmotionJudge("enet_b2_7")
    assert sorted(path.suffix for path in (tmp_path / "hsemotion").iterdir()) == [".json", ".pt", ".safetensors"]


# the judge


def test_outputs_are_named_alphabetically(publish: Callable[..., EfficientNet], astronaut: np.ndarray) -> None:
    network = publish("enet_b2_7", 7)
    judge, box = HSEmotionJudge("enet_b2_7"), (150.0, 50.0, 300.0, 230.0)
    assert judge.name == "HSEmotion enet_b2_7" and "contempt" not in judge.emotions and len(judge.emotions) == 7
    image = Image.fromarray(astronaut[50:230, 150:300]).resize((260, 260), Image.Resampling.BILINEAR)
    pixels = (np.asarray(image) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])[0]
    scores = judge(astronaut, box)
    names = [NOUNS[noun] for noun in sorted(NOUNS) if noun != "Contempt"]
    assert [scores[name] for name in names] == pytest.approx(logits.softmax(0).tolist(), abs=1e-4)
    assert set(scores) == set(judge.emotions)
    assert judge.valence_arousal(astronaut, box) is None


def test_valence_and_arousal_follow_the_emotions(
    publish: Callable[..., EfficientNet], astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    network, box = publish("enet_b0_8_va_mtl", 10), astronaut_face.face.box
    judge = emotion_judge("enet_b0_8_va_mtl")
    with torch.no_grad():
        outputs = network(face_tensor(astronaut, box, 224))[0]
    assert judge.valence_arousal(astronaut, box) == pytest.approx(tuple(outputs[8:].tolist()), rel=1e-4)
    assert sum(judge(astronaut, box).values()) == pytest.approx(1, abs=1e-5)
    assert judge(astronaut, box)["surprise"] == pytest.approx(outputs[:8].softmax(0)[7].item(), abs=1e-4)


def test_a_box_over_the_border_is_cut_there(astronaut: np.ndarray) -> None:
    inside = face_tensor(astronaut, (400, 0, 512, 90), 224)
    assert torch.equal(face_tensor(astronaut, (400, -30, 530, 90), 224), inside)
    with pytest.raises(ValueError, match="inside the picture"):
        face_tensor(astronaut, (600, 0, 700, 90), 224)


def test_without_weights_the_judge_that_comes_along_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMORIG_OFFLINE", "1")
    assert emotion_judge().name == emotion_judge("face-api").name == "face-api"
    assert f"at {tmp_path / 'hsemotion' / 'enet_b2_7.pt'}" in capsys.readouterr().err
    with pytest.raises(AssetError, match="'enet_b0_8_best_vgaf' is missing .* put https://.*pt at "):
        emotion_judge("enet_b0_8")
    with pytest.raises(ValueError, match="'affectnet': choose from auto, face-api, fer, enet_b2_7, enet_b0_8"):
        emotion_judge("affectnet")
