"""NPHM's data set as its authors give it: <person>/<expression>/{scan.ply, registration.ply, flame.ply, ...}.

All meshes lie in NPHM's space, in units of 0.25 m. People without a scan whose mouth is open are left out, as they are
in the original. Which expression that is, a table `neutrals.json` ({"17": 1, "18": 10}) beside the people's folders
tells; for people who are not in it, it is expression 1, most people's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from ..files.texts import parse_json
from .dataset import DataError
from .scans import Scan, as_points, read_scan

LAYOUT_UNIT = 0.25  # metres
SCAN, REGISTRATION, FLAME = "scan.ply", "registration.ply", "flame.ply"
TABLE = "neutrals.json"
MOST_PEOPLE_S_NEUTRAL = 1  # expression with an open mouth of 200 of 255 people
FACE_RADIUS = 0.2  # units from a registration's vertex within which a point is the face's, by NPHM's preparation
REGISTERED, FLAME_VERTICES = 33_506, 5_023  # vertices of a registration, and of a FLAME head
THROAT = (3276, 3207, 3310)  # FLAME vertices whose plane cuts the throat, NPHM's
ANCHOR_VERTICES = (
    2712, 1579, 3485, 3756, 3430, 3659, 2711, 1575, 338, 27, 3631, 3832, 2437, 1175, 3092, 2057, 3422, 3649, 3162, 2143,
    617, 67, 3172, 2160, 2966, 1888, 1470, 2607, 1896, 2981, 3332, 3231, 3494, 3526, 3506, 3543, 3516, 3786, 3404,
)  # fmt: skip
"""Vertices of a registration at the 39 anchors (lm_inds_39.npy of NPHM's MIT-licensed repository)."""
EVALUATION = ("199", "286", "290", "291", "292", "293", "294", "295", "297", "298")
TEST = (
    "99", "283", "143", "38", "241", "236", "276", "202", "98", "254", "204", "163", "267", "194", "20", "23", "209",
    "105", "186", "343", "341", "363", "350",
)  # fmt: skip
"""People that the original does not train on."""
SURFACE_POINTS = 250_000  # of a scan that are kept


def is_nphm_layout(folder: Path) -> bool:
    """Whether a folder is NPHM's data set."""
    return next(folder.glob(f"[0-9][0-9][0-9]/[0-9][0-9][0-9]/{SCAN}"), None) is not None


def list_neutrals(folder: Path, held_out: bool = False) -> list[tuple[str, str, Path]]:
    """(person, expression, file) of the people to train on, the open-mouthed neutral scan under "neutral".

    Args:
        held_out: Those of the authors' test split instead.

    Raises:
        DataError: Nobody is left.
    """
    table, found = _neutral_table(folder), []
    for person in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()):
        name = str(int(person.name))
        if (name in TEST) != held_out or (not held_out and name in EVALUATION):
            continue
        neutral = table.get(name, MOST_PEOPLE_S_NEUTRAL)
        scans = sorted(file.parent for file in person.glob(f"[0-9][0-9][0-9]/{SCAN}"))
        if not any(int(scan.name) == neutral for scan in scans):
            continue
        found += [(person.name, "neutral" if int(scan.name) == neutral else scan.name, scan / SCAN) for scan in scans]
    if not found:
        raise DataError(f"'{folder}' has nobody with a neutral scan whose mouth is open: give the whole data set.")
    return found


def _neutral_table(folder: Path) -> dict[str, int]:
    """Number of the open-mouthed neutral expression by person, as far as it is told."""
    file = folder / TABLE
    if not file.exists():
        return {}
    try:
        return {str(int(person)): int(number) for person, number in parse_json(file.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f'{file} must hold people and expressions as {{"17": 1, "18": 10}}.') from error


def read_nphm_scan(file: Path) -> Scan:
    """A scan in units, with its registration where there is one: face region, anchors, vertices.

    Raises:
        DataError: A file cannot be read, or the registration is another template's.
    """
    rng = np.random.default_rng(0)
    scan = as_points(read_scan(file), rng, SURFACE_POINTS)
    beside = file.with_name(REGISTRATION)
    if not beside.exists():
        return scan
    registered = read_scan(beside)
    if len(registered.points) != REGISTERED or registered.faces is None:
        raise DataError(
            f"'{beside}' has {len(registered.points):,} vertices: NPHM's registrations have {REGISTERED:,}."
        )
    anchors = registered.points[list(ANCHOR_VERTICES)]
    flame = file.with_name(FLAME)
    kept = above_throat(scan.points, read_scan(flame).points) if flame.exists() else np.ones(len(scan.points), bool)
    near = KDTree(registered.points).query(scan.points, distance_upper_bound=FACE_RADIUS)[0] < FACE_RADIUS
    return replace(
        scan, points=scan.points[kept], normals=scan.normals[kept] if scan.normals is not None else None,
        face=near[kept], anchors=anchors, vertices=registered.points, faces=registered.faces,
    )  # fmt: skip


def above_throat(points: np.ndarray, flame: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Which points [N, 3] lie above the plane through three vertices of a person's FLAME head [5023, 3].

    Raises:
        DataError: It is no FLAME head.
    """
    if len(flame) != FLAME_VERTICES:
        raise DataError(f"A {FLAME} has {len(flame):,} vertices: FLAME heads have {FLAME_VERTICES:,}.")
    first, second, third = flame[list(THROAT)]
    return (points - first) @ np.cross(second - first, third - first) > margin
