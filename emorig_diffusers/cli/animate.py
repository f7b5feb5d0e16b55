"""`emorig animate`: a photo whose faces change, as a video or an animation."""

from __future__ import annotations

import argparse
from fractions import Fraction
from typing import Any

from . import models
from .options import SAMPLING, add_options, asked, new_command, say_prompt, shared, signer_of
from .photos import check_photo, check_reference, naming, refuse_same
from .video import add_result, progress, stopping

_ABOUT = "Let a face of a photo change to an emotion, frame by frame"
_NOTES = (
    "The first frame is the photo; the last one is what `emorig edit` gives, or with --loop the photo again. With "
    "--rotate the head turns at the same time, with --gaze the eyes, with --light-turn the light; "
    "with --emotion left out nothing else changes. Without --loop, .gif, .webp and .png play once."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_animate, _ABOUT, "PHOTO", notes=_NOTES)
    ways = parser.add_mutually_exclusive_group()
    about = "an emotion, or some in a row, e.g. happy,surprise"
    ways.add_argument("--emotion", metavar="NAMES", type=_names, help=about)
    add_options(ways, "--blend", "--reference")
    add_options(parser, "--prompt", "--au", "--rotate", "--gaze", "--light-turn", "--light-strength", "--edits")
    parser.add_argument("--blink", action="store_true", help="blink, once in about three seconds")
    parser.add_argument("--seconds", metavar="S", type=float, help="how long it takes in all (default: 2 an emotion)")
    parser.add_argument("--loop", action="store_true", help="come back to the photo, and begin again")
    parser.add_argument("--rate", metavar="N", type=int, default=25, help="frames a second (default: %(default)s)")
    add_options(parser, *SAMPLING, "--no-mark", "--sign")
    add_result(parser)


def _names(text: str) -> str | list[str]:
    """`happy` as it is, `happy,surprise` as a list."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"give emotions with commas between them, not {text!r}")
    return names if len(names) > 1 else names[0]


def run_animate(args: argparse.Namespace) -> int:
    """`emorig animate`: the photo into a file."""
    from ..pipelines.request import EditRequest
    from ..video.writing import check_clip_path

    check_photo(args.photo)
    check_clip_path(args.out)
    refuse_same(args.photo, args.out)
    check_reference(args.reference, args.out)
    args.signer = signer_of(args, args.out)
    pipe: Any = models.load_pipeline(args.model)
    from ..video.animate import animate, check_animation

    given = asked(args) | shared(args)
    check_animation(pipe, EditRequest(**given), args.seconds, args.blink, args.rate)
    say_prompt(args)
    models.place(pipe)
    with naming(args.photo):
        frames = animate(pipe, args.photo, args.seconds, args.loop, args.blink, args.rate, args.seed, **given)
    return write_animation(frames, args)


def write_animation(frames: Any, args: argparse.Namespace) -> int:
    """Write frames of a photo."""
    from ..video.clips import ClipSettings
    from ..video.writing import write_clip

    with stopping():
        settings, sign = ClipSettings(Fraction(args.rate)), args.signer and args.signer.of(args.photo).sign_file
        frames = progress(frames, None)
        write_clip(frames, args.out, settings, repeat=args.loop, sign=sign, mark=not args.no_mark)
    print(args.out)
    return 0
