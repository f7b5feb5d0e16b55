"""The weights in an .onnx file, without the onnx package: protocol buffers are read as far as that needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_DIMS, _TYPE, _FLOATS, _NAME, _RAW = 1, 2, 4, 8, 9  # of TensorProto
_TYPES = {1: "<f4", 3: "i1", 7: "<i8"}  # TensorProto.DataType: FLOAT, INT8, INT64


def read_initializers(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a model's graph by name, those of float32, int8 and int64.

    Raises:
        ValueError: The file is no such model, or is cut off.
    """
    try:
        graph = next(value for field, value in _fields(memoryview(path.read_bytes())) if field == _GRAPH)
        return dict(_tensor(value) for field, value in _fields(graph) if field == _INITIALIZER)
    except (IndexError, StopIteration, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no .onnx file, or is cut off: fetch it again.") from error


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    dims, found = [], {}
    for field, value in _fields(message):
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        else:
            found[field] = value
    numbers = np.frombuffer(found[_RAW] if _RAW in found else found[_FLOATS], _TYPES[found[_TYPE]])
    return bytes(found[_NAME]).decode(), numbers.reshape(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an integer, or a memoryview."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield field, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, place = _varint(message, place)
        yield field, message[place : place + size]
        place += size


def _varints(message: memoryview) -> Iterator[int]:
    place = 0
    while place < len(message):
        value, place = _varint(message, place)
        yield value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
