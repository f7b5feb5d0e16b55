"""Learn a pipeline's emotions from labelled photos: one code an emotion, in the middle of what its photos show.

    accelerate launch train/fit_emotions.py --train_data_dir SHARDS --pretrained_model_name_or_path PIPE
        --output_dir OUT

SHARDS come from train/prepare.py, run with the same pipeline on a labelled data set (AffectNet). OUT is a copy of the
pipeline with `emotion_codes` in its index. Emotions with few photos keep what the pipeline had for them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accelerate import Accelerator

from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.training.expressions.emotion_codes import fit_emotions
from emorig_diffusers.training.scripts import refusals


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--train_data_dir", type=Path, required=True, help="shards of labelled photos, written by train/prepare.py")
    add("--pretrained_model_name_or_path", default="emorig-open", help="pipeline that the shards were prepared with")
    add("--output_dir", type=Path, required=True, help="new or empty folder for the pipeline")
    add("--min_photos", type=int, default=20, help="an emotion with fewer keeps the pipeline's former code")
    add("--max_photos", type=int, default=5000, help="photos of an emotion that are read")
    add("--weight_by_error", action="store_true", help="photos whose landmarks were fitted badly count less")
    args = parser.parse_args()
    if not 2 <= args.min_photos <= args.max_photos:
        parser.error("--min_photos must be at least 2, and no more than --max_photos.")
    return args


def main() -> None:
    """Exits with one sentence where photos, pipeline or folder cannot be used."""
    args = parse_args()
    if not Accelerator().is_main_process:
        return
    with refusals():
        fit_emotions(
            CodeShards(args.train_data_dir), args.pretrained_model_name_or_path, args.output_dir, args.min_photos,
            args.max_photos, args.weight_by_error,
        )  # fmt: skip


if __name__ == "__main__":
    main()
