"""`emorig drive`: the face of a photo does what somebody in a clip does."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from . import models
from .options import SAMPLING, add_options, new_command, path, shared, signer_of
from .photos import check_photo, refuse_same
from .video import add_result, write_result

_ABOUT = "Let a face of a photo do what somebody in a clip does"
_NOTES = (
    "What the clip's largest face changes against its own rest, the mean of its calmest frames, the photo's face "
    "changes; the head turns with it as far as a photo can show. Where the clip's face is lost, the photo's own "
    "expression comes back. The clip's times and sound stay. --intensity is how much of the movement is taken over."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_drive, _ABOUT, "PHOTO", notes=_NOTES)
    parser.add_argument("--by", metavar="CLIP", type=path, required=True, help="the clip whose face moves the photo's")
    about = "whose face in the clip, counted from 1 at the left (default: the largest)"
    parser.add_argument("--by-face", metavar="N", type=int, help=about)
    add_options(parser, *SAMPLING, "--no-mark", "--sign")
    add_result(parser)


def run_drive(args: argparse.Namespace) -> int:
    """`emorig drive`: the moving photo into a file; 1 where the clip is damaged."""
    from ..pipelines.request import EditRequest
    from ..video.reading import open_clip
    from ..video.writing import check_clip_path

    check_photo(args.photo)
    check_clip_path(args.out)
    clip = open_clip(args.by)
    for one in (args.photo, args.by):
        refuse_same(one, args.out)
    args.signer = signer_of(args, args.out)
    pipe: Any = models.load_pipeline(args.model)
    from ..video.drive import LIMITED, Drive, check_drive

    driver = "largest" if args.by_face is None else args.by_face
    given = shared(args)
    check_drive(pipe, EditRequest(**given), driver)
    models.place(pipe)
    drive = Drive(pipe, args.photo, clip, driver, args.seed, **given)
    height, width = drive.portrait.rgb.shape[:2]
    signer, mark = args.signer and args.signer.of(args.photo), not args.no_mark
    code = write_result(drive.frames(), clip, args.out, (width, height), drive.settings, signer, mark)
    if drive.limited:
        print(f"emorig: {LIMITED}", file=sys.stderr)
    return code
