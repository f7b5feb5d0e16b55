"""What ComfyUI promises V3 nodes, after its documentation (docs.comfy.org, custom nodes, V3), as far as ours use it.

Written anew: ComfyUI is under the GPL. With COMFYUI naming the folder of a real one, the tests run on that."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any


class _Port:
    """An input or an output: its kind, its id and what it was given besides."""

    def __init__(self, id: str, display_name: str | None = None, **about: Any) -> None:
        self.id, self.display_name = id, display_name
        self.optional = about.pop("optional", False)
        self.__dict__.update(about)


def _kind(name: str, *known: str) -> Any:
    """A type with `Input` and `Output`, of which an input takes no other options than the documented ones."""

    class Input(_Port):
        io_type = name

        def __init__(self, id: str, **about: Any) -> None:
            if unknown := about.keys() - {"display_name", "optional", "tooltip", *known}:
                raise TypeError(f"{name} inputs have no {', '.join(unknown)}.")
            super().__init__(id, **about)

    class Output(_Port):
        io_type = name

    return SimpleNamespace(Input=Input, Output=Output)


class _Node:
    """A V3 node: class methods alone."""

    @classmethod
    def GET_SCHEMA(cls) -> Any:
        schema = cls.define_schema()
        ids = [port.id for port in (*schema.inputs, *schema.outputs)]
        assert len(set(ids)) == len(ids), f"ids must be unique: {ids}"
        return schema


class _Output:
    def __init__(self, *args: Any) -> None:
        self.args = args


class _Extension:
    pass


def _stand_in() -> dict[str, ModuleType]:
    numbers = ("default", "min", "max", "step", "display_mode")
    io = SimpleNamespace(
        ComfyNode=_Node, NodeOutput=_Output, Custom=_kind, Schema=SimpleNamespace,
        NumberDisplay=SimpleNamespace(slider="slider"),
        Image=_kind("IMAGE"), Mask=_kind("MASK"), Float=_kind("FLOAT", *numbers), Int=_kind("INT", *numbers),
        String=_kind("STRING", "default", "multiline"), Boolean=_kind("BOOLEAN", "default"),
        Combo=_kind("COMBO", "options", "default"),
    )  # fmt: skip
    parts = {
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": _Extension},
        "comfy": {},
        "comfy.model_management": {
            "get_torch_device": lambda: "cpu",
            "throw_exception_if_processing_interrupted": lambda: None,
        },
    }
    modules = {name: ModuleType(name) for name in parts}
    for name, module in modules.items():
        module.__dict__.update(parts[name])
    return modules


def install() -> None:
    """Make `comfy_api` importable."""
    if "COMFYUI" in os.environ:
        sys.path.insert(0, os.environ["COMFYUI"])
        import comfy.options

        comfy.options.enable_args_parsing()
        sys.argv[1:] = ["--cpu"]
    else:
        sys.modules.update(_stand_in())
