"""Clips say in their files that they were edited."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.provenance.edits import Edit, MovingMark
from emorig_diffusers.provenance.verify import verify
from emorig_diffusers.video.clips import ClipSettings, Frame
from emorig_diffusers.video.reading import open_clip
from emorig_diffusers.video.writing import write_clip

EDIT = Edit("emorig-open", "happy 0.6, sad 0.4", 0.5)


def frames(edit: Edit | None, count: int = 3) -> list[Frame]:
    pictures = np.random.default_rng(0).integers(0, 255, (count, 48, 64, 3), np.uint8)
    return [Frame(picture, Fraction(i, 10), edit) for i, picture in enumerate(pictures)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp", ".png"])
def test_clips_say_what_they_are(suffix: str, tmp_path: Path) -> None:
    settings = ClipSettings(metadata={"comment": "at the sea"})
    path = tmp_path / f"a{suffix}"
    for edit in (None, EDIT):
        write_clip(frames(edit), path, settings)
        report = verify(path)
        assert report.edited == bool(edit)
        assert len(list(open_clip(path).frames())) == 3
    assert report.metadata.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert report.metadata.edit and any("happy 0.6, sad 0.4" in text for text in report.metadata.edit.values())
    if suffix in (".mp4", ".mov", ".mkv", ".webm"):
        clip = open_clip(path)
        comment = {name.lower(): text for name, text in clip.settings.metadata.items()}["comment"]
        assert comment.startswith("at the sea Edited with emorig-diffusers")
        write_clip(frames(EDIT), tmp_path / f"b{suffix}", clip.settings)  # edited again
        again = open_clip(tmp_path / f"b{suffix}").settings.metadata
        assert {name.lower(): text for name, text in again.items()}["comment"].count("Edited with") == 1


def moving(astronaut: np.ndarray, edit: Edit) -> list[Frame]:
    """A face that moves a little, and all of it but the first frame edited."""
    parts = [np.ascontiguousarray(astronaut[i : 300 + i, 90 + 2 * i : 390 + 2 * i]) for i in range(8)]
    faces = [[face.landmarks for face in find_faces(part)] for part in parts]
    return [Frame(part, Fraction(i, 10), edit, faces[i] if i else []) for i, part in enumerate(parts)]


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
def test_faces_of_clips_are_marked(suffix: str, astronaut: np.ndarray, tmp_path: Path) -> None:
    path, sample = tmp_path / f"a{suffix}", lambda path: (frame.rgb for frame in open_clip(path).frames())
    for code in (None, 1):
        write_clip(moving(astronaut, replace(EDIT, code=code)), path)
        report = verify(path, sample)
        assert report.mark and report.faces == 1 and report.mark.marked == (code is not None), report.sentence
    assert report.mark.code == 1
    write_clip(moving(astronaut, replace(EDIT, code=1)), path, mark=False)
    report = verify(path, sample)
    assert report.mark and not report.mark.marked and report.metadata.edit
    assert verify(path).mark is None or suffix == ".webp"  # whose first frame is a photo


def test_a_clips_mark_stays_with_its_face(astronaut: np.ndarray) -> None:
    mark, frames = MovingMark(1), moving(astronaut, EDIT)
    changes = [mark(one.rgb, one.faces).astype(float) - one.rgb for one in frames]
    assert not changes[0].any()
    here = changes[4][:, :, 0]
    there = np.roll(changes[5][:, :, 0], (1, 2), (0, 1))  # as the picture moves from one to the other
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.8


def test_a_damaged_video_is_unknown_or_refused(tmp_path: Path) -> None:
    write_clip(frames(EDIT), tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    for end in (len(data) - 10, 40):
        (tmp_path / "b.mp4").write_bytes(data[:end])
        try:
            assert not verify(tmp_path / "b.mp4").by_us or end > 40
        except ValueError as error:
            assert "not a readable picture" in str(error)
