"""Units fitted to acted expressions: the fit gives back motion and shade that are known, and leaves the rest alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import action_unit_offset
from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.training.expressions import units as fitting
from emorig_diffusers.training.expressions.fields import Motion, average, make_atlas, measure, mirrored_vertices
from emorig_diffusers.training.expressions.units import UnitFit, apply_to

WEIGHTS = "diffusion_pytorch_model.safetensors"
RECIPES = {"frown": {"browDown": 1.0}, "mixed": {"browDown": 0.5, "browInnerUp": 1.0}}


@pytest.fixture(scope="module")
def units(head: HeadModel) -> UnitFit:
    return UnitFit(head, RECIPES)


def motion_of(units: UnitFit, field: np.ndarray, shade: np.ndarray) -> Motion:
    """What measuring a known motion [V, 2] and shade [A, A] would give."""
    return Motion(units.embed @ field, np.where(units.flow_weight[:, None] > 0, field, np.nan), shade)


def test_units_come_to_give_a_known_motion_in_their_region_alone(head: HeadModel, units: UnitFit) -> None:
    names = units.names
    own = lambda label: np.tensordot(units.amounts[label], head.expression_basis.numpy(), 1)[:, :2]
    forehead = np.exp(-((np.linalg.norm(units.template[:, :2] - units.points[9, :2], axis=1) / 0.02) ** 2))
    lift = 0.004 * forehead[:, None] * units.skin[:, None] * np.array([0, 1.0])
    blank = np.zeros(units.atlas.on.shape)
    motions = {label: motion_of(units, own(label) + lift, blank) for label in RECIPES}
    new = apply_to(head, units.corrections(motions), np.zeros((len(names), *blank.shape)) + 0.02, units.atlas)
    for label in RECIPES:
        moved = np.tensordot(units.amounts[label], new.expression_basis.numpy(), 1)[:, :2] - own(label)
        peak = np.argmax(forehead * units.skin)
        assert moved[peak, 1] == pytest.approx(0.004, rel=0.15)
    changed = (new.expression_basis - head.expression_basis).abs().amax((1, 2))
    used = {"browDownLeft", "browDownRight", "browInnerUp"}
    assert {n for n, c in zip(names, changed.tolist()) if c > 1e-6} == used
    lower = units.template[:, 1] < units.points[1, 1]  # below the tip of the nose
    assert float((new.expression_basis - head.expression_basis)[:, lower].abs().max()) < 1e-6
    inner = np.isin(head.face_part.numpy(), [PARTS.index(p) for p in ("upper_teeth", "lower_teeth", "left_eye")])
    within = np.setdiff1d(head.faces.numpy()[inner].ravel(), head.faces.numpy()[~inner].ravel())
    torch.testing.assert_close(new.expression_basis[:, within], head.expression_basis[:, within], rtol=0, atol=0)


def test_shade_of_recipes_comes_back_from_the_units_maps(head: HeadModel, units: UnitFit) -> None:
    place = units.atlas.position
    spot = np.exp(-((np.linalg.norm(place - units.points[9, :2], axis=-1) / 0.01) ** 2))
    spot = (spot + spot[:, ::-1]) / 2 * units.atlas.on
    still = np.zeros((len(units.template), 2))
    motions = {"frown": Motion(units.points[:, :2] * 0, still, -0.4 * spot), "mixed": Motion(still, still, 0.1 * spot)}
    new = apply_to(head, np.zeros(head.expression_basis.shape), units.shading(motions), units.atlas)
    for label, depth in (("frown", -0.4), ("mixed", 0.1)):
        shade = new.shading(action_unit_offset(RECIPES[label], units.names)).numpy()
        at = np.unravel_index(np.argmax(spot), spot.shape)
        assert shade[at] == pytest.approx(depth * spot[at], rel=0.12)
    assert set(new.config.shading_units) <= {"browDownLeft", "browInnerUp"}


def test_an_edit_by_the_pipeline_is_measured_as_what_it_was(pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    bare = EmoRigPipeline(pipe.head, pipe.encoder, wrinkles=0, shading=0)
    bare.set_progress_bar_config(disable=True)
    edited = bare(hopper, action_units={"AU2": 1.0}, output_type="np")
    seen = measure(pipe, make_atlas(pipe.head), hopper, edited.images[0])
    face = edited.faces[0][0]
    true = (pipe.pose_head(face.target) - pipe.pose_head(face.source))[0].numpy()
    brow = np.argmax(true[:, 1])
    near = np.linalg.norm(true - true[brow], axis=1) < 0.001
    assert np.nanmedian(seen.flow[near, 1]) == pytest.approx(true[near, 1].mean(), rel=0.35)
    assert np.median(np.abs(seen.shade)) < 0.03


def test_the_median_of_people_is_the_same_on_both_sides(pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    atlas, mirror = make_atlas(pipe.head), mirrored_vertices(pipe.head)
    still = measure(pipe, atlas, hopper, hopper)
    assert np.nanmax(np.abs(still.flow)) < 1e-3 and np.abs(still.shade).max() < 0.05
    uneven = Motion(still.landmarks, np.where(np.arange(len(still.flow))[:, None] % 2, 0.001, still.flow), still.shade)
    middle = average([uneven], mirror)
    seen = np.isfinite(middle.flow).all(1) & (mirror[mirror] == np.arange(len(mirror)))
    np.testing.assert_allclose(middle.flow[seen], middle.flow[mirror][seen] * [-1, 1], atol=1e-9)
    assert len(find_faces(hopper)) == 1


def test_the_command_writes_the_head_alone(
    run_script: Callable[..., None], refusal: Callable[..., str], pipe: EmoRigPipeline, hopper: np.ndarray,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(fitting, "FITTED", ("surprise",))
    bare = EmoRigPipeline(pipe.head, pipe.encoder)
    bare.set_progress_bar_config(disable=True)
    bare.save_pretrained(tmp_path / "pipe")
    (tmp_path / "pipe" / "head" / "LICENSE").write_text("stays")
    before = {file: file.read_bytes() for file in (tmp_path / "pipe").rglob("*") if file.is_file()}
    (tmp_path / "acted").mkdir()
    acted = bare(hopper, "surprise", output_type="np").images[0]
    for name, photo in (("neutral", hopper), ("surprise", acted), ("wall", np.full_like(hopper, 128))):
        Image.fromarray(photo).save(tmp_path / "acted" / f"{name}.png")
    manifest = tmp_path / "acted" / "manifest.csv"
    manifest.write_text("file,person,expression\nneutral.png,a,neutral\nwall.png,a,surprise\n")
    assert "face" in refusal("fit_expressions", tmp_path / "acted", tmp_path / "pipe")
    manifest.write_text("file,person,expression\nneutral.png,a,neutral\nsurprise.png,a,surprise\n")
    assert "has nobody called b" in refusal("fit_expressions", tmp_path / "acted", tmp_path / "pipe", "--without", "b")
    assert {file: file.read_bytes() for file in before} == before
    run_script("fit_expressions", tmp_path / "acted", tmp_path / "pipe")
    after = {file: file.read_bytes() for file in (tmp_path / "pipe").rglob("*") if file.is_file()}
    assert {file.name for file in after if before.get(file) != after[file]} <= {"config.json", WEIGHTS}
    assert before.keys() == after.keys() and {f.parent.name for f in after if before[f] != after[f]} == {"head"}
    new = HeadModel.from_pretrained(tmp_path / "pipe" / "head")
    assert 0 < float((new.expression_basis - pipe.head.expression_basis).abs().max()) < 0.02  # metres
