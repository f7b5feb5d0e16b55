"""Files laid out as FLAME's, with random numbers or our open head in them, and FLAME's equations in plain numpy."""

from __future__ import annotations

import io
import pickle
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.sparse import csc_matrix
from scipy.spatial import ConvexHull

from emorig_diffusers.models.head import HeadModel

VERTICES, FACES, UVS, SKIN, EYE = 5023, 9976, 5118, 3931, 546


@dataclass
class FlameFiles:
    """Paths of the files, and the numbers in them by the names that they have there."""

    model: Path
    texture: Path
    landmarks: Path
    template: Path
    mediapipe: Path
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def arguments(self) -> dict[str, Path]:
        """Of `convert_flame`, all but `out`."""
        return {name: getattr(self, name) for name in ("model", "texture", "landmarks", "template", "mediapipe")}


def write_flame(
    folder: Path,
    head: HeadModel | None = None,
    seed: int = 0,
    year: int = 2020,
    texture: str = "flame",
    kind: str = "pkl",
    components: int = 51,
) -> FlameFiles:
    """Write a model and all that belongs to it.

    Args:
        folder: Made if it is not there.
        head: Whose geometry, bases, joints, landmarks and texture coordinates to write; `None` for random ones on a
            mesh of FLAME's counts (5023 vertices, of which 546 are each eyeball's, 9976 faces).
        seed: Of the random numbers.
        year: 2020 is pickled as Python 2 does, with chumpy's objects and a sparse regressor; 2023 holds plain arrays.
        texture: "flame" or "bfm".
        kind: "pkl" or "npz" (plain arrays).
        components: Of the texture space; the published ones have 200 and 199, which take 600 MB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    values = _random_head(rng) if head is None else _given_head(head, rng)
    files = FlameFiles(
        folder / (f"generic_model.{kind}" if year == 2020 else f"flame2023.{kind}"),
        folder / {"flame": "FLAME_texture.npz", "bfm": "FLAME_albedo_from_BFM.npz"}[texture],
        folder / "landmark_embedding.npy",
        folder / "head_template.obj",
        folder / "mediapipe_landmark_embedding.npz",
        values,
    )
    _write_model(files.model, values, year)
    space = _texture(rng, texture, components)
    np.savez(files.texture, **space)
    values |= space
    tensors = {name: torch.from_numpy(values[name]) for name in values if name.startswith("dynamic")}
    np.save(files.landmarks, {n: v for n, v in values.items() if "_lmk_" in n} | tensors, allow_pickle=True)
    np.savez(files.mediapipe, **{name: values[name] for name in ("lmk_face_idx", "lmk_b_coords", "landmark_indices")})
    _write_obj(files.template, values)
    return files


# numbers


def _random_head(rng: np.random.Generator) -> dict[str, np.ndarray]:
    template, faces = _mesh(rng)
    corner = rng.choice(FACES * 3, UVS - VERTICES, replace=False)
    faces_uv = faces.copy()
    faces_uv.reshape(-1)[corner] = np.arange(VERTICES, UVS)
    regressor = np.zeros((5, VERTICES))
    for row in regressor:
        row[rng.choice(VERTICES, 12, replace=False)] = rng.dirichlet(np.ones(12))
    places = lambda *size: (rng.integers(0, FACES, size), rng.dirichlet(np.ones(3), size))
    return {
        "v_template": template,
        "f": faces.astype(np.uint32),
        "shapedirs": rng.normal(size=(VERTICES, 3, 400)) * 1e-3,
        "posedirs": rng.normal(size=(VERTICES, 3, 36)) * 1e-3,
        "J_regressor": regressor,
        "weights": rng.dirichlet(np.ones(5), VERTICES),
        "uv": np.round(rng.random((UVS, 2)), 6),
        "faces_uv": faces_uv,
        **_embedding(places(68), places(79, 17)),
        **_mediapipe(rng.choice(478, 105, replace=False), *places(105)),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], np.uint32),
    }


def _mesh(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A ball with holes for the skin and two closed balls for the eyes."""
    skin, around = _ball(SKIN)
    around = around[np.sort(rng.permutation(len(around))[: FACES - 2 * (2 * EYE - 4)])]
    eye, ring = _ball(EYE)
    places = np.array([[0.031, 0.03, 0.06], [-0.031, 0.03, 0.06]])
    template = np.concatenate([skin * [0.08, 0.12, 0.1], *(eye * 0.012 + place for place in places)])
    return template, np.concatenate([around, ring + SKIN, ring + SKIN + EYE])


def _ball(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a unit sphere on a spiral [count, 3] and its faces [2 count - 4, 3], seen from outside."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    width = np.sqrt(1 - height**2)
    points = np.stack([width * np.cos(angle), height, width * np.sin(angle)], 1)
    faces = ConvexHull(points).simplices.astype(np.int64)
    a, b, c = points[faces].transpose(1, 0, 2)
    inside = (np.cross(b - a, c - a) * a).sum(1) < 0
    faces[inside] = faces[inside][:, ::-1]
    return points, faces


def _given_head(head: HeadModel, rng: np.random.Generator) -> dict[str, np.ndarray]:
    own = {name: value.detach().cpu().numpy() for name, value in head.named_parameters()}
    count, real = len(own["template"]), lambda name: own[name].astype(np.float64)
    basis = np.zeros((count, 3, 400))
    for name, first in (("shape_basis", 0), ("expression_basis", 300)):
        basis[..., first : first + len(own[name])] = own[name].transpose(1, 2, 0)
    poses = np.zeros((count, 3, 36))
    poses[..., : len(own["pose_basis"])] = own["pose_basis"].transpose(1, 2, 0)
    placed = np.sort(rng.permutation(np.flatnonzero(own["landmark_weight"]))[:105])
    table = (own["landmark68_faces"][:17][None].repeat(79, 0), own["landmark68_bary"][:17][None].repeat(79, 0))
    return {
        "v_template": real("template"),
        "f": own["faces"].astype(np.uint32),
        "shapedirs": basis,
        "posedirs": poses,
        "J_regressor": real("joint_regressor"),
        "weights": real("skinning"),
        "uv": real("uv"),
        "faces_uv": own["faces_uv"],
        **_embedding((own["landmark68_faces"], real("landmark68_bary")), table),
        **_mediapipe(placed, own["landmark_faces"][placed], real("landmark_bary")[placed]),
        "kintree_table": np.array([[2**32 - 1, *head.config.parents[1:]], range(5)], np.uint32),
    }


def _embedding(full: tuple[np.ndarray, np.ndarray], dynamic: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "static_lmk_faces_idx": full[0][17:],
        "static_lmk_bary_coords": full[1][17:],
        "dynamic_lmk_faces_idx": dynamic[0],
        "dynamic_lmk_bary_coords": dynamic[1].astype(np.float32),
        "full_lmk_faces_idx": full[0][None],
        "full_lmk_bary_coords": full[1][None].astype(np.float32),
    }


def _mediapipe(index: np.ndarray, face: np.ndarray, bary: np.ndarray) -> dict[str, np.ndarray]:
    return {"lmk_face_idx": face, "lmk_b_coords": bary, "landmark_indices": index}


def _texture(rng: np.random.Generator, kind: str, components: int) -> dict[str, np.ndarray]:
    """Noise, BGR as published."""
    mean, basis = rng.random((512, 512, 3)), rng.integers(-8, 9, (512, 512, 3, components), np.int8)
    if kind == "bfm":
        return {"MU": mean, "PC": basis * np.float16(1 / 256)}
    return {"mean": (mean * 255).astype(np.float32), "tex_dir": basis}


# files


class _Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 writes it: texts and bytes are one type, stored as they are."""

    dispatch = dict(pickle._Pickler.dispatch)

    def _text(self, value: str | bytes) -> None:
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _text


@contextmanager
def named(module: str, name: str) -> Iterator[type]:
    """An empty class that pickles as `module.name`, whether or not there is such a module."""
    kind = type(name, (), {"__module__": module})
    parts = module.split(".")
    stubs = {".".join(parts[: n + 1]): ModuleType(module) for n in range(len(parts))}
    setattr(stubs[module], name, kind)
    keep = {stub: value for stub, value in stubs.items() if stub == module or stub not in sys.modules}
    with patch.dict(sys.modules, keep):
        yield kind


def with_state(kind: type, **state: Any) -> Any:
    """An object of that class with these attributes."""
    value = kind.__new__(kind)
    value.__dict__.update(state)
    return value


def python2_pickle(value: Any) -> bytes:
    """`value` as Python 2 and numpy 1 would pickle it in protocol 2."""
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")


def _write_model(file: Path, values: dict[str, np.ndarray], year: int) -> None:
    names = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
    model: dict[str, Any] = {name: values[name] for name in names} | {"bs_style": "lbs", "bs_type": "lrotmin"}
    if file.suffix == ".npz":
        np.savez(file, **model)
    elif year == 2023:
        file.write_bytes(pickle.dumps(model, 4))
    else:
        file.write_bytes(_pickled_2020(model))


def _pickled_2020(model: dict[str, Any]) -> bytes:
    sparse = csc_matrix(model["J_regressor"])
    parts = {"indices": sparse.indices, "indptr": sparse.indptr, "data": sparse.data}
    with (
        named("chumpy.ch", "Ch") as ch,
        named("chumpy.reordering", "Select") as select,
        named("scipy.sparse.csc", "csc_matrix") as csc,
    ):
        number = lambda array: with_state(ch, x=array, _dirty_vars=set(), _itr=None, _depends_on_deps={})
        flat = number(np.concatenate([np.zeros(7), model["v_template"].ravel()]))
        template = with_state(
            select, a=flat, idxs=np.arange(7, 7 + model["v_template"].size), preferred_shape=model["v_template"].shape
        )
        made = {
            "v_template": template,
            "shapedirs": number(model["shapedirs"]),
            "weights": number(model["weights"]),
            "J": with_state(ch, _dirty_vars=set()),  # computed from others: its array cannot be told
            "J_regressor": with_state(csc, _shape=sparse.shape, maxprint=50, **parts),
        }
        return python2_pickle(model | made)


def _write_obj(file: Path, values: dict[str, np.ndarray]) -> None:
    lines = ["# a head", "mtllib head.mtl"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in values["v_template"].tolist()]
    lines += [f"vt {u!r} {v!r}" for u, v in values["uv"].tolist()]
    lines += ["usemtl skin", "s off"]
    for face, uv in zip((values["f"].astype(np.int64) + 1).tolist(), (values["faces_uv"] + 1).tolist(), strict=True):
        lines.append("f " + " ".join(f"{a}/{b}" for a, b in zip(face, uv, strict=True)))
    file.write_text("\n".join(lines) + "\n")


# FLAME's equations


def _rotation(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector + 1e-8)
    x, y, z = vector / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def _rigid(rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.block([[rotation, shift[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def flame_forward(
    values: dict[str, np.ndarray],
    shape: np.ndarray,
    expression: np.ndarray,
    pose: np.ndarray,
    neck: np.ndarray | None = None,
    eyes: np.ndarray | None = None,
) -> np.ndarray:
    """Vertices [V, 3] of one face in float64, from the numbers as they are in the files (Li et al. 2017, eq. 1-5).

    Args:
        values: `FlameFiles.values`.
        shape, expression: Codes [S] and [E].
        pose: Global and jaw axis-angle [6], radians.
        neck, eyes: Axis-angle [3] and [6].
    """
    identities, expressions = values["shapedirs"][..., : len(shape)], values["shapedirs"][..., 300:]
    rest = values["v_template"] + identities @ shape + expressions[..., : len(expression)] @ expression
    joints = values["J_regressor"] @ rest
    neck, eyes = (np.zeros(n) if a is None else a for a, n in ((neck, 3), (eyes, 6)))
    turns = [_rotation(v) for v in (pose[:3], neck, pose[3:], eyes[:3], eyes[3:])]
    posed = rest + values["posedirs"] @ np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
    world = [_rigid(turns[0], joints[0])]
    for joint in range(1, 5):
        parent = int(values["kintree_table"][0, joint])
        world.append(world[parent] @ _rigid(turns[joint], joints[joint] - joints[parent]))
    bones = np.stack([bone @ _rigid(np.eye(3), -joint) for bone, joint in zip(world, joints, strict=True)])
    blended = np.einsum("vj,jmn->vmn", values["weights"], bones)
    return (blended @ np.column_stack([posed, np.ones(len(posed))])[..., None])[:, :3, 0]


def flame_landmarks(values: dict[str, np.ndarray], vertices: np.ndarray) -> np.ndarray:
    """The 68 points [68, 3] of posed vertices: the frontal contour, then the 51 inner points."""
    face = np.concatenate([values["full_lmk_faces_idx"][0, :17], values["static_lmk_faces_idx"]])
    bary = np.concatenate([values["full_lmk_bary_coords"][0, :17], values["static_lmk_bary_coords"]])
    return np.einsum("nc,ncx->nx", bary, vertices[values["f"][face].astype(np.int64)])


def flame_landmarks2d(
    values: dict[str, np.ndarray], vertices: np.ndarray, pose: np.ndarray, neck: np.ndarray
) -> np.ndarray:
    """DECA's landmarks2d before projection [68, 3]: as `flame_landmarks`, with the contour that a camera sees.

    The table's row is the y angle of the neck after the root, in degrees, at most 39; negative angles a are row 39 - a.
    """
    turn = _rotation(pose[:3]) @ _rotation(neck)
    angle = int(np.round(min(np.degrees(np.arctan2(-turn[2, 0], np.hypot(turn[0, 0], turn[1, 0]))), 39)))
    row = angle if angle >= 0 else 78 if angle < -39 else 39 - angle
    points = flame_landmarks(values, vertices)
    corners = vertices[values["f"][values["dynamic_lmk_faces_idx"][row]].astype(np.int64)]
    points[:17] = np.einsum("nc,ncx->nx", values["dynamic_lmk_bary_coords"][row], corners)
    return points


def flame_texture(values: dict[str, np.ndarray], codes: np.ndarray, size: int = 256) -> np.ndarray:
    """Texture [3, size, size] of codes [50], RGB in about [0, 1], pixel for pixel after DECA's description."""
    mean, basis, factor = ("mean", "tex_dir", 1 / 255) if "mean" in values else ("MU", "PC", 1.0)
    full = (values[mean].astype(np.float64) + values[basis][..., :50].astype(np.float64) @ codes) * factor
    nearest = np.floor(np.arange(size) * (512 / size)).astype(int)
    return full[nearest[:, None], nearest[None]][..., [2, 1, 0]].transpose(2, 0, 1)


def small_flame() -> dict[str, np.ndarray]:
    """The numbers of a valid model of one tetrahedron."""
    rng = np.random.default_rng(0)
    return {
        "v_template": rng.normal(size=(4, 3)), "f": np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]),
        "shapedirs": rng.normal(size=(4, 3, 400)), "posedirs": rng.normal(size=(4, 3, 36)),
        "J_regressor": np.full((5, 4), 0.25), "weights": np.full((4, 5), 0.2),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)]),
    }  # fmt: skip
