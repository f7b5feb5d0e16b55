"""Measuring heads on held-out scans: every method fits the same points, and cameras see what it made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ...data.nphm_layout import is_nphm_layout, list_neutrals
from ...data.scans import Scan, as_points, estimate_normals, list_scans, read_scan, unit_of
from ...models.geometry import Surface
from ...models.nphm import NeuralHeadModel
from ...models.nphm_fit import HeadFitter
from ...models.scan_alignment import Placement, largest_part
from ...render.visible import around, draw_rows, visible_points
from ..metrics.surfaces import SurfaceScore, score_surface

Method = Callable[[np.ndarray, np.ndarray], Surface]
"""Points and normals [N, 3] of a scan in NPHM's space, metres -> the fitted head there."""

MEASURED_END, MEASURED_TILT = -0.094, 0.6  # metres; plane below which nothing is measured: throats, and not chins
MEASURED = 100_000  # points of a surface, of the 250,000 of NPHM's protocol
PICTURE_SCALE = 0.3  # of the protocol's pictures
RESOLUTION = 128  # cells a side of a neural head's surface
SCAN_POINTS = 40_000  # that are kept of a scan


@dataclass(frozen=True)
class Score:
    """Figures of one method on one scan; the set is the folder that the scan lies in."""

    method: str
    group: str
    scan: str
    figures: SurfaceScore


def list_sets(folder: Path) -> list[tuple[str, str, Path]]:
    """(set, scan, file) of held-out scans: sets are the folder's folders, or the folder itself is one.

    Of NPHM's data set these are the people of its test split, canonical scans and others apart.

    Raises:
        DataError: There are no scans.
    """
    if is_nphm_layout(folder):
        listed = list_neutrals(folder, held_out=True)
        kinds = {True: "identities", False: "expressions"}
        return sorted((kinds[name == "neutral"], f"{person}/{name}", file) for person, name, file in listed)
    sets = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    named = [path for path in sets if any(child.is_dir() for child in path.iterdir())]
    found = []
    for one in named if len(named) == len(sets) and sets else [folder]:
        found += [(one.name, f"{person}/{expression}", file) for person, expression, file in list_scans(one)]
    return found


def measure_heads(scans: list[tuple[str, str, Path]], methods: Mapping[str, Method], seed: int = 0) -> list[Score]:
    """Fit every method to every scan and score it. All scans must lie in NPHM's space, in any unit."""
    scores = []
    for number, (group, name, file) in enumerate(tqdm(scans, desc="scans", mininterval=5)):
        scan = read_scan(file)
        scan = scan.scaled(unit_of(scan.points)[1])
        given, truth = scan_to_fit(scan, number), true_points(scan, number)
        for method, fit in methods.items():
            surface = fit(*given)
            found = seen_points(surface, seed)
            scores.append(Score(method, group, name, score_surface(*found, *truth)))
    return scores


def scan_to_fit(scan: Scan, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals [N, 3] that methods are given."""
    cloud = as_points(replace(scan, exact=None), np.random.default_rng(seed), SCAN_POINTS)
    return cloud.points, cloud.normals if cloud.normals is not None else estimate_normals(cloud.points)


def true_points(scan: Scan, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals that are measured by: what is known to be there, else what cameras see of the mesh, else the
    scan's own points."""
    if scan.exact is not None and scan.exact_normals is not None:
        return _measured(scan.exact, scan.exact_normals)
    if scan.is_mesh:
        assert scan.faces is not None
        return seen_points(Surface(torch.from_numpy(scan.points), torch.from_numpy(scan.faces)), seed)
    return _measured(*scan_to_fit(scan, seed))


def seen_points(surface: Surface, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals [N, 3] of a surface that cameras see, above the throat."""
    seen = visible_points(surface.vertices.detach().cpu().float(), surface.faces.cpu(), around(), PICTURE_SCALE)
    kept = torch.from_numpy(above(seen.points.numpy())).nonzero()[:, 0]
    rows = kept[draw_rows(len(kept), MEASURED, torch.Generator().manual_seed(seed))] if len(kept) else kept
    return seen.points[rows].numpy(), seen.normals[rows].numpy()


def _measured(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = above(points)
    return points[kept], normals[kept]


def above(points: np.ndarray) -> np.ndarray:
    """Which points [N, 3] are measured."""
    return points[:, 1] + MEASURED_TILT * points[:, 2] > MEASURED_END


def neural_method(head: NeuralHeadModel, steps: int) -> Method:
    """Fits codes alone: scans lie where they shall, as in NPHM's protocol."""
    fitter = HeadFitter(head, steps, free_placement=False)

    def fit(points: np.ndarray, normals: np.ndarray) -> Surface:
        found = fitter.fit(points, normals, Placement(np.eye(3), 1.0, np.zeros(3)))
        return largest_part(head.surface(found.shape, found.expression, resolution=RESOLUTION))

    return fit
