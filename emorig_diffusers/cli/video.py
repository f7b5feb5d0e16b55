"""`emorig video`: an edit on a clip, frame by frame."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..video.clips import ANIMATION_SUFFIXES, WRITABLE
from . import models
from .options import (
    EDITS,
    MARKS,
    SAMPLING,
    add_options,
    asked,
    check_edit,
    new_command,
    path,
    say_prompt,
    shared,
    signer_of,
)
from .photos import check_reference, naming, refuse_same

if TYPE_CHECKING:
    from ..provenance.credentials import Signer
    from ..video.clips import ClipSettings, Frame
    from ..video.reading import Clip

_ABOUT = "Change the emotion in a clip, and keep its speech, blinks, background and sound"
_NOTES = (
    "Faces are numbered from 1 by where people are on the average of the clip, from the left. Videos are written as "
    "H.264 (.webm as VP9) with the sound as it was, .gif, .webp and .png as animations. A clip that breaks off, or is "
    "damaged, is written as far as it can be read; then the command says so and ends with 1."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_video, _ABOUT, "CLIP", notes=_NOTES)
    add_options(parser.add_mutually_exclusive_group(), "--emotion", "--blend", "--reference")
    add_options(parser, *EDITS, "--edits", *SAMPLING, *MARKS)
    add_result(parser)


def add_result(parser: argparse.ArgumentParser) -> None:
    """Add -o, a clip or an animation."""
    about = f"the result ({' '.join(WRITABLE)}); an existing file is replaced"
    parser.add_argument("-o", dest="out", metavar="OUT", type=path, required=True, help=about)


def run_video(args: argparse.Namespace) -> int:
    """`emorig video`: the clip into a file; 1 where it is damaged."""
    from ..video.reading import open_clip
    from ..video.writing import check_clip_path

    check_clip_path(args.out)
    clip = open_clip(args.clip)
    refuse_same(args.clip, args.out)
    check_reference(args.reference, args.out)
    signer = signer_of(args, args.out)
    pipe: Any = models.load_pipeline(args.model)
    check_edit(pipe, args)
    say_prompt(args)
    models.place(pipe)
    from ..video.edit import edit_clip

    given = asked(args) | shared(args)
    with naming(args.clip):
        frames = edit_clip(pipe, clip, args.seed, **given)
    settings = replace(clip.settings, metadata={}) if args.strip_metadata else clip.settings
    return write_result(frames, clip, args.out, None, settings, signer and signer.of(args.clip), not args.no_mark)


def write_result(
    frames: Iterator[Frame],
    clip: Clip,
    out: Path,
    size: tuple[int, int] | None = None,
    settings: ClipSettings | None = None,
    signer: Signer | None = None,
    mark: bool = True,
) -> int:
    """Write frames with a clip's sound, and say what became of it.

    Args:
        frames: Made of the clip's.
        clip: Where they come from.
        out: The file.
        size, settings: (width, height) of the frames and how they are stored, where it is not as in the clip.
        signer: Signs the file.
        mark: Whether edited faces are marked.

    Returns:
        0, or 1 where the clip is damaged.
    """
    from ..video.writing import write_clip, written_size

    with stopping():
        sign = signer and signer.sign_file
        count = write_clip(
            progress(frames, clip.length), out, settings or clip.settings, clip.path, sign=sign, mark=mark
        )
    size = size or clip.size
    if (even := written_size(out, size)) != size:
        print(f"emorig: videos have even sides: '{out}' is {even[0]} x {even[1]} pixels.", file=sys.stderr)
    if out.suffix.lower() in ANIMATION_SUFFIXES and clip.path.suffix.lower() not in ANIMATION_SUFFIXES:
        print(f"emorig: '{out}' holds no sound.", file=sys.stderr)
    print(out)
    if clip.damage:
        print(
            f"emorig: '{clip.path}' {clip.damage}: the {count} frames that can be read were written.", file=sys.stderr
        )
    return int(bool(clip.damage))


def progress(frames: Iterator[Frame], length: int | None) -> Iterator[Frame]:
    """Frames, with a bar that tells how many there are a second."""
    from tqdm import tqdm

    return iter(tqdm(frames, desc="emorig", total=length, unit="frame", disable=None, leave=False))


@contextmanager
def stopping() -> Iterator[None]:
    """In this block, what ends the process by SIGTERM ends it as an error does, so that no half file stays."""

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
