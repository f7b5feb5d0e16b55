"""EmoRigPipeline on real photos: what changes, what must not, and a sentence for every wrong argument."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pictures import assert_close
from PIL import Image

from emorig_diffusers import EMOTIONS, EmoRigOutput, EmoRigPipeline, FaceCodes
from emorig_diffusers.evaluation.metrics import FerJudge, IdentityJudge
from emorig_diffusers.face.edit import turned
from emorig_diffusers.face.emotions import emotion_offset
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.relax import relaxed_expression
from emorig_diffusers.models.head import rotation_matrix
from emorig_diffusers.photo.faces import BLENDSHAPES, find_faces
from emorig_diffusers.timing import recorded

Edit = Callable[[str], EmoRigOutput]
Box = tuple[float, float, float, float]


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def far_from(box: Box, shape: tuple[int, ...], margin: float = 0.8) -> np.ndarray:
    """Pixels [H, W] farther from a face's box than `margin` of its longer side."""
    x0, y0, x1, y1 = box
    reach = margin * max(x1 - x0, y1 - y0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (x < x0 - reach) | (x > x1 + reach) | (y < y0 - reach) | (y > y1 + reach)


def inside(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    return ~far_from(box, shape, 0)


def scores(rgb: np.ndarray, box: Box | None = None) -> dict[str, float]:
    """Blendshape scores of a photo's face, by MediaPipe's network, which has no part in an edit's result."""
    (face,) = find_faces(rgb)
    if box is not None:
        assert np.abs(np.subtract(face.box, box)).max() < 0.25 * (box[2] - box[0])
    return dict(zip(BLENDSHAPES, face.blendshapes.tolist(), strict=True))


# what an edit is


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copy", "pickle"]
)
def test_a_pipeline_that_has_edited_can_be_copied(
    copied: Callable, pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    """And sent to other processes."""
    again = copied(pipe)
    assert again.texture.head is again.head and again.head is not pipe.head
    face = again.encode_face(astronaut, astronaut_face.face)
    torch.testing.assert_close(face.offsets, astronaut_face.offsets)
    torch.testing.assert_close(face.codes.expression, astronaut_face.codes.expression)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_size_mode_and_alpha_stay(pipe: EmoRigPipeline, astronaut: np.ndarray, mode: str) -> None:
    photo = Image.fromarray(astronaut).convert(mode).crop((60, 0, 400, 300))
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    (result,) = pipe(photo, "happy", 1.2).images
    assert (result.size, result.mode) == (photo.size, mode)
    before, after = np.asarray(photo), np.asarray(result)
    assert (before != after).mean() > 0.01
    if mode == "RGBA":
        assert np.array_equal(before[..., 3], after[..., 3])


def zero_edits(face: EncodedFace, photo: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"emotion": "happy", "intensity": 0},
        {"emotion": {"sad": 0.5, "anger": 0.5}, "intensity": 0.0},
        {"reference": photo, "intensity": 0},
        {"action_units": {}},
        {"action_units": {"AU12": 0.0}, "rotate": (0, 0, 0)},
        {"codes": face.codes},
        {"rotate": (0.0, 0.0, 0.0)},
        {"gaze": (0, 0.0)},
        {"light_turn": (0, 0.0), "light_strength": 1},
    ]


@pytest.mark.parametrize("number", range(9))
def test_zero_edits_return_the_photo(
    pipe: EmoRigPipeline, astronaut: np.ndarray, hopper: np.ndarray, astronaut_face: EncodedFace, number: int
) -> None:
    output = pipe(astronaut, **zero_edits(astronaut_face, hopper)[number], output_type="np")
    assert np.array_equal(output.images[0], astronaut)
    assert not np.asarray(output.faces[0][0].buffers["repainted"]).any()


def test_zero_edit_keeps_sixteen_bits(pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    deep = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 250 + 123
    (result,) = pipe(Image.fromarray(deep), "sad", 0).images
    assert result.mode == "I;16"
    assert np.array_equal(np.asarray(result), deep)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_emotions_change_the_face_and_nothing_else(
    edit: Edit, astronaut: np.ndarray, astronaut_face: EncodedFace, emotion: str
) -> None:
    result = edit(emotion).images[0]
    assert result.shape == astronaut.shape and result.dtype == np.uint8
    box = astronaut_face.face.box
    change = np.abs(result.astype(int) - astronaut).max(-1)
    assert not change[far_from(box, astronaut.shape)].any()
    least = 0.003 if emotion == "happy" else 0.03  # she laughs already: her cheeks rise
    assert (change[inside(box, astronaut.shape)] > 8).mean() > least


def test_emotions_differ(edit: Edit, astronaut_face: EncodedFace) -> None:
    mask = inside(astronaut_face.face.box, (512, 512))
    for a, b in combinations(EMOTIONS, 2):
        difference = np.abs(edit(a).images[0].astype(int) - edit(b).images[0])[mask]
        assert difference.mean() > 0.8, (a, b)


def test_more_intensity_is_more_change(pipe: EmoRigPipeline, hopper_face: EncodedFace, names: tuple) -> None:
    points = lambda codes: pipe.head.landmarks(pipe.pose_head(codes))[0]
    start = points(hopper_face.codes)
    lengths = [
        float((points(pipe.edit_codes(hopper_face, "happy", i)) - start).norm())
        for i in (0, 0.3, 0.6, 1, 1.5)
    ]
    assert lengths[0] == 0
    assert lengths == sorted(lengths) and len(set(lengths)) == 5


# independent judges


def test_identity_is_kept(
    edit: Edit, astronaut: np.ndarray, astronaut_face: EncodedFace, hopper: np.ndarray
) -> None:
    judge = IdentityJudge()
    embed = lambda rgb: judge.embed(rgb, find_faces(rgb)[0].landmarks)
    own = judge.embed(astronaut, astronaut_face.face.landmarks)
    for emotion in EMOTIONS:
        assert judge.similarity(own, embed(edit(emotion).images[0])) >= 0.6, emotion
    assert judge.similarity(own, embed(hopper)) < 0.3


@pytest.fixture(scope="module")
def hopper_happy(pipe: EmoRigPipeline, hopper: np.ndarray) -> EmoRigOutput:
    return pipe(hopper, "happy", 1.5, output_type="np", generator=seed(0))


def test_happy_is_seen_by_others(
    hopper: np.ndarray, hopper_face: EncodedFace, hopper_happy: EmoRigOutput
) -> None:
    judge, box, result = FerJudge(), hopper_face.face.box, hopper_happy.images[0]
    before, after = judge(hopper, box)["happy"], judge(result, box)["happy"]
    assert after > before + 0.05 and after > 1.5 * before
    calm, smile = scores(hopper), scores(result, box)
    for side in ("Left", "Right"):
        assert smile["mouthSmile" + side] > calm["mouthSmile" + side] + 0.4


@pytest.mark.parametrize(
    ("emotion", "unit", "rise"),
    [("surprise", "jawOpen", 0.1), ("anger", "browDownLeft", 0.15), ("sad", "mouthSmileLeft", -0.3)],
)
def test_other_emotions_are_seen_by_others(
    pipe: EmoRigPipeline,
    edit: Edit,
    hopper: np.ndarray,
    astronaut: np.ndarray,
    emotion: str,
    unit: str,
    rise: float,
) -> None:
    smiling = rise < 0
    before = scores(astronaut if smiling else hopper)[unit]
    result = edit(emotion) if smiling else pipe(hopper, emotion, output_type="np", generator=seed(0))
    after = scores(result.images[0])[unit]
    assert (after - before) / rise > 1


# other edits


def test_reference_lends_its_expression(
    pipe: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray, hopper_face: EncodedFace, names: tuple
) -> None:
    output = pipe(hopper, reference=Image.fromarray(astronaut), output_type="np", generator=seed(0))
    smile = scores(output.images[0], hopper_face.face.box)["mouthSmileLeft"]
    assert smile > scores(hopper)["mouthSmileLeft"] + 0.3
    target = output.faces[0][0].target
    assert torch.equal(target.shape, hopper_face.codes.shape)
    assert torch.equal(target.camera, hopper_face.codes.camera)
    unit = names.index("mouthSmileLeft")
    assert target.expression[0, unit] > hopper_face.codes.expression[0, unit] + 0.2


def test_own_photo_as_reference_changes_next_to_nothing(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace
) -> None:
    target = pipe.edit_codes(astronaut_face, reference=astronaut_face)
    torch.testing.assert_close(target.expression, astronaut_face.codes.expression, atol=1e-5, rtol=0)
    assert torch.equal(target.pose, astronaut_face.codes.pose)


def test_action_units_add_to_the_photos_expression(
    pipe: EmoRigPipeline, hopper_face: EncodedFace, names: tuple
) -> None:
    source = hopper_face.codes.expression[0]
    target = pipe.edit_codes(hopper_face, action_units={"L12": 1.0, "jawOpen": 0.3}).expression[0]
    change = {n: v for n, v in zip(names, (target - source).tolist(), strict=True) if v}
    assert change["jawOpen"] == pytest.approx(0.3)
    assert change["mouthSmileLeft"] > 0.3
    assert not any(n.endswith("Right") for n in change)
    both = pipe.edit_codes(hopper_face, "sad", action_units={"jawOpen": 0.3}).expression
    torch.testing.assert_close(
        both - pipe.edit_codes(hopper_face, "sad").expression,
        torch.tensor([[0.3 if n == "jawOpen" else 0.0 for n in names]]),
    )


def test_one_sided_smile_lifts_one_corner(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    result = pipe(hopper, action_units={"L12": 1.2}, output_type="np", generator=seed(0)).images[0]
    (after,) = find_faces(result)
    lift = (hopper_face.face.landmarks - after.landmarks)[[291, 61], 1]  # her left corner, her right one
    height = np.ptp(hopper_face.face.landmarks[:, 1])
    assert lift[0] > 0.02 * height
    assert lift[0] > 3 * abs(lift[1])


def test_codes_are_used_as_they_are(
    pipe: EmoRigPipeline,
    edit: Edit,
    astronaut: np.ndarray,
    astronaut_face: EncodedFace,
    hopper_face: EncodedFace,
) -> None:
    codes = FaceCodes.from_dict(pipe.edit_codes(astronaut_face, "surprise").to_dict())
    output = pipe(astronaut, codes=codes, output_type="np", generator=seed(0))
    assert torch.equal(output.faces[0][0].target.expression, codes.expression)
    assert_close(output.images[0], edit("surprise").images[0])
    other = pipe(astronaut, codes=hopper_face.codes).faces[0][0]  # another person's expression and pose
    assert torch.equal(other.target.expression, hopper_face.codes.expression)
    assert torch.equal(other.target.shape, astronaut_face.codes.shape)


@pytest.mark.parametrize(("angles", "axis"), [((8, 0, 0), 1), ((0, 8, 0), 0)])
def test_rotate_turns_the_head(
    pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace, angles: tuple, axis: int
) -> None:
    result = pipe(hopper, rotate=angles, output_type="np", generator=seed(0)).images[0]
    nose = lambda points: points[4, :2] - points[[33, 263, 61, 291], :2].mean(0)
    (after,) = find_faces(result)
    shift = nose(after.landmarks) - nose(hopper_face.face.landmarks)
    width = np.ptp(hopper_face.face.landmarks[:, 0])
    # to the subject's left is to the right in the picture; up is up
    assert shift[0 if axis == 1 else 1] * (1 if axis == 1 else -1) > 0.015 * width
    again = pipe.encode_face(result, after).codes.pose[0]
    turn = np.degrees(float(again[axis] - hopper_face.codes.pose[0, axis])) * (1 if axis == 1 else -1)
    assert 3 < turn < 13


def test_rotate_is_in_degrees_and_undone_by_its_opposite() -> None:
    start = torch.tensor([[0.1, -0.2, 0.05]])
    torch.testing.assert_close(turned(start, (0, 0, 0)), start)
    yaw = turned(torch.zeros(1, 3), (30, 0, 0))
    torch.testing.assert_close(yaw, torch.tensor([[0, np.pi / 6, 0]]).float())
    for angles in ((25, 0, 0), (0, -10, 0), (0, 0, 40)):
        there = turned(start, angles)
        torch.testing.assert_close(turned(there, [-a for a in angles]), start, atol=1e-6, rtol=0)
        assert not torch.allclose(there, start)


def test_roll_leans_to_the_right_shoulder() -> None:
    crown = rotation_matrix(turned(torch.zeros(1, 3), (0, 0, 20)))[0] @ torch.tensor([0.0, 1.0, 0.0])
    assert crown[0] < -0.3  # x is to the subject's left


def test_the_middle_of_the_face_stays_when_the_head_turns(
    pipe: EmoRigPipeline, hopper_face: EncodedFace
) -> None:
    target = pipe.edit_codes(hopper_face, rotate=(12, -6, 9))
    middle = lambda codes: pipe.head.landmarks(pipe.grid_vertices(hopper_face, codes, 512)[None])[
        0, [33, 133, 362, 263, 61, 291], :2
    ].mean(0)
    torch.testing.assert_close(middle(target), middle(hopper_face.codes), atol=0.05, rtol=0)


def test_blends_are_between(pipe: EmoRigPipeline, hopper_face: EncodedFace, names: tuple) -> None:
    blend = pipe.edit_codes(hopper_face, {"happy": 0.5, "surprise": 0.5}).expression[0]
    for unit, emotion in (("mouthSmileLeft", "happy"), ("browOuterUpLeft", "surprise")):
        index = names.index(unit)
        alone = pipe.edit_codes(hopper_face, emotion).expression[0, index]
        rest = pipe.edit_codes(hopper_face, "neutral").expression[0, index]
        assert min(alone, rest) < blend[index] < max(alone, rest)


def test_own_recipes_of_a_checkpoint(pipe: EmoRigPipeline, astronaut: np.ndarray, names: tuple) -> None:
    recipes = {"calm": {"AU43": 0.4}}
    own = EmoRigPipeline(pipe.head, pipe.encoder, emotions=recipes)
    assert own.recipes == recipes
    with pytest.raises(ValueError, match=r"Unknown emotion 'happy': choose one of calm\."):
        own(astronaut, "happy")
    face = own.encode(astronaut)[0]
    relaxed = relaxed_expression(own.head, face.codes, own.encoder.relaxed_range, face.offsets)
    expected = relaxed + emotion_offset("calm", names, recipes)
    blink = names.index("eyeBlinkLeft")
    torch.testing.assert_close(own.edit_codes(face, "calm").expression[0, blink], expected[0, blink])


# what comes back


def test_output_types(pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    same = lambda **how: pipe(astronaut, action_units={}, **how)
    pil, array, tensor = (same(output_type=t).images[0] for t in ("pil", "np", "pt"))
    assert isinstance(pil, Image.Image) and pil.mode == "RGB"
    assert array.dtype == np.uint8
    assert tensor.shape == (3, 512, 512) and tensor.dtype == torch.float32
    back = (tensor * 255).round().byte().permute(1, 2, 0).numpy()
    for result in (np.asarray(pil), array, back):
        assert np.array_equal(result, astronaut)
    images, faces = same(return_dict=False, output_type="np")
    assert np.array_equal(images[0], astronaut)
    assert faces[0][0].number == 1


def test_what_is_told_of_a_face(edit: Edit, pipe: EmoRigPipeline, astronaut_face: EncodedFace) -> None:
    (face,) = edit("surprise").faces[0]
    assert face.number == 1
    assert face.box == astronaut_face.face.box
    assert torch.equal(face.source.expression, astronaut_face.codes.expression)
    assert face.crop.size == (256, 256)
    assert set(face.buffers) == {"normal", "albedo", "rendered", "repainted"}
    assert all(b.size == (256, 256) for b in face.buffers.values())
    assert face.buffers["repainted"].mode == "L"
    assert 0.002 < (np.asarray(face.buffers["repainted"]) > 0).mean() < 0.2
    torch.testing.assert_close(face.vertices, pipe.pose_head(face.target)[0])
    normal = np.asarray(face.buffers["normal"])
    assert normal[128, 128, 2] > 200  # the middle of the face looks at the viewer


def test_buffers_are_drawn_when_asked_and_are_pictures_for_other_processes(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    with recorded() as seconds:
        output = pipe(astronaut, "sad", faces=[astronaut_face])
        assert "network" in seconds and "buffers for the output" not in seconds
        sent = pickle.loads(pickle.dumps(output.faces[0][0].buffers))
        assert sent == dict(output.faces[0][0].buffers)
        assert len(seconds["buffers for the output"]) == 1


def test_light_explains_the_photo(edit: Edit) -> None:
    """The head under the fitted light is about as bright, and as bright on the same side, as the face."""
    face = edit("neutral").faces[0][0]
    grey = lambda image: cv2.GaussianBlur(np.asarray(image.convert("L")).astype(np.float32), (0, 0), 4)
    crop, drawn = grey(face.crop), grey(face.buffers["rendered"])
    skin = np.zeros((256, 256), bool)
    skin[90:200, 85:171] = True
    assert abs(np.median(crop[skin]) - np.median(drawn[skin])) < 20
    assert np.corrcoef(crop[skin], drawn[skin])[0, 1] > 0.3
