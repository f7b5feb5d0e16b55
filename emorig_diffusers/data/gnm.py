"""Google's GNM Head (v3, Apache-2.0) as a source of made scans, where users have fetched `gnm_head.npz`.

GNM is linear: template + identity code · identity basis + expression code · expression basis, in metres, y up and z to
the viewer, codes of about unit deviation. Its identities were learnt from some 5,000 people. Codes of the expression
are of regions (both eyes', the lower face's, the tongue's, the pupils'); there is no jaw to turn: what parts the lips
is found in the lower face's codes, as the shortest code that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import DataError
from .made_scans import Expression, Person, PersonMaker, place_anchors

SKIN, FACE, LIPS = "skin_exterior", ("hockey_mask", "eyes"), ("upper_lip", "lower_lip")  # groups of vertices
EYES = ("left_eye", "right_eye")  # joints
MOVED = ("left_eye", "right_eye", "lower_face", "mouth")  # regions of codes that change a face; early files say mouth
MOUTH = ("lower_face", "mouth")
EYES_PLACE = (0.0, 0.018, 0.02)  # metres, between the eyeballs in NPHM's space: behind its anchors at the eyes' corners
SPREAD = 0.7  # of expression codes, in terms of people's own; more of all at once is no face
OPEN_GAP, WIDE_GAP = 0.01, (0.013, 0.03)  # metres between lips of canonical heads and of wide open mouths, as far as
# the open head's jaw takes them apart
MIDDLE = 0.5  # share of a lip's vertices, those nearest the mid-line, that its opening is measured at

_ARRAYS = {
    "template_vertex_positions": "V3", "vertex_identity_basis": "IV3", "expression_basis": "EV3", "triangles": "F3",
    "expression_names": "E", "vertex_groups": "GV", "vertex_group_names": "G", "template_joint_positions": "J3",
    "joint_names": "J",
}  # fmt: skip
"""What is read of the file, and its shape: letters that stand for one number each, wherever they come."""


@dataclass(frozen=True)
class GnmHead:
    """What is read of `gnm_head.npz`.

    Attributes:
        template: [V, 3] in metres.
        identity_basis: [I, V, 3]; expression_basis: [E, V, 3].
        faces: int64 [F, 3], counter-clockwise seen from outside.
        expression_names: Of E components: a region and a number.
        groups: bool [V] by name.
        eyes: [3], between the joints of both eyes.
    """

    template: Tensor
    identity_basis: Tensor
    expression_basis: Tensor
    faces: Tensor
    expression_names: tuple[str, ...]
    groups: dict[str, Tensor]
    eyes: Tensor


def read_gnm(file: Path) -> GnmHead:
    """Read `gnm_head.npz` of google/GNM or of google/gnm-v3 on the Hub.

    Raises:
        DataError: It is missing, damaged or another file; one sentence.
    """
    arrays = _load(file)
    for name in ("expression_names", "vertex_group_names", "joint_names"):
        arrays[name] = np.array([str(value) for value in arrays[name]])
    groups = dict(zip(arrays["vertex_group_names"].tolist(), torch.from_numpy(arrays["vertex_groups"] > 0.5)))
    joints = dict(zip(arrays["joint_names"].tolist(), torch.from_numpy(arrays["template_joint_positions"]).float()))
    names = tuple(arrays["expression_names"].tolist())
    missing = [name for name in (SKIN, *FACE, *LIPS) if name not in groups or not groups[name].any()]
    missing += [name for name in EYES if name not in joints]
    if not any(name.startswith(MOUTH) for name in names):
        missing.append(f"expressions of the {MOUTH[0]}")
    faces = torch.from_numpy(arrays["triangles"]).long()
    if missing or faces.min() < 0 or faces.max() >= len(arrays["template_vertex_positions"]):
        raise DataError(
            f"'{file}' is no GNM Head v3 ({', '.join(missing) or 'faces without vertices'}): fetch it anew."
        )
    real = lambda name: torch.from_numpy(arrays[name]).float()
    template, identity, expression = map(
        real, ("template_vertex_positions", "vertex_identity_basis", "expression_basis")
    )
    eyes = torch.stack([joints[name] for name in EYES]).mean(0)
    return GnmHead(template, identity, expression, faces, names, groups, eyes)


def _load(file: Path) -> dict[str, np.ndarray]:
    """_ARRAYS of the file, in shapes that go together."""
    if not file.is_file():
        raise DataError(f"There is no file '{file}': fetch gnm_head.npz from google/gnm-v3 on the Hub first.")
    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in _ARRAYS if name in loaded.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise TypeError("other files than arrays")
    except Exception:  # damaged arrays make NumPy stumble in a dozen ways
        raise DataError(f"'{file}' is damaged, or no gnm_head.npz: fetch it anew.") from None
    if absent := _ARRAYS.keys() - arrays.keys():
        raise DataError(f"'{file}' is no gnm_head.npz: it has no {', '.join(sorted(absent))}.")
    sizes: dict[str, int] = {"3": 3}
    for name, shape in _ARRAYS.items():
        found = arrays[name].shape
        if len(found) != len(shape) or any(sizes.setdefault(k, n) != n for k, n in zip(shape, found)) or 0 in found:
            raise DataError(f"'{file}' has an array {name} {list(found)} that does not go with the others.")
    return arrays


class GnmMaker(PersonMaker):
    """As `PersonMaker`, of GNM; teeth and tongue are shown where a mouth is open, as they are in scans.

    Args:
        head: As `read_gnm` gives it.
    """

    source = "gnm-"

    def __init__(self, head: GnmHead) -> None:
        self.head, self.template, self.faces = head, head.template, head.faces
        self.num_shape = len(head.identity_basis)
        self.skin = head.groups[SKIN]
        self.face_vertices = torch.stack([head.groups[name] for name in FACE]).any(0)
        start = torch.tensor(EYES_PLACE) - head.eyes
        self.shift, self.anchor_vertices = place_anchors(head.template, self.skin, start)
        self.moved = torch.tensor([name.startswith(MOVED) for name in head.expression_names])
        self.opening = self._opening()

    def _opening(self) -> Tensor:
        """The shortest expression code [E] of the lower face that parts the lips by a metre, in their middle."""
        upper, lower = (self._heights(self.head.groups[name]) for name in LIPS)
        mouth = torch.tensor([name.startswith(MOUTH) for name in self.head.expression_names])
        gap = (upper - lower) * mouth
        return gap / gap.square().sum()

    def _heights(self, lip: Tensor) -> Tensor:
        """How far every component [E] lifts the middle of a lip bool [V], metres."""
        rows = lip.nonzero()[:, 0]
        aside = self.template[rows, 0].abs()
        middle = rows[aside <= aside.quantile(MIDDLE)]
        return self.head.expression_basis[:, middle, 1].mean(1)

    @property
    def neutral(self) -> Expression:
        """As `PersonMaker.neutral`."""
        return Expression("neutral", OPEN_GAP * self.opening, 0.0)

    def expression(self, name: str, rng: np.random.Generator, wide: bool) -> Expression:
        """As `PersonMaker.expression`: codes by chance, of the eyes and of the lower face."""
        codes = torch.from_numpy(rng.normal(0, SPREAD, len(self.moved))).float() * self.moved
        codes = codes - (codes @ self.opening) / self.opening.square().sum() * self.opening  # neither open nor closed
        gap = rng.uniform(*WIDE_GAP) if wide else rng.choice([0.0, rng.uniform(0, OPEN_GAP)])
        return Expression(name, codes + float(gap) * self.opening, 0.0)

    def vertices(self, person: Person, expression: Expression) -> Tensor:
        """As `PersonMaker.vertices`."""
        moved = torch.tensordot(person.shape, self.head.identity_basis, 1)
        moved = moved + torch.tensordot(expression.units, self.head.expression_basis, 1)
        return self.template + moved + self.shift + person.offsets
