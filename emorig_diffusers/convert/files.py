"""Reading the files that users bring, without running what they hold, and writing what is made of them whole."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from ..files.pickles import Inert, ModelUnpickler, plain

_STARTS = {
    b"version https://git-lfs": "is a Git LFS pointer and not the file itself",
    b"\xff\xd8\xff": "is a JPEG picture",
    b"\x89PNG": "is a PNG picture",
    b"%PDF": "is a PDF document",
    b"\x1f\x8b": "is a gzip archive",
    b"Rar!": "is a RAR archive",
    b"7z\xbc\xaf": "is a 7z archive",
}
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_GET_AGAIN = "download the file again from its makers."
AS_PUBLISHED = "give the file as its makers publish it."


class ConvertError(ValueError):
    """One sentence: which file, what is wrong with it, what to do."""


# arrays and pickles


def read_pickle(path: Path) -> Any:
    """What a pickle of Python 2 or 3 holds, e.g. FLAME's `generic_model.pkl`.

    Allowed are numpy, scipy.sparse and torch values and, as FLAME has them, objects of chumpy, which become arrays;
    one whose array cannot be told stays an `pickles.Chumpy`. Python 2's texts are read as Latin 1.

    Raises:
        ConvertError: No such file, another kind of file, a damaged one, or one that asks for anything else, by name.
    """
    with _opened(path) as file:
        _refuse(path, file, {_NPY: "is a .npy array and not a pickle", _ZIP: "is a zip archive and not a pickle"})
        return _unpickled(path, file)


def read_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """The named arrays in a .npz, .npy or .pkl, told apart by what the file is, not by how it is called.

    Tensors become arrays; whatever else a pickle holds (numbers, texts, sparse matrices) stays. A .npy with one plain
    array gives it as "arr_0".

    Args:
        path: The file.
        only: Names to read, to spare memory; names that are not there are left out. `None` for all.

    Raises:
        ConvertError: As `read_pickle`; or the file holds no names.
    """
    with _opened(path) as file:
        start = _refuse(path, file, {})
        if start.startswith(_ZIP):
            value: Any = _npz(path, file, only)
        else:
            value = _npy(path, file) if start.startswith(_NPY) else _unpickled(path, file)
    if isinstance(value, np.ndarray):
        value = {"arr_0": value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConvertError(f"{path} holds a {type(value).__name__} and no named arrays, which is not supported.")
    named = {name: item for name, item in value.items() if only is None or name in only}
    return {name: item.numpy() if isinstance(item, Tensor) else item for name, item in named.items()}


def _npz(path: Path, file: BinaryIO, only: Collection[str] | None) -> dict[str, Any]:
    values = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            if not members:
                raise ConvertError(f"{path} is a zip archive without arrays: unpack it and name the file inside.")
            for name, member in members.items():
                if only is None or name in only:
                    with archive.open(member) as stream:
                        values[name] = _npy(path, stream)
    except ConvertError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise _damaged(path, error) from error
    return values


def _npy(path: Path, file: Any) -> Any:
    """The array in a .npy, or the one object of an object array."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        *_, dtype = readers[np.lib.format.read_magic(file)](file)
        if not dtype.hasobject:
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged array can raise anything
        raise _damaged(path, error) from error
    return _unpickled(path, file)


def _unpickled(path: Path, file: Any) -> Any:
    try:
        return plain(ModelUnpickler(file).load())
    except pickle.UnpicklingError as error:
        if "refused" in str(error):
            raise ConvertError(f"{path}: {error}, which no supported model needs: {AS_PUBLISHED}") from error
        raise _damaged(path, error) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error


# checkpoints

_TORCH_KNOWS = ("torch", "_codecs")  # it refuses what it does not list as harmless
_INERT_ROOTS = ("gdl", "inferno", "lightning", "omegaconf", "pathlib", "pytorch_lightning", "typing")
_INERT = {
    "argparse.Namespace", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool")),
}  # fmt: skip
_DICTS = ("collections.defaultdict", "pytorch_lightning.utilities.parsing.AttributeDict")
_KNOWN = {"collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.bytearray", "builtins.complex"}
_PYTHON_2 = {"long": "int", "unicode": "str"}  # as protocol 2 calls them


class _NewDict:
    """Stands for a subclass of dict: a plain one is made instead."""

    def __new__(cls, *_: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote (zip or legacy format), on the CPU: tensors, dicts, numbers, texts.

    Objects of omegaconf, Lightning, pathlib, numpy and the like, which EMOCA's checkpoints hold beside their tensors,
    become inert stand-ins without behaviour. A zip's tensors are mapped to memory and read when they are used.

    Raises:
        ConvertError: No such file, another kind of file, a damaged one, one that asks for any other symbol, by name,
            or one that holds no dict.
    """
    path = Path(path)
    with _opened(path) as file:
        start = _refuse(path, file, {_NPY: "is a .npy array and no checkpoint of torch"})
        symbols, mapped = _scan(path, file, zipped=start.startswith(_ZIP))
    stand_ins = [_stand_in(path, *symbol) for symbol in sorted(symbols)]
    try:
        with torch.serialization.safe_globals([pair for pair in stand_ins if pair]):
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file can raise anything
        symbol = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _refused(path, symbol[1]) if symbol else _damaged(path, error) from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path} holds a {type(value).__name__} and no dict of tensors, which is not supported.")
    return value


def _scan(path: Path, file: BinaryIO, zipped: bool) -> tuple[set[tuple[str, str]], bool]:
    """(module, name) of all that a checkpoint's pickles ask for, found without running them; can it be mapped."""
    mapped, pickles = False, [file] * 5  # legacy: magic number, version, system, value, names of its storages
    try:
        if zipped:
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                if len(names) != 1:
                    raise ConvertError(f"{path} is a zip archive and no checkpoint of torch: unpack it first.")
                mapped = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
                pickles = [io.BytesIO(archive.read(names[0]))]
        return {symbol for stream in pickles for symbol in _symbols(stream)}, mapped
    except ConvertError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise _damaged(path, error) from error


def _symbols(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            module, name = str(argument).split(" ", 1)
            if module == "__builtin__":
                module, name = "builtins", _PYTHON_2.get(name, name)
            yield module, name


def _stand_in(path: Path, module: str, name: str) -> tuple[type, str] | None:
    """An inert class for a symbol with its full name, `None` where torch decides; ConvertError if it has no place."""
    full, root = f"{module}.{name}", module.split(".")[0]
    if root in _TORCH_KNOWS or full in _KNOWN:
        return None
    if full in _DICTS:
        return _NewDict, full
    if full in _INERT or root in _INERT_ROOTS:
        return type(name, (Inert,), {}), full
    raise _refused(path, full)


def load_exactly(module: nn.Module, tensors: Mapping[str, Any], file: Path) -> None:
    """Load weights whose names and shapes are exactly the module's, counters of BatchNorm included, as float32.

    Args:
        module: Where to; its parameters keep their devices.
        tensors: Name -> tensor, under the module's own names.
        file: Where they come from, for the error.

    Raises:
        ConvertError: Names that lack or are too many, other shapes, or numbers that are not finite; up to three each.
    """
    own = module.state_dict()
    wrong = [name for name in own if name in tensors and not _fits(own[name], tensors[name])]
    faults = {
        "lacks": [name for name in own if name not in tensors],
        "has beyond the model": [name for name in tensors if name not in own],
        "has in another shape": [f"{name} ({_size(tensors[name])} for {_size(own[name])})" for name in wrong],
    }
    if any(faults.values()):
        found = " and ".join(_some(what, names) for what, names in faults.items() if names)
        raise ConvertError(f"{file} {found}: it is incomplete, or of a variant that is not supported.")
    values = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    bad = [name for name, value in values.items() if not value.isfinite().all()]
    if bad:
        raise ConvertError(f"{file} {_some('has numbers that are not finite in', bad)}: give another checkpoint.")
    module.load_state_dict(values)


def _fits(own: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == own.shape


def _size(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _some(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what} {', '.join(names[:3])}{more}"


# files


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ConvertError(f"{path} cannot be read ({error.strerror or error}): give the path of the file.") from error


def _refuse(path: Path, file: BinaryIO, others: Mapping[bytes, str]) -> bytes:
    """The first bytes of a file, which stays at its start; ConvertError where they tell of another kind of file."""
    start = file.read(512)
    file.seek(0)
    if not start:
        raise ConvertError(f"{path} is empty: {_GET_AGAIN}")
    if start.lstrip().startswith(b"<"):
        raise ConvertError(f"{path} is a web page saved in place of the file: {_GET_AGAIN}")
    if start[257:262] == b"ustar":
        raise ConvertError(f"{path} is a tar archive: unpack it and name the file inside.")
    for magic, what in {**_STARTS, **others}.items():
        if start.startswith(magic):
            raise ConvertError(f"{path} {what}: {_GET_AGAIN}")
    return start


def _refused(path: Path, symbol: str) -> ConvertError:
    return ConvertError(f"{path}: refused to load {symbol}, which no supported model needs: {AS_PUBLISHED}")


def _damaged(path: Path, error: Exception) -> ConvertError:
    reason = (str(error).splitlines() or [""])[0].rstrip(".")[:200]
    return ConvertError(f"{path} is damaged or cut short ({reason or type(error).__name__}): {_GET_AGAIN}")
