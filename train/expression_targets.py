"""How near an edit of a neutral photo comes to the same person's acted expression: looks, motion, judges, identity."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from expression_fields import RIGID, dense_flow
from torch import Tensor

from emorig_diffusers.evaluation.metrics import LPIPS, FaceApiJudge, FerJudge, IdentityJudge, Judge
from emorig_diffusers.photo.faces import Face, choose_faces, find_faces
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.photo.resample import align, transform_points, warp_crop

SIDE = 256  # of the aligned crop, pixels
REGIONS = {
    "face": (10, 152, 234, 454),
    "eyes": (9, 145, 70, 300, 374, 105, 334),
    "nose": (168, 2, 129, 358),
    "mouth": (2, 61, 291, 17, 200),
}
"""Landmarks whose box, with a margin, is a region of the face; "eyes" has the brows."""
MARGIN = 0.12  # of a box's longer side


@dataclass(frozen=True)
class Target:
    """One person's neutral photo and acted expression.

    Attributes:
        person, expression: Names in the manifest; "surprise_wide" is a surprise.
        neutral, acted: Photos uint8 [H, W, 3].
        face: The neutral photo's face.
        matrix: From the neutral photo to the aligned crop [2, 3].
        real: The acted photo on the neutral one's crop uint8 [S, S, 3], moved by points that expressions leave alone.
        acted_face: The acted photo's face.
    """

    person: str
    expression: str
    neutral: np.ndarray
    acted: np.ndarray
    face: Face
    matrix: np.ndarray
    real: np.ndarray
    acted_face: Face

    @property
    def emotion(self) -> str:
        """The emotion that is meant."""
        return self.expression.split("_")[0]

    def boxes(self) -> dict[str, tuple[slice, slice]]:
        """Rows and columns of every region in the crop."""
        points = transform_points(self.matrix, self.face.landmarks[:, :2])
        boxes = {}
        for name, outline in REGIONS.items():
            low, high = points[list(outline)].min(0), points[list(outline)].max(0)
            margin = MARGIN * (high - low).max()
            (left, top), (right, bottom) = (np.clip(p, 0, SIDE).astype(int) for p in (low - margin, high + margin))
            boxes[name] = slice(top, bottom), slice(left, right)
        return boxes


def read_targets(folder: Path, people: Iterable[str] | None = None, expressions: Iterable[str] | None = None) -> list:
    """Targets of a folder with manifest.csv (file, person, expression); all, or those of some people or expressions."""
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    photos = {(r["person"], r["expression"]): folder / r["file"] for r in rows}
    wanted = lambda name, names: names is None or name in names
    chosen = [k for k in photos if k[1] != "neutral" and wanted(k[0], people) and wanted(k[1], expressions)]
    return [read_target(*key, photos[key[0], "neutral"], photos[key]) for key in chosen]


def read_target(person: str, expression: str, neutral: Path, acted: Path) -> Target:
    """One target from its two files."""
    before, after = (read_photo(path).rgb for path in (neutral, acted))
    face, acted_face = (choose_faces(find_faces(rgb))[0] for rgb in (before, after))
    still = list(RIGID)
    there, here = (np.float32(f.landmarks[still, :2]) for f in (acted_face, face))
    onto, _ = cv2.estimateAffinePartial2D(there, here)
    matrix = align(face.landmarks, SIDE)
    both = (np.vstack([matrix, [0, 0, 1]]) @ np.vstack([onto, [0, 0, 1]]))[:2]
    return Target(person, expression, before, after, face, matrix, warp_crop(after, both, SIDE), acted_face)


class Ruler:
    """Measures edits against targets; the unedited photo's own distances come along as what they are measured by."""

    def __init__(self) -> None:
        self.lpips, self.identity = LPIPS("alex"), IdentityJudge()
        self.judges = {judge.name.split()[0]: judge for judge in (FaceApiJudge(), FerJudge())}

    @torch.no_grad()
    def measure(self, target: Target, edited: np.ndarray) -> dict[str, float]:
        """Figures of an edit uint8 [H, W, 3] of the target's neutral photo.

        Returns:
            "lpips REGION" of edit and real expression, and "unedited lpips REGION"; "flow REGION": mean flow from the
            edit to the real expression, of that from the neutral photo; "NAME" of every judge: 1 where it names the
            emotion, "NAME real" for the real photo; "sface" to the neutral photo, "sface acted" of the real expression
            to it, and "sface real" of the edit to the real expression.
        """
        crops = [warp_crop(rgb, target.matrix, SIDE) for rgb in (edited, target.neutral)]
        flows = [np.linalg.norm(dense_flow(crop, target.real)[0], axis=-1) for crop in crops]
        figures = {}
        for region, box in target.boxes().items():
            real, ours, still = (_tensor(picture[box]) for picture in (target.real, *crops))
            figures["lpips " + region] = float(self.lpips.distance(ours, real))
            figures["unedited lpips " + region] = float(self.lpips.distance(still, real))
            figures["flow " + region] = float(flows[0][box].mean() / flows[1][box].mean().clip(0.05))
        for name, judge in self.judges.items():
            figures[name] = _names(judge, edited, target.face, target.emotion)
            figures[name + " real"] = _names(judge, target.acted, target.acted_face, target.emotion)
        return figures | self._identity(target, edited)

    def _identity(self, target: Target, edited: np.ndarray) -> dict[str, float]:
        views = ((target.neutral, target.face), (edited, target.face), (target.acted, target.acted_face))
        neutral, ours, acted = (self.identity.embed(rgb, face.landmarks) for rgb, face in views)
        alike = self.identity.similarity
        return {"sface": alike(neutral, ours), "sface acted": alike(neutral, acted), "sface real": alike(ours, acted)}


def by_expression(figures: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """(person, expression) -> figures, as expression -> means over people; "nearer REGION" is the share of people whose
    edit is nearer to the real expression by LPIPS than the untouched photo."""
    means = {}
    for expression in dict.fromkeys(key[1] for key in figures):
        rows = [row for key, row in figures.items() if key[1] == expression]
        means[expression] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        for region in REGIONS:
            nearer = [row["lpips " + region] < row["unedited lpips " + region] for row in rows]
            means[expression]["nearer " + region] = float(np.mean(nearer))
    return means


def _names(judge: Judge, rgb: np.ndarray, face: Face, emotion: str) -> float:
    if emotion not in judge.emotions:
        return float("nan")
    scores = judge(rgb, face.box)
    return float(max(scores, key=scores.get) == emotion)


def _tensor(picture: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] in [-1, 1], at least as large as LPIPS needs."""
    larger = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(larger).permute(2, 0, 1)[None] / 127.5 - 1
