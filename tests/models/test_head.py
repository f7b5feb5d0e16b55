"""HeadModel: skinning against FLAME's equations written anew in numpy, and the open head's anatomy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from emorig_diffusers.hub.repository import WEIGHTS
from emorig_diffusers.models.head import PARTS, HeadModel, rotation_matrix
from emorig_diffusers.photo.faces import BLENDSHAPES

VERTICES, SHAPES, EXPRESSIONS = 40, 7, 5
RIGHT_EYE, LEFT_EYE = 468, 473  # the irises' centres


@pytest.fixture(scope="module")
def flame_like() -> HeadModel:
    """A head of FLAME's build (36 pose correctives, five joints) with random numbers."""
    rng = np.random.default_rng(3)
    model = HeadModel(VERTICES, 20, 10, SHAPES, EXPRESSIONS, num_pose_correctives=36, num_landmarks=4)
    values = {
        "template": rng.normal(size=(VERTICES, 3)) * 0.1,
        "shape_basis": rng.normal(size=(SHAPES, VERTICES, 3)) * 0.02,
        "expression_basis": rng.normal(size=(EXPRESSIONS, VERTICES, 3)) * 0.02,
        "pose_basis": rng.normal(size=(36, VERTICES, 3)) * 0.01,
        "joint_regressor": rng.dirichlet(np.ones(VERTICES), 5),
        "skinning": rng.dirichlet(np.ones(5), VERTICES),
    }
    model.load_state_dict({k: torch.tensor(v).float() for k, v in values.items()}, strict=False)
    return model


def flame(model: HeadModel, shape: np.ndarray, expression: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Vertices of one face by Li et al. 2017, eq. 1-5, as SMPL's 4x4 transforms; angles [5, 3]."""
    value = {name: p.double().numpy() for name, p in model.named_parameters()}
    shaped = value["template"] + np.tensordot(shape, value["shape_basis"], 1)
    turns = Rotation.from_rotvec(angles).as_matrix()
    feature = (turns[1:] - np.eye(3)).reshape(-1)
    posed = shaped + np.tensordot(expression, value["expression_basis"], 1)
    joints = value["joint_regressor"] @ posed  # as FLAME's published code does; the paper leaves expression out
    posed = posed + np.tensordot(feature, value["pose_basis"], 1)
    world = []
    for joint, parent in enumerate((-1, 0, 1, 1, 1)):
        local = np.eye(4)
        local[:3, :3] = turns[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    bones = []
    for transform, joint in zip(world, joints, strict=True):
        to_joint = np.eye(4)
        to_joint[:3, 3] = -joint
        bones.append(transform @ to_joint)
    blended = np.einsum("vj,jmn->vmn", value["skinning"], bones)
    return np.einsum("vmn,vn->vm", blended, np.column_stack([posed, np.ones(len(posed))]))[:, :3]


def test_skinning_follows_flames_equations(flame_like: HeadModel) -> None:
    rng = np.random.default_rng(5)
    shape, expression = rng.normal(size=(3, SHAPES)), rng.normal(size=(3, EXPRESSIONS))
    root, neck, jaw, left, right = angles = rng.normal(size=(5, 3, 3)) * 0.6
    angles = angles.transpose(1, 0, 2)
    tensor = lambda a: torch.tensor(a).float()
    pose, eyes = np.concatenate([root, jaw], 1), np.concatenate([left, right], 1)
    vertices = flame_like(tensor(shape), tensor(expression), tensor(pose), tensor(neck), tensor(eyes))
    expected = np.stack([flame(flame_like, *face) for face in zip(shape, expression, angles, strict=True)])
    assert np.abs(expected - expected[:1]).max() > 0.05
    np.testing.assert_allclose(vertices.numpy(), expected, atol=1e-5)


def test_zero_pose_is_the_rest_shape(flame_like: HeadModel) -> None:
    shape, expression = torch.randn(2, SHAPES), torch.randn(2, EXPRESSIONS)
    rest = flame_like.rest_vertices(shape, expression)
    torch.testing.assert_close(flame_like(shape, expression), rest, atol=1e-6, rtol=0)
    torch.testing.assert_close(flame_like(shape, expression, torch.zeros(2, 6)), rest, atol=1e-6, rtol=0)


def test_rotation_matrix_is_rodrigues_formula() -> None:
    vectors = np.concatenate([np.random.default_rng(0).normal(size=(20, 3)) * 1.5, np.zeros((1, 3))])
    expected = Rotation.from_rotvec(vectors).as_matrix()
    np.testing.assert_allclose(rotation_matrix(torch.from_numpy(vectors)).numpy(), expected, atol=1e-7)


def test_rotation_matrix_has_a_gradient_at_zero() -> None:
    vector = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotation_matrix(vector)[2, 1], vector)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0, 0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_codes_of_another_head_are_refused(head: HeadModel) -> None:
    for shape, expression in ((79, 52), (80, 50), (100, 50)):
        with pytest.raises(ValueError, match=rf"80 shape and 52 .*, got {shape} and {expression}"):
            head(torch.zeros(1, shape), torch.zeros(1, expression))


@pytest.fixture(scope="module")
def textured() -> HeadModel:
    """A head with a texture space of 4 components and 8 x 8 pixels."""
    head = HeadModel(4, 2, 4, 2, 2, num_landmarks=1, num_texture=4, texture_size=8, texture_source="flame")
    generator = torch.Generator().manual_seed(0)
    head.texture_mean.copy_(torch.rand(3, 8, 8, generator=generator))
    head.texture_basis.copy_(torch.randn(4, 3, 8, 8, generator=generator))
    return head


def test_texture_is_the_mean_and_what_the_codes_add(textured: HeadModel) -> None:
    codes = torch.tensor([[0.0, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0, -1]])
    texture, basis = textured.texture(codes), textured.texture_basis
    assert texture.shape == (3, 3, 8, 8)
    torch.testing.assert_close(texture[0], textured.texture_mean)
    torch.testing.assert_close(texture[1], textured.texture_mean + 2 * basis[1])
    torch.testing.assert_close(texture[2], textured.texture_mean + basis[0] - basis[3])
    gradient = torch.autograd.functional.jacobian(lambda code: textured.texture(code).sum(), codes)
    torch.testing.assert_close(gradient[0], basis.sum((1, 2, 3)))


def test_texture_space_is_saved_and_stays_float32(textured: HeadModel, tmp_path: Path) -> None:
    textured.save_pretrained(tmp_path)
    read = HeadModel.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert read.config.texture_source == "flame"
    for name in ("texture_mean", "texture_basis"):
        assert getattr(read, name).dtype == torch.float32
        assert torch.equal(getattr(read, name), getattr(textured, name))


def test_wrong_texture_codes_are_refused(textured: HeadModel, head: HeadModel) -> None:
    with pytest.raises(ValueError, match=r"takes 4 texture coefficients, got 50: use codes made for this head\.$"):
        textured.texture(torch.zeros(1, 50))
    with pytest.raises(ValueError, match="has no texture space: use its albedo"):
        head.texture(torch.zeros(1, 50))
    assert not [name for name, _ in head.named_parameters() if name.startswith("texture")]


# the open head


def rest(head: HeadModel, **joints: Tensor) -> Tensor:
    return head(torch.zeros(1, 80), torch.zeros(1, 52), **joints)[0]


def part_vertices(head: HeadModel, *parts: str) -> Tensor:
    chosen = torch.isin(head.face_part, torch.tensor([PARTS.index(p) for p in parts]))
    return head.faces[chosen].unique()


def mirror(head: HeadModel) -> np.ndarray:
    """The vertex on the other side of every vertex."""
    place = head.template.double().numpy()
    distance, partner = cKDTree(place).query(place * [-1, 1, 1])
    assert distance.max() < 5e-4
    return partner


def test_size_and_names(head: HeadModel, names: tuple[str, ...]) -> None:
    file = Path(WEIGHTS, "emorig-open/head/diffusion_pytorch_model.safetensors")
    assert file.stat().st_size <= 6.5e6
    assert set(names) == {*BLENDSHAPES, "tongueOut"}
    assert len(names) == len(set(names)) == 52
    assert len(head.expression_basis) == 52
    moved = head.expression_basis.norm(dim=2).amax(1)
    assert moved.min() > 0.002  # every unit moves something by 2 mm
    assert all(p.isfinite().all() for p in head.parameters())


def test_mesh_tables_are_valid(head: HeadModel) -> None:
    assert head.faces.min() >= 0 and head.faces.max() == head.config.num_vertices - 1
    assert head.faces_uv.min() >= 0 and head.faces_uv.max() == head.config.num_uv - 1
    assert set(head.face_part.tolist()) == set(range(len(PARTS)))
    skin = head.uv[head.faces_uv[head.face_part == PARTS.index("skin")]]
    assert skin.min() >= 0 and skin.max() <= 1
    assert head.albedo.min() >= 0 and head.albedo.max() <= 1
    assert head.skinning.min() >= 0
    for shares in (head.skinning, head.joint_regressor, head.landmark_bary, head.landmark68_bary):
        torch.testing.assert_close(shares.sum(1), torch.ones(len(shares)), atol=1e-3, rtol=0)
    for face in (head.landmark_faces, head.landmark68_faces):
        assert set(head.face_part[face].tolist()) <= {
            PARTS.index(p) for p in ("skin", "left_eye", "right_eye")
        }


def test_skin_faces_turn_outwards(head: HeadModel) -> None:
    nose = (head.template[head.faces[head.landmark_faces[4]]]).mean(0)
    corners = head.template[head.faces[head.face_part == PARTS.index("skin")]]
    near = (corners.mean(1) - nose).norm(dim=1) < 0.01
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[near]
    assert len(normal) > 10
    assert normal.sum(0)[2] > 0.8 * normal.sum(0).norm()  # the tip of the nose looks at the viewer


def test_size_of_a_human_face(head: HeadModel) -> None:
    points = head.landmarks(rest(head)[None])[0]
    pupils = (points[LEFT_EYE] - points[RIGHT_EYE]).norm()
    assert 0.054 < pupils < 0.074  # metres, adults
    assert points[LEFT_EYE, 0] > 0 > points[RIGHT_EYE, 0]
    assert points[10, 1] > points[4, 1] > points[152, 1]  # forehead, nose, chin
    assert points[[1, 4], 2].max() == points[:468, 2].max()  # the nose is in front


def test_both_landmark_sets_agree(head: HeadModel) -> None:
    vertices = rest(head)[None]
    dense, sparse = head.landmarks(vertices)[0], head.landmarks68(vertices)[0]
    # iBUG: outer eye corners 36, 45, nose tip 30, mouth corners 48, 54, chin 8
    pairs = {36: 33, 45: 263, 30: 4, 48: 61, 54: 291, 8: 152}
    distance = (sparse[list(pairs)] - dense[list(pairs.values())]).norm(dim=1)
    assert distance.max() < 0.009


@pytest.mark.parametrize("stem", ["eyeBlink", "browDown", "mouthSmile", "mouthFrown", "noseSneer", "eyeWide"])
def test_sides_of_units(head: HeadModel, names: tuple[str, ...], stem: str) -> None:
    for side, sign in (("Left", 1), ("Right", -1)):
        length = head.expression_basis[names.index(stem + side)].norm(dim=1)
        assert sign * (length * head.template[:, 0]).sum() / length.sum() > 0.01


@pytest.mark.parametrize(("side", "lid", "other"), [("Left", 386, 159), ("Right", 159, 386)])
def test_a_wink_closes_one_eye(
    head: HeadModel, names: tuple[str, ...], side: str, lid: int, other: int
) -> None:
    expression = torch.zeros(2, 52)
    expression[1, names.index("eyeBlink" + side)] = 1
    before, after = head.landmarks(head(torch.zeros(2, 80), expression))
    lower = {386: 374, 159: 145}
    assert (before[lid] - before[lower[lid]]).norm() > 0.006
    assert (after[lid] - after[lower[lid]]).norm() < 0.004
    assert (after[other] - before[other]).norm() < 1e-4


def test_left_and_right_are_mirror_images(head: HeadModel, names: tuple[str, ...]) -> None:
    partner = mirror(head)
    assert np.array_equal(partner[partner], np.arange(len(partner)))
    for name in names:
        other = name[:-4] + "Right" if name.endswith("Left") else name
        if name.endswith("Right"):
            continue
        ours, theirs = (head.expression_basis[names.index(n)].numpy() for n in (name, other))
        error = np.linalg.norm(ours[partner] * [-1, 1, 1] - theirs, axis=1)
        assert error.mean() < 0.02 * np.linalg.norm(ours, axis=1).max(), name


def test_jaw_opens_the_mouth_and_moves_nothing_else(head: HeadModel) -> None:
    pose = torch.tensor([[0, 0, 0, 0.25, 0, 0]])
    before, after = rest(head), rest(head, pose=pose)
    bound = head.skinning[:, 2] > 0
    assert 100 < bound.sum() < 0.5 * len(bound)
    assert torch.equal(after[~bound], before[~bound])
    upper, lower = (head.landmarks(v[None])[0, [13, 14]] for v in (before, after))
    assert (lower[0] - lower[1]).norm() > (upper[0] - upper[1]).norm() + 0.015
    chin = head.landmarks((after - before)[None])[0, 152]
    assert chin[1] < -0.01 and abs(chin[0]) < 1e-4
    teeth = part_vertices(head, "lower_teeth")
    assert (after - before)[teeth].norm(dim=1).min() > 0.005
    assert torch.equal(after[part_vertices(head, "upper_teeth")], before[part_vertices(head, "upper_teeth")])


@pytest.mark.parametrize(
    ("part", "column", "joint", "iris"), [("left_eye", 0, 3, 473), ("right_eye", 3, 4, 468)]
)
def test_eyes_turn_about_their_centre(head: HeadModel, part: str, column: int, joint: int, iris: int) -> None:
    angles = torch.zeros(1, 6)
    angles[0, column + 1] = 0.3  # about y: to the subject's left
    before, after = rest(head), rest(head, eyes=angles)
    ball = part_vertices(head, part)
    centre = before[ball].mean(0)
    radius = (before[ball] - centre).norm(dim=1)
    assert radius.max() - radius.min() < 0.002  # metres: a ball
    torch.testing.assert_close((after[ball] - centre).norm(dim=1), radius, atol=5e-4, rtol=0)
    torch.testing.assert_close((head.joint_regressor @ head.template)[joint], centre, atol=5e-4, rtol=0)
    gaze = head.landmarks((after - before)[None])[0]
    expected = 0.3 * (head.landmarks(before[None])[0, iris] - centre).norm()
    assert gaze[iris, 0] == pytest.approx(float(expected), rel=0.1)
    others = torch.ones(len(before), dtype=torch.bool)
    others[ball] = False
    assert (after - before)[others].norm(dim=1).max() < 6e-4  # lids follow a little
    assert torch.equal(after[head.skinning[:, joint] == 0], before[head.skinning[:, joint] == 0])


def test_the_whole_head_turns_about_its_root(head: HeadModel) -> None:
    vector = torch.tensor([[0.2, -0.4, 0.1]])
    root = (head.joint_regressor @ head.template)[0]
    turn = torch.from_numpy(Rotation.from_rotvec(vector[0].numpy()).as_matrix()).float()
    expected = (rest(head) - root) @ turn.T + root
    turned = rest(head, pose=torch.cat([vector, torch.zeros(1, 3)], 1))
    torch.testing.assert_close(turned, expected, atol=2e-4, rtol=0)  # half floats: shares add up to 1 +- 3e-4


def test_saves_and_loads(head: HeadModel, tmp_path: Path) -> None:
    head.save_pretrained(tmp_path)
    again = HeadModel.from_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert tuple(again.config.expression_names) == tuple(head.config.expression_names)
    for name, value in head.named_parameters():
        assert torch.equal(again.get_parameter(name), value), name
