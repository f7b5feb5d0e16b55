"""Prepare photos for training: find the face of each, fit its codes, keep picture and codes in shards.

    accelerate launch train/prepare.py PHOTOS OUT

PHOTOS is a folder or file in one of the layouts of `emorig_diffusers.data.sources`. Any number of processes and any
interruption give the same shards; finished shards are kept, and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from emorig_diffusers.data.preparation import MAX_ERROR, MAX_READ_ERROR, RESOLUTION, SHARD_SIZE, Settings, prepare
from emorig_diffusers.photo.crops import PICTURE_FRAMES
from emorig_diffusers.training.scripts import PATIENCE, refusals


def parse_args() -> Settings:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("photos", type=Path, help="the data set: a folder of photos or another layout")
    add("out", type=Path, help="folder for the shards")
    add("--layout", default="auto", help="layout of the data set, told by what it holds if 'auto'")
    add("--pretrained_model_name_or_path", default="emorig-open", help="pipeline whose head and encoder fit the faces")
    add("--resolution", type=int, default=RESOLUTION, help="side of the training pictures in pixels")
    add("--crop", choices=PICTURE_FRAMES, help="aligned: the square around the upright face; ffhq: FFHQ's square; "
        "landmarks: the upright square over the landmarks' box; "
        "whole: the photo's largest square in the middle, for sets that are aligned already (default: what the "
        "pipeline's network draws)")  # fmt: skip
    add("--shard_size", type=int, default=SHARD_SIZE, help="photos a shard")
    add("--max_error", type=float, help="mean landmark error the codes may have, pixels of a 384-pixel crop (default: "
        f"{MAX_ERROR:g} for a fit to landmarks, {MAX_READ_ERROR:g} for a network that reads codes)")  # fmt: skip
    add("--limit", type=int, help="use only the first photos")
    args = parser.parse_args()
    for name in ("resolution", "shard_size", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1.")
    return Settings(**vars(args))


def main() -> None:
    """Exits with one sentence where the photos or the folder cannot be used."""
    settings, patience = parse_args(), InitProcessGroupKwargs(timeout=PATIENCE)
    torch.set_num_threads(1)  # the fits are small: threads only wait for each other
    with refusals():
        prepare(settings, Accelerator(kwargs_handlers=[patience]))


if __name__ == "__main__":
    main()
