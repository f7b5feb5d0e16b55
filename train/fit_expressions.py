"""Give the open head's expression units the motion and shade of people's acted expressions.

    python train/fit_expressions.py EXPRESSIONS emorig_diffusers/weights/emorig-open
    python train/tools/calibrate_encoder.py PHOTOS emorig_diffusers/weights/emorig-open --network WEIGHTS/encoder-open

EXPRESSIONS has a manifest.csv (file, person, expression) with every person's neutral photo and the emotions' ones; only
those are used that the judge of emotions names as they are meant, as far as there are any. How units are corrected:
`emorig_diffusers/training/expressions/units.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emorig_diffusers.training.expressions.units import fit_expressions
from emorig_diffusers.training.scripts import refusals


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expressions", type=Path, help="folder with manifest.csv: file, person, expression")
    parser.add_argument("pipeline", type=Path, help="folder with head/, which is written anew")
    parser.add_argument("--without", nargs="*", default=(), help="people to leave out")
    args = parser.parse_args()
    with refusals():
        fit_expressions(args.expressions, args.pipeline, args.without)


if __name__ == "__main__":
    main()
