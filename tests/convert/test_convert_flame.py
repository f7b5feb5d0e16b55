"""FLAME's files become a head that gives FLAME's own vertices, landmarks and textures."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original_flame import (
    FlameFiles,
    flame_forward,
    flame_landmarks,
    flame_landmarks2d,
    flame_texture,
    named,
    python2_pickle,
    small_flame,
    with_state,
    write_flame,
)

from emorig_diffusers.convert.files import ConvertError
from emorig_diffusers.convert.flame import convert_flame, read_obj
from emorig_diffusers.files.folders import FolderError
from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.photo.crops import IBUG68
from emorig_diffusers.render.buffers import draw_buffers

VERSIONS = [(2020, "pkl", "flame"), (2020, "npz", "bfm"), (2023, "pkl", "bfm"), (2023, "npz", "flame")]


@pytest.fixture(scope="module")
def flame(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[FlameFiles, HeadModel]]]:
    """(year, kind of file, texture space) -> files with random numbers and the head made of them, made once."""
    made: dict[Any, tuple[FlameFiles, HeadModel]] = {}

    def make(year: int = 2020, kind: str = "pkl", texture: str = "flame") -> tuple[FlameFiles, HeadModel]:
        key = year, kind, texture
        if key not in made:
            folder = tmp_path_factory.mktemp("flame")
            files = write_flame(folder / "files", year=year, kind=kind, texture=texture, seed=year)
            made[key] = files, HeadModel.from_pretrained(convert_flame(out=folder / "head", **files.arguments()))
        return made[key]

    yield make
    for files, _ in made.values():
        shutil.rmtree(files.model.parent)  # 140 MB


def tensor(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array).float() for array in arrays]


# the same results


@pytest.mark.parametrize("version", VERSIONS)
def test_vertices_and_landmarks_are_flames(flame: Callable[..., tuple[FlameFiles, HeadModel]], version: Any) -> None:
    files, head = flame(*version)
    rng = np.random.default_rng(1)
    shape, expression, pose, neck, eyes = (rng.normal(size=(3, n)) for n in (100, 50, 6, 3, 6))
    pose[0], neck[0], eyes[0] = 0, 0, 0
    vertices = head(*tensor(shape, expression, pose, neck, eyes))
    expected = np.stack([
        flame_forward(files.values, *codes) for codes in zip(shape, expression, pose, neck, eyes, strict=True)
    ])  # fmt: skip
    assert np.abs(expected[0] - files.values["v_template"]).max() > 0.02  # the codes move it
    assert np.abs(expected[1] - expected[0]).max() > 0.02  # and the pose
    np.testing.assert_allclose(vertices.numpy(), expected, rtol=0, atol=1e-5)
    short = head(*tensor(shape[1:2], expression[1:2], pose[1:2]))[0].numpy()
    np.testing.assert_allclose(short, flame_forward(files.values, shape[1], expression[1], pose[1]), rtol=0, atol=1e-5)
    landmarks = np.stack([flame_landmarks(files.values, v) for v in expected])
    np.testing.assert_allclose(head.landmarks68(vertices).numpy(), landmarks, rtol=0, atol=1e-5)


def test_contours_slide_as_decas(flame: Callable[..., tuple[FlameFiles, HeadModel]]) -> None:
    """Heads turned to both sides, past the ends of the table, by root and neck, and nodding."""
    files, head = flame()
    assert head.config.num_contours == 79
    turns = np.array([0, 0.4, -0.4, 12, -12, 38.7, -38.7, 39.4, -39.4, 60, -60, 100, 20, -20, 5])
    pose, neck = np.zeros((len(turns), 6)), np.zeros((len(turns), 3))
    pose[:, 1] = np.radians(turns)
    pose[12, 0], pose[13, 2], neck[12], neck[14, 1] = 0.4, -0.5, (0.1, 0.3, -0.2), 0.4
    shape, expression = np.random.default_rng(3).normal(size=(2, len(turns), 100))
    vertices = head(*tensor(shape, expression[:, :50], pose, neck))
    given = vertices.double().numpy()
    expected = np.stack([flame_landmarks2d(files.values, *one) for one in zip(given, pose, neck, strict=True)])
    found = head.landmarks68(vertices, *tensor(pose, neck))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    fixed = head.landmarks68(vertices)
    assert torch.equal(found[:, 17:], fixed[:, 17:]) and not torch.allclose(found[:, :17], fixed[:, :17], atol=1e-3)
    np.testing.assert_array_equal(head.landmarks68(vertices[:1], *tensor(pose[:1])), found[:1])


@pytest.mark.parametrize("version", VERSIONS[:3])
def test_textures_are_decas(flame: Callable[..., tuple[FlameFiles, HeadModel]], version: Any) -> None:
    files, head = flame(*version)
    assert head.config.texture_source == version[2] and head.config.num_texture == 50
    codes = np.random.default_rng(2).normal(size=(2, 50))
    codes[0] = 0
    texture = head.texture(*tensor(codes)).numpy()
    assert texture.shape == (2, 3, 256, 256) and np.abs(texture[1] - texture[0]).max() > 0.1
    np.testing.assert_allclose(texture, [flame_texture(files.values, code) for code in codes], rtol=0, atol=1e-5)


def test_the_halved_texture_is_torchs(flame: Callable[..., tuple[FlameFiles, HeadModel]]) -> None:
    files, head = flame(texture="flame")
    full = torch.from_numpy(files.values["mean"])[None].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(head.texture_mean, torch.nn.functional.interpolate(full, size=256)[0].flip(0))


def test_mesh_tables(flame: Callable[..., tuple[FlameFiles, HeadModel]]) -> None:
    files, head = flame()
    values = files.values
    assert (head.config.num_vertices, head.config.num_faces, head.config.num_uv) == (5023, 9976, 5118)
    assert tuple(head.config.parents) == (-1, 0, 1, 1, 1) and tuple(head.config.expression_names) == ()
    assert np.array_equal(head.faces, values["f"]) and np.array_equal(head.faces_uv, values["faces_uv"])
    np.testing.assert_allclose(head.uv, values["uv"], atol=1e-6)
    counts = torch.bincount(head.face_part, minlength=len(PARTS)).tolist()
    assert counts == [7800, 1088, 1088, 0, 0, 0, 0, 0]
    left = head.template[head.faces[head.face_part == PARTS.index("left_eye")].unique()]
    assert len(left) == 546 and left[:, 0].min() > 0
    assert head.albedo.min() > 0 and len(head.albedo.unique(dim=0)) == 2


def test_dense_landmarks(flame: Callable[..., tuple[FlameFiles, HeadModel]]) -> None:
    files, head = flame()
    vertices = torch.from_numpy(files.values["v_template"]).float()[None]
    dense, inner = head.landmarks(vertices)[0], head.landmarks68(vertices)[0, 17:]
    index = files.values["landmark_indices"]
    expected = np.einsum(
        "nc,ncx->nx", files.values["lmk_b_coords"], vertices[0].numpy()[files.values["f"][files.values["lmk_face_idx"]]]
    )
    np.testing.assert_allclose(dense[index].numpy(), expected, atol=1e-6)
    own = [i for i, point in enumerate(IBUG68[17:]) if point not in index]
    assert own
    torch.testing.assert_close(dense[[IBUG68[17 + i] for i in own]], inner[own])
    assert set(np.flatnonzero(head.landmark_weight)) == {*index.tolist(), *IBUG68[17:]}


def test_the_head_stays_the_same_when_saved_again(
    flame: Callable[..., tuple[FlameFiles, HeadModel]], tmp_path: Path
) -> None:
    _, head = flame()
    head.save_pretrained(tmp_path)
    again = HeadModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in head.state_dict().items())
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_our_own_head_in_flames_layout(head: HeadModel, tmp_path: Path) -> None:
    files = write_flame(tmp_path / "files", head=head)
    out = convert_flame(out=tmp_path / "out", num_shape=80, num_expression=52, **files.arguments())
    made = HeadModel.from_pretrained(out)
    shutil.rmtree(tmp_path / "files")
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(2, 80, generator=generator), torch.rand(2, 52, generator=generator)
    pose = torch.randn(2, 6, generator=generator) * 0.2
    torch.testing.assert_close(made(*codes, pose), head(*codes, pose), atol=1e-6, rtol=0)
    points = head(*codes, pose)
    torch.testing.assert_close(made.landmarks68(points), head.landmarks68(points), atol=1e-6, rtol=0)
    eyes = [PARTS.index(name) for name in ("left_eye", "right_eye")]
    for eye in eyes:
        assert torch.equal(made.face_part == eye, head.face_part == eye)
    camera, light = torch.tensor([[8.0, 0, 0]]), torch.zeros(1, 9, 3)
    light[:, 0] = 3.5
    pictures = [
        draw_buffers(points[:1], h.faces, camera, light, made.texture(torch.zeros(1, 50)), 64, h.uv, h.faces_uv)
        for h in (head, made)
    ]
    assert pictures[0].mask.mean() > 0.2
    torch.testing.assert_close(pictures[1].rendered, pictures[0].rendered, atol=1e-3, rtol=0)


def test_a_head_of_the_model_alone(flame: Callable[..., tuple[FlameFiles, HeadModel]], tmp_path: Path) -> None:
    files, whole = flame()
    head = HeadModel.from_pretrained(convert_flame(files.model, tmp_path / "out", num_shape=300, num_expression=100))
    assert head.config.num_texture == 0 and head.config.num_shape == 300 and head.config.num_expression == 100
    assert not head.landmark_weight.any() and not head.landmark68_bary.any() and not head.uv.any()
    torch.testing.assert_close(head.shape_basis[:100], whole.shape_basis)
    torch.testing.assert_close(head.expression_basis[:50], whole.expression_basis)
    np.testing.assert_allclose(head.expression_basis[99], files.values["shapedirs"][..., 399], atol=1e-7)


def test_bases_in_two_arrays(flame: Callable[..., tuple[FlameFiles, HeadModel]], tmp_path: Path) -> None:
    files, whole = flame(2023, "npz", "flame")
    with np.load(files.model) as stored:
        model = dict(stored)
    model["shapedirs"], model["expressedirs"] = model["shapedirs"][..., :120], model["shapedirs"][..., 300:]
    np.savez(tmp_path / "apart.npz", **model)
    head = HeadModel.from_pretrained(convert_flame(tmp_path / "apart.npz", tmp_path / "out"))
    assert torch.equal(head.shape_basis, whole.shape_basis)
    assert torch.equal(head.expression_basis, whole.expression_basis)


# refusals


def refusal(out: Path, **arguments: Any) -> str:
    """The one sentence with which a conversion ends, and nothing left behind."""
    before = set(os.listdir(out.parent))
    with pytest.raises((ConvertError, FolderError)) as error:
        convert_flame(out=out, **arguments)
    assert set(os.listdir(out.parent)) == before
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))
    return str(error.value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of a valid model of one tetrahedron."""
    return small_flame()


def test_a_small_model_converts(small: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(small, 2))
    head = HeadModel.from_pretrained(convert_flame(tmp_path / "model.pkl", tmp_path / "out"))
    assert head.config.num_vertices == 4 and not head.face_part.any()


BROKEN = {
    r"lacks v_template, f, shapedirs: is it": lambda m: {"other": 1},
    r"lacks posedirs": lambda m: {k: v for k, v in m.items() if k != "posedirs"},
    r"v_template is \[3, 4\] and not \[any, 3\]": lambda m: m | {"v_template": m["v_template"].T},
    r"v_template is \[0, 3\]": lambda m: m | {"v_template": m["v_template"][:0]},
    r"weights is \[4, 4\] and not \[4, 5\]": lambda m: m | {"weights": m["weights"][:, 1:]},
    r"posedirs is \[12, 36\]": lambda m: m | {"posedirs": m["posedirs"].reshape(12, 36)},
    r"J_regressor is \[4, 5\]": lambda m: m | {"J_regressor": m["J_regressor"].T},
    r"f has indices outside 0 \.\.\. 3": lambda m: m | {"f": m["f"] + 1},
    r"numbers of f cannot be told \(str\)": lambda m: m | {"f": "text"},
    r"shapedirs has numbers that are not finite": lambda m: m | {"shapedirs": m["shapedirs"] * np.nan},
    r"weights that do not add up to 1": lambda m: m | {"weights": m["weights"] * 2},
    r"has 300 shape and 10 expression components": lambda m: m | {"shapedirs": m["shapedirs"][..., :310]},
    r"parents \(-1, 0, 1, 4, 1\), not five in order": lambda m: m | {"kintree_table": np.array([[0, 0, 1, 4, 1]] * 2)},
    r"kintree_table is \[5\]": lambda m: m | {"kintree_table": np.arange(5)},
    r"holds a list and no named arrays": lambda m: [m],
}  # fmt: skip


@pytest.mark.parametrize("message", BROKEN)
def test_broken_models_are_refused(small: dict[str, Any], tmp_path: Path, message: str) -> None:
    model = tmp_path / "model.pkl"
    model.write_bytes(pickle.dumps(BROKEN[message](small), 2))
    with pytest.raises(ConvertError, match=message):
        raise ConvertError(refusal(tmp_path / "out", model=model))


def test_chumpys_lost_arrays_matter_only_where_they_are_needed(small: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "model.pkl"
    with named("chumpy.ch", "MatVecMult") as computed:
        model.write_bytes(python2_pickle(small | {"J": with_state(computed, mtx=1)}))
        convert_flame(model, tmp_path / "fine")
        model.write_bytes(python2_pickle(small | {"weights": with_state(computed, mtx=1)}))
    assert "numbers of weights cannot be told (Chumpy)" in refusal(tmp_path / "out", model=model)


def test_malicious_models_are_refused(small: dict[str, Any], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(tmp_path / "made"),)

    for key in ("J", "shapedirs"):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(small | {key: Evil()}, 2))
        assert "refused to load posix.mkdir" in refusal(tmp_path / "out", model=tmp_path / "model.pkl")
    assert os.listdir(tmp_path) == ["model.pkl"]


def test_truncated_and_swapped_files_are_refused(
    flame: Callable[..., tuple[FlameFiles, HeadModel]], tmp_path: Path
) -> None:
    files, _ = flame()
    light = tmp_path / "light.npz"  # the model without its bases' numbers, as every refusal reads it again
    zeros = {name: np.zeros(files.values[name].shape, np.float16) for name in ("shapedirs", "posedirs")}
    names = ("v_template", "f", "J_regressor", "weights", "kintree_table")
    np.savez_compressed(light, **{name: files.values[name] for name in names}, **zeros)
    files = replace(files, model=light)
    given = files.arguments()
    for name in ("model", "texture", "landmarks", "template"):
        data = given[name].read_bytes()
        cut = tmp_path / f"half-{given[name].name}"
        cut.write_bytes(data[: len(data) // 2])
        text = refusal(tmp_path / "out", **given | {name: cut})
        assert text.startswith(f"{cut} ") and ("is no OBJ" if name == "template" else "is damaged or cut short") in text
        page = tmp_path / name
        page.write_text("<html>Sign in</html>")
        text = refusal(tmp_path / "out", **given | {name: page})
        assert ("has no faces" if name == "template" else "is a web page") in text
        assert "cannot be read" in refusal(tmp_path / "out", **given | {name: tmp_path / "nowhere"})
    swap = replace(files, texture=files.mediapipe).arguments()
    assert "is no texture space: give FLAME_texture.npz" in refusal(tmp_path / "out", **swap)
    swap = replace(files, landmarks=files.mediapipe).arguments()
    assert "lacks full_lmk_faces_idx" in refusal(tmp_path / "out", **swap)
    assert "needs texture coordinates" in refusal(tmp_path / "out", **given | {"template": None})
    assert "not empty" in refusal(tmp_path, **given)


def test_files_that_do_not_belong_together_are_refused(small: dict[str, Any], tmp_path: Path) -> None:
    model, template, points = tmp_path / "model.pkl", tmp_path / "head.obj", tmp_path / "landmarks.npy"
    model.write_bytes(pickle.dumps(small, 2))
    vt, faces = "vt 0 0\nvt 1 0\nvt 0 1\n", "f 1/1 2/2 3/3\nf 1/1 3/2 4/3\nf 1/1 4/2 2/3\nf 2/1 4/2 3/{}\n"
    template.write_text(vt + faces.format(3))
    convert_flame(model, tmp_path / "fine", template=template)
    for text, message in {
        vt + faces.format(4): "names texture coordinates that it does not have",
        vt + faces.replace("f 1/1 2", "f 2/1 1").format(3): "has other faces (4) than the model (4 on 4 vertices)",
        vt + "f 1/1 2/2 3/3\n": "has other faces (1)",
        vt + "f 1/1 2/2 3/3 4/1\n": "is no OBJ of triangles",
        vt + "f 1 2 3\n": "is no OBJ of triangles",
        "vt 0 nan\nf 1/1 2/1 3/1\n": "has no faces with texture coordinates",
    }.items():
        template.write_text(text)
        assert message in refusal(tmp_path / "out", model=model, template=template)
    good = {
        "full_lmk_faces_idx": np.zeros((1, 68), int), "full_lmk_bary_coords": np.full((1, 68, 3), 1 / 3),
        "static_lmk_faces_idx": np.zeros(51, int), "static_lmk_bary_coords": np.full((51, 3), 1 / 3),
    }  # fmt: skip
    for change, message in (
        ({"static_lmk_faces_idx": np.full(51, 4)}, "static_lmk_faces_idx has indices outside 0 ... 3: do the files"),
        ({"static_lmk_faces_idx": np.zeros(50, int)}, "static_lmk_faces_idx is [50] and not [51]"),
        ({"full_lmk_bary_coords": np.full((1, 68, 3), 0.5)}, "full_lmk_bary_coords that do not add up to 1"),
    ):
        np.save(points, good | change, allow_pickle=True)
        assert message in refusal(tmp_path / "out", model=model, landmarks=points)


@pytest.mark.parametrize("change, message", [
    ({"mean": np.zeros((256, 256, 3), np.float32)}, r"a mean \[256, 256, 3\]"),
    ({"tex_dir": np.zeros((512, 512, 3, 49), np.int8)}, "at least 50 components"),
    ({"mean": np.full((512, 512, 3), np.inf)}, "not finite"),
])  # fmt: skip
def test_other_texture_spaces_are_refused(
    small: dict[str, Any], tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(small, 2))
    (tmp_path / "head.obj").write_text(
        "vt 0 0\n" + "".join(f"f {a + 1}/1 {b + 1}/1 {c + 1}/1\n" for a, b, c in small["f"])
    )
    good = {"mean": np.zeros((512, 512, 3), np.int8), "tex_dir": np.zeros((512, 512, 3, 50), np.int8)}
    np.savez(tmp_path / "texture.npz", **good | change)
    paths = {"model": tmp_path / "model.pkl", "template": tmp_path / "head.obj", "texture": tmp_path / "texture.npz"}
    with pytest.raises(ConvertError, match=message):
        raise ConvertError(refusal(tmp_path / "out", **paths))


def test_obj_with_normals_and_other_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.obj"
    file.write_text("# x\no head\nv 0 0 0\nv 1 0 0 1\nv 0 1 0\nvn 0 0 1\nvt .5 .25 0\nvt 1 1\n\nf 1/2/1 2/1/1 3/2/1\n")
    uv, faces, faces_uv = read_obj(file)
    assert uv.tolist() == [[0.5, 0.25], [1, 1]] and faces.tolist() == [[0, 1, 2]] and faces_uv.tolist() == [[1, 0, 1]]
