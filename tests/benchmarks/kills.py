"""Runs that are killed at random moments: nothing is lost or doubled, and the next run ends with the same files.

    python tests/benchmarks/kills.py [--count 500] [--seed 0] [--only prepare train evaluate study folder video export]

Every run is a fork of this process, which has imported everything, opened the open default and looked for the faces
once, so that a kill costs little. Forks get SIGKILL after a time drawn evenly from that of an undisturbed run. After
each kill every file that has its name must be whole; after one to four of them a run goes on to its end, and its files
must be those of a run that was left alone, with no other file beside. Edits are drawn by a stand-in (the face's box in
a colour), judges are stand-ins too: kills should fall on files, not on arithmetic.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), *(str(HERE.parent / name) for name in ("training", "video"))]

import numpy as np  # noqa: E402
import skimage.data  # noqa: E402
import torch  # noqa: E402
import toy_trainer  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from made_clips import panned  # noqa: E402
from PIL import Image  # noqa: E402
from recording_pipeline import RecordingPipeline  # noqa: E402

from emorig_diffusers import EmoRigPipeline  # noqa: E402
from emorig_diffusers.cli import main as cli  # noqa: E402
from emorig_diffusers.cli import models  # noqa: E402
from emorig_diffusers.data import preparation  # noqa: E402
from emorig_diffusers.evaluation import run as evaluation  # noqa: E402
from emorig_diffusers.evaluation import scores  # noqa: E402
from emorig_diffusers.evaluation.study.plan import Question  # noqa: E402
from emorig_diffusers.evaluation.study.store import FILE, is_study  # noqa: E402
from emorig_diffusers.evaluation.study.store import Store as StudyStore  # noqa: E402
from emorig_diffusers.face import encode  # noqa: E402
from emorig_diffusers.hub.repository import export_hub  # noqa: E402
from emorig_diffusers.photo import faces  # noqa: E402
from emorig_diffusers.photo.io import read_photo  # noqa: E402
from emorig_diffusers.training.checkpoints import checkpoints, damage  # noqa: E402
from emorig_diffusers.video.writing import write_clip  # noqa: E402

Files = dict[str, Any]
"""Name of a file -> what of it must be the same in every run."""
KILLS = 4  # in one folder at most, before a run goes on to its end
QUESTIONS = 60  # of the study
PATIENCE = 600  # seconds for a run that is not killed


class Lost(Exception):
    """A run broke the promise; one line."""


@dataclass(frozen=True)
class Work:
    """Something that can be killed.

    Attributes:
        run: Does it in a folder, or goes on with it; in a fork.
        files: What is there when it is done.
        partial: Files that grow while it runs; all others appear whole.
        check: Further promises about a folder in which a run was killed.
    """

    run: Callable[[Path], object]
    files: Callable[[Path], Files]
    partial: tuple[str, ...] = ()
    check: Callable[[Path], object] = lambda folder: None


def digests(folder: Path) -> Files:
    """sha256 of every file, hidden ones too; of a TIFF's pixels, between which libtiff leaves odd bytes as they are."""
    data = lambda file: read_photo(file).rgb.tobytes() if file.suffix == ".tif" else file.read_bytes()
    return {str(p.relative_to(folder)): hashlib.sha256(data(p)).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


# what is killed


def make_photos(folder: Path) -> Path:
    """Portraits in several formats, and a file that is no photo."""
    folder.mkdir()
    portrait = Image.fromarray(skimage.data.astronaut()[:260, 90:350])
    for number, suffix in enumerate(("png", "jpg", "webp", "tif", "png", "jpg")):
        portrait.resize((200 + 8 * number,) * 2).save(folder / f"{number}.{suffix}")
    (folder / "notes.jpg").write_text("no photo")
    return folder


def works(photos: Path, pipe: EmoRigPipeline) -> dict[str, Work]:
    """All that is killed."""
    drawing: Any = RecordingPipeline(**pipe.components)
    drawing.to = lambda device: drawing  # its components are not to be asked for
    preparation.EmoRigPipeline.from_pretrained = lambda *_, **__: pipe  # type: ignore[method-assign]
    models.load_pipeline = lambda model: drawing
    found = remembered(photos)
    for module in (faces, encode, preparation):
        module.find_faces = found  # type: ignore[attr-defined]
    scores.load_judges = lambda *_: _Judges()  # type: ignore[assignment]
    evaluation.Scorer = _Scorer  # type: ignore[misc, assignment]

    def command(*words: object) -> None:
        if cli.main([str(word) for word in words]) > 1:  # 1: some photos cannot be read
            raise RuntimeError("the command ended with an error")

    def prepared(folder: Path) -> None:
        preparation.prepare(preparation.Settings(photos, folder, shard_size=2), Accelerator(cpu=True))

    def trained(folder: Path) -> None:
        sys.argv = ["toy", f"--output_dir={folder}", "--resume_from_checkpoint=latest", *(
            f"--{name}={value}" for name, value in TRAINING.items())]  # fmt: skip
        toy_trainer.main()

    words = ("evaluate", "--source", photos, "--emotion", "happy", "--pipeline", "m=stand-in", "-o")
    frames = lambda: panned(skimage.data.astronaut(), (160, 120), 40)
    return {
        "prepare": Work(prepared, digests),
        "train": Work(trained, training_files, ("losses.csv",), lambda f: check_checkpoints(f)),
        "evaluate": Work(lambda f: command(*words, f), report_files, ("scores/00000.jsonl",)),
        "study": Work(answer, study_files, (FILE, f"{FILE}-wal", f"{FILE}-shm", "kept"), check_study),
        "folder": Work(lambda f: command("edit", photos, "--emotion", "sad", "--skip-existing", "-o", f), digests),
        "video": Work(lambda f: (write_clip(frames(), f / "a.mp4"), write_clip(frames(), f / "a.gif")), digests),
        "export": Work(lambda f: (f / "hub").exists() or export_hub(pipe, f / "hub"), digests),
    }  # fmt: skip


TRAINING = {
    "max_train_steps": 6, "checkpointing_steps": 1, "checkpoints_total_limit": 2, "logging_steps": 1,
    "train_batch_size": 4, "noise": 0.1, "learning_rate": 0.1, "ema_decay": 0.5, "validation_steps": 3,
}  # fmt: skip


def training_files(folder: Path) -> Files:
    """Checkpoints' weights, the log without the speed, and the names of all else."""
    last = [(one / name).read_bytes() for one in checkpoints(folder) for name in (
        "model.safetensors", "optimizer.bin", "average.safetensors")]  # fmt: skip
    with (folder / "losses.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]
    varied = ("losses.png", "progress.json", "contents.json", "losses.csv")  # they tell times
    others = {n: d for n, d in digests(folder).items() if not n.endswith(varied) and "random_states" not in n}
    return others | {"checkpoints": last, "losses": rows, "names": sorted(digests(folder))}


def check_checkpoints(folder: Path) -> None:
    """The newest checkpoint is whole."""
    if (found := checkpoints(folder)) and (reason := damage(found[-1])):
        raise Lost(f"{found[-1].name} is damaged: {reason}")


class _Judges:
    """Of no network."""

    names = {"emotion": "a", "second": "b", "identity": "c", "codes": "d", "lpips": "e"}
    emotion = SimpleNamespace(emotions=("happy", "sad"))


class _Scorer:
    def __init__(self, judges: object) -> None:
        pass

    def score(self, pair: Any) -> dict[str, Any]:
        """Figures of the pictures' mean grey."""
        grey = float(read_photo(pair.edited).rgb.mean()) / 255
        return {"accuracy": 1.0, "target_probability": grey, "csim": grey, "hes": grey, "psnr": 30.0, "top": "happy",
                "probabilities_after": {"happy": grey, "sad": 1 - grey}, "note": None,
                "box": [1.0, 1.0, 60.0, 60.0], "size": [200, 200], "seconds": {}}  # fmt: skip


def report_files(folder: Path) -> Files:
    """Pictures, figures without times and places, each once, and the names of all else."""
    lines = [json.loads(line) for line in (folder / "scores/00000.jsonl").read_bytes().splitlines()]
    doubled = [k for k, n in Counter((r["method"], r["emotion"], r["name"]) for r in lines if not r["failure"]).items()
               if n > 1]  # fmt: skip
    if doubled:
        raise Lost(f"scores are doubled: {doubled[:3]}")
    pictures = json.loads((folder / "scores.json").read_bytes())["pictures"]
    varied = ("seconds", "source", "edited", "reference", "fingerprint", "crc32")
    plain = [{k: v for k, v in record.items() if k not in varied} for record in pictures]
    edits = {n: d for n, d in digests(folder).items() if n.startswith("edited/") and n.endswith(".png")}
    return edits | {"records": plain, "names": sorted(digests(folder))}


def answer(folder: Path) -> None:
    """Answers a study's questions as fast as they come; every answer that is kept is noted in a file."""
    if not is_study(folder):
        StudyStore.create(folder, {"edited": {"a": "x"}})
    store = StudyStore(folder)
    store.join("p", lambda number: [Question("emotion", f"{i}.png", "sad", ("a",)) for i in range(QUESTIONS)])
    with open(folder / "kept", "ab", buffering=0) as kept:
        while (following := store.next_question("p")) is not None:
            position, question = following
            if store.record("p", position, question.answers[position % 9], 1.0):
                kept.write(b"%d\n" % position)


def study_files(folder: Path) -> Files:
    """Questions and answers in their order."""
    (person,) = StudyStore(folder).participants()
    names = sorted(n for n in digests(folder) if not n.startswith(FILE))
    return {"answers": [(a.question, a.answer) for a in person.answers], "asked": person.asked, "names": names}


def check_study(folder: Path) -> None:
    """Whatever was said to be kept is there, once, and the data base is whole."""
    if not (folder / "kept").exists():
        return
    kept = [int(line) for line in (folder / "kept").read_text().split()]
    with sqlite3.connect(folder / FILE) as db:
        there = Counter(position for (position,) in db.execute("SELECT position FROM answers"))
        state = db.execute("PRAGMA integrity_check").fetchone()[0]
    db.close()
    if len({*kept}) < len(kept) or not {*kept} <= there.keys() or max(there.values(), default=1) > 1 or state != "ok":
        raise Lost(f"answers are lost or doubled ({len(kept)} kept, {len(there)} there, {state})")


def remembered(photos: Path) -> Callable[[np.ndarray], list[Any]]:
    """`find_faces`, asked of every photo once, in a fork: MediaPipe's threads do not live on in forks."""
    reading, writing = os.pipe()
    if not os.fork():
        known = {}
        for file in sorted(photos.iterdir()):
            if file.name != "notes.jpg":
                rgb = read_photo(file).rgb
                found = faces.find_faces(rgb)
                known[hashlib.sha256(rgb.tobytes()).hexdigest()] = [vars(face) for face in found]
        with os.fdopen(writing, "w") as pipe:
            json.dump(known, pipe, default=np.ndarray.tolist)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        known = {digest: [_face(one) for one in some] for digest, some in json.load(pipe).items()}
    os.wait()
    return lambda rgb: list(known[hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()])


def _face(told: dict[str, Any]) -> faces.Face:
    """A face from its fields in JSON."""
    arrays = {name: np.array(told[name], np.float32) for name in ("landmarks", "blendshapes")}
    return faces.Face(**told | arrays | {"box": tuple(told["box"])})


# killing


def start(run: Callable[[Path], object], folder: Path, log: Path) -> int:
    """A fork that runs; what it says goes to `log`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("a") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        torch.manual_seed(0)
        run(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(child: int, log: Path) -> None:
    """Wait for a run that is left alone; Lost where it fails."""
    end = time.monotonic() + PATIENCE
    while not (status := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Lost(f"the next run does not end: {log}")
        time.sleep(0.01)
    if code := os.waitstatus_to_exitcode(status[1]):
        raise Lost(f"the next run fails ({code}): {log.read_text()[-1500:]}")


def kill(child: int, seconds: float) -> bool:
    """SIGKILL a run after so many seconds; False where it has ended before."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(min(left, 0.01))
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_all(name: str, work: Work, count: int, rng: random.Random, top: Path) -> tuple[int, int, float]:
    """Kill a work so often; kills, runs that were compared, and seconds of an undisturbed run."""
    log, alone = top / f"{name}.log", top / name / "alone"
    alone.mkdir(parents=True)
    begun = time.monotonic()
    finish(start(work.run, alone, log), log)
    seconds, wanted = time.monotonic() - begun, work.files(alone)
    whole = digests(alone)
    kills = runs = 0
    while kills < count:
        folder = top / name / str(runs)
        folder.mkdir()
        for _ in range(rng.randint(1, min(KILLS, count - kills))):
            child = start(work.run, folder, log)
            kills += kill(child, rng.uniform(0, seconds))
            check(work, folder, whole, wanted)
        finish(start(work.run, folder, log), log)
        compare(work.files(folder), wanted)
        runs += 1
        shutil.rmtree(folder)
    return kills, runs, seconds


def check(work: Work, folder: Path, whole: Files, wanted: Files) -> None:
    """Lost where a file that has its name is not what it is in the end, if it is the same in all runs."""
    for name, digest in digests(folder).items():
        hidden = any(part.startswith(".") for part in Path(name).parts)
        same_always = wanted.get(name) == whole.get(name) and name in whole
        if not hidden and name not in work.partial and same_always and digest != whole[name]:
            raise Lost(f"{name} is not whole after a kill")
    work.check(folder)


def compare(files: Files, wanted: Files) -> None:
    """Lost where files differ from those of a run that was left alone."""
    different = sorted(name for name in files.keys() | wanted.keys() if files.get(name) != wanted.get(name))
    if different:
        name = different[0]
        raise Lost(f"{', '.join(different[:5])} differ: {str(files.get(name))[:600]} for {str(wanted.get(name))[:600]}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="some of the works")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="emorig-kills-") as folder:
        top = Path(folder)
        pipe = EmoRigPipeline.from_pretrained("emorig-open")
        chosen = {n: w for n, w in works(make_photos(top / "photos"), pipe).items() if not args.only or n in args.only}
        total = bad = 0
        for number, (name, work) in enumerate(chosen.items()):
            share = args.count // len(chosen) + (number < args.count % len(chosen))
            try:
                kills, runs, seconds = kill_all(name, work, share, random.Random(f"{args.seed} {name}"), top)
            except Lost as error:
                bad += 1
                print(f"{name}: {error}", flush=True)
                continue
            total += kills
            print(f"{name}: {kills} kills, {runs} runs went on to the same end ({seconds:.1f} s alone)", flush=True)
        print(f"{total} kills, {bad} of {len(chosen)} works lost something")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
