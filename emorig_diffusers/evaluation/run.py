"""A whole evaluation: pictures are made where a pipeline is to make them, scored by all processes, and reported."""

from __future__ import annotations

import glob
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from ..diffusion.sampling import Sampling
from ..files.assets import AssetError
from ..files.atomic import write_file
from ..files.texts import parse_json
from ..photo.io import read_photo, save_photo
from ..pipelines.base import FacePipeline
from ..processes import start_processes
from ..version import __version__
from .pairs import NETWORK, Pair, Plan
from .scores import CROP, LONGEST, Judges, Scorer
from .store import Key, Record, Store, file_state, fingerprint

SCORES = "scores.json"
SHARDS = "scores"
EDITED = "edited"
SETTINGS = "settings.json"


@dataclass
class Editor:
    """A pipeline as a method.

    Attributes:
        model: What it was loaded from.
        intensity, steps, seed: As for the pipelines' `__call__`, the intensity that of the main pictures (others' are
            their pairs'); every picture starts from the same seed, so that none depends on those before it. Steps of 0
            are those of a pipeline without its network.
        point: Other arguments of a call, which count before these.
        emotions: All that are to be made of every photo, in one call by pipelines that have work to share.
    """

    model: str
    intensity: float = 1.0
    steps: int | None = None
    seed: int = 0
    pipe: FacePipeline | None = None
    point: Mapping[str, float] = field(default_factory=dict)
    emotions: Sequence[str] = ()
    _fitted: tuple[Path, list[Any]] | None = None  # the latest source and its face, for all its edits

    @property
    def settings(self) -> dict[str, Any]:
        """What pictures depend on, besides their sources."""
        settings = {"model": self.model, "intensity": self.intensity, "steps": self.steps, "seed": self.seed}
        return settings | ({"point": dict(self.point)} if self.point else {})

    def make(self, pair: Pair) -> dict[str, float]:
        """Make the pictures of a pair (PNG), of all strengths, that are not there; stage -> seconds."""
        took: dict[str, float] = {}
        main = ("edit", pair.intensity, pair.edited)
        for stage, intensity, file in [main, *(("edit at other strengths", *other) for other in pair.strengths)]:
            own = pair.own if intensity == pair.intensity else None
            if not file.is_file() or (own and "picture" in self._pipe.capabilities and not all(map(Path.is_file, own))):
                start = time.perf_counter()
                count = self._edit(pair, intensity, file)
                took[stage] = round(took.get(stage, 0.0) + (time.perf_counter() - start) / count, 4)
        return took

    @property
    def _pipe(self) -> FacePipeline:
        if self.pipe is None:
            raise ValueError("There is no pipeline to edit with: give one.")
        return self.pipe

    def _edit(self, pair: Pair, intensity: float, file: Path) -> int:
        """Make a picture, and with it those of other emotions where they share work; how many were made."""
        pipe, generator = self._pipe, torch.Generator().manual_seed(self.seed)
        files = {pair.emotion: file}
        if not pipe.noise_per_result:  # the photo's own noise, which is sought once
            folder = lambda emotion: file.parents[1] / file.parent.name.replace(pair.emotion, emotion, 1)
            places = {emotion: folder(emotion) / file.name for emotion in self.emotions}
            files |= {emotion: place for emotion, place in places.items() if not place.is_file()}
        if self._fitted is None or self._fitted[0] != pair.source:
            self._fitted = pair.source, pipe.encode(read_photo(pair.source).rgb)
        call: dict[str, Any] = {"intensity": intensity, "num_inference_steps": self.steps or None, **self.point}
        how = {"generator": generator, "faces": self._fitted[1]}
        result = pipe(pair.source, list(files) if len(files) > 1 else pair.emotion, **call, **how)
        for place, image in zip(files.values(), result.images):
            _save(image, place)
        if pair.own and intensity == pair.intensity and "picture" in pipe.capabilities:
            drawn, own = pair.own
            for emotion, faces in zip(files, result.faces):
                _save(faces[0].drawn, drawn.parents[1] / f"{emotion}{NETWORK}" / drawn.name)
            if not own.is_file():
                steps = call["num_inference_steps"] or pipe.config.default_num_inference_steps
                _save(pipe.reconstruct(pair.source, sampling=Sampling(int(steps), latents="photo")), own)
        return len(files)


def _save(picture: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_photo(picture, file, mark=False)  # what is measured is the method's own picture


@dataclass
class Evaluation:
    """What a run found.

    Attributes:
        judges: Role -> name, which every report tells.
        methods, emotions: Rows and columns.
        judged: The emotions that the judge knows.
        edited: Method -> folder or pipeline that its pictures come from.
        records: Figures of every pair, in the order of rows, columns and names; those of a failed pair are missing,
            and `failure` says why.
    """

    judges: dict[str, str]
    methods: list[str]
    emotions: list[str]
    judged: list[str]
    edited: dict[str, Any]
    records: list[Record]

    @property
    def failures(self) -> list[Record]:
        """Records without figures."""
        return [record for record in self.records if record["failure"]]


def score_all(
    plan: Plan,
    judges: Judges,
    out: Path,
    editors: Mapping[str, Editor] | None = None,
    state: PartialState | None = None,
) -> list[Record]:
    """Score this process's share of the sources, then gather all records (see `Evaluation.records`).

    What an earlier run, finished or killed, has scored on the same files is taken from its lines in `out`.

    Args:
        plan: The pairs.
        judges: Who scores.
        out: Folder of the run.
        editors: Method -> pipeline that makes its missing pictures.
        state: This process among the others.
    """
    state, editors = state or start_processes(), editors or {}
    check_settings(out, editors)
    if state.is_main_process:
        forget_old_edits(plan, out, editors)
    store = Store(out / SHARDS, state.process_index)
    done = store.read()
    state.wait_for_everyone()  # nobody writes while another still reads
    groups = plan.by_source()[state.process_index :: state.num_processes]
    scorer, names = Scorer(judges), judges.names
    total, quiet = sum(map(len, groups)), None if state.is_main_process else True
    with tqdm(total=total, desc="emorig", unit="picture", disable=quiet) as bar:
        for pair in (pair for group in groups for pair in group):
            _score_pair(pair, scorer, store, done, editors, names)
            bar.update()
    state.wait_for_everyone()
    return _gather(plan, store, names)


def _score_pair(
    pair: Pair, scorer: Scorer, store: Store, done: Mapping[tuple[Key, str], Record], editors: Mapping[str, Editor],
    names: Mapping[str, str],
) -> None:  # fmt: skip
    """Make and score one picture, unless that is done; what goes wrong with it becomes its `failure`."""
    record: Record = {"method": pair.method, "emotion": pair.emotion, "name": pair.name, "failure": None}
    took: dict[str, float] = {}
    try:
        if pair.method in editors:
            took = editors[pair.method].make(pair)
        known = done.get((pair.key, fingerprint(pair, names)))
        if known and not known["failure"]:
            return
        record |= scorer.score(pair)
        record["seconds"] = took | record["seconds"]
    except AssetError:
        raise
    except Exception as error:  # one odd picture must not cost the run of hours it is part of
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        record["failure"] = kind + " ".join(str(error).split())
        tqdm.write(f"emorig: {pair.method}, {pair.emotion}, '{pair.name}': {record['failure']}", file=sys.stderr)
    store.append(record | {"fingerprint": fingerprint(pair, names)})


def _gather(plan: Plan, store: Store, names: Mapping[str, str]) -> list[Record]:
    """The plan's records out of all shards, and its problems, in the order of the table."""
    done = store.read()
    records = [_located(pair, done.get((pair.key, fingerprint(pair, names)))) for pair in plan.pairs] + plan.problems
    place = lambda r: (plan.methods.index(r["method"]), plan.emotions.index(r["emotion"]), r["name"])
    return sorted(records, key=place)


def _located(pair: Pair, known: Record | None) -> Record:
    """A record with the pair's files, which an earlier run may have found under other paths."""
    lost = {"method": pair.method, "emotion": pair.emotion, "name": pair.name}
    record = known or lost | {"failure": "It changed while it was scored: run again."}
    reference = str(pair.reference) if pair.reference else None
    return record | {"source": str(pair.source), "edited": str(pair.edited), "reference": reference}


def check_settings(out: Path, editors: Mapping[str, Editor]) -> None:
    """Raise ValueError if an earlier run made pictures with other settings."""
    for label, editor in editors.items():
        if _made_with(out, label).get("settings", editor.settings) != editor.settings:
            folder = out / EDITED / label
            raise ValueError(f"'{folder}' holds pictures made with other settings: choose another folder with -o.")


def forget_old_edits(plan: Plan, out: Path, editors: Mapping[str, Editor]) -> None:
    """Delete pictures of an earlier run whose sources have changed since, and note what the sources are now."""
    for label, editor in editors.items():
        mine = [pair for pair in plan.pairs if pair.method == label]
        now = {pair.name: file_state(pair.source) for pair in mine}
        before = _made_with(out, label).get("sources", {})
        for pair in mine:
            if before.get(pair.name) != now[pair.name]:
                for file in (out / EDITED / label).glob(f"*/{glob.escape(pair.edited.name)}"):
                    file.unlink()
        (out / EDITED / label).mkdir(parents=True, exist_ok=True)
        write_json(out / EDITED / label / SETTINGS, {"settings": editor.settings, "sources": before | now})


def _made_with(out: Path, label: str) -> dict[str, Any]:
    file = out / EDITED / label / SETTINGS
    if not file.is_file():
        return {}
    try:
        made = parse_json(file.read_bytes())
        if isinstance(made["settings"], dict) and isinstance(made["sources"], dict):
            return made
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"'{file}' is damaged: delete the folder of those pictures, or choose another with -o.")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file at once."""
    write_file(path, json.dumps(content, indent=1).encode() + b"\n")


def write_scores(evaluation: Evaluation, table: Mapping[str, Any], out: Path, **others: Any) -> Path:
    """Write `scores.json`: who judged, the table's estimates, other figures, and every picture's."""
    path = out / SCORES
    estimates = {m: {e: {f: asdict(x) for f, x in cell.items()} for e, cell in row.items()} for m, row in table.items()}
    head = {"version": __version__, "judges": evaluation.judges, "edited": evaluation.edited}
    how = {"longest_side": LONGEST, "face_crop": CROP}
    write_json(path, head | how | others | {"table": estimates, "pictures": evaluation.records})
    return path
