"""Photos with labelled emotions where there are none: a pipeline gives every photo of a data set one of its emotions.

    accelerate launch train/paint_emotions.py PHOTOS OUT [--pretrained_model_name_or_path emorig-open]

OUT holds the edited photos and a ±1 list of the kind that DiffAE's classifier is trained on, so that
`train/prepare.py OUT SHARDS` reads it as labelled photos. Emotions take turns and are balanced to one photo. Photos
that exist already are not made again; the list is written last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import PartialState

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.painted import paint_dataset
from emorig_diffusers.training.scripts import refusals


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("photos", type=Path, help="a data set, as for train/prepare.py")
    add("out", type=Path, help="folder for the edited photos and their list")
    add("--pretrained_model_name_or_path", default="emorig-open", help="what edits them")
    add("--intensity", type=float, nargs=2, default=(0.7, 1.3), metavar=("LEAST", "MOST"), help="drawn in between")
    add("--seed", type=int, default=0)
    args, state = parser.parse_args(), PartialState(cpu=not torch.cuda.is_available())
    with refusals():
        pipe = EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path)
        pipe.set_progress_bar_config(disable=True)
        if pipe.unet is not None:
            pipe.unet.to(state.device)
        paint_dataset(args.photos, args.out, pipe, args.intensity, args.seed, state)


if __name__ == "__main__":
    main()
