"""EmocaEncoder: the published layout, what replaces what, the open variant, and fits against landmarks."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.relax import relaxed_expression
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.emoca import EXPRESSION_POSES, EmocaEncoder, SmallTrunk
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder, compare
from emorig_diffusers.photo.resample import align, transform_points
from emorig_diffusers.render.camera import project

OPEN = {"backbone": "small", "hidden": 32, "num_shape": 80, "num_texture": 0, "num_expression": 52, "image_size": 48,
        "shared_trunk": True, "calibrated": True, "crop": "aligned"}  # fmt: skip


def published(**changes: object) -> EmocaEncoder:
    """The published layout without memory for its weights."""
    with torch.device("meta"):
        return EmocaEncoder(**changes)


def constant(encoder: EmocaEncoder) -> EmocaEncoder:
    """Outputs 0, 1, 2, ... from E_flame and 1000, 1001, ... from E_expression, whatever the picture."""
    for start, name in ((0, "E_flame"), (1000, "E_expression")):
        if name in dict(encoder.named_children()):
            last = getattr(encoder, name).layers[2]
            torch.nn.init.zeros_(last.weight)
            last.bias.data = start + torch.arange(len(last.bias)).float()
    return encoder.eval()


@pytest.fixture(scope="module")
def fitted(encoder: LandmarkEncoder, astronaut_face: EncodedFace) -> FaceCodes:
    return astronaut_face.codes


@pytest.fixture(scope="module")
def knowing(fitted: FaceCodes, encoder: LandmarkEncoder) -> EmocaEncoder:
    """An open encoder that finds the astronaut in every picture."""
    small = EmocaEncoder(**OPEN).eval()
    still = FaceCodes(*(torch.zeros_like(getattr(fitted, f.name)) for f in fields(FaceCodes)))
    small.calibrate(fitted, still, encoder.neutral_low, encoder.neutral_high)
    return small


# the published layout


def test_published_tensors() -> None:
    tensors = published().state_dict()
    for name, rows in (("E_flame", 236), ("E_expression", 50)):
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        assert len([k for k in own if k.startswith("encoder.")]) == 318
        assert {k: tuple(v.shape) for k, v in own.items() if k.startswith("layers.")} == {
            "layers.0.weight": (1024, 2048), "layers.0.bias": (1024,),
            "layers.2.weight": (rows, 1024), "layers.2.bias": (rows,),
        }  # fmt: skip
        assert own["encoder.layer4.2.bn3.num_batches_tracked"].shape == ()
        assert own["encoder.layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert len(tensors) == 2 * 322


@pytest.mark.parametrize(("pose", "rows"), [("none", 50), ("jaw", 53), ("global", 53), ("both", 56)])
def test_rows_of_the_expression_encoder(pose: str, rows: int) -> None:
    assert published(expression_pose=pose).E_expression.layers[2].out_features == rows


def test_deca_has_no_expression_encoder() -> None:
    assert {name.split(".")[0] for name in published(expression_encoder=False).state_dict()} == {"E_flame"}


def test_codes_are_split_in_decas_order() -> None:
    codes = constant(EmocaEncoder("resnet18", expression_encoder=False, image_size=32))(torch.rand(2, 3, 32, 32))
    order = ("shape", "texture", "expression", "pose", "camera", "light")
    joined = torch.cat([getattr(codes, name).flatten(1) for name in order], 1)
    assert torch.equal(joined, torch.arange(236.0).expand(2, -1))
    assert [getattr(codes, name).shape[1] for name in order] == [100, 50, 50, 6, 3, 9]
    assert codes.light[0, 1].tolist() == [212, 213, 214]


@pytest.mark.parametrize("pose", EXPRESSION_POSES)
@pytest.mark.parametrize("shared", [False, True])
def test_what_the_expression_encoder_replaces(pose: str, shared: bool) -> None:
    encoder = EmocaEncoder("small", 16, image_size=32, expression_pose=pose, shared_trunk=shared)
    codes = constant(encoder)(torch.rand(1, 3, 32, 32))
    assert codes.expression[0].tolist() == list(range(1000, 1050))
    coarse, extra = list(range(200, 206)), list(range(1050, 1056))
    expected = {"none": coarse, "jaw": coarse[:3] + extra[:3], "global": extra[:3] + coarse[3:], "both": extra}
    assert codes.pose[0].tolist() == expected[pose]


def test_two_trunks_or_one() -> None:
    image = torch.rand(2, 3, 32, 32)
    for shared in (False, True):
        encoder = EmocaEncoder("small", 16, image_size=32, shared_trunk=shared)
        encoder(image).expression.sum().backward()
        reached = encoder.E_flame.encoder[0].weight.grad is not None
        assert reached == shared
        assert any(name.startswith("E_expression.encoder") for name in encoder.state_dict()) != shared


# the small backbone


def test_small_backbone_is_small_and_knows_where_things_are() -> None:
    encoder = EmocaEncoder("small", 256, 80, 0, 52, 112, shared_trunk=True)
    assert 0.5e6 < sum(p.numel() for p in encoder.parameters()) < 1.5e6
    trunk = SmallTrunk(64).eval()
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., 16:32, 16:32] = 1
    moved = picture.roll((16, 16), (2, 3))  # by one place of the last map: an average could not tell
    here, there = trunk(picture), trunk(moved)
    assert (here - there).norm() > 0.1 * here.norm()


def test_choices_and_sizes_that_are_refused() -> None:
    for changes, message in (
        ({"backbone": "vgg"}, "backbone is 'vgg'"),
        ({"expression_pose": "head"}, "expression_pose is 'head'"),
        ({"crop": "square"}, "crop is 'square'"),
        ({"backbone": "small", "image_size": 100}, "multiples of 16, not 100"),
    ):
        with pytest.raises(ValueError, match=message):
            EmocaEncoder(**changes)
    encoder = EmocaEncoder(**OPEN)
    for shape in ((1, 3, 64, 64), (3, 48, 48), (1, 1, 48, 48)):
        with pytest.raises(ValueError, match=r"give crops as \[batch, 3, 48, 48\]"):
            encoder(torch.zeros(shape))


def test_calibrated_outputs_are_in_units_of_their_spread(fitted: FaceCodes) -> None:
    encoder = constant(EmocaEncoder(**OPEN))
    spread = FaceCodes(*(torch.full_like(getattr(fitted, f.name), 0.5) for f in fields(FaceCodes)))
    encoder.calibrate(fitted, spread, torch.zeros(52), torch.ones(52))
    codes = encoder(torch.rand(1, 3, 48, 48))
    assert torch.allclose(codes.shape, fitted.shape + 0.5 * torch.arange(80.0))
    assert torch.allclose(codes.expression, fitted.expression + 0.5 * (1000 + torch.arange(52.0)))
    assert torch.allclose(codes.light, fitted.light + 0.5 * (141 + torch.arange(27.0)).view(9, 3))


@pytest.mark.parametrize("pose", EXPRESSION_POSES)
def test_calibration_reaches_the_pose_of_the_expression_encoder(pose: str, fitted: FaceCodes) -> None:
    encoder = EmocaEncoder(**OPEN, expression_pose=pose).eval()
    still = FaceCodes(*(torch.zeros_like(getattr(fitted, f.name)) for f in fields(FaceCodes)))
    turned = fitted.with_(pose=torch.arange(6.0)[None])
    encoder.calibrate(turned, still, torch.zeros(52), torch.zeros(52))
    codes = encoder(torch.rand(1, 3, 48, 48))
    for f in fields(FaceCodes):
        assert torch.equal(getattr(codes, f.name), getattr(turned, f.name)), f.name


# fits


def landmarks_of(head: HeadModel, codes: FaceCodes) -> np.ndarray:
    """Projected landmarks [N, 2] in normalised device coordinates."""
    vertices = head(codes.shape, codes.expression, codes.pose)
    return project(head.landmarks(vertices), codes.camera)[0, :, :2].numpy()


def test_fit_gives_codes_and_what_they_leave_over(head: HeadModel, knowing: EmocaEncoder, fitted: FaceCodes) -> None:
    asked = []

    def crop(size: int) -> Tensor:
        asked.append(size)
        return torch.rand(1, 3, size, size)

    points = np.column_stack([landmarks_of(head, fitted) + (0.03, -0.04), np.zeros(478)])
    fit = knowing.fit(head, points, {}, crop)
    assert asked == [48]
    assert torch.equal(fit.codes.expression, fitted.expression)
    assert np.allclose(fit.residual, (0.03, -0.04), atol=1e-5)
    assert np.allclose(fit.error, 0.05, atol=1e-5)


def test_fits_that_are_refused(head: HeadModel, knowing: EmocaEncoder) -> None:
    crop = lambda size: torch.rand(1, 3, size, size)
    with pytest.raises(ValueError, match="478 landmarks, got 68"):
        knowing.fit(head, np.zeros((68, 2)), {}, crop)


@torch.no_grad()
def test_fit_looks_at_the_encoders_own_crop(head: HeadModel) -> None:
    encoder = EmocaEncoder(**OPEN | {"crop": "deca"}).eval()
    image = torch.rand(1, 3, 48, 48)
    points = landmarks_of(head, encoder(image))
    fit = encoder.fit(head, points, {}, lambda size: image)
    assert encoder.crop == "deca"
    assert np.abs(fit.residual).max() < 1e-5


def test_landmarks_without_a_place_leave_nothing_over(head: HeadModel, fitted: FaceCodes) -> None:
    sparse = copy.deepcopy(head)
    sparse.landmark_weight[100:] = 0
    points = landmarks_of(head, fitted) + (0.03, -0.04)
    fit = compare(sparse, fitted, points)
    assert np.allclose(fit.residual[:100], (0.03, -0.04), atol=1e-5)
    assert np.allclose(fit.error[:100], 0.05, atol=1e-5)
    assert not fit.residual[100:].any() and not fit.error[100:].any()
    assert fit.residual.shape == (478, 2)


# branches


def test_branch_deca_takes_everything_from_the_coarse_encoder() -> None:
    encoder = constant(EmocaEncoder("small", 16, image_size=32, expression_pose="both"))
    image = torch.rand(1, 3, 32, 32)
    coarse = encoder(image, "deca")
    order = ("shape", "texture", "expression", "pose", "camera", "light")
    joined = torch.cat([getattr(coarse, name).flatten(1) for name in order], 1)
    assert joined[0].tolist() == list(range(236))
    for branch in (None, "emoca"):
        assert encoder(image, branch).pose[0].tolist() == list(range(1050, 1056))
    assert encoder.branches == ("deca", "emoca")


def test_deca_alone_has_one_branch() -> None:
    encoder = constant(EmocaEncoder("small", 16, image_size=32, expression_encoder=False))
    image = torch.rand(1, 3, 32, 32)
    assert encoder.branches == ("deca",)
    torch.testing.assert_close(encoder(image, "deca").expression, encoder(image).expression)
    with pytest.raises(ValueError, match="DECA alone"):
        encoder(image, "emoca")


def test_fit_passes_the_branch_on(head: HeadModel, knowing: EmocaEncoder, fitted: FaceCodes) -> None:
    points, crop = landmarks_of(head, fitted), lambda size: torch.rand(1, 3, size, size)
    told = knowing.fit(head, points, {}, crop, "emoca").codes.expression
    assert torch.equal(told, fitted.expression)
    with pytest.raises(ValueError, match="branch is 'spectre'; choose one of deca, emoca"):
        knowing.fit(head, points, {}, crop, branch="spectre")


def test_landmark_fits_have_no_branch(head: HeadModel, encoder: LandmarkEncoder, fitted: FaceCodes) -> None:
    assert (encoder.crop, encoder.branches) == ("aligned", ())
    with pytest.raises(ValueError, match="no DECA or EMOCA branch"):
        encoder.fit(head, landmarks_of(head, fitted), {}, None, branch="deca")


def test_all_encoders_share_a_signature(head: HeadModel, encoder: LandmarkEncoder, fitted: FaceCodes) -> None:
    points = landmarks_of(head, fitted)
    fit = encoder.fit(head, points, {}, lambda size: pytest.fail("a landmark fit needs no picture"))
    again = encoder(head, points, {})
    torch.testing.assert_close(fit.codes.expression, again.codes.expression)
    assert np.allclose(fit.residual, again.residual, atol=1e-6)


def test_relaxed_face_is_the_landmark_encoders(
    head: HeadModel, encoder: LandmarkEncoder, knowing: EmocaEncoder, astronaut_face: EncodedFace
) -> None:
    codes, offsets = astronaut_face.codes, astronaut_face.offsets
    relaxed = relaxed_expression(head, codes, knowing.relaxed_range, offsets)
    torch.testing.assert_close(relaxed, relaxed_expression(head, codes, encoder.relaxed_range, offsets))
    assert (relaxed - codes.expression).abs().max() > 0.1  # she smiles


def test_relaxed_face_without_named_units_is_zero(fitted: FaceCodes) -> None:
    head = HeadModel(num_vertices=4, num_faces=2, num_uv=4, num_shape=80, num_expression=52)
    plain = EmocaEncoder("small", 16, 80, 0, 52, 32)
    assert torch.equal(relaxed_expression(head, fitted, plain.relaxed_range), torch.zeros(1, 52))


def test_saved_and_loaded(tmp_path: Path, fitted: FaceCodes) -> None:
    encoder = EmocaEncoder(**OPEN).eval()
    spread = FaceCodes(*(torch.rand_like(getattr(fitted, f.name)) for f in fields(FaceCodes)))
    encoder.calibrate(fitted, spread, -torch.rand(52), torch.rand(52))
    encoder.save_pretrained(tmp_path)
    loaded = EmocaEncoder.from_pretrained(tmp_path)
    assert not loaded.training
    image = torch.rand(1, 3, 48, 48)
    before, after = encoder(image), loaded(image)
    for f in fields(FaceCodes):
        torch.testing.assert_close(getattr(before, f.name), getattr(after, f.name), msg=f.name)
    assert torch.equal(loaded.neutral_high, encoder.neutral_high)


def test_a_pipeline_edits_with_it(
    pipe: EmoRigPipeline, knowing: EmocaEncoder, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    other = EmoRigPipeline(pipe.head, knowing)
    other.set_progress_bar_config(disable=True)
    face = other.encode_face(astronaut, astronaut_face.face)
    drawn = pipe.head.landmarks(other.grid_vertices(face, face.codes, 384)[None])[0, :468, :2].numpy()
    seen = transform_points(align(face.face.landmarks, 384), face.face.landmarks[:468, :2])
    assert np.abs(drawn - seen).mean() < 1  # what the codes leave over is made up for
    edited = other(astronaut, "happy", output_type="np").images[0]
    assert (edited != astronaut).any(2).mean() > 0.01


def test_the_bundled_encoder_is_near_the_landmark_fit(
    pipe: EmoRigPipeline, astronaut: np.ndarray, hopper: np.ndarray, astronaut_face: EncodedFace
) -> None:
    encoder = EmocaEncoder.from_pretrained(resolve("encoder-open"))
    fast = EmoRigPipeline.from_pretrained("emorig-open", encoder=encoder)
    faces = [fast.encode(photo)[0] for photo in (astronaut, hopper)]
    assert all(face.error * 192 < 7 for face in faces)  # pixels of a 384-pixel crop
    own, other = ((face.codes.expression - astronaut_face.codes.expression).abs().mean() for face in faces)
    assert own < 0.1 and other > 1.3 * own  # it tells faces apart
