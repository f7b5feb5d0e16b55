"""`emorig head`: neural heads as files: drawn by chance, and between two others.

A head's codes are kept as JSON: `{"shape": [...], "expression": [...]}`, `null` for a head without an expression.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.geometry import Surface
    from ..models.nphm import NeuralHeadModel

_ABOUT = "Make neural heads: parametric heads whose surface is a network's"
_MODEL = "folder or Hub id of a neural head, as `emorig convert nphm` writes it"
_RESOLUTION = "cells of the grid a side: 64, 128, 256 or 512 (default: %(default)s)"
_KINDS = (".glb", ".obj", ".ply")


def add_command(commands: Any, path: Callable[[str], Path], seed: Callable[[str], int]) -> None:
    """Add the command to the subparsers `commands`; `path` and `seed` read arguments."""
    from .head_fit import add_actions as add_fits

    head = commands.add_parser("head", help=_ABOUT, description=f"{_ABOUT}.", allow_abbrev=False)
    actions = head.add_subparsers(title="what to make", metavar="ACTION", required=True)
    sample = add_action(actions, "sample", run_sample, "Draw a head by chance, as people's codes spread", path)
    sample.add_argument("--seed", metavar="N", type=seed, default=0, help="another number: another head (default: 0)")
    sample.add_argument("--expression", action="store_true", help="draw an expression too, not only an identity")
    sample.add_argument("--codes", metavar="JSON", type=path, help="write the head's codes to this file too")
    add_fits(actions, path, seed)
    morph = add_action(actions, "morph", run_morph, "Make the heads between two others", path, "A", "B")
    morph.add_argument("--at", metavar="T,T", type=_shares, default=[0.5],
                       help="how far from A to B, 0 to 1; several make a row in one .glb (default: 0.5)")  # fmt: skip


def add_action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], about: str, path: Callable[[str], Path],
    *files: str,
) -> argparse.ArgumentParser:  # fmt: skip
    """A parser of `emorig head NAME MODEL FILES -o OUT --resolution N`, to add options to."""
    parser = actions.add_parser(name, help=about, description=f"{about}.", allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    for file in files:
        parser.add_argument(file.lower(), metavar=file, type=path, help="a head's codes (.json)")
    parser.add_argument("-o", metavar="OUT", dest="out", type=path, required=True,
                        help=f"the head ({' '.join(_KINDS)}); existing files are replaced")  # fmt: skip
    parser.add_argument("--resolution", metavar="N", type=int, default=256, choices=(64, 128, 256, 512),
                        help=_RESOLUTION)  # fmt: skip
    return parser


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"give numbers from 0 to 1 with commas between them, not {text!r}")
    return shares


def run_sample(args: argparse.Namespace) -> int:
    """`emorig head sample`: print the files written."""
    from ..mesh.surfaces import check_surface_path, write_surfaces

    check_surface_path(args.out)
    head = open_head(args.model)
    if args.expression and not head.num_expression:
        raise ValueError(f"The head '{args.model}' has no expressions: leave --expression out.")
    import torch

    shape, drawn = head.sample(1, torch.Generator().manual_seed(args.seed))
    expression = drawn if args.expression else None
    print(write_surfaces(surface_of(head, shape, expression, args.resolution), args.out))
    if args.codes is not None:
        print(write_codes(args.codes, shape, expression))
    return 0


def run_morph(args: argparse.Namespace) -> int:
    """`emorig head morph`: print the file written."""
    from ..mesh.surfaces import check_surface_path, write_surfaces

    check_surface_path(args.out, len(args.at))
    head = open_head(args.model)
    import torch

    first, second = (read_codes(file, head) for file in (args.a, args.b))
    surfaces = {}
    for share in args.at:
        shape = torch.lerp(first[0], second[0], share)
        expression = None
        if first[1] is not None or second[1] is not None:
            start, end = (torch.zeros(1, head.num_expression) if c is None else c for c in (first[1], second[1]))
            expression = torch.lerp(start, end, share)
        surfaces[f"{share:g}"] = surface_of(head, shape, expression, args.resolution)
    print(write_surfaces(surfaces if len(surfaces) > 1 else next(iter(surfaces.values())), args.out))
    return 0


def open_head(model: str) -> NeuralHeadModel:
    """Open a neural head without the libraries' chatter; ValueError where that fails."""
    from .convert import quiet

    quiet()
    from ..models.nphm import NeuralHeadModel
    from .main import sentence

    try:
        config = NeuralHeadModel.load_config(model)
        if isinstance(config, dict) and config.get("_class_name") == NeuralHeadModel.__name__:
            return NeuralHeadModel.from_pretrained(model).requires_grad_(False)
        reason = "it is a model of another kind"
    except Exception as error:  # diffusers stumbles over damaged folders in a dozen ways
        reason = f"{type(error).__name__}: {sentence(error)[:200]}"
    raise ValueError(f"The head '{model}' cannot be loaded ({reason}): give what `emorig convert nphm` wrote.")


def surface_of(head: NeuralHeadModel, shape: Tensor, expression: Tensor | None, resolution: int) -> Surface:
    """The surface of codes, with a count of points on a terminal's stderr while it is looked for."""
    from tqdm import tqdm

    with tqdm(desc="emorig", unit="points", unit_scale=True, disable=None, leave=False) as bar:

        def count(points: int) -> None:
            bar.update(points)

        return head.surface(shape, expression, resolution, progress=count)


def write_codes(path: Path, shape: Tensor, expression: Tensor | None) -> Path:
    """Write the codes [1, ...] of a head as JSON, atomically."""
    from ..files.atomic import write_file

    codes = {"shape": shape[0].tolist(), "expression": None if expression is None else expression[0].tolist()}
    write_file(path, json.dumps(codes).encode())
    return path


def read_codes(path: Path, head: NeuralHeadModel) -> tuple[Tensor, Tensor | None]:
    """Codes [1, ...] of a head; other keys of the file are left alone.

    Raises:
        ValueError: The file holds no codes, or such of another head.
        OSError: It cannot be read.
    """
    import torch

    from ..files.texts import parse_json

    try:
        values = parse_json(path.read_bytes())
        shape = torch.tensor([values["shape"]], dtype=torch.float32)
        expression = values["expression"]
        expression = None if expression is None else torch.tensor([expression], dtype=torch.float32)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"'{path}' holds no codes of a head: give what --codes of `emorig head` wrote.") from error
    for code, name, width in (
        (shape, "shape", head.num_shape), (expression, "expression", head.num_expression)
    ):  # fmt: skip
        if code is not None and (code.shape != (1, width) or not code.isfinite().all()):
            raise ValueError(f"'{path}' has another head's {name} code: this one takes {width} finite numbers.")
    return shape, expression
