"""`emorig edit`: an edit on a photo, or on every photo of a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models
from .folder import edit_folder, folder_jobs, say_left_out
from .options import (
    EDITS,
    MARKS,
    SAMPLING,
    add_options,
    asked,
    check_edit,
    new_command,
    sampling,
    say_prompt,
    signer_of,
)
from .photos import Job, check_reference, file_job, naming, refuse_same, say_notes

if TYPE_CHECKING:
    from ..pipelines.base import FacePipeline

_ABOUT = "Change the emotion in a photo or in a folder of photos and all below it"
_NOTES = (
    "Start it with `accelerate launch -m emorig_diffusers edit …` to share a folder between processes, on any number "
    "of machines that see it; interrupted, it goes on with --skip-existing."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_edit, _ABOUT, "PHOTO", notes=_NOTES)
    add_options(parser.add_mutually_exclusive_group(), "--emotion", "--blend")
    add_options(parser, "--reference", *EDITS, "--edits", *SAMPLING, "-o", *MARKS, "--skip-existing")


def run_edit(args: argparse.Namespace) -> int:
    """`emorig edit`: a photo into a file, or every photo of a folder into a folder."""
    jobs, others = edit_jobs(args.photo, args.out)
    targets = [target for _, target in jobs]
    check_reference(args.reference, *targets)
    if args.skip_existing and not args.photo.is_dir() and jobs[0][1].is_file():
        print(jobs[0][1])
        return 0
    args.signer = signer_of(args, *targets)
    pipe = models.load_pipeline(args.model)
    check_edit(pipe, args)
    state = models.place(pipe)
    if state.is_main_process:
        say_prompt(args)
    if args.photo.is_dir():
        if state.is_main_process:
            say_left_out(others)
        args.out.mkdir(parents=True, exist_ok=True)
        edit = lambda source, target: edit_file(pipe, source, target, args)
        return edit_folder(jobs, edit, args.skip_existing, state)
    edit_file(pipe, *jobs[0], args)
    print(jobs[0][1])
    return 0


def edit_jobs(photo: Path, out: Path) -> tuple[list[Job], list[str]]:
    """Every file to edit, and those of a folder that are no photos; ValueError where a result cannot be."""
    if not photo.is_dir():
        return [file_job(photo, out)], []
    if out.exists() and not out.is_dir():
        raise ValueError(f"'{photo}' is a folder, so the result must be one too: '{out}' is a file.")
    refuse_same(photo, out)
    return folder_jobs(photo, out)


def edit_file(pipe: FacePipeline, source: Path, target: Path, args: argparse.Namespace) -> None:
    """Edit one photo; the folder of the result is made where it is missing."""
    from tqdm import tqdm

    from ..photo.io import count_frames, save_photo

    if (frames := count_frames(source)) > 1:
        tqdm.write(f"emorig: '{source}' holds {frames} pictures: only the first is edited.", file=sys.stderr)
    with naming(source):
        result = pipe(source, **asked(args), **sampling(args))
    say_notes(source, result)
    target.parent.mkdir(parents=True, exist_ok=True)
    sign = args.signer and args.signer.of(source)
    save_photo(result.images[0], target, not args.no_mark, not args.strip_metadata, sign)
