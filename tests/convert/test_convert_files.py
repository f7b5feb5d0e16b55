"""Files that users bring are read as numbers, wrong ones are refused in one sentence, and nothing in them runs."""

from __future__ import annotations

import builtins
import io
import os
import pathlib
import pickle
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original_flame import named, python2_pickle, with_state
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix
from test_pickles import Call
from torch import nn

from emorig_diffusers.convert.files import (
    ConvertError,
    load_exactly,
    read_arrays,
    read_checkpoint,
    read_pickle,
)
from emorig_diffusers.files.folders import FolderError, write_folder
from emorig_diffusers.files.pickles import Chumpy, Inert

EVILS = [
    (Call(os.system, "touch here"), r"(posix|nt)\.system"),
    (Call(builtins.eval, "open('here', 'w')"), r"(__builtin__|builtins)\.eval"),
    (Call(getattr, Call(builtins.__import__, "os"), "system"), r"(__builtin__|builtins)\.(getattr|__import__)"),
    (Call(torch.hub.load, "a/b", "c"), r"torch\.hub\.load"),
    (Call(np.load, "here", None, True), r"numpy\.(lib[\w.]*\.)?load"),
    (Call(torch.load, "here"), r"torch\.serialization\.load"),
]


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(ConvertError) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text and text.startswith(str(path)) and text.endswith(".")
    return text


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path in an empty folder, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


# pickles and arrays


def chumpy_model() -> dict[str, Any]:
    with named("chumpy.ch", "Ch") as ch, named("chumpy.reordering", "Select") as select:
        numbers = with_state(ch, x=np.arange(12.0).reshape(4, 3), _dirty_vars={"x"})
        picked = with_state(select, a=numbers, idxs=np.array([11, 0, 4, 5]), preferred_shape=(2, 2))
        again = with_state(select, a=picked, idxs=np.array([0]), preferred_shape=(1, 1))
        lost = with_state(ch, _dirty_vars=set())
        return {"numbers": numbers, "picked": picked, "again": again, "lost": lost, "text": "lbs", "n": np.float64(2.5)}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, "python 2"])
def test_chumpys_objects_become_arrays(file: Path, protocol: int | str) -> None:
    model = chumpy_model()
    with named("chumpy.reordering", "Select") as select, named("chumpy.ch", "Ch") as ch:
        for value in model.values():
            if type(value).__name__ in ("Ch", "Select"):
                value.__class__ = ch if type(value).__name__ == "Ch" else select
        for part in (model["picked"], model["again"]):
            part.a.__class__ = ch if type(part.a).__name__ == "Ch" else select
        file.write_bytes(python2_pickle(model) if protocol == "python 2" else pickle.dumps(model, protocol))
    read = read_pickle(file)
    np.testing.assert_array_equal(read["numbers"], np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(read["picked"], [[11, 0], [4, 5]])
    np.testing.assert_array_equal(read["again"], [[11]])
    assert isinstance(read["lost"], Chumpy) and read["text"] == "lbs" and read["n"] == 2.5


@pytest.mark.parametrize("kind", [csc_matrix, csr_matrix, coo_matrix])
@pytest.mark.parametrize("old", [False, True])
def test_sparse_matrices_come_back(file: Path, kind: type, old: bool) -> None:
    dense = np.random.default_rng(0).normal(size=(5, 20)) * (np.arange(20) % 3 == 0)
    matrix = kind(dense)
    if old:
        name = kind.__name__
        with named(f"scipy.sparse.{name[:3]}", name) as stub:
            keys = ("row", "col", "data") if kind is coo_matrix else ("indices", "indptr", "data")
            state = {key: getattr(matrix, key) for key in keys}
            file.write_bytes(python2_pickle([with_state(stub, _shape=(5, 20), maxprint=50, **state)]))
    else:
        file.write_bytes(pickle.dumps([matrix]))
    (read,) = read_pickle(file)
    assert type(read) is kind
    np.testing.assert_array_equal(read.toarray(), dense)


@pytest.mark.parametrize("change", [
    {"indices": np.array([0, 99])}, {"indptr": np.array([0, 2])}, {"data": np.zeros(7)}, {"_shape": (5,)},
    {"data": np.array(["a", "b"])}, {"indices": np.array([-1, 2])}, {"indptr": None},
])  # fmt: skip
def test_broken_sparse_matrices_are_refused(file: Path, change: dict[str, Any]) -> None:
    state = {"_shape": (5, 2), "data": np.ones(2), "indices": np.array([1, 2]), "indptr": np.array([0, 1, 2])}
    with named("scipy.sparse.csc", "csc_matrix") as stub:
        file.write_bytes(python2_pickle(with_state(stub, **state | change)))
    assert "sparse matrix does not hold together" in refusal(read_pickle, file)


@pytest.mark.parametrize("evil, name", EVILS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["alone", "in chumpy", "as an array", "in a .npy", "in an .npz"])
def test_no_pickle_runs(file: Path, evil: Call, name: str, protocol: int, place: str) -> None:
    value: Any = {"v": [1, evil]}
    if place == "in chumpy":
        with named("chumpy.ch", "Ch") as ch:
            file.write_bytes(pickle.dumps({"a": with_state(ch, x=evil)}, protocol))
    elif place == "in a .npy":
        np.save(file, np.array(value, object), allow_pickle=True)
        os.replace(f"{file}.npy", file)
    elif place == "in an .npz":
        np.savez(file, fine=np.zeros(3), bad=np.array(value, object))
        os.replace(f"{file}.npz", file)
    else:
        file.write_bytes(pickle.dumps(np.array([evil], object) if place == "as an array" else value, protocol))
    read = read_pickle if place in ("alone", "in chumpy", "as an array") else read_arrays
    assert re.search(f"refused to load {name}", refusal(read, file))
    assert os.listdir() == ["model"]


@pytest.mark.parametrize("data", [
    b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.",
    b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nset\nNtR.",
    b"c_codecs\nencode\n(Vprint(1)\nVrot13\ntR.",
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO\nI0\nI1\ntRVabcdefgh\ntR.",
])  # fmt: skip
def test_allowed_functions_take_only_what_models_need(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert "refused to load" in refusal(read_pickle, file)


def test_arrays_by_what_the_file_is(file: Path) -> None:
    tree = {"a": np.arange(6).reshape(2, 3), "b": np.asfortranarray(np.ones((3, 2), np.float16))}
    for save in (
        lambda f: np.savez(f, **tree),
        lambda f: np.savez_compressed(f, **tree),
        lambda f: np.save(f, tree, allow_pickle=True),
        lambda f: pickle.dump({name: torch.from_numpy(value) for name, value in tree.items()}, f),
    ):
        with open(file, "wb") as stream:
            save(stream)
        read = read_arrays(file)
        assert read.keys() == tree.keys()
        for name, value in tree.items():
            np.testing.assert_array_equal(read[name], value)
            assert read[name].dtype == value.dtype
        assert read_arrays(file, only=("b", "c")).keys() == {"b"}
    with open(file, "wb") as stream:
        np.save(stream, tree["a"])
    np.testing.assert_array_equal(read_arrays(file)["arr_0"], tree["a"])


WRONG = {
    "is empty": b"",
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(600),
    "PNG": b"\x89PNG\r\n" + bytes(600),
    "web page": b"\n <!DOCTYPE html><html><body>Quota exceeded</body></html>",
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "gzip": b"\x1f\x8b" + bytes(600),
    "tar archive": bytes(257) + b"ustar" + bytes(300),
    "damaged": b"this is a plain text",
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("read", [read_pickle, read_arrays, read_checkpoint])
def test_wrong_files_are_told(file: Path, what: str, read: Callable[[Path], Any]) -> None:
    file.write_bytes(WRONG[what])
    assert what in refusal(read, file)


@pytest.mark.parametrize("read", [read_pickle, read_arrays, read_checkpoint])
def test_archives_and_missing_files_are_told(file: Path, read: Callable[[Path], Any]) -> None:
    assert "cannot be read (No such file" in refusal(read, file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("FLAME2020/generic_model.pkl", b"x" * 50)
    assert "zip archive" in refusal(read, file)
    assert "cannot be read" in refusal(read, file.parent)


def test_truncated_files_are_told(file: Path) -> None:
    buffers = {read: io.BytesIO() for read in (read_pickle, read_arrays, read_checkpoint)}
    pickle.dump({"a": np.arange(300.0)}, buffers[read_pickle], 2)
    np.savez_compressed(buffers[read_arrays], a=np.random.default_rng(0).random(300))
    torch.save({"a": torch.arange(300.0)}, buffers[read_checkpoint])
    for read, buffer in buffers.items():
        data = buffer.getvalue()
        for part in (3, 30, 300, 900, len(data) - 20, len(data) - 1):
            file.write_bytes(data[:part])
            assert re.search("damaged|zip", refusal(read, file))


# checkpoints


def lightning_checkpoint(tensors: dict[str, torch.Tensor], zipped: bool = True) -> bytes:
    """Like EMOCA's: a Lightning state with omegaconf's objects, a path and classes as keys."""
    with (
        named("omegaconf.dictconfig", "DictConfig") as config,
        named("omegaconf.base", "ContainerMetadata") as metadata,
        named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as callback,
        named("pytorch_lightning.callbacks.early_stopping", "EarlyStopping") as stopping,
    ):
        cache = defaultdict(dict, {"a": {"b": 1}})
        meta = with_state(metadata, ref_type=Any, object_type=dict, key_type=int, flags={}, resolver_cache=cache)
        value = {
            "epoch": 7,
            "state_dict": OrderedDict(tensors),
            "hyper_parameters": with_state(config, _metadata=meta, _content={"lr": 1e-4}, _parent=None),
            "callbacks": {callback: {"best": torch.tensor(0.5), "path": pathlib.PurePosixPath("/a/b")}, stopping: {}},
            "score": np.float64(3.0),
        }
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_lightning_checkpoints_are_read_without_lightning(file: Path, zipped: bool) -> None:
    shared = torch.randn(4, 3)
    tensors = {"deca.w": shared.t(), "deca.same": shared, "n": torch.tensor(3), "h": torch.ones(2).half()}
    file.write_bytes(lightning_checkpoint(tensors, zipped))
    known = set(torch.serialization.get_safe_globals())
    read = read_checkpoint(file)
    assert read["epoch"] == 7 and read["state_dict"].keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read["state_dict"][name], value) and read["state_dict"][name].dtype == value.dtype
    settings = read["hyper_parameters"]
    assert isinstance(settings, Inert) and type(settings).__name__ == "DictConfig"
    assert settings.state["_content"] == {"lr": 1e-4}
    assert settings.state["_metadata"].state["resolver_cache"] == {"a": {"b": 1}}
    assert len(read["callbacks"]) == 2
    assert set(torch.serialization.get_safe_globals()) == known


@pytest.mark.parametrize("evil, name", EVILS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["alone", "nested", "as a state", "as a key"])
def test_no_checkpoint_runs(file: Path, evil: Call, name: str, zipped: bool, place: str) -> None:
    with named("omegaconf", "DictConfig") as config:
        value = {
            "alone": evil,
            "nested": {"state_dict": {"w": torch.zeros(2)}, "x": [(evil,)]},
            "as a state": {"c": with_state(config, _content=evil)},
            "as a key": {"c": defaultdict(list, {"a": Call(tuple, [evil])})},
        }[place]
        torch.save(value, file, _use_new_zipfile_serialization=zipped)
    assert re.search(f"refused to load {name}", refusal(read_checkpoint, file))
    assert os.listdir() == ["model"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_newer_protocol_is_refused_not_run(file: Path) -> None:
    torch.save({"w": EVILS[0][0]}, file, pickle_protocol=4)
    assert "damaged" in refusal(read_checkpoint, file)
    assert os.listdir() == ["model"]


def test_other_checkpoints_are_refused(file: Path) -> None:
    torch.save([torch.zeros(2)], file)
    assert "holds a list and no dict of tensors, which is not supported" in refusal(read_checkpoint, file)
    torch.jit.script(nn.Linear(2, 2)).save(file)
    assert "refused to load __torch__.torch.nn.modules.linear.Linear" in refusal(read_checkpoint, file)


def test_zipped_again_it_still_reads(file: Path) -> None:
    plain, tensor = io.BytesIO(), torch.arange(5000.0)
    torch.save({"w": tensor}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
    assert torch.equal(read_checkpoint(file)["w"], tensor)


# weights and folders


def test_weights_fit_exactly_or_are_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    good = {name: torch.randn(v.shape) if v.ndim else torch.tensor(9) for name, v in module.state_dict().items()}
    given = {name: v.double() if v.is_floating_point() else v for name, v in good.items()}
    load_exactly(module, given, Path("m.tar"))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, good[name], atol=0, rtol=0)
        assert value.dtype in (torch.float32, torch.int64)
    before = {name: v.clone() for name, v in module.state_dict().items()}
    faults = {
        "lacks 1.num_batches_tracked": {n: v for n, v in good.items() if not n.endswith("tracked")},
        "has beyond the model extra": good | {"extra": torch.zeros(1)},
        "lacks 0.weight and has beyond the model o.weight": {n.replace("0.w", "o.w"): v for n, v in good.items()},
        r"has in another shape 0.bias \(\[5\] for \[4\]\)": good | {"0.bias": torch.zeros(5)},
        r"has in another shape 0.bias \(str for \[4\]\)": good | {"0.bias": "text"},
        "lacks 0.weight, 0.bias, 1.weight and 4 more": {},
        "has numbers that are not finite in 1.bias": good | {"1.bias": torch.full((4,), torch.nan)},
    }
    for message, tensors in faults.items():
        with pytest.raises(ConvertError, match=f"^m.tar {message}.*\\.$"):
            load_exactly(module, tensors, Path("m.tar"))
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_a_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def write(folder: Path) -> None:
        (folder / "a").write_text("1")
        assert folder.parent.parent == tmp_path / "deep/er"

    def fail(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    out = Path("deep/er/out")
    with pytest.raises(KeyboardInterrupt):
        write_folder(out, fail)
    assert not os.listdir(tmp_path)
    assert write_folder(out, write) == tmp_path / "deep/er/out"
    assert os.listdir("deep/er") == ["out"] and os.listdir(out) == ["a"]
    with pytest.raises(FolderError, match="not empty: give a new"):
        write_folder(out, write)
    with pytest.raises(FolderError, match="not empty: give a new"):
        write_folder(out / "a", write)
    (out / "a").unlink()
    with pytest.raises(KeyboardInterrupt):
        write_folder(out, fail)
    assert os.listdir("deep/er") == ["out"] and not os.listdir(out)
    assert write_folder(out, write) and os.listdir(out) == ["a"]
