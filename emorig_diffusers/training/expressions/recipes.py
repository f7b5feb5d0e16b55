"""Amounts of an emotion's recipe with which edits come nearest to people's real expression.

Every candidate is tried as the product makes it: each person's neutral photo is edited and held against their acted one
(`targets.py`). What is made least is the mean of LPIPS to the real expression (a share of the untouched photo's), of
the flow left over, of what the judges do not give the emotion, and of what is lacking of the similarity to the person's
neutral photo that the real expression keeps. CMA-ES (Hansen 2016) searches; the units of a recipe stay, their amounts
change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cma
import numpy as np
import torch

from ...face.emotions import check_emotion
from ...face.encode import EncodedFace
from ...hub.repository import rewrite_index
from ...pipelines.emorig import EmoRigPipeline
from .targets import Distance, Ruler, Target, read_targets

STEP, LARGEST = 0.15, 1.3  # first standard deviation of an amount, and its bound
FLOW, JUDGE, IDENTITY = 0.5, 1.0, 4.0  # weights beside LPIPS, whose weight is 1; all are about 1 for no edit
SLACK = 0.03  # of SFace that an edit may be less like the neutral photo than the real expression is
FLOOR = 0.77  # of SFace, whatever the real expression keeps


class RecipeSearch:
    """The loss of an emotion's amounts on some people."""

    def __init__(self, pipe: EmoRigPipeline, ruler: Ruler, targets: Sequence[Target]) -> None:
        self.pipe, self.distances = pipe, [ruler.to(target) for target in targets]
        self.faces = [pipe.encode(target.neutral) for target in targets]  # no recipe changes how a photo is read

    def loss(self, recipe: Mapping[str, float]) -> float:
        """Of a recipe: about 2 for no edit, less the nearer the edits are to the real expressions."""
        return float(np.mean([self._of(*face, recipe) for face in zip(self.distances, self.faces)]))

    def _of(self, distance: Distance, faces: list[EncodedFace], recipe: Mapping[str, float]) -> float:
        target = distance.target
        self.pipe.register_to_config(emotions={**self.pipe.recipes, target.emotion: dict(recipe)})
        generator = torch.Generator().manual_seed(0)
        result = self.pipe(target.neutral, target.emotion, faces=faces, output_type="np", generator=generator)
        edited = result.images[0]
        figures = distance.measure(edited)
        wanted = max(figures["sface acted"] - SLACK, FLOOR)
        return float(
            figures["lpips face"] / figures["unedited lpips face"]
            + FLOW * figures["flow face"]
            + JUDGE * (1 - np.nanmean([figures[name + " probability"] for name in distance.ruler.judges]))
            + IDENTITY * max(wanted - figures["sface"], 0)
        )


def search(problem: RecipeSearch, recipe: Mapping[str, float], evaluations: int, seed: int = 0) -> dict[str, float]:
    """The best amounts found for a recipe's units in so many evaluations; none changes its sign."""
    units = list(recipe)
    given = np.array([recipe[unit] for unit in units])
    bounds = np.where(given < 0, -LARGEST, 0.0), np.where(given < 0, 0.0, LARGEST)
    options = {"bounds": [*map(list, bounds)], "maxfevals": evaluations, "seed": seed + 1, "verbose": -9}
    start = np.clip(given, *bounds)
    loss = lambda amounts: problem.loss(dict(zip(units, amounts.tolist())))
    best, _ = cma.fmin2(loss, start, STEP, options)
    found = best if loss(best) < loss(start) else start
    return {unit: round(float(amount), 2) for unit, amount in zip(units, found)}


def fit_recipes(expressions: Path, pipeline: Path, emotions: Sequence[str], evaluations: int) -> None:
    """Search the amounts of some emotions' recipes; each is written into a pipeline's index as soon as it is found.

    Args:
        expressions: Folder of acted expressions.
        pipeline: Folder whose recipes are written anew.
        emotions: Those of the pipeline's emotions that are searched.
        evaluations: Candidates an emotion.

    Raises:
        DataError: The expressions cannot be used, see `read_manifest`.
        ValueError: An emotion that the pipeline does not know.
    """
    pipe = EmoRigPipeline.from_pretrained(pipeline)
    pipe.set_progress_bar_config(disable=True)
    ruler, recipes = Ruler(), dict(pipe.recipes)
    for emotion in emotions:
        check_emotion(emotion, recipes)
    for emotion in emotions:
        problem = RecipeSearch(pipe, ruler, read_targets(expressions, [emotion]))
        before = problem.loss(recipes[emotion])
        recipes[emotion] = search(problem, recipes[emotion], evaluations)
        print(f"{emotion}: loss {before:.3f} -> {problem.loss(recipes[emotion]):.3f}, {recipes[emotion]}")
        rewrite_index(pipeline, {"emotions": recipes})
