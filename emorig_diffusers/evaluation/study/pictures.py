"""The pictures of a study: which ones all methods have, and how they reach the browser.

A picture travels inside the page, as a lossless WebP without file name and metadata: nothing that a participant can
see or save tells which method made it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...photo.files import READABLE, is_photo
from ...photo.io import PhotoError, read_photo, to_8_bits
from ...photo.profiles import to_srgb
from .plan import EMOTIONS
from .store import StudyError

MAX_SIDE = 720  # of a picture on the page, px
MAX_STRETCH = 1.02  # between width / height of two methods' edits of one photo
TILES = 8  # a side, of a ruined picture


@dataclass(frozen=True)
class Folders:
    """Where the pictures are.

    Attributes:
        edited: Method -> folder of its edits, with a subfolder for each emotion.
        source: Folder of the originals, under the same names, or None.
        emotion: What all edits show, if `edited` has no subfolders.
    """

    edited: Mapping[str, Path]
    source: Path | None = None
    emotion: str | None = None

    def edit(self, method: str, emotion: str, photo: str) -> Path:
        """Path of a method's edit of a photo."""
        folder = self.edited[method]
        return folder / photo if self.emotion else folder / emotion / photo

    def match(self) -> tuple[dict[str, list[str]], list[str]]:
        """Emotion -> names of the photos that every method has, and a line for every one left out.

        Raises:
            StudyError: A folder is missing or has no pictures, or nothing is left.
        """
        found = {method: self._names(method) for method in self.edited}
        originals = None if self.source is None else set(_list(self.source))
        photos, left_out = {}, []
        for emotion in (emotion for emotion in EMOTIONS if any(emotion in names for names in found.values())):
            names = {method: set(per_emotion.get(emotion, ())) for method, per_emotion in found.items()}
            edited = sorted(set().union(*names.values()))
            bad = _lacking(edited, names if originals is None else names | {"the source": originals})
            bad |= self._unfit(emotion, [photo for photo in edited if photo not in bad])
            left_out += [f"{emotion}/{photo}: {why}" for photo, why in sorted(bad.items())]
            if len(bad) < len(edited):
                photos[emotion] = [photo for photo in edited if photo not in bad]
        if not photos:
            raise StudyError(f"No picture can be used: {left_out[0]} (the first of {len(left_out)}).")
        return photos, left_out

    def check(self, photos: Mapping[str, Sequence[str]]) -> None:
        """Raise StudyError if a picture of a study is not there any more."""
        for emotion, names in photos.items():
            for path in (path for photo in names for paths in self._shown(emotion, photo) for path in paths):
                if not path.is_file():
                    raise StudyError(f"The study needs '{path}', which is not there: put it back or begin another.")

    def _shown(self, emotion: str, photo: str) -> tuple[list[Path], list[Path]]:
        """All methods' edits of a photo, and its original where there is one."""
        edits = [self.edit(method, emotion, photo) for method in self.edited]
        return edits, [] if self.source is None else [self.source / photo]

    def _names(self, method: str) -> dict[str, list[str]]:
        folder = self.edited[method]
        if self.emotion:
            names = {self.emotion: _list(folder)}
        else:
            names = {emotion: _list(folder / emotion) for emotion in EMOTIONS if (folder / emotion).is_dir()}
        if not any(names.values()) and _list(folder) and not self.emotion:
            advice = "give --emotion NAME if all its pictures show one"
            raise StudyError(f"'{folder}' has no subfolder named {', '.join(EMOTIONS)}: {advice}.")
        if not any(names.values()):
            raise StudyError(f"The folder '{folder}' holds no pictures ({', '.join(READABLE)}).")
        return names

    def _unfit(self, emotion: str, photos: Sequence[str]) -> dict[str, str]:
        with ThreadPoolExecutor() as pool:
            reasons = pool.map(lambda photo: _compare(*self._shown(emotion, photo)), photos)
            reasons = tqdm(reasons, emotion, len(photos), unit="photo", disable=None, leave=False)
            return {photo: reason for photo, reason in zip(photos, reasons) if reason}


def _lacking(photos: Sequence[str], names: Mapping[str, set[str]]) -> dict[str, str]:
    """Photo -> a word on who does not have it, for those that somebody does not."""
    who = {photo: [name for name in names if photo not in names[name]] for photo in photos}
    return {photo: f"not in {' nor '.join(those)}" for photo, those in who.items() if those}


def picture_address(path: Path) -> str:
    """A picture as `data:` address, at most MAX_SIDE pixels a side.

    Raises:
        StudyError: It is not there any more, or damaged.
    """
    return _address(path, None)


def ruined_address(path: Path, seed: int) -> str:
    """The same with its parts exchanged and noise over it, for attention checks."""
    return _address(path, seed)


@lru_cache(maxsize=128)
def _address(path: Path, seed: int | None) -> str:
    image = _read(path)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    if seed is not None:
        image = _ruin(image, seed)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=20, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read(path: Path) -> Image.Image:
    """An upright picture in sRGB's colours, on white where it is see-through."""
    try:
        picture = to_srgb(to_8_bits(read_photo(path).original))
    except PhotoError as error:
        raise StudyError(f"The picture '{path.name}' cannot be read.") from error
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture.convert("RGBA"))
    return page.convert("RGB")


@cache  # an original is asked for with every emotion
def _shape(path: Path) -> float | None:
    """Width / height of a picture, None if it cannot be read."""
    try:
        width, height = _read(path).size
    except StudyError:
        return None
    return width / height


def _compare(edits: Sequence[Path], others: Sequence[Path]) -> str | None:
    """Why pictures cannot be shown together; None if they can."""
    read = [_shape(path) for path in (*edits, *others)]
    shapes = [shape for shape in read if shape is not None]
    if len(shapes) < len(read):
        return "a file is damaged or no picture"
    shapes = shapes[: len(edits)]
    return "the methods' pictures differ in shape" if max(shapes) > MAX_STRETCH * min(shapes) else None


def _ruin(image: Image.Image, seed: int) -> Image.Image:
    width, height = (max(side // TILES, 1) for side in image.size)
    pixels = np.asarray(image.resize((width * TILES, height * TILES)), np.float32)
    tiles = pixels.reshape(TILES, height, TILES, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    order = list(range(len(tiles)))
    Random(seed).shuffle(order)
    mixed = tiles[order].reshape(TILES, TILES, height, width, 3).swapaxes(1, 2).reshape(pixels.shape)
    noise = np.random.default_rng(seed).normal(0, 40, pixels.shape)
    return Image.fromarray(np.clip(mixed + noise, 0, 255).astype(np.uint8)).resize(image.size)


def _list(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise StudyError(f"There is no folder '{folder}'.")
    files = (path for path in folder.iterdir() if is_photo(path.name) and not path.name.startswith("."))
    return sorted(path.name for path in files if path.is_file())
