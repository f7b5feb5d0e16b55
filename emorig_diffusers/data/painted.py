"""Photos with labelled emotions where there are none: a pipeline gives every photo of a data set one of its emotions.

The edited photos come with a ±1 list of the kind that DiffAE's classifier is trained on. Emotions take turns and are
balanced to one photo. Photos that exist already are not made again; the list is written last.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from ..face.emotions import EMOTIONS
from ..photo.faces import NoFaceError
from ..photo.io import PhotoError, save_photo
from ..pipelines.emorig import EmoRigPipeline
from .attributes import one_hot_rows, write_attributes
from .dataset import Source
from .sources import open_dataset

LIST = "list_attr_emotions.txt"


def paint(pipe: EmoRigPipeline, picture: np.ndarray, out: Path, emotion: str, intensity: float, seed: int) -> bool:
    """Edit one photo; False where it shows no face."""
    generator = torch.Generator().manual_seed(seed)
    try:
        images, _ = pipe(picture, emotion, intensity, generator=generator, return_dict=False)
    except NoFaceError:
        return False
    save_photo(images[0], out, mark=False)  # networks would learn it
    return True


def paint_dataset(
    photos: Path, out: Path, pipe: EmoRigPipeline, intensity: tuple[float, float], seed: int, state: PartialState
) -> None:
    """Edit this process's share of the photos; the first process writes the list.

    Args:
        photos: A data set.
        out: Folder for the edited photos and their list.
        pipe: Edits them, its network on the process's device.
        intensity: Least and most, drawn in between for each photo.
        seed: Of intensities and noise.
        state: The processes.

    Raises:
        DataError: There are no photos.
        OSError: The folder cannot be made.
    """
    dataset = open_dataset(photos)
    out.mkdir(parents=True, exist_ok=True)
    shift, (least, most) = np.random.default_rng(seed).random(len(dataset)), intensity
    mine = range(state.process_index, len(dataset), state.num_processes)
    for i in tqdm(mine, desc="paint", unit="photo", disable=not state.is_main_process):
        file = _file(out, dataset.sources[i])
        if not file.exists():
            try:
                picture = dataset.read(dataset.sources[i])
            except PhotoError as error:
                print(error)
                continue
            paint(pipe, picture, file, EMOTIONS[i % len(EMOTIONS)], least + (most - least) * float(shift[i]), seed + i)
    state.wait_for_everyone()
    if state.is_main_process:
        made = {_file(out, s).name: EMOTIONS[i % len(EMOTIONS)] for i, s in enumerate(dataset.sources)
                if _file(out, s).exists()}  # fmt: skip
        names, rows = one_hot_rows(made.values())
        write_attributes(out / LIST, names, dict(zip(made, rows.values())))
        print(f"{len(made)} of {len(dataset)} photos have an emotion now: {out}")


def _file(folder: Path, source: Source) -> Path:
    return folder / f"{source.key}.png"
