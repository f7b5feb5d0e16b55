"""CosFace's judge on a small network of the same input and output, written here byte by byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emorig_diffusers.evaluation.metrics import CosFaceJudge, IdentityJudge, identity_judge
from emorig_diffusers.evaluation.metrics.identity import align_five_points
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.files.assets import AssetError


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def node(kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> bytes:
    data = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in attributes.items():
        numbers = [(3, value)] if isinstance(value, int) else [(8, item) for item in value]
        kind_number = 2 if isinstance(value, int) else 7
        data += field(5, field(1, name) + b"".join(field(*n) for n in numbers) + field(20, kind_number))
    return field(1, data)


def tensor(name: str, array: np.ndarray) -> bytes:
    sizes = b"".join(field(1, side) for side in array.shape)
    return field(5, sizes + field(2, 1) + field(8, name) + field(9, array.astype("<f4").tobytes()))


def value(number: int, name: str, *shape: int) -> bytes:
    sizes = b"".join(field(1, field(1, side)) for side in shape)
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes))))


class Network:
    """A convolution of 16-pixel patches and a linear layer, as an ONNX file and in numpy."""

    def __init__(self, outputs: int) -> None:
        rng = np.random.default_rng(0)
        self.kernel, self.matrix = rng.normal(size=(8, 3, 16, 16)), rng.normal(size=(outputs, 8 * 49)) / 20
        self.outputs = outputs

    def save(self, path: Path) -> Path:
        graph = node("Conv", ["image", "kernel"], "a", kernel_shape=[16, 16], strides=[16, 16])
        graph += node("Flatten", ["a"], "b", axis=1) + node("Gemm", ["b", "matrix"], "code", transB=1)
        graph += field(2, "small") + tensor("kernel", self.kernel) + tensor("matrix", self.matrix)
        graph += value(11, "image", 1, 3, 112, 112) + value(12, "code", 1, self.outputs)
        path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
        return path

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        image = (crop.astype(float) - 127.5) / 127.5
        patches = image.reshape(7, 16, 7, 16, 3)
        return self.matrix @ np.einsum("iajbc,kcab->kij", patches, self.kernel).reshape(-1)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(512)


@pytest.fixture(scope="module")
def file(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network.save(tmp_path_factory.mktemp("cosface") / "r50.onnx")


def test_cosface_sees_red_first_in_minus_one_to_one(
    network: Network, file: Path, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    judge = identity_judge(file)
    found = judge.embed(astronaut, astronaut_face.face.landmarks)
    expected = network(align_five_points(astronaut, astronaut_face.face.landmarks))
    assert judge.name == "CosFace r50" and found.dtype == np.float32
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_similarity_is_a_cosine_whatever_the_length(file: Path) -> None:
    judge = CosFaceJudge(file)
    assert judge.similarity(np.array([3.0, 4.0]), np.array([4.0, 3.0])) == pytest.approx(24 / 25)
    assert judge.similarity(np.array([3.0, 4.0]), np.array([-30.0, -40.0])) == pytest.approx(-1)


def test_auto_takes_cosface_where_the_user_has_it(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(identity_judge("sface"), IdentityJudge) and identity_judge("sface").name == "SFace"
    judge = IdentityJudge()
    monkeypatch.setattr("emorig_diffusers.evaluation.metrics.identity.IdentityJudge", lambda: judge)
    monkeypatch.setenv("EMORIG_CACHE", str(tmp_path))
    assert identity_judge() is judge
    network.save(tmp_path / "cosface_r50.onnx")
    assert identity_judge().name == "CosFace r50"


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is not there: give the .onnx file"):
        identity_judge(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"<html>not found</html>")
    with pytest.raises(AssetError, match="no network that OpenCV reads"):
        identity_judge(broken)
    with pytest.raises(AssetError, match="gives 128 numbers a face: give CosFace"):
        CosFaceJudge(Network(128).save(tmp_path / "sface.onnx"))
