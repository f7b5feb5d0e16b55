"""Neural heads that commands open, and their codes as files.

A head's codes are kept as JSON: `{"shape": [...], "expression": [...]}`, `null` for a head without an expression.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import sentence
from .models import quiet
from .options import new_command, path

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.geometry import Surface
    from ..models.nphm import NeuralHeadModel

_MODEL = "folder or Hub id of a neural head, as `emorig convert nphm` writes it"
_RESOLUTION = "cells of the grid a side: 64, 128, 256 or 512 (default: %(default)s)"
_KINDS = (".glb", ".obj", ".ply")


def add_action(
    actions: Any, run: Callable[[argparse.Namespace], int], about: str, *files: str, notes: str | None = None
) -> argparse.ArgumentParser:
    """A parser of `emorig head NAME MODEL FILES -o OUT --resolution N`, to add options to; as `options.new_command`."""
    parser = new_command(actions, run, about, notes=notes)
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    for file in files:
        parser.add_argument(file.lower(), metavar=file, type=path, help="a head's codes (.json)")
    parser.add_argument("-o", metavar="OUT", dest="out", type=path, required=True,
                        help=f"the head ({' '.join(_KINDS)}); existing files are replaced")  # fmt: skip
    parser.add_argument("--resolution", metavar="N", type=int, default=256, choices=(64, 128, 256, 512),
                        help=_RESOLUTION)  # fmt: skip
    return parser


def open_head(model: str) -> NeuralHeadModel:
    """Open a neural head without the libraries' chatter; ValueError where that fails."""
    quiet()
    from ..models.nphm import NeuralHeadModel

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
