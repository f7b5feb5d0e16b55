"""Search the amounts of an emotion's recipe with which edits come nearest to people's real expression.

    python train/fit_recipes.py EXPRESSIONS emorig_diffusers/weights/emorig-open --emotions sad disgust

EXPRESSIONS has a manifest.csv: file, person, expression; 3 to 5 people do. Every candidate is tried as the product
makes it: each person's neutral photo is edited and held against their acted one (train/expression_targets.py). What is
made least is the mean of LPIPS to the real expression (a share of the untouched photo's), of the flow left over, of
what the judges do not give the emotion, and of what is lacking of the similarity to the person's neutral photo that the
real expression keeps. CMA-ES (Hansen 2016) searches; the units of a recipe stay, their amounts change. The pipeline's
model_index.json gets the new recipes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cma
import numpy as np
import torch
from expression_targets import Ruler, Target, read_targets

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.files.atomic import write_file
from emorig_diffusers.hub.repository import INDEX

STEP, LARGEST = 0.15, 1.3  # first standard deviation of an amount, and its bound
FLOW, JUDGE, IDENTITY = 0.5, 1.0, 4.0  # weights beside LPIPS, whose weight is 1; all are about 1 for no edit
SLACK = 0.03  # of SFace that an edit may be less like the neutral photo than the real expression is
FLOOR = 0.77  # of SFace, whatever the real expression keeps


class RecipeSearch:
    """The loss of an emotion's amounts on some people."""

    def __init__(self, pipe: EmoRigPipeline, ruler: Ruler, targets: Sequence[Target]) -> None:
        self.pipe, self.ruler, self.targets = pipe, ruler, targets

    def loss(self, recipe: Mapping[str, float]) -> float:
        """Of a recipe: about 2 for no edit, less the nearer the edits are to the real expressions."""
        return float(np.mean([self._of(target, recipe) for target in self.targets]))

    def _of(self, target: Target, recipe: Mapping[str, float]) -> float:
        self.pipe.register_to_config(emotions={**self.pipe.recipes, target.emotion: dict(recipe)})
        generator = torch.Generator().manual_seed(0)
        edited = self.pipe(target.neutral, target.emotion, output_type="np", generator=generator).images[0]
        figures = self.ruler.measure(target, edited)
        scores = [judge(edited, target.face.box)[target.emotion] for judge in self.ruler.judges.values()]
        wanted = max(figures["sface acted"] - SLACK, FLOOR)
        return (
            figures["lpips face"] / figures["unedited lpips face"]
            + FLOW * figures["flow face"]
            + JUDGE * (1 - np.mean(scores))
            + IDENTITY * max(wanted - figures["sface"], 0)
        )


def search(problem: RecipeSearch, recipe: Mapping[str, float], evaluations: int, seed: int = 0) -> dict[str, float]:
    """The best amounts found for a recipe's units in so many evaluations."""
    units = list(recipe)
    options = {"bounds": [0, LARGEST], "maxfevals": evaluations, "seed": seed + 1, "verbose": -9}
    start = np.clip([recipe[unit] for unit in units], 0, LARGEST)
    loss = lambda amounts: problem.loss(dict(zip(units, amounts.tolist())))
    best, _ = cma.fmin2(loss, start, STEP, options)
    found = best if loss(best) < loss(start) else start
    return {unit: round(float(amount), 2) for unit, amount in zip(units, found)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expressions", type=Path)
    parser.add_argument("pipeline", type=Path, help="folder whose recipes are written anew")
    parser.add_argument("--emotions", nargs="+", required=True)
    parser.add_argument("--evaluations", type=int, default=120, help="candidates an emotion; each takes 2 s a person")
    args = parser.parse_args()
    pipe = EmoRigPipeline.from_pretrained(args.pipeline)
    pipe.set_progress_bar_config(disable=True)
    ruler, recipes = Ruler(), dict(pipe.recipes)
    for emotion in args.emotions:
        problem = RecipeSearch(pipe, ruler, read_targets(args.expressions, expressions=[emotion]))
        before = problem.loss(recipes[emotion])
        recipes[emotion] = search(problem, recipes[emotion], args.evaluations)
        print(f"{emotion}: loss {before:.3f} -> {problem.loss(recipes[emotion]):.3f}, {recipes[emotion]}")
        index = args.pipeline / INDEX
        content = json.loads(index.read_text("utf-8")) | {"emotions": recipes}
        write_file(index, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main()
