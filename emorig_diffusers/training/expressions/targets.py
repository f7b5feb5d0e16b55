"""How near an edit of a neutral photo comes to the same person's acted expression: looks, motion, judges, identity."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ...evaluation.metrics import LPIPS, FaceApiJudge, FerJudge, IdentityJudge
from ...evaluation.metrics.emotion import named
from ...photo.faces import Face, choose_faces, find_faces
from ...photo.io import read_photo
from ...photo.landmarks import MESH, MIRROR
from ...photo.resample import align, transform_points, warp_crop
from ..manifest import NEUTRAL, read_manifest
from .fields import align_rigid, dense_flow

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

    def inside(self) -> np.ndarray:
        """Pixels of the crop within the face's outline [S, S]; what lies outside moves with the head and is nobody's
        expression."""
        outline = cv2.convexHull(transform_points(self.matrix, self.face.landmarks[:MESH, :2]).astype(np.int32))
        return cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), outline, 1) > 0

    def motion(self) -> np.ndarray:
        """How landmarks move from the neutral to the acted photo [468, 2], pixels of the crop, in which all faces are
        upright and of one size."""
        before, after = self.face.landmarks[:MESH, :2], self.acted_face.landmarks[:MESH, :2]
        return (transform_points(align_rigid(after, before), after) - before) @ self.matrix[:, :2].T

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


def read_targets(folder: Path, expressions: Collection[str] | None = None) -> list[Target]:
    """Targets of a folder of acted expressions; all, or those of some expressions.

    Raises:
        DataError: The folder's manifest cannot be used, see `read_manifest`.
    """
    photos = read_manifest(folder, expressions)
    return [read_target(*key, photos[key[0], NEUTRAL], file) for key, file in photos.items() if key[1] != NEUTRAL]


def read_target(person: str, expression: str, neutral: Path, acted: Path) -> Target:
    """One target from its two files."""
    before, after = (read_photo(path).rgb for path in (neutral, acted))
    face, acted_face = (choose_faces(find_faces(rgb))[0] for rgb in (before, after))
    onto = align_rigid(acted_face.landmarks[:, :2], face.landmarks[:, :2])
    matrix = align(face.landmarks, SIDE)
    both = (np.vstack([matrix, [0, 0, 1]]) @ np.vstack([onto, [0, 0, 1]]))[:2]
    return Target(person, expression, before, after, face, matrix, warp_crop(after, both, SIDE), acted_face)


class Ruler:
    """The networks that measure edits: LPIPS, an embedding of identity and judges of emotion by name."""

    def __init__(self) -> None:
        self.lpips, self.identity = LPIPS("alex"), IdentityJudge()
        self.judges = {judge.name.split()[0]: judge for judge in (FaceApiJudge(), FerJudge())}

    def to(self, target: Target) -> Distance:
        """The distance of edits to one target."""
        return Distance(self, target)


class Distance:
    """How far edits of a target's neutral photo are from its acted one; what depends on no edit is measured once.

    Args:
        ruler: Networks.
        target: Two photos of one person.
    """

    def __init__(self, ruler: Ruler, target: Target) -> None:
        self.ruler, self.target, self.boxes, self.inside = ruler, target, target.boxes(), target.inside()
        self.real = {region: _tensor(target.real[box]) for region, box in self.boxes.items()}
        neutral = warp_crop(target.neutral, target.matrix, SIDE)
        self.unedited, self.motion = self._lpips(neutral), self._flow(neutral)
        embed = ruler.identity.embed
        self.neutral = embed(target.neutral, target.face.landmarks)
        self.acted = embed(target.acted, target.acted_face.landmarks)
        self.judged = {n: named for n, (named, _) in self._judge(target.acted, target.acted_face).items()}

    @torch.no_grad()
    def measure(self, edited: np.ndarray) -> dict[str, float]:
        """Figures of an edit uint8 [H, W, 3] of the neutral photo.

        Returns:
            "lpips REGION" of edit and real expression, and "unedited lpips REGION"; "flow REGION": mean flow within
            the face from the edit to the real expression, of that from the neutral photo; of every judge "NAME": 1
            where it names the emotion, "NAME real" for the real photo, and "NAME probability" that it gives the
            emotion; "sface" to the neutral photo, "sface acted" of the real expression to it, and "sface real" of the
            edit to the real expression.
        """
        crop = warp_crop(edited, self.target.matrix, SIDE)
        lpips, flow = self._lpips(crop), self._flow(crop)
        figures = {}
        for region in self.boxes:
            figures["lpips " + region] = lpips[region]
            figures["unedited lpips " + region] = self.unedited[region]
            figures["flow " + region] = float(flow[region] / self.motion[region].clip(0.05))
        for name, (hit, probability) in self._judge(edited, self.target.face).items():
            figures |= {name: hit, name + " real": self.judged[name], name + " probability": probability}
        ours, alike = self.ruler.identity.embed(edited, self.target.face.landmarks), self.ruler.identity.similarity
        return figures | {
            "sface": alike(self.neutral, ours),
            "sface acted": alike(self.neutral, self.acted),
            "sface real": alike(ours, self.acted),
        }

    @torch.no_grad()
    def _lpips(self, crop: np.ndarray) -> dict[str, float]:
        """Of a crop's regions and those of the real expression."""
        return {r: float(self.ruler.lpips.distance(_tensor(crop[b]), self.real[r])) for r, b in self.boxes.items()}

    def _flow(self, crop: np.ndarray) -> dict[str, np.floating]:
        """Mean length of the flow from a crop's regions to the real expression, pixels; within the face."""
        length = np.linalg.norm(dense_flow(crop, self.target.real)[0], axis=-1)
        return {region: length[box][self.inside[box]].mean() for region, box in self.boxes.items()}

    def _judge(self, rgb: np.ndarray, face: Face) -> dict[str, tuple[float, float]]:
        """Of every judge whether it names the emotion, and how probable that is; NaN where it does not know it."""
        judged, emotion = {}, self.target.emotion
        for name, judge in self.ruler.judges.items():
            scores = judge(rgb, face.box)
            known = emotion in judge.emotions
            judged[name] = (float(named(scores) == emotion), scores[emotion]) if known else (np.nan,) * 2
        return judged


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


def left_by_others(targets: Sequence[Target]) -> dict[tuple[str, str], float]:
    """(person, expression) -> what the median of the other people who act it, and of their mirror images, leaves of a
    person's motion of landmarks, as a share of that motion: about what one motion for everybody leaves at best.

    Expressions that one person alone acts are left out.
    """
    motions = {(t.person, t.expression): t.motion() for t in targets}
    shares = {}
    for (person, expression), own in motions.items():
        others = [m for (who, what), m in motions.items() if what == expression and who != person]
        if others:
            both = np.concatenate([others, np.stack(others)[:, MIRROR] * [-1, 1]])
            left, whole = (np.linalg.norm(m, axis=1).mean() for m in (own - np.median(both, 0), own))
            shares[person, expression] = float(left / whole)
    return shares


def _tensor(picture: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] in [-1, 1], at least as large as LPIPS needs."""
    larger = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(larger).permute(2, 0, 1)[None] / 127.5 - 1
