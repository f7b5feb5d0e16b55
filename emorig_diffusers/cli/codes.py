"""`emorig codes`: how a pipeline reads the faces of a photo, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def run_codes(args: argparse.Namespace) -> int:
    """`emorig codes`: number, box [x0, y0, x1, y1] in px and codes of each face."""
    from . import main

    main.check_photo(args.photo)
    if args.out is not None:
        main.refuse_same(args.photo, args.out)
    pipe = main.load_pipeline(args.model)
    faces = main.find_faces_in(pipe, args.photo, args.face)
    write(json.dumps([pipe.describe_codes(face) for face in faces], indent=1), args.out)
    return 0


def write(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    from ..files.atomic import write_file

    if out is None:
        print(text)
    else:
        write_file(out, text.encode() + b"\n")
