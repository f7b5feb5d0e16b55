"""Pickles written by others are read as numbers; whatever else they hold is refused and does not run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from emorig_diffusers.files.pickles import ARRAYS, ArrayUnpickler, Chumpy, ModelUnpickler, load_tensor, plain


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


EVILS = [
    (Call(os.system, "touch here"), r"(posix|nt)\.system"),
    (Call(builtins.eval, "open('here', 'w')"), r"(builtins\.)?eval"),
    (Call(builtins.getattr, OrderedDict, "fromkeys"), r"(builtins\.)?getattr"),
]



def legacy(value: object) -> bytes:
    """What torch.save writes into a pickled storage."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


STORAGE = torch.storage.TypedStorage(wrap_storage=torch.zeros(3).untyped_storage(), dtype=torch.float32, _internal=True)


def with_keys(value: object) -> bytes:
    """A stored tensor whose last pickle, the list of its storages, is `value`."""
    data = io.BytesIO(legacy(torch.zeros(2)))
    for _ in range(4):  # magic number, version, system, tensor
        list(pickletools.genops(data))
    return data.getvalue()[: data.tell()] + pickle.dumps(value, 2)


@pytest.mark.parametrize("tensor", [
    torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.arange(12.0).view(3, 4).t(),
    torch.arange(12)[3:7],
    torch.zeros(0),
    torch.ones(2, dtype=torch.float16, requires_grad=True),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_tensors_come_back(tensor: torch.Tensor, protocol: int) -> None:
    read = load_tensor(pickle.dumps(tensor, protocol))
    assert read.dtype == tensor.dtype and read.stride() == tensor.stride()
    assert torch.equal(read, tensor.detach())


@pytest.mark.parametrize("evil, name", EVILS)
@pytest.mark.parametrize("place", ["alone", "in a list", "in a storage", "as a storage's keys", "as an array"])
def test_nothing_else_runs(
    evil: Call, name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "alone": evil,
        "in a list": [torch.zeros(2), {"a": evil}],
        "in a storage": Call(torch.storage._load_from_bytes, legacy({"a": [evil]})),
        "as a storage's keys": Call(torch.storage._load_from_bytes, with_keys(evil)),
        "as an array": np.array([evil], object),
    }
    with pytest.raises(pickle.UnpicklingError, match=f"refused to load ({name}|numpy.*_reconstruct)"):
        load_tensor(pickle.dumps(values[place], 4))
    assert not list(tmp_path.iterdir())


def test_the_storage_names_what_was_refused() -> None:
    data = pickle.dumps(Call(torch.storage._load_from_bytes, legacy(Call(os.system, "true"))))
    with pytest.raises(pickle.UnpicklingError, match="(posix|nt).system inside a tensor's storage"):
        load_tensor(data)


@pytest.mark.parametrize("value, message", [
    ([1.0, 2.0], "expected a pickled tensor, got a list"),
    (OrderedDict(a=1), "expected a pickled tensor, got a OrderedDict"),
    (Call(torch.storage._load_from_bytes, legacy([1.0])), "expected a tensor's storage, got a list"),
    (Call(torch._utils._rebuild_tensor_v2, STORAGE, 0, (10,), (1,), False, OrderedDict()),
     r"size \(10,\) does not fit in its 12"),
    (Call(torch._utils._rebuild_tensor_v2, STORAGE, -5, (3,), (1,), False, OrderedDict()),
     "the pickled tensor is damaged"),
    (Call(torch._utils._rebuild_tensor_v2, "text", 0, (3,), (1,), False, OrderedDict()),
     "the pickled tensor is damaged"),
])  # fmt: skip
def test_other_values_are_refused(value: object, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        load_tensor(pickle.dumps(value))


def test_damaged_pickles_are_refused() -> None:
    data = pickle.dumps(torch.arange(6.0))
    for damaged in (b"", b"no pickle", *(data[:n] for n in range(1, len(data), 7)), data[:200] + data[230:]):
        with pytest.raises(pickle.UnpicklingError):
            load_tensor(damaged)


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_come_back(protocol: int) -> None:
    tree = {"a": [np.arange(6, dtype=np.float32).reshape(2, 3).T], "b": {"c": np.array(["x", "yy"])}}
    read = ArrayUnpickler(io.BytesIO(pickle.dumps(tree, protocol))).load()
    assert np.array_equal(read["a"][0], tree["a"][0]) and np.array_equal(read["b"]["c"], tree["b"]["c"])


def test_python_2_text_needs_its_encoding() -> None:
    data = b"U\x02\xe9\x80."  # a str of Python 2
    with pytest.raises(UnicodeDecodeError):
        ArrayUnpickler(io.BytesIO(data)).load()
    assert ArrayUnpickler(io.BytesIO(data), encoding="latin1").load() == "\xe9\x80"
    assert ArrayUnpickler(io.BytesIO(data), encoding="bytes").load() == b"\xe9\x80"


def test_the_list_of_symbols_can_be_longer() -> None:
    data = pickle.dumps([Fraction(1, 3), np.ones(2)])
    with pytest.raises(pickle.UnpicklingError, match="refused to load fractions.Fraction: only numpy.dtype, "):
        ArrayUnpickler(io.BytesIO(data)).load()
    third, ones = ArrayUnpickler(io.BytesIO(data), {**ARRAYS, ("fractions", "Fraction"): Fraction}).load()
    assert third == Fraction(1, 3) and ones.sum() == 2


def test_a_dotted_name_is_one_symbol() -> None:
    data = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    assert pickle.loads(data) is np.ndarray.tofile
    with pytest.raises(pickle.UnpicklingError, match="refused to load numpy.ndarray.tofile"):
        ArrayUnpickler(io.BytesIO(data)).load()


def read_model(data: bytes) -> object:
    return plain(ModelUnpickler(io.BytesIO(data)).load())


def test_models_hold_tensors_scalars_and_sets() -> None:
    value = {"t": torch.arange(6.0).view(2, 3).t(), "n": np.float32(0.5), "s": {"a"}, "l": [(np.int64(3),)]}
    value |= {"b": b"\xff", "e": np.zeros((0, 3))}
    for protocol in (2, 4):
        read = read_model(pickle.dumps(value, protocol))
        assert torch.equal(read["t"], value["t"])
        assert read["n"] == 0.5 and read["s"] == {"a"} and read["l"] == [(3,)] and read["b"] == b"\xff"
        assert read["e"].shape == (0, 3)


def test_a_lone_objects_array_is_the_object() -> None:
    value = {"a": np.arange(3)}
    assert np.array_equal(read_model(pickle.dumps(np.array(value, object)))["a"], value["a"])


@pytest.mark.parametrize("data", [
    b"cchumpy.ch\nCh\n.",  # the class itself
    b"cchumpy.ch\nCh\n(I1\nI2\ntR.",  # called
    b"cchumpy.ch\nCh\n)\x81}Vx\ncchumpy.ch\nCh\n)\x81sb.",  # of another that is empty
    b"cchumpy.ch\nCh\n)\x81](I1\neb.",  # with a list for its state
    b"(ichumpy.ch\nCh\n.",
])  # fmt: skip
def test_chumpy_without_numbers_stays_without_them(data: bytes) -> None:
    read = read_model(data)
    assert read is Chumpy or (isinstance(read, Chumpy) and read.array() is None)


def test_an_endless_chumpy_ends() -> None:
    with pytest.raises(RecursionError):
        read_model(b"cchumpy.ch\nCh\n)\x81q\x00}Vx\nh\x00sb.")


@pytest.mark.parametrize("evil, name", EVILS)
def test_models_run_nothing_either(evil: Call, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (evil, {"a": [evil]}, np.array([evil], object), Call(torch.storage._load_from_bytes, legacy([evil]))):
        for protocol in (0, 2, 4):
            found = name.replace(r"(builtins\.)?", r"((__builtin__|builtins)\.)?")
            with pytest.raises(pickle.UnpicklingError, match=f"refused to load {found}"):
                read_model(pickle.dumps(value, protocol))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["chumpyx.ch\nCh", "xchumpy\nCh", "scipy.sparse\nload_npz", "copyreg\n__newobj__"])
def test_only_those_names_count(name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=f"refused to load {name.replace(chr(10), '.')}$"):
        read_model(f"c{name}\n.".encode())
