"""What broken files have brought to light, each with the smallest file that does it."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from media_cases import _sample
from PIL import Image
from small_diffae import small_diffae

from emorig_diffusers.convert.deca import read_mask
from emorig_diffusers.convert.files import ConvertError, read_arrays
from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.gnm import read_gnm
from emorig_diffusers.data.lmdb_layouts import DiffAELMDB, open_lmdb, write_diffae_lmdb
from emorig_diffusers.data.scans import read_scan
from emorig_diffusers.data.shards import CodeShards, ShardError, write_shard
from emorig_diffusers.evaluation.store import Store
from emorig_diffusers.files.pickles import load_tensor
from emorig_diffusers.photo.io import PhotoError, count_frames, read_photo, save_photo
from emorig_diffusers.pipelines.base import open_pipeline
from emorig_diffusers.video.clips import ClipError
from emorig_diffusers.video.reading import open_clip

BROKEN_HEADER = b"\x93NUMPY\x01\x00\x16\x00{'descr': '<f8', (((\n" + b" " * 40  # Python's tokenizer stumbles over it


def saved(file_format: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (32, 24)).save(out, file_format)
    return out.getvalue()


def with_chunk(name: bytes, body: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    data, crc = saved("PNG"), zlib.crc32(name + body)
    return data[:33] + struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc) + data[33:]


PICTURES = {
    "a TIFF without its width": saved("TIFF").replace(struct.pack("<H", 256), b"\xe7\x03", 1),
    "a text of 100 MB in a few kB": with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8))),
    "an animation's chunk that is cut off": with_chunk(b"acTL", b"\0"),
}


@pytest.mark.parametrize("what", PICTURES)
def test_pictures(what: str, tmp_path: Path) -> None:
    """As photos, as clips and as masks."""
    file = tmp_path / "photo.png"
    file.write_bytes(PICTURES[what])
    for read, error in ((read_photo, PhotoError), (open_clip, ClipError), (read_mask, ConvertError)):
        with pytest.raises(error) as refusal:
            read(file)
        assert "photo.png" in str(refusal.value) and "\n" not in str(refusal.value)
    assert count_frames(file) == 1


def test_a_picture_that_its_format_has_no_room_for(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"Cannot write '.*a\.webp': .*16383 pixels"):
        save_photo(Image.new("RGB", (20_000, 20)), tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())


ARRAYS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "arrays.npy": (read_arrays, ConvertError), "scan.npy": (read_scan, DataError),
    "gnm_head.npz": (read_gnm, DataError),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_whose_header_is_no_python(name: str, tmp_path: Path) -> None:
    read, error = ARRAYS[name]
    (tmp_path / name).write_bytes(BROKEN_HEADER)
    with pytest.raises(error, match="is damaged"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_scan, read_gnm])
def test_archives_of_other_files_than_arrays(read: Callable[[Path], object], tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("points", "template_vertex_positions"):
            archive.writestr(name, b"text")
    with pytest.raises(DataError, match="is damaged"):
        read(tmp_path / "x.npz")


def test_a_tensor_whose_size_is_no_number() -> None:
    """torch's own error has a dozen lines."""
    data = pickle.dumps(torch.zeros(3, 4)).replace(b"K\x03K\x04\x86", b"N0NN\x86", 1)
    with pytest.raises(pickle.UnpicklingError, match="the pickled tensor is damaged") as refusal:
        load_tensor(data)
    assert "\n" not in str(refusal.value)


INDICES: list[Callable[[dict], object]] = [
    lambda index: index | {"samples": 0.5}, lambda index: index | {"samples": ["x"]},
    lambda index: index | {"failures": 3}, lambda index: index | {"settings": None},
    lambda index: index | {"samples": [index["samples"][0] | {"jpg": ["0", 5]}]},
    lambda index: index | {"samples": [index["samples"][0] | {"json": [0.5, 5]}]}, lambda index: [index],
]  # fmt: skip


@pytest.mark.parametrize("change", [*INDICES, None])
def test_indices_of_shards(change: Callable[[dict], object] | None, tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [_sample(0)], {"no face": ["x.png"]}, {"crop": "aligned"})
    file = tmp_path / "00000.json"
    assert len(CodeShards(tmp_path)) == 1
    file.write_text("[" * 100_000 if change is None else json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ShardError, match=r"its index 00000\.json cannot be read"):
        CodeShards(tmp_path)


@pytest.mark.parametrize("place", [[0, 10**30], [10**30, 5], [0, 2**50]])
def test_members_that_lie_beyond_their_shard(place: list[int], tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [_sample(0)], {}, {})
    file = tmp_path / "00000.json"
    index = json.loads(file.read_text())
    index["samples"][0]["jpg"] = place
    file.write_text(json.dumps(index))
    with pytest.raises(ShardError, match="it is shorter than its index says"):
        CodeShards(tmp_path)[0]


def test_pages_of_an_lmdb(tmp_path: Path) -> None:
    """Whatever page is damaged, what needs it says so."""
    write_diffae_lmdb(tmp_path / "x.lmdb", (np.full((32, 32, 3), i, np.uint8) for i in range(80)), 32)
    whole, told = (tmp_path / "x.lmdb" / "data.mdb").read_bytes(), set()
    for page in range(2, len(whole) // 4096):
        folder = tmp_path / str(page)
        folder.mkdir()
        (folder / "data.mdb").write_bytes(whole[: 4096 * page] + b"\xff" * 4096 + whole[4096 * (page + 1) :])
        try:
            reader = open_lmdb(folder)
            assert isinstance(reader, DiffAELMDB)
            _ = [reader[i] for i in range(len(reader))]
        except (DataError, PhotoError) as error:
            told.add("is damaged" in str(error))
    assert True in told


def test_pictures_of_other_formats_in_shards_and_lmdbs(tmp_path: Path) -> None:
    """Only what photos may be is opened: not PostScript, for example, nor PPM."""
    import tarfile

    with lmdb.open(str(tmp_path / "x"), map_size=1 << 20) as store, store.begin(write=True) as out:
        out.put(b"length", b"1")
        out.put(b"32-00000", saved("PPM"))
    with pytest.raises(PhotoError, match=r"entry '32-00000' of .* is not a readable picture"):
        open_lmdb(tmp_path / "x").picture("32-00000")
    write_shard(tmp_path, 0, [_sample(0)], {}, {})
    with tarfile.open(tmp_path / "00000.tar") as archive:
        member = archive.getmember("photo-0.jpg")
    data, other = (tmp_path / "00000.tar").read_bytes(), saved("PPM")[: member.size].ljust(member.size, b"\0")
    (tmp_path / "00000.tar").write_bytes(data[: member.offset_data] + other + data[member.offset_data + member.size :])
    with pytest.raises(ShardError, match="its sample photo-0 cannot be decoded"):
        CodeShards(tmp_path)[0]


def test_lines_of_scores_that_have_changed(tmp_path: Path) -> None:
    """They are as if they had not been written, so that their pictures are scored again."""
    store = Store(tmp_path)
    records = [{"method": "m", "emotion": "sad", "name": n, "fingerprint": "f", "failure": None, "psnr": 30.25}
               for n in "abc"]  # fmt: skip
    for record in records:
        store.append(record)
    (file,) = tmp_path.iterdir()
    assert list(store.read().values()) == records
    file.write_bytes(file.read_bytes().replace(b"30.25", b"90.25", 1))
    assert list(store.read().values()) == records[1:]


CONFIGS: list[tuple[str, str, object]] = [
    ("model_index.json", "_class_name", []), ("unet/config.json", "norm_num_groups", "x"),
    ("unet/config.json", "block_out_channels", 7), ("semantic_encoder/config.json", "cond_dim", None),
]  # fmt: skip


def test_folders_of_pipelines(tmp_path: Path) -> None:
    small_diffae().save_pretrained(tmp_path)
    parts = {path.parent.name for path in tmp_path.glob("*/config.json")}
    for file, key, value in CONFIGS:
        if file.partition("/")[0] not in {*parts, "model_index.json"}:
            continue
        path = tmp_path / file
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {key: value}))
        with pytest.raises((ValueError, OSError)):
            open_pipeline(tmp_path)
        path.write_text(before)
    (tmp_path / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="model_index.json' is damaged"):
        open_pipeline(tmp_path)


def test_shims_of_modules_that_there_are_not(tmp_path: Path) -> None:
    small_diffae().save_pretrained(tmp_path)
    (shim,) = tmp_path.glob("unet/*.py")
    shim.write_text(shim.read_text().replace("models.unet", "models.unit"))
    with pytest.raises(ValueError, match=r"needs emorig_diffusers\.models\.unit, which this version"):
        open_pipeline(tmp_path)
