"""`emorig codes`: how a pipeline reads the faces of a photo, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import models
from .options import add_options, new_command, path
from .photos import check_photo, find_faces_in, refuse_same


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_codes, "Print the codes of a photo's faces as JSON", "PHOTO")
    parser.add_argument("-o", dest="out", metavar="OUT", type=path, help="write to this file instead")
    add_options(parser, "--face", "--model")
    parser.set_defaults(face="all")


def run_codes(args: argparse.Namespace) -> int:
    """`emorig codes`: number, box [x0, y0, x1, y1] in px and codes of each face."""

    check_photo(args.photo)
    if args.out is not None:
        refuse_same(args.photo, args.out)
    pipe = models.load_pipeline(args.model)
    faces = find_faces_in(pipe, args.photo, args.face)
    write(json.dumps([pipe.describe_codes(face) for face in faces], indent=1), args.out)
    return 0


def write(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    from ..files.atomic import write_file

    if out is None:
        print(text)
    else:
        write_file(out, text.encode() + b"\n")
