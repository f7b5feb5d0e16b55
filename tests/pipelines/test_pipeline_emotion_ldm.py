"""EmotionLDMPipeline: edits between emotions, what they share, pasting, files, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from pictures import assert_close
from PIL import Image
from small_ldm import TOKEN, small_ldm

from emorig_diffusers import EmotionLDMPipeline, NoFaceError
from emorig_diffusers.cli import main
from emorig_diffusers.evaluation.metrics.face_api import FaceApiJudge
from emorig_diffusers.hub.repository import export_hub
from emorig_diffusers.models.emotion_ldm import EmotionEmbedding
from emorig_diffusers.photo.crops import IBUG68, landmarks_matrix
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.pipelines.base import open_pipeline


@pytest.fixture(scope="module")
def pipe() -> EmotionLDMPipeline:
    return small_ldm()


@pytest.fixture
def calls(pipe: EmotionLDMPipeline) -> Iterator[list[int]]:
    """Batch sizes of the UNet's calls."""
    seen: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    yield seen
    handle.remove()


def edit(pipe: EmotionLDMPipeline, photo: Any, emotion: Any = "happy", **options: Any) -> Any:
    return pipe(photo, emotion, output_type="np", **options)


def test_intensity_0_is_the_photo_itself(pipe: EmotionLDMPipeline, astronaut: np.ndarray, calls: list[int]) -> None:
    for paste in ("change", "crop"):
        assert np.array_equal(edit(pipe, astronaut, intensity=0, paste=paste).images[0], astronaut)
    assert np.array_equal(edit(pipe, astronaut, "sad").images[0], astronaut)  # what it shows already
    assert not calls
    assert (edit(pipe, astronaut).images[0] != astronaut).any()


def test_tokens_of_source_target_blend_and_intensity(pipe: EmotionLDMPipeline, hopper: np.ndarray) -> None:
    table = dict(zip(pipe.emotion_names, pipe.emotion_embedding.weight[:, None]))
    null = pipe.emotion_embedding.weight[-1:]
    one = lambda *given, **options: edit(pipe, hopper, *given, **options).faces[0][0]
    judged, told = one(intensity=0.25), one(source_emotion="anger")
    assert torch.equal(judged.source, table["sad"]) and torch.equal(told.source, table["anger"])
    assert torch.allclose(judged.target, 0.75 * table["sad"] + 0.25 * table["happy"], atol=1e-6)
    assert torch.allclose(told.target, table["happy"], atol=1e-6)
    assert torch.equal(one(source_emotion="unknown").source, null)
    blend = one({"happy": 0.5, "fear": 0.5}).target
    assert torch.allclose(blend, 0.5 * table["happy"] + 0.5 * table["fear"], atol=1e-6)
    mixed = one(source_emotion={"sad": 0.5, "anger": 0.5}).source
    assert torch.allclose(mixed, 0.5 * table["sad"] + 0.5 * table["anger"], atol=1e-6)


def test_one_photo_many_emotions_is_inverted_once(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, calls: list[int]
) -> None:
    many = edit(pipe, astronaut, ["happy", "sad", "anger"])
    assert calls == [2] * 3 + [6] * 3  # twice the rows under guidance: inversion, two edits and the photo's own emotion
    calls.clear()
    plain = edit(pipe, astronaut, "anger", guidance_scale=1, paste="crop", batch_size=1)
    assert calls == [1] * 6
    calls.clear()
    edit(pipe, astronaut, "anger", inversion_guidance_scale=1, num_inference_steps=2)
    assert calls == [1] * 2 + [4] * 2
    alone = edit(pipe, astronaut, "anger")
    assert len(many.images) == 3 and np.array_equal(many.images[1], astronaut)
    assert abs(many.images[2].astype(int) - alone.images[0]).max() <= 1
    assert abs(plain.images[0].astype(int) - alone.images[0]).max() > 1


def test_the_settings_of_an_edit_matter(pipe: EmotionLDMPipeline, hopper: np.ndarray) -> None:
    draw = lambda **options: np.asarray(edit(pipe, hopper, **options).faces[0][0].drawn)
    first = draw()
    assert np.array_equal(draw(strength=0.5, guidance_scale=4.0, inversion_guidance_scale=4.0), first)
    for other in ({"strength": 0.3}, {"guidance_scale": 8.0}, {"inversion_guidance_scale": 1.0},
                  {"num_inference_steps": 9}, {"source_emotion": "fear"}):  # fmt: skip
        assert not np.array_equal(draw(**other), first), other
    published = small_ldm(inversion_guidance_scale=1.0)
    drawn = edit(published, hopper).faces[0][0].drawn
    assert np.array_equal(np.asarray(drawn), draw(inversion_guidance_scale=1.0))


def test_photos_with_emotions_of_their_own(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    both = edit(pipe, [astronaut, hopper], ["happy", "anger"])
    alone = edit(pipe, hopper, "anger")
    assert [image.shape for image in both.images] == [astronaut.shape, hopper.shape]
    assert abs(both.images[1].astype(int) - alone.images[0]).max() <= 1


@pytest.fixture(scope="module")
def couple(astronaut: np.ndarray, hopper: np.ndarray) -> np.ndarray:
    """Two faces side by side."""
    height = max(len(astronaut), len(hopper))
    pad = lambda rgb: np.pad(rgb, ((0, height - len(rgb)), (0, 0), (0, 0)), mode="edge")
    return np.hstack([pad(hopper), pad(astronaut)])


def test_what_each_photo_and_each_face_shows(
    pipe: EmotionLDMPipeline, couple: np.ndarray, astronaut: np.ndarray
) -> None:
    table = dict(zip(pipe.emotion_names, pipe.emotion_embedding.weight[:, None]))
    table["unknown"] = pipe.emotion_embedding.weight[-1:]
    told = lambda photos, shown: [
        [next(name for name, token in table.items() if torch.equal(token, face.source)) for face in faces]
        for faces in edit(pipe, photos, source_emotion=shown, face="all", num_inference_steps=2).faces
    ]
    assert told([couple, astronaut], ["fear", None]) == [["fear", "fear"], ["sad"]]  # "sad" is what the judge sees
    assert told([couple, astronaut], [["unknown", "anger"], "fear"]) == [["unknown", "anger"], ["fear"]]
    assert told(couple, ["anger", None]) == [["anger", "sad"]]
    assert told(astronaut, ["disgust"]) == [["disgust"]]
    [mixed] = edit(pipe, couple, source_emotion=["fear", "anger"], face="all").images
    [same] = edit(pipe, couple, source_emotion=["anger", "anger"], face="all").images
    left = np.s_[:, : couple.shape[1] // 2]
    assert (mixed[left] != same[left]).any()
    with pytest.raises(ValueError, match="Photo 1 of 2: There are 2 faces and 3 source emotions"):
        told([couple, astronaut], [["sad", "fear", "anger"], "fear"])


def test_a_reference_lends_the_emotions_that_the_judge_sees(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    lent = pipe(hopper, reference=astronaut, source_emotion="fear", output_type="np")
    told = edit(pipe, hopper, {"neutral": 0.1, "sad": 0.7, "happy": 0.2}, source_emotion="fear")
    assert torch.allclose(lent.faces[0][0].target, told.faces[0][0].target, atol=1e-6)
    assert_close(lent.images[0], told.images[0])
    assert np.array_equal(pipe(hopper, reference=astronaut, intensity=0, output_type="np").images[0], hopper)


def test_what_the_autoencoder_makes_of_a_face(pipe: EmotionLDMPipeline, hopper: np.ndarray, calls: list[int]) -> None:
    [face] = pipe.encode(hopper)
    wanted = (pipe.decode(face.latent)[0].clamp(-1, 1) + 1) * 127.5
    found = np.asarray(pipe.reconstruct(hopper))
    assert abs(found - wanted.permute(1, 2, 0).numpy()).max() <= 1 and found.std() > 2 and not calls


def test_only_the_faces_change(pipe: EmotionLDMPipeline, couple: np.ndarray) -> None:
    for paste in ("change", "crop"):
        result = edit(pipe, couple, face="all", paste=paste)
        changed = (result.images[0] != couple).any(-1)
        assert [face.number for face in result.faces[0]] == [1, 2]
        for face in pipe.encode(couple, "all"):
            ys, xs = np.mgrid[: len(couple), : couple.shape[1]]
            inside = np.stack([xs + 0.5, ys + 0.5], -1) @ face.matrix[:, :2].T + face.matrix[:, 2]
            inside = ((inside > -1) & (inside < pipe.latents_side + 1)).all(-1)
            assert changed[inside].any()
            changed &= ~inside
        assert not changed.any()


def test_the_whole_photo_as_the_face(pipe: EmotionLDMPipeline) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8)
    with pytest.raises(NoFaceError):
        edit(pipe, noise)
    result = edit(pipe, noise, crop="whole")
    assert result.faces[0][0].box == (0, 8, 64, 72)
    assert (result.images[0] != noise).any() and np.array_equal(result.images[0][:8], noise[:8])


def test_the_square_over_the_landmarks(astronaut: np.ndarray) -> None:
    points = find_faces(astronaut)[0].landmarks[list(IBUG68), :2].astype(float)
    angle = math.radians(20)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for shown in (points, points @ turn.T):
        matrix = landmarks_matrix(shown, 128)
        eyes = np.stack([shown[36:42].mean(0), shown[42:48].mean(0)]) @ matrix[:, :2].T + matrix[:, 2]
        assert abs(eyes[0, 1] - eyes[1, 1]) < 1e-6 and eyes[0, 0] < eyes[1, 0]
        side = 128 / np.hypot(*matrix[0, :2])
        assert np.isclose(side, np.ptp(shown, 0).max())
        middle = shown[36:48].reshape(2, 6, 2).mean((0, 1))
        corner = (shown.max(0) + shown.min(0) - side) / 2
        assert np.allclose(eyes.mean(0), (middle - corner) * 128 / side)  # the point that the square turns about
    with pytest.raises(ValueError, match="fall together"):
        landmarks_matrix(np.ones((68, 2)), 128)


def test_an_interrupted_call_leaves_the_rest(
    pipe: EmotionLDMPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    seen: list[tuple[int, int]] = []

    def stop(sampled: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict:
        seen.append((step, int(timestep)))
        sampled._interrupt = step == 2
        return {"latents": tensors["latents"]}

    both = edit(pipe, [astronaut, hopper], paste="crop", batch_size=1, callback_on_step_end=stop)
    assert seen == [(0, 500), (1, 250), (2, 1)]
    assert (both.images[0] != astronaut).any() and np.array_equal(both.images[1], hopper)


def test_codes_that_are_told(pipe: EmotionLDMPipeline, hopper: np.ndarray) -> None:
    [face] = pipe.encode(hopper)
    told = pipe.describe_codes(face)
    assert told["number"] == 1 and told["emotions"]["sad"] == 0.7
    assert np.allclose(told["latent"], face.latent[0])
    again = edit(pipe, hopper, faces=[face]).images[0]
    assert np.array_equal(again, edit(pipe, hopper).images[0])


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "Nothing to do"),
        ({"emotion": "envy"}, "Unknown emotion 'envy'"),
        ({"emotion": "happy", "source_emotion": "envy"}, "Unknown emotion 'envy'"),
        ({"emotion": "happy", "reference": "x.png"}, "Give one of emotion and reference"),
        ({"emotion": "happy", "source_emotion": ["sad", ["fear"]]}, "1 photos and 2 source emotions"),
        ({"emotion": "happy", "source_emotion": ["sad", "envy"]}, "Unknown emotion 'envy'"),
        ({"emotion": "happy", "eta": 0.5}, "eta must be 0 with the photo's own noise"),
        ({"emotion": "happy", "eta": 2}, "eta must be a number from 0 to 1"),
        ({"emotion": "happy", "latents": None}, "latents must be 'photo'"),
        ({"emotion": "happy", "strength": 1.0}, "strength must be a number from 0.01 to 0.999"),
        ({"emotion": "happy", "guidance_scale": math.nan}, "guidance_scale must be"),
        ({"emotion": "happy", "guidance_scale": "strong"}, "guidance_scale must be"),
        ({"emotion": "happy", "num_inference_steps": 1}, "from 2 to 251 at strength 0.5"),
        ({"emotion": "happy", "num_inference_steps": 20, "strength": 0.02}, "from 2 to 11 at strength 0.02"),
        ({"emotion": "happy", "inversion_steps": 5}, "needs a Diffusion Autoencoder"),
    ],
)  # fmt: skip
def test_what_is_refused(pipe: EmotionLDMPipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pipe("no such photo.png", **options)


def test_somebody_must_say_what_the_face_shows(hopper: np.ndarray) -> None:
    alone = small_ldm()
    alone.judge = None
    with pytest.raises(ValueError, match="Which emotion do the faces show"):
        edit(alone, hopper)
    with pytest.raises(ValueError, match="Which emotion do the faces show"):
        edit(alone, [hopper, hopper], source_emotion=["sad", None])
    with pytest.raises(ValueError, match="Which emotions does the reference show"):
        alone("no such photo.png", reference=hopper, source_emotion="sad")
    [face] = alone.encode(hopper)
    assert (edit(alone, hopper, source_emotion="unknown", faces=[face]).images[0] != hopper).any()
    with pytest.raises(ValueError, match="encode it again"):
        edit(small_ldm(), hopper, faces=[face])


def test_the_command_line_judges_faces(hopper: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe, model, photo = small_ldm(), str(tmp_path / "model"), tmp_path / "photo.png"
    pipe.save_pretrained(model)
    Image.fromarray(hopper).save(photo)
    command = ["edit", str(photo), "--emotion", "fear", "--model", model, "--no-mark", "-o", str(tmp_path / "out.png")]
    for options, given in (([], {}), (["--source-emotion", "anger", "--guidance", "2", "--strength", ".4"],
                                      {"source_emotion": "anger", "guidance_scale": 2, "strength": 0.4})):  # fmt: skip
        assert main.main([*command, *options]) == 0
        pipe.judge = FaceApiJudge()
        wanted = pipe(hopper, "fear", output_type="np", **given).images[0]
        assert_close(Image.open(tmp_path / "out.png"), Image.fromarray(wanted))
        assert not np.array_equal(wanted, hopper)
    capsys.readouterr()
    assert main.main([*command, "--source-emotion", "envy"]) == 2
    assert "Unknown emotion 'envy'" in capsys.readouterr().err


def test_networks_that_do_not_fit(pipe: EmotionLDMPipeline) -> None:
    with pytest.raises(ValueError, match="tokens as long as"):
        EmotionLDMPipeline(pipe.vqvae, pipe.unet, EmotionEmbedding(("happy",), TOKEN + 1), pipe.scheduler)
    with pytest.raises(ValueError, match="crop is 'tight'"):
        small_ldm(crop="tight")


def test_saved_exported_and_opened_again(
    astronaut: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, picture = small_ldm(guidance_scale=3.0), Image.fromarray(astronaut)
    pipe.register_to_config(brought="Pictures of AffectNet, non-commercial")
    wanted = pipe(picture, "happy", source_emotion="fear").images[0]
    pipe.save_pretrained(tmp_path / "saved")
    export_hub(pipe, tmp_path / "exported")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    remote = DiffusionPipeline.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    for again in (open_pipeline(tmp_path / "saved"), open_pipeline(tmp_path / "exported"), remote):
        again.set_progress_bar_config(disable=True)
        assert isinstance(again, EmotionLDMPipeline) and again.config.guidance_scale == 3
        assert_close(again(picture, "happy", source_emotion="fear").images[0], wanted)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "license: other" in card and "EmotionLDMPipeline" in card and "non-commercial: licensed" in card
