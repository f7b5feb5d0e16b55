"""`emorig edit` on a folder: all photos in it and below, shared between processes, gone on with after an interruption.

Torch is imported by the functions that need it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..photo.files import READABLE, is_photo, kinds, result_names, walk
from .errors import sentence
from .photos import Job

if TYPE_CHECKING:
    from accelerate import PartialState


def folder_jobs(folder: Path, out: Path) -> tuple[list[Job], list[str]]:
    """What is to be done with a folder and all below it, but for `out`, in the order of names.

    Returns:
        The jobs, and the files that are left out as no photos, relative to the folder.

    Raises:
        ValueError: There are no photos.
    """
    files = sorted(walk(folder))
    if out.resolve().is_relative_to(folder.resolve()):
        results = out.resolve().relative_to(folder.resolve()).as_posix() + "/"
        files = [file for file in files if not file.startswith(results)]
    names = result_names(filter(is_photo, files))
    others = [file for file in files if not is_photo(file)]
    if not names:
        there = f", but {kinds(others)}" if others else ""
        raise ValueError(f"The folder '{folder}' holds no photos ({', '.join(READABLE)}){there}.")
    return [(folder / file, out / names[file]) for file in sorted(names)], others


def say_left_out(others: Sequence[str]) -> None:
    """One line on stderr about files that are no photos; none where there are none."""
    if others:
        what = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        print(f"emorig: {what} left out, as no photo: {kinds(others)}.", file=sys.stderr)


def edit_folder(
    jobs: Sequence[Job], edit: Callable[[Path, Path], object], skip_existing: bool, state: PartialState
) -> int:
    """Edit this process's share of the photos, report the bad ones and go on.

    The main process decides what is left to do, and tells in the end how much all have done.

    Args:
        jobs: What is to be done.
        edit: Edits a photo into a file.
        skip_existing: Whether results that are there are left.
        state: Which of how many processes this is.

    Returns:
        1 if there were bad ones, in any process's share.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    waiting = [job for job in jobs if not (skip_existing and job[1].is_file())]
    [waiting] = broadcast_object_list([waiting])  # other machines may see the folder a moment later
    mine = waiting[state.process_index :: state.num_processes]
    failed = _edit_share(mine, edit, state, len(jobs) - len(waiting))
    failed = sum(gather_object([failed]))
    if state.is_main_process:
        skipped = f", {len(jobs) - len(waiting)} were there already" if len(waiting) < len(jobs) else ""
        print(f"{len(waiting) - failed} of {len(jobs)} photos edited, {failed} failed{skipped}")
    return int(failed > 0)


def edit_each(jobs: Sequence[Job], edit: Callable[[Path, Path], object]) -> Iterator[tuple[Job, Exception | None]]:
    """Edit photos one after the other: one odd photo must not cost the rest of a large folder.

    Args:
        jobs: What is to be done.
        edit: Edits a photo into a file.

    Yields:
        Each job as it is done, and what went wrong with it, if anything did.

    Raises:
        AssetError: A network that every photo needs is missing.
    """
    from ..files.assets import AssetError

    for job in jobs:
        wrong = None
        try:
            edit(*job)
        except AssetError:
            raise
        except Exception as error:
            wrong = error
        yield job, wrong


def _edit_share(jobs: Sequence[Job], edit: Callable[[Path, Path], object], state: PartialState, skipped: int) -> int:
    """Edit some photos; how many of them failed."""
    from tqdm import tqdm

    done = failed = 0
    quiet = None if state.is_main_process else True
    try:
        told = edit_each(jobs, edit)
        for (source, _), error in tqdm(told, desc="emorig", unit="photo", total=len(jobs), disable=quiet):
            if error is not None:
                failed += 1
                tqdm.write(f"emorig: {_reason(source, error)}", file=sys.stderr)
            done += 1
    except KeyboardInterrupt:
        if state.is_main_process:
            share = " of this process" if state.num_processes > 1 else ""
            counts = f"{skipped + done - failed} of {skipped + len(jobs)} photos{share} done, {failed} failed"
            print(f"emorig: interrupted: {counts}; run again with --skip-existing to go on.", file=sys.stderr)
        raise
    return failed


def _reason(source: Path, error: Exception) -> str:
    """One sentence on what went wrong with a photo, with its name."""
    text = sentence(error)
    if not isinstance(error, (ValueError, OSError)):
        text = f"{type(error).__name__}: {text}"
    return text if str(source) in text else f"'{source}': {text}"
