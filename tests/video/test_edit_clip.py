"""Clips are edited frame by frame: what changes is the expression, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_clips import RATE, make_video
from small_diffae import small_diffae

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli.main import main
from emorig_diffusers.evaluation.metrics.background import background_change
from emorig_diffusers.evaluation.metrics.flicker import FlickerMeter
from emorig_diffusers.painting.photo_texture import PhotoTexturePainter
from emorig_diffusers.photo.faces import NoFaceError, follow_face
from emorig_diffusers.video.clips import ClipSettings, Frame
from emorig_diffusers.video.edit import edit_clip
from emorig_diffusers.video.reading import Clip, open_clip


class Frames(Clip):
    """A clip in memory."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures, self.settings, self.length = pictures, ClipSettings(), len(pictures)
        self.size = pictures[0].shape[1::-1]

    def frames(self) -> Iterator[Frame]:
        return (Frame(rgb, Fraction(i, RATE)) for i, rgb in enumerate(self.pictures))

    def sample(self, count: int) -> Iterator[Frame]:
        step = max(len(self.pictures) // count, 1)
        return (frame for i, frame in enumerate(self.frames()) if i % step == 0)


def moved(photo: np.ndarray, count: int, side: int, shift: float = 1.5, noise: float = 0.0) -> list[np.ndarray]:
    """A photo, `side` pixels wide, that drifts to the right, with the noise of a camera."""
    random, scale = np.random.default_rng(0), side / photo.shape[1]
    shape = side, round(photo.shape[0] * scale)
    pictures = []
    for i in range(count):
        matrix = np.array([[scale, 0, i * shift], [0, scale, 0]])
        picture = cv2.warpAffine(photo, matrix, shape, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        noisy = picture + random.normal(0, noise, picture.shape) if noise else picture
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return pictures


@pytest.fixture(scope="module")
def small(hopper: np.ndarray) -> np.ndarray:
    """A calm face of 130 pixels."""
    return cv2.resize(hopper, (256, 300), interpolation=cv2.INTER_AREA)


def edited(pipe: EmoRigPipeline, pictures: list[np.ndarray], **given: object) -> list[np.ndarray]:
    return [frame.rgb for frame in edit_clip(pipe, Frames(pictures), **given)]


def test_edit_stands_as_still_as_its_clip_and_leaves_the_background(pipe: EmoRigPipeline, small: np.ndarray) -> None:
    pictures = moved(small, 5, 256, noise=2.0)
    results, meter = edited(pipe, pictures, emotion="surprise"), FlickerMeter()
    face, changes = pipe.encode(pictures[0])[0].face, []
    for source, result in zip(pictures, results, strict=True):
        face = follow_face(source, face)
        changes.append(meter(source, result, [face.landmarks] * 2))
        assert background_change(source, result, face.landmarks) == 0
        assert np.abs(source.astype(int) - result)[90:200, 80:180].mean() > 3  # it is another face
    for source_change, edit_change in np.mean(changes[1:], axis=0):
        assert edit_change < 1.3 * source_change


def test_edits_of_each_face_come_one_after_the_other(
    pipe: EmoRigPipeline, small: np.ndarray, astronaut: np.ndarray
) -> None:
    other = cv2.resize(astronaut[:300, 80:380], (256, 300), interpolation=cv2.INTER_AREA)
    pictures, left, right = [np.hstack([small, other])] * 2, np.s_[:, :256], np.s_[:, 256:]
    happy, twice = [{"emotion": "happy"}], [{"emotion": "happy"}, {"action_units": {"AU1": 0.8}}]
    plain = edited(pipe, pictures, emotion="happy", face=1)[1]
    assert np.array_equal(edited(pipe, pictures, edits={1: happy})[1], plain)
    both = edited(pipe, pictures, edits={1: twice, 2: [{"emotion": "sad"}]})[1]
    change = np.abs(both.astype(int) - plain)
    assert change[left].max() > 20 and change[left][150:].mean() < 1 < change[right].mean()  # its brows, not its mouth
    with pytest.raises(NoFaceError, match="There is no face 3"):
        edited(pipe, pictures, edits={3: happy})


def test_frames_without_a_face_pass_through_as_they_are(pipe: EmoRigPipeline, small: np.ndarray) -> None:
    blank = np.full_like(small, 90)
    pictures = [blank, blank, *moved(small, 3, 256), blank]
    results = edited(pipe, pictures, emotion="happy")
    same = [np.array_equal(a, b) for a, b in zip(pictures, results, strict=True)]
    assert same == [True, True, False, False, False, True]


def test_clip_without_any_face_is_refused(pipe: EmoRigPipeline) -> None:
    with pytest.raises(NoFaceError, match="in any frame"):
        edit_clip(pipe, Frames([np.full((120, 160, 3), 90, np.uint8)] * 3), emotion="happy")


def test_command_edits_a_clip_with_its_sound(
    small: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = Frames(moved(small, 3, 256)).frames()
    source = make_video(tmp_path / "in.mp4", frames, "aac")
    command = ["video", str(source), "--emotion", "happy", "--no-mark", "--strip-metadata"]
    assert main([*command, "-o", str(tmp_path / "out.mp4")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.mp4'}\n"
    before, after = open_clip(source), open_clip(tmp_path / "out.mp4")
    assert [f.time for f in before.frames()] == [f.time for f in after.frames()]
    first = [next(clip.frames()).rgb.astype(int) for clip in (before, after)]
    assert np.abs(first[0] - first[1])[150:200, 100:160].mean() > 8
    assert np.abs(first[0] - first[1])[:40].mean() < 4


def test_pipeline_without_a_head_edits_frame_by_frame_from_the_same_noise(small: np.ndarray) -> None:
    other = small_diffae()
    pictures = [small, small, np.full_like(small, 90), small]
    given = {"emotion": "happy", "num_inference_steps": 2, "inversion_steps": 2}
    frames = [frame.rgb for frame in edit_clip(other, Frames(pictures), **given)]
    assert not np.array_equal(frames[0], small) and np.array_equal(frames[2], pictures[2])
    assert np.abs(frames[0].astype(int) - frames[1]).mean() < 0.4 * np.abs(frames[0].astype(int) - small).mean()


def test_what_only_a_photo_can_be_given_is_refused(pipe: EmoRigPipeline, small: np.ndarray) -> None:
    clip = Frames([small])
    for given, message in (
        ({"emotion": ["happy", "sad"]}, "one emotion"),
        ({"codes": pipe.encode(small)[0].codes}, "leave codes out"),
        ({"emotion": "happy", "faces": pipe.encode(small)}, "leave faces out"),
        ({"reference": small, "modes": ("exp", "pose")}, "its expression alone"),
        ({"edits": [{"emotion": "happy", "rotate": (5, 0, 0)}]}, "turn heads and light beside them"),
        ({"edits": [{"prompt": "look happy, light from the left"}]}, "turn heads and light beside them"),
        ({}, "Nothing to do"),
    ):
        with pytest.raises(ValueError, match=message):
            edit_clip(pipe, clip, **given)


def test_blur_of_a_person_is_that_of_all_frames(
    pipe: EmoRigPipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    blurs, paint = [], PhotoTexturePainter.paint
    monkeypatch.setattr(
        PhotoTexturePainter, "paint",
        lambda self, photos, *a: blurs.extend(face.blur for face in photos[0].faces) or paint(self, photos, *a),
    )  # fmt: skip
    pictures = moved(astronaut[:300, 80:380], 5, 300)
    soft = [cv2.GaussianBlur(rgb, (0, 0), 2) for rgb in pictures]
    edited(pipe, [*soft[:2], pictures[2], *soft[3:]], emotion="happy")
    assert len(set(blurs)) == 1 and 1 < blurs[0] < 3
