"""Morph targets: what a GLB says of them, and that they move the mesh as the head's units move the head."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from test_mesh import run

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.codes import FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.mesh.export import FACE, TexturedMesh, mesh_of_photo, write_mesh
from emorig_diffusers.mesh.neck import cut, neck_height
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.photo.detectors import BLENDSHAPES


class Glb:
    """A GLB with one mesh, read from the text of glTF 2.0."""

    def __init__(self, data: bytes) -> None:
        magic, version, length, text = struct.unpack_from("<4sIII", data)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        self.tree = json.loads(data[20 : 20 + text])
        self.binary = data[28 + text :]
        [self.mesh] = self.tree["meshes"]
        [self.primitive] = self.mesh["primitives"]

    def view(self, number: int, kind: str, offset: int = 0) -> np.ndarray:
        view = self.tree["bufferViews"][number]
        start = view.get("byteOffset", 0)
        assert (start + offset) % np.dtype(kind).itemsize == 0
        return np.frombuffer(self.binary[start + offset : start + view["byteLength"]], kind)

    def vectors(self, number: int) -> np.ndarray:
        accessor: dict[str, Any] = self.tree["accessors"][number]
        assert accessor["componentType"] == 5126 and accessor["type"] == "VEC3"
        values = np.zeros((accessor["count"], 3), np.float32)
        if "bufferView" in accessor:
            whole = self.view(accessor["bufferView"], "<f4", accessor.get("byteOffset", 0))
            values = whole[: values.size].reshape(-1, 3).copy()
        if "sparse" in accessor:
            some = accessor["sparse"]
            assert some["indices"]["componentType"] == 5123
            places = self.view(some["indices"]["bufferView"], "<u2")
            assert len(places) == some["count"] and (np.diff(places.astype(int)) > 0).all()
            values[places] = self.view(some["values"]["bufferView"], "<f4").reshape(-1, 3)
        assert np.array_equal(values.min(0), np.float32(accessor["min"]))
        assert np.array_equal(values.max(0), np.float32(accessor["max"]))
        return values

    @property
    def base(self) -> np.ndarray:
        return self.vectors(self.primitive["attributes"]["POSITION"])


@pytest.fixture(scope="module")
def seen(pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace) -> TexturedMesh:
    return mesh_of_photo(pipe, astronaut_face, astronaut, 128)


@pytest.fixture(scope="module")
def glb(pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace, tmp_path_factory: Any) -> Glb:
    mesh = mesh_of_photo(pipe, astronaut_face, astronaut, 128, morphs=True)
    return Glb(write_mesh(mesh, tmp_path_factory.mktemp("morphs") / "face.glb").read_bytes())


def test_targets_have_arkits_names(glb: Glb) -> None:
    names = glb.mesh["extras"]["targetNames"]
    assert set(names) == {*BLENDSHAPES, "tongueOut"} and len(names) == 52
    assert len(glb.primitive["targets"]) == len(glb.mesh["weights"]) == 52
    assert all(0 <= weight <= 1 for weight in glb.mesh["weights"]) and max(glb.mesh["weights"]) > 0.05
    for target in glb.primitive["targets"]:
        assert set(target) == {"POSITION", "NORMAL"}
        assert np.abs(glb.vectors(target["POSITION"])).max() > 1e-4  # metres
    names = [node.get("name") for node in glb.tree["nodes"] if "mesh" in node]
    assert names == ["face"]


def test_the_photos_weights_make_the_photos_head(glb: Glb, seen: TexturedMesh) -> None:
    moved, turned = (
        sum(w * glb.vectors(t[kind]) for w, t in zip(glb.mesh["weights"], glb.primitive["targets"]))
        for kind in ("POSITION", "NORMAL")
    )
    assert np.abs(glb.base + moved - seen.vertices).max() < 2e-6
    assert np.abs(moved).max() > 0.002
    normals = glb.vectors(glb.primitive["attributes"]["NORMAL"]) + turned
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    alike = (normals * seen.normals).sum(1)
    base = (glb.vectors(glb.primitive["attributes"]["NORMAL"]) * seen.normals).sum(1)
    assert np.median(1 - alike) < 0.1 * np.median(1 - base)  # at the rims of lips and lids normals are no sums


@pytest.mark.parametrize("name", ["jawOpen", "mouthSmileLeft", "eyeBlinkRight", "browInnerUp", "eyeLookOutLeft"])
def test_a_weight_of_1_is_the_head_posed_with_that_unit(
    glb: Glb, pipe: EmoRigPipeline, astronaut_face: EncodedFace, name: str
) -> None:
    codes, names = astronaut_face.codes, pipe.head.config.expression_names
    target = glb.primitive["targets"][glb.mesh["extras"]["targetNames"].index(name)]
    moved = glb.base + glb.vectors(target["POSITION"])
    beyond = codes.expression - codes.expression.clamp(0, 1)
    posed = [pose(pipe, codes, beyond + unit) for unit in (0, torch.tensor([float(n == name) for n in names]))]
    away = torch.cdist(pipe.head.template, pipe.head.landmarks(pipe.head.template[None])[0]).min(1).values
    near = (away < FACE).numpy()  # where the fitted head is exported as it is
    apart = np.abs(glb.base[:, None] - posed[0][near][None]).max(-1)
    rows, places = apart.min(1) < 1e-6, apart.argmin(1)
    assert rows.sum() > 0.9 * near.sum()
    step = posed[1][near][places[rows]] - moved[rows]
    assert np.quantile(np.abs(step).max(1), 0.99) < 2e-6  # but for vertices that lie on each other at rest
    assert np.abs(posed[1] - posed[0]).max() > 0.003


def pose(pipe: EmoRigPipeline, codes: FaceCodes, expression: torch.Tensor) -> np.ndarray:
    return pipe.pose_head(codes.with_(expression=expression))[0].numpy()


def test_the_neck_ends_on_a_plane(seen: TexturedMesh, head: HeadModel) -> None:
    edges = np.sort(np.stack([seen.faces, np.roll(seen.faces, -1, 1)], -1), -1).reshape(-1, 2)
    welded = np.unique(seen.vertices.round(7), axis=0, return_inverse=True)[1][edges]
    unique, count = np.unique(np.sort(welded, 1), axis=0, return_counts=True)
    place = np.unique(seen.vertices.round(7), axis=0)
    border = unique[count == 1]
    low = border[(place[border, 1] < np.quantile(seen.vertices[:, 1], 0.03)).all(1)]
    points = place[np.unique(low)] - place[np.unique(low)].mean(0)
    flat = points @ np.linalg.svd(points)[2][2]
    assert len(low) > 40 and (np.unique(low, return_counts=True)[1] == 2).all()  # one closed loop
    assert np.abs(flat).max() < 0.002  # metres; the mesh's own border has teeth of 13 mm
    assert neck_height(head) is not None


def test_cut_keeps_area_and_winding() -> None:
    mesh = trimesh.creation.icosphere(3)
    height = mesh.vertices @ [0, 1, 0] + 0.31
    faces, means = cut(mesh.faces, height)
    vertices = means @ mesh.vertices
    assert (vertices[:, 1] >= -0.31 - 1e-9).all()
    part = trimesh.Trimesh(vertices, faces, process=False)
    assert part.area == pytest.approx(2 * np.pi * 1.31, rel=0.01)  # Archimedes
    assert ((part.face_normals * part.triangles_center).sum(1) > 0.9).all()
    border = part.edges_sorted[trimesh.grouping.group_rows(part.edges_sorted, require_count=1)]
    assert np.allclose(vertices[np.unique(border), 1], -0.31)


def test_command_writes_morphs_unless_asked_not_to(astronaut: np.ndarray, tmp_path: Path) -> None:
    photo = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(photo)
    assert run("mesh", photo, "--size", "128", "-o", tmp_path / "face.glb") == 0
    written = Glb((tmp_path / "face.glb").read_bytes())
    assert len(written.mesh["weights"]) == 52 and (tmp_path / "face.glb").stat().st_size < 4e6
    read = trimesh.load(tmp_path / "face.glb").to_geometry()
    assert np.allclose(read.vertices, written.base)
