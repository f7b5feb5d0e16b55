"""NPHM's checkpoints: the converted model computes what the original's equations give, or one sentence says why there
is none; nobody's code is taken along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import original_nphm as original
import pytest
import torch
from original_nphm import State
from safetensors.torch import load_file
from torch import Tensor

from emorig_diffusers.cli import main
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.convert.nphm import read_model
from emorig_diffusers.models.nphm import ANCHORS, NeuralHeadModel

ANCHOR_WIDTH = 128  # not the default, so that it must be read from the file


@pytest.fixture(scope="module")
def identity() -> State:
    return original.random_state(original.identity_shapes(ANCHOR_WIDTH), 1)


@pytest.fixture(scope="module")
def expression() -> State:
    return original.random_state(original.expression_shapes(), 2)


@pytest.fixture(scope="module")
def files(identity: State, expression: State, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As the authors lay them out, with an older epoch beside."""
    root = tmp_path_factory.mktemp("nphm")
    rng = np.random.default_rng(3)
    found = {}
    for name, state, rows, width in (
        ("identity", identity, original.PEOPLE, original.CODE),
        ("expression", expression, original.SCANS, original.EXPRESSION),
    ):
        folder = root / f"nphm_{name}_space_pretrained" / "checkpoints"
        folder.mkdir(parents=True)
        original.save({}, 2, width, folder / "checkpoint_epoch_900.tar")
        found[name] = original.save(state, rows, width, folder / "checkpoint_epoch_2500.tar")
    arrays = {
        "anchors": ("anchors_39.npy", original.random_anchors()),
        "mean": ("nphm_lat_mean.npy", 0.01 * rng.standard_normal(original.CODE)),
        "std": ("nphm_lat_std.npy", rng.uniform(0.01, 0.02, original.CODE)),
    }
    for name, (file, array) in arrays.items():
        np.save(root / file, array)
        found[name] = root / file
    return found


@pytest.fixture(scope="module")
def model(files: dict[str, Path]) -> NeuralHeadModel:
    """Converted by the command line, from the folder of the identity network and the file of the other."""
    out = files["anchors"].parent / "out"
    options = [text for name in ("expression", "anchors", "mean", "std") for text in (f"--{name}", str(files[name]))]
    assert main.main(["convert", "nphm", str(files["identity"].parents[1]), str(out), *options]) == 0
    return NeuralHeadModel.from_pretrained(out)


def drawn(*size: int, seed: int = 5, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def mean_anchors() -> Tensor:
    return torch.from_numpy(original.random_anchors()).float()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference; what is compared must vary."""
    assert ours.shape == theirs.shape and theirs.std() > 0.01
    return float((ours - theirs).abs().max())


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_signed_distances_are_the_originals(model: NeuralHeadModel, identity: State, training: bool) -> None:
    codes, points = drawn(2, original.CODE, scale=0.1), drawn(2, 400, 3, seed=6, scale=0.4)
    points[:, :5] *= 4  # far outside, where weights are small
    compat = NeuralHeadModel.from_config(model.config, compat_last_point=True)
    compat.load_state_dict(model.state_dict())
    for i in range(2):
        theirs = original.sdf(identity, mean_anchors(), points[i], codes[i], training)
        assert difference(compat.train(training).sdf(points, codes)[i], theirs) < 1e-6
        assert difference(model.sdf(points, codes)[i, :-1], theirs[:-1]) < 1e-6
        assert difference(model.anchors(codes)[i], original.anchors(identity, mean_anchors(), codes[i])) < 1e-6
    last = compat.sdf(points, codes)[:, -1] - model.sdf(points, codes)[:, -1]
    assert bool((last.abs() > 1e-3).all()) != training


@torch.no_grad()
def test_deformations_are_the_originals(model: NeuralHeadModel, identity: State, expression: State) -> None:
    codes, points = drawn(2, original.CODE, scale=0.1), drawn(2, 300, 3, seed=6, scale=0.4)
    faces = drawn(2, original.EXPRESSION, seed=8, scale=0.3)
    ours = model.deform(points, codes, faces)
    for i in range(2):
        places = original.anchors(identity, mean_anchors(), codes[i])
        theirs = original.deform(expression, points[i], codes[i], places, faces[i])
        assert difference(ours[i] - points[i], theirs - points[i]) < 2e-6


def test_sizes_are_the_published_ones(files: dict[str, Path], model: NeuralHeadModel) -> None:
    count = lambda parameters: sum(p.numel() for p in parameters)
    assert count(model.identity_parameters()) == 2_941_573  # with anchor networks of 128
    assert count(NeuralHeadModel().identity_parameters()) == 3_014_149
    assert count(model.expression_parameters()) == 1_361_880
    assert (model.num_shape, model.num_expression, model.config.blend_epsilon) == (1344, 200, 1e-6)


def test_no_code_of_anyone_is_taken_along(files: dict[str, Path], model: NeuralHeadModel) -> None:
    out = files["anchors"].parent / "out"
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    tensors = load_file(out / "diffusion_pytorch_model.safetensors")
    assert set(tensors) == set(NeuralHeadModel(anchor_width=ANCHOR_WIDTH).state_dict())
    assert not any({original.PEOPLE, original.SCANS} & {*tensor.shape} for tensor in tensors.values())
    assert np.allclose(tensors["shape_std"].numpy(), np.load(files["std"]), atol=1e-8)
    codes = torch.load(files["expression"], weights_only=True)["latent_codes_state_dict"]["weight"]
    assert torch.allclose(tensors["expression_mean"], codes.mean(0), atol=1e-6)
    assert torch.allclose(tensors["expression_std"], codes.std(0), atol=1e-6)


def test_identity_alone_takes_known_anchors_and_says_so(files: dict[str, Path]) -> None:
    said: list[str] = []
    alone = read_model(files["identity"], say=said.append)
    assert alone.num_expression == 0 and alone.expression is None
    assert torch.equal(alone.mean_anchors, torch.tensor(ANCHORS))
    assert ["anchors_39.npy" in sentence for sentence in said] == [True]
    shape, expression = alone.sample(3, torch.Generator().manual_seed(0))
    assert shape.shape == (3, 1344) and expression.shape == (3, 0)


def test_few_people_tell_nothing_of_how_codes_spread(identity: State, tmp_path: Path) -> None:
    said: list[str] = []
    few = read_model(original.save(identity, 5, original.CODE, tmp_path / "few.tar"), say=said.append)
    assert not few.shape_std.any() and any("drawn by chance" in sentence for sentence in said)
    with pytest.raises(ValueError, match="does not tell how people's shape codes spread"):
        few.sample()


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


def test_what_is_no_model_is_told(files: dict[str, Path], identity: State, expression: State, tmp_path: Path) -> None:
    save = lambda state, name="x.tar": original.save(state, 2, original.CODE, tmp_path / name)
    wrong = identity | {"mlp_pos.4.bias": torch.zeros(5)}
    nan = identity | {"mlp_pos.4.bias": torch.full((117,), torch.nan)}
    mono = identity | {"ensembled_deep_sdf.lin0.weight": torch.zeros(36, 200, 99)}
    narrow = identity | {"ensembled_deep_sdf.lin0.weight": torch.zeros(24, 90, 99)}
    for state, message in (
        (without(identity, "mlp_pos.2.bias"), "lacks mlp_pos.2.bias"),
        (identity | {"extra": torch.zeros(2)}, "has beyond the model extra"),
        (wrong, r"mlp_pos.4.bias \(\[5\] for \[117\]\)"),
        (nan, "not finite in mlp_pos.4.bias"),
        (mono, "36 local networks"),
        (narrow, "no layout of NPHM"),
        (expression, "no usable ensembled_deep_sdf.lin0.weight"),
    ):
        with pytest.raises(ConvertError, match=message):
            read_model(save(state))
    with pytest.raises(ConvertError, match="no usable defDeepSDF.lin0.weight"):
        read_model(files["identity"], files["identity"])
    with pytest.raises(ConvertError, match="belong together"):
        read_model(files["identity"], mean=files["mean"])
    with pytest.raises(ConvertError, match=r"no array \[39, 3\]"):
        read_model(files["identity"], anchors=files["mean"])
    with pytest.raises(ConvertError, match="no checkpoint_epoch_N.tar"):
        read_model(files["anchors"].parent / "out")
    torch.save({"state_dict": identity}, tmp_path / "other.tar")
    with pytest.raises(ConvertError, match="no decoder_state_dict"):
        read_model(tmp_path / "other.tar")


def test_doctor_finds_a_model_and_says_how_to_convert_it(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files["anchors"].parent
    doctor = lambda folder: (main.main(["doctor", str(folder)]), capsys.readouterr().out.splitlines())
    code, told = doctor(root)
    options = [f"--{name} {files[name]}" for name in ("anchors", "expression", "mean", "std")]
    assert code == 0 and told[-1] == (
        f"Next: `emorig convert nphm {files['identity']} {' '.join(options)} OUT`, where OUT is a new folder."
    )
    assert sum(line.startswith("found ") for line in told) == 5  # the older epochs hold no network
    (tmp_path / "checkpoint_epoch_7.tar").write_bytes(b"<!DOCTYPE html>")
    assert "is a web page" in doctor(tmp_path)[1][-1]
    (tmp_path / "checkpoint_epoch_7.tar").unlink()
    (tmp_path / "nphm_lat_mean.npy").write_bytes(files["mean"].read_bytes())
    assert "get the identity network's checkpoint_epoch_N.tar" in doctor(tmp_path)[1][-1]
    (tmp_path / "checkpoint_epoch_7.tar").write_bytes(files["identity"].read_bytes())
    assert doctor(tmp_path)[1][-1].startswith(f"Next: `emorig convert nphm {tmp_path}/checkpoint_epoch_7.tar OUT`")
