"""Calibrate the landmark encoder on photos: what a detector's score means in the head's units, and what relaxed is.

    python train/tools/calibrate_encoder.py PHOTOS emorig_diffusers/weights/emorig-open \
        [--network emorig_diffusers/weights/encoder-open]

Reads `head/` of the pipeline folder, writes `encoder/`. With `--network` the last layer of a network that tells the
codes from a crop is fitted to those of the same photos, as it has to be when the head's expression units have changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emorig_diffusers.training.encoder.calibration import calibrate_pipeline
from emorig_diffusers.training.scripts import refusals


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("pipeline", type=Path, help="folder with head/; encoder/ is written there")
    parser.add_argument("--every", type=int, default=3, help="use every n-th photo")
    parser.add_argument("--network", type=Path, help="folder of a network whose last layer is fitted to the codes")
    args = parser.parse_args()
    with refusals():
        calibrate_pipeline(sorted(args.photos.glob("*.jpg"))[:: args.every], args.pipeline, args.network)


if __name__ == "__main__":
    main()
