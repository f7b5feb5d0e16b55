"""`emorig animate`: a photo whose faces change, as a video or an animation."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..video.clips import WRITABLE

_ABOUT = "Let a face of a photo change to an emotion, frame by frame"
_NOTES = (
    "The first frame is the photo; the last one is what `emorig edit` gives, or with --loop the photo again. With "
    "--rotate the head turns at the same time, with --gaze the eyes, with --light-turn the light; "
    "with --emotion left out nothing else changes. Without --loop, .gif, .webp and .png play once."
)


def add_command(commands: Any, path: Callable[[str], Path], add: Callable[..., None], *shared: str) -> None:
    """Add the command to the subparsers `commands`; `path` reads arguments, `add` the options named `shared`."""
    parser = commands.add_parser("animate", help=_ABOUT, description=f"{_ABOUT}.", epilog=_NOTES, allow_abbrev=False)
    parser.set_defaults(run=run_animate)
    parser.add_argument("photo", metavar="PHOTO", type=path)
    ways = parser.add_mutually_exclusive_group()
    about = "an emotion, or some in a row, e.g. happy,surprise"
    ways.add_argument("--emotion", metavar="NAMES", type=_names, help=about)
    add(ways, "--blend", "--reference")
    add(parser, "--prompt", "--au", "--rotate", "--gaze", "--light-turn", "--light-strength")
    parser.add_argument("--blink", action="store_true", help="blink, once in about three seconds")
    parser.add_argument("--seconds", metavar="S", type=float, help="how long it takes in all (default: 2 an emotion)")
    parser.add_argument("--loop", action="store_true", help="come back to the photo, and begin again")
    parser.add_argument("--rate", metavar="N", type=int, default=25, help="frames a second (default: %(default)s)")
    add(parser, *shared)
    about = f"the result ({' '.join(WRITABLE)}); an existing file is replaced"
    parser.add_argument("-o", dest="out", metavar="OUT", type=path, required=True, help=about)


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
    from . import main

    main.check_photo(args.photo)
    check_clip_path(args.out)
    main.refuse_same(args.photo, args.out)
    if args.reference is not None:
        main.check_photo(args.reference)
        main.refuse_same(args.reference, args.out)
    args.signer = main.signer_of(args, args.out)
    pipe: Any = main.load_pipeline(args.model)
    from ..video.animate import animate, check_animation

    given = main.asked(args) | {name: getattr(args, name) for name in ("face", "intensity", "num_inference_steps")}
    check_animation(pipe, EditRequest(**given), args.seconds, args.blink, args.rate)
    main.say_prompt(args)
    from ..processes import start_processes

    if "cuda" in str(device := start_processes().device):
        pipe.to(device)
    with main.naming(args.photo):
        frames = animate(pipe, args.photo, args.seconds, args.loop, args.blink, args.rate, args.seed, **given)
    return write_animation(frames, args)


def write_animation(frames: Any, args: argparse.Namespace) -> int:
    """Write frames of a photo."""
    from ..video.clips import ClipSettings
    from ..video.writing import write_clip
    from .video import progress, stopping

    with stopping():
        settings, sign = ClipSettings(Fraction(args.rate)), args.signer and args.signer.of(args.photo).sign_file
        write_clip(progress(frames, None), args.out, settings, repeat=args.loop, sign=sign)
    print(args.out)
    return 0
