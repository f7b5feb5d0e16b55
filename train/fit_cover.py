"""Train the small network that tells whether something is before a mouth, and measure it on people it never saw.

    python train/fit_cover.py PHOTOS emorig_diffusers/weights/lips-seen [--also EDITED ...]

PHOTOS are portraits whose lips are seen, with `manifest.csv` (`file`, `person`) where people have several. EDITED are
folders of the product's own edits of PHOTOS under the same names, for mouths that are wide open, which photos hardly
show: the shipped network saw 182 of all emotions and 115 of AU27 with lips pushed forward. How it is trained:
`emorig_diffusers/training/covers/fit.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emorig_diffusers.models.occlusion import SURE
from emorig_diffusers.training.covers.fit import fit_cover
from emorig_diffusers.training.scripts import refusals


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path, help="folder that model.safetensors is written to")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="folders of edits of these photos, same names")
    parser.add_argument("--count", type=int, default=14000, help="samples of either kind")
    parser.add_argument("--sure", type=float, default=SURE, help="logit from which a mouth counts as covered")
    args = parser.parse_args()
    with refusals():
        fit_cover(args.photos, args.out, args.also, args.count, args.sure)


if __name__ == "__main__":
    main()
