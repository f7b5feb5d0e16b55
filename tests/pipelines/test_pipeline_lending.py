"""What a reference lends, who reads the codes, which noise is taken, and several edits at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawing_unet import drawing_unet
from pictures import assert_close
from torch import nn

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.painting.diffusion_rig import draw_conditions, published_scheduler
from emorig_diffusers.photo.crops import square_matrix
from emorig_diffusers.pipelines.request import EditRequest

SIDE = 64


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def drawing(pipe: EmoRigPipeline) -> Callable[..., EmoRigPipeline]:
    """Makes pipelines with a small random network of DiffusionRig's kind."""
    unet = drawing_unet(16)
    appearance = AppearanceEncoder(cond_dim=16).requires_grad_(False).eval()

    def make(head: HeadModel = pipe.head, encoder: nn.Module = pipe.encoder, **settings: object) -> EmoRigPipeline:
        settings = {"crop_size": SIDE, "code_parts": "appearance", "default_num_inference_steps": 2} | settings
        made = EmoRigPipeline(head, encoder, unet, published_scheduler(), appearance, **settings)
        made.set_progress_bar_config(disable=True)
        return made

    return make


@pytest.fixture(scope="module")
def rig(drawing: Callable[..., EmoRigPipeline]) -> EmoRigPipeline:
    return drawing()


@pytest.fixture(scope="module")
def two_branches() -> EmocaEncoder:
    """The bundled encoder, which can be asked as DECA and as EMOCA."""
    return EmocaEncoder.from_pretrained(resolve("encoder-open"))


# modes


@pytest.mark.parametrize(("modes", "taken"), [
    (("exp",), {"expression", "jaw"}),
    (("pose",), {"head"}),
    (("light",), {"light"}),
    (("exp", "pose", "light"), {"expression", "jaw", "head", "light"}),
    (("latent",), set()),
])  # fmt: skip
def test_modes_take_over_what_they_say(
    rig: EmoRigPipeline, astronaut_face: EncodedFace, hopper_face: EncodedFace, modes: tuple, taken: set
) -> None:
    pose = torch.tensor([[0.1, 0.2, -0.1, 0.15, 0.0, 0.02]])
    lender = replace(hopper_face, codes=hopper_face.codes.with_(pose=pose))
    source, lent = astronaut_face.codes, lender.codes
    target = rig.edit_codes(astronaut_face, reference=lender, modes=modes)
    parts = {
        "head": (target.pose[:, :3], source.pose[:, :3], lent.pose[:, :3]),
        "jaw": (target.pose[:, 3:], source.pose[:, 3:], lent.pose[:, 3:]),
        "light": (target.light, source.light, lent.light),
    }
    for name, (found, own, other) in parts.items():
        torch.testing.assert_close(found, other if name in taken else own)
    assert torch.equal(target.expression, source.expression) != ("expression" in taken)
    assert torch.equal(target.shape, source.shape) and torch.equal(target.camera, source.camera)


def test_a_pose_is_lent_beside_an_emotion(
    pipe: EmoRigPipeline, astronaut_face: EncodedFace, hopper_face: EncodedFace
) -> None:
    request = EditRequest(emotion="happy", reference=hopper_face, modes=("pose",), prompt="anger")
    pipe.check(request)
    target = pipe.edit(astronaut_face, request, hopper_face)
    happy = pipe.edit(astronaut_face, EditRequest(emotion="happy"))
    assert torch.equal(target.expression, happy.expression) and torch.equal(target.pose[:, 3:], happy.pose[:, 3:])
    torch.testing.assert_close(target.pose[:, :3], hopper_face.codes.pose[:, :3])
    assert EditRequest(reference=hopper_face, modes=("pose",), prompt="anger").emotion == "anger"
    assert EditRequest(reference=hopper_face, prompt="anger").emotion is None


def test_codes_without_names_are_taken_as_they_are(
    drawing: Callable[..., EmoRigPipeline], head: HeadModel, astronaut_face: EncodedFace, hopper_face: EncodedFace
) -> None:
    """FLAME's components have no names: the reference's expression replaces the source's, whatever both show."""
    flame = drawing(nameless(head))
    target = flame.edit_codes(astronaut_face, reference=hopper_face)
    torch.testing.assert_close(target.expression, hopper_face.codes.expression)
    half = flame.edit_codes(astronaut_face, reference=hopper_face, intensity=0.5)
    torch.testing.assert_close(half.expression, (astronaut_face.codes.expression + hopper_face.codes.expression) / 2)


def nameless(head: HeadModel) -> HeadModel:
    """The open head as one whose components have no names."""
    other = HeadModel.from_config(dict(head.config) | {"expression_names": ()})
    other.load_state_dict(head.state_dict())
    return other


def test_emotions_as_codes(
    drawing: Callable[..., EmoRigPipeline],
    head: HeadModel,
    two_branches: EmocaEncoder,
    astronaut_face: EncodedFace,
    hopper: np.ndarray,
) -> None:
    count = head.config.num_expression
    codes = {name: [0.01 * i] * count + [0.1 * i, 0.0, 0.0] for i, name in enumerate(EMOTIONS)}
    flame = drawing(nameless(head), two_branches, emotion_codes=codes)
    assert flame.emotion_names == EMOTIONS
    target = flame.edit_codes(astronaut_face, "surprise")
    torch.testing.assert_close(torch.cat([target.expression, target.pose[:, 3:]], 1), torch.tensor([codes["surprise"]]))
    blend = flame.edit_codes(astronaut_face, {"happy": 0.5, "anger": 0.5})
    torch.testing.assert_close(blend.expression, torch.full((1, count), 0.035))
    more = flame.edit_codes(astronaut_face, "happy", 1.5)
    torch.testing.assert_close(more.expression, torch.full((1, count), 0.015))
    assert torch.equal(flame.edit_codes(astronaut_face, "happy", 0).expression, astronaut_face.codes.expression)
    assert flame(hopper, "fear", num_inference_steps=1).faces[0][0].target.pose[0, 3] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="Unknown emotion 'glad'"):
        flame.check_inputs(emotion="glad")
    assert drawing(nameless(head)).emotion_names == ()


def test_the_latent_mode_takes_the_references_look(
    rig: EmoRigPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seed(3))
    options = {"reference": astronaut, "modes": ["latent"], "latents": noise, "num_inference_steps": 1}
    lent = rig(hopper, **options, output_type="np")
    sheet = lent.faces[0][0]
    assert torch.equal(sheet.target.expression, sheet.source.expression)
    changed = (lent.images[0] != hopper).any(-1)
    assert changed.any()
    rig.scheduler.set_timesteps(1)
    face, other = rig.encode(hopper)[0], rig.encode(astronaut)[0]
    z = rig.painter.appearance_code(rig.painter.crop(astronaut, other))
    conditions = draw_conditions(rig.head, face.codes, SIDE)
    sample, _ = rig.sample(noise, conditions, rig.condition_code(face.codes, z), Sampling(1))
    found = np.asarray(sheet.drawn) / 127.5 - 1
    np.testing.assert_allclose(found, sample[0].clamp(-1, 1).permute(1, 2, 0), atol=0.02)
    assert np.array_equal(rig(hopper, intensity=0, **options, output_type="np").images[0], hopper)


# who reads


def test_four_pairs_of_encoders(
    drawing: Callable[..., EmoRigPipeline], two_branches: EmocaEncoder, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    lab = drawing(encoder=two_branches)
    assert lab.encoder.branches == ("deca", "emoca")
    encode = lambda branch: [lab.encode(photo, encoder=branch)[0] for photo in (hopper, astronaut)]
    read = {branch: encode(branch) for branch in lab.encoder.branches}
    assert not torch.equal(read["deca"][0].codes.expression, read["emoca"][0].codes.expression)
    assert torch.equal(read["deca"][0].codes.shape, read["emoca"][0].codes.shape)
    for source in read:
        for target in read:
            options = {"source_encoder": source, "target_encoder": target, "num_inference_steps": 1}
            face = lab(hopper, reference=astronaut, **options).faces[0][0]
            assert torch.equal(face.source.expression, read[source][0].codes.expression)
            expected = lab.edit_codes(read[source][0], reference=read[target][1])
            assert torch.equal(face.target.expression, expected.expression)


@pytest.mark.parametrize(("given", "words"), [
    ({"modes": ["smile"]}, "modes must be some of exp, pose, light, latent"),
    ({"modes": "exp"}, "modes must be some of"),
    ({"modes": []}, "modes must be some of"),
    ({"source_encoder": "emoca"}, r"cannot be 'emoca' \(source_encoder\): leave it out"),
    ({"crop": "deca"}, "crop must be one of aligned, ffhq, landmarks, whole"),
    ({"detail": True}, "detail needs DECA's encoder"),
    ({"batch_size": 0}, "batch_size must be a whole number"),
    ({"latents": "noise"}, "or 'photo'"),
    ({"emotion": []}, "The list of emotions is empty"),
    ({"emotion": ["happy", "glad"]}, "Unknown emotion 'glad'"),
])  # fmt: skip
def test_what_cannot_be_done(rig: EmoRigPipeline, given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rig.check_inputs(**{"emotion": "happy"} | given)


@pytest.mark.parametrize(("given", "words"), [
    ({"modes": ["light"]}, "'light' needs a network that draws the whole crop"),
    ({"modes": ["latent"]}, "'latent' needs a network"),
    ({"latents": "photo"}, "latents='photo' needs a network"),
])  # fmt: skip
def test_moved_pixels_have_no_light(pipe: EmoRigPipeline, given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pipe.check_inputs(reference="photo.jpg", **given)


# noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_inversion_is_the_reverse_loop(rig: EmoRigPipeline, kind: str) -> None:
    """Against guided-diffusion's equations in float64, whatever the network predicts."""
    pictures = torch.rand(2, 3, SIDE, SIDE, generator=seed(0)) * 2 - 1
    conditions, code = torch.randn(2, 9, SIDE, SIDE, generator=seed(1)), torch.randn(2, 16, generator=seed(2))
    unet = rig.unet
    rig.unet = double = RigUNet.from_config(unet.config).double().eval()
    double.load_state_dict(unet.state_dict())
    rig.scheduler.register_to_config(prediction_type=kind)
    try:
        found = rig.invert(pictures.double(), conditions.double(), code.double(), 20)
    finally:
        rig.unet = unet
        rig.scheduler.register_to_config(prediction_type="epsilon")
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).double()
    x, times = pictures.double(), list(range(0, 1000, 50))
    for i, t in enumerate(times):
        a = alphas[t]
        out = double(torch.cat([x, conditions.double()], 1), t, code.double()).sample
        x0 = {"epsilon": (x - (1 - a).sqrt() * out) / a.sqrt(), "sample": out,
              "v_prediction": a.sqrt() * x - (1 - a).sqrt() * out}[kind].clamp(-1, 1)  # fmt: skip
        noise = (x / a.sqrt() - x0) / (1 / a - 1).sqrt()
        after = alphas[times[i + 1]] if i + 1 < len(times) else torch.tensor(0.0)
        x = after.sqrt() * x0 + (1 - after).sqrt() * noise
    torch.testing.assert_close(found, x.to(found), atol=1e-4, rtol=1e-4)


def test_the_photos_own_noise(rig: EmoRigPipeline, hopper: np.ndarray) -> None:
    """It depends on nothing random, and under its own codes leads back nearer to the photo than other noise."""
    options = {"emotion": "surprise", "latents": "photo", "num_inference_steps": 4}
    pictures = [np.asarray(rig(hopper, **options).faces[0][0].drawn) for _ in range(2)]
    assert_close(*pictures)
    face = rig.encode(hopper)[0]
    photo, conditions = rig.painter.crop(hopper, face), draw_conditions(rig.head, face.codes, SIDE)
    code = rig.condition_code(face.codes, rig.painter.appearance_code(photo))
    back, _ = rig.sample(rig.invert(photo, conditions, code, 50), conditions, code, Sampling(50))
    other, _ = rig.sample(torch.randn(1, 3, SIDE, SIDE, generator=seed(0)), conditions, code, Sampling(50))
    assert (back - photo).abs().mean() < 0.8 * (other - photo).abs().mean()


# several edits


def test_one_photo_with_many_emotions(rig: EmoRigPipeline, pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seed(3))
    options = {"latents": noise, "output_type": "np"}
    moods = ["happy", {"sad": 0.5}, "anger"]
    together = rig(hopper, moods, **options, batch_size=2)
    for mood, picture in zip(moods, together.images, strict=True):
        alone = rig(hopper, mood, **options).images[0]
        np.testing.assert_allclose(picture.astype(int), alone, atol=1)
    moved = pipe(hopper, ["happy", "sad"], output_type="np", generator=seed(0))
    assert len(moved.images) == 2 and (moved.images[0] != moved.images[1]).any()


def test_each_photo_its_own_emotion(rig: EmoRigPipeline, hopper: np.ndarray, astronaut: np.ndarray) -> None:
    faces = rig([hopper, astronaut], ["fear", "neutral"], num_inference_steps=1).faces
    for photo, mood, (edited,) in zip((hopper, astronaut), ("fear", "neutral"), faces, strict=True):
        expected = rig.edit_codes(rig.encode(photo)[0], mood)
        assert torch.equal(edited.target.expression, expected.expression)
    with pytest.raises(ValueError, match="There are 2 photos and 3 emotions"):
        rig([hopper, astronaut], ["fear"] * 3)


# frames


@pytest.mark.parametrize("frame", ["aligned", "ffhq", "whole"])
def test_the_head_lies_on_the_face_in_every_picture(
    drawing: Callable[..., EmoRigPipeline], hopper: np.ndarray, hopper_face: EncodedFace, frame: str
) -> None:
    rig = drawing(crop=frame)
    face = rig.encode_face(hopper, hopper_face.face)
    assert torch.equal(face.codes.expression, hopper_face.codes.expression)
    drawn = rig.draw_head(face.codes, 256, face.transform).mask[0, 0]
    points = face.face.landmarks[:468, :2] @ (matrix := face.grid_matrix(256))[:, :2].T + matrix[:, 2]
    columns, rows = points.astype(int).T
    assert drawn[rows, columns].mean() > 0.9
    shown = rig.grid_vertices(face, face.codes, 256)[None]
    found = rig.head.landmarks(shown)[0, :468, :2].numpy()
    assert np.median(np.linalg.norm(found - points, axis=1)) < 1
    if frame == "whole":
        assert np.array_equal(matrix, square_matrix(hopper.shape, 256))


def test_a_call_may_choose_the_picture(rig: EmoRigPipeline, astronaut: np.ndarray) -> None:
    face = rig(astronaut, "happy", crop="whole", num_inference_steps=1).faces[0][0]
    shrunk = astronaut.reshape(SIDE, 8, SIDE, 8, 3).mean((1, 3))
    outside = np.asarray(face.buffers["repainted"]) == 0
    assert outside.mean() > 0.5
    assert np.abs(np.asarray(face.crop, float) - shrunk)[outside].mean() < 4
