"""`emorig video` and `emorig evaluate --video` around the edit itself."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from made_clips import RATE, make_video, panned
from PIL import Image

from emorig_diffusers.cli.main import main
from emorig_diffusers.cli.video import write_result
from emorig_diffusers.video.clips import Frame
from emorig_diffusers.video.reading import open_clip
from emorig_diffusers.video.writing import write_clip


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(astronaut[:220, 100:400])


def test_mistakes_are_told_in_one_line(face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(face).save(tmp_path / "photo.png")
    clip = str(make_video(tmp_path / "clip.mp4", panned(face, (200, 200), 3)))
    for arguments, message in (
        ([str(tmp_path / "none.mp4"), "-o", str(tmp_path / "out.mp4")], "There is no file"),
        ([str(tmp_path / "photo.png"), "-o", str(tmp_path / "out.mp4")], "is a photo, not a clip"),
        ([clip, "-o", clip], "is what is read"),
        ([clip, "-o", str(tmp_path / "out.avi")], "Cannot tell the format"),
        ([clip, "--emotion", "joy", "-o", str(tmp_path / "out.mp4")], "Unknown emotion 'joy'"),
        ([clip, "--emotion", "happy", "--face", "3", "-o", str(tmp_path / "out.mp4")], "the clip shows 1 person"),
    ):
        assert main(["video", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.mp4", "photo.png"]


def test_damaged_clip_is_written_as_far_as_it_goes(
    face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_video(tmp_path / "in.mkv", panned(face, (160, 120), 60, 1))
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    clip = open_clip(tmp_path / "cut.mkv")
    assert write_result(clip.frames(), clip, tmp_path / "out.mp4") == 1
    written = len(list(open_clip(tmp_path / "out.mp4").frames()))
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out.mp4'}\n" and 10 < written < 50
    assert f"ends after 1.2 s, though it should be longer: the {written} frames" in said.err


def test_odd_sides_and_missing_sound_are_said(
    face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(panned(face, (161, 121), 3), tmp_path / "odd.gif")
    clip = open_clip(tmp_path / "odd.gif")
    assert write_result(clip.frames(), clip, tmp_path / "out.mp4") == 0
    assert "'out.mp4' is 162 x 122 pixels" in capsys.readouterr().err.replace(str(tmp_path) + "/", "")
    video = open_clip(tmp_path / "out.mp4")
    assert write_result(video.frames(), video, tmp_path / "out.webp") == 0
    assert "holds no sound" in capsys.readouterr().err


def test_stopped_process_leaves_no_file(face: np.ndarray, tmp_path: Path) -> None:
    clip = open_clip(make_video(tmp_path / "in.mp4", panned(face, (160, 120), 8)))

    def stopped() -> Iterator[Frame]:
        for i, frame in enumerate(clip.frames()):
            if i == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield frame

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        write_result(stopped(), clip, tmp_path / "out.mp4")
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert [file.name for file in tmp_path.iterdir()] == ["in.mp4"]


def test_figures_of_a_clip_and_its_edit(face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grain = np.random.default_rng(0).integers(0, 3, (4, *face.shape), np.uint8)
    frames = [np.roll(face, 2 * i, axis=1) // 2 + grain[i] for i in range(4)]
    unsteady = [frame // (1 + i % 2) for i, frame in enumerate(frames)]
    for name, pictures in (("a", frames), ("b", unsteady)):
        write_clip((Frame(rgb, Fraction(i, RATE)) for i, rgb in enumerate(pictures)), tmp_path / f"{name}.png")
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    options = ["--judge", "face-api", "--identity", "sface"]
    assert main(["evaluate", "--video", a, a, "--emotion", "happy", *options]) == 0
    rows = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines())
    rows = {name.strip(): float(value) for name, value in rows.items()}
    assert rows["frames"] == rows["frames with a face"] == 4
    assert rows["flicker, of the source's own"] == rows["identity, SFace, median"] == 1
    assert rows["background change, mean (coding counts)"] == 0
    assert rows["happy, face-api, median"] >= rows["happy, face-api, 5th percentile"] > 0.5
    assert main(["evaluate", "--video", a, b, *options, "-o", str(tmp_path / "report")]) == 0
    written = json.loads((tmp_path / "report" / "steadiness.json").read_text())
    assert written["flicker, of the source's own"] > 3 and written["the same without the mouth"] > 3
    assert main(["evaluate"]) == 2
    assert "required: --source, -o" in capsys.readouterr().err


def test_clips_of_other_frames_are_refused(
    face: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [(tmp_path / f"{n}.png", panned(face, size, n)) for n, size in ((3, (200, 200)), (4, (200, 200)))]
    clips.append((tmp_path / "wide.png", panned(face, (220, 200), 3)))
    for path, frames in clips:
        write_clip(frames, path)
    for other, message in (("4.png", "has not the frames"), ("wide.png", "differ in size")):
        assert main(["evaluate", "--video", str(tmp_path / "3.png"), str(tmp_path / other), "--identity", "sface"]) == 2
        assert message in capsys.readouterr().err
