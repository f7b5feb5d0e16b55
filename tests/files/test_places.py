"""Disks that are full or may not be written to, folders that vanish, clocks that are wrong: one sentence each, and
nothing half-written. The disks are real, small ones, mounted for a process of its own where that is allowed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.lmdb_layouts import write_diffae_lmdb
from emorig_diffusers.data.shards import write_manifest, write_shard
from emorig_diffusers.evaluation.pairs import Pair
from emorig_diffusers.evaluation.store import Store, fingerprint
from emorig_diffusers.evaluation.study.plan import Question
from emorig_diffusers.evaluation.study.store import Store as StudyStore
from emorig_diffusers.evaluation.study.store import StudyError
from emorig_diffusers.files.folders import FolderError, update_folder, write_folder
from emorig_diffusers.photo.io import PhotoError, save_photo
from emorig_diffusers.video.clips import ClipError, Frame
from emorig_diffusers.video.writing import write_clip

PICTURE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)  # 120 kB that cannot be packed
LARGE = np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)  # 2 MB
MIB = 2**20


def clip(path: Path) -> None:
    noise = lambda number: np.random.default_rng(number).integers(0, 255, PICTURE.shape, np.uint8)
    write_clip((Frame(noise(i), Fraction(i, 25)) for i in range(12)), path)


def shard(folder: Path) -> None:
    from media_cases import _sample

    samples = [_sample(number) for number in range(3)]
    for sample in samples:
        sample.residual = np.random.default_rng(0).normal(size=(100_000, 2))
    write_shard(folder, 0, samples, {}, {})


def study(folder: Path) -> None:
    questions = [Question("emotion", "x" * 1000, "sad", ("a",))] * 2000
    StudyStore.create(folder, {}).join("p", lambda number: questions)


def two_mib(folder: Path) -> None:
    (folder / "x").write_bytes(bytes(2 * MIB))


WRITERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "photo": (lambda folder: save_photo(Image.fromarray(LARGE), folder / "a.png"), PhotoError),
    "video": (lambda folder: clip(folder / "a.mp4"), ClipError),
    "animation": (lambda folder: clip(folder / "a.gif"), ClipError),
    "shard": (shard, DataError),
    "lmdb": (lambda folder: write_diffae_lmdb(folder / "a.lmdb", [PICTURE] * 20, 200), DataError),
    "folder": (lambda folder: write_folder(folder / "a", two_mib), FolderError),
    "update": (lambda folder: update_folder(folder / "a", two_mib), FolderError),
    "scores": (lambda folder: Store(folder / "scores").append({"text": "x" * 2 * MIB}), OSError),
    "study": (lambda folder: study(folder / "study"), StudyError),
}  # fmt: skip
"""What is written -> how, and the error where it cannot be. OSErrors are sentences of the command's own."""
LEFT = {"scores": {"scores", "scores/00000.jsonl"}, "study": {"study", "study/study.sqlite3"}, "update": {"a"}}
"""What may be there afterwards: a folder that the next run takes, a line or transaction that does not count."""


def report(folder: Path) -> None:
    """Print what became of every writer: the error's type, its words, and what is there afterwards."""
    found = {}
    for name, (write, _) in WRITERS.items():
        place = folder / name
        with_place = place if place.is_dir() else folder
        try:
            write(with_place)
            told = ["", ""]
        except Exception as error:
            told = [type(error).__name__, str(error)]
        there = sorted(str(path.relative_to(with_place)) for path in with_place.rglob("*")) if place.is_dir() else []
        found[name] = [*told, there]
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(found))


def report_disk(folder: Path) -> None:
    """`report` on a disk that is soon full, then on the same where nothing may be written."""
    report(folder)
    for name in WRITERS:
        (folder / name).mkdir()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    report(folder)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list]]:
    """What `report` prints on a disk of 300 kB, and when it is read-only."""
    folder, tests = tmp_path_factory.mktemp("disk"), Path(__file__).parents[1]
    paths = [str(tests.parent), *(str(path) for path in tests.iterdir() if path.is_dir()), str(tests)]
    places = " ".join(f"{folder}/{name}" for name in WRITERS)
    code = f"from pathlib import Path; import test_places; test_places.report_disk(Path({str(folder)!r}))"
    script = f"mount -t tmpfs -o size=300k tmpfs {folder} && mkdir {places} && {sys.executable} -c {code!r}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(zip(("full", "read-only"), map(json.loads, done.stdout.splitlines()[-2:]), strict=True))


@pytest.mark.parametrize(
    ("state", "reason"),
    [("full", "no space|full|make room|free space"), ("read-only", "read-only|readonly|unable")],
)
def test_disks(disks: dict[str, dict[str, list]], state: str, reason: str) -> None:
    """Whatever is written is refused by the package's own error, in one line that says why, and leaves nothing."""
    for name, (_, error) in WRITERS.items():
        kind, words, there = disks[state][name]
        kinds = {one.__name__ for one in (error, *error.__subclasses__(), OSError, PermissionError)}
        assert kind in kinds and words and "\n" not in words, (name, kind, words)
        assert any(word in words.lower() for word in reason.split("|")), (name, words)
        assert set(there) <= LEFT.get(name, set()), (name, there)


@pytest.mark.parametrize("name", WRITERS)
def test_folders_that_vanish(name: str, tmp_path: Path) -> None:
    """It is made again, or said to be missing."""
    folder = tmp_path / "folder"
    write, error = WRITERS[name]
    try:
        write(folder)
    except (error, FileNotFoundError) as refusal:
        assert str(folder) in str(refusal) and "\n" not in str(refusal)
        assert not folder.exists()
    else:
        assert folder.exists() and not list(tmp_path.glob("**/.emorig*"))


@pytest.mark.parametrize("now", [-1e9, 0.0, 1e8, 4e9], ids=["before 1970", "1970", "1973", "2096"])
def test_clocks(now: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is wrong, and set right in the middle: answers, scores and shards do not depend on it."""
    picture = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(picture)
    os.utime(picture, (now, now))
    store, pair = Store(tmp_path / "scores"), Pair("m", "sad", "a", picture, picture)
    record = {"method": "m", "emotion": "sad", "name": "a", "failure": None, "fingerprint": fingerprint(pair, {})}
    store.append(record)
    assert store.read()[pair.key, fingerprint(pair, {})] == record
    people = StudyStore.create(tmp_path / "study", {})
    ask = lambda number: [Question("emotion", f"{number}-{i}.png", "sad", ("a",)) for i in range(2)]
    for person, time in (("p", now), ("q", 1.7e9), ("r", now)):
        monkeypatch.setattr("time.time", lambda time=time: time)
        people.join(person, ask)
        position, question = people.next_question(person) or pytest.fail("no question")
        assert people.record(person, position, question.answers[0], 1.0)
    assert [(person.id, len(person.answers)) for person in people.participants()] == [("p", 1), ("q", 1), ("r", 1)]
    torch.manual_seed(0)
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards")
    assert write_manifest(tmp_path / "shards")["used"] == 3
