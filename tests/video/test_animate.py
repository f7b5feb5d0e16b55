"""Photos that move: they begin as they are, come to what an edit gives, and nothing jumps on the way."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing_unet import drawing_unet
from pictures import assert_close
from PIL import Image
from small_diffae import small_diffae

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli.main import main
from emorig_diffusers.face.relax import heights
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.painting.base import PaintedPhoto, PhotoEdits
from emorig_diffusers.painting.diffusion_rig import published_scheduler
from emorig_diffusers.painting.photo_texture import PhotoTexturePainter
from emorig_diffusers.painting.stages.mouth_light import TeethLight
from emorig_diffusers.photo.landmarks import LID_PAIRS
from emorig_diffusers.pipelines.request import EditRequest
from emorig_diffusers.video.animate import animate, blinking, eased
from emorig_diffusers.video.portrait import Portrait
from emorig_diffusers.video.reading import open_clip


def test_animation_leads_from_the_photo_to_the_edit(pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    photo = hopper[:300, 100:400]
    given = {"emotion": "happy", "generator": torch.Generator().manual_seed(3), "output_type": "np"}
    edit = pipe(photo, **given).images[0]
    first, middle, last = (frame.rgb for frame in animate(pipe, photo, 0.12, seed=3, emotion="happy"))
    assert np.array_equal(first, photo)
    assert_close(last, edit)
    far = lambda a, b: np.abs(a.astype(int) - b).mean()
    assert max(far(middle, photo), far(middle, last)) < far(photo, last)  # on the way


def test_moves_are_eased_held_and_follow_each_other() -> None:
    steps = [eased(i / 1000, 2) for i in range(1001)]
    assert steps[0] == (0, 0.0)
    assert steps[-1] == (1, 1.0)
    done = np.array([number + share for number, share in steps])
    assert (np.diff(done) >= 0).all()
    assert np.abs(np.diff(done, 2)).max() < 1e-4  # nothing starts or stops with a jerk
    assert eased(0.45, 2) == (0, 1.0)


def test_lids_meet_once_in_a_short_animation_and_more_often_in_a_long_one() -> None:
    for seconds, blinks in ((2, 1), (9.5, 3)):
        closed = np.array([blinking(t, seconds) for t in np.arange(0, seconds, 0.01)])
        assert closed[0] == closed[-1] == 0
        assert (np.diff((closed > 0.99).astype(int)) == 1).sum() == blinks
        assert np.abs(np.diff(closed)).max() < 0.15


def test_blink_closes_lids_whatever_the_face_shows(pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    portrait = Portrait(pipe, hopper, EditRequest())
    face = portrait.faces[0]
    flat = torch.cat([face.offsets, face.offsets[:, :1]], 1)[None] / face.codes.camera[0, 0]
    for emotion in (None, "surprise"):
        targets = portrait.edited(emotion)
        gaps = []
        for share in (0.0, 0.5, 1.0):
            codes = portrait.closing(targets, share)[0]
            head = pipe.head.rest_vertices(codes.shape, codes.expression) - flat
            gaps.append(np.mean([heights(pipe.head, head, pairs).mean().item() for pairs in LID_PAIRS]))
        assert gaps[0] > 0.004
        assert gaps[1] == pytest.approx(gaps[0] / 2, abs=2e-4)
        assert gaps[2] == pytest.approx(0, abs=2e-4)


def test_light_on_teeth_goes_from_one_state_to_the_next_whatever_lids_do(
    pipe: EmoRigPipeline, hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, lights, found = hopper[:300, 100:400], [], iter([0.5, 2.0])

    def paint(_: Any, photos: Sequence[PhotoEdits], *__: Any) -> list[PaintedPhoto]:
        lights.append([light() for light in photos[0].lights])
        return [PaintedPhoto(photos[0].rgb, [])]

    find = lambda *_: TeethLight(np.full(3, next(found)), np.zeros(3), np.ones(3))
    monkeypatch.setattr(PhotoTexturePainter, "light_of_edit", find)
    monkeypatch.setattr(PhotoTexturePainter, "paint", paint)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # so that they come in order
    assert len(list(animate(pipe, photo, 2, blink=True, rate=20, emotion="happy"))) == 40
    levels = [light.middle[0] for some in lights for light in some]
    assert len(levels) > 30 and levels[0] == pytest.approx(0.5, abs=0.02) and levels[-1] == pytest.approx(2, abs=0.02)
    assert (np.diff(levels) >= -1e-6).all() and np.diff(levels).max() < 0.2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Nothing to do"),
        ({"emotion": "happy", "seconds": 0}, "must take from 0 to 600 seconds"),
        ({"emotion": "happy", "rate": 0}, "whole number of frames"),
        ({"emotion": ["happy", "joyful"]}, "Unknown emotion 'joyful'"),
    ],
)
def test_what_cannot_be_animated_is_said_before_the_first_frame(
    pipe: EmoRigPipeline, hopper: np.ndarray, given: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        animate(pipe, hopper, **given)


@pytest.mark.parametrize("name", ["out.gif", "out.mp4"])
def test_command_writes_an_animation_that_comes_back(name: str, hopper: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(hopper[:240, 120:360]).save(tmp_path / "photo.png")
    out = tmp_path / name
    turns = "--rotate", "6", "0", "0", "--gaze", "9", "0"
    command = ["animate", str(tmp_path / "photo.png"), *turns, "--seconds", ".3", "--rate", "10"]
    assert main([*command, "--loop", "-o", str(out)]) == 0
    frames = list(open_clip(out).frames())
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(2, 10)]
    pictures = [frame.rgb.astype(int) for frame in frames]
    assert np.abs(pictures[0] - hopper[:240, 120:360]).mean() < 4
    assert np.abs(pictures[1] - pictures[0]).mean() > 3
    assert main([*command, "-o", str(tmp_path / "a.mp3")]) == 2


def test_network_that_draws_the_whole_crop_animates_too(pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    appearance = AppearanceEncoder(cond_dim=16).requires_grad_(False).eval()
    settings = {"crop_size": 64, "code_parts": "appearance", "default_num_inference_steps": 2}
    rig = EmoRigPipeline(
        pipe.head, pipe.encoder, drawing_unet(16), published_scheduler(), appearance, **settings
    )  # fmt: skip
    rig.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    edit = rig(hopper, "surprise", generator=noise, output_type="np").images[0]
    first, last = (frame.rgb for frame in animate(rig, hopper, 0.08, emotion="surprise"))
    assert np.array_equal(first, hopper)
    assert_close(last, edit)
    assert not np.array_equal(last, hopper)


def test_pipeline_without_a_head_is_refused(hopper: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no head, so no face that moves"):
        animate(small_diffae(), hopper, emotion="happy")
