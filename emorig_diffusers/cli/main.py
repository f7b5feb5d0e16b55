"""The `emorig` command: edit photos, show all emotions, print codes, export, fetch and convert networks.

A command is a file with its `add_command`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..version import __version__
from . import (
    animate,
    codes,
    comfyui,
    compare,
    convert,
    drive,
    edit,
    evaluate,
    export,
    fetch,
    grid,
    head,
    mesh,
    study,
    verify,
    video,
)
from .errors import sentence

COMMANDS = (
    edit, video, animate, drive, verify, grid, compare, mesh, codes, export, fetch, convert, head, study, evaluate,
    comfyui,
)  # fmt: skip
"""In the order in which help lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; `None` for the process's own).

    Returns:
        0, or 1 when photos of a folder failed, 2 for an error (one line on stderr), 130 when interrupted.
        `--help` and `--version` raise SystemExit(0).
    """
    try:
        args = build_parser().parse_args(argv)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `emorig codes … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        from ..files.assets import AssetError

        if isinstance(error, RuntimeError) and not isinstance(error, AssetError):
            raise
        print(f"emorig: {sentence(error)}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """Tells mistakes in one line, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`).")


def build_parser() -> argparse.ArgumentParser:
    """The parser; every command sets `run`, a function from the parsed arguments to the exit code."""
    about = "Change the emotion of a face in a photo and keep the person."
    parser = _Parser(prog="emorig", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"emorig {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_command(commands)
    return parser
