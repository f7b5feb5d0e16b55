"""What a folder's model_index.json names, and whether any of it could run code that nobody has read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container
from importlib import import_module
from pathlib import Path
from typing import Any

from ..files.texts import parse_json

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")  # diffusers loads these without code in the repository
PACKAGE = __name__.split(".")[0]
_OURS = re.compile(rf"from ({PACKAGE}(?:\.\w+)*) import (\w+)\n")


def read_index(folder: str | os.PathLike) -> dict[str, Any]:
    """What a folder's model_index.json says; empty where there is none.

    Raises:
        ValueError: It is damaged.
    """
    file = Path(folder) / INDEX
    try:
        index = parse_json(file.read_bytes()) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"'{file}' is damaged ({error}): get it again.") from error
    if not isinstance(index, dict):
        raise ValueError(f"'{file}' is no index of a pipeline: get it again.")
    return index


def needs_no_trust(folder: str | os.PathLike) -> bool:
    """Whether all code in a folder, and all that its index points to, only imports from this package.

    Then running it does no more than `import emorig_diffusers` does, whoever wrote it.
    """
    folder = Path(folder)
    # an index may point out of its folder ("../x"), and diffusers runs some files that no index names
    files = [*_named_files(folder).values(), *folder.rglob("*.py")]
    return all(_OURS.fullmatch(file.read_text("utf-8", "replace")) for file in files if file.is_file())


def refuse_code(folder: str | os.PathLike, given: Container[str] = ()) -> None:
    """Refuse a folder that brings code, or whose index asks for classes of packages that could run some.

    Args:
        folder: Of a pipeline.
        given: Components that its index does not choose.

    Raises:
        ValueError: It is such a folder; the message says what to do.
    """
    folder, what = Path(folder), "" if needs_no_trust(folder) else "brings code of its own"
    for part, (module, name) in _entries(folder).items():
        known = module.split(".")[0] in (*LIBRARIES, PACKAGE) or module in sys.modules  # nothing is imported for it
        known = known or (folder / part / f"{module}.py").is_file()
        if part not in given and (not known or name.startswith("Auto")):  # those run what a config.json names
            what = f"asks for {module}.{name}"
    if what:
        raise ValueError(f"It needs trust_remote_code=True, as it {what} (read that; pin a revision): '{folder}'.")


def _entries(folder: Path) -> dict[str, tuple[str, str]]:
    """Component -> (module, class) of the index; those that are left out are not there."""
    index = read_index(folder)
    named = lambda value: isinstance(value, list) and len(value) == 2 and all(isinstance(x, str) for x in value)
    return {key: tuple(value) for key, value in index.items() if key != "_class_name" and named(value)}


def _named_files(folder: Path) -> dict[str, Path]:
    """Key -> where diffusers looks for the code of [module, class] entries of the index."""
    modules = {k: v[0] for k, v in read_index(folder).items() if isinstance(v, list) and v and isinstance(v[0], str)}
    return {key: folder / ("" if key == "_class_name" else key) / f"{name}.py" for key, name in modules.items()}


def without_shims(index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An index with our modules in the place of the shims, so that none of a folder's code has to run; unchanged
    where there is other code."""
    if not needs_no_trust(folder):
        return index
    plain = dict(index)
    for key, file in _named_files(folder).items():
        if file.is_file() and (shim := _OURS.fullmatch(file.read_text("utf-8"))):
            module, name = shim.groups()
            try:
                import_module(module)  # diffusers takes classes from modules that are imported already
            except ImportError as error:
                raise ValueError(f"'{file}' needs {module}, which this version of the package has not.") from error
            plain[key] = name if key == "_class_name" else [module, name]
    return plain
