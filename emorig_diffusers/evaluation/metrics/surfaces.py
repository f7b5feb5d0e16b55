"""How far two surfaces lie apart, by points that cameras around them see (NPHM's protocol)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

SLIDE_F = 0.015  # units of 0.25 m, 3.75 mm: the distance of F@1.5 in the published tables
STRICT_F = 0.0015  # metres


@dataclass(frozen=True)
class SurfaceScore:
    """Figures of one scan.

    Attributes:
        chamfer: Mean of the mean distances both ways (L1-Chamfer), metres.
        normals: Mean of the mean |cosines| of normals both ways (N.C.).
        f_slide: F-score at SLIDE_F.
        f_strict: F-score at STRICT_F.
    """

    chamfer: float
    normals: float
    f_slide: float
    f_strict: float


def score_surface(
    found: np.ndarray, found_normals: np.ndarray, true: np.ndarray, true_normals: np.ndarray, unit: float = 0.25
) -> SurfaceScore:
    """Compare points with normals [N, 3] of a fit and [M, 3] of the scan, metres.

    Args:
        unit: Metres of the unit that SLIDE_F is in.

    Raises:
        ValueError: One of both has no points.
    """
    if not len(found) or not len(true):
        raise ValueError(
            "A surface without points cannot be compared: the fit, or the scan, lies outside the pictures."
        )
    there, back = KDTree(true).query(found), KDTree(found).query(true)
    cosines = [
        np.abs((found_normals * true_normals[there[1]]).sum(1)),
        np.abs((true_normals * found_normals[back[1]]).sum(1)),
    ]
    f = lambda limit: _f_score((there[0] <= limit).mean(), (back[0] <= limit).mean())
    return SurfaceScore(
        float((there[0].mean() + back[0].mean()) / 2), float((cosines[0].mean() + cosines[1].mean()) / 2),
        f(SLIDE_F * unit), f(STRICT_F),
    )  # fmt: skip


def _f_score(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
