"""Options that several commands share: how they are read, and what they ask of a pipeline.

Torch and diffusers, which take seconds, are imported by the functions that need them: help, the version and a
wrong path do not wait for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.texts import parse_json
from ..photo.files import WRITABLE
from ..pipelines.request import ARGUMENTS, options
from .amounts import by_name, parse_amounts
from .photos import find_faces_in

if TYPE_CHECKING:
    from ..pipelines.base import FacePipeline
    from ..provenance.credentials import Signer


def path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _face(text: str) -> int | str:
    if text in ("largest", "all"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"give largest, all or a number from 1, not {text!r}")


def seed(text: str) -> int:
    if text.isdecimal() and int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError(f"give a whole number from 0, not {text!r}")


class _Gaze(argparse.Action):
    """Reads two angles, or the word `camera`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            namespace.gaze = "camera" if values == ["camera"] else [float(value) for value in values]
        except ValueError:
            parser.error(f"argument --gaze: give two angles or camera, not {' '.join(values)!r}")


def _amounts(text: str) -> list[tuple[str, float]]:
    """`happy=.6,surprise=.4` -> its pairs."""
    try:
        return parse_amounts(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _blend(text: str) -> dict[str, float]:
    try:
        return by_name(_amounts(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _edits(text: str) -> Any:
    """Edits from JSON, in a text or in the file that it names; those of a preset of the demo, too. Faces' numbers are
    whole numbers, as in code."""
    try:
        known = text if text.lstrip()[:1] in ("[", "{") else Path(text).read_text("utf-8")
        edits = parse_json(known)
    except OSError:
        raise argparse.ArgumentTypeError(f"there is no file {text!r}, and no JSON begins like that") from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"this is no JSON such as {_EDITS}: {text[:60]!r}") from None
    if isinstance(edits, dict) and "edits" in edits:
        edits = edits["edits"]
    if isinstance(edits, dict):
        return {int(face) if face.isdecimal() else face: steps for face, steps in edits.items()}
    return edits


_EDITS = '{"1": [{"emotion": "happy"}], "2": [{"emotion": "sad", "intensity": 0.5}]}'
_AMOUNTS = {"type": _amounts, "action": "extend", "default": []}
_READERS = {"--reference": {"type": path}, "--face": {"type": _face}, "--au": _AMOUNTS, "--attribute": _AMOUNTS,
            "--gaze": {"action": _Gaze}, "--edits": {"type": _edits}}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: about | _READERS.get(name, {}) for name, about in options().items()},
    "--blend": {"metavar": "BLEND", "dest": "emotion", "type": _blend,
                "help": "some emotions, e.g. happy=.6,surprise=.4"},
    "--seed": {"metavar": "N", "type": seed, "default": 0, "help": "a whole number: other noise (default: 0)"},
    "--model": {"metavar": "NAME", "default": "emorig-open",
                "help": "a bundled name, a folder or a Hub id (default: %(default)s)"},
    "-o": {"metavar": "OUT", "dest": "out", "type": path, "required": True,
           "help": f"the result ({' '.join(WRITABLE)}), or a folder for it; existing files are replaced"},
    "--no-mark": {"action": "store_true", "help": "leave out the invisible mark that says a face was edited"},
    "--strip-metadata": {"action": "store_true",
                         "help": "leave out what the photo's file says (EXIF, places, camera), but its colour profile"},
    "--sign": {"metavar": ("CERT", "KEY"), "type": path, "nargs": 2,
               "help": "sign the result (Content Credentials) with a certificate chain and its private key, PEM files"},
    "--skip-existing": {"action": "store_true", "help": "leave out photos whose results are there already"},
}  # fmt: skip
SHARED = ("intensity", "face", "num_inference_steps")
"""What all that edits tells the pipeline, by its names."""
MARKS = ("--no-mark", "--strip-metadata", "--sign")
"""How a photo's result says that it was edited."""
SAMPLING = ("--intensity", "--face", "--steps", "--seed", "--model")
EDITS = [name for name in options() if name not in ("--emotion", "--reference", "--edits", *SAMPLING)]


def new_command(
    commands: Any, run: Callable[[argparse.Namespace], int], about: str, *files: str, notes: str | None = None,
    name: str = "",
) -> argparse.ArgumentParser:  # fmt: skip
    """A parser among the subparsers `commands`, to add options to.

    Args:
        commands: What `add_subparsers` gave.
        run: What the command does, from its arguments to the exit code; named `run_` and the command's name.
        about: What it does in one line, without a full stop.
        files: Its paths in their order, as help shows them.
        notes: What help says below the options.
        name: Of the command, where the function's does not tell it.
    """
    name = name or run.__name__.removeprefix("run_")
    parser = commands.add_parser(name, help=about, description=f"{about}.", epilog=notes, allow_abbrev=False)
    parser.set_defaults(run=run)
    for file in files:
        parser.add_argument(file.lower(), metavar=file, type=path)
    return parser


def add_options(parser: argparse._ActionsContainer, *names: str) -> None:
    """Add some of OPTIONS."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def check_edit(pipe: FacePipeline, args: argparse.Namespace) -> None:
    """Refuse what no photo can mend, before the first one is read."""
    from ..pipelines.checks import need

    what = asked(args)
    for name in what:
        if needs := ARGUMENTS[name].metadata["needs"]:
            need(pipe, needs, ARGUMENTS[name].metadata["option"])
    pipe.check_inputs(**what, intensity=args.intensity, num_inference_steps=args.num_inference_steps)
    if args.reference is not None:
        find_faces_in(pipe, args.reference, "largest")


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What an edit is to do, by the pipelines' names, as far as it was given."""
    given = {one["dest"]: getattr(args, one["dest"], None) for one in options().values()}
    given = {name: value for name, value in given.items() if name not in SHARED and value not in (None, [])}
    return {name: by_name(value) if name in ("action_units", "attributes") else value for name, value in given.items()}


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """What all that edits tells the pipeline."""
    return {name: getattr(args, name) for name in SHARED}


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """`shared`, and noise that does not depend on the edits before."""
    import torch

    return shared(args) | {"generator": torch.Generator().manual_seed(args.seed)}


def say_prompt(args: argparse.Namespace) -> None:
    """A line on stderr about what a prompt sets, and what of it was not understood."""
    if args.prompt is None:
        return
    from ..face.sentence import read

    reading = read(args.prompt)
    unknown = f"; not understood: {', '.join(reading.unknown)}" if reading.unknown else ""
    print(f"emorig: the prompt sets {reading}{unknown}", file=sys.stderr)


def signer_of(args: argparse.Namespace, *targets: Path) -> Signer | None:
    """Who signs results, if that is asked for; SigningError where it cannot be, or a file has no place for it."""
    if args.sign is None:
        return None
    from ..provenance.credentials import Signer, check_signable

    for target in targets:
        check_signable(target)
    return Signer(*args.sign)
