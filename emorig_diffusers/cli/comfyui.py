"""`emorig comfyui`: the package's nodes into a ComfyUI, and out of it again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..files.atomic import write_file
from .options import new_command, path

SHIM = """# Written by `emorig comfyui`: the nodes are in the package emorig-diffusers.
from emorig_diffusers.comfyui.nodes import comfy_entrypoint
__all__ = ["comfy_entrypoint"]
"""
FILE = "emorig_nodes.py"
_ABOUT = "Add the nodes to a ComfyUI, so that its workflows can edit faces"
_NOTES = (
    "One file of three lines is written into its custom_nodes; restart ComfyUI to see the nodes, under image/emorig."
)
_CODE, _DATA, _API = "folder_paths.py", "models", "comfy_api/latest"
_PORTABLE = "ComfyUI"  # where the Windows package has it
_PYTHONS = ("venv", ".venv", "../python_embeded")  # where installers put the Python that runs a ComfyUI


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_comfyui, _ABOUT, notes=_NOTES)
    parser.add_argument("comfyui", metavar="PATH_OF_COMFYUI", type=path, help="the folder that holds custom_nodes")
    parser.add_argument("--remove", action="store_true", help="take the nodes out again")


def run_comfyui(args: argparse.Namespace) -> int:
    """`emorig comfyui`: say what was done."""
    folder = find_comfyui(args.comfyui)
    shim = folder / "custom_nodes" / FILE
    ours = is_ours(shim)
    if args.remove:
        print(f"removed: {shim}" if ours else f"not there: {shim}")
        shim.unlink(missing_ok=True)
        return 0
    if ours and shim.read_text("utf-8") == SHIM:
        print(f"there already: {shim}")
    else:
        write_file(shim, SHIM.encode())
        print(f"written: {shim}")
    if python := other_python(folder):
        print(f"It runs on '{python}': install emorig-diffusers there too.")
    return 0


def find_comfyui(path: Path) -> Path:
    """The folder with `custom_nodes`: this one, or the one in it that the Windows package has; ValueError for a folder
    without, or of a ComfyUI that cannot take the nodes."""
    for folder in (path, path / _PORTABLE):
        if (folder / "custom_nodes").is_dir() and ((folder / _CODE).is_file() or (folder / _DATA).is_dir()):
            break
    else:
        raise ValueError(f"'{path}' is no ComfyUI: give the folder that holds its custom_nodes and models.")
    if (folder / _CODE).is_file() and not (folder / _API).is_dir():  # the desktop application's code is elsewhere
        raise ValueError(f"The ComfyUI in '{folder}' is older than V3 nodes: update it first.")
    return folder


def is_ours(shim: Path) -> bool:
    """Whether the file is there; ValueError where it is another's."""
    if not shim.exists():
        return False
    if not shim.is_file() or SHIM.splitlines()[0] not in shim.read_text("utf-8", "replace"):
        raise ValueError(f"'{shim}' holds something else: move it away first.")
    return True


def other_python(folder: Path) -> Path | None:
    """The Python environment beside a ComfyUI, where it is not the one that runs now."""
    found = [place for name in _PYTHONS if (place := (folder / name).resolve()).is_dir()]
    return found[0] if found and Path(sys.prefix).resolve() not in found else None
