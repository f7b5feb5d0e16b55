"""DiffAEEmotionPipeline: codes there and back, edits of the code, pasting, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import assert_close
from PIL import Image
from small_diffae import CODE, small_diffae

from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.hub.repository import export_hub, resolve
from emorig_diffusers.models.diffae import SemanticEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.photo.faces import NoFaceError
from emorig_diffusers.photo.pictures import take_picture
from emorig_diffusers.pipelines.base import open_pipeline
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline


@pytest.fixture(scope="module")
def pipe() -> DiffAEEmotionPipeline:
    return small_diffae()


@pytest.fixture
def calls(pipe: DiffAEEmotionPipeline) -> Iterator[list[int]]:
    """Batch sizes of the UNet's calls."""
    seen: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    yield seen
    handle.remove()


def edit(pipe: DiffAEEmotionPipeline, photo: Any, **options: Any) -> Any:
    return pipe(photo, output_type="np", **options)


def test_the_photo_comes_back_from_its_codes(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    face = pipe.encode(astronaut)[0].picture[None]
    z = pipe.semantic_code(face)
    drawn = pipe.decode(pipe.stochastic_code(face, z, 100), z, Sampling(100))
    other = pipe.decode(torch.randn(face.shape), z, Sampling(10))
    assert (drawn - face).square().mean() < 1e-3 < 0.05 < (other - face).square().mean()


def test_photos_are_resized_as_the_checkpoint_says(pipe: DiffAEEmotionPipeline, hopper: np.ndarray) -> None:
    published = DiffAEEmotionPipeline(pipe.unet, pipe.semantic_encoder, pipe.scheduler, resampling="pil")
    side = published.latents_side
    shown = lambda found: ((found.picture.permute(1, 2, 0).numpy() + 1) * 127.5).round()
    for crop in ("ffhq", "whole"):
        ours, theirs = (one.encode(hopper, crop=crop)[0] for one in (pipe, published))
        wanted = take_picture(hopper, crop, theirs.landmarks, side, "pil")
        assert np.array_equal(shown(theirs), wanted.pixels) and np.array_equal(theirs.matrix, wanted.matrix)
        assert np.abs(shown(ours) - wanted.pixels).max() > 5
        assert np.abs(ours.matrix - theirs.matrix).max() < 1  # rounded sizes


def test_intensity_0_is_the_photo_itself(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    for paste in ("change", "crop"):
        assert np.array_equal(edit(pipe, astronaut, emotion="happy", intensity=0, paste=paste).images[0], astronaut)


def test_the_code_moves_as_published(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    """Preechakul et al. 2022: ẑ' = ẑ + s √C w / |w|, here of the classifier's own numbers."""
    classifier = pipe.emotion_classifier
    one = edit(pipe, astronaut, emotion="sad", intensity=0.5).faces[0][0]
    number = classifier.names.index("sad")
    direction = classifier.weight[number] / classifier.weight[number].norm()
    step = 0.5 * 0.3 * math.sqrt(CODE) * direction * classifier.std
    assert torch.allclose(one.target - one.source, step[None], atol=1e-5)
    before, after = one.probabilities["sad"]
    assert before < after


def test_blends_and_attributes_add_up(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    change = lambda **options: (lambda one: one.target - one.source)(edit(pipe, astronaut, **options).faces[0][0])
    happy, anger = change(emotion="happy"), change(emotion="anger")
    blend = change(emotion={"happy": 0.5, "anger": 0.25})
    assert torch.allclose(blend, 0.5 * happy + 0.25 * anger, atol=1e-5)
    smiling = change(attributes={"Smiling": 2.0})
    assert torch.allclose(change(attributes={"Smiling": -2.0}), -smiling, atol=1e-5)
    assert torch.allclose(change(emotion="happy", attributes={"Smiling": 2.0}), happy + smiling, atol=1e-5)


def test_one_photo_many_emotions_is_inverted_once(
    pipe: DiffAEEmotionPipeline, astronaut: np.ndarray, calls: list[int]
) -> None:
    result = edit(pipe, astronaut, emotion=["happy", "sad", "anger"], num_inference_steps=5, inversion_steps=20)
    assert calls == [1] * 20 + [3] * 5 + [1] * 5  # inversion, three edits together, the reconstruction
    alone = edit(pipe, astronaut, emotion="anger", num_inference_steps=5, inversion_steps=20)
    assert len(result.images) == 3
    assert abs(result.images[2].astype(int) - alone.images[0]).max() <= 1


def test_photos_with_emotions_of_their_own(
    pipe: DiffAEEmotionPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    both = edit(pipe, [astronaut, hopper], emotion=["happy", "sad"], batch_size=1)
    alone = edit(pipe, hopper, emotion="sad")
    assert [image.shape for image in both.images] == [astronaut.shape, hopper.shape]
    assert abs(both.images[1].astype(int) - alone.images[0]).max() <= 1


def test_only_the_face_changes(pipe: DiffAEEmotionPipeline, hopper: np.ndarray) -> None:
    for paste in ("change", "crop"):
        result = edit(pipe, hopper, emotion="surprise", intensity=1.5, paste=paste)
        ys, xs = np.nonzero((result.images[0] != hopper).any(-1))
        matrix = pipe.encode(hopper)[0].matrix
        crop = np.column_stack([xs + 0.5, ys + 0.5]) @ matrix[:, :2].T + matrix[:, 2]
        assert len(xs) and crop.min() > -1 and crop.max() < pipe.latents_side + 1  # bicubic


def test_whose_noise(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    draw = lambda **options: edit(pipe, astronaut, emotion="happy", **options).faces[0][0]
    seeded = lambda number: torch.Generator().manual_seed(number)
    first, again, other = (draw(latents=None, generator=seeded(n)) for n in (1, 1, 2))
    assert_close(first.drawn, again.drawn)
    assert first.drawn.tobytes() != other.drawn.tobytes()
    own = draw().latents
    assert_close(draw(latents=own).drawn, draw().drawn)


def test_another_photos_emotion(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray, hopper: np.ndarray) -> None:
    one = edit(pipe, astronaut, reference=hopper).faces[0][0]
    classifier, lent = pipe.emotion_classifier, pipe.semantic_code(pipe.encode(hopper)[0].picture[None])
    assert torch.allclose(classifier(one.target), classifier(lent), atol=1e-3)  # the classes see the other's face
    assert not torch.allclose(one.target, lent, atol=0.02)  # and all else stays
    assert torch.allclose(edit(pipe, astronaut, reference=astronaut).faces[0][0].target, one.source, atol=1e-4)


def test_the_whole_photo_as_the_face(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 64, 3), np.uint8)
    with pytest.raises(NoFaceError):
        edit(pipe, noise, emotion="happy")
    result = edit(pipe, noise, emotion="happy", crop="whole")
    assert result.faces[0][0].box == (0, 8, 64, 72)
    assert (result.images[0] != noise).any() and np.array_equal(result.images[0][:8], noise[:8])


def test_interpolation_ends_at_both(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray, hopper: np.ndarray) -> None:
    start, middle, end = pipe.interpolate(astronaut, hopper, (0, 0.5, 1))
    assert np.abs(np.asarray(start, int) - np.asarray(pipe.reconstruct(astronaut), int)).max() <= 1
    assert np.abs(np.asarray(end, int) - np.asarray(pipe.reconstruct(hopper), int)).max() <= 1
    assert middle.tobytes() not in (start.tobytes(), end.tobytes())


def test_pictures_of_nobody(pipe: DiffAEEmotionPipeline) -> None:
    draw = lambda number: pipe.generate(2, torch.Generator().manual_seed(number), latent_steps=4)
    first, again = draw(1), draw(1)
    assert [p.size for p in first] == [(32, 32)] * 2 and first[0].tobytes() != first[1].tobytes()
    assert_close(first[1], again[1])
    assert first[1].tobytes() != draw(2)[1].tobytes()


def test_shape_guidance_keeps_beta(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    pipe.register_modules(shape_encoder=EmocaEncoder.from_pretrained(resolve("encoder-open")).requires_grad_(False))
    try:
        free, held = (edit(pipe, astronaut, emotion="happy", shape_guidance=w).faces[0][0] for w in (0, 2))
    finally:
        pipe.register_modules(shape_encoder=None)
    assert free.drawn.tobytes() != held.drawn.tobytes()
    assert torch.equal(free.target, held.target)  # what was asked for; the guide moves it while decoding


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "Nothing to do"),
        ({"emotion": "envy"}, "Unknown emotion 'envy'"),
        ({"emotion": []}, "list of emotions is empty"),
        ({"emotion": "happy", "intensity": 2}, "intensity must be"),
        ({"emotion": "happy", "reference": "x.png"}, "not both"),
        ({"attributes": {"Beard": 1}}, "Unknown attribute 'Beard': choose from Smiling, Young"),
        ({"attributes": {"Young": math.nan}}, "must be a number from -5 to 5"),
        ({"attributes": ["Young"]}, "amounts by name"),
        ({"emotion": "happy", "crop": "tight"}, "crop must be one of"),
        ({"emotion": "happy", "paste": "all"}, "paste must be one of"),
        ({"emotion": "happy", "num_inference_steps": 0}, "num_inference_steps must be"),
        ({"emotion": "happy", "inversion_steps": 1.5}, "inversion_steps must be"),
        ({"emotion": "happy", "batch_size": 0}, "batch_size must be"),
        ({"emotion": "happy", "latents": "mine"}, "latents must be"),
        ({"emotion": "happy", "latents": torch.zeros(1, 3, 16, 16)}, "latents must be"),
        ({"emotion": "happy", "shape_guidance": 1}, "needs a shape_encoder"),
        ({"emotion": "happy", "output_type": "jpg"}, "output_type must be one of"),
    ],
)
def test_what_is_refused(pipe: DiffAEEmotionPipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pipe("no such photo.png", **options)


def test_no_head_no_action_units(pipe: DiffAEEmotionPipeline) -> None:
    with pytest.raises(ValueError, match="no head, so no action_units"):
        pipe.check_inputs(emotion="happy", action_units={"AU12": 1.0})


def test_without_classifiers(pipe: DiffAEEmotionPipeline, astronaut: np.ndarray) -> None:
    bare = DiffAEEmotionPipeline(pipe.unet, pipe.semantic_encoder, pipe.scheduler, crop="aligned")
    assert bare.emotion_names == ()
    for options, words in (({"emotion": "happy"}, "no emotion classifier"), ({"attributes": {"Young": 1}}, "no attr")):
        with pytest.raises(ValueError, match=words):
            bare(astronaut, **options)
    with pytest.raises(ValueError, match="no latent network"):
        bare.generate()


def test_networks_that_do_not_fit(pipe: DiffAEEmotionPipeline) -> None:
    other = SemanticEncoder(block_out_channels=(8,), attention_levels=(), norm_num_groups=4, cond_dim=8)
    with pytest.raises(ValueError, match="codes as long as"):
        DiffAEEmotionPipeline(pipe.unet, other, pipe.scheduler)
    with pytest.raises(ValueError, match="crop is 'tight'"):
        DiffAEEmotionPipeline(pipe.unet, pipe.semantic_encoder, pipe.scheduler, crop="tight")


def test_saved_exported_and_opened_again(
    pipe: DiffAEEmotionPipeline, astronaut: np.ndarray, tmp_path: Path
) -> None:
    picture = Image.fromarray(astronaut)
    wanted = pipe(picture, "happy").images[0]
    pipe.save_pretrained(tmp_path / "saved")
    export_hub(pipe, tmp_path / "exported")
    for folder in ("saved", "exported"):
        again = open_pipeline(tmp_path / folder)
        again.set_progress_bar_config(disable=True)
        assert isinstance(again, DiffAEEmotionPipeline) and again.emotion_names == pipe.emotion_names
        assert_close(again(picture, "happy").images[0], wanted)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "license: apache-2.0" in card and "DiffAEEmotionPipeline" in card


def test_weights_that_are_licensed_say_so(pipe: DiffAEEmotionPipeline, tmp_path: Path) -> None:
    bought = DiffAEEmotionPipeline(pipe.unet, pipe.semantic_encoder, pipe.scheduler, brought="FFHQ, non-commercial")
    export_hub(bought, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other" in card and "FFHQ, non-commercial: licensed to each user." in card
