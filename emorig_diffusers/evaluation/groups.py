"""Figures by groups of people: those that a CSV names, or skin tone as the photos show it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..files.atomic import write_file
from ..photo.colour import find_tone
from ..photo.faces import Face, choose_faces, find_faces
from ..photo.files import is_photo
from ..photo.io import read_photo
from ..photo.masks import fill_polygon
from ..photo.resample import align, transform_points, warp_crop
from .table import Record, Table, summarise

ITA, ITA_CLASSES = "ita", "ita-classes"
"""Groupings that photos tell themselves: thirds of the individual typology angle, and its published classes."""
FEW = 10
"""Photos below which a group is flagged: percentile intervals are too narrow then (of ten normal numbers, 95 % ones
hold the mean in 90 % of draws)."""
GROUPS_FILE = "groups.csv"
CROP = 256  # pixels of the aligned face that skin is taken from
CLASSES = {"dark": -30.0, "brown": 10.0, "tan": 28.0, "intermediate": 41.0, "light": 55.0, "very light": np.inf}
"""Class -> largest angle, degrees: Chardon, Cretois & Hourseau 1991 (Int. J. Cosmetic Science 13, 191-208), and "dark"
as Del Bino et al. 2006 (Pigment Cell Research 19, 606-614) added it."""
PATCHES = (
    (117, 118, 101, 36, 205, 187, 123, 116),
    (346, 347, 330, 266, 425, 411, 352, 345),
    (69, 108, 151, 337, 299, 296, 336, 9, 107, 66),
)
"""Landmarks around the person's right and left cheek, above where beards grow, and around the forehead's middle."""
_NAMED = 3  # names that an error lists


@dataclass(frozen=True)
class Grouping:
    """One way to divide the photos.

    Attributes:
        name: A CSV's column, ITA or ITA_CLASSES.
        groups: Group -> names of its photos (without suffix), in order.
        left_out: Photos of no group.
        about: What the reader has to know of how it was told.
    """

    name: str
    groups: dict[str, list[str]]
    left_out: list[str]
    about: str


@dataclass(frozen=True)
class Group:
    """Figures of one group: how many photos, and the table of their pictures."""

    photos: int
    table: Table

    @property
    def few(self) -> bool:
        """Whether there are too few photos to lean on."""
        return self.photos < FEW


Split = dict[str, dict[str, Group]]
"""grouping -> group -> its figures."""


def read_csv(path: Path, photos: Iterable[str]) -> list[Grouping]:
    """The groupings of a CSV: photo names (with or without suffix) in the first column, a grouping in each other one.

    An empty cell leaves a photo out of that grouping, and so does a missing row. Groups come in the order of the file.

    Raises:
        ValueError: The file cannot be read, has no such columns, names a photo twice or one that is not there, or a
            column puts all photos into one group or none.
    """
    rows = _rows(path)
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError(f"'{path}' needs a first line of names, photo and a group or more, and a line for each photo.")
    columns = [column.strip() for column in rows[0][1:]]
    if not all(columns) or len(set(columns)) < len(columns):
        raise ValueError(f"'{path}' needs a name of its own for each column.")
    labels, known = _labels(path, rows), list(photos)
    unknown = [name for name in labels if name not in set(known)]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise ValueError(f"'{path}' names photos that are not among the sources: {', '.join(unknown[:_NAMED])}{more}.")
    read = lambda place: {name: cells[place] for name, cells in labels.items()}
    return [_column(path, column, read(place), known) for place, column in enumerate(columns)]


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text("utf-8-sig")
        return [row for row in csv.reader(io.StringIO(text, newline="")) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{path}' cannot be read as a CSV in UTF-8 ({error}).") from error


def _labels(path: Path, rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Photo -> its cells."""
    labels: dict[str, list[str]] = {}
    for row in rows[1:]:
        if len(row) != len(rows[0]):
            raise ValueError(f"'{path}': the line of {row[0]!r} has {len(row)} cells, the first line {len(rows[0])}.")
        name = Path(row[0].strip()).stem if is_photo(row[0].strip()) else row[0].strip()
        if name in labels:
            raise ValueError(f"'{path}' names the photo {name!r} twice.")
        labels[name] = [cell.strip() for cell in row[1:]]
    return labels


def _column(path: Path, column: str, labels: Mapping[str, str], photos: Sequence[str]) -> Grouping:
    groups: dict[str, list[str]] = {}
    for name, label in labels.items():
        if label:
            groups.setdefault(label, []).append(name)
    if len(groups) < 2:
        whole = f"puts all photos into one group, {next(iter(groups))!r}" if groups else "is empty"
        raise ValueError(f"The column {column!r} of '{path}' {whole}: there is nothing to hold against each other.")
    left_out = [name for name in photos if not labels.get(name)]
    return Grouping(column, groups, left_out, f"Groups as '{path.name}' labels them.")


def by_ita(photos: Mapping[str, Path], classes: bool = False) -> Grouping:
    """Group photos by their individual typology angle: thirds of equal size, or CLASSES.

    Args:
        photos: Name -> file; those that show no face, or no colour, are left out.
        classes: Whether the groups are the published classes; those without a photo are left out.

    Raises:
        ValueError: Fewer than three photos tell an angle, or all lie in one class.
    """
    read = {name: _angle_of(path) for name, path in photos.items()}
    angles = {name: angle for name, angle in read.items() if angle is not None}
    if len(angles) < 3:
        raise ValueError(f"Only {len(angles)} of {len(photos)} photos show a face in colour: too few to group by ITA.")
    groups = _classes(angles) if classes else _thirds(angles)
    if len(groups) < 2:
        raise ValueError(f"All photos are of one class of ITA, {next(iter(groups))}: use --by {ITA}.")
    left_out = [name for name in photos if name not in angles]
    return Grouping(ITA_CLASSES if classes else ITA, groups, left_out, _about_ita(angles, classes))


def _about_ita(angles: Mapping[str, float], classes: bool) -> str:
    kind = "the classes of Chardon et al. 1991" if classes else "thirds of equal size"
    low, high = min(angles.values()), max(angles.values())
    return (
        "Skin tone by the individual typology angle (Chardon, Cretois & Hourseau 1991), arctan((L* - 50) / b*), of "
        f"cheeks and forehead, from {low:.0f}° to {high:.0f}° here, in {kind}. Nothing is corrected for the light: the "
        "angle is the photo's, not the person's. Exposure and white balance move it by ten degrees and more: compare "
        "photos of one light."
    )


def _thirds(angles: Mapping[str, float]) -> dict[str, list[str]]:
    ordered = sorted(angles, key=lambda name: (angles[name], name))
    parts = [part.tolist() for part in np.array_split(ordered, 3)]
    names = ("darkest third", "middle third", "lightest third")
    span = lambda part: f"{angles[part[0]]:.0f}° to {angles[part[-1]]:.0f}°"
    return {f"{name} ({span(part)})": part for name, part in zip(names, parts)}


def _classes(angles: Mapping[str, float]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {name: [] for name in CLASSES}
    for photo, angle in angles.items():
        groups[next(name for name, most in CLASSES.items() if angle <= most)].append(photo)
    return {name: members for name, members in groups.items() if members}


def _angle_of(path: Path) -> float | None:
    """The angle of a photo's largest face; `None` where it shows none."""
    try:
        rgb = read_photo(path).rgb
    except (OSError, ValueError):
        return None  # scoring says so
    faces = find_faces(rgb)
    return typology_angle(rgb, choose_faces(faces)[0]) if faces else None


def typology_angle(rgb: np.ndarray, face: Face) -> float | None:
    """Individual typology angle of a face's skin, degrees: arctan((L* - 50) / b*), under D65.

    Of the three PATCHES' medians the middle one counts, so that a fringe or a shadow on one of them does no harm.

    Args:
        rgb: The photo, uint8 [H, W, 3], sRGB.

    Returns:
        The angle, about -60 (dark) to 80 (very light); `None` where the photo has but one tone.
    """
    matrix = align(face.landmarks, CROP)
    crop, points = warp_crop(rgb, matrix, CROP), transform_points(matrix, face.landmarks[:, :2])
    if find_tone(crop) is not None:
        return None
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    angles = []
    for patch in PATCHES:
        mask = fill_polygon(crop.shape, points[list(patch)])
        if mask.any():
            lightness, _, yellow = np.median(lab[mask], axis=0)
            angles.append(np.degrees(np.arctan2(lightness - 50, yellow)))
    return float(np.median(angles)) if angles else None


def check_groupings(words: Sequence[str], photos: Iterable[str]) -> None:
    """Refuse what can be refused before anything is scored: all but what photos themselves tell.

    Raises:
        ValueError: As `read_csv`; or two groupings have one name.
    """
    names = [name for word in words for name in ([word] if _photos_tell(word) else _names(word, photos))]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"There are two groupings called {name!r}: give each once, by a name of its own.")


def groupings(words: Sequence[str], photos: Mapping[str, Path]) -> list[Grouping]:
    """What `--by` asks for, each word ITA, ITA_CLASSES or a CSV; raises as `check_groupings` and `by_ita`."""
    check_groupings(words, photos)
    found: list[Grouping] = []
    for word in words:
        found += [by_ita(photos, word == ITA_CLASSES)] if _photos_tell(word) else read_csv(Path(word), photos)
    return found


def _photos_tell(word: str) -> bool:
    return word in (ITA, ITA_CLASSES)


def _names(word: str, photos: Iterable[str]) -> list[str]:
    return [grouping.name for grouping in read_csv(Path(word), photos)]


def split(records: Sequence[Record], methods: Sequence[str], emotions: Sequence[str], by: Sequence[Grouping]) -> Split:
    """All estimates of every group, as `summarise` takes them; intervals are by photos within the group."""
    parts: Split = {}
    for grouping in by:
        members = {group: set(names) for group, names in grouping.groups.items()}
        tables = {g: summarise([r for r in records if r["name"] in m], methods, emotions) for g, m in members.items()}
        parts[grouping.name] = {g: Group(len(grouping.groups[g]), table) for g, table in tables.items()}
    return parts


def write_groups(parts: Split, by: Sequence[Grouping], out: Path) -> Path:
    """Write GROUPS_FILE: a line for each figure of each group, method and emotion."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    head = ("by", "group", "photos", "few", "method", "emotion", "figure", "mean", "low", "high", "count")
    writer.writerow(head)
    for grouping in by:
        writer.writerows(_lines(grouping.name, parts[grouping.name]))
    path = out / GROUPS_FILE
    write_file(path, text.getvalue().encode())
    return path


def _lines(name: str, groups: Mapping[str, Group]) -> Iterator[list[Any]]:
    for group, figures in groups.items():
        for method, row in figures.table.items():
            for emotion, cell in row.items():
                for figure, estimate in cell.items():
                    about = [name, group, figures.photos, int(figures.few), method, emotion, figure]
                    yield [*about, estimate.mean, estimate.low, estimate.high, estimate.count]


def as_json(parts: Split, by: Sequence[Grouping]) -> dict[str, Any]:
    """For `scores.json`: who is in which group, and its figures."""
    content: dict[str, Any] = {}
    for grouping in by:
        groups = {}
        for group, figures in parts[grouping.name].items():
            table = {
                method: {emotion: {f: asdict(x) for f, x in cell.items()} for emotion, cell in row.items()}
                for method, row in figures.table.items()
            }
            groups[group] = {"photos": grouping.groups[group], "few": figures.few, "table": table}
        content[grouping.name] = {"about": grouping.about, "groups": groups, "left_out": grouping.left_out}
    return content


def emotion_rows(parts: Mapping[str, Group], emotion: str, methods: Sequence[str]) -> Table:
    """One emotion's figures of every method and group, as a table whose rows say both."""
    rows: Table = {}
    for method in methods:
        for group, figures in parts.items():
            flag = f", {figures.photos} photos" + (": few" if figures.few else "")
            rows[f"{method}: {group}{flag}"] = {emotion: figures.table[method].get(emotion, {})}
    return rows
