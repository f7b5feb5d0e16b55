"""One pipeline at several settings: every point of a grid of its numeric arguments is a method of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from ..pipelines.request import ARGUMENTS

Point = dict[str, float]
"""Argument of a call -> value."""


def numeric_arguments() -> dict[str, type]:
    """Arguments of a call that are one number each -> int or float."""
    kinds = {name: {*str(one.type).split(" | ")} - {"None"} for name, one in ARGUMENTS.items()}
    return {name: int if kind == {"int"} else float for name, kind in kinds.items() if kind in ({"int"}, {"float"})}


def read_grids(grids: Sequence[Sequence[str]]) -> list[Point]:
    """The points of some grids, each once, in order.

    Args:
        grids: Of each, words such as "strength=.3,.5": all their combinations are its points. A name is that of an
            argument, or of its option on the command line.

    Raises:
        ValueError: With one sentence.
    """
    points: list[Point] = []
    for words in grids:
        axes = [_read_axis(word) for word in words]
        names = [name for name, _ in axes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is named twice in one grid: name it once, with all its values.")
        combinations = [dict(zip(names, values)) for values in product(*(values for _, values in axes))]
        points += [point for point in combinations if point not in points]
    return points


def _read_axis(word: str) -> tuple[str, list[float]]:
    name, _, text = word.partition("=")
    options = {one.metadata["option"].lstrip("-"): key for key, one in ARGUMENTS.items() if "option" in one.metadata}
    name, known = options.get(name, name), numeric_arguments()
    if name not in known:
        raise ValueError(f"A grid cannot run over {name!r}: choose from {', '.join(known)}.")
    try:
        return name, [known[name](value) for value in text.split(",")]
    except ValueError:
        what = "whole numbers" if known[name] is int else "numbers"
        raise ValueError(f"{word!r} does not give {what} with commas between, such as {name}=1,2.") from None


def row_label(method: str, point: Mapping[str, float]) -> str:
    """Name of a method at a point, such as "ldm strength=0.3"."""
    return " ".join([method, *(f"{name}={value:g}" for name, value in point.items())])
