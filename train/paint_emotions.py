"""Photos with labelled emotions where there are none: a pipeline gives every photo of a data set one of its emotions.

    accelerate launch train/paint_emotions.py PHOTOS OUT [--pretrained_model_name_or_path emorig-open]

OUT holds the edited photos and a ±1 list of the kind that DiffAE's classifier is trained on, so that
`train/prepare.py OUT SHARDS` reads it as labelled photos. Emotions take turns and are balanced to one photo. Photos
that exist already are not made again; the list is written last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from emorig_diffusers import EmoRigPipeline, NoFaceError
from emorig_diffusers.data.attributes import one_hot_rows, write_attributes
from emorig_diffusers.data.dataset import Source
from emorig_diffusers.data.sources import DataError, open_dataset
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.files.assets import AssetError
from emorig_diffusers.photo.io import PhotoError, save_photo

LIST = "list_attr_emotions.txt"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("photos", type=Path, help="a data set, as for train/prepare.py")
    add("out", type=Path, help="folder for the edited photos and their list")
    add("--pretrained_model_name_or_path", default="emorig-open", help="what edits them")
    add("--intensity", type=float, nargs=2, default=(0.7, 1.3), metavar=("LEAST", "MOST"), help="drawn in between")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def paint(pipe: EmoRigPipeline, picture: np.ndarray, out: Path, emotion: str, intensity: float, seed: int) -> bool:
    """Edit one photo; False where it shows no face."""
    generator = torch.Generator().manual_seed(seed)
    try:
        result = pipe(picture, emotion, intensity, generator=generator)
    except NoFaceError:
        return False
    save_photo(result.images[0], out)
    return True


def main(argv: list[str] | None = None) -> None:
    """Edit this process's share of the photos; the first process writes the list."""
    args, state = parse(argv), PartialState(cpu=not torch.cuda.is_available())
    try:
        dataset = open_dataset(args.photos)
        pipe = EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path)
        args.out.mkdir(parents=True, exist_ok=True)
    except (AssetError, DataError, OSError) as error:
        raise SystemExit(str(error)) from None
    pipe.set_progress_bar_config(disable=True)
    if pipe.unet is not None:
        pipe.unet.to(state.device)
    shift = np.random.default_rng(args.seed).random(len(dataset))
    least, most = args.intensity
    mine = range(state.process_index, len(dataset), state.num_processes)
    for i in tqdm(mine, desc="paint", unit="photo", disable=not state.is_main_process):
        out = _file(args.out, dataset.sources[i])
        if not out.exists():
            try:
                picture = dataset.read(dataset.sources[i])
            except PhotoError as error:
                print(error)
                continue
            intensity = least + (most - least) * float(shift[i])
            paint(pipe, picture, out, EMOTIONS[i % len(EMOTIONS)], intensity, args.seed + i)
    state.wait_for_everyone()
    if state.is_main_process:
        made = {_file(args.out, s).name: EMOTIONS[i % len(EMOTIONS)] for i, s in enumerate(dataset.sources)
                if _file(args.out, s).exists()}  # fmt: skip
        names, rows = one_hot_rows(made.values())
        write_attributes(args.out / LIST, names, dict(zip(made, rows.values())))
        print(f"{len(made)} of {len(dataset)} photos have an emotion now: {args.out}")


def _file(folder: Path, source: Source) -> Path:
    return folder / f"{source.key}.png"


if __name__ == "__main__":
    main()
