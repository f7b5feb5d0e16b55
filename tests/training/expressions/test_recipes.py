"""Amounts of a recipe are found again from what an edit with them looks like."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.photo.landmarks import BROWS, MESH
from emorig_diffusers.photo.resample import transform_points, warp_crop
from emorig_diffusers.training.expressions.fields import dense_flow
from emorig_diffusers.training.expressions.recipes import RecipeSearch, search
from emorig_diffusers.training.expressions.targets import (
    SIDE,
    Distance,
    Ruler,
    Target,
    by_expression,
    left_by_others,
    read_targets,
)

TRUE = {"AU1": 0.9, "AU26": 0.5}


@pytest.fixture(scope="module")
def plain(pipe: EmoRigPipeline) -> EmoRigPipeline:
    """Without the network, which the search does not need."""
    bare = EmoRigPipeline(pipe.head, pipe.encoder)
    bare.set_progress_bar_config(disable=True)
    return bare


@pytest.fixture(scope="module")
def folder(plain: EmoRigPipeline, hopper: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person whose surprise was made with TRUE."""
    folder = tmp_path_factory.mktemp("acted")
    acted = plain(hopper, action_units=TRUE, output_type="np").images[0]
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "person", "expression"))
        for expression, picture in (("neutral", hopper), ("surprise", acted)):
            Image.fromarray(picture).save(folder / f"{expression}.png")
            writer.writerow((f"{expression}.png", "hopper", expression))
    return folder


def test_the_true_recipe_is_the_nearest(plain: EmoRigPipeline, folder: Path) -> None:
    targets = read_targets(folder)
    assert [(t.person, t.expression) for t in targets] == [("hopper", "surprise")]
    ruler = Ruler()
    problem = RecipeSearch(plain, ruler, targets)
    none, half, true = (problem.loss({unit: share * TRUE[unit] for unit in TRUE}) for share in (0, 0.5, 1))
    assert true < half < none
    figures = ruler.to(targets[0]).measure(targets[0].neutral)
    assert figures["lpips face"] == figures["unedited lpips face"] and figures["flow face"] == pytest.approx(1)
    assert figures["sface"] == pytest.approx(1, abs=1e-5)
    means = by_expression({("hopper", "surprise"): figures})["surprise"]
    assert means["nearer face"] == 0 and means["lpips mouth"] > 0.01


def test_what_moves_around_the_face_is_no_flow_of_it(folder: Path) -> None:
    target = read_targets(folder)[0]
    still = replace(target, real=warp_crop(target.neutral, target.matrix, SIDE))
    points = transform_points(target.matrix, target.face.landmarks[:MESH, :2])
    face = cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), cv2.convexHull(points.astype(np.int32)), 1) > 0
    around = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    moved = lambda by: np.where(face[..., None], still.real, np.roll(cv2.GaussianBlur(around, (0, 0), 4), by, 1))
    ruler = Ruler()
    distance = Distance(ruler, replace(still, real=moved(5)))
    whole = np.linalg.norm(dense_flow(moved(0), moved(5))[0], axis=-1)[distance.boxes["face"]].mean()
    assert whole > 1.0
    assert distance._flow(moved(0))["face"] < 0.4 * whole


def test_people_who_act_alike_leave_nothing_of_each_other(folder: Path) -> None:
    target = read_targets(folder)[0]

    def raised(person: str, pixels: float) -> Target:
        points = target.face.landmarks.copy()
        points[list(sum(BROWS, ())), 1] -= pixels
        return replace(target, person=person, acted_face=replace(target.face, landmarks=points))

    left = left_by_others([raised("a", 4), raised("b", 4), raised("c", 4), raised("d", -4)])
    assert [left[person, "surprise"] for person in "abcd"] == pytest.approx([0, 0, 0, 2], abs=0.15)
    assert left_by_others([target]) == {}


def test_search_finds_the_least_loss_within_the_bounds() -> None:
    class Bowl:
        def loss(self, recipe: dict[str, float]) -> float:
            return (recipe["AU1"] - 0.7) ** 2 + (recipe["AU4"] - 2.0) ** 2 + (recipe["AU43"] + 0.4) ** 2

    found = search(Bowl(), {"AU1": 0.2, "AU4": 0.5, "AU43": -0.1}, 200)
    assert found == {unit: pytest.approx(v, abs=0.03) for unit, v in {"AU1": 0.7, "AU4": 1.3, "AU43": -0.4}.items()}


def test_a_search_that_finds_nothing_better_keeps_the_recipe() -> None:
    class Peak:
        def loss(self, recipe: dict[str, float]) -> float:
            return float(recipe["AU1"] != 0.4)

    assert search(Peak(), {"AU1": 0.4, "AU4": 0.4}, 12) == {"AU1": 0.4, "AU4": 0.4}


def test_the_command_writes_the_recipe_it_found(
    run_script: Callable[..., None], refusal: Callable[..., str], plain: EmoRigPipeline, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(RecipeSearch, "loss", lambda self, recipe: sum((v - 0.5) ** 2 for v in recipe.values()))
    plain.save_pretrained(tmp_path)
    index, blocks = tmp_path / "model_index.json", tmp_path / "modular_model_index.json"
    before = json.loads(index.read_text())
    assert "Unknown emotion 'joy'" in refusal("fit_recipes", folder, tmp_path, "--emotions", "surprise", "joy")
    assert "has nobody left who acts sad" in refusal("fit_recipes", folder, tmp_path, "--emotions", "sad")
    assert json.loads(index.read_text()) == before
    run_script("fit_recipes", folder, tmp_path, "--emotions", "surprise", "--evaluations", 400)
    after = json.loads(index.read_text())
    assert json.loads(blocks.read_text())["emotions"] == after["emotions"]
    found, former = after["emotions"].pop("surprise"), before["emotions"].pop("surprise")
    assert found == pytest.approx(dict.fromkeys(former, 0.5), abs=0.1)
    assert after == before
