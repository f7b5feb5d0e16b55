"""Scans of heads that nobody has to ask for: drawn from a linear head, and changed in ways that no linear head knows.

The head is the open one, or GNM (module `gnm`). People are of three kinds. A *linear* one is the head itself. A *field*
one is moved by a smooth random field, so that every part of the face has a shape of its own. A *hair* one has, besides,
a shell over the skull behind a hairline that lies elsewhere on each head, with strands. Expressions are what the head
has: of the open one units, and jaws that open by turning, which show the cavity of the mouth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ..models.head import PARTS, HeadModel, surface_points
from ..models.nphm import ANCHORS
from ..render.visible import around, mesh_normals, visible_points
from .scans import Scan

Kind = Literal["linear", "field", "hair"]
KINDS: tuple[Kind, ...] = ("linear", "field", "hair")

METRES_PER_UNIT = 0.25  # of ANCHORS, NPHM's
SHOWN = ("skin", "left_eye", "right_eye", "mouth_cavity", "neck")  # parts of a scan; teeth stick out of a turned jaw
OPEN_JAW = 0.12  # radians; canonical heads have their mouth open, so that lips are two surfaces, as NPHM's
WIDE_JAW = (0.15, 0.34)  # radians of jaws that open
NECK_END, NECK_TILT = -0.1, 0.25  # metres of height where throats are cut, above the open head's rough end; how much
# the cut falls to the front, below the chin
FIELD_LENGTH, FIELD_SIZE = (0.022, 0.05), 0.0035  # metres: wave length / 2π of a random field, its deviation
FIELD_WAVES = 48
HAIR_DEPTH = (0.006, 0.022)  # metres of a shell over the skull
HAIR_EDGE = 0.008  # metres over which it rises at the hairline
STRAND_DEPTH, STRAND_WIDTH = 0.0015, (0.006, 0.012)  # metres: height of strands, and from one to the next
HAIRLINE = (0.045, 0.085)  # metres above the origin where it begins above the forehead
SPREAD = 0.9  # of people's shapes, in terms of the open head's own
UNITS_SHOWN = (2, 5)  # units of a random expression
FACE_REGION = 0.012  # metres from a landmark within which a point lies on the face
NOISE, HOLES, HOLE_SIZE = 0.0003, 3, (0.006, 0.02)  # metres of deviation; most holes of a scan, their radius in metres
PICTURE_SCALE = 0.2  # of the protocol's pictures that a scan is taken with
SURFACE_POINTS, EXACT_POINTS = 16_000, 100_000  # of a scan; of what it is measured by
ALIGNING = 20  # rounds in which the open head is laid into NPHM's space


@dataclass(frozen=True)
class Person:
    """A made person.

    Attributes:
        kind: See the module.
        shape: Code [S] of the head.
        offsets: What is added to the vertices of the canonical head [V, 3], metres.
    """

    kind: Kind
    shape: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Expression:
    """Expression code [E] of the head, and how far the jaw is turned, in radians; 0 for heads without that joint."""

    name: str
    units: Tensor
    jaw: float


class PersonMaker(ABC):
    """Makes people, their expressions and scans of them, in the space of NPHM, metres.

    Attributes:
        source: What names of scans begin with, where they are not of the open head.
        template: [V, 3] of the head, in its own place, metres.
        faces: int64 [F, 3], what is shown of the head.
        skin: bool [V], where hair may grow.
        face_vertices: bool [V], what lies on the face.
        num_shape: Length of a shape code.
        shift: [3], from the head's origin to NPHM's, metres.
        anchor_vertices: int64 [A], vertices at NPHM's anchors.
    """

    source: str = ""
    template: Tensor
    faces: Tensor
    skin: Tensor
    face_vertices: Tensor
    num_shape: int
    shift: Tensor
    anchor_vertices: Tensor

    @property
    @abstractmethod
    def neutral(self) -> Expression:
        """The canonical one, relaxed with an open mouth."""

    @abstractmethod
    def expression(self, name: str, rng: np.random.Generator, wide: bool) -> Expression:
        """One by chance, on a closed or slightly open mouth, or on one that is wide open."""

    @abstractmethod
    def vertices(self, person: Person, expression: Expression) -> Tensor:
        """All vertices [V, 3] of the head."""

    def person(self, kind: Kind, rng: np.random.Generator) -> Person:
        """Somebody by chance."""
        shape = SPREAD * torch.from_numpy(rng.normal(size=self.num_shape)).float()
        offsets = torch.zeros_like(self.template)
        canonical = self.vertices(Person(kind, shape, offsets), self.neutral)
        if kind != "linear":
            offsets = random_field(canonical, rng)
        if kind == "hair":
            offsets = offsets + self._hair(canonical + offsets, rng)
        return Person(kind, shape, offsets)

    def scan(
        self, person: Person, expression: Expression, rng: np.random.Generator, count: int = SURFACE_POINTS,
        noise: float = NOISE, exact: bool = False,
    ) -> Scan:  # fmt: skip
        """Visible points with noise, holes and the throat cut; the registered head; with `exact` what is really there.

        Args:
            count: Points.
            noise: Deviation in metres, along the normals.
        """
        vertices, canonical = self.vertices(person, expression), self.vertices(person, self.neutral)
        seen = visible_points(vertices, self.faces, around(), PICTURE_SCALE)
        rest = surface_points(canonical[None], self.faces, seen.face, seen.bary)[0]
        kept = torch.from_numpy(above_cut(rest.numpy())).nonzero()[:, 0]
        seen = seen[kept]
        draw = lambda rows, most: rows[torch.from_numpy(rng.choice(len(rows), min(most, len(rows)), replace=False))]
        rows = draw(self._without_holes(seen.points, rng), count)
        chosen, corners = seen[rows], self.faces[seen.face[rows]]
        bumps = torch.from_numpy(rng.normal(0, noise, (len(chosen.points), 1))).float() if noise else 0.0
        scan = Scan(
            (chosen.points + bumps * chosen.normals).numpy(),
            chosen.normals.numpy(),
            self.face_vertices[corners].float().mean(1).gt(0.5).numpy(),
            canonical[self.anchor_vertices].numpy(),
            vertices.numpy(),
            self.faces.int().numpy(),
        )
        if not exact:
            return scan
        truth = seen[draw(torch.arange(len(seen.points)), EXACT_POINTS)]
        return replace(scan, exact=truth.points.numpy(), exact_normals=truth.normals.numpy())

    def _without_holes(self, points: Tensor, rng: np.random.Generator) -> Tensor:
        """Rows of the points that no hole takes away."""
        kept = torch.ones(len(points), dtype=torch.bool)
        for _ in range(int(rng.integers(HOLES + 1))):
            middle = points[int(rng.integers(len(points)))]
            kept &= (points - middle).norm(dim=1) > rng.uniform(*HOLE_SIZE)
        return kept.nonzero()[:, 0]

    def _hair(self, vertices: Tensor, rng: np.random.Generator) -> Tensor:
        """Offsets [V, 3] of hair on a head."""
        line = float(rng.uniform(*HAIRLINE))
        place = vertices.double().numpy()
        side = np.arctan2(place[:, 0], -place[:, 2] - 0.03)  # 0 behind, ±π in front
        waves = sum(rng.normal(0, 0.006) * np.cos(k * side + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
        # from the forehead's line down to the neck behind, around the ears
        behind = np.clip((0.035 - place[:, 2]) / 0.1, 0, 1)
        ears = 0.045 * np.exp(-(((place[:, 2] + 0.025) / 0.025) ** 2)) * (np.abs(place[:, 0]) > 0.05)
        above = place[:, 1] - (line * (1 - behind) - 0.045 * behind + ears + waves)
        share = 1 / (1 + np.exp(-above / (HAIR_EDGE / 4)))
        low, high = sorted(rng.uniform(*HAIR_DEPTH, 2))
        bulk = low + (high - low) * (0.5 + 0.5 * np.cos(rng.integers(1, 4) * side + rng.uniform(0, 2 * np.pi)))
        phase = 2 * np.pi / rng.uniform(*STRAND_WIDTH)
        along = 0.06 * side * rng.uniform(0.5, 1.5) + rng.normal(0, 0.3) * place[:, 1]
        depth = share * (bulk + STRAND_DEPTH * np.sin(phase * along))
        normals = mesh_normals(vertices, self.faces)
        return normals * (torch.from_numpy(depth).float() * self.skin)[:, None]


class ScanMaker(PersonMaker):
    """As `PersonMaker`, of the open head.

    Args:
        head: With named units.
    """

    def __init__(self, head: HeadModel) -> None:
        self.head, self.template, self.num_shape = head, head.template, head.num_shape
        parts = torch.tensor([PARTS.index(name) for name in SHOWN])
        self.faces = head.faces[torch.isin(head.face_part, parts)]
        self.skin = torch.zeros(len(head.template), dtype=torch.bool)
        self.skin[head.faces[head.face_part == PARTS.index("skin")].flatten()] = True
        self.shift, self.anchor_vertices = place_anchors(head.template, self.skin, torch.zeros(3))
        landmarks = head.landmarks(head.template[None])[0]
        self.face_vertices = torch.cdist(head.template, landmarks).min(1).values < FACE_REGION

    @property
    def neutral(self) -> Expression:
        """The canonical one, relaxed with an open mouth."""
        return Expression("neutral", torch.zeros(self.head.config.num_expression), OPEN_JAW)

    def expression(self, name: str, rng: np.random.Generator, wide: bool) -> Expression:
        """Some units by chance, on a closed or slightly open jaw, or on one that is wide open."""
        names, units = self.head.config.expression_names, torch.zeros(self.head.config.num_expression)
        # looking changes no surface that is worth a scan, and jaws are turned
        free = [n for n in names if not n.startswith(("eyeLook", "tongue", "jaw", "mouthClose"))]
        for chosen in rng.choice(free, int(rng.integers(*UNITS_SHOWN)), replace=False):
            size = rng.uniform(0.3, 1.0)
            units[names.index(chosen)] = size
            twin = chosen.replace("Left", "Right") if "Left" in chosen else chosen.replace("Right", "Left")
            if rng.random() < 0.8:  # most faces are even
                units[names.index(twin)] = size
        jaw = rng.uniform(*WIDE_JAW) if wide else rng.choice([0.0, rng.uniform(0, OPEN_JAW)])
        return Expression(name, units, float(jaw))

    @torch.no_grad()
    def vertices(self, person: Person, expression: Expression) -> Tensor:
        """All vertices [V, 3] of the head."""
        pose = torch.zeros(1, 6)
        pose[0, 3] = expression.jaw
        return self.head(person.shape[None], expression.units[None], pose)[0] + self.shift + person.offsets


def random_field(points: Tensor, rng: np.random.Generator) -> Tensor:
    """Offsets [N, 3] in metres of a smooth random field at points."""
    length = rng.uniform(*FIELD_LENGTH, FIELD_WAVES)[:, None]
    waves = torch.from_numpy(rng.normal(size=(FIELD_WAVES, 3)) / np.sqrt(3) / length).float()
    phases = torch.from_numpy(rng.uniform(0, 2 * np.pi, FIELD_WAVES)).float()
    sizes = torch.from_numpy(rng.normal(0, FIELD_SIZE * np.sqrt(2 / FIELD_WAVES), (FIELD_WAVES, 3))).float()
    return torch.cos(points @ waves.T + phases) @ sizes


def above_cut(points: np.ndarray) -> np.ndarray:
    """Which points [N, 3] of a canonical head lie above the plane by which throats are cut; NPHM's space, metres."""
    return points[:, 1] + NECK_TILT * points[:, 2] > NECK_END


def place_anchors(template: Tensor, skin: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Shift [3] that lays a head into NPHM's space, metres, and the vertices [A] at NPHM's anchors.

    Heads have their own origins: they are shifted, up and forward, until their skin lies closest to the anchors.

    Args:
        template: [V, 3] metres, its middle at x 0.
        skin: bool [V].
        start: [3], a shift that is nearly right.
    """
    rows = skin.nonzero()[:, 0]
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    anchors = torch.tensor(ANCHORS) * METRES_PER_UNIT
    order = torch.arange(len(anchors))
    order[:32] = order[:32] ^ 1  # the other one of each pair
    anchors = (anchors + anchors[order] * mirror) / 2
    tree, shift = KDTree(template[rows].numpy()), start
    for _ in range(ALIGNING):
        near = rows[torch.from_numpy(tree.query((anchors - shift).numpy())[1])]
        shift = (anchors - template[near]).mean(0) * torch.tensor([0.0, 1.0, 1.0])
    return shift, near


@dataclass(frozen=True)
class Collection:
    """How many scans are made.

    Attributes:
        people: Of each kind to train on.
        expressions: Of each of them, besides the canonical one.
        held_out: People of each kind to measure by, whom no training sees.
        held_out_expressions: Of each of those.
        noise: Deviation in metres of held-out scans, along the normals; others have NOISE.
    """

    people: int = 32
    expressions: int = 2
    held_out: int = 4
    held_out_expressions: int = 1
    noise: float = 0.001


def plan_scans(maker: PersonMaker, collection: Collection, seed: int) -> Iterator[tuple[Path, Callable[[], Scan]]]:
    """Where each scan goes in the folder, and what makes it; the same seed makes the same ones.

    `train/` is to train on. In `held_out/` identities (canonical scans of new people) and expressions (of these people)
    lie apart, and so do linear people, whom linear heads fit by their nature, and the others.
    """
    for kind in KINDS:
        for number in range(collection.people + collection.held_out):
            rng = np.random.default_rng([seed, KINDS.index(kind), number])
            person, test = maker.person(kind, rng), number >= collection.people
            nature = "linear" if kind == "linear" else "nonlinear"
            count = collection.held_out_expressions if test else collection.expressions
            shown = [maker.neutral, *make_expressions(maker, count, number, rng)]
            for expression in shown:
                what = "identities" if expression is shown[0] else "expressions"
                folder = Path("held_out") / f"{what}-{nature}" if test else Path("train")
                place = folder / f"{maker.source}{kind}-{number:03d}" / f"{expression.name}.npz"
                options = {"noise": collection.noise if test else NOISE, "exact": test}
                yield (
                    place,
                    partial(maker.scan, person, expression, np.random.default_rng(rng.integers(2**63)), **options),
                )


def make_expressions(maker: PersonMaker, count: int, first: int, rng: np.random.Generator) -> list[Expression]:
    """Expressions by their names, every other one with a wide open jaw."""
    names = [f"{'open' if (first + number) % 2 else 'units'}-{number:02d}" for number in range(count)]
    return [maker.expression(name, rng, wide=name.startswith("open")) for name in names]
