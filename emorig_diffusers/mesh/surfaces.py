"""Heads without a photo as files: plain surfaces as GLB, OBJ or PLY."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from ..files.atomic import write_file
from ..models.geometry import Surface
from ..render.buffers import vertex_normals

SURFACE_SUFFIXES = (".glb", ".obj", ".ply")
CLAY = (178, 170, 163, 255)  # sRGB, of what has no colour of its own
APART = 0.3  # metres between the middles of heads that stand in a row
_NORMALS_SCALE = 1000.0  # vertex_normals shortens sums of areas below 1e-6; those of fine meshes are, in metres


def write_surfaces(surfaces: Surface | Mapping[str, Surface], path: Path) -> Path:
    """Write a head, or some by their names as a row in one .glb; atomically, what is there is replaced.

    Raises:
        ValueError: Another suffix, several heads for another format than GLB, or a folder that is not there.
        OSError: It cannot be written.
    """
    named = {path.stem: surfaces} if isinstance(surfaces, Surface) else dict(surfaces)
    check_surface_path(path, len(named))
    scene = trimesh.Scene()
    for place, (name, surface) in enumerate(named.items()):
        mesh = as_trimesh(surface)
        mesh.apply_translation([(place - (len(named) - 1) / 2) * APART, 0, 0])
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    kind = path.suffix.lower().removeprefix(".")
    one = next(iter(scene.geometry.values()))
    data: Any = scene.export(file_type="glb") if kind == "glb" else one.export(file_type=kind)
    write_file(path, data.encode() if isinstance(data, str) else data)
    return path


def check_surface_path(path: Path, count: int = 1) -> None:
    """Raise ValueError unless so many surfaces can be written to `path`, as far as its name tells."""
    suffix = path.suffix.lower()
    if suffix not in SURFACE_SUFFIXES:
        raise ValueError(f"Cannot tell the format of '{path}': use {', '.join(SURFACE_SUFFIXES)}.")
    if count != 1 and suffix != ".glb":
        raise ValueError(f"A {suffix} holds one head, not {count}: write a .glb.")
    if not path.parent.is_dir():
        raise ValueError(f"The folder '{path.parent}' does not exist: create it first.")


def as_trimesh(surface: Surface) -> trimesh.Trimesh:
    """A surface with smooth normals, in the colour of clay."""
    vertices = surface.vertices.detach().cpu()
    normals = vertex_normals(vertices[None] * _NORMALS_SCALE, surface.faces.cpu())[0].numpy()
    material = PBRMaterial(baseColorFactor=CLAY, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True)
    visual = TextureVisuals(uv=np.zeros((len(vertices), 2)), material=material)
    return trimesh.Trimesh(
        vertices.double().numpy(), surface.faces.cpu().numpy(), vertex_normals=normals, visual=visual, process=False
    )
