"""Clips are read as they are meant to be shown, and written as they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_clips import RATE, make_video, panned
from PIL import Image

from emorig_diffusers.video.clips import ClipError, ClipSettings, Colours, Frame
from emorig_diffusers.video.reading import open_clip
from emorig_diffusers.video.writing import write_clip

LOSSY = 3.2  # mean grey levels by which H.264 and chroma of half the size may change a picture of these tests


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(astronaut[:200, 120:360])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif", ".webp", ".png"])
def test_frames_and_their_times_come_back_from_every_format(face: np.ndarray, tmp_path: Path, suffix: str) -> None:
    times = [Fraction(0), Fraction(1, 25), Fraction(1, 10), Fraction(3, 10), Fraction(1, 3)]
    frames = [Frame(one.rgb, t) for one, t in zip(panned(face, (160, 120), 5, 8), times)]
    assert write_clip(iter(frames), tmp_path / f"clip{suffix}") == 5
    clip = open_clip(tmp_path / f"clip{suffix}")
    found = list(clip.frames())
    assert clip.size == (160, 120) and clip.damage == ""
    limit = 0 if suffix == ".png" else 6 if suffix == ".gif" else LOSSY
    for one, wanted in zip(found, frames, strict=True):
        assert abs(one.time - wanted.time) <= Fraction(1, 200)
        assert error(one.rgb, wanted.rgb) <= limit


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_frames_are_upright_whatever_the_rotation_tag(face: np.ndarray, tmp_path: Path, rotation: int) -> None:
    clip = open_clip(make_video(tmp_path / "turned.mp4", panned(face, (160, 120), 3), rotation=rotation))
    wanted = np.rot90(next(panned(face, (160, 120), 1)).rgb, rotation // 90)
    found = next(clip.frames()).rgb
    assert clip.size == wanted.shape[1::-1] and error(found, wanted) < LOSSY


@pytest.mark.parametrize("colours", [(1, 1, 1, False), (1, 1, 13, True), (6, 6, 6, False)])
def test_colour_range_matrix_and_primaries_are_kept(
    face: np.ndarray, tmp_path: Path, colours: tuple[int, int, int, bool]
) -> None:
    source = open_clip(make_video(tmp_path / "in.mp4", panned(face, (160, 120), 3), colours=colours))
    write_clip(source.frames(), tmp_path / "out.mp4", source.settings)
    written = open_clip(tmp_path / "out.mp4")
    assert source.settings.colours == written.settings.colours == Colours(*colours)
    original = next(panned(face, (160, 120), 1)).rgb
    assert error(next(source.frames()).rgb, original) < LOSSY
    assert error(next(written.frames()).rgb, original) < LOSSY


@pytest.mark.parametrize(("suffix", "sound"), [(".mp4", "aac"), (".mov", "pcm_s16le"), (".mkv", "flac")])
def test_sound_is_copied_byte_for_byte(face: np.ndarray, tmp_path: Path, suffix: str, sound: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", panned(face, (160, 120), 12), sound)
    clip = open_clip(source)
    write_clip(clip.frames(), tmp_path / f"out{suffix}", clip.settings, source)

    def packets(path: Path) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.pts is not None]

    assert len(packets(source)) > 3 and packets(source) == packets(tmp_path / f"out{suffix}")


def test_sound_that_a_format_cannot_hold_is_refused(face: np.ndarray, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", panned(face, (160, 120), 3), "aac")
    with pytest.raises(ClipError, match=r"aac.*cannot be copied into \.webm"):
        write_clip(open_clip(source).frames(), tmp_path / "out.webm", sound=source)
    assert [file.name for file in tmp_path.iterdir()] == ["in.mp4"]


def test_odd_sides_get_one_more_row_and_column_in_videos(face: np.ndarray, tmp_path: Path) -> None:
    write_clip(panned(face, (161, 121), 3), tmp_path / "odd.mp4")
    clip = open_clip(tmp_path / "odd.mp4")
    found = next(clip.frames()).rgb
    assert clip.size == (162, 122)
    assert error(found[:121, :161], next(panned(face, (161, 121), 1)).rgb) < LOSSY


def test_pixels_that_are_not_square_and_tags_are_kept(face: np.ndarray, tmp_path: Path) -> None:
    settings = ClipSettings(pixel_aspect=Fraction(16, 15), metadata={"title": "A talk"}, time_base=Fraction(1, 12_800))
    write_clip(panned(face, (160, 120), 3), tmp_path / "a.mp4", settings)
    found = open_clip(tmp_path / "a.mp4").settings
    assert found.pixel_aspect == Fraction(16, 15) and found.metadata["title"] == "A talk"
    assert found.time_base == Fraction(1, 12_800)


def test_sample_comes_from_all_over_the_clip(face: np.ndarray, tmp_path: Path) -> None:
    clip = open_clip(make_video(tmp_path / "in.mp4", panned(face, (160, 120), 40, 1)))
    times = [frame.time for frame in clip.sample(4)]
    assert times == [Fraction(k, RATE) for k in (5, 15, 25, 35)]


def test_damaged_file_gives_what_can_be_read_and_says_so(face: np.ndarray, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "in.mkv", panned(face, (160, 120), 60, 1))
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    clip = open_clip(tmp_path / "cut.mkv")
    assert 10 < len(list(clip.frames())) < 50 and clip.damage
    spoilt = bytearray(data)
    spoilt[len(data) // 2 : len(data) // 2 + 3000] = b"\xa5" * 3000
    (tmp_path / "spoilt.mkv").write_bytes(spoilt)
    clip = open_clip(tmp_path / "spoilt.mkv")
    assert len(list(clip.frames())) > 10 and "damage" in clip.damage


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, "There is no file"),
        ("empty.mp4", b"", "is empty"),
        ("words.mp4", b"no clip at all " * 99, "is no clip that can be read"),
    ],
)
def test_what_is_no_clip_is_told_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipError, match=message):
        open_clip(tmp_path / name)


def test_photo_sound_and_half_a_file_are_no_clips(face: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(face).save(tmp_path / "photo.jpg")
    Image.fromarray(face).save(tmp_path / "photo.gif")
    for name in ("photo.jpg", "photo.gif"):
        with pytest.raises(ClipError, match="is a photo, not a clip: edit it with `emorig edit`"):
            open_clip(tmp_path / name)
    with av.open(str(tmp_path / "tone.wav"), "w") as container:
        tone = container.add_stream("pcm_s16le", rate=48_000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 480), np.int16), format="s16", layout="mono")
        samples.sample_rate = 48_000
        container.mux(tone.encode(samples))
    with pytest.raises(ClipError, match="has no video stream"):
        open_clip(tmp_path / "tone.wav")
    whole = make_video(tmp_path / "whole.mp4", panned(face, (160, 120), 9))
    (tmp_path / "half.mp4").write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(ClipError, match="is no clip that can be read"):
        open_clip(tmp_path / "half.mp4")


def test_nothing_is_written_where_frames_end_in_an_error(face: np.ndarray, tmp_path: Path) -> None:
    def stopped() -> Iterator[Frame]:
        yield from panned(face, (160, 120), 5)
        raise KeyboardInterrupt

    for suffix in (".mp4", ".gif"):
        (tmp_path / f"out{suffix}").write_bytes(b"as it was")
        with pytest.raises(KeyboardInterrupt):
            write_clip(stopped(), tmp_path / f"out{suffix}")
        assert (tmp_path / f"out{suffix}").read_bytes() == b"as it was"
    with pytest.raises(ClipError, match="no frames"):
        write_clip(iter(()), tmp_path / "out.mp4")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.gif", "out.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webp"])
def test_full_disk_is_told_and_leaves_nothing(
    face: np.ndarray, tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]], suffix: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 240, 320, 3), np.uint8)
    for count in (40, 4):  # of which some is left for closing the file
        frames = (Frame(rgb, Fraction(i, RATE)) for i, rgb in enumerate(noise[:count]))
        with full_disk(100_000), pytest.raises(ClipError, match=r"Cannot write .*File too large"):
            write_clip(frames, tmp_path / f"out{suffix}")
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_written_is_told_before_a_frame_is_made(tmp_path: Path) -> None:
    def never() -> Iterator[Frame]:
        raise AssertionError
        yield

    for name, message in (("out.avi", "Cannot tell the format"), ("no/out.mp4", "does not exist")):
        with pytest.raises(ClipError, match=message):
            write_clip(never(), tmp_path / name)


def test_animation_that_would_not_fit_into_memory_is_refused(
    face: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emorig_diffusers.video.writing.MAX_HELD", 5 * 160 * 120 * 3)
    write_clip(panned(face, (160, 120), 5), tmp_path / "short.png")
    with pytest.raises(ClipError, match="too long"):
        write_clip(panned(face, (160, 120), 6), tmp_path / "long.png")


def test_background_that_stands_still_stands_still_in_a_gif(face: np.ndarray, tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        for i in range(4):
            rgb = face.copy()
            rgb[40:80, 40:80] = (50 * i, 255 - 50 * i, 128)
            yield Frame(rgb, Fraction(i, RATE))

    write_clip(frames(), tmp_path / "out.gif")
    first, *others = (frame.rgb for frame in open_clip(tmp_path / "out.gif").frames())
    assert len(others) == 3
    for other in others:
        assert np.array_equal(other[100:], first[100:])


def test_a_recording_that_does_not_tell_its_length_is_looked_at_from_all_over(face: np.ndarray, tmp_path: Path) -> None:
    clip = open_clip(make_video(tmp_path / "live.mkv", panned(face, (120, 120), 24), live=True))
    assert clip.length == 24
    times = [frame.time for frame in clip.sample(6)]
    assert len(times) == 6 and times[0] < Fraction(5, 25) and times[-1] > Fraction(18, 25)


@pytest.mark.parametrize("listed", ["ffconcat version 1.0\nfile clip.mp4\n", "#EXTM3U\n#EXTINF:1,\nclip.mp4\n"])
def test_no_other_file_is_opened_for_a_clip(face: np.ndarray, tmp_path: Path, listed: str) -> None:
    """FFmpeg tells formats by content, and some are lists of files and addresses."""
    clip = make_video(tmp_path / "clip.mp4", panned(face, (64, 64), 3))
    assert len(list(open_clip(clip).frames())) == 3
    (tmp_path / "list.mp4").write_text(listed)
    with pytest.raises(ClipError, match="is no clip that can be read"):
        open_clip(tmp_path / "list.mp4")
