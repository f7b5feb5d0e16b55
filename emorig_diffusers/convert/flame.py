"""FLAME (Li et al. 2017), its texture spaces and its landmarks, as a HeadModel.

The files come from their makers, under their terms: FLAME 2020 or 2023 (`generic_model.pkl`, `flame2023.pkl` or an
.npz of the same keys), `FLAME_texture.npz` or `FLAME_albedo_from_BFM.npz`, and DECA's `head_template.obj` and
`landmark_embedding.npy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix, issparse
from scipy.sparse.csgraph import connected_components

from ..files.folders import write_folder
from ..models.head import CONTOUR, MAX_CONTOUR_YAW, PARTS, HeadModel
from ..photo.crops import IBUG68
from .files import AS_PUBLISHED, ConvertError, read_arrays

Arrays = Mapping[str, Any]

NUM_TEXTURE = 50
"""Texture components that DECA uses, the first of FLAME's 200 or of BFM's 199."""

_MODEL_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
_IDENTITIES = 300  # components of shapedirs before the expressions
_SKIN, _EYE = (0.41, 0.23, 0.16), (0.51, 0.48, 0.46)  # linear RGB; means of the open head
_ASIDE = 0.01  # metres from the middle at least to an eyeball's centre
_SPACES = {"flame": ("mean", "tex_dir", 1 / 255), "bfm": ("MU", "PC", 1.0)}  # keys and factor to [0, 1]
_TEXTURE_SIDE = 512


def convert_flame(
    model: Path,
    out: Path,
    texture: Path | None = None,
    landmarks: Path | None = None,
    template: Path | None = None,
    mediapipe: Path | None = None,
    num_shape: int = 100,
    num_expression: int = 50,
) -> Path:
    """Write FLAME as a folder for `HeadModel.from_pretrained`.

    Args:
        model: `generic_model.pkl` (2019, 2020), `flame2023.pkl`, or an .npz with their keys.
        out: A new or empty folder.
        texture: `FLAME_texture.npz` or `FLAME_albedo_from_BFM.npz`; without it the head has no texture space and
            all its skin has one mean colour.
        landmarks: `landmark_embedding.npy`. Without it the head converts, but has no landmarks: fitting a head to a
            photo's landmarks, DiffusionRig's re-centring and drawing a photo's texture then do not work.
        template: `head_template.obj`, whose texture coordinates a texture needs.
        mediapipe: `mediapipe_landmark_embedding.npz`: more of MediaPipe's points than the 51 inner ones of iBUG.
        num_shape, num_expression: How many components to keep, of at most 300 and 100; DECA and EMOCA use 100, 50.

    Returns:
        `out`, absolute.

    Raises:
        ConvertError: A file is missing, is another one, is damaged, or does not belong to the others; `out` is not
            empty. Nothing is left behind.
    """
    def write(folder: Path) -> None:
        values = _mesh(_read(model, _MODEL_KEYS, optional=_EXPRESSIONS), Path(model), num_shape, num_expression)
        values |= _landmarks(landmarks, mediapipe, len(values["faces"]))
        values |= _template(template, values["faces"], len(values["template"]))
        settings: dict[str, Any] = {"parents": values.pop("parents"), "num_contours": len(values["contour_faces"])}
        if texture is not None:
            source, values["texture_mean"], values["texture_basis"] = _texture(Path(texture))
            settings |= {"num_texture": NUM_TEXTURE, "texture_source": source}
        _head(values, settings).save_pretrained(folder)

    if texture is not None and template is None:
        raise ConvertError(f"{texture} needs texture coordinates: give DECA's head_template.obj as template too.")
    return write_folder(out, write)


def _head(values: Arrays, settings: dict[str, Any]) -> HeadModel:
    head = HeadModel(
        num_vertices=len(values["template"]),
        num_faces=len(values["faces"]),
        num_uv=len(values["uv"]),
        num_shape=len(values["shape_basis"]),
        num_expression=len(values["expression_basis"]),
        num_pose_correctives=len(values["pose_basis"]),
        num_landmarks=len(values["landmark_faces"]),
        **settings,
    )
    kinds = {name: value.dtype for name, value in head.state_dict().items()}
    head.load_state_dict({name: torch.from_numpy(values[name].copy()).to(kind) for name, kind in kinds.items()})
    return head


# the model

_EXPRESSIONS = ("expressedirs", "exprdirs")  # where a file has expressions apart from identities


def _mesh(model: Arrays, file: Path, num_shape: int, num_expression: int) -> dict[str, Any]:
    template = _array(model, "v_template", file, (None, 3))
    count = len(template)
    shapes, expressions = _bases(model, file, count, num_shape, num_expression)
    table = _array(model, "kintree_table", file, (2, None)).astype(np.int64)
    joints = table.shape[1]
    faces = _indices(model, "f", file, (None, 3), count)
    poses = _array(model, "posedirs", file, (count, 3, 9 * (joints - 1)))
    weights = _array(model, "weights", file, (count, joints))
    if abs(weights.sum(1) - 1).max() > 1e-3:
        raise ConvertError(f"{file} has skinning weights that do not add up to 1: give FLAME's own file.")
    part = _face_parts(faces, template)
    eyes = np.isin(np.arange(count), faces[np.isin(part, [PARTS.index("left_eye"), PARTS.index("right_eye")])])
    return {
        "template": template,
        "shape_basis": shapes.transpose(2, 0, 1),
        "expression_basis": expressions.transpose(2, 0, 1),
        "pose_basis": poses.transpose(2, 0, 1),
        "joint_regressor": _array(model, "J_regressor", file, (joints, count)),
        "skinning": weights,
        "parents": _parents(table[0], file),
        "faces": faces,
        "face_part": part,
        "albedo": np.where(eyes[:, None], _EYE, _SKIN),
    }


def _bases(model: Arrays, file: Path, count: int, num_shape: int, num_expression: int) -> tuple[np.ndarray, np.ndarray]:
    """Identities [V, 3, S] and expressions [V, 3, E], from one array or from two."""
    both = _array(model, "shapedirs", file, (count, 3, None))
    apart = [name for name in _EXPRESSIONS if name in model]
    shapes, expressions = both[..., :_IDENTITIES], both[..., _IDENTITIES:]
    if apart:
        shapes, expressions = both, _array(model, apart[0], file, (count, 3, None))
    if not 0 < num_shape <= shapes.shape[2] or not 0 < num_expression <= expressions.shape[2]:
        raise ConvertError(
            f"{file} has {shapes.shape[2]} shape and {expressions.shape[2]} expression components, "
            f"where {num_shape} and {num_expression} were asked for: give FLAME's full model or ask for fewer."
        )
    return shapes[..., :num_shape], expressions[..., :num_expression]


def _parents(row: np.ndarray, file: Path) -> tuple[int, ...]:
    parents = (-1, *map(int, row[1:]))  # the root's is 2**32 - 1 in the file
    if len(parents) != 5 or any(not 0 <= parent < joint for joint, parent in enumerate(parents) if joint):
        raise ConvertError(f"{file}: kintree_table has the parents {parents}, not five in order: {AS_PUBLISHED}")
    return parents


def _face_parts(faces: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Eyeballs are the largest two connected pieces of one size on the two sides; the rest is skin."""
    count, (a, b, c) = len(template), faces.T
    edges = coo_matrix((np.ones(2 * len(faces)), (np.r_[a, b], np.r_[b, c])), shape=(count, count))
    _, piece = connected_components(edges, directed=False)
    piece, x = piece[a], template[faces, 0].mean(1)
    sizes = np.bincount(piece)
    middle = np.bincount(piece, x) / sizes.clip(min=1)
    part = np.full(len(faces), PARTS.index("skin"))
    for size in sorted(set(sizes), reverse=True):
        left, right = ((sizes == size) & (side * middle > _ASIDE) for side in (1, -1))
        if size and left.sum() == right.sum() == 1:
            part[left[piece]], part[right[piece]] = PARTS.index("left_eye"), PARTS.index("right_eye")
            break
    return part


# the template


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texture coordinates [T, 2], faces [F, 3] and their rows of the coordinates [F, 3] of a triangle mesh.

    Raises:
        ConvertError: No such file, no OBJ, or faces that are no triangles with texture coordinates.
    """
    try:
        lines = [line.split() for line in Path(path).read_text("utf-8").splitlines()]
        uv = [line[1:3] for line in lines if line[:1] == ["vt"]]
        corners = [[corner.split("/")[:2] for corner in line[1:]] for line in lines if line[:1] == ["f"]]
        places, corner = np.array(uv, np.float64).reshape(-1, 2), np.array(corners, np.int64).reshape(-1, 3, 2) - 1
    except OSError as error:
        raise ConvertError(f"{path} cannot be read ({error.strerror}): give the path of the file.") from error
    except ValueError as error:
        raise ConvertError(
            f"{path} is no OBJ of triangles with texture coordinates: give DECA's head_template.obj."
        ) from error
    if not len(places) or not len(corner) or not np.isfinite(places).all():
        raise ConvertError(f"{path} has no faces with texture coordinates: give DECA's head_template.obj.")
    return places, corner[..., 0], corner[..., 1]


def _template(path: Path | None, faces: np.ndarray, vertices: int) -> dict[str, np.ndarray]:
    if path is None:
        return {"uv": np.zeros((1, 2)), "faces_uv": np.zeros_like(faces)}
    uv, own, faces_uv = read_obj(path)
    if not np.array_equal(own, faces):
        raise ConvertError(
            f"{path} has other faces ({len(own)}) than the model ({len(faces)} on {vertices} vertices): "
            "give the head_template.obj of the same mesh."
        )
    if faces_uv.min() < 0 or faces_uv.max() >= len(uv):
        raise ConvertError(f"{path} names texture coordinates that it does not have: download the file again.")
    return {"uv": uv, "faces_uv": faces_uv}


# landmarks

_CONTOURS = ("dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords")  # a row a degree of the head's turn


def _landmarks(path: Path | None, mediapipe: Path | None, faces: int) -> dict[str, np.ndarray]:
    """The 68 points of iBUG, the contour's table and, of MediaPipe's 478 points, those that have a place.

    The contour slides over the mesh with the head's pose, so the dense set leaves it out; among the 68 it has the
    places of the frontal head.
    """
    face68, bary68 = np.zeros(68, np.int64), np.zeros((68, 3))
    table = np.zeros((0, CONTOUR), np.int64), np.zeros((0, CONTOUR, 3))
    dense = {f"landmark_{name}": np.zeros((478, 3)[: 1 + (name == "bary")]) for name in ("faces", "bary", "weight")}
    if path is not None:
        full, inner = (f"{kind}_lmk_{{}}" for kind in ("full", "static"))
        names = [name.format(part) for name in (full, inner) for part in ("faces_idx", "bary_coords")]
        found, file = _read(path, names, optional=_CONTOURS), Path(path)
        contour = _places(found, full.format("faces_idx"), full.format("bary_coords"), file, 68, faces)
        static = _places(found, inner.format("faces_idx"), inner.format("bary_coords"), file, 51, faces)
        face68, bary68 = (np.concatenate([a[:CONTOUR], b]) for a, b in zip(contour, static))
        _set(dense, list(IBUG68[CONTOUR:]), *static)
        if all(name in found for name in _CONTOURS):
            rows = 2 * MAX_CONTOUR_YAW + 1
            face, bary = _places(found, *_CONTOURS, file, rows * CONTOUR, faces)
            table = face.reshape(rows, CONTOUR), bary.reshape(rows, CONTOUR, 3)
    if mediapipe is not None:
        found, file = _read(mediapipe, ("lmk_face_idx", "lmk_b_coords", "landmark_indices")), Path(mediapipe)
        index = _indices(found, "landmark_indices", file, (None,), 478)
        _set(dense, index, *_places(found, "lmk_face_idx", "lmk_b_coords", file, len(index), faces))
    contours = {"contour_faces": table[0], "contour_bary": table[1]}
    return {"landmark68_faces": face68, "landmark68_bary": bary68, **contours, **dense}


def _places(found: Arrays, face: str, bary: str, file: Path, count: int, faces: int) -> tuple[np.ndarray, np.ndarray]:
    flat = {face: np.asarray(found[face]).reshape(-1), bary: np.asarray(found[bary]).reshape(-1, 3)}
    shares = _array(flat, bary, file, (count, 3))
    if abs(shares.sum(1) - 1).max() > 1e-3:
        raise ConvertError(f"{file} has barycentric coordinates in {bary} that do not add up to 1: download it again.")
    return _indices(flat, face, file, (count,), faces), shares


def _set(dense: dict[str, np.ndarray], index: Any, face: np.ndarray, bary: np.ndarray) -> None:
    dense["landmark_faces"][index], dense["landmark_bary"][index], dense["landmark_weight"][index] = face, bary, 1


# texture


def _texture(file: Path) -> tuple[str, np.ndarray, np.ndarray]:
    """Name, mean [3, 256, 256] and basis [50, 3, 256, 256] of a texture space, RGB.

    DECA halves the 512 pixels with torch's nearest-neighbour rule, which takes every other one, and turns the file's
    BGR round.
    """
    found = read_arrays(file, only={key for mean, basis, _ in _SPACES.values() for key in (mean, basis)})
    names = [name for name, (mean, basis, _) in _SPACES.items() if mean in found and basis in found]
    if len(names) != 1:
        raise ConvertError(f"{file} is no texture space: give FLAME_texture.npz or FLAME_albedo_from_BFM.npz.")
    mean_key, basis_key, factor = _SPACES[names[0]]
    picture = (_TEXTURE_SIDE, _TEXTURE_SIDE, 3)
    mean, basis = np.asarray(found[mean_key]), np.asarray(found[basis_key])
    count = basis.shape[-1] if basis.ndim > 1 else 0
    if mean.size != np.prod(picture) or basis.size != mean.size * count or count < NUM_TEXTURE:
        raise ConvertError(
            f"{file} has a mean {list(mean.shape)} and a basis {list(basis.shape)}, where 512 x 512 x 3 pixels and at "
            f"least {NUM_TEXTURE} components were expected: others are not supported."
        )
    basis = basis.reshape(*picture, -1)[::2, ::2, ::-1, :NUM_TEXTURE].transpose(3, 2, 0, 1)
    mean = mean.reshape(picture)[::2, ::2, ::-1].transpose(2, 0, 1)
    mean, basis = (np.asarray(array, np.float32) * np.float32(factor) for array in (mean, basis))
    if not np.isfinite(mean).all() or not np.isfinite(basis).all():
        raise ConvertError(f"{file} has numbers that are not finite: download the file again.")
    return names[0], mean, basis


# checks


def _read(path: Path, keys: tuple[str, ...] | list[str], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    found = read_arrays(path, only={*keys, *optional})
    missing = [key for key in keys if key not in found]
    if missing:
        raise ConvertError(f"{path} lacks {', '.join(missing[:3])}: is it the file that was asked for?")
    return found


def _array(values: Arrays, key: str, file: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """A finite float64 array of the wanted shape, `None` for any length above 0."""
    value = values[key]
    value = value.toarray() if issparse(value) else value
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise ConvertError(f"{file}: the numbers of {key} cannot be told ({type(value).__name__}): {AS_PUBLISHED}")
    if value.ndim != len(shape) or not all(a == (b or a) and a for a, b in zip(value.shape, shape)):
        wanted = ", ".join(str(size or "any") for size in shape)
        raise ConvertError(f"{file}: {key} is {list(value.shape)} and not [{wanted}]: {AS_PUBLISHED}")
    if not np.isfinite(value).all():
        raise ConvertError(f"{file}: {key} has numbers that are not finite: download the file again.")
    return value.astype(np.float64)


def _indices(values: Arrays, key: str, file: Path, shape: tuple[int | None, ...], count: int) -> np.ndarray:
    """Whole numbers int64 of the wanted shape, below `count`."""
    value = _array(values, key, file, shape)
    if value.min() < 0 or value.max() >= count or (value % 1).any():
        raise ConvertError(f"{file}: {key} has indices outside 0 ... {count - 1}: do the files belong together?")
    return value.astype(np.int64)
