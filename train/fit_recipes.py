"""Search the amounts of an emotion's recipe with which edits come nearest to people's real expression.

    python train/fit_recipes.py EXPRESSIONS emorig_diffusers/weights/emorig-open --emotions sad disgust

EXPRESSIONS has a manifest.csv: file, person, expression; 3 to 5 people do. The pipeline's model_index.json gets the new
recipes. What is made least: `emorig_diffusers/training/expressions/recipes.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emorig_diffusers.training.expressions.recipes import fit_recipes
from emorig_diffusers.training.scripts import refusals


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expressions", type=Path)
    parser.add_argument("pipeline", type=Path, help="folder whose recipes are written anew")
    parser.add_argument("--emotions", nargs="+", required=True)
    parser.add_argument("--evaluations", type=int, default=120, help="candidates an emotion; each takes 2 s a person")
    args = parser.parse_args()
    with refusals():
        fit_recipes(args.expressions, args.pipeline, args.emotions, args.evaluations)


if __name__ == "__main__":
    main()
