"""What users bring - a folder, FFHQ, AffectNet, CelebA, an album, an LMDB - as one list of photos with labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from emorig_diffusers.data.attributes import ONE_HOT_NAMES, one_hot_label, read_attributes
from emorig_diffusers.data.dataset import DataError, Dataset, PhotoReader, Source, count_table, stem, unique_keys
from emorig_diffusers.data.lmdb_layouts import DiffAELMDB, DiffusionRigLMDB, lmdb_file, open_lmdb

from ..photo.files import READABLE, is_photo, walk
from . import affectnet

__all__ = ["LAYOUTS", "DataError", "Dataset", "Source", "count_table", "open_dataset"]

_FFHQ_FOLDER = "images1024x1024"
_FFHQ_FILE = re.compile(r"(?:[0-9]{5}/)?[0-9]{5}\.\w+")
_ATTRIBUTE_LISTS = ("list_attr*.txt", "Anno/list_attr*.txt", "*attribute-anno*.txt")
_CELEBA_FOLDERS = ("img_align_celeba", "Img/img_align_celeba", "CelebA-HQ-img", "images")


def open_dataset(path: Path, layout: str = "auto") -> Dataset:
    """List the photos of a data set, without opening one.

    Args:
        path: a folder; for "affectnet" also a CSV list, for the LMDB layouts also the file.
        layout: one of LAYOUTS, or "auto" to recognise it.
            "folder": the photos in a folder, not in its sub-folders; "album": the same, of one person.
            "ffhq": images numbered with five digits, flat or in numbered sub-folders, also in images1024x1024/.
            "affectnet": a tree of images with `<id>_exp.npy` …, or CSV lists (`data.affectnet`).
            "celeba": images with a ±1 attribute list; one with the names Label_0 … Label_7 gives emotions too.
            "diffae_lmdb", "diffusionrig_lmdb": see `data.lmdb_layouts`.

    Raises:
        DataError: nothing is there, no photo can be used, or the layout is mixed, unknown or damaged.
    """
    path = Path(path)
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError(f"Unknown layout {layout!r}: choose auto, {', '.join(LAYOUTS)}.")
    if not path.exists():
        raise DataError(f"There is no file or folder '{path}': check the path.")
    try:
        layout = _recognise(path) if layout == "auto" else layout
        dataset = _OPENERS[layout](path)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not dataset.sources:
        left_out = ", ".join(f"{count} {name}" for name, count in dataset.dropped.items())
        reason = f" (left out: {left_out})" if left_out else ""
        raise DataError(f"'{path}' has no usable photos for the layout {layout}{reason}: give other photos.")
    return dataset


def _folder(root: Path, layout: str = "folder") -> Dataset:
    files = sorted(filter(is_photo, walk(_directory(root), recursive=False)))
    return Dataset(layout, _unlabelled(files, map(stem, files)), PhotoReader(root))


def _album(root: Path) -> Dataset:
    return _folder(root, "album")


def _ffhq(root: Path) -> Dataset:
    base = _ffhq_base(_directory(root))
    photos = sorted(filter(is_photo, walk(base)))
    files = list(filter(_FFHQ_FILE.fullmatch, photos))
    dropped = {"not numbered": len(photos) - len(files)} if len(files) < len(photos) else {}
    numbers = (stem(file).rpartition("/")[2] for file in files)
    return Dataset("ffhq", _unlabelled(files, numbers), PhotoReader(base), dropped)


def _affectnet(path: Path) -> Dataset:
    if path.is_file():
        return affectnet.read_lists([path])
    lists = _affectnet_lists(path)
    return affectnet.read_lists(lists) if lists else affectnet.read_tree(path)


def _celeba(root: Path) -> Dataset:
    listed = _attribute_list(_directory(root))
    if listed is None:
        raise DataError(f"'{root}' has no attribute list such as list_attr_celeba.txt: put it beside the images.")
    names, rows = read_attributes(listed)
    base = next((root / name for name in _CELEBA_FOLDERS if (root / name).is_dir()), root)
    # The lists name JPEGs, also where the images are distributed as PNG.
    photos = {stem(file).rpartition("/")[2]: file for file in walk(base) if is_photo(file)}
    found = {photos[stem(name)]: row for name, row in rows.items() if stem(name) in photos}
    files = sorted(found)
    keys = unique_keys(files, (stem(file).rpartition("/")[2] for file in files))
    label = one_hot_label if names == ONE_HOT_NAMES else lambda row: None
    sources = [Source(k, f, label(found[f]), attributes=found[f]) for k, f in zip(keys, files)]
    dropped = {"missing image": len(rows) - len(found), "not listed": len(photos) - len(found)}
    return Dataset("celeba", sources, PhotoReader(base), {k: n for k, n in dropped.items() if n}, names)


def _lmdb(reader: DiffAELMDB | DiffusionRigLMDB, layout: str) -> Dataset:
    files = [reader.key(i) for i in range(len(reader))]
    return Dataset(layout, _unlabelled(files, (re.split("[-_]", file)[-1] for file in files)), reader.picture)


_OPENERS: dict[str, Callable[[Path], Dataset]] = {
    "folder": _folder,
    "album": _album,
    "ffhq": _ffhq,
    "affectnet": _affectnet,
    "celeba": _celeba,
    "diffae_lmdb": lambda path: _lmdb(DiffAELMDB(path), "diffae_lmdb"),
    "diffusionrig_lmdb": lambda path: _lmdb(DiffusionRigLMDB(path), "diffusionrig_lmdb"),
}
LAYOUTS = tuple(_OPENERS)
"""The layouts `open_dataset` reads."""


def _recognise(path: Path) -> str:
    if path.is_file():
        return _recognise_file(path)
    files = list(walk(path))
    photos = list(filter(is_photo, files))
    found = _annotated(path, files)
    if len(found) > 1 or (found and found[0].endswith("_lmdb") and photos):
        kinds = " and ".join(found) if len(found) > 1 else f"{found[0]} and photos"
        raise DataError(f"'{path}' mixes {kinds}: keep one of them in a folder of its own, or name the layout.")
    if found:
        return found[0]
    if not photos:
        what = f"holds no photos ({' '.join(READABLE)})" if files else "is empty"
        raise DataError(f"The folder '{path}' {what}: give a folder with photos.")
    return _recognise_photos(path, photos)


def _recognise_file(path: Path) -> str:
    if path.suffix.lower() == ".csv" and affectnet.is_list(path):
        return "affectnet"
    if path.suffix.lower() in (".mdb", ".lmdb"):
        return _lmdb_kind(path)
    raise DataError(f"'{path}' is a file of no known layout: give the folder it is in, an AffectNet list or an LMDB.")


def _annotated(root: Path, files: Iterable[str]) -> list[str]:
    """The layouts that are recognised by what lies beside the photos."""
    found = []
    if lmdb_file(root):
        found.append(_lmdb_kind(root))
    if _affectnet_lists(root) or any(file.endswith(affectnet.LABEL_ENDING) for file in files):
        found.append("affectnet")
    if _attribute_list(root):
        found.append("celeba")
    return found


def _recognise_photos(root: Path, photos: list[str]) -> str:
    if _ffhq_base(root) != root or all(map(_FFHQ_FILE.fullmatch, photos)):
        return "ffhq"
    below = sorted(file for file in photos if "/" in file)
    if not below:
        return "folder"
    example = root / below[0].rpartition("/")[0]
    if len(below) < len(photos):
        raise DataError(
            f"'{root}' mixes photos and sub-folders with photos such as '{example}': name the layout folder to "
            "leave the sub-folders out, or give one of them."
        )
    raise DataError(f"'{root}' has photos only in sub-folders of no known layout: give one of them, as '{example}'.")


def _lmdb_kind(path: Path) -> str:
    return "diffae_lmdb" if isinstance(open_lmdb(path), DiffAELMDB) else "diffusionrig_lmdb"


def _affectnet_lists(root: Path) -> list[Path]:
    return sorted(filter(affectnet.is_list, root.glob("*.csv")))


def _attribute_list(root: Path) -> Path | None:
    return next((file for pattern in _ATTRIBUTE_LISTS for file in sorted(root.glob(pattern))), None)


def _ffhq_base(root: Path) -> Path:
    return root / _FFHQ_FOLDER if (root / _FFHQ_FOLDER).is_dir() else root


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(f"'{path}' is a file: give the folder with the photos.")
    return path


def _unlabelled(files: list[str], names: Iterable[str]) -> list[Source]:
    return [Source(key, file) for key, file in zip(unique_keys(files, names), files)]
