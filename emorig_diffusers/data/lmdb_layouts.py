"""Pictures in LMDB files as Diffusion Autoencoders and DiffusionRig store them.

DiffAE (Preechakul et al. 2022, arXiv:2111.15640): `<resolution>-<5 digits>` (CelebA 7) holds a JPEG. DiffusionRig
(Ding et al. 2023, arXiv:2304.06711): `image_<6 digits>` holds a PNG, `normal_`, `albedo_` and `rendered_<6 digits>`
pickled float32 tensors. In both, `length` is the number of pictures as decimal text.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emorig_diffusers.data.dataset import DataError

from ..files.atomic import temporary_name
from ..files.pickles import load_tensor
from ..photo.io import PhotoError, open_picture, read_photo

BUFFERS = ("normal", "albedo", "rendered")
"""DiffusionRig's buffers: normals in [-1, 1], albedo in [0, 1], albedo times light (unclamped); background 0."""
BUFFER_SHAPE = (3, 256, 256)

_DIFFAE_KEY = re.compile(rb"(\d+)-(0+)")  # of the first picture
_BATCH = 64  # pictures written at once


class _Pictures:
    """What both layouts share; can be sent to another process, which opens the file anew.

    An LMDB file may be opened once a process only, so readers of one file share the environment.
    """

    _shared: weakref.WeakValueDictionary[tuple[int, int], Any] = weakref.WeakValueDictionary()
    key: Callable[[int], str]  # of the picture with that index; IndexError out of [0, len)

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._environment = self._open()
        length = self._value(b"length") or b""
        if not re.fullmatch(rb"[0-9]+", length):
            raise DataError(f"The LMDB '{path}' has no valid 'length': it is incomplete or in another layout.")
        self._length = int(length)
        if not self._length:
            raise DataError(f"The LMDB '{path}' holds no pictures: make it again.")

    def __len__(self) -> int:
        return self._length

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def picture(self, key: str) -> np.ndarray:
        """The picture under a key, uint8 RGB [H, W, 3]; PhotoError where it is missing or damaged."""
        try:
            data = self._value(key.encode())
        except DataError as error:
            raise PhotoError(str(error)) from error
        if data is None:
            raise PhotoError(f"The LMDB '{self.path}' has no entry '{key}': it is incomplete, copy it again.")
        try:
            with open_picture(io.BytesIO(data), "It") as image:
                return read_photo(image).rgb
        except PhotoError as error:
            raise PhotoError(f"The entry '{key}' of '{self.path}' is not a readable picture ({error}).") from error

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(f"There is no picture {index}: the LMDB '{self.path}' has {self._length}.")
        return index

    def _require_last(self) -> None:
        if self._value(self.key(self._length - 1).encode()) is None:
            raise DataError(f"The LMDB '{self.path}' holds fewer than its {self._length} pictures: copy it again.")

    def _value(self, key: bytes) -> bytes | None:
        with self._reading() as transaction:
            return transaction.get(key)

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """A transaction; DataError where a page that it comes to is damaged."""
        try:
            with self._environment.begin() as transaction:
                yield transaction
        except _lmdb().Error as error:
            raise DataError(f"The LMDB '{self.path}' is damaged ({error}): copy it again.") from error

    def _open(self) -> Any:
        lmdb, file = _lmdb(), lmdb_file(self.path)
        if file is None:
            raise DataError(f"'{self.path}' is no LMDB: give the folder that holds data.mdb, or the file itself.")
        status = file.stat()
        place = status.st_dev, status.st_ino
        environment = self._shared.get(place)
        if environment is None:
            try:
                environment = lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise DataError(f"'{self.path}' is not a readable LMDB ({error}): copy it again.") from error
            # Reading a page beyond the end of the file would kill the process.
            pages = environment.info()["last_pgno"] + 1
            if pages * environment.stat()["psize"] > status.st_size:
                raise DataError(f"The LMDB '{self.path}' is cut off: copy it again.")
            self._shared[place] = environment
        return environment


class DiffAELMDB(_Pictures):
    """DiffAE's layout; `len()`, `[i]` -> uint8 RGB [resolution, resolution, 3].

    Args:
        path: the folder with data.mdb, or the file.
        resolution: of the pictures to read where the file holds several; the largest by default.

    Raises:
        DataError: lmdb is not installed, or the file is missing, damaged or in another layout.
    """

    def __init__(self, path: Path, resolution: int | None = None) -> None:
        super().__init__(path)
        digits = dict(self._resolutions())
        if not digits or (resolution is not None and resolution not in digits):
            wanted = "<resolution>-<5 digits>" if resolution is None else f"{resolution}-<5 digits>"
            raise DataError(f"The LMDB '{path}' has no keys {wanted}: it is not DiffAE's layout at that size.")
        self.resolution = max(digits) if resolution is None else resolution
        self.digits = digits[self.resolution]
        self._require_last()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.resolution)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.picture(self.key(index))

    def key(self, index: int) -> str:
        """`<resolution>-<index>`; IndexError out of [0, len)."""
        return f"{self.resolution}-{self._checked(index):0{self.digits}d}"

    def _resolutions(self) -> Iterator[tuple[int, int]]:
        """Each resolution with the number of digits of its first picture's key."""
        with self._reading() as transaction:
            cursor = transaction.cursor()
            found = cursor.first()
            while found:
                key = cursor.key()
                if match := _DIFFAE_KEY.fullmatch(key):
                    yield int(match[1]), len(match[2])
                found = cursor.set_range(key.partition(b"-")[0] + b"-~")


class DiffusionRigLMDB(_Pictures):
    """DiffusionRig's layout; its pickles are read by a restricted unpickler.

    Args:
        path: the folder with data.mdb, or the file.

    Raises:
        DataError: lmdb is not installed, or the file is missing, damaged or in another layout.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self._value(self.key(0).encode()) is None:
            raise DataError(f"The LMDB '{path}' has no keys image_<6 digits>: it is not DiffusionRig's layout.")
        self._require_last()

    def key(self, index: int) -> str:
        """`image_<index>`; IndexError out of [0, len)."""
        return f"image_{self._checked(index):06d}"

    def image(self, index: int) -> np.ndarray:
        """The photo, uint8 RGB [256, 256, 3]; PhotoError where it is missing or damaged."""
        return self.picture(self.key(index))

    def buffers(self, index: int) -> dict[str, Tensor]:
        """Normals, albedo and shaded albedo of a photo, float32 [3, 256, 256] each, by the names in BUFFERS.

        Raises:
            DataError: one is missing or damaged, has another shape or type, or its pickle asks for anything else.
        """
        return {name: self._buffer(f"{name}_{self._checked(index):06d}") for name in BUFFERS}

    def _buffer(self, key: str) -> Tensor:
        data = self._value(key.encode())
        if data is None:
            raise DataError(f"The LMDB '{self.path}' has no entry '{key}': it is incomplete, copy it again.")
        try:
            tensor = load_tensor(data)
        except pickle.UnpicklingError as error:
            raise DataError(f"The entry '{key}' of '{self.path}' cannot be used: {error}.") from error
        if tuple(tensor.shape) != BUFFER_SHAPE or tensor.dtype != torch.float32:
            wanted, got = f"float32 {list(BUFFER_SHAPE)}", f"{tensor.dtype} {list(tensor.shape)}"
            raise DataError(f"The entry '{key}' of '{self.path}' must be {wanted}, got {got}: make it again.")
        return tensor.contiguous()


def lmdb_file(path: Path) -> Path | None:
    """The data file of an LMDB given as a folder or as a file; None where there is none."""
    path = Path(path)
    if path.is_dir():
        path = path / "data.mdb"
    return path if path.is_file() else None


def open_lmdb(path: Path) -> DiffAELMDB | DiffusionRigLMDB:
    """A reader for the layout an LMDB is in.

    Raises:
        DataError: as the readers, or the file is in neither layout.
    """
    shared = _Pictures(path)
    if shared._value(b"image_000000") is not None:
        return DiffusionRigLMDB(path)
    return DiffAELMDB(path)


def write_diffae_lmdb(path: Path, pictures: Iterable[np.ndarray], resolution: int, digits: int = 5) -> int:
    """Write pictures in DiffAE's layout, as a folder that appears only when it is complete.

    Args:
        path: must not exist yet.
        pictures: uint8 RGB [resolution, resolution, 3] each; stored as JPEG of quality 100.
        resolution: in pixels, part of every key.
        digits: of the index in a key; 5, for CelebA 7.

    Returns:
        How many were written.

    Raises:
        DataError: lmdb is not installed, `path` exists, a picture has another shape, there are no pictures, or the
            disk is full; nothing is left behind then.
    """
    path, lmdb = Path(path), _lmdb()
    if path.exists():
        raise DataError(f"'{path}' exists already: delete it or choose another name.")
    try:
        with temporary_name(path, folder=True) as scratch:
            count = _write(lmdb, scratch / path.name, pictures, resolution, digits)
            os.replace(scratch / path.name, path)
    except (lmdb.Error, OSError) as error:
        raise DataError(f"Cannot write the LMDB '{path}' ({error}): free space or choose another place.") from error
    return count


def _write(lmdb: ModuleType, folder: Path, pictures: Iterable[np.ndarray], resolution: int, digits: int) -> int:
    count, batch = 0, {}
    # Nothing is synchronised before the end: a folder that was interrupted is thrown away.
    with lmdb.open(str(folder), map_size=1 << 24, sync=False, lock=False) as environment:
        for picture in pictures:
            batch[f"{resolution}-{count:0{digits}d}"] = _jpeg(picture, resolution, count)
            count += 1
            if len(batch) == _BATCH:
                _put(lmdb, environment, batch)
                batch = {}
        if not count:
            raise DataError("There are no pictures to write to an LMDB: give at least one.")
        _put(lmdb, environment, batch | {"length": str(count).encode()})
        environment.sync(True)
    return count


def _put(lmdb: ModuleType, environment: Any, batch: dict[str, bytes]) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in batch.items():
                    transaction.put(key.encode(), value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _jpeg(picture: np.ndarray, resolution: int, index: int) -> bytes:
    if picture.shape != (resolution, resolution, 3) or picture.dtype != np.uint8:
        wanted, got = [resolution, resolution, 3], list(picture.shape)
        raise DataError(f"Picture {index} must be uint8 {wanted}, got {picture.dtype} {got}: resize it first.")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def _lmdb() -> ModuleType:
    try:
        import lmdb
    except ImportError as error:
        raise DataError("LMDB files need the lmdb package: pip install 'emorig-diffusers[train]'.") from error
    return lmdb
