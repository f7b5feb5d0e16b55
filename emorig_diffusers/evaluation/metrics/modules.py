"""Reading networks that others pickled whole (`torch.save(module)`): their tensors, and nothing of theirs runs."""

from __future__ import annotations

import functools
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emorig_diffusers.convert.files import ConvertError

from ...files.pickles import ArrayUnpickler, Inert

_DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "DoubleStorage": torch.float64,
           "LongStorage": torch.int64, "IntStorage": torch.int32, "BoolStorage": torch.bool}  # fmt: skip
_INERT_ROOTS = ("timm.", "torch.nn.", "torchvision.")
_INERT = {("functools", "partial"), ("torch", "Size"), ("torch", "device")}


def read_module(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name, as the module's own `state_dict` would give them, on the CPU.

    Classes of torch.nn, timm and torchvision become inert stand-ins; any other symbol but a tensor's is refused.

    Args:
        path: what `torch.save(module, path)` of torch 1.6 or later wrote.

    Raises:
        ConvertError: no such file, another kind of file, a damaged one, or one that asks for any other symbol.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ConvertError(f"{path} is a zip archive and no network of torch: download the file again.")
            reader = _ModuleUnpickler(archive, names[0].removesuffix("data.pkl"))
            return dict(_tensors(reader.load()))
    except ConvertError:
        raise
    except pickle.UnpicklingError as error:
        raise ConvertError(f"{path}: {error}: download the file again from its makers.") from error
    except OSError as error:
        raise ConvertError(f"{path} cannot be read ({error.strerror or error}): give the path of the file.") from error
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise ConvertError(f"{path} is no network of torch, or damaged ({reason}): download the file again.") from error


def _rebuild_tensor(numbers: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """Stands for torch._utils._rebuild_tensor_v2; RuntimeError where the numbers are too few."""
    return numbers.as_strided(size, stride, offset)


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    """Stands for torch._utils._rebuild_parameter."""
    return data


_SYMBOLS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _ModuleUnpickler(ArrayUnpickler):
    """Reads `folder`data.pkl of an archive, and the numbers of its tensors as they are asked for."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")), _SYMBOLS)
        self._archive, self._folder = archive, folder
        self._numbers = functools.cache(self._read)

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for that symbol; pickle.UnpicklingError for one that has none."""
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) in _SYMBOLS:
            return _SYMBOLS[module, name]
        if f"{module}.".startswith(_INERT_ROOTS) or (module, name) in _INERT:
            return Inert
        raise pickle.UnpicklingError(f"refused to load {module}.{name}, which no network needs")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage: ("storage", dtype, key, device, count)."""
        _, dtype, key, *_ = pid
        return self._numbers(dtype, str(key))

    def _read(self, dtype: torch.dtype, key: str) -> Tensor:
        data = self._archive.read(f"{self._folder}data/{key}")
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Name, tensor of a stand-in and of those it holds."""
    state = module.state
    transient = state.get("_non_persistent_buffers_set", ())
    for name, value in (*state["_parameters"].items(), *state["_buffers"].items()):
        if isinstance(value, Tensor) and name not in transient:
            yield prefix + name, value
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")
