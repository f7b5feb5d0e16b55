"""Converters of DECA and EMOCA: the same codes as the originals' equations, and one sentence for every wrong file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import original_deca as original
import pytest
import torch
from PIL import Image
from torch import Tensor

from emorig_diffusers import FaceCodes
from emorig_diffusers.convert.deca import (
    best_checkpoint,
    convert_deca,
    convert_emoca,
    read_deca,
    read_displacement,
    read_emoca,
    read_mask,
)
from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.models.detail import DetailModel
from emorig_diffusers.models.emoca import EmocaEncoder

CLOSE = 1e-4
NAMES = {"shape": "shape", "tex": "texture", "exp": "expression", "pose": "pose", "cam": "camera", "light": "light"}
FLAGS = [
    (50, False, False, "none"),
    (53, True, False, "jaw"),
    (53, False, True, "global"),
    (56, True, True, "both"),
]


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Blurred noise [2, 3, 224, 224] in [0, 1]."""
    coarse = torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=224, mode="bilinear")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Of EMOCA whose E_expression gives the jaw, with its detail model."""
    return original.emoca_state(53, detail=True)


@pytest.fixture(scope="module")
def emoca(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Converted."""
    place = tmp_path_factory.mktemp("emoca")
    folder = original.write_emoca(place / "EMOCA", 53, jaw=True, state=state)
    yield convert_emoca(folder, place / "out")
    shutil.rmtree(place)  # 600 MB


@pytest.fixture(scope="module")
def flat_emoca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of EMOCA, 53 outputs that are the jaw by its cfg.yaml, in a small file."""
    return original.write_emoca(tmp_path_factory.mktemp("flat") / "EMOCA", 53, jaw=True, flat=True)


def network(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"deca.{name}."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def assert_codes(codes: FaceCodes, expected: dict[str, Tensor]) -> None:
    for name, own in NAMES.items():
        assert (getattr(codes, own) - expected[name]).abs().max() <= CLOSE, name


def sentence(convert: Callable[[], object], out: Path | None = None) -> str:
    """The one sentence with which a conversion ends; nothing is left of `out`."""
    with pytest.raises(ConvertError) as refusal:
        convert()
    text = str(refusal.value)
    assert "\n" not in text and text.endswith(".")
    if out is not None:
        assert not out.exists() and not list(out.parent.glob(f"*{out.name}*"))
    return text


# the same results


@torch.no_grad()
def test_deca_gives_decas_codes(image: Tensor, tmp_path: Path) -> None:
    file = original.write_deca(tmp_path, seed=1)  # in torch's old format
    encoder, detail = read_deca(file)
    expected = original.deca_codes(original.encoder_tensors(236, seed=1), image)
    assert (expected["exp"][0] - expected["exp"][1]).abs().max() > 0.1  # the picture matters
    assert_codes(encoder(image), expected)
    assert_codes(encoder(image, "deca"), expected)
    assert (encoder.crop, encoder.branches) == ("deca", ("deca",)) and detail is None


@torch.no_grad()
def test_emoca_gives_emocas_codes(image: Tensor, emoca: Path, state: dict[str, Tensor]) -> None:
    encoder = EmocaEncoder.from_pretrained(emoca)
    flame, expression = network(state, "E_flame"), network(state, "E_expression")
    expected = original.emoca_codes(flame, expression, True, False, image)
    coarse = original.deca_codes(flame, image)
    assert (expected["exp"] - coarse["exp"]).abs().max() > 1
    assert_codes(encoder(image), expected)
    assert_codes(encoder(image, "emoca"), expected)
    assert_codes(encoder(image, "deca"), coarse)
    assert encoder.config.expression_pose == "jaw"


@torch.no_grad()
def test_emoca_gives_emocas_wrinkles(image: Tensor, emoca: Path, state: dict[str, Tensor]) -> None:
    detail = DetailModel.from_pretrained(emoca / "detail")
    jaw, expression = torch.rand(2, 3), torch.randn(2, 50)
    code = original.encode(network(state, "E_detail"), image)
    assert (detail.code(image) - code).abs().max() <= CLOSE
    expected = original.displacement(network(state, "D_detail"), jaw, expression, code)
    assert (detail(image, jaw, expression) - expected).abs().max() < 1e-6  # metres
    assert torch.equal(detail.mask, state["deca.uv_face_eye_mask"])
    assert torch.equal(detail.fixed, state["deca.fixed_uv_dis"])
    assert tuple(detail.config.margins) == (0, 0) and not detail.config.blended


@torch.no_grad()
@pytest.mark.parametrize(("rows", "jaw", "turn", "name"), FLAGS)
def test_what_emoca_replaces(rows: int, jaw: bool, turn: bool, name: str, image: Tensor, tmp_path: Path) -> None:
    encoder, detail = read_emoca(original.write_emoca(tmp_path / "EMOCA", rows, jaw, turn, flat=True))
    flame, expression = (original.encoder_tensors(n, seed, flat=True) for n, seed in ((236, 0), (rows, 10)))
    assert encoder.config.expression_pose == name
    assert_codes(encoder(image[:1]), original.emoca_codes(flame, expression, jaw, turn, image[:1]))
    assert detail is None


def test_deca_of_emocas_makers(tmp_path: Path) -> None:
    folder = original.write_emoca(tmp_path / "DECA", None, flat=True, mode="coarse")
    encoder = EmocaEncoder.from_pretrained(convert_emoca(folder, tmp_path / "out", mode="coarse"))
    assert encoder.branches == ("deca",) and not (tmp_path / "out" / "detail").exists()


@torch.no_grad()
def test_deca_with_wrinkles_mask_and_fixed_displacement(tmp_path: Path) -> None:
    file = original.write_deca(tmp_path, detail=True, flat=True)
    mask, fixed = np.random.default_rng(0).integers(0, 256, (128, 128, 4), np.uint8), np.random.rand(256, 256) / 1000
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "fixed.npy", fixed)
    _, detail = read_deca(file, tmp_path / "mask.png", tmp_path / "fixed.npy")
    expected = mask[..., 0].repeat(2, 0).repeat(2, 1) / 255
    assert np.allclose(detail.mask[0, 0], expected, atol=1e-6)
    assert np.allclose(detail.fixed, fixed, atol=1e-9)
    assert tuple(detail.config.margins) == (2, 5) and detail.config.blended


# which checkpoint, which flag


def test_best_checkpoint_is_that_of_the_smallest_loss(tmp_path: Path) -> None:
    place = tmp_path / "detail" / "checkpoints"
    (place / "epoch=09-val_loss").mkdir(parents=True)
    for name in ("last", "epoch=01-loss=3.5", "epoch=02-loss=12.0", "epoch=03-loss=x", "epoch=04-loss=nan",
                 "epoch=09-val_loss/loader=3.25"):  # fmt: skip
        (place / f"{name}.ckpt").touch()
    assert best_checkpoint(tmp_path, "detail").name == "loader=3.25.ckpt"
    for name in ("epoch=10-loss=2e-3", "epoch=11-loss=1.5e-05", "epoch=12-loss=3E-5"):
        (place / f"{name}.ckpt").touch()
    assert best_checkpoint(tmp_path, "detail").name == "epoch=11-loss=1.5e-05.ckpt"


def test_which_checkpoint_is_asked_where_it_cannot_be_told(tmp_path: Path) -> None:
    place = tmp_path / "detail" / "checkpoints"
    place.mkdir(parents=True)
    assert "no checkpoint" in sentence(lambda: best_checkpoint(tmp_path, "detail"))
    (place / "last.ckpt").touch()
    assert best_checkpoint(tmp_path, "detail").name == "last.ckpt"
    (place / "first.ckpt").touch()
    assert "2 checkpoints without a loss" in sentence(lambda: best_checkpoint(tmp_path, "detail"))
    assert "no checkpoint" in sentence(lambda: best_checkpoint(tmp_path / "nowhere", "coarse"))
    assert "choose 'detail' or 'coarse'" in sentence(lambda: convert_emoca(tmp_path, tmp_path / "out", mode="fine"))


def pose_of(source: Path, **arguments: object) -> str:
    return read_emoca(source, **arguments)[0].config.expression_pose


def test_one_file_and_its_flag(tmp_path: Path) -> None:
    folder = original.write_emoca(tmp_path / "EMOCA", 53, turn=True, flat=True)
    file = next(folder.rglob("*.ckpt"))
    assert pose_of(file) == "global"
    coarse = folder / "coarse" / "checkpoints" / "last.ckpt"  # cfg.yaml says jaw for this stage
    coarse.parent.mkdir(parents=True)
    file.rename(coarse)
    assert pose_of(coarse) == "jaw"
    (folder / "cfg.yaml").unlink()
    out = tmp_path / "c"
    assert "no cfg.yaml above it" in sentence(lambda: convert_emoca(coarse, out), out)
    assert pose_of(coarse, expression_pose="global") == "global"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("detail: {model: {exp_deca_jaw_pose: true}}", "does not say exp_deca_jaw_pose and exp_deca_global_pose"),
        ("- a list", "does not say"),
        ("detail: [not a stage]", "does not say"),
        ("a: !!python/object/apply:os.system ['exit 1']", "is no plain YAML"),
        ("detail: {model: {exp_deca_jaw_pose: false, exp_deca_global_pose: false}}", "has 53 outputs: choose 'jaw'"),
    ],
)
def test_settings_that_do_not_tell(settings: str, message: str, flat_emoca: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "EMOCA", tmp_path / "out"
    folder.mkdir()
    (folder / "detail").symlink_to(flat_emoca / "detail")
    (folder / "cfg.yaml").write_text(settings)
    assert message in sentence(lambda: convert_emoca(folder, out), out)


def test_a_flag_that_contradicts_the_file(tmp_path: Path) -> None:
    folder, out = original.write_emoca(tmp_path / "EMOCA", 50, flat=True), tmp_path / "out"
    assert "has 50 outputs" in sentence(lambda: convert_emoca(folder, out, expression_pose="jaw"), out)


def test_pyyaml_is_asked_for_only_where_it_is_needed(flat_emoca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="needs pyyaml: install it, or say"):
        read_emoca(flat_emoca)
    assert pose_of(flat_emoca, expression_pose="jaw") == "jaw"


# files that are refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"deca.E_mica.w": torch.ones(1)}), "a tensor deca.E_mica.w, which is no part of EMOCA"),
        (lambda s: s.pop("deca.E_flame.layers.0.bias"), "E_flame.layers.0.bias"),
        (lambda s: s.pop("deca.E_expression.encoder.layer4.2.bn3.running_var"), "E_expression.encoder.layer4.2.bn3"),
        (lambda s: s.update({"deca.E_flame.encoder.fc.weight": torch.ones(1)}), "E_flame.encoder.fc.weight"),
        (lambda s: s.update({"deca.E_flame.layers.2.bias": torch.ones(235)}), "E_flame.layers.2.bias"),
        (lambda s: s.update({"deca.E_expression.layers.2.weight": torch.ones(52, 1024)}), "52 outputs"),
        (lambda s: s.update({"deca.E_detail.layers.2.bias": torch.ones(128)}), "has E_detail but no D_detail"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("deca.E_flame.")], "no state_dict with deca.E_flame"),
    ],
)
def test_incomplete_or_foreign_emoca(change: Callable[[dict], object], message: str, tmp_path: Path) -> None:
    tensors = original.emoca_state(50, flat=True)
    change(tensors)
    file, out = tmp_path / "x.ckpt", tmp_path / "out"
    torch.save({"state_dict": tensors}, file)
    assert message in sentence(lambda: convert_emoca(file, out), out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.pop("E_flame"), "has no E_flame"),
        (lambda n: n.update({"E_hair": {"w": torch.ones(1)}}), "a network E_hair"),
        (lambda n: n["E_flame"].pop("encoder.bn1.bias"), "E_flame.encoder.bn1.bias"),
        (lambda n: n.update({"D_detail": original.generator_tensors()}), "has D_detail but no E_detail"),
    ],
)
def test_incomplete_or_foreign_deca(change: Callable[[dict], object], message: str, tmp_path: Path) -> None:
    networks = {"E_flame": original.encoder_tensors(236, flat=True)}
    change(networks)
    file, out = tmp_path / "deca_model.tar", tmp_path / "out"
    torch.save(networks, file)
    assert message in sentence(lambda: convert_deca(file, out), out)


def test_damaged_and_confused_files(tmp_path: Path) -> None:
    out, page, cut = tmp_path / "out", tmp_path / "page.tar", tmp_path / "cut.tar"
    page.write_text("<html>confirm your registration</html>")
    assert str(page) in sentence(lambda: convert_deca(page, out), out)
    deca = original.write_deca(tmp_path, flat=True)
    cut.write_bytes(deca.read_bytes()[:-2000])
    assert str(cut) in sentence(lambda: convert_deca(cut, out), out)
    assert "converted as DECA" in sentence(lambda: convert_emoca(deca, out), out)
    emoca = next(original.write_emoca(tmp_path / "EMOCA", flat=True).rglob("*.ckpt"))
    assert "has no E_flame" in sentence(lambda: convert_deca(emoca, out), out)
    assert "leave mask and displacement out" in sentence(lambda: convert_deca(deca, out, mask=page), out)


def test_masks_and_displacements_that_are_none(tmp_path: Path) -> None:
    text, small = tmp_path / "mask.png", tmp_path / "small.npy"
    text.write_text("no picture")
    np.save(small, np.zeros((16, 16)))
    assert "cannot be read as a picture" in sentence(lambda: read_mask(text))
    assert "no map of 256 x 256" in sentence(lambda: read_displacement(small))
