"""`emorig head`: heads by chance and between two others, as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import trimesh

from emorig_diffusers.cli import main
from emorig_diffusers.models.nphm import NeuralHeadModel

OPTIONS = ("--resolution", "64")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small neural head whose codes spread and whose expressions move."""
    torch.manual_seed(0)
    head = NeuralHeadModel(16, 7, 4, 3, 24, 2, 8, 6, 32, 4, 5)
    with torch.no_grad():
        for name in ("shape_std", "expression_std"):
            getattr(head, name).fill_(0.05)
        head.expression.linears[-1].weight.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("head") / "head"
    head.save_pretrained(folder)
    return folder


def run(*args: object) -> int:
    return main.main(["head", *map(str, args), *OPTIONS])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert run(*args) == 2
    return capsys.readouterr().err


def load(path: Path) -> trimesh.Trimesh:
    scene = trimesh.load(path)
    return scene if isinstance(scene, trimesh.Trimesh) else next(iter(scene.geometry.values()))


def test_sample_and_morph(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, options in (("a", ()), ("b", ("--seed", 3, "--expression"))):
        assert run("sample", model, "-o", tmp_path / f"{name}.ply", "--codes", tmp_path / f"{name}.json", *options) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / n) for n in ("a.ply", "a.json", "b.ply", "b.json")]
    a, b = (load(tmp_path / f"{name}.ply") for name in "ab")
    assert 0.15 < a.extents.max() < 0.35 and len(a.vertices) != len(b.vertices)
    codes = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab"]
    assert codes[0]["expression"] is None and len(codes[1]["expression"]) == 6
    assert codes[0]["shape"] != codes[1]["shape"]
    ends = tmp_path / "ends.glb"
    assert run("morph", model, tmp_path / "a.json", tmp_path / "b.json", "-o", ends, "--at", "0,.5,1") == 0
    scene = trimesh.load(ends)
    assert isinstance(scene, trimesh.Scene) and list(scene.geometry) == ["0", "0.5", "1"]
    row = [scene.geometry[name].vertices for name in ("0", "0.5", "1")]
    # of the end without an expression a neutral code is 0, which is not the canonical head
    assert len(row[0]) == len(a.vertices) and abs(row[2] - b.vertices - [0.3, 0, 0]).max() < 1e-5
    assert row[0][:, 0].max() < row[1][:, 0].mean() < row[2][:, 0].min()


def test_same_seed_same_head(model: Path, tmp_path: Path) -> None:
    for name in "ab":
        assert run("sample", model, "-o", tmp_path / f"{name}.obj", "--seed", 5) == 0
    assert (tmp_path / "a.obj").read_bytes() == (tmp_path / "b.obj").read_bytes()


def test_mistakes_are_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, codes, other = tmp_path / "x.glb", tmp_path / "codes.json", tmp_path / "other"
    codes.write_text('{"shape": [1, 2], "expression": null}')
    empty = tmp_path / "empty.json"
    empty.write_text('{"shape": null, "expression": null}')
    NeuralHeadModel(1, 1, 2, 2, 16, 2, 4, 0).save_pretrained(other)
    for message, args in (
        ("Cannot tell the format", ("sample", model, "-o", tmp_path / "x.stl")),
        ("does not exist", ("sample", model, "-o", tmp_path / "nowhere" / "x.glb")),
        ("cannot be loaded", ("sample", tmp_path, "-o", out)),
        ("has no expressions", ("sample", other, "--expression", "-o", out)),
        ("does not tell how people's shape codes spread", ("sample", other, "-o", out)),
        ("another head's shape code: this one takes 124", ("morph", model, codes, codes, "-o", out)),
        ("holds no codes", ("morph", model, empty, codes, "-o", out)),
        ("nowhere.json", ("morph", model, tmp_path / "nowhere.json", codes, "-o", out)),
        ("numbers from 0 to 1", ("morph", model, codes, codes, "-o", out, "--at", "2")),
        ("holds one head, not 2", ("morph", model, codes, codes, "-o", tmp_path / "x.ply", "--at", "0,1")),
    ):
        told = refused(capsys, *args)
        assert message in told and told.count("\n") == 1
    assert not out.exists()
