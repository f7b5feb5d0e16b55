"""`emorig export`: a pipeline as a folder."""

from __future__ import annotations

import argparse
from typing import Any

from . import models
from .options import add_options, new_command


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_export, "Write a pipeline as a new folder in Hub layout", "DIR")
    parser.add_argument("--repo-id", metavar="OWNER/NAME", help="the Hub repository that it will be in")
    add_options(parser, "--model")


def run_export(args: argparse.Namespace) -> int:
    """`emorig export`: a folder that can be pushed to the Hub as it is."""
    pipe = models.load_pipeline(args.model)
    from ..hub.repository import export_hub

    print(export_hub(pipe, args.dir, repo_id=args.repo_id))
    return 0
