"""DiffAE's and DiffusionRig's LMDB files: written, read, and every way to break one."""

from __future__ import annotations

import io
import os
import pickle
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from emorig_diffusers.data.lmdb_layouts import (
    BUFFERS,
    DiffAELMDB,
    DiffusionRigLMDB,
    open_lmdb,
    write_diffae_lmdb,
)
from emorig_diffusers.data.sources import DataError, open_dataset
from emorig_diffusers.photo.io import PhotoError


def smooth(index: int, side: int = 32) -> np.ndarray:
    """A picture JPEG keeps well, another for each index; uint8 [side, side, 3]."""
    ramp = np.linspace(0, 200, side)[:, None] + np.zeros((1, side))
    return np.stack([ramp, ramp.T, np.full_like(ramp, 5 * index % 256)], 2).astype(np.uint8)


def encoded(picture: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, suffix, quality=100)
    return buffer.getvalue()


def put(path: Path, entries: dict[str, bytes], subdir: bool = True) -> Path:
    with lmdb.open(str(path), map_size=1 << 26, subdir=subdir) as environment, environment.begin(write=True) as out:
        for key, value in entries.items():
            out.put(key.encode(), value)
    return path


@pytest.fixture(scope="module")
def buffers() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 256, 256, generator=generator) for _ in BUFFERS]


@pytest.fixture(scope="module")
def rig_entries(buffers: list[torch.Tensor]) -> dict[str, bytes]:
    """Two pictures of DiffusionRig's layout."""
    entries = {"length": b"2"}
    for i in range(2):
        entries[f"image_{i:06d}"] = encoded(smooth(i, 256), "png")
        entries |= {f"{name}_{i:06d}": pickle.dumps(t + i) for name, t in zip(BUFFERS, buffers)}
    return entries


@pytest.mark.parametrize("digits", [5, 7])
def test_diffaes_layout_returns(digits: int, tmp_path: Path) -> None:
    path = tmp_path / "set.lmdb"
    assert write_diffae_lmdb(path, (smooth(i) for i in range(150)), 32, digits) == 150
    assert [file.name for file in tmp_path.iterdir()] == ["set.lmdb"]
    reader = DiffAELMDB(path)
    assert (len(reader), reader.resolution, reader.digits) == (150, 32, digits)
    assert reader.key(149) == "32-" + "149".zfill(digits)
    for i in (0, 63, 64, 149):
        assert reader[i].dtype == np.uint8
        assert np.abs(reader[i].astype(int) - smooth(i)).max() <= 3
    assert sum(1 for _ in reader) == 150
    for wrong in (-1, 150):
        with pytest.raises(IndexError, match="has 150"):
            reader[wrong]


def test_the_keys_are_diffaes(tmp_path: Path) -> None:
    write_diffae_lmdb(tmp_path / "set", [smooth(0), smooth(1)], 32)
    with lmdb.open(str(tmp_path / "set"), readonly=True, lock=False) as environment, environment.begin() as entries:
        stored = dict(entries.cursor())
    assert list(stored) == [b"32-00000", b"32-00001", b"length"]
    assert stored[b"length"] == b"2"
    with Image.open(io.BytesIO(stored[b"32-00001"])) as image:
        assert image.format == "JPEG" and set(image.quantization[0]) == {1}  # quality 100


def test_the_file_grows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    write_diffae_lmdb(tmp_path / "set", (noise for _ in range(7)), 1024)
    assert (tmp_path / "set" / "data.mdb").stat().st_size > 1 << 24  # where it starts
    assert DiffAELMDB(tmp_path / "set")[6].shape == noise.shape


def test_several_resolutions(tmp_path: Path) -> None:
    entries = {f"{side}-{i:05d}": encoded(smooth(i, side), "jpeg") for side in (32, 64) for i in range(3)}
    path = put(tmp_path / "set", entries | {"length": b"3"})
    assert DiffAELMDB(path)[1].shape == (64, 64, 3)
    assert DiffAELMDB(path, 32)[1].shape == (32, 32, 3)
    with pytest.raises(DataError, match="no keys 128-<5 digits>"):
        DiffAELMDB(path, 128)


def test_diffusionrigs_layout(
    rig_entries: dict[str, bytes], buffers: list[torch.Tensor], tmp_path: Path
) -> None:
    reader = DiffusionRigLMDB(put(tmp_path / "set", rig_entries))
    assert len(reader) == 2
    assert np.array_equal(reader.image(1), smooth(1, 256))
    read = reader.buffers(1)
    assert tuple(read) == BUFFERS
    assert all(torch.equal(read[name], tensor + 1) for name, tensor in zip(BUFFERS, buffers))
    with pytest.raises(IndexError, match="There is no picture 2"):
        reader.buffers(2)


class Shell:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch here",)


@pytest.mark.parametrize("value, message", [
    (pickle.dumps(Shell()), "refused to load (posix|nt).system"),
    (pickle.dumps(torch.zeros(3, 128, 128)), r"must be float32 \[3, 256, 256\], got torch.float32 \[3, 128, 128\]"),
    (pickle.dumps(torch.zeros(3, 256, 256, dtype=torch.float64)), "got torch.float64"),
    (pickle.dumps([1]), "expected a pickled tensor, got a list"),
    (b"cut off", "cannot be used"),
    (None, "has no entry 'albedo_000001'"),
])  # fmt: skip
def test_broken_buffers(
    value: bytes | None, message: str, rig_entries: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = {k: v for k, v in (rig_entries | {"albedo_000001": value}).items() if v is not None}
    reader = DiffusionRigLMDB(put(tmp_path / "set", entries))
    assert set(reader.buffers(0)) == set(BUFFERS)
    with pytest.raises(DataError, match=message):
        reader.buffers(1)
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_the_layout_is_recognised(rig_entries: dict[str, bytes], tmp_path: Path) -> None:
    write_diffae_lmdb(tmp_path / "a", [smooth(0), smooth(1)], 32)
    put(tmp_path / "b", rig_entries)
    put(tmp_path / "c.lmdb", rig_entries, subdir=False)
    for name, layout, key, file in (
        ("a", "diffae_lmdb", "00001", "32-00001"),
        ("a/data.mdb", "diffae_lmdb", "00001", "32-00001"),
        ("b", "diffusionrig_lmdb", "000001", "image_000001"),
        ("c.lmdb", "diffusionrig_lmdb", "000001", "image_000001"),
    ):
        dataset = open_dataset(tmp_path / name)
        source = dataset.sources[1]
        assert (dataset.layout, len(dataset), source.key, source.file) == (layout, 2, key, file)
        assert np.array_equal(dataset.read(source), pickle.loads(pickle.dumps(dataset)).read(source))
        assert dataset.sources == open_dataset(tmp_path / name, layout).sources


def test_other_processes_read_too(tmp_path: Path) -> None:
    write_diffae_lmdb(tmp_path / "set", [smooth(0), smooth(1)], 32)
    reader = DiffAELMDB(tmp_path / "set")
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        there = pool.submit(reader.picture, "32-00001").result(60)
    assert np.array_equal(there, reader[1])


def test_broken_pictures(tmp_path: Path) -> None:
    good = encoded(smooth(0), "jpeg")
    path = put(tmp_path / "set", {"32-00000": good, "32-00001": good[:200], "32-00003": b"x", "length": b"4"})
    dataset = open_dataset(path)
    messages = ["'32-00001' of .* is not a readable picture", "has no entry '32-00002'", "'32-00003' of .* is not"]
    for source, message in zip(dataset.sources[1:], messages, strict=True):
        with pytest.raises(PhotoError, match=message):
            dataset.read(source)


@pytest.mark.parametrize("entries, message", [
    ({}, "has no valid 'length'"),
    ({"32-00000": b"x"}, "has no valid 'length'"),
    ({"length": b"two"}, "has no valid 'length'"),
    ({"length": b"0"}, "holds no pictures"),
    ({"length": b"1", "0": b"x"}, "has no keys <resolution>-<5 digits>: it is not DiffAE's layout"),
    ({"length": b"2", "32-00000": b"x"}, "holds fewer than its 2 pictures"),
    ({"length": b"2", "image_000000": b"x"}, "holds fewer than its 2 pictures"),
])  # fmt: skip
def test_broken_files(entries: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_lmdb(put(tmp_path / "set", entries))


def test_the_other_layout(rig_entries: dict[str, bytes], tmp_path: Path) -> None:
    write_diffae_lmdb(tmp_path / "a", [smooth(0)], 32)
    with pytest.raises(DataError, match="no keys image_<6 digits>: it is not DiffusionRig's layout"):
        DiffusionRigLMDB(tmp_path / "a")
    with pytest.raises(DataError, match="it is not DiffAE's layout"):
        open_dataset(put(tmp_path / "b", rig_entries), "diffae_lmdb")


def test_files_that_are_cut_off(tmp_path: Path) -> None:
    write_diffae_lmdb(tmp_path / "set", (smooth(i) for i in range(100)), 32)
    data = (tmp_path / "set" / "data.mdb").read_bytes()
    for size in (0, 100, 4096, 8192, len(data) // 2, len(data) - 1):
        (tmp_path / f"{size}.mdb").write_bytes(data[:size])
        with pytest.raises(DataError, match="cut off|not a readable LMDB"):
            open_lmdb(tmp_path / f"{size}.mdb")
    (tmp_path / "text.mdb").write_text("no LMDB" * 1000)
    with pytest.raises(DataError, match="not a readable LMDB"):
        open_dataset(tmp_path / "text.mdb")
    with pytest.raises(DataError, match="is no LMDB: give the folder that holds data.mdb"):
        open_lmdb(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, hard))
    try:
        with pytest.raises(DataError, match="Cannot write the LMDB .*: free space or choose another place"):
            write_diffae_lmdb(tmp_path / "set", (noise for _ in range(200)), 256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield from (smooth(i) for i in range(70))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_diffae_lmdb(tmp_path / "set", pictures(), 32)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    wrong = [(smooth(0, 33), "Picture 1 must be uint8 .32, 32, 3., got uint8 .33, 33, 3.: resize it first"),
             (smooth(0) / 255.0, "got float64")]  # fmt: skip
    for picture, message in wrong:
        with pytest.raises(DataError, match=message):
            write_diffae_lmdb(tmp_path / "set", [smooth(0), picture], 32)
    with pytest.raises(DataError, match="There are no pictures to write"):
        write_diffae_lmdb(tmp_path / "set", [], 32)
    with pytest.raises(DataError, match="Cannot write the LMDB"):
        write_diffae_lmdb(tmp_path / "none" / "set", [smooth(0)], 32)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="exists already: delete it or choose another name"):
        write_diffae_lmdb(tmp_path, [smooth(0)], 32)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "data.mdb").touch()
    for use in (open_lmdb, lambda path: write_diffae_lmdb(path / "set", [], 32)):
        with pytest.raises(DataError, match="LMDB files need the lmdb package: pip install"):
            use(tmp_path)
