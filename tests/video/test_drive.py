"""A photo's face does what a clip's does, each against its own rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import make_video

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.cli.main import main
from emorig_diffusers.face.edit import check_turn, turned
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.face.relax import heights
from emorig_diffusers.photo.faces import NoFaceError
from emorig_diffusers.photo.landmarks import LID_PAIRS, LIDS
from emorig_diffusers.video.clips import ClipSettings, Frame
from emorig_diffusers.video.drive import Drive
from emorig_diffusers.video.portrait import Portrait
from emorig_diffusers.video.reading import Clip, open_clip

RATE = 4  # frames a second: a face that goes then keeps its share of the movement up to its last frame


class Frames(Clip):
    """A clip in memory."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        self.pictures, self.settings, self.length = pictures, ClipSettings(Fraction(RATE)), len(pictures)
        self.size = pictures[0].shape[1::-1]

    def frames(self) -> Iterator[Frame]:
        return (Frame(rgb, Fraction(i, RATE)) for i, rgb in enumerate(self.pictures))

    def sample(self, count: int) -> Iterator[Frame]:
        return self.frames()


@pytest.fixture(scope="module")
def acted(edit: Callable[[str], EmoRigOutput], astronaut: np.ndarray) -> Frames:
    """The astronaut, who is calm, calm, laughs, is surprised, and away."""
    calm, surprised = (np.asarray(edit(emotion).images[0]) for emotion in ("neutral", "surprise"))
    return Frames([calm, calm, astronaut, surprised, np.full_like(astronaut, 90)])


@pytest.fixture(scope="module")
def drive(pipe: EmoRigPipeline, hopper: np.ndarray, acted: Frames) -> Drive:
    return Drive(pipe, hopper, acted)


def test_photo_takes_over_what_changes_in_the_clip_and_comes_back_where_its_face_is_lost(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, own = drive.pipe.head.config.expression_names, drive.portrait.codes[0].expression[0]
    changes, draw = [], Portrait.draw

    def draw_some(self: Portrait, targets: Iterator) -> Iterator[np.ndarray]:
        for one, _ in targets:
            changes.append(dict(zip(names, (one[0].expression[0] - own).tolist())))
            yield draw(self, one) if len(changes) in (3, 5) else self.rgb

    monkeypatch.setattr(Portrait, "draw_each", draw_some)
    frames = list(drive.frames())
    assert [frame.time for frame in frames] == [Fraction(i, RATE) for i in range(5)]
    calm, laugh, surprise = changes[0], changes[2], changes[3]
    assert max(abs(calm[name]) for name in ("mouthSmileLeft", "jawOpen", "browInnerUp")) < 0.1
    assert laugh["mouthSmileLeft"] > 0.25
    assert surprise["jawOpen"] > 0.15
    assert surprise["browOuterUpLeft"] > 0.2
    assert np.array_equal(frames[4].rgb, drive.portrait.rgb)
    assert np.abs(frames[2].rgb.astype(int) - drive.portrait.rgb).mean() > 0.5


def test_blink_of_the_clip_closes_the_photo_s_eyes(drive: Drive, astronaut_face: EncodedFace) -> None:
    landmarks = astronaut_face.face.landmarks.copy()
    for lids in LIDS:  # the upper edge falls onto the lower one
        landmarks[list(lids[1:8])] = landmarks[list(lids[:8:-1])]
    shut = replace(astronaut_face, face=replace(astronaut_face.face, landmarks=landmarks))
    face, head = drive.portrait.faces[0], drive.pipe.head
    flat = torch.cat([face.offsets, face.offsets[:, :1]], 1)[None] / face.codes.camera[0, 0]
    gap = lambda codes: [
        (heights(head, head.rest_vertices(codes.shape, codes.expression) - flat, pairs)).mean().item()
        for pairs in LID_PAIRS
    ]
    assert min(gap(drive._target(face, astronaut_face, 1.0))) > 0.003
    assert gap(drive._target(face, shut, 1.0)) == pytest.approx([0, 0], abs=3e-4)


def test_head_turns_as_far_as_the_photo_shows(drive: Drive, astronaut_face: EncodedFace) -> None:
    codes, own = drive.rest.codes, drive.portrait.codes[0]
    for degrees, limited in ((12, False), (70, True)):
        drive.limited = False
        pose = torch.cat([turned(codes.pose[:, :3], (degrees, 0, 0)), codes.pose[:, 3:]], 1)
        target = drive._target(drive.portrait.faces[0], replace(astronaut_face, codes=codes.with_(pose=pose)), 1.0)
        check_turn(own, target)
        wanted = turned(own.pose[:, :3], (degrees, 0, 0))
        assert torch.allclose(target.pose[:, :3], wanted, atol=1e-3) != limited
        assert drive.limited == limited
        assert (target.pose[:, :3] - own.pose[:, :3]).norm() > 0.15


def test_what_cannot_drive_is_said(pipe: EmoRigPipeline, hopper: np.ndarray, acted: Frames) -> None:
    with pytest.raises(NoFaceError, match="in any frame"):
        Drive(pipe, hopper, Frames([np.full((120, 160, 3), 90, np.uint8)] * 2))
    with pytest.raises(ValueError, match="leave emotion out"):
        Drive(pipe, hopper, acted, emotion="happy")


def test_command_keeps_the_clip_s_times_and_sound(
    astronaut: np.ndarray, hopper: np.ndarray, photos: Path, tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "by.mp4", iter([Frame(astronaut, Fraction(0))] * 2), "aac")
    command = ["drive", str(photos / "hopper.PNG"), "--by", str(clip), "--intensity", "0"]
    assert main([*command, "-o", str(tmp_path / "out.mp4")]) == 0
    made = list(open_clip(tmp_path / "out.mp4").frames())
    assert [frame.time for frame in made] == [frame.time for frame in open_clip(clip).frames()]
    assert np.abs(made[0].rgb[: len(hopper), : hopper.shape[1]].astype(int) - hopper).mean() < 4
    assert b"mp4a" in (tmp_path / "out.mp4").read_bytes()
    assert main([*command, "-o", str(clip)]) == 2
