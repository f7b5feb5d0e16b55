"""How networks that draw the whole crop are sampled: the best of several, DDPM, an album's shape beside one's own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawing_unet import drawing_unet
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main
from emorig_diffusers.face.encode import EncodedFace, code_width
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.painting.diffusion_rig import laplacian_variance, published_scheduler

SIDE = 64
ALBUMS = ("appearance", "shape", "own_shape", "expression")


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def appearance() -> AppearanceEncoder:
    return AppearanceEncoder(cond_dim=64).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def published(pipe: EmoRigPipeline, appearance: AppearanceEncoder) -> EmoRigPipeline:
    return rig(pipe, appearance, default_num_inference_steps=2, code_parts="appearance", best_of=3)


def rig(pipe: EmoRigPipeline, appearance: AppearanceEncoder, **settings: object) -> EmoRigPipeline:
    """The bundled head and encoder with DiffusionRig's kind of network, tiny and random."""
    unet = drawing_unet(code_width(pipe.head, settings["code_parts"], 64))
    made = EmoRigPipeline(pipe.head, pipe.encoder, unet, published_scheduler(), appearance, crop_size=SIDE, **settings)
    made.set_progress_bar_config(disable=True)
    return made


# the best of several


def grain(picture: Image.Image) -> float:
    return cv2.Laplacian(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()


def test_grain_is_the_laplacians_variance() -> None:
    smooth = torch.linspace(0, 1, SIDE).expand(3, SIDE, SIDE)
    noisy = (smooth + 0.05 * torch.randn(3, SIDE, SIDE, generator=seed(0))).clamp(0, 1)
    levels = (noisy.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert laplacian_variance(noisy) == pytest.approx(grain(Image.fromarray(levels)))
    assert laplacian_variance(noisy) > 50 * laplacian_variance(smooth)


def test_the_least_grainy_is_kept(published: EmoRigPipeline, hopper: np.ndarray) -> None:
    """Of as many samples as the checkpoint or the caller says, in the order of the generator."""
    one = seed(0)
    tries = [published(hopper, "sad", generator=one, best_of=1).faces[0][0].drawn for _ in range(3)]
    grains = [grain(picture) for picture in tries]
    assert len(set(grains)) == 3
    best = published(hopper, "sad", generator=seed(0)).faces[0][0].drawn
    assert np.array_equal(best, tries[int(np.argmin(grains))])
    two = published(hopper, "sad", generator=seed(0), best_of=2).faces[0][0].drawn
    assert np.array_equal(two, tries[int(np.argmin(grains[:2]))])
    noise = torch.randn(1, 3, SIDE, SIDE, generator=seed(0))
    assert np.array_equal(published(hopper, "sad", latents=noise).faces[0][0].drawn, tries[0])


def test_from_the_command_line(published: EmoRigPipeline, hopper: np.ndarray, tmp_path: Path) -> None:
    published.save_pretrained(tmp_path / "rig")
    Image.fromarray(hopper).save(tmp_path / "photo.png")
    edit = ["edit", str(tmp_path / "photo.png"), "--emotion", "sad", "--seed", "0", "--model", str(tmp_path / "rig")]
    results = []
    for options in ([], ["--best-of", "1"]):
        assert main.main([*edit, *options, "--no-mark", "-o", str(tmp_path / "out.png")]) == 0
        results.append(np.asarray(Image.open(tmp_path / "out.png")).astype(int))
    assert np.abs(results[0] - published(hopper, "sad", generator=seed(0), output_type="np").images[0]).max() <= 1
    assert EmoRigPipeline.load_config(tmp_path / "rig")["best_of"] == 3 and (results[0] != results[1]).any()


def test_what_cannot_be(published: EmoRigPipeline, pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    noise = torch.zeros(1, 3, SIDE, SIDE)
    half = EmoRigPipeline(**published.components | {"scheduler": published_scheduler(500)})
    for made, options, expected in (
        (published, {"best_of": 0}, "best_of must be a whole number from 1 to 64, got 0"),
        (published, {"best_of": 2, "latents": noise}, "leave latents out, or best_of"),
        (published, {"best_of": 2, "latents": "photo"}, "leave latents out, or best_of"),
        (pipe, {"best_of": 2}, "needs a network that draws the whole crop"),
        (half, {"num_inference_steps": 501}, "from 1 to 500, got 501"),
    ):
        with pytest.raises(ValueError, match=expected):
            made(hopper, "sad", **options)
    with pytest.raises(ValueError, match="best_of must be"):
        EmoRigPipeline(pipe.head, pipe.encoder, best_of=0)


# what the network is told


def test_an_albums_shape_beside_ones_own(
    pipe: EmoRigPipeline, appearance: AppearanceEncoder, hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    mean = torch.randn(1, pipe.head.config.num_shape, generator=seed(3))
    lab = rig(pipe, appearance, code_parts=ALBUMS, shape=mean[0].tolist())
    calls: list[tuple] = []
    handle = lab.unet.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    target = lab(hopper, "fear", num_inference_steps=1, latents="photo").faces[0][0].target
    handle.remove()
    told = [call[2][:, 64:].split([mean.shape[1], mean.shape[1], target.expression.shape[1]], 1) for call in calls]
    assert len(told) == 2  # of the photo, whose noise is looked for, and of the result
    for (shape, own, expression), codes in zip(told, (hopper_face.codes, target), strict=True):
        assert torch.equal(shape, mean)
        torch.testing.assert_close(own, hopper_face.codes.shape, atol=1e-4, rtol=0)
        torch.testing.assert_close(expression, codes.expression, atol=1e-4, rtol=0)
    assert torch.equal(lab.condition_code(target, torch.zeros(1, 64))[:, 64 + mean.shape[1] :][:, : mean.shape[1]],
                       target.shape)  # fmt: skip


def test_ddpm_draws_other_noise_on_the_way(published: EmoRigPipeline, hopper: np.ndarray) -> None:
    parts = published.components | {"scheduler": published_scheduler(500, "ddpm")}
    noisy = EmoRigPipeline(**parts)
    noisy.set_progress_bar_config(disable=True)
    noise, times = torch.randn(1, 3, SIDE, SIDE, generator=seed(0)), []

    def watch(_: object, step: int, time: torch.Tensor, values: dict) -> dict:
        times.append(int(time))
        return values

    edit = {"latents": noise, "num_inference_steps": 3, "callback_on_step_end": watch}
    drawn = [np.asarray(noisy(hopper, "sad", generator=seed(n), **edit).faces[0][0].drawn) for n in (1, 1, 2)]
    assert times[:3] == [499, 250, 0]
    assert np.array_equal(*drawn[:2]) and (drawn[0] != drawn[2]).any()
