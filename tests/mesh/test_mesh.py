"""Textured heads: what the photo shows is on the mesh, the rest is completed, and the files can be read by others."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from small_diffae import small_diffae

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.mesh.export import (
    FACE,
    SKULL,
    TexturedMesh,
    mesh_of_edit,
    mesh_of_photo,
    plain_skull,
    textured_mesh,
    write_mesh,
)
from emorig_diffusers.mesh.texture import PhotoView, texture_map
from emorig_diffusers.mesh.uv_atlas import uv_layout
from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.render.buffers import sample_texture
from emorig_diffusers.render.rasterize import interpolate, rasterize

SIDE = 600  # of drawn photos, pixels
ZOOM = 2400  # pixels a metre in them
BACKGROUND = (0, 0, 255)


@dataclass
class Drawn:
    """A photo of the neutral head wearing colours given by the template's geometry [V, 3], turned by `yaw` degrees."""

    head: HeadModel
    colours: np.ndarray
    yaw: float = 0.0

    @property
    def vertices(self) -> torch.Tensor:
        angle = np.deg2rad(self.yaw)
        turn = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        return self.head.template @ torch.tensor(turn, dtype=torch.float32).T

    @property
    def pixels(self) -> np.ndarray:
        return self.vertices.numpy() * [ZOOM, -ZOOM, -ZOOM] + [SIDE / 2, SIDE / 2, 0]

    @property
    def photo(self) -> np.ndarray:
        inside = torch.tensor([part in ("mouth_cavity", "tongue") or "teeth" in part for part in PARTS])
        faces = self.head.faces[~inside[self.head.face_part]]
        drawn = rasterize(torch.from_numpy(self.pixels)[None], faces, SIDE, SIDE)
        photo = interpolate(drawn, faces, torch.from_numpy(self.colours))[0].numpy()
        photo[drawn.face[0].numpy() < 0] = np.array(BACKGROUND) / 255
        return (photo * 255).round().astype(np.uint8)

    def seen_at(self, texture: np.ndarray, points: np.ndarray) -> np.ndarray:
        """What a texture has at the template's vertices `points`, in [0, 1]."""
        uv = np.zeros((len(self.colours), 2))
        uv[self.head.faces.numpy().ravel()] = uv_layout(self.head)[self.head.faces_uv.numpy().ravel()]
        grid = torch.from_numpy(uv[points]).float()[None, None]
        picture = torch.from_numpy(texture).permute(2, 0, 1)[None].float() / 255
        return sample_texture(picture, grid)[0, 0].numpy()


@pytest.fixture(scope="module")
def stripes(head: HeadModel) -> np.ndarray:
    """Colours that change over centimetres and are the same on both sides of the face."""
    x, y, z = head.template.numpy().astype(np.float64).T
    waves = [0.55 + 0.2 * np.sin(200 * np.abs(x)), 0.45 + 0.15 * np.sin(150 * y), 0.35 + 0.1 * np.sin(120 * z)]
    return np.stack(waves, 1)


def cheeks(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Vertices on the subject's left and right cheek, away from nose, eyes and outline."""
    x, y, z = head.template.numpy().T
    skin = np.zeros(len(x), bool)
    skin[head.faces[head.face_part == PARTS.index("skin")].numpy()] = True
    cheek = skin & (np.abs(x) > 0.028) & (np.abs(x) < 0.048) & (y > -0.025) & (y < 0.0) & (z > 0)
    return np.flatnonzero(cheek & (x > 0)), np.flatnonzero(cheek & (x < 0))


def error(drawn: Drawn, texture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Difference [N] from the true colours at vertices, of 1."""
    return np.abs(drawn.seen_at(texture, points) - drawn.colours[points]).max(1)


# the texture


def test_layout_has_no_texel_twice(head: HeadModel) -> None:
    uv = uv_layout(head)
    assert uv.min() >= 0 and uv.max() <= 1
    corners = uv[head.faces_uv.numpy()]
    edges = corners[:, 1:] - corners[:, :1]
    area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]).sum() / 2
    size = 512
    flat = torch.nn.functional.pad(torch.from_numpy(uv * [1, -1] + [0, 1]) * size, (0, 1))[None]
    covered = (rasterize(flat, head.faces_uv, size, size).face >= 0).double().mean()
    assert area == pytest.approx(float(covered), rel=0.02)


def test_layout_within_the_square_is_kept(head: HeadModel) -> None:
    other = HeadModel(**{k: v for k, v in head.config.items() if not k.startswith("_")})
    other.load_state_dict(head.state_dict())
    other.uv.copy_((head.uv - head.uv.min(0).values) / 4)
    assert np.array_equal(uv_layout(other), other.uv.numpy().astype(np.float64))


def test_what_the_photo_shows_is_on_the_head(head: HeadModel, stripes: np.ndarray) -> None:
    drawn = Drawn(head, stripes)
    texture = texture_map(PhotoView(head, drawn.pixels, drawn.photo), 384)
    assert texture.shape == (384, 384, 3) and texture.dtype == np.uint8
    points = np.concatenate(cheeks(head))
    assert len(points) > 20
    assert np.quantile(error(drawn, texture, points), 0.95) < 0.04
    flat = np.full_like(stripes, stripes[points].mean(0))
    assert np.quantile(np.abs(flat[points] - stripes[points]).max(1), 0.5) > 0.1  # no single colour would do


@pytest.mark.parametrize("yaw", [50, -50])
def test_the_hidden_half_is_the_mirrored_one(head: HeadModel, stripes: np.ndarray, yaw: float) -> None:
    drawn = Drawn(head, stripes, yaw)
    texture = texture_map(PhotoView(head, drawn.pixels, drawn.photo), 384)
    hidden = cheeks(head)[0 if yaw > 0 else 1]
    assert np.median(error(drawn, texture, hidden)) < 0.04


def test_background_is_on_no_texel(head: HeadModel, stripes: np.ndarray) -> None:
    drawn = Drawn(head, stripes, 40)
    texture = texture_map(PhotoView(head, drawn.pixels, drawn.photo), 256).astype(int)
    assert (drawn.photo[..., 2] > drawn.photo[..., 0].astype(int) + 60).mean() > 0.3
    assert not (texture[..., 2] > texture[..., 0] + 60).any()  # the background is pure blue, the skin reddish


def test_the_back_of_the_head_has_the_skin_s_tint(head: HeadModel) -> None:
    skin = np.array([0.35, 0.22, 0.15])
    drawn = Drawn(head, np.full((len(head.template), 3), skin))
    texture = texture_map(PhotoView(head, drawn.pixels, drawn.photo), 256)
    place = head.template.numpy()
    back = np.flatnonzero((place[:, 2] < -0.1) & (place[:, 1] > 0))
    assert len(back) > 20
    albedo = head.albedo.numpy()[back] ** (1 / 2.2)
    assert np.abs(drawn.seen_at(texture, back).mean(0) - skin).max() < 0.08
    assert np.abs(albedo.mean(0) - skin).min() > 0.15  # which is not its mean colour


def test_large_photos_are_averaged(head: HeadModel) -> None:
    drawn = Drawn(head, np.full((len(head.template), 3), 0.5))
    zoom = 4
    board = (np.indices((SIDE * zoom, SIDE * zoom)).sum(0) % 2 * 255).astype(np.uint8)
    photo = np.repeat(board[..., None], 3, 2)
    texture = texture_map(PhotoView(head, drawn.pixels * zoom, photo), 256)
    points = np.concatenate(cheeks(head))
    assert np.abs(drawn.seen_at(texture, points) - 0.5).max() < 0.1  # single pixels are black or white


def test_wrong_input_is_explained(head: HeadModel, stripes: np.ndarray) -> None:
    drawn = Drawn(head, stripes)
    pixels, photo = drawn.pixels, drawn.photo
    view = PhotoView(head, pixels, photo)
    for wrong, sentence in (
        (lambda: PhotoView(head, pixels[:5], photo), "one a vertex, and finite, got \\[5, 3\\]"),
        (lambda: PhotoView(head, pixels * np.nan, photo), "finite"),
        (lambda: PhotoView(head, pixels, photo[..., 0]), "A photo must be uint8"),
        (lambda: texture_map(view, 63), "64 to 4096 pixels a side, not 63"),
        (lambda: texture_map(PhotoView(head, pixels + 5000, photo), 64), "does not show this head"),
        (lambda: textured_mesh(head, head.template[:5], pixels, photo), "vertices must be"),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()


# the mesh and its files


@pytest.fixture(scope="module")
def mesh(pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace) -> TexturedMesh:
    return mesh_of_photo(pipe, astronaut_face, astronaut, 256)


def look_from_front(mesh: TexturedMesh) -> tuple[np.ndarray, np.ndarray]:
    """A mesh seen from where its photo was taken [SIDE, SIDE, 3] uint8, and what is mesh."""
    pixels = torch.from_numpy(mesh.vertices * [ZOOM, -ZOOM, -ZOOM] + [SIDE / 2, SIDE / 2, 0])
    faces = torch.from_numpy(mesh.faces)
    drawn = rasterize(pixels[None], faces, SIDE, SIDE)
    uv = interpolate(drawn, faces, torch.from_numpy(mesh.uv))
    texture = torch.from_numpy(mesh.texture).permute(2, 0, 1)[None].double()
    return sample_texture(texture, uv)[0].round().byte().numpy(), drawn.face[0].numpy() >= 0


def test_the_mesh_wears_the_face(mesh: TexturedMesh, pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    picture, on = look_from_front(mesh)
    assert on.mean() > 0.2
    from emorig_diffusers.photo.faces import find_faces

    [face] = find_faces(np.where(on[..., None], picture, 128).astype(np.uint8))  # a detector takes it for one
    seen = face.landmarks[:468, :2]
    posed = pipe.head.landmarks(pipe.pose_head(astronaut_face.codes))[0, :468, :2].numpy()
    apart = np.linalg.norm(seen - (posed * [ZOOM, -ZOOM] + SIDE / 2), axis=1) / ZOOM
    assert np.median(apart) < 0.004  # metres


def test_normals_point_outwards_and_no_lower_teeth(mesh: TexturedMesh, head: HeadModel) -> None:
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1)
    corners = mesh.vertices[mesh.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((flat * mesh.normals[mesh.faces].sum(1)).sum(1) > 0).mean() > 0.98
    cut = 48  # triangles that the neck's clean end may add
    assert len(mesh.faces) < len(head.faces) - (head.face_part == PARTS.index("lower_teeth")).sum() + cut


def test_teeth_stay_behind_the_skin(head: HeadModel, stripes: np.ndarray) -> None:
    drawn = Drawn(head, stripes)
    teeth = np.unique(head.faces[head.face_part == PARTS.index("upper_teeth")].numpy())
    pixels = drawn.pixels
    pixels[teeth, 2] -= 0.015 * ZOOM  # in front of the lips
    out = PhotoView(head, pixels, drawn.photo).sticking_out()
    skin = np.unique(head.faces[head.face_part == PARTS.index("skin")].numpy())
    assert out[teeth].max() > 0.004
    assert not out[skin].any()
    pixels[:, 2] += out * ZOOM
    assert PhotoView(head, pixels, drawn.photo).sticking_out()[teeth].max() < 0.003


def test_glb(mesh: TexturedMesh, tmp_path: Path) -> None:
    path = write_mesh(mesh, tmp_path / "face.glb")
    read = trimesh.load(path)
    [geometry] = read.geometry.values()
    assert np.allclose(geometry.vertices, mesh.vertices, atol=1e-6)
    assert np.array_equal(geometry.faces, mesh.faces)
    assert np.allclose(geometry.vertex_normals, mesh.normals, atol=1e-5)
    assert np.allclose(geometry.visual.uv, mesh.uv, atol=1e-6)
    assert np.array_equal(np.asarray(geometry.visual.material.baseColorTexture.convert("RGB")), mesh.texture)
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
    assert [len(tree[name]) for name in ("meshes", "images", "materials")] == [1, 1, 1]
    assert tree["images"][0]["mimeType"] == "image/png" and "bufferView" in tree["images"][0]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(tree["meshes"][0]["primitives"][0]["attributes"])


def test_obj_with_material_and_texture_beside_it(mesh: TexturedMesh, tmp_path: Path) -> None:
    path = write_mesh(mesh, tmp_path / "face.obj")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["face.mtl", "face.obj", "face.png"]
    assert "map_Kd face.png" in (tmp_path / "face.mtl").read_text()
    assert "mtllib face.mtl" in path.read_text()
    read = trimesh.load(path, process=False)
    assert read.visual.uv.min() >= 0 and read.visual.uv.max() <= 1
    assert len(read.faces) == len(mesh.faces)
    assert np.array_equal(np.asarray(read.visual.material.image.convert("RGB")), mesh.texture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "face.png").convert("RGB")), mesh.texture)


def test_several_heads_in_one_glb(mesh: TexturedMesh, tmp_path: Path) -> None:
    read = trimesh.load(write_mesh({"face_1": mesh, "face_2": mesh}, tmp_path / "two.glb"))
    assert sorted(read.geometry) == ["face_1", "face_2"]
    with pytest.raises(ValueError, match="An OBJ holds one head, not 2"):
        write_mesh({"face_1": mesh, "face_2": mesh}, tmp_path / "two.obj")
    with pytest.raises(ValueError, match="Cannot tell the format of .*stl': use .glb or .obj"):
        write_mesh(mesh, tmp_path / "face.stl")
    with pytest.raises(ValueError, match="does not exist"):
        write_mesh(mesh, tmp_path / "nowhere" / "face.glb")
    assert [p.name for p in tmp_path.iterdir()] == ["two.glb"]


def test_the_edited_head_wears_the_edited_photo(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace, edit, mesh: TexturedMesh
) -> None:
    output = edit("surprise")
    after = mesh_of_edit(pipe, astronaut_face, output.faces[0][0], output.images[0], 256)
    moved = np.linalg.norm(after.vertices - mesh.vertices, axis=1)
    assert 0.005 < moved.max() < 0.05
    assert (after.texture != mesh.texture).any()
    assert np.abs(after.texture.astype(int) - mesh.texture).mean() < 14  # the same person


# the command


def test_command(astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(photo)
    small = ("--size", "128", "--steps", "1", "--seed", "0", "--no-morphs")
    assert run("mesh", photo, "--size", "128", "-o", tmp_path / "face.obj") == 0
    assert run("mesh", photo, "--blend", "surprise=.9", *small, "-o", tmp_path / "face.glb") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in printed] == ["face.obj", "face.glb", "face_before.glb"]
    heads = [trimesh.load(tmp_path / name).to_geometry() for name in ("face.glb", "face_before.glb")]
    before = trimesh.load(tmp_path / "face.obj", process=False)
    assert np.allclose(before.vertices, heads[1].vertices, atol=1e-5)
    assert np.abs(heads[0].vertices - heads[1].vertices).max() > 0.005
    assert heads[0].visual.material.baseColorTexture.size == (128, 128)


def test_command_with_a_pipeline_without_a_head(mesh: TexturedMesh, astronaut: np.ndarray, tmp_path: Path) -> None:
    small_diffae().save_pretrained(tmp_path / "coded")
    photo = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(photo)
    out = tmp_path / "face.glb"
    assert run("mesh", photo, "--model", tmp_path / "coded", "--size", "128", "--no-morphs", "-o", out) == 0
    assert np.allclose(trimesh.load(out).to_geometry().vertices, mesh.vertices, atol=1e-5)
    edit = ("--emotion", "happy", "--intensity", "0", "--steps", "1", "--no-morphs")
    assert run("mesh", photo, "--model", tmp_path / "coded", "--size", "128", *edit, "-o", out) == 0
    assert (tmp_path / "face_before.glb").is_file()
    assert np.abs(trimesh.load(out).to_geometry().vertices - mesh.vertices).max() < 0.01  # nothing was to change


def test_command_refuses(astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(photo)
    out = tmp_path / "face.glb"
    for arguments, sentence in (
        ((tmp_path / "none.png", "-o", out), "There is no file"),
        ((photo, "-o", tmp_path / "face.ply"), "use .glb or .obj"),
        ((photo, "--face", "all", "-o", out), "A mesh holds one head"),
        ((photo, "--face", "2", "-o", out), "shows 1 face"),
        ((photo, "--emotion", "happy", "--blend", "sad=1", "-o", out), "not allowed with"),
        ((photo, "--emotion", "joy", "-o", out), "joy"),
        ((photo, "--size", "10", "-o", out), "64 to 4096"),
    ):
        assert run("mesh", *arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and sentence in err
    assert [p.name for p in tmp_path.iterdir()] == ["astronaut.png"]


def run(*arguments: str | Path) -> int:
    return main.main([str(argument) for argument in arguments])


def test_the_skull_is_the_mean_heads(head: HeadModel) -> None:
    torch.manual_seed(0)
    zero, turn = torch.zeros(1, head.config.num_expression), torch.tensor([[0.1, 0.4, -0.1, 0, 0, 0]])
    fitted, plain = (head(shape, zero, turn)[0] for shape in (3 * torch.randn(1, 80), torch.zeros(1, 80)))
    result = plain_skull(head, fitted, plain)
    away = torch.cdist(head.template, head.landmarks(head.template[None])[0]).min(1).values
    assert torch.equal(result[away < FACE], fitted[away < FACE])
    crown = (away > SKULL) & (head.template[:, 1] > head.template[:, 1].quantile(0.9))
    spread = lambda x: torch.pdist(x[crown][::10])
    ratio = spread(result) / spread(plain)  # as the mean head's, to a scale
    assert crown.sum() > 50 and ratio.std() < 1e-4 * ratio.mean()
    assert (spread(fitted) / spread(plain)).std() > 0.01
    assert torch.allclose(plain_skull(head, plain, plain), plain, atol=1e-6)
