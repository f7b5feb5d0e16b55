"""`emorig verify`: whether pictures were edited."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import new_command, path

if TYPE_CHECKING:
    import numpy as np

FRAMES = 12  # of a clip, from all over it, in which the mark is looked for
_ABOUT = "Say whether pictures or clips were edited, by their metadata, Content Credentials and invisible mark"
_NOTES = (
    "Ends with 0 if every file is edited, with 1 if some are unknown, and with 2 if some cannot be read. Unknown is no "
    "proof that a picture was not edited: metadata get lost, and a mark can be worn away."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_verify, _ABOUT, notes=_NOTES)
    parser.add_argument("files", metavar="PICTURE", nargs="+", type=path)
    parser.add_argument("--json", action="store_true", help="print a list of reports as JSON")


def _frames(file: Path) -> Iterator[np.ndarray]:
    """Some frames of a clip; none of a photo, or where there is nothing that reads clips."""
    from ..video.clips import ClipError
    from ..video.reading import open_clip

    try:
        yield from (frame.rgb for frame in open_clip(file).sample(FRAMES))
    except ClipError:
        return


def run_verify(args: argparse.Namespace) -> int:
    """`emorig verify`: a line for every file."""
    from ..photo.io import PhotoError
    from ..provenance.verify import verify

    reports, failed = [], False
    for file in args.files:
        try:
            reports.append(verify(file, _frames))
        except PhotoError as error:
            failed = True
            print(f"emorig: {error}", file=sys.stderr)
            continue
        if not args.json:
            print(reports[-1].sentence)
    if args.json:
        print(json.dumps([report.as_json() for report in reports], indent=1))
    return 2 if failed else int(not all(report.edited for report in reports))
