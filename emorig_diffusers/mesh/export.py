"""A fitted head as a textured mesh, and its files: GLB, or OBJ with its material and texture beside it.

Needs a head, its vertices, a photo and where each vertex lies in the photo. Any pipeline's result can be had so: a
head of another face model, or of none, is that which "emorig-open" fits to the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy import sparse
from torch import Tensor
from torch.nn.functional import normalize
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from ..files.atomic import write_files
from ..models.head import PARTS, HeadModel
from ..models.mesh_fields import similarity
from ..photo.masks import ramp
from ..photo.resample import invert, transform_points
from ..render.buffers import vertex_normals
from ..render.camera import ndc_to_pixels, project, transform_ndc
from .morphs import Morphs, add_morphs
from .neck import cut, neck_height
from .texture import LEFT_OUT, PhotoView, texture_map
from .uv_atlas import uv_layout

if TYPE_CHECKING:
    from ..face.codes import FaceCodes
    from ..face.encode import EncodedFace, RigMixin
    from ..pipelines.emorig import EmoRigPipeline
    from ..pipelines.outputs import EditedFace

MESH_SUFFIXES = (".glb", ".obj")
FACE, SKULL = 0.01, 0.06  # metres from the nearest landmark within which the fit counts, beyond which the mean head
TUCKS = 2  # rounds: what was hidden by what stuck out may stick out too
FINE = 512  # side of the picture in which vertices are placed, pixels; any side gives the same places


@dataclass
class TexturedMesh:
    """A mesh with one texture; vertices are doubled along the texture's seams.

    Attributes:
        vertices: float64 [N, 3] in metres, y up, z to the viewer.
        normals: float64 [N, 3], unit length, outwards.
        uv: float64 [N, 2] in [0, 1], from the texture's bottom left.
        faces: int64 [F, 3], counter-clockwise seen from outside.
        texture: uint8 [S, S, 3], sRGB.
        morphs: Targets for what the head's units do; vertices and normals are then those of the head at rest.
    """

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    texture: np.ndarray
    morphs: Morphs | None = None


@dataclass
class Units:
    """What named units of expression add to a posed head: vertices [K, V, 3] in metres, and how much of each the head
    shows [K], in [0, 1]."""

    names: tuple[str, ...]
    offsets: Tensor
    amounts: Tensor


def textured_mesh(
    head: HeadModel,
    vertices: Tensor,
    pixels: np.ndarray,
    photo: np.ndarray,
    size: int = 1024,
    units: Units | None = None,
) -> TexturedMesh:
    """A posed head with a photo on it, without the lower teeth, which stick out of the chin of an open mouth.

    What else sticks out of the skin around the mouth is moved behind it, and a jagged neck is cut cleanly.

    Args:
        head, pixels, photo: As for `PhotoView`.
        vertices: [V, 3] in metres, z along the photo's line of sight: the mesh to make.
        size: Side of the texture, as for `texture_map`.
        units: What become morph targets.

    Raises:
        ValueError: As `PhotoView` and `texture_map`, or for other vertices than the head's.
    """
    if vertices.shape != head.template.shape:
        raise ValueError(f"vertices must be {list(head.template.shape)} as the head's, got {list(vertices.shape)}.")
    view, back = _tuck(PhotoView(head, pixels, photo))
    texture = texture_map(view, size)
    kept = head.face_part != LEFT_OUT
    corners = torch.stack([head.faces[kept].flatten(), head.faces_uv[kept].flatten()], 1).numpy()
    pairs, index = np.unique(corners, axis=0, return_inverse=True)
    place = vertices.detach().cpu().double().clone()
    place[:, 2] -= torch.from_numpy(back)
    if units is not None:
        place -= torch.einsum("k,kvc->vc", units.amounts.double(), units.offsets.double())
    faces, height = index.reshape(-1, 3), neck_height(head)
    means = sparse.identity(len(pairs), format="csr")
    if height is not None:
        faces, means = cut(faces, height[pairs[:, 0]])
    spread = lambda values: means @ values[pairs[:, 0]]
    unit_normals = lambda where: normalize(torch.from_numpy(spread(vertex_normals(where[None], head.faces)[0].numpy())))
    uv, normals = means @ uv_layout(head)[pairs[:, 1]], unit_normals(place).numpy()
    mesh = TexturedMesh(spread(place.numpy()), normals, uv, faces, texture)
    if units is not None:
        moved = np.array([spread(offset.numpy()) for offset in units.offsets], np.float32)
        turned = [unit_normals(place + offset).numpy() - normals for offset in units.offsets.double()]
        mesh.morphs = Morphs(units.names, moved, np.array(turned, np.float32), units.amounts.numpy())
    return mesh


def _tuck(view: PhotoView) -> tuple[PhotoView, np.ndarray]:
    """The view without what sticks out, and how far that moved back [V], metres."""
    total = np.zeros(len(view.pixels))
    for _ in range(TUCKS):
        back = view.sticking_out()
        if not back.any():
            break
        total += back
        behind = np.column_stack([view.pixels[:, :2], view.pixels[:, 2] + back * view.scale])
        view = PhotoView(view.head, behind, view.photo)
    return view, total


@torch.no_grad()
def plain_skull(head: HeadModel, vertices: Tensor, plain: Tensor) -> Tensor:
    """A head whose face is the fitted one's and whose skull, of which landmarks tell nothing, is the mean head's.

    A fit stretches what it does not see: crowns rise to cones. The mean head is laid onto the face by a similarity
    (Umeyama 1991) and takes over with the distance from the landmarks.

    Args:
        vertices: [V, 3] in metres, fitted.
        plain: The same expression and pose on the mean shape [V, 3].
    """
    away = torch.cdist(head.template, head.landmarks(head.template[None])[0]).min(1).values
    share = torch.from_numpy(ramp(away.numpy(), FACE, SKULL))
    outside = (head.face_part == PARTS.index("skin")) | (head.face_part == PARTS.index("neck"))
    seen = torch.zeros(len(away), dtype=torch.bool)
    seen[head.faces[outside].flatten()] = True
    share = (share * seen)[:, None].to(vertices)
    near = away < FACE
    matrix, shift = similarity(plain[near].double().numpy(), vertices[near].double().numpy())
    laid = plain.double().numpy() @ matrix.T + shift
    return torch.lerp(vertices, torch.from_numpy(laid).to(vertices), share)


@torch.no_grad()
def head_units(pipe: RigMixin, codes: FaceCodes) -> Units | None:
    """What the head's units do to a head that shows codes [1, ...]; `None` where they have no names.

    Whatever the pose, vertices are linear in them.
    """
    names, own = tuple(pipe.head.config.expression_names), codes.expression
    if not names:
        return None
    head, double = deepcopy(pipe.head).double(), codes.to(torch.float64)
    still, *moved = (
        head(double.shape, double.expression + step, double.pose)[0] for step in (0.0, *torch.eye(len(names)))
    )
    return Units(names, torch.stack(moved) - still, own[0].clamp(0, 1))


def mesh_of_photo(
    pipe: RigMixin, face: EncodedFace, photo: np.ndarray, size: int = 1024, morphs: bool = False
) -> TexturedMesh:
    """The head of an encoded face, textured with its photo uint8 [H, W, 3]; with `morphs` for its units, if named."""
    placed = pipe.grid_vertices(face, face.codes, FINE).numpy()
    vertices = _calm(pipe, pipe.pose_head(face.codes)[0], face.codes)
    units = head_units(pipe, face.codes) if morphs else None
    return textured_mesh(pipe.head, vertices, _in_photo(face, placed), photo, size, units)


def mesh_of_edit(
    pipe: EmoRigPipeline,
    face: EncodedFace,
    edited: EditedFace,
    result: np.ndarray,
    size: int = 1024,
    morphs: bool = False,
) -> TexturedMesh:
    """The head of an edited face, textured with the edited photo uint8 [H, W, 3]; `face` as read from the photo,
    `morphs` as for `mesh_of_photo`."""
    points = project(edited.vertices[None], edited.target.camera)
    if pipe.painter.keeps_fit_residual:
        points = torch.cat([points[..., :2] + face.offsets, points[..., 2:]], -1)
    placed = ndc_to_pixels(transform_ndc(points, face.transform), FINE)[0].numpy()
    vertices = _calm(pipe, edited.vertices, edited.target)
    units = head_units(pipe, edited.target) if morphs else None
    return textured_mesh(pipe.head, vertices, _in_photo(face, placed), result, size, units)


def _calm(pipe: RigMixin, vertices: Tensor, codes: FaceCodes) -> Tensor:
    """`plain_skull` of a head [V, 3] that shows codes."""
    plain = pipe.pose_head(codes.with_(shape=torch.zeros_like(codes.shape)))[0]
    return plain_skull(pipe.head, vertices.cpu(), plain.cpu())


def _in_photo(face: EncodedFace, placed: np.ndarray) -> np.ndarray:
    """Points [V, 3] in pixels of the picture of side FINE, in pixels of the photo."""
    return transform_points(invert(face.grid_matrix(FINE)), placed)


def write_mesh(mesh: TexturedMesh | Mapping[str, TexturedMesh], path: str | Path) -> Path:
    """Write a mesh as .glb or .obj, or some by their names into one .glb; atomically, what is there is replaced.

    Raises:
        ValueError, OSError: As `mesh_files`, or it cannot be written.
    """
    write_files(mesh_files(mesh, path))
    return Path(path)


def mesh_files(mesh: TexturedMesh | Mapping[str, TexturedMesh], path: str | Path) -> dict[Path, bytes]:
    """What is to be written for a mesh as .glb or .obj, or for some by their names in one .glb.

    An OBJ's material and texture lie beside it under its name (.mtl, .png).

    Raises:
        ValueError: Another suffix, several meshes for an OBJ, or a folder that is not there.
    """
    path = Path(path)
    meshes = {path.stem: mesh} if isinstance(mesh, TexturedMesh) else dict(mesh)
    check_mesh_path(path)
    if path.suffix.lower() == ".obj" and len(meshes) != 1:
        raise ValueError(f"An OBJ holds one head, not {len(meshes)}: write a .glb.")
    return _obj(path, *meshes.values()) if path.suffix.lower() == ".obj" else {path: _glb(meshes)}


def check_mesh_path(path: Path) -> None:
    """Raise ValueError unless a mesh can be written to `path`, as far as its name tells."""
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(f"Cannot tell the format of '{path}': use {' or '.join(MESH_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise ValueError(f"The folder '{path.parent}' does not exist: create it first.")


def _glb(meshes: Mapping[str, TexturedMesh]) -> bytes:
    scene = trimesh.Scene()
    for name, mesh in meshes.items():
        picture = Image.fromarray(mesh.texture)
        material = PBRMaterial(
            name=name, baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
        )
        scene.add_geometry(_trimesh(mesh, material), node_name=name, geom_name=name)
    morphs = {name: mesh.morphs for name, mesh in meshes.items() if mesh.morphs is not None}
    return add_morphs(export_glb(scene, include_normals=True), morphs)


def _obj(path: Path, mesh: TexturedMesh) -> dict[Path, bytes]:
    material = SimpleMaterial(name=path.stem, image=Image.fromarray(mesh.texture))
    options: dict[str, Any] = {"include_normals": True, "return_texture": True, "header": None}
    text, beside = export_obj(_trimesh(mesh, material), mtl_name=f"{path.stem}.mtl", **options)
    return {path.with_name(name): data for name, data in beside.items()} | {path: text.encode()}


def _trimesh(mesh: TexturedMesh, material: PBRMaterial | SimpleMaterial) -> trimesh.Trimesh:
    visual = TextureVisuals(uv=mesh.uv, material=material)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, visual=visual, process=False)
