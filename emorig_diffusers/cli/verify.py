"""`emorig verify`: whether pictures were edited."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .options import new_command, path

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


def run_verify(args: argparse.Namespace) -> int:
    """`emorig verify`: a line for every file."""
    from ..photo.io import PhotoError
    from ..provenance.verify import verify

    reports, failed = [], False
    for file in args.files:
        try:
            reports.append(verify(file))
        except PhotoError as error:
            failed = True
            print(f"emorig: {error}", file=sys.stderr)
            continue
        if not args.json:
            print(reports[-1].sentence)
    if args.json:
        print(json.dumps([report.as_json() for report in reports], indent=1))
    return 2 if failed else int(not all(report.edited for report in reports))
