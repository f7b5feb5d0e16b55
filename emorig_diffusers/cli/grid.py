"""`emorig grid`: a face with every emotion, and the edits that such a sheet is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import models
from .options import SAMPLING, add_options, new_command, sampling
from .photos import file_job, naming, say_notes

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ..pipelines.base import FacePipeline
    from ..pipelines.outputs import EmoRigOutput

COLUMNS = 3


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_grid, "Draw a face with every emotion on one sheet", "PHOTO")
    add_options(parser, *SAMPLING, "-o")


def run_grid(args: argparse.Namespace) -> int:
    """`emorig grid`: the original and every emotion of one face on a sheet, three a row."""

    if args.face == "all":
        raise ValueError("A sheet shows one face: give --face largest or a number from 1.")
    source, target = file_job(args.photo, args.out)
    pipe = models.load_pipeline(args.model)
    check_emotions(pipe, args.model)
    from tqdm import tqdm

    from ..photo.io import read_photo, save_photo

    rgb = read_photo(source).rgb
    with naming(source):
        faces = pipe.encode(rgb, args.face)
    edits, results = [], every_emotion(pipe, rgb, faces, lambda: sampling(args))
    total = len(emotion_groups(pipe))
    for names, result in tqdm(results, desc="emorig", unit="emotion", total=total, disable=None, leave=False):
        if not edits:
            say_notes(source, result)
        box = result.faces[0][0].box
        edits += zip(names, result.images)
    save_photo(draw_sheet(pipe, rgb, edits, box, args.intensity), target)
    print(target)
    return 0


def check_emotions(pipe: FacePipeline, model: str) -> None:
    """Raise ValueError for a pipeline, of the name `model`, that knows no emotions."""
    if not pipe.emotion_names:
        raise ValueError(f"The model '{model}' knows no emotions: fit them or train a classifier of them first.")


def emotion_groups(pipe: FacePipeline) -> list[list[str]]:
    """A pipeline's emotions, one for each of its calls; all for one where they share the noise that is sought first."""
    names = list(pipe.emotion_names)
    return [[name] for name in names] if pipe.noise_per_result else [names]


def every_emotion(
    pipe: FacePipeline, rgb: np.ndarray, faces: Sequence[Any], options: Callable[[], dict[str, Any]]
) -> Iterator[tuple[list[str], EmoRigOutput]]:
    """Edits of a photo uint8 [H, W, 3] and its encoded faces, of `emotion_groups`; `options()` are those of a call."""
    for group in emotion_groups(pipe):
        yield group, pipe(rgb, group, **options() | {"faces": faces, "output_type": "np"})


def draw_sheet(
    pipe: FacePipeline, rgb: np.ndarray, edits: Sequence[tuple[str, np.ndarray]],
    box: tuple[float, float, float, float], intensity: float = 1.0,
) -> Image.Image:  # fmt: skip
    """The face in a box (pixels) of a photo uint8 [H, W, 3] and of its edits by a pipeline at an intensity, each under
    its name; its file will say what it shows."""
    from ..evaluation.sheets import cut_face, draw_rows
    from ..pipelines.marking import edit_of
    from ..pipelines.request import EditRequest

    tiles = [(name, cut_face(picture, box)) for name, picture in [("original", rgb), *edits]]
    sheet = draw_rows([tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)])
    sheet.info["edit"] = edit_of(pipe, EditRequest(emotion=[name for name, _ in edits], intensity=intensity))
    return sheet
