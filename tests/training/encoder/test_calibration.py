"""Calibrating the landmark encoder: units and ranges from photos, a network refitted, folders written whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.training.encoder import calibration
from emorig_diffusers.training.encoder.calibration import both_sides, find_portraits, fit, refit_network, unit_prior

Run = Callable[..., None]


@pytest.fixture(scope="module")
def album(astronaut: np.ndarray, hopper: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smile, a calm face, and a wall."""
    folder = tmp_path_factory.mktemp("album")
    for name, photo in (("astronaut", astronaut), ("hopper", hopper), ("wall", np.full((64, 64, 3), 128, np.uint8))):
        Image.fromarray(photo).save(folder / f"{name}.jpg", quality=98)
    return folder


@pytest.fixture
def small(head: HeadModel) -> EmocaEncoder:
    """A calibrated network with random weights."""
    torch.manual_seed(0)
    sizes = {"num_shape": head.config.num_shape, "num_expression": head.config.num_expression}
    return EmocaEncoder(
        "small", hidden=32, num_texture=0, image_size=32, shared_trunk=True, crop="aligned", calibrated=True, **sizes
    ).eval()


@pytest.fixture
def folders(pipe: EmoRigPipeline, small: EmocaEncoder, tmp_path: Path) -> tuple[Path, Path]:
    """A pipeline's folder with a shim beside the encoder's files, and a network's."""
    pipe.head.save_pretrained(tmp_path / "pipe" / "head")
    pipe.encoder.save_pretrained(tmp_path / "pipe" / "encoder")
    (tmp_path / "pipe" / "encoder" / "encoder_emorig.py").write_text("stays")
    small.save_pretrained(tmp_path / "network")
    return tmp_path / "pipe", tmp_path / "network"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_size_and_offset_of_a_unit_come_back() -> None:
    rng, names = np.random.default_rng(0), ("jawOpen", "mouthSmileLeft", "mouthSmileRight")
    scores = rng.random((200, 3))
    expression = scores * [0.7, 0.2, 0.4] + [0.1, -0.1, 0.3] + rng.normal(0, 0.01, (200, 3))
    offset, slope = unit_prior(names, expression, scores)
    np.testing.assert_allclose(slope, [0.7, 0.3, 0.3], atol=0.02)
    np.testing.assert_allclose(offset, [0.1, 0.1, 0.1], atol=0.02)
    np.testing.assert_allclose(both_sides(names, np.array([1.0, 2, 4])), [1, 3, 3])


@pytest.mark.parametrize("name", ["E_flame", "E_expression"])
def test_a_refitted_network_tells_new_codes_and_keeps_the_rest(name: str, small: EmocaEncoder) -> None:
    """Features that a linear function turns into the codes: ridge regression finds it."""
    generator, part = torch.Generator().manual_seed(0), getattr(small, name)
    features = torch.randn(600, part.num_features, generator=generator)
    hidden, before = part.layers[:2](features).detach(), part(features).detach()
    codes = 0.3 * hidden @ torch.randn(hidden.shape[1], small.config.num_expression, generator=generator) + 0.1
    refit_network(small, features, codes)
    first = small.config.num_shape if name == "E_flame" else 0
    own = torch.zeros(before.shape[1], dtype=torch.bool)
    own[first : first + codes.shape[1]] = True
    after = part(features).detach()
    error = lambda told: float((told[:, own] - codes).square().mean() / codes.var(0).mean())
    assert error(after) < 0.05 < 0.5 < error(before)
    torch.testing.assert_close(after[:, ~own], before[:, ~own], rtol=0, atol=0)


def test_the_command_writes_encoder_and_network(
    run_script: Run, album: Path, folders: tuple[Path, Path], head: HeadModel, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pipeline, network = folders
    looked = []
    monkeypatch.setattr(
        calibration, "find_faces", lambda rgb, find=calibration.find_faces: looked.append(1) or find(rgb)
    )
    run_script("tools/calibrate_encoder", album, pipeline, "--every", 1, "--network", network)
    assert len(looked) == 3  # photos, each once
    assert "2 faces, 1 relaxed" in capsys.readouterr().out
    encoder, names = LandmarkEncoder.from_pretrained(pipeline / "encoder"), head.config.expression_names
    assert (pipeline / "encoder" / "encoder_emorig.py").read_text() == "stays"
    for values in (encoder.prior_scale, encoder.prior_offset, encoder.neutral_low, encoder.neutral_high):
        np.testing.assert_allclose(both_sides(names, values.numpy()), values.numpy(), atol=1e-6)
    calm = fit(head, encoder, find_portraits([album / "hopper.jpg"]))[0]
    brow = names.index("browInnerUp")
    assert encoder.neutral_low[brow] == encoder.neutral_high[brow] == pytest.approx(calm[brow], abs=1e-4)
    assert str(network) not in (network / "config.json").read_text()
    refitted = EmocaEncoder.from_pretrained(network)
    torch.testing.assert_close(refitted.neutral_low, encoder.neutral_low, atol=1e-2, rtol=1e-3)  # in half precision


def test_nothing_changes_on_a_full_disk_or_without_a_calm_face(
    refusal: Callable[..., str], album: Path, folders: tuple[Path, Path], emoca: Path, tmp_path: Path,
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:  # fmt: skip
    pipeline, network = folders
    before = contents(pipeline / "encoder"), contents(network)
    with full_disk(100):
        told = refusal("tools/calibrate_encoder", album, pipeline, "--every", 1)
    assert "File too large" in told
    (tmp_path / "smiles").mkdir()
    (tmp_path / "smiles" / "a.jpg").symlink_to(album / "astronaut.jpg")
    told = refusal("tools/calibrate_encoder", tmp_path / "smiles", pipeline, "--network", network)
    assert told == "None of the photos shows a relaxed face: give more, neutral ones among them."
    refused = "is no calibrated network: give one that train/train_encoder.py made."
    assert refused in refusal("tools/calibrate_encoder", album, pipeline, "--every", 1, "--network", emoca / "encoder")
    assert (contents(pipeline / "encoder"), contents(network)) == before
