"""The edited heads in 3-D, side by side in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.mesh.export import mesh_of_edit, mesh_of_photo, write_mesh
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.pipelines.emorig import EmoRigOutput, EmoRigPipeline

HEAD_SPACING = 0.25  # between heads side by side, metres
TEXTURE_SIDE = 768  # of each head's texture, pixels


def write_heads(pipe: EmoRigPipeline, faces: list[EncodedFace], result: EmoRigOutput, path: Path) -> str:
    """Write the edited heads side by side as GLB, in metres, y up, with the edited photo on them.

    Args:
        pipe: Which made the result.
        faces: What was edited, as it was before.
        result: Of one photo.
        path: Ends with ".glb".
    """
    edited, meshes = read_photo(result.images[0]).rgb, {}
    for place, (before, face) in enumerate(zip(faces, result.faces[0])):
        mesh = mesh_of_edit(pipe, before, face, edited, TEXTURE_SIDE)
        mesh.vertices[:, 0] += HEAD_SPACING * place
        meshes[f"face_{face.number}"] = mesh
    return str(write_mesh(meshes, path))


def write_fitted_heads(pipe: EmoRigPipeline, result: EmoRigOutput, path: Path) -> str | None:
    """As `write_heads` for a pipeline without a head: what `pipe` fits to the result; `None` where it sees no face.

    Args:
        pipe: Reads heads.
        result: Of one photo.
        path: Ends with ".glb".
    """
    edited, meshes = read_photo(result.images[0]).rgb, {}
    middle, found = lambda box: np.array([box[0] + box[2], box[1] + box[3]]) / 2, find_faces(edited)
    for place, face in enumerate(result.faces[0] if found else []):
        nearest = min(found, key=lambda one: np.hypot(*(middle(one.box) - middle(face.box))))
        mesh = mesh_of_photo(pipe, pipe.encode_face(edited, nearest), edited, TEXTURE_SIDE)
        mesh.vertices[:, 0] += HEAD_SPACING * place
        meshes[f"face_{face.number}"] = mesh
    return str(write_mesh(meshes, path)) if meshes else None
