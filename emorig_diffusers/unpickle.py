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
        raise pickle.UnpicklingError(f"the pickled tensor is damaged ({error})") from error
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
