"""What is compared with what: edited pictures and their sources, matched by file name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from ..face.emotions import EMOTIONS
from ..photo.files import READABLE, is_photo

UNEDITED = "unedited"
"""Row of the sources themselves: what a method has to beat."""
NETWORK, RECONSTRUCTION = "+network", "reconstruction"
"""Beside pictures that a pipeline makes: ending of the folder of what its network drew itself, and the folder of what
it makes of the faces as they are."""
REAL = "ground truth"
"""Row of real photos of the same people with the emotion."""


@dataclass(frozen=True)
class Pair:
    """A picture to score.

    Attributes:
        method: Row of the table; UNEDITED and REAL are no methods, their `edited` is the source or the reference.
        emotion: What the picture is to show, one of EMOTIONS.
        name: File name without suffix, which source, edited picture and reference share.
        source, edited: The photo, and what was made of it (a pipeline may still have to).
        reference: A real photo of the same person with the emotion.
        intensity: Strength of `edited`.
        strengths: Other strengths of the same edit, and their pictures.
        own: What the pipeline's network drew itself, and what it makes of the face as it is, where these are to be
            compared too; not there for pipelines whose network draws no picture of the face.
    """

    method: str
    emotion: str
    name: str
    source: Path
    edited: Path
    reference: Path | None = None
    intensity: float = 1.0
    strengths: tuple[tuple[float, Path], ...] = ()
    own: tuple[Path, Path] | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others of a run."""
        return self.method, self.emotion, self.name


@dataclass
class Plan:
    """All pairs of a run, source by source, and what could not be matched.

    Attributes:
        methods: Rows of the table, in order.
        emotions: Columns, in AffectNet's order.
        pairs: What to score.
        problems: Records (`method`, `emotion`, `name`, `failure`) of pictures without a partner.
    """

    methods: list[str]
    emotions: list[str]
    pairs: list[Pair]
    problems: list[dict[str, str]] = field(default_factory=list)

    def by_source(self) -> list[list[Pair]]:
        """The pairs of each source, in the order of names, so that a source is read once."""
        groups: dict[str, list[Pair]] = {}
        for pair in self.pairs:
            groups.setdefault(pair.name, []).append(pair)
        return [groups[name] for name in sorted(groups)]


def match(
    source: Path,
    edited: Mapping[str, Path],
    made: Mapping[str, Path] | None = None,
    emotions: Sequence[str] | None = None,
    reference: Path | None = None,
    intensities: Sequence[float] = (1.0,),
    own: bool = False,
) -> Plan:
    """Find the pairs of a run.

    Args:
        source: Folder of photos.
        edited: Label -> folder with pictures of the same names (suffixes may differ): one subfolder per emotion, or
            flat where `emotions` is a single one. Their strength counts as 1; folders beside, named by
            `strength_folder`, hold the same at other strengths.
        made: Label -> folder that a pipeline is to fill, one subfolder per emotion: all sources, PNG.
        emotions: The only ones that count; `None` for all that there are.
        reference: Folder of real photos, laid out as the edited ones.
        intensities: Strengths of what `made` is filled with; the first is the one that all figures but CLS are of.
        own: Whether `made` is to hold the networks' own pictures too (`Pair.own`).

    Raises:
        ValueError: A folder is missing or empty, no name matches, it is unclear which emotion pictures show, or a
            strength is no number or given twice.
    """
    photos, made = list_pictures(source), made or {}
    if not photos:
        raise ValueError(f"The folder '{source}' holds no photos ({', '.join(READABLE)}).")
    _check_labels([*edited, *made])
    found = {label: _by_emotion(folder, emotions) for label, folder in edited.items()}
    asked = {e for folders in found.values() for e in folders} | set(emotions or (EMOTIONS if made else ()))
    columns = [e for e in EMOTIONS if e in asked]
    real = _real_photos(reference, columns) if reference else {}
    plan = Plan([UNEDITED, *([REAL] if real else []), *edited, *made], columns, [])
    plan.pairs += _base_pairs(photos, columns, real)
    for label, folders in found.items():
        _match_method(plan, label, edited[label], folders, photos, real)
    for label, folder in made.items():
        for e, (name, path) in product(columns, photos.items()):
            strengths = tuple((i, folder / strength_folder(e, i) / f"{name}.png") for i in intensities[1:])
            edited_file, real_file = folder / e / f"{name}.png", real.get(e, {}).get(name)
            drawn = (folder / f"{e}{NETWORK}" / f"{name}.png", folder / RECONSTRUCTION / f"{name}.png") if own else None
            plan.pairs.append(Pair(label, e, name, path, edited_file, real_file, intensities[0], strengths, drawn))
    return plan


def strength_folder(emotion: str, intensity: float) -> str:
    """Name of the folder of an emotion's pictures at another strength than the main one, e.g. "happy@0.5"."""
    return f"{emotion}@{intensity:g}"


def list_pictures(folder: Path) -> dict[str, Path]:
    """File name without suffix -> picture, in the order of names.

    Raises:
        ValueError: There is no such folder, or two of its pictures differ in the suffix alone.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'.")
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_photo(path.name) or path.name.startswith(".") or path.is_dir():
            continue
        if path.stem in pictures:
            first = pictures[path.stem].name
            raise ValueError(f"'{folder}' holds both {first} and {path.name}: keep one of each name.")
        pictures[path.stem] = path
    return pictures


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise ValueError("There is nothing to score: give --edited or --pipeline.")
    for label in labels:
        if label in (UNEDITED, REAL) or "/" in label or label.startswith(".") or not label.strip():
            raise ValueError(f"A method cannot be called {label!r}: give another LABEL=DIR.")


def _by_emotion(folder: Path, emotions: Sequence[str] | None) -> dict[str, Path]:
    """Emotion -> folder of its pictures."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'.")
    below = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    named = {e: below[e] for e in EMOTIONS if e in below and (emotions is None or e in emotions)}
    if named:
        return named
    if emotions is not None and len(emotions) == 1:
        return {emotions[0]: folder}
    raise ValueError(
        f"'{folder}' has no folder of an emotion ({', '.join(emotions or EMOTIONS)}): make them, "
        "or say with --emotion what all its pictures show."
    )


def _strengths(folder: Path, emotion: str) -> dict[float, dict[str, Path]]:
    """Strength -> name -> picture, of the folders `strength_folder` names."""
    found: dict[float, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        name, at, number = path.name.lower().partition("@")
        if not (path.is_dir() and at and name == emotion):
            continue
        try:
            strength = float(number)
        except ValueError:
            strength = float("nan")
        if not math.isfinite(strength):
            raise ValueError(f"'{path}' does not tell its strength: call it '{strength_folder(emotion, 0.5)}'.")
        if strength == 1 or strength in found:
            raise ValueError(f"'{path}' is a second folder of strength {strength:g}: keep one.")
        found[strength] = list_pictures(path)
    return found


def _lost_strengths(
    label: str, emotion: str, scored: Set[str], strengths: Mapping[float, Mapping[str, Path]]
) -> Iterator[dict[str, str]]:
    """A problem for every scored picture that is missing at another strength, and for every picture only there."""
    for strength, files in strengths.items():
        for name in sorted(scored ^ files.keys()):
            lost = "There is an edited picture of this name at strength {} alone."
            lost = "There is no edited picture of this name at strength {}." if name in scored else lost
            yield {"method": label, "emotion": emotion, "name": name, "failure": lost.format(f"{strength:g}")}


def _real_photos(folder: Path, emotions: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Emotion -> name -> real photo."""
    alone = emotions if len(emotions) == 1 else None
    real = {e: list_pictures(path) for e, path in _by_emotion(folder, alone).items() if e in emotions}
    if not any(real.values()):
        raise ValueError(f"The folder '{folder}' holds no real photos of {', '.join(emotions)}.")
    return real


def _base_pairs(
    photos: Mapping[str, Path], emotions: Sequence[str], real: Mapping[str, Mapping[str, Path]]
) -> Iterator[Pair]:
    """The rows of the sources themselves and of the real photos."""
    for emotion in emotions:
        for name, path in photos.items():
            reference = real.get(emotion, {}).get(name)
            yield Pair(UNEDITED, emotion, name, path, path, reference)
            if reference:
                yield Pair(REAL, emotion, name, path, reference)


def _match_method(
    plan: Plan, label: str, top: Path, folders: Mapping[str, Path], photos: Mapping[str, Path],
    real: Mapping[str, Mapping[str, Path]],
) -> None:  # fmt: skip
    """Add a method's pairs, and a problem for every name on one side only."""
    before = len(plan.pairs)
    for emotion, folder in folders.items():
        pictures, strengths = list_pictures(folder), _strengths(top, emotion)
        plan.problems += _lost_strengths(label, emotion, photos.keys() & pictures.keys(), strengths)
        for name in sorted(photos.keys() | pictures.keys()):
            if name in photos and name in pictures:
                reference = real.get(emotion, {}).get(name)
                others = tuple((i, files[name]) for i, files in strengths.items() if name in files)
                plan.pairs.append(Pair(label, emotion, name, photos[name], pictures[name], reference, 1.0, others))
                continue
            missing = f"There is no {'edited picture' if name in photos else 'source'} of this name."
            plan.problems.append({"method": label, "emotion": emotion, "name": name, "failure": missing})
    if len(plan.pairs) == before:
        raise ValueError(
            f"No picture of '{top}' is called as one of the sources, such as '{next(iter(photos))}': "
            "edited pictures need the names of their sources."
        )
