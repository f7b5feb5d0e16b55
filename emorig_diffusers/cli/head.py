"""`emorig head`: neural heads as files: drawn by chance, and between two others."""

from __future__ import annotations

import argparse
from typing import Any

from .head_fit import add_actions
from .neural_heads import add_action, open_head, read_codes, surface_of, write_codes
from .options import path, seed

_ABOUT = "Make neural heads: parametric heads whose surface is a network's"


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    head = commands.add_parser("head", help=_ABOUT, description=f"{_ABOUT}.", allow_abbrev=False)
    actions = head.add_subparsers(title="what to make", metavar="ACTION", required=True)
    sample = add_action(actions, run_sample, "Draw a head by chance, as people's codes spread")
    sample.add_argument("--seed", metavar="N", type=seed, default=0, help="another number: another head (default: 0)")
    sample.add_argument("--expression", action="store_true", help="draw an expression too, not only an identity")
    sample.add_argument("--codes", metavar="JSON", type=path, help="write the head's codes to this file too")
    add_actions(actions)
    morph = add_action(actions, run_morph, "Make the heads between two others", "A", "B")
    morph.add_argument("--at", metavar="T,T", type=_shares, default=[0.5],
                       help="how far from A to B, 0 to 1; several make a row in one .glb (default: 0.5)")  # fmt: skip


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
