"""Clips, shards, LMDBs, lists, folders of reports and studies through what reads them, and their mutants."""

from __future__ import annotations

import io
import json
import os
import pickle
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import lmdb
import numpy as np
import skimage.data
import torch
from checkpoint_cases import Kind, folder_suite, read_files, write
from made_clips import make_video, panned
from PIL import Image
from worker import Suite

from emorig_diffusers import FaceCodes
from emorig_diffusers.data.attributes import read_attributes
from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.lmdb_layouts import BUFFERS, DiffusionRigLMDB, open_lmdb, write_diffae_lmdb
from emorig_diffusers.data.shards import (
    CodeShards,
    Sample,
    _add,
    _pack,
    finished_shards,
    write_manifest,
    write_shard,
)
from emorig_diffusers.data.sources import open_dataset
from emorig_diffusers.evaluation.groups import read_csv
from emorig_diffusers.evaluation.pairs import Pair, Plan, match
from emorig_diffusers.evaluation.report import write_report
from emorig_diffusers.evaluation.run import (
    EDITED,
    SHARDS,
    Editor,
    Evaluation,
    _gather,
    check_settings,
    forget_old_edits,
)
from emorig_diffusers.evaluation.store import Store, fingerprint
from emorig_diffusers.evaluation.study.plan import Question
from emorig_diffusers.evaluation.study.report import summarise, write_markdown
from emorig_diffusers.evaluation.study.store import FILE, StudyError, is_study
from emorig_diffusers.evaluation.study.store import Store as StudyStore
from emorig_diffusers.photo.io import PhotoError
from emorig_diffusers.video.clips import ClipError
from emorig_diffusers.video.reading import open_clip

_FRAMES = 12  # of a clip
_TIME = 1.6e9  # seconds since 1970 at which pictures are said to be written
JUDGES = {"emotion": "a", "second": "b", "identity": "c", "codes": "d", "lpips": "e"}


def suite(seed: int) -> Suite:
    """Folders of every kind, one or two of their files changed."""
    with tempfile.TemporaryDirectory() as folder:
        return folder_suite("media", seed, dict(make_kinds(Path(folder))))


def make_kinds(scratch: Path) -> Iterator[tuple[str, Kind]]:
    """Name -> files and reader."""
    yield from _clips(scratch)
    yield from _shards(scratch)
    yield from _lmdbs(scratch)
    yield from _lists()
    yield from _reports(scratch)


def _clips(scratch: Path) -> Iterator[tuple[str, Kind]]:
    photo = skimage.data.astronaut()
    frames = lambda: panned(photo, (96, 64), _FRAMES)
    made = {"mp4": {"sound": "aac"}, "mov": {"rotation": 90}, "mkv": {}, "webm": {"live": True}, "avi": {}}
    for suffix, options in made.items():
        # browsers' recordings, which tell no length
        name = "live.mkv" if suffix == "webm" else f"clip.{suffix}"
        data = make_video(scratch / name, frames(), **options).read_bytes()
        yield f"clip-{suffix}", Kind({name: data}, lambda f, n=name: _watch(f / n), (ClipError,), weight=5)
    pictures = [Image.fromarray(frame.rgb) for frame in frames()]
    for suffix in ("gif", "webp", "png"):
        out = io.BytesIO()
        pictures[0].save(out, suffix, save_all=True, append_images=pictures[1:], duration=40)
        yield f"clip-{suffix}", Kind({f"clip.{suffix}": out.getvalue()}, lambda f, s=suffix: _watch(f / f"clip.{s}"),
                                     (ClipError,), weight=4)  # fmt: skip


def _watch(file: Path) -> None:
    clip = open_clip(file)
    for _ in islice(clip.frames(), 2 * _FRAMES):
        pass
    list(clip.sample(3))


def _sample(number: int) -> Sample:
    random = torch.Generator().manual_seed(number)
    values = lambda *shape: torch.randn(1, *shape, generator=random)
    codes = FaceCodes(values(5), values(4), values(6), values(3), values(9, 3), values(0))
    picture = np.full((32, 32, 3), 40 + number, np.uint8)
    info = {"file": f"{number}.png", "label": "happy", "attributes": [1, -1], "error": number / 4}
    return Sample(f"photo-{number}", picture, codes, np.eye(3, dtype=np.float32), np.zeros((7, 2), np.float32), info)


def _shards(scratch: Path) -> Iterator[tuple[str, Kind]]:
    folder, settings = scratch / "shards", {"resolution": 32, "crop": "aligned", "layout": "folder"}
    folder.mkdir()
    for number in range(2):
        write_shard(folder, number, [_sample(2 * number), _sample(2 * number + 1)], {"no face": ["x"]}, settings)
    write_manifest(folder)

    def read(folder: Path) -> None:
        shards = CodeShards(folder)
        for i in range(len(shards)):
            shards.info(i), shards[i]
        finished_shards(folder, settings)
        write_manifest(folder)
        (folder / "manifest.json").unlink()

    yield "shards", Kind({n: d for n, d in read_files(folder).items() if n != "manifest.json"}, read, (DataError,), 12)

    def read_members(folder: Path) -> None:
        """Members behind an index that knows where they lie."""
        tar, entry = io.BytesIO(), {"key": "x", "label": None}
        with tarfile.open(fileobj=tar, mode="w") as archive:
            entry |= {kind: _add(archive, f"x.{kind}", (folder / kind).read_bytes()) for kind in members}
        index = {"settings": settings, "settings_sha256": "", "sha256": "", "bytes": len(tar.getvalue()),
                 "samples": [entry], "failures": {}}  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            write({"00000.tar": tar.getvalue(), "00000.json": json.dumps(index).encode()}, Path(place))
            shards = CodeShards(place)
            shards[0], shards.info(0)

    members = _pack(_sample(0))
    yield "shard-members", Kind(members, read_members, (DataError,), 8)


def _lmdbs(scratch: Path) -> Iterator[tuple[str, Kind]]:
    smooth = lambda i: np.full((32, 32, 3), 3 * i, np.uint8)
    write_diffae_lmdb(scratch / "diffae.lmdb", (smooth(i) for i in range(80)), 32)
    with lmdb.open(str(scratch / "rig.lmdb"), map_size=1 << 24, lock=False) as store, store.begin(write=True) as out:
        out.put(b"length", b"1")
        picture = io.BytesIO()
        Image.fromarray(smooth(1)).save(picture, "PNG")
        out.put(b"image_000000", picture.getvalue())
        for name in BUFFERS:
            out.put(f"{name}_000000".encode(), pickle.dumps(torch.zeros(3, 256, 256)))

    def read(folder: Path) -> None:
        data = open_dataset(folder, "diffae_lmdb" if open_lmdb(folder).__class__ is not DiffusionRigLMDB
                            else "diffusionrig_lmdb")  # fmt: skip
        for source in data.sources[:90]:
            data.read(source)
        reader = open_lmdb(folder)
        if isinstance(reader, DiffusionRigLMDB):
            reader.buffers(0)

    def read_values(folder: Path) -> None:
        """Values in a file that is whole."""
        with tempfile.TemporaryDirectory() as place:
            with lmdb.open(place, map_size=1 << 24, lock=False) as store, store.begin(write=True) as out:
                for file in folder.iterdir():
                    out.put(file.name.encode(), file.read_bytes())
            read(Path(place))

    values = {"length": b"1", "image_000000": picture.getvalue()}
    values |= {f"{name}_000000": pickle.dumps(torch.zeros(3, 256, 256)) for name in BUFFERS}
    yield "lmdb-values", Kind(values, read_values, (DataError, PhotoError), 8)
    for name in ("diffae", "rig"):
        files = read_files(scratch / f"{name}.lmdb")
        yield f"lmdb-{name}", Kind({"data.mdb": files["data.mdb"]}, read, (DataError, PhotoError), 10)


def _lists() -> Iterator[tuple[str, Kind]]:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "JPEG")
    names = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    rows = "".join(f"1/{i}.jpg,0,0,9,9,1;2,{i % 8},0.1,-0.2\n" for i in range(4))
    photos = {f"1/{i}.jpg": picture.getvalue() for i in range(4)}
    opened = lambda layout: lambda folder: open_dataset(folder, layout)
    lists = {"training.csv": (names + rows).encode()}
    yield "affectnet-list", Kind(lists | photos, opened("affectnet"), (DataError,), 2)
    number = lambda value: (out := io.BytesIO(), np.save(out, value))[0].getvalue()
    said = {"exp": "3", "val": 0.2, "aro": "0.1"}
    tree = {f"annotations/{i}_{kind}.npy": number(value) for i in range(2) for kind, value in said.items()}
    tree |= {f"images/{i}.jpg": picture.getvalue() for i in range(2)}
    yield "affectnet-tree", Kind(tree, opened("auto"), (DataError,), 2)
    listed = b"3\nSmiling Young\n" + b"".join(b"%d.jpg 1 -1\n" % i for i in range(3))
    yield "celeba", Kind({"list_attr_celeba.txt": listed} | {f"{i}.jpg": picture.getvalue() for i in range(3)},
                         opened("auto"), (DataError,))  # fmt: skip
    yield "attributes", Kind({"x.txt": listed}, lambda f: read_attributes(f / "x.txt"), (DataError,))
    table = "photo,age,sex\n" + "".join(f"{i}.jpg,{'young' if i % 2 else 'old'},{'fm'[i % 2]}\n" for i in range(4))
    grouped = lambda folder: read_csv(folder / "by.csv", map(str, range(4)))
    yield "groups", Kind({"by.csv": table.encode()}, grouped, (ValueError,), 2)


def _reports(scratch: Path) -> Iterator[tuple[str, Kind]]:
    """A finished evaluation, of which the report is written again, and a study."""
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    top, settings = scratch / "report", {"settings": _Editor.settings, "sources": {}}
    write({f"source/{n}.png": picture.getvalue() for n in "ab"}, top)
    write({f"out/{EDITED}/m/happy/{n}.png": picture.getvalue() for n in "ab"}, top)
    write({f"out/{EDITED}/m/settings.json": json.dumps(settings).encode()}, top)

    def planned(folder: Path) -> Plan:
        for file in folder.rglob("*.png"):
            os.utime(file, (_TIME, _TIME))  # scores are told to be of a picture by its size and time
        return match(folder / "source", {}, {"m": folder / "out" / EDITED / "m"}, ["happy"])

    store = Store(top / "out" / SHARDS)
    for pair in planned(top).pairs:
        store.append(_record(pair) | {"fingerprint": fingerprint(pair, JUDGES)})

    def report(folder: Path) -> None:
        plan, editors = planned(folder), cast("dict[str, Editor]", {"m": _Editor()})
        check_settings(folder / "out", editors)
        forget_old_edits(plan, folder / "out", editors)
        store = Store(folder / "out" / SHARDS)
        store.read()
        records = _gather(plan, store, JUDGES)
        evaluation = Evaluation(JUDGES, plan.methods, plan.emotions, ["happy", "sad"], {"m": {}}, records)
        before = set(folder.rglob("*"))
        write_report(evaluation, folder / "out")
        for path in set(folder.rglob("*")) - before:
            path.unlink()

    yield "report", Kind(read_files(top), report, (ValueError,), 8)

    folder = scratch / "study"
    questions = lambda number: [Question("real", f"{i}.png", "happy", ("a", "b"), "left") for i in range(3)]
    study = StudyStore.create(folder, {"edited": {"a": "x", "b": "y"}, "design": {}, "photos": {}, "left_out": []})
    for person in ("p", "q"):
        study.join(person, questions)
        study.record(person, 0, "left", 1.0)
    with sqlite3.connect(folder / FILE) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()

    def read_study(folder: Path) -> None:
        if is_study(folder):
            store = StudyStore(folder)
            write_markdown(summarise(store))
            store.next_question("p")
            store.record("p", 1, "left", 1.0)
        for file in folder.glob("*-*"):
            file.unlink()  # the journal, which a later opening plays back

    yield "study", Kind({FILE: (folder / FILE).read_bytes()}, read_study, (StudyError,), 6)


class _Editor:
    settings = {"model": "m"}


def _record(pair: Pair) -> dict[str, Any]:
    figures = {"accuracy": 1.0, "target_probability": 0.9, "csim": 0.5, "psnr": 30.0, "ssim": 0.9, "lpips": 0.1}
    head = {"method": pair.method, "emotion": pair.emotion, "name": pair.name, "failure": None, "top": "happy"}
    return head | figures | {"hes": 0.6, "note": None, "box": [1, 1, 30, 30], "seconds": {"score": 1.0}}
