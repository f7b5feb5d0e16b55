"""`emorig head fit` and `transfer`: scans become heads, and codes of heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from command import emorig, refused
from quick_alignment import align_quickly
from scipy.spatial import KDTree

from emorig_diffusers.models.nphm import NeuralHeadModel


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    align_quickly(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small head that starts as an ellipsoid."""
    torch.manual_seed(0)
    head = NeuralHeadModel(16, 7, 4, 3, 24, 2, 8, 6, 32, 4, 5, deformation="backward")
    with torch.no_grad():
        for name in ("shape_std", "expression_std"):
            getattr(head, name).fill_(0.05)
        head.expression.linears[-1].weight.normal_(0, 0.05)
    folder = tmp_path_factory.mktemp("head") / "head"
    head.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scan(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The average head in millimetres, turned, as a mesh."""
    head = NeuralHeadModel.from_pretrained(model)
    surface = head.surface(head.shape_mean[None].detach(), None, resolution=64)
    turn = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    mesh = trimesh.Trimesh(surface.vertices.numpy() @ turn.T * 1000 + [5, 0, 90], surface.faces.numpy(), process=False)
    file = tmp_path_factory.mktemp("scan") / "scan.ply"
    mesh.export(file)
    return file


def test_fit_and_transfer(model: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The head lies on the scan, in the scan's own unit; its codes go on."""
    options = ("--steps", "4", "--resolution", "64", "--codes", tmp_path / "a.json")
    assert emorig("head", "fit", model, scan, "-o", tmp_path / "a.ply", *options) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "a.ply"), str(tmp_path / "a.json")]
    found, given = trimesh.load(tmp_path / "a.ply"), trimesh.load(scan)
    assert KDTree(given.vertices).query(found.vertices)[0].mean() < 8  # mm, after four steps
    codes = json.loads((tmp_path / "a.json").read_text())
    assert len(codes["expression"]) == 6 and codes["scan"]["scale"] == pytest.approx(0.001, rel=0.1)
    assert codes["scan"]["misfit_mm"] < 8
    again = tmp_path / "b.glb"
    assert emorig("head", "transfer", model, tmp_path / "a.json", tmp_path / "a.json", "-o", again,
                  "--resolution", "64") == 0  # fmt: skip
    assert again.stat().st_size > 1000


def test_refusals(model: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.glb"
    call = lambda *more: refused(capsys, "head", "fit", model, *more)
    assert "no file" in call(tmp_path / "none.ply", "-o", out)
    assert "format" in call(scan, "-o", tmp_path / "out.docx")
    assert "--steps" in call(scan, "-o", out, "--steps", "0")
    bad = tmp_path / "landmarks.json"
    bad.write_text('{"nose_tip": [1, 2]}')
    assert "by name" in call(scan, "-o", out, "--landmarks", bad)
    bad.write_text('{"nose_tip": [1, 2, 3]}')
    assert "three landmarks" in call(scan, "-o", out, "--landmarks", bad)
    codes = tmp_path / "codes.json"
    head = NeuralHeadModel.from_pretrained(model)
    codes.write_text(json.dumps({"shape": [0.0] * head.num_shape, "expression": None}))
    assert "no expression to give" in refused(capsys, "head", "transfer", model, codes, codes, "-o", out)
    assert "no scans" in refused(capsys, "head", "evaluate", model, tmp_path)
    assert "--limit" in refused(capsys, "head", "evaluate", model, tmp_path, "--limit", "0")
