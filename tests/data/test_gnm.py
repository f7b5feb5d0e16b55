"""GNM Head as a source of scans, on a file of its shape with the open head in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.gnm import OPEN_GAP, GnmMaker, read_gnm
from emorig_diffusers.data.made_scans import Collection, ScanMaker, above_cut, plan_scans
from emorig_diffusers.data.scans import read_scan
from emorig_diffusers.models.head import PARTS, HeadModel

PLACE = np.array([0.0, 0.27, -0.03], np.float32)  # metres, of the open head in the file: GNM's origin lies in the neck
REGIONS = {"left_eye_region": 3, "right_eye_region": 3, "lower_face_region": 6, "tongue": 2, "pupils": 1}


def group_rows(head: HeadModel) -> dict[str, np.ndarray]:
    """Some of GNM's groups of vertices, as far as the open head has them."""
    part = lambda *names: np.isin(
        np.arange(len(head.template)),
        head.faces[torch.isin(head.face_part, torch.tensor([PARTS.index(name) for name in names]))].unique(),
    )
    corners = head.faces[head.landmark68_faces]
    near = lambda numbers: np.isin(np.arange(len(head.template)), corners[numbers].flatten())
    face = (torch.cdist(head.template, head.landmarks(head.template[None])[0]).amin(1) < 0.015).numpy()
    return {
        "skin_exterior": part("skin", "neck"), "hockey_mask": face & part("skin"), "teeth": part("upper_teeth"),
        "eyes": part("left_eye", "right_eye"), "tongue": part("tongue"), "upper_lip": near(range(48, 55)),
        "lower_lip": near(range(55, 60)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def arrays(head: HeadModel) -> dict[str, np.ndarray]:
    """Every array of `gnm_head.npz` by its name, fewer components: GNM has 253 and 383."""
    rng, units = np.random.default_rng(0), list(head.config.expression_names)
    names = [f"{region}_{n:03d}" for region, count in REGIONS.items() for n in range(count)]
    names[names.index("tongue_000")] = "tongue_mean"
    basis = head.expression_basis.numpy()
    unit = lambda name: basis[units.index(name)]
    moves = ["eyeBlinkLeft", "browDownLeft", "browInnerUp", "eyeBlinkRight", "browDownRight", "eyeWideRight",
             "jawOpen", "mouthPucker", "mouthFunnel", "mouthLowerDownLeft", "mouthUpperUpLeft", "jawLeft",
             "tongueOut", "tongueOut", "eyeLookUpLeft"]  # fmt: skip
    expression = np.stack([unit(name) for name in moves])
    count, groups = len(head.template), group_rows(head)
    eyes = np.stack([head.template[head.faces[head.face_part == PARTS.index(n)].unique()].mean(0)
                     for n in ("left_eye", "right_eye")])  # fmt: skip
    joints = np.concatenate([np.zeros((2, 3)), eyes]) + PLACE
    triangles = head.faces.numpy().astype(np.int32)
    return {
        "version": np.array("3.0"), "variant": np.array("head"),
        "template_vertex_positions": head.template.numpy() + PLACE,
        "template_joint_positions": joints.astype(np.float32),
        "vertex_identity_basis": head.shape_basis[:12].numpy(),
        "joint_identity_basis": np.zeros((12, 4, 3), np.float32),
        "expression_basis": expression.astype(np.float32),
        "identity_names": np.array([f"head_{n:03d}" for n in range(12)]),
        "joint_names": np.array(["neck", "head", "left_eye", "right_eye"]),
        "expression_names": np.array(names),
        "joint_parent_indices": np.array([0, 0, 1, 1], np.int32),
        "skinning_weights": np.full((4, count), 0.25, np.float32),
        "quads": np.concatenate([triangles, triangles[:, :1]], 1),
        "triangles": triangles,
        "quad_uvs": rng.random((len(triangles), 4, 2)).astype(np.float32),
        "triangle_uvs": rng.random((len(triangles), 3, 2)).astype(np.float32),
        "mesh_component_names": np.array(["skin"]), "mirror_indices": np.arange(count, dtype=np.int32),
        "joint_regressor": np.zeros((4, count), np.float32),
        "pose_correctives_regressor": np.zeros((36, 30), np.float32),
        "bone_aligned_template_joint_orientations": np.tile(np.eye(3, dtype=np.float32), (4, 1, 1)),
        "vertex_groups": np.stack(list(groups.values())).astype(np.float32),
        "vertex_group_names": np.array(list(groups)),
    }  # fmt: skip


@pytest.fixture(scope="module")
def file(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gnm") / "gnm_head.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def maker(file: Path) -> GnmMaker:
    return GnmMaker(read_gnm(file))


def test_it_lies_where_the_open_head_does(maker: GnmMaker, head: HeadModel) -> None:
    """Its origin is elsewhere, its face comes to the same place, and so do the anchors."""
    own = ScanMaker(head)
    assert (maker.shift + torch.from_numpy(PLACE) - own.shift).norm() < 0.006
    away = (maker.template + maker.shift)[maker.anchor_vertices] - (own.template + own.shift)[own.anchor_vertices]
    assert away.norm(dim=1).median() < 0.006
    nose = int(head.template[:, 2].argmax())
    crown = int(head.template[:, 1].argmax())
    assert maker.face_vertices[nose] and not maker.face_vertices[crown]


def test_mouths_open(maker: GnmMaker) -> None:
    """By the gap that is asked for, through the lower face's codes alone; the neutral mouth is open."""
    upper, lower = (maker.head.groups[name] for name in ("upper_lip", "lower_lip"))
    names = maker.head.expression_names
    assert {name[:5] for name, code in zip(names, maker.neutral.units) if code} == {"lower"}
    person = maker.person("linear", np.random.default_rng(0))

    def gap(units: torch.Tensor) -> float:
        """Between the middles of the lips, against the template's."""
        place = maker.vertices(person, maker.neutral.__class__("x", units, 0.0))
        rest = maker.vertices(person, maker.neutral.__class__("x", torch.zeros_like(units), 0.0))
        moved, aside = (place - rest)[:, 1], maker.template[:, 0].abs()
        middle = lambda lip: moved[lip & (aside <= aside[lip].quantile(0.5))].mean()
        return float(middle(upper) - middle(lower))

    assert gap(maker.neutral.units) == pytest.approx(OPEN_GAP, rel=0.01)
    rng = np.random.default_rng(1)
    wide, narrow = (maker.expression("x", rng, wide=kind) for kind in (True, False))
    assert gap(wide.units) > 0.0129 and -1e-4 < gap(narrow.units) <= OPEN_GAP + 1e-4
    still = [code for name, code in zip(names, wide.units.tolist()) if name.startswith(("tongue", "pupils"))]
    assert still == [0, 0, 0] and wide.units[:12].all()


def test_scans(run_script: Callable[..., None], file: Path, maker: GnmMaker, tmp_path: Path) -> None:
    """The script's folder: people of three kinds, beside the open head's under names of their own."""
    run_script("make_scans", tmp_path, "--source", "gnm", file, "--people", "1", "--expressions", "0",
               "--held_out", "0")  # fmt: skip
    plan = dict(plan_scans(maker, Collection(1, 0, 0, 0), seed=0))
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.npz")}
    assert made == set(plan) and {place.parent.name for place in made} == {
        "gnm-linear-000", "gnm-field-000", "gnm-hair-000"
    }  # fmt: skip
    neutral = read_scan(tmp_path / "train/gnm-hair-000/neutral.npz")
    assert above_cut(neutral.points).mean() > 0.999 and len(neutral.vertices) == len(maker.template)
    assert neutral.anchors == pytest.approx(neutral.vertices[maker.anchor_vertices]) and 0 < neutral.face.mean() < 1
    again = plan[next(place for place in plan if place.name == "neutral.npz" and "hair" in place.parent.name)]()
    assert np.array_equal(neutral.points, again.points)


def test_refusals(arrays: dict[str, np.ndarray], file: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    """What is no gnm_head.npz, in one sentence."""
    other = tmp_path / "other.npz"

    def refused(**changed: np.ndarray | None) -> str:
        np.savez(other, **{name: value for name, value in (arrays | changed).items() if value is not None})
        with pytest.raises(DataError) as error:
            read_gnm(other)
        return str(error.value)

    assert "it has no expression_basis, joint_names" in refused(expression_basis=None, joint_names=None)
    assert "does not go with the others" in refused(vertex_identity_basis=np.zeros((3, 7, 3), np.float32))
    assert "eyes" in refused(vertex_group_names=np.array([*arrays["vertex_group_names"][:3], *"abcd"]))
    assert "lower_face" in refused(expression_names=np.array(["x"] * len(arrays["expression_names"])))
    assert "faces without vertices" in refused(triangles=arrays["triangles"] + 1)
    assert "is damaged" in refused(joint_names=np.array([{}], object))
    other.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="is damaged"):
        read_gnm(other)
    assert "There is no file" in refusal("make_scans", tmp_path / "out", "--source", "gnm", tmp_path / "none.npz")
