"""Shards: prepared photos with their face codes in tar files that the webdataset library reads too.

A folder holds `00000.tar`, `00001.tar`, ... with three members a photo: `<key>.jpg` (the training picture, quality
95, 4:4:4), `<key>.json` (what is known of the photo) and `<key>.safetensors` (codes, transform, residual). Beside each
lies an index, `00000.json`, written last: a shard without one is not finished. `manifest.json` sums the indices up.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch.utils.data import Dataset

from emorig_diffusers.data.dataset import DataError

from ..face.codes import FaceCodes
from ..files.atomic import write_file
from ..files.texts import parse_json
from ..photo.io import open_picture

MANIFEST = "manifest.json"
_CODES = tuple(field.name for field in fields(FaceCodes))
_INDEX = ("bytes", "sha256", "settings", "settings_sha256", "samples", "failures")
_DAMAGE = (OSError, ValueError, KeyError, IndexError, SyntaxError, SafetensorError)  # what a bad member may raise


class ShardError(DataError):
    """A folder of shards cannot be read or written; one sentence says why and what to do."""


@dataclass
class Sample:
    """One prepared photo; the encoder's crop is the aligned square on which the face was fitted.

    Attributes:
        key: Its name in the data set and in the shard, [A-Za-z0-9_-] only.
        picture: uint8 RGB [S, S, 3], the training picture.
        codes: A batch of one; the camera is in normalised device coordinates (NDC) of the encoder's crop.
        transform: float32 [3, 3], NDC (x, y, 1) of the encoder's crop to NDC of `picture`: `draw_buffers` takes it.
        residual: float32 [N, 2], landmarks minus fitted ones, NDC of the encoder's crop (y down); [0, 2] for none.
            Stored with 11 significant bits.
        info: JSON: file, label, valence, arousal, attributes, error (mean landmark error, px of a 384-px crop).
    """

    key: str
    picture: np.ndarray
    codes: FaceCodes
    transform: np.ndarray
    residual: np.ndarray
    info: dict[str, Any]


class CodeShards(Dataset[Sample]):
    """Random access to the samples of a folder of shards; a map-style data set for `torch.utils.data.DataLoader`.

    Nothing stays open between two samples, so workers may be forked or spawned.

    Args:
        folder: What `train/prepare.py` wrote.

    Attributes:
        keys: Names of the samples.
        labels: Emotion of each sample, None where the data set gives none.
        manifest: What `write_manifest` writes, of the shards that are here.

    Raises:
        ShardError: If there is no finished shard or no sample, or a shard is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        indices = _read_indices(self.folder)
        self.manifest = _sum_up(self.folder, indices)
        self._entries = [(number, entry) for number, index in indices.items() for entry in index["samples"]]
        if not self._entries:
            raise ShardError(f"No photo in {self.folder} could be used: prepare photos with one visible face each.")
        self.keys: list[str] = [entry["key"] for _, entry in self._entries]
        self.labels: list[str | None] = [entry["label"] for _, entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`.

        Raises:
            IndexError: If there is no such sample.
            ShardError: If it is damaged.
        """
        number, entry = self._entries[index]
        jpeg, text, tensors = (self._member(index, kind) for kind in ("jpg", "json", "safetensors"))
        try:
            with open_picture(io.BytesIO(jpeg), "It") as image:
                picture = np.array(image.convert("RGB"))
            arrays, info = load(tensors), parse_json(text)
            codes = FaceCodes(*(torch.tensor(arrays[name]) for name in _CODES))  # copies, aligned as torch does
            residual = arrays["residual"].astype(np.float32)
            return Sample(entry["key"], picture, codes, arrays["transform"], residual, info)
        except _DAMAGE as error:
            raise _damaged(self.folder, number, f"its sample {entry['key']} cannot be decoded") from error

    def info(self, index: int) -> dict[str, Any]:
        """`Sample.info` of one sample, without its picture and codes."""
        number, entry = self._entries[index]
        try:
            return parse_json(self._member(index, "json"))
        except ValueError as error:
            raise _damaged(self.folder, number, f"its sample {entry['key']} cannot be decoded") from error

    def _member(self, index: int, kind: str) -> bytes:
        number, entry = self._entries[index]
        offset, size = entry[kind]
        try:
            with open(self.folder / f"{number:05d}.tar", "rb") as file:
                inside = 0 <= offset <= offset + size <= file.seek(0, os.SEEK_END)  # sizes may be any integers
                file.seek(offset if inside else 0)
                data = file.read(size) if inside else b""
        except OSError as error:
            raise _damaged(self.folder, number, f"it cannot be read ({error.strerror})") from error
        if not inside or len(data) != size:
            raise _damaged(self.folder, number, "it is shorter than its index says")
        return data


def write_shard(
    folder: Path,
    number: int,
    samples: Iterable[Sample],
    failures: Mapping[str, list[str]],
    settings: Mapping[str, Any],
) -> None:
    """Write `<number>.tar`, then its index; the same samples give the same bytes.

    Args:
        folder: Exists.
        number: Of the shard, from 0.
        samples: May be a generator: each is packed before the next is made.
        failures: Reason to files that gave no sample; looked at after the last sample.
        settings: What the samples depend on, ready for JSON; one folder holds shards of equal settings.

    Raises:
        ShardError: If the disk is full or the folder cannot be written; no half file is left.
    """
    buffer, entries = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            members = {kind: _add(tar, f"{sample.key}.{kind}", data) for kind, data in _pack(sample).items()}
            about = {"key": sample.key, "label": sample.info.get("label"), "error": sample.info.get("error")}
            entries.append(about | members)
    index = {
        "settings": settings,
        "settings_sha256": settings_hash(settings),
        "bytes": len(buffer.getbuffer()),
        "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
        "samples": entries,
        "failures": {reason: files for reason, files in failures.items() if files},
    }
    _write(folder / f"{number:05d}.tar", buffer.getbuffer())
    _write(folder / f"{number:05d}.json", _canonical(index))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """sha256 of settings as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(_canonical(settings)).hexdigest()


def finished_shards(folder: Path, settings: Mapping[str, Any]) -> set[int]:
    """Numbers of the shards of a folder that need not be written again.

    A shard whose tar or index is missing, cut off or unreadable is not finished.

    Raises:
        ShardError: If the folder holds shards of other settings.
    """
    finished = set()
    for path in folder.glob("[0-9]*.json"):
        try:
            index = _read_index(path)
        except ShardError:
            continue
        if index["settings_sha256"] != settings_hash(settings):
            other = ", ".join(sorted(k for k in settings if index["settings"].get(k) != settings[k]))
            raise ShardError(
                f"{folder} was prepared with other settings ({other}): choose another folder, or delete this one."
            )
        finished.add(int(path.stem))
    return finished


def write_manifest(folder: Path) -> dict[str, Any]:
    """Sum the indices of a folder up in its `manifest.json`, and return that.

    It holds `settings` and `settings_sha256`; `photos` looked at and `used`; `failures`, the number of each reason;
    `labels`, the number of each emotion; `bytes_a_photo`; and file, samples, bytes and sha256 of the `shards`.

    Raises:
        ShardError: If there is no finished shard, one is damaged, or the file cannot be written.
    """
    manifest = _sum_up(folder, _read_indices(folder))
    _write(folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    return manifest


def _pack(sample: Sample) -> dict[str, bytes]:
    jpeg = io.BytesIO()
    Image.fromarray(sample.picture).save(jpeg, "JPEG", quality=95, subsampling=0)
    arrays = {name: getattr(sample.codes, name).float().numpy() for name in _CODES}
    arrays |= {"transform": sample.transform.astype(np.float32), "residual": sample.residual.astype(np.float16)}
    tensors = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return {"jpg": jpeg.getvalue(), "json": _canonical(sample.info), "safetensors": tensors}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    """Append a member that says nothing of when and by whom; where its bytes start, and how many they are."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(data)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _write(path: Path, data: bytes | memoryview) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ShardError(
            f"{path} cannot be written ({reason}): make room there and run the same command again, "
            "which goes on after the finished shards."
        ) from error


def _read_indices(folder: Path) -> dict[int, dict[str, Any]]:
    """Shard number to index, in order."""
    indices = {int(path.stem): _read_index(path) for path in sorted(folder.glob("[0-9]*.json"))}
    if not indices:
        raise ShardError(f"{folder} has no prepared shards: run train/prepare.py PHOTOS {folder} first.")
    if len({index["settings_sha256"] for index in indices.values()}) > 1:
        raise ShardError(f"{folder} holds shards of different settings: prepare the photos into an empty folder.")
    return indices


def _read_index(path: Path) -> dict[str, Any]:
    number, tar = int(path.stem), path.with_suffix(".tar")
    try:
        index = parse_json(path.read_bytes())
        wanted, *_ = [index[name] for name in _INDEX]
        if not _is_index(index):
            raise ValueError("it is another file's")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path.parent, number, f"its index {path.name} cannot be read") from error
    size = tar.stat().st_size if tar.is_file() else None
    if size is None:
        raise _damaged(path.parent, number, "it is missing")
    if size != wanted:
        raise _damaged(path.parent, number, f"it has {size} bytes where its index says {wanted}")
    return index


def _is_index(index: Any) -> bool:
    """Whether what is read under _INDEX is of the kinds that `write_shard` writes."""
    listed = isinstance(index["samples"], list) and all(map(_is_entry, index["samples"]))
    failures = index["failures"]
    failed = isinstance(failures, dict) and all(isinstance(files, list) for files in failures.values())
    texts = isinstance(index["sha256"], str) and isinstance(index["settings_sha256"], str)
    return listed and failed and texts and isinstance(index["settings"], dict) and type(index["bytes"]) is int


def _is_entry(entry: Any) -> bool:
    place = lambda value: isinstance(value, list) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value)
    known = isinstance(entry, dict) and {"key", "label", "jpg", "json", "safetensors"} <= entry.keys()
    named = known and isinstance(entry["key"], str) and isinstance(entry["label"], str | None)
    return named and all(place(entry[kind]) for kind in ("jpg", "json", "safetensors"))


def _damaged(folder: Path, number: int, reason: str) -> ShardError:
    name = f"{number:05d}.tar"
    return ShardError(f"Shard {folder / name} is damaged ({reason}): delete it and run train/prepare.py again.")


def _sum_up(folder: Path, indices: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The manifest."""
    samples = [entry for index in indices.values() for entry in index["samples"]]
    failures = Counter()
    for index in indices.values():
        failures.update({reason: len(files) for reason, files in index["failures"].items()})
    first = next(iter(indices.values()))
    size = sum(index["bytes"] for index in indices.values())
    return {
        "settings": first["settings"],
        "settings_sha256": first["settings_sha256"],
        "photos": len(samples) + failures.total(),
        "used": len(samples),
        "failures": dict(sorted(failures.items())),
        "labels": dict(sorted(Counter(s["label"] for s in samples if s["label"] is not None).items())),
        "bytes_a_photo": round(size / max(1, len(samples))),
        "shards": [
            {"file": f"{number:05d}.tar", "samples": len(index["samples"])} | {k: index[k] for k in ("bytes", "sha256")}
            for number, index in indices.items()
        ],
    }
