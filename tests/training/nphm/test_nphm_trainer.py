"""Training neural heads: losses against plain formulas, what samples hold, and whole tiny runs of both stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from processes import TRAIN, start_two
from safetensors.torch import load_file
from scipy.spatial import KDTree

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.made_scans import Collection, ScanMaker, plan_scans
from emorig_diffusers.data.scans import Scan, write_scan
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.training.nphm.data import (
    FAR_RADIUS,
    NEUTRAL,
    ExpressionData,
    IdentityData,
    in_ball,
    load_scans,
    mean_anchors,
    triangles,
)  # fmt: skip
from emorig_diffusers.training.nphm.objectives import (
    EXPRESSION_WEIGHTS,
    IDENTITY_WEIGHTS,
    AutoDecoder,
    Codes,
    ExpressionObjective,
    IdentityObjective,
    weighted,
)  # fmt: skip
from emorig_diffusers.training.nphm.trainer import CODES, open_target, read_codes

SIZES = {"num_global": 8, "num_local": 4, "width": 20, "layers": 4, "anchor_width": 8, "num_expression": 6,
         "expression_width": 24, "expression_layers": 4, "num_compressed": 4}  # fmt: skip
STEPS = {"max_train_steps": 3, "checkpointing_steps": 2, "logging_steps": 1, "train_batch_size": 2,
         "validation_steps": 100, "face_points": 12, "other_points": 8, "pairs": 12, "sheet_heads": 0}  # fmt: skip


@pytest.fixture(scope="module")
def scans(head: HeadModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people, an expression each."""
    folder, maker = tmp_path_factory.mktemp("scans"), ScanMaker(head)
    for place, make in plan_scans(maker, Collection(1, 1, 0, 0), seed=0):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_scan(make(), folder / place)
    return folder / "train"


@pytest.fixture(scope="module")
def loaded(scans: Path) -> dict[str, dict[str, Scan]]:
    return load_scans(scans, 0.25)


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("preset") / "small.yaml"
    file.write_text(json.dumps({**STEPS, "head": SIZES | {"deformation": "backward"}}))
    return file


@pytest.fixture(scope="module")
def run(run_script: Callable[..., None], scans: Path, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, three steps each, pruned."""
    out = tmp_path_factory.mktemp("run")
    shared = ["--config", preset, "--train_data_dir", scans]
    run_script("train_nphm", *shared, "--output_dir", out / "first", "--prune")
    run_script("train_nphm", *shared, "--output_dir", out / "second", "--stage", "expression",
               "--pretrained_model_name_or_path", out / "first/head", "--posed_surface_weight", 1)  # fmt: skip
    return out


def batch_of(data: IdentityData | ExpressionData, count: int) -> dict[str, torch.Tensor]:
    return torch.utils.data.default_collate([data[i, 10 + i] for i in range(count)])


# data


def test_scans_become_units(loaded: dict[str, dict[str, Scan]]) -> None:
    """Four units a metre; the tip of the nose lies where NPHM's does."""
    assert sorted(loaded) == ["field-000", "hair-000", "linear-000"]
    nose = mean_anchors(loaded)[33]
    assert nose[2] == pytest.approx(0.28, abs=0.06) and abs(float(nose[0])) < 0.03
    assert np.abs(loaded["linear-000"][NEUTRAL].points).max() < 1


def test_scans_are_laid_on_a_head(loaded: dict[str, dict[str, Scan]], tmp_path: Path) -> None:
    """Turned and in millimetres they come to lie where they were, near enough to train on; anchors come along."""
    scan = loaded["linear-000"][NEUTRAL].scaled(0.25)
    turn = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float32)
    move = lambda points: (points @ turn.T * 1000 + 50).astype(np.float32)
    moved = Scan(move(scan.points), scan.normals @ turn.T, anchors=move(scan.anchors))
    write_scan(moved, tmp_path / "anna.npz")
    [found] = load_scans(tmp_path, 0.25, open_target())["anna"].values()
    assert np.linalg.norm(found.points - 4 * scan.points, axis=1).mean() < 0.06  # units: 15 mm
    assert np.linalg.norm(found.anchors - 4 * scan.anchors, axis=1).mean() < 0.06
    assert (found.normals * scan.normals).sum(1).mean() > 0.97


def test_identity_samples(loaded: dict[str, dict[str, Scan]]) -> None:
    data = IdentityData(loaded, torch.zeros(39, 3), 16, 8)
    sample, again, other = data[1, 5], data[1, 5], data[1, 6]
    assert all(torch.equal(sample[k], again[k]) for k in sample) and not torch.equal(sample["near"], other["near"])
    assert sample["points"].shape == (24, 3) and sample["far"].shape == (2, 3)
    assert sample["face"].tolist() == [True] * 16 + [False] * 8
    assert (sample["near"] - sample["points"]).std() == pytest.approx(0.01, rel=0.4)
    bare = {"a": {NEUTRAL: replace(loaded["linear-000"][NEUTRAL], anchors=None, face=None)}}
    sample = IdentityData(bare, torch.ones(39, 3), 4, 4)[0, 0]
    assert sample["known"] == 0 and sample["face"].all() and torch.equal(sample["anchors"], torch.ones(39, 3))


def test_far_points_fill_a_ball() -> None:
    radius = np.linalg.norm(in_ball(20_000, np.random.default_rng(0)), axis=1)
    assert radius.max() <= FAR_RADIUS and (radius < FAR_RADIUS / 2).mean() == pytest.approx(1 / 8, abs=0.01)


def test_expression_samples(loaded: dict[str, dict[str, Scan]]) -> None:
    """The same triangle and place on both heads: canonical scans pair with themselves."""
    data = ExpressionData(loaded, {"field-000": 4, "hair-000": 5, "linear-000": 6}, 40)
    assert [item[0] for item in data.items] == [4, 4, 5, 5, 6, 6]
    sample = data[0, 1]  # of "neutral", which comes before "open" and "units"
    assert torch.equal(sample["canonical"], sample["posed"]) and sample["person"] == 4 and sample["scan"] == 0
    scan = loaded["field-000"][NEUTRAL]
    mesh = trimesh.Trimesh(scan.vertices, scan.faces, process=False)
    dense = trimesh.sample.sample_surface(mesh, 200_000, seed=0)[0]
    off = KDTree(dense).query(sample["posed"].numpy())[0]
    assert 0.004 < np.sqrt(np.square(off[::2]).mean()) < 0.02 and np.sqrt(np.square(off[1::2]).mean()) < 0.004
    assert np.isin(sample["surface"].numpy(), scan.points).all()
    moved = data[1, 1]
    assert 0.005 < (moved["canonical"] - moved["posed"]).norm(dim=1).max() < 0.4
    with pytest.raises(DataError, match="hair-000"):
        ExpressionData(loaded, {"field-000": 0, "linear-000": 1}, 4)
    with pytest.raises(DataError, match="no expressions"):
        ExpressionData({p: {NEUTRAL: s[NEUTRAL]} for p, s in loaded.items()}, dict.fromkeys(loaded, 0), 4)


def test_triangles_by_area() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [3, 0, 0]], float)
    chosen = triangles(vertices, np.array([[0, 1, 2], [0, 3, 2]]), 10_000, np.random.default_rng(0))
    assert chosen.mean() == pytest.approx(0.75, abs=0.02)


# losses


def test_identity_losses(loaded: dict[str, dict[str, Scan]]) -> None:
    """Against the formulas, from distances and gradients that finite differences give."""
    torch.manual_seed(0)
    model = NeuralHeadModel(**SIZES).double()
    data = IdentityData(loaded, torch.zeros(39, 3), 6, 6)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch_of(data, 2).items()}
    batch["known"][1] = 0
    codes = Codes(3, model.num_shape, 0.1).double()
    losses = IdentityObjective(IDENTITY_WEIGHTS)(AutoDecoder(model, codes), batch)
    shape = codes(batch["person"])
    points = torch.cat([batch["points"], batch["near"], batch["far"]], 1)
    sdf, step = model.sdf(points, shape), 1e-6
    gradient = torch.stack([
        (model.sdf(points + step * axis, shape) - model.sdf(points - step * axis, shape)) / (2 * step)
        for axis in torch.eye(3).double()
    ], -1)  # fmt: skip
    error = (gradient[:, :12] - batch["normals"]).norm(dim=-1)
    locals_ = shape[:, 8:].view(2, 40, 4)
    wanted = {
        "surface": sdf[:, :12].abs().mean(),
        "normals": torch.cat([error[:, :6], error[:, 6:].clamp(max=0.75) / 2], 1).mean(),
        "space": torch.exp(-10 * sdf[:, 24:].abs()).mean(),
        "eikonal": (gradient.norm(dim=-1) - 1).abs().mean(),
        "anchors": (model.anchors(shape)[0] - batch["anchors"][0]).square().mean(),
        "symmetry": (locals_[:, 0:32:2] - locals_[:, 1:32:2]).norm(dim=-1).mean(),
        "shape_size": shape.square().sum(1).mean(),
    }
    assert set(losses) == {"loss", *wanted}
    for name, value in wanted.items():
        assert float(losses[name]) == pytest.approx(float(value.detach()), rel=1e-4), name
    total = sum(IDENTITY_WEIGHTS[name] * value for name, value in wanted.items())
    assert float(losses["loss"].detach()) == pytest.approx(float(total.detach()), rel=1e-4)


@pytest.mark.parametrize("deformation", ["forward", "backward"])
def test_expression_losses(loaded: dict[str, dict[str, Scan]], deformation: str) -> None:
    torch.manual_seed(0)
    model = NeuralHeadModel(**SIZES, deformation=deformation).eval()
    torch.nn.init.normal_(model.expression.linears[-1].weight, std=0.1)
    batch = batch_of(ExpressionData(loaded, dict(zip(sorted(loaded), range(3))), 10), 4)
    shapes, codes = Codes(3, model.num_shape, 0.1), Codes(6, 6, 0.1)
    weights = EXPRESSION_WEIGHTS | {"posed_surface": 1.0}
    losses = ExpressionObjective(weights, deformation)(AutoDecoder(model, shapes, codes, False, True), batch)
    source, goal = ("canonical", "posed") if deformation == "forward" else ("posed", "canonical")
    given = shapes(batch["person"]), codes(batch["scan"])
    moved = model.deform(batch[source], *given)
    assert float(losses["correspondence"]) == pytest.approx(float((moved - batch[goal]).square().mean()), rel=1e-5)
    offset = model.deform(batch["empty"], *given) - batch["empty"]
    assert float(losses["still"]) == pytest.approx(float(offset.square().sum(-1).mean()), rel=1e-5)
    assert float(losses["expression_size"]) == pytest.approx(float(given[1].square().sum(1).mean()), rel=1e-5)
    assert ("posed_surface" in losses) == (deformation == "backward")
    if deformation == "backward":
        surface = model.sdf(batch["surface"], *given).abs().mean()
        assert float(losses["posed_surface"]) == pytest.approx(float(surface), rel=1e-4)


def test_codes_are_short() -> None:
    codes = Codes(2, 4, 0.0)
    codes.weight.data = torch.tensor([[3.0, 0, 4, 0], [0.1, 0, 0, 0]])
    assert torch.allclose(codes(torch.tensor([0, 1])), torch.tensor([[0.6, 0, 0.8, 0], [0.1, 0, 0, 0]]))


def test_losses_of_no_weight_are_looked_at() -> None:
    losses = weighted({"a": torch.tensor(2.0), "b": torch.tensor(torch.nan)}, {"a": 3.0, "b": 0.0})
    assert losses["loss"] == 6 and losses["b"].isnan()


# runs


def test_what_runs_leave(run: Path) -> None:
    """Heads that open, without people's codes in them; the second stage changes nothing of the first's."""
    first, second = (
        load_file(run / stage / "head/diffusion_pytorch_model.safetensors") for stage in ("first", "second")
    )
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert {name.split(".")[0] for name in moved} == {"expression", "compressor", "expression_mean", "expression_std"}
    people, codes = read_codes(run / "first" / CODES)
    assert people == ["field-000", "hair-000", "linear-000"] and len(codes) == 3
    assert torch.allclose(first["shape_mean"], codes.mean(0)) and torch.allclose(first["shape_std"], codes.std(0))
    assert load_file(run / "second" / CODES)["expressions"].shape == (6, 6)
    head = NeuralHeadModel.from_pretrained(run / "second/head")
    assert head.config.deformation == "backward" and all(p.numel() != codes.numel() for p in head.parameters())


def test_a_killed_run_goes_on(
    run: Path, run_script: Callable[..., None], scans: Path, preset: Path, tmp_path: Path
) -> None:
    """From step 2 to the same bytes as the run that was not interrupted."""
    shutil.copytree(run / "first", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoint-3")
    shared = ["--config", preset, "--train_data_dir", scans, "--output_dir", tmp_path / "again", "--prune"]
    run_script("train_nphm", *shared, "--resume_from_checkpoint", "latest")
    name = "head/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (run / "first" / name).read_bytes()


def test_two_processes(scans: Path, preset: Path, tmp_path: Path) -> None:
    """Together they train one head; a person's code is the same for both."""
    arguments = [
        "--config",
        preset,
        "--train_data_dir",
        scans,
        "--output_dir",
        tmp_path / "run",
        "--max_train_steps",
        2,
    ]
    both = start_two(tmp_path, TRAIN / "train_nphm.py", *arguments)
    assert [script.wait() for script in both] == [0, 0], both[0].output
    assert (tmp_path / "run/head/config.json").exists()


def test_published_sizes() -> None:
    """Parameters of the published networks: 3,014,149 and 1,361,880."""
    import yaml

    sizes = yaml.safe_load((TRAIN / "presets/nphm.yaml").read_text())["head"]
    model = NeuralHeadModel(**sizes)
    assert sum(p.numel() for p in model.identity_parameters()) == 3_014_149
    assert sum(p.numel() for p in model.expression_parameters()) == 1_361_880


def test_refusals(refusal: Callable[..., str], run: Path, scans: Path, preset: Path, tmp_path: Path) -> None:
    """One sentence each."""
    call = lambda *more: refusal("train_nphm", "--config", preset, "--output_dir", tmp_path / "out", *more)
    assert "no folder" in call("--train_data_dir", tmp_path / "none")
    assert "no neural head" in call("--train_data_dir", scans, "--pretrained_model_name_or_path", tmp_path)
    second = ["--train_data_dir", scans, "--stage", "expression", "--pretrained_model_name_or_path", run / "first/head"]
    assert "no codes" in call(*second, "--codes", tmp_path / "none")
