"""What both stages see of scans: points on, near and far from people's canonical heads, and pairs with posed heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...data.nphm_layout import LAYOUT_UNIT, is_nphm_layout, list_neutrals, read_nphm_scan
from ...data.scans import Scan, as_points, estimate_normals, list_scans, read_scan, unit_of
from ...models.scan_alignment import Target, place_scan

NEAR = 0.01  # deviation in units of points near the surface, NPHM's
FAR_RADIUS = 0.794  # units; ball of points far from the surface, the radius that NPHM's reaches
FAR_SHARE = 8  # points on the face for one far from all, NPHM's
SPREADS = (0.01, 0.002)  # deviations in units, along normals, of what expressions are learnt from, NPHM's
EMPTY_RADIUS = 1.25  # units; half the side of the cube where expressions shall move nothing, NPHM's
KEPT_POINTS, PLACING_POINTS = 100_000, 10_000  # of a scan in memory; that tell how it lies
NEUTRAL = "neutral"  # name of a person's canonical scan, where several are there

Sample = dict[str, Tensor]


def load_scans(folder: Path, metres_per_unit: float, target: Target | None = None) -> dict[str, dict[str, Scan]]:
    """Scans by person and expression, in units, as points with normals, canonical ones under NEUTRAL.

    Args:
        folder: NPHM's data set, or scans as `list_scans` has them, which must lie in the model's space: x to the
            subject's left, y up, z to the viewer, the origin as NPHM has it.
        metres_per_unit: Size of the model's unit.
        target: A head in that space that scans of any other are laid on; `None` where they lie right.

    Raises:
        DataError: There are no scans, one cannot be read, or someone has no canonical one.
    """
    found: dict[str, dict[str, Scan]] = {}
    layout = is_nphm_layout(folder)
    listed = list_neutrals(folder) if layout else list_scans(folder)
    for number, (person, expression, file) in enumerate(tqdm(listed, desc="scans", mininterval=5)):
        scan = read_nphm_scan(file) if layout else read_scan(file)
        rng = np.random.default_rng(number)
        if target is not None and not layout:
            scan = laid(scan, target, rng)
        else:
            scan = scan.scaled(LAYOUT_UNIT if layout else unit_of(scan.points)[1])
        scan = ready(scan.scaled(1 / metres_per_unit), rng)
        found.setdefault(person, {})[expression] = scan
    for person, scans in found.items():
        if NEUTRAL not in scans:
            if len(scans) > 1:
                raise DataError(f"{folder} has no canonical scan of {person}: name one {NEUTRAL}.")
            found[person] = {NEUTRAL: next(iter(scans.values()))}
    return found


def laid(scan: Scan, target: Target, rng: np.random.Generator) -> Scan:
    """A scan of any unit and rotation in metres, laid on a head by ICP."""
    name, unit = unit_of(scan.points)
    cloud = as_points(scan, rng, PLACING_POINTS)
    place, _ = place_scan(cloud.points, cloud.normals, target, unit, bool(name), rng)
    move = lambda points: None if points is None else place.apply(points).astype(np.float32)
    turned = None if scan.normals is None else (scan.normals @ place.rotation.T).astype(np.float32)
    points = place.apply(scan.points).astype(np.float32)
    return replace(
        scan, points=points, normals=turned, anchors=move(scan.anchors), vertices=move(scan.vertices), exact=None,
        exact_normals=None,
    )  # fmt: skip


def ready(scan: Scan, rng: np.random.Generator) -> Scan:
    """A scan as points with normals."""
    scan = as_points(scan, rng, KEPT_POINTS)
    return scan if scan.normals is not None else replace(scan, normals=estimate_normals(scan.points))


def mean_anchors(scans: dict[str, dict[str, Scan]]) -> Tensor | None:
    """Of all people whose anchors are known [A, 3], units; `None` where nobody's are."""
    known = [anchors for one in scans.values() if (anchors := one[NEUTRAL].anchors) is not None]
    return torch.from_numpy(np.mean(known, 0)).float() if known else None


class IdentityData(Dataset):
    """Points of people's canonical heads.

    Args:
        scans: Of `load_scans`.
        anchors: [A, 3] for people of whom none are known; they count nothing then.
        face_points, other_points: How many a sample has on the face and elsewhere.
    """

    def __init__(self, scans: dict[str, dict[str, Scan]], anchors: Tensor, face_points: int, other_points: int) -> None:
        self.people = sorted(scans)
        self.scans = [scans[person][NEUTRAL] for person in self.people]
        self.anchors, self.face_points, self.other_points = anchors, face_points, other_points

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """One person by (index, seed): points in units, float32.

        Returns:
            "person"; "points" and "normals" [N, 3], of which the first are on the face, "face" [N]; "near" [N, 3] and
            "far" [N / 8, 3]; "anchors" [A, 3], "known" whether they are.
        """
        index, seed = item
        rng, scan = np.random.default_rng(seed), self.scans[index]
        face = np.ones(len(scan.points), bool) if scan.face is None else scan.face
        some = lambda mask, count: rng.choice(np.flatnonzero(mask if mask.any() else ~mask), count)
        rows = np.concatenate([some(face, self.face_points), some(~face, self.other_points)])
        assert scan.normals is not None
        points, normals = scan.points[rows], scan.normals[rows]
        near = points + rng.normal(0, NEAR, points.shape)
        far = in_ball(max(self.face_points // FAR_SHARE, 1), rng)
        known = scan.anchors is not None
        anchors = self.anchors if scan.anchors is None else torch.from_numpy(scan.anchors)
        parts = {"points": points, "normals": normals, "near": near, "far": far}
        return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in parts.items()} | {
            "person": torch.tensor(index), "face": torch.from_numpy(face[rows]), "anchors": anchors.float(),
            "known": torch.tensor(float(known)),
        }  # fmt: skip


def in_ball(count: int, rng: np.random.Generator) -> np.ndarray:
    """Points [count, 3] uniform in a ball of FAR_RADIUS."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * (FAR_RADIUS * np.cbrt(rng.random((count, 1))))


class ExpressionData(Dataset):
    """Pairs of the same points on canonical and posed heads: registered meshes, with offsets along their normals.

    Args:
        scans: Of `load_scans`.
        people: Row of each person's identity code, by name.
        count: Pairs of a sample.

    Raises:
        DataError: No scan has a registered mesh, or someone is not among the people.
    """

    def __init__(self, scans: dict[str, dict[str, Scan]], people: dict[str, int], count: int) -> None:
        if missing := sorted(set(scans) - set(people)):
            raise DataError(f"The first stage knows nobody called {', '.join(missing[:5])}: train it on these scans.")
        self.count = count
        self.items = [
            (people[person], scan[NEUTRAL], one)
            for person, scan in sorted(scans.items())
            for _, one in sorted(scan.items())
            if one.vertices is not None and scan[NEUTRAL].vertices is not None
        ]
        if len({id(neutral) for _, neutral, _ in self.items}) == len(self.items):
            raise DataError(
                "These scans show no expressions with a registered mesh (vertices and faces): train the first stage "
                "alone, or register a template."
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """One scan by (index, seed): "person", "scan"; "canonical", "posed" [N, 3] in units; "surface" [N, 3],
        points of the posed scan itself, whose hidden insides no scan has; "empty" [M, 3]."""
        index, seed = item
        rng, (person, neutral, scan) = np.random.default_rng(seed), self.items[index]
        assert scan.vertices is not None and scan.faces is not None and neutral.vertices is not None
        face = triangles(scan.vertices, scan.faces, self.count, rng)
        bary = rng.dirichlet(np.ones(3), self.count)[..., None].astype(np.float32)
        offset = rng.normal(size=(self.count, 1)) * np.resize(SPREADS, (self.count, 1))
        places = {}
        for name, vertices in (("canonical", neutral.vertices), ("posed", scan.vertices)):
            corners = vertices[scan.faces[face]]
            normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-12)
            places[name] = (corners * bary).sum(1) + offset * normal
        places["surface"] = scan.points[rng.integers(len(scan.points), size=self.count)]
        places["empty"] = rng.uniform(-EMPTY_RADIUS, EMPTY_RADIUS, (max(self.count // 10, 1), 3))
        return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in places.items()} | {
            "person": torch.tensor(person), "scan": torch.tensor(index),
        }  # fmt: skip


def triangles(vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers [count] of faces by chance, as often as they are large."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return np.searchsorted(np.cumsum(area), rng.random(count) * area.sum()).clip(max=len(faces) - 1)
