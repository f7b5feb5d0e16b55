"""The photos of both trainers: pictures of faces in the square that the trained pipeline cuts out of a photo."""

from __future__ import annotations

import argparse
from pathlib import Path

from accelerate import Accelerator

from ...data.preparation import RESOLUTION, open_all_shards, open_shards
from ...data.shards import CodeShards
from ...photo.crops import PICTURE_FRAMES

CROP = "landmarks"  # the pipeline's own, and the published one


def add_photo_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides `--train_data_dir`."""
    add = parser.add_argument
    add("--also_train_on", type=Path, nargs="+", default=[], help="more shards or photos")
    add("--validation_data_dir", type=Path, help="shards or photos that are only looked at")
    add("--crop", choices=PICTURE_FRAMES, default=CROP, help="the square that bare photos are prepared in")
    add("--mirror", action=argparse.BooleanOptionalAction, default=False, help="half of the pictures are mirrored")


def open_photos(
    args: argparse.Namespace, side: int, accelerator: Accelerator
) -> tuple[list[CodeShards], list[CodeShards]]:
    """Prepared photos to train on, and those to look at; bare ones are prepared first.

    Args:
        args: Those of `add_photo_arguments` among them.
        side: Of the pictures, pixels.
        accelerator: The processes.
    """
    folders, out = [args.train_data_dir, *args.also_train_on], args.output_dir
    shards = open_all_shards(folders, out, accelerator, side, crop=args.crop)
    if not args.validation_data_dir:
        return shards, []
    options = {"resolution": max(side, RESOLUTION), "crop": args.crop}
    return shards, [open_shards(args.validation_data_dir, out, accelerator, "validation", **options)]
