"""`emorig fetch`: the networks of others, fetched and checked, or listed with all that come along."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .options import new_command

_ABOUT = "Fetch the third-party networks (84 MB) for offline use and print where they are"
_NOTES = (
    "Every file is checked by its sha256, each time it is opened. Not in the list: HSEmotion's networks, which "
    "`emorig evaluate --judge` may fetch and whose authors publish no checksum (their pickles are read without running "
    "anything), and weights that you bring."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_fetch, _ABOUT, notes=_NOTES)
    parser.add_argument("--list", action="store_true", help="instead, print a table of all networks and weights: "
        "version, size, licence, sha256, source; nothing is fetched")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run_fetch(args: argparse.Namespace) -> int:
    """`emorig fetch`: every third-party network, then where each one is; or the table."""
    from ..files.assets import fetch_all, listed

    if args.list:
        rows = list(listed())
        print(json.dumps(rows, indent=1) if args.json else _table(rows))
        return 0
    places = {name: str(path) for name, path in fetch_all().items()}
    print(json.dumps(places, indent=1) if args.json else "\n".join(f"{name}: {path}" for name, path in places.items()))
    return 0


def _table(rows: list[dict[str, Any]]) -> str:
    """Columns of equal width, the longest ones last."""
    names = ("name", "state", "version", "size", "licence", "sha256", "source")
    lines = [names, *(tuple(f"{row[n] / 1e6:.3f} MB" if n == "size" else str(row[n]) for n in names) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
