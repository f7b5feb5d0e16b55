"""Reading pickles written by others: the few symbols an array or a tensor needs, and nothing else runs."""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

Symbols = Mapping[tuple[str, str], Any]
"""(module, name) as written in a pickle -> what it stands for here."""

# The module moved in numpy 2; taken from an array, the function is the right one in both.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]

ARRAYS: Symbols = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}
"""What numpy 1 and 2 pickle plain arrays with (Python 2's and 3's protocols 3 and 4)."""


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of numpy arrays in dicts and lists, or of whatever `allowed` lists; nothing else is looked up.

    Args:
        file: opened for reading bytes.
        allowed: the only symbols the pickle may name. Whoever adds a function vouches that it is harmless with
            any arguments.
        encoding: of text pickled by Python 2; "latin1" where a Python-2 file holds arrays' bytes as text.

    Raises:
        pickle.UnpicklingError: by `load()`, naming the first symbol that is not allowed.
    """

    def __init__(self, file: BinaryIO, allowed: Symbols = ARRAYS, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """The allowed symbol of that name."""
        if (module, name) not in self._allowed:
            known = ", ".join(".".join(symbol) for symbol in self._allowed)
            raise pickle.UnpicklingError(f"refused to load {module}.{name}: only {known} are allowed here")
        return self._allowed[module, name]


def load_tensor(data: bytes) -> Tensor:
    """The tensor in `data`, the bytes of `pickle.dumps(tensor)`; a tensor of a GPU comes back on the CPU.

    Raises:
        pickle.UnpicklingError: the pickle is damaged, is no tensor, or asks for a symbol a tensor does not need.
    """
    try:
        tensor = ArrayUnpickler(io.BytesIO(data), _TENSORS).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise pickle.UnpicklingError(f"the pickled tensor is damaged ({reason})") from error
    if not isinstance(tensor, Tensor):
        raise pickle.UnpicklingError(f"expected a pickled tensor, got a {type(tensor).__name__}")
    return tensor


def _load_storage(data: bytes) -> torch.storage.TypedStorage:
    """Stands for torch.storage._load_from_bytes, which would unpickle anything."""
    try:
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        symbol = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"refused to load {symbol[1]}" if symbol else "refused to load an unknown object"
        raise pickle.UnpicklingError(f"{what} inside a tensor's storage: only numbers are allowed there") from error
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError(f"expected a tensor's storage, got a {type(storage).__name__}")
    return storage


def _rebuild_tensor(
    storage: torch.storage.TypedStorage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    """Stands for torch._utils._rebuild_tensor_v2, without gradient and hooks."""
    numbers = storage._untyped_storage  # the public way warns that typed storages are deprecated
    stored = numbers.nbytes()
    tensor = torch.empty(0, dtype=storage.dtype).set_(numbers, offset, size, stride)
    if numbers.nbytes() != stored:  # torch enlarged it by uninitialised memory
        raise pickle.UnpicklingError(f"a tensor of size {tuple(size)} does not fit in its {stored} stored bytes")
    return tensor


_TENSORS: Symbols = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("collections", "OrderedDict"): OrderedDict,
}


# models pickled by others


class Inert:
    """Stands for a class that is not run: takes any arguments, keeps the pickled state and does nothing."""

    def __new__(cls, *_: object) -> Inert:
        """A new object without state."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Chumpy(Inert):
    """Stands for any object of chumpy, in which SMPL, FLAME and their kin were written."""

    def array(self) -> np.ndarray | None:
        """The numbers of a Ch (its x) or a Select (some of another's, reshaped); `None` where they cannot be told."""
        state = getattr(self, "state", None)
        if not isinstance(state, dict):
            return None
        if "x" in state:
            return _numbers(state["x"])
        if {"a", "idxs", "preferred_shape"} <= set(state):
            source, picked = _numbers(state["a"]), _numbers(state["idxs"])
            if source is not None and picked is not None:
                return source.ravel()[picked].reshape(state["preferred_shape"])
        return None


def _numbers(value: Any) -> np.ndarray | None:
    value = value.array() if isinstance(value, Chumpy) else value
    array = None if value is None or isinstance(value, (Inert, dict)) else np.asarray(value)
    return array if array is not None and array.dtype.kind in "biuf" else None


class _Sparse(Inert):
    """Stands for a matrix of scipy.sparse until its parts are checked."""

    kind: type

    def matrix(self) -> sparse.spmatrix:
        """The matrix; pickle.UnpicklingError if its parts do not fit together."""
        try:
            state = {name.lstrip("_"): value for name, value in self.state.items()}
            shape, data = tuple(state["shape"]), _numbers(state["data"])
            if self.kind is sparse.coo_matrix:
                places = state["coords"] if "coords" in state else (state["row"], state["col"])
                return sparse.coo_matrix((data, tuple(places)), shape=shape)
            matrix = self.kind((data, state["indices"], state["indptr"]), shape=shape)
            matrix.check_format(full_check=True)
        except Exception as error:  # parts of any type can raise anything
            raise pickle.UnpicklingError(f"its sparse matrix does not hold together: {error}") from error
        return matrix


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, with which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"refused to load bytes encoded as {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for bytes, with which Python 3 writes an empty array's data for Python 2."""
    return b""


def _scalar(kind: np.dtype, data: bytes | str) -> np.generic:
    """Stands for numpy's scalar, without those that hold objects."""
    if kind.hasobject:
        raise pickle.UnpicklingError("refused to load an object as a number")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind, count=1)[0]


def _reconstruct(kind: type, base: type, state: object) -> Inert:
    """Stands for copyreg._reconstructor, with which old protocols make an object."""
    if not (isinstance(kind, type) and issubclass(kind, Inert) and base is object and state is None):
        raise pickle.UnpicklingError(f"refused to load copyreg._reconstructor({kind}, {base})")
    return kind()


def _sparse_symbols() -> dict[tuple[str, str], type]:
    found = {}
    for name in ("csc", "csr", "coo"):
        stand_in = type(f"_{name}", (_Sparse,), {"kind": getattr(sparse, f"{name}_matrix")})
        for module in (f"scipy.sparse.{name}", f"scipy.sparse._{name}"):
            found |= {(module, f"{name}_matrix"): stand_in, (module, f"{name}_array"): stand_in}
    return found


MODELS: Symbols = {
    **ARRAYS,
    **_TENSORS,
    **_sparse_symbols(),
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("builtins", "bytes"): _no_bytes,
    ("builtins", "object"): object,
    ("builtins", "set"): set,
}
"""What pickles of SMPL-like models and of torch tensors name, beside chumpy's classes."""


class ModelUnpickler(ArrayUnpickler):
    """Reads pickled models of Python 2 and 3: `MODELS` and, as `Chumpy`, all of chumpy; pass the result to `plain`."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, MODELS, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The allowed symbol of that name; pickle.UnpicklingError for any other."""
        if module.split(".")[0] == "chumpy":
            return Chumpy
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # of Python 2
        if (module, name) not in MODELS:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        return super().find_class(module, name)


def plain(value: Any) -> Any:
    """Arrays and sparse matrices in place of stand-ins, in dicts, lists and tuples; a lone object array's object.

    A Chumpy whose array cannot be told stays. pickle.UnpicklingError for a broken sparse matrix.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    if isinstance(value, np.ndarray) and value.dtype == object and not value.shape:
        return plain(value.item())
    if isinstance(value, Chumpy):
        array = value.array()
        return value if array is None else array
    return value.matrix() if isinstance(value, _Sparse) else value
