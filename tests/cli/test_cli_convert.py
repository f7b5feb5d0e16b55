"""emorig convert and emorig doctor, from stand-ins for all the originals to a pipeline that computes."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import original_deca
import pytest
import torch
from original_flame import FlameFiles, write_flame
from original_rig import SMALL, Functional, State, random_state
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel

MODEL = replace(SMALL, blocks=1, heads=2, new_order=True)


def emorig(*args: str | Path) -> int:
    return main.main([str(arg) for arg in args])


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """The one line on stderr of a command that must end with 2 and print nothing else."""
    capsys.readouterr()
    assert emorig(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("emorig: ") and err.endswith(".\n") and err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(MODEL, flat=True)


@pytest.fixture(scope="module")
def originals(pipe: EmoRigPipeline, state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stand-ins for everything, laid out as EMOCA's and DiffusionRig's makers do."""
    folder = tmp_path_factory.mktemp("originals")
    write_flame(folder / "data", pipe.head)
    (folder / "EMOCA/models/EMOCA_v2_lr_mse_20").mkdir(parents=True)
    original_deca.write_emoca(folder / "EMOCA/models/EMOCA_v2_lr_mse_20", 53, jaw=True, flat=True, detail=True)
    original_deca.write_deca(folder / "data", flat=True)
    mask = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(mask).save(folder / "data/uv_face_eye_mask.png")
    np.save(folder / "data/fixed_displacement_256.npy", 1e-3 * np.random.default_rng(0).normal(size=(256, 256)))
    (folder / "log").mkdir()
    torch.save(state, folder / "log/stage2_model050000_Ann.pt")
    (folder / "log/model000000.pt").write_bytes((folder / "log/stage2_model050000_Ann.pt").read_bytes()[:500])
    (folder / "album_ann.lmdb").mkdir()
    (folder / "album_ann.lmdb/mean_shape.pkl").write_bytes(pickle.dumps(torch.full((1, 100), 0.25)))
    return folder


@pytest.fixture(scope="module")
def flame(originals: Path) -> FlameFiles:
    names = ("generic_model.pkl", "FLAME_texture.npz", "landmark_embedding.npy", "head_template.obj",
             "mediapipe_landmark_embedding.npz")  # fmt: skip
    return FlameFiles(*(originals / "data" / name for name in names))


@pytest.fixture(scope="module")
def converted(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "new" / "pipe"
    assert emorig("convert", "all", originals, out) == 0
    return out


def test_doctor(originals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert emorig("doctor", originals) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"Next: `emorig convert all {originals} OUT`, where OUT is a new folder."
    assert out.count("found  ") == 11 and "missing  " not in out and err == ""
    assert "stage2_model050000_Ann.pt" in out and out.count("licence: ") == 11 and "EMOCA_v2_lr_mse_20" in out
    monkeypatch.chdir(originals / "log")
    assert emorig("doctor") == 0
    assert "Next: get generic_model.pkl or flame2023.pkl or flame2023_Open.pkl from https://flame" in (
        capsys.readouterr().out
    )
    assert "There is no folder" in refused(capsys, "doctor", originals / "nowhere")


@torch.no_grad()
def test_all_parts_compute(converted: Path, pipe: EmoRigPipeline, state: State) -> None:
    made = EmoRigPipeline.from_pretrained(converted)
    assert "whole_crop" in made.capabilities and made.code_parts == ("appearance",) and made.config.crop == "ffhq"
    assert made.config.shape == [0.25] * 100  # of the album
    assert len(made.config.emotion_codes["happy"]) == 53
    assert not list(converted.parent.glob(".*"))

    few = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    widths = [(head.config.num_shape, head.config.num_expression) for head in (made.head, pipe.head)]
    assert widths[0] == (100, 50)
    heads = [
        head.rest_vertices(*(torch.nn.functional.pad(code, (0, count - 4)) for code, count in zip(few, counts)))
        for head, counts in zip((made.head, pipe.head), widths)
    ]
    torch.testing.assert_close(*heads, atol=1e-5, rtol=0)
    assert (heads[0] - pipe.head.template).abs().max() > 0.001

    crop = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tensors = original_deca.emoca_state(53, flat=True)
    nets = [
        {k.removeprefix(f"deca.{name}."): v for k, v in tensors.items() if k.startswith(f"deca.{name}.")}
        for name in ("E_flame", "E_expression")
    ]
    expected = original_deca.emoca_codes(*nets, True, False, crop)
    torch.testing.assert_close(made.encoder(crop).expression, expected["exp"], atol=1e-4, rtol=1e-4)
    assert made.detail is not None

    stacked, z = torch.randn(1, 12, 16, 16), torch.randn(1, 64)
    ours = made.unet(stacked, torch.tensor([300]), z).sample
    one_head = Functional(state, replace(MODEL, heads=1))  # as `convert all` assumes
    torch.testing.assert_close(ours, one_head(stacked, torch.tensor([300]), z), atol=1e-4, rtol=0)


def test_the_result_edits_a_photo(
    converted: Path, astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-ins' random encoder sees no face, yet everything fits together."""
    photo = tmp_path / "photo.png"
    Image.fromarray(astronaut).save(photo)
    edit = ("edit", photo, "--emotion", "happy", "--steps", "2", "--seed", "0", "--model", converted, "-o")
    assert emorig(*edit, tmp_path / "out.png") == 0, capsys.readouterr().err
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == astronaut.shape


@torch.no_grad()
def test_one_by_one(
    flame: FlameFiles, originals: Path, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    converted: Path,
) -> None:
    options = [word for name in ("texture", "landmarks", "template", "mediapipe")
               for word in (f"--{name}", getattr(flame, name))]  # fmt: skip
    head, encoder, other, rig = (tmp_path / name for name in ("head", "encoder", "other", "rig"))
    capsys.readouterr()
    assert emorig("convert", "flame", flame.model, *options, head) == 0
    assert emorig("convert", "deca", originals / "data/deca_model.tar", encoder) == 0
    assert emorig("convert", "emoca", originals / "EMOCA/models/EMOCA_v2_lr_mse_20", other) == 0
    shape = tmp_path / "mean_shape.pkl"
    shape.write_bytes(pickle.dumps(torch.full((1, 100), 0.5)))
    extra = ("--head", head, "--encoder", encoder, "--mean-shape", shape, "--code-parts", "appearance",
             "--num-heads", 2, "--new-attention-order", "--diffusion-steps", 500, "--sampler", "ddpm",
             "--best-of", 4)  # fmt: skip
    model = originals / "log/stage2_model050000_Ann.pt"
    assert emorig("convert", "diffusion-rig", model, *extra, rig) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(folder) for folder in (head, encoder, other, rig)] and err == ""
    assert emorig("convert", "diffusion-rig", model, tmp_path / "alone") == 0
    assert "note: " in (err := capsys.readouterr().err) and "attention heads: one is assumed" in err

    made, whole = EmoRigPipeline.from_pretrained(rig), EmoRigPipeline.from_pretrained(converted)
    stacked, z = torch.randn(2, 12, 16, 16), torch.randn(2, 64)
    ours = made.unet(stacked, torch.tensor([300]), z).sample
    torch.testing.assert_close(ours, Functional(state, MODEL)(stacked, torch.tensor([300]), z), atol=1e-4, rtol=0)
    assert (made.scheduler.config.num_train_timesteps, made.config.default_num_inference_steps) == (500, 500)
    assert made.config.best_of == 4
    assert made.config.shape == [0.5] * 100 and not made.encoder.config.expression_encoder
    assert torch.equal(HeadModel.from_pretrained(head).shape_basis, whole.head.shape_basis)
    first, second = (m.state_dict() for m in (EmocaEncoder.from_pretrained(other), whole.encoder))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_without_a_network(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(originals / "data", tmp_path / "data")
    assert emorig("convert", "all", tmp_path / "data", tmp_path / "pipe") == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'pipe'}\n"
    lines = err.splitlines()
    assert [line.split(" -> ")[-1] for line in lines if "->" in line] == ["head", "encoder", "pipeline"]
    assert any("uv_face_eye_mask.png" in line and "left out" in line for line in lines)  # DECA without wrinkles
    made = EmoRigPipeline.from_pretrained(tmp_path / "pipe")
    assert made.unet is None and made.detail is None and not made.encoder.config.expression_encoder


def test_mistakes_are_one_line(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, taken = tmp_path / "wrong.pt", tmp_path / "taken"
    wrong.write_bytes(b"<!DOCTYPE html>")
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    out = tmp_path / "new" / "out"
    rig = originals / "log/stage2_model050000_Ann.pt"
    for expected, *args in (
        ("wrong.pt", "diffusion-rig", wrong, out),
        ("wrong.pt", "flame", wrong, out),
        ("wrong.pt", "deca", wrong, out),
        ("emoca", "emoca", tmp_path / "emoca", out),
        ("nowhere.pt", "diffusion-rig", tmp_path / "nowhere.pt", out),
        ("give both folders", "diffusion-rig", rig, "--head", taken, out),
        ("not allowed with", "diffusion-rig", rig, "--num-heads", "2", "--num-head-channels", "8", out),
        ("tells nothing without --num-heads", "diffusion-rig", rig, "--new-attention-order", out),
        ("--num-heads must be at least 1", "diffusion-rig", rig, "--num-heads", "0", out),
        ("--num-heads must be at least 1", "diffae", wrong, "--num-heads", "-1", out),
        ("from 21 to 10000", "diffusion-rig", rig, "--diffusion-steps", "5", out),
        ("is there already and not empty", "diffusion-rig", rig, taken),
        ("is there already and not empty", "all", originals, taken),
        ("generic_model.pkl", "all", taken, out),
        ("There is no folder", "all", tmp_path / "nowhere", out),
        ("required", "flame", wrong),
        ("required", *()),
        ("invalid choice", "imface", wrong, out),
        ("the path is empty", "deca", "", out),
        ("wrong.pt", "nphm", wrong, out),
        ("unrecognized", "deca", "--texture", wrong, wrong, out),
    ):
        assert expected in refused(capsys, "convert", *args)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.txt", "taken", "wrong.pt"]
