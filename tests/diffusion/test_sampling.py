"""Random numbers, steps and callbacks of calls: a generator for each photo, calls in threads, interruptions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UniPCMultistepScheduler
from diffusers.callbacks import PipelineCallback
from drawing_unet import drawing_unet
from pictures import assert_close
from small_diffae import small_diffae
from small_ldm import small_ldm

from emorig_diffusers import DiffAEEmotionPipeline, EmoRigPipeline, NoFaceError, PhotoError
from emorig_diffusers.diffusion.sampling import CALLBACK_TENSORS, SamplingMixin, batches
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.painting.diffusion_rig import published_scheduler

SIDE = 32
ANY = "generator must be a torch.Generator, such as torch.Generator\\(\\).manual_seed\\(5\\), or a list of them, got "


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def published(pipe: EmoRigPipeline) -> EmoRigPipeline:
    """DiffusionRig's kind, which draws all faces in common batches."""
    pipeline = EmoRigPipeline(
        pipe.head, pipe.encoder, drawing_unet(8), published_scheduler(), AppearanceEncoder(cond_dim=8).eval(),
        default_num_inference_steps=3, crop_size=SIDE, code_parts="appearance",
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def diffae() -> DiffAEEmotionPipeline:
    return small_diffae()


@pytest.fixture(scope="module")
def small(astronaut: np.ndarray) -> np.ndarray:
    """A small photo of one face, uint8 [230, 230, 3]."""
    return np.ascontiguousarray(astronaut[:230, 110:340])


@pytest.fixture(scope="module")
def couple(small: np.ndarray) -> np.ndarray:
    """Two faces side by side."""
    return np.hstack([small, small[:, ::-1]])


def noises(pipe: Any, *arguments: Any, **options: Any) -> tuple[list[np.ndarray], torch.Tensor]:
    """Pictures of a call, and what its network saw of the noise at every step and face, [N, 3, S, S]."""
    seen: list[torch.Tensor] = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :3].float().clone()))
    try:
        images = pipe(*arguments, output_type="np", **options).images
    finally:
        handle.remove()
    return images, torch.cat(seen)


# a generator for each photo


def test_batches_divide_a_photos_faces_as_if_it_were_alone() -> None:
    cut = lambda photos, size: [photos[part] for part in batches(photos, size)]
    assert cut([0] * 5, 2) == [[0, 0], [0, 0], [0]]
    assert cut([0, 1, 2, 3, 4], 4) == [[0, 1, 2, 3], [4]]
    assert cut([0, 1, 1, 1, 2], 2) == [[0], [1, 1], [1, 2]]
    assert cut([0, 0, 1, 1, 1, 2], 4) == [[0, 0], [1, 1, 1, 2]]
    assert cut([], 4) == []


@pytest.mark.parametrize("scheduler", [published_scheduler(), DDPMScheduler(clip_sample=True)], ids=["DDIM", "DDPM"])
def test_a_photo_in_a_list_is_as_alone(
    published: EmoRigPipeline, small: np.ndarray, couple: np.ndarray, scheduler: Any
) -> None:
    pipe = EmoRigPipeline(**published.components | {"scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    options = {"emotion": "surprise", "face": "all", "batch_size": 2, "num_inference_steps": 2}
    together = pipe([small, couple], **options, generator=[seed(1), seed(2)], output_type="np").images
    for i, photo in enumerate((small, couple)):
        alone = pipe(photo, **options, generator=seed(i + 1), output_type="np").images[0]
        assert_close(together[i], alone)
        other = pipe(photo, **options, generator=seed(5), output_type="np").images[0]
        assert np.abs(together[i].astype(int) - other).max() > 20


def test_a_photo_in_a_list_is_as_alone_where_pixels_are_moved(
    tiny_pipe: EmoRigPipeline, small: np.ndarray, hopper: np.ndarray
) -> None:
    options = {"emotion": "surprise", "num_inference_steps": 1}
    _, together = noises(tiny_pipe, [hopper, small], **options, generator=[seed(1), seed(2)])
    for i, photo in enumerate((hopper, small)):
        assert torch.equal(noises(tiny_pipe, photo, **options, generator=seed(i + 1))[1], together[i : i + 1])


def test_emotions_of_one_photo_take_one_generator_or_one_each(tiny_pipe: EmoRigPipeline, small: np.ndarray) -> None:
    edit = lambda generator: noises(
        tiny_pipe, small, ["surprise", "fear"], num_inference_steps=1, generator=generator
    )[1]
    assert torch.equal(edit([seed(3)]), edit(seed(3)))
    assert torch.equal(edit([seed(3), seed(4)])[1], torch.randn(3, 160, 160, generator=seed(4)))


def test_a_photo_in_a_list_is_as_alone_in_a_diffusion_autoencoder(
    diffae: DiffAEEmotionPipeline, small: np.ndarray, couple: np.ndarray
) -> None:
    options = {"emotion": "happy", "face": "all", "batch_size": 2, "num_inference_steps": 2, "latents": None}
    together = diffae([small, couple], **options, generator=[seed(1), seed(2)]).faces
    for i, photo in enumerate((small, couple)):
        for face, same in zip(together[i], diffae(photo, **options, generator=seed(i + 1)).faces[0], strict=True):
            assert torch.equal(face.latents, same.latents)
            assert_close(face.drawn, same.drawn)


def test_pictures_of_nobody_take_a_generator_each(diffae: DiffAEEmotionPipeline) -> None:
    both = diffae.generate(2, [seed(1), seed(2)], num_inference_steps=2)
    assert_close(both[1], diffae.generate(1, seed(2), num_inference_steps=2)[0])


def test_wrong_generators(
    tiny_pipe: EmoRigPipeline, published: EmoRigPipeline, diffae: DiffAEEmotionPipeline, small: np.ndarray
) -> None:
    for pipe in (tiny_pipe, published, diffae):
        for wrong in (5, "5", [5], [seed(0), None], {}):
            with pytest.raises(ValueError, match=ANY):
                pipe(small, "happy", generator=wrong)
        for count, words in ((1, "2 photos and 1 generators"), (3, "2 photos and 3 generators"), (0, "and 0 gen")):
            with pytest.raises(ValueError, match=f"{words}.*: give one for each photo, or one for all"):
                pipe([small, small], "happy", generator=[seed(i) for i in range(count)])
    with pytest.raises(ValueError, match="1 photo and 2 generators"):
        diffae(small, ["happy", "sad"], generator=[seed(0), seed(1)])
    with pytest.raises(ValueError, match=ANY):
        diffae.generate(1, 5)


# calls at the same time


def test_threads_share_a_pipeline(published: EmoRigPipeline, small: np.ndarray) -> None:
    pipe = EmoRigPipeline(
        **published.components | {"scheduler": UniPCMultistepScheduler.from_config(published.scheduler.config)}
    )
    pipe.set_progress_bar_config(disable=True)
    before = pipe.scheduler.timesteps.clone()

    def edit(steps: int) -> np.ndarray:
        return pipe(small, "surprise", num_inference_steps=steps, generator=seed(0), output_type="np").images[0]

    steps = [2, 7, 4, 12]
    wanted = [edit(n) for n in steps]
    assert all((one != wanted[0]).any() for one in wanted[1:])
    with ThreadPoolExecutor(4) as pool:
        for made, one in zip(pool.map(edit, steps), wanted, strict=True):
            assert_close(made, one)
    assert torch.equal(pipe.scheduler.timesteps, before)  # a call leaves the scheduler as it was


# eta


def test_eta_draws_noise_on_the_way(
    published: EmoRigPipeline, diffae: DiffAEEmotionPipeline, tiny_pipe: EmoRigPipeline, small: np.ndarray
) -> None:
    for pipe in (published, diffae, tiny_pipe):
        options = {"num_inference_steps": 3, "latents": None}
        edit = lambda pipe=pipe, options=options, **more: noises(
            pipe, small, "surprise", generator=seed(0), **options, **more
        )[1]
        plain, drawn = edit(), edit(eta=1.0)
        assert torch.equal(edit(eta=0.0), plain)
        assert torch.equal(drawn[0], plain[0]) and not torch.equal(drawn[2], plain[2])
        assert torch.equal(edit(eta=1.0), drawn)


def test_eta_is_refused_where_it_makes_no_sense(
    published: EmoRigPipeline, diffae: DiffAEEmotionPipeline, small: np.ndarray
) -> None:
    for pipe in (published, diffae):
        with pytest.raises(ValueError, match="eta must be 0 with the photo's own noise"):
            pipe(small, "happy", eta=0.5, latents="photo")
    ancestral = EmoRigPipeline(**published.components | {"scheduler": DDPMScheduler()})
    with pytest.raises(ValueError, match="scheduler takes no eta"):
        ancestral(small, "happy", eta=0.5)


# callbacks


def test_callbacks_see_and_change_what_they_ask_for(
    published: EmoRigPipeline, tiny_pipe: EmoRigPipeline, diffae: DiffAEEmotionPipeline, small: np.ndarray
) -> None:
    for pipe in (published, tiny_pipe, diffae):
        assert pipe._callback_tensor_inputs == list(CALLBACK_TENSORS)
        shapes: list[dict[str, tuple[int, ...]]] = []

        def silence(pipeline: Any, step: int, t: torch.Tensor, values: dict, shapes: list = shapes) -> dict:
            shapes.append({name: tuple(value.shape) for name, value in values.items()})
            return {"code": torch.zeros_like(values["code"])}

        options = {"callback_on_step_end": silence, "callback_on_step_end_tensor_inputs": ["code", "conditions"]}
        config, codes = pipe.unet.config, []
        handle = pipe.unet.register_forward_pre_hook(lambda _, inputs, codes=codes: codes.append(inputs[2]))
        pipe(small, "surprise", num_inference_steps=3, latents=None, generator=seed(0), **options)
        handle.remove()
        channels, side = config.in_channels - 3, pipe.latents_side
        assert shapes[:3] == [{"code": (1, config.cond_dim), "conditions": (1, channels, side, side)}] * 3
        assert codes[0].any() and not codes[1].any() and not codes[2].any()


class Watch(PipelineCallback):
    """A callback of diffusers' kind."""

    tensor_inputs = ["latents", "code"]

    def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict) -> dict:
        assert callback_kwargs.keys() == {"latents", "code"} and pipeline.num_timesteps == 4
        callback_kwargs["latents"] = torch.zeros_like(callback_kwargs["latents"])
        return callback_kwargs


def test_callbacks_of_diffusers(published: EmoRigPipeline, small: np.ndarray) -> None:
    face = published(small, "happy", num_inference_steps=4, callback_on_step_end=Watch()).faces[0][0]
    assert (np.abs(np.asarray(face.drawn).astype(int) - 127) <= 1).all()  # zero is middle grey


def test_a_callback_may_return_nothing(published: EmoRigPipeline, small: np.ndarray) -> None:
    edit = lambda **options: published(small, "happy", generator=seed(0), output_type="np", **options).images[0]
    assert_close(edit(callback_on_step_end=lambda *_: None), edit())


@pytest.mark.parametrize("wrong", ["latents", ["latents", "prompt_embeds"], 3])
def test_unknown_tensors(
    published: EmoRigPipeline, diffae: DiffAEEmotionPipeline, small: np.ndarray, wrong: Any
) -> None:
    for pipe in (published, diffae):
        with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs must be some of latents, conditions,"):
            pipe(small, "happy", callback_on_step_end_tensor_inputs=wrong)


def stopping(after: int, steps: list[int]) -> Any:
    """A callback that interrupts a call after a step."""

    def stop(pipe: Any, step: int, t: torch.Tensor, values: dict) -> dict:
        steps.append(step)
        pipe._interrupt = step == after
        return values

    return stop


@pytest.mark.parametrize("name", ["published", "tiny_pipe", "diffae"])
def test_interruption(name: str, couple: np.ndarray, request: pytest.FixtureRequest) -> None:
    pipe, steps = request.getfixturevalue(name), []
    options = {"emotion": "surprise", "face": "all", "num_inference_steps": 4, "batch_size": 1, "output_type": "np"}
    whole = pipe(couple, **options, latents=None, generator=seed(0)).images[0]
    stop = {"callback_on_step_end": stopping(1, steps), "latents": None, "generator": seed(0)}
    output = pipe(couple, **options, **stop)
    assert steps == [0, 1] and not pipe.interrupt
    assert (output.images[0][:, :230] != couple[:, :230]).any()  # the first face is half done
    if name != "tiny_pipe":  # there pixels are moved, and only what the network would paint is plain
        assert np.array_equal(output.images[0][:, 245:], couple[:, 245:])
    assert len(output.faces[0]) == 2
    assert_close(pipe(couple, **options, latents=None, generator=seed(0)).images[0], whole)


def test_interruption_of_an_inversion(diffae: DiffAEEmotionPipeline, small: np.ndarray) -> None:
    """From another thread, or here from the network itself."""
    calls: list[int] = []

    def stop(*_: Any) -> None:
        calls.append(1)
        diffae._interrupt = len(calls) == 3

    handle = diffae.unet.register_forward_pre_hook(stop)
    output = diffae(small, "happy", output_type="np")
    handle.remove()
    assert len(calls) == 3 and np.array_equal(output.images[0], small)


# which of several photos


def test_the_photo_without_a_face_is_told(
    tiny_pipe: EmoRigPipeline, diffae: DiffAEEmotionPipeline, small: np.ndarray, tmp_path: Any
) -> None:
    blank = np.full((230, 230, 3), 127, np.uint8)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for pipe in (tiny_pipe, diffae):
        with pytest.raises(NoFaceError, match="^Photo 2 of 3: No face was found"):
            pipe([small, blank, small], "happy")
        with pytest.raises(PhotoError, match="^Photo 3 of 3: .*broken.jpg.* not a readable picture"):
            pipe([small, small, tmp_path / "broken.jpg"], "happy")
        with pytest.raises(NoFaceError, match="^No face was found"):
            pipe(blank, "happy")
        with pytest.raises(NoFaceError, match="^The reference: No face was found"):
            pipe(small, reference=blank)


# one loop


def test_all_ways_are_one_loop(
    published: EmoRigPipeline, diffae: DiffAEEmotionPipeline, small: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up and down, with one prediction a step or two: what is added to the loop, every pipeline has."""
    ways: list[tuple[str, int]] = []
    follow = SamplingMixin.follow

    def watched(pipe: Any, scheduler: Any, *given: Any) -> Any:
        ways.append((type(scheduler).__name__, len(scheduler.timesteps)))
        return follow(pipe, scheduler, *given)

    monkeypatch.setattr(SamplingMixin, "follow", watched)
    published(small, "happy", num_inference_steps=2, latents="photo")
    diffae(small, "happy", num_inference_steps=3, paste="crop")
    small_ldm()(small, "happy", num_inference_steps=4, paste="crop")
    assert ways == [
        ("RespacedDDIMInversion", 2), ("RespacedDDIMScheduler", 2),
        ("RespacedDDIMInversion", diffae.config.inversion_steps), (type(diffae.scheduler).__name__, 3),
        ("EditDDIMInverseScheduler", 4), ("EditDDIMScheduler", 4),
    ]  # fmt: skip
