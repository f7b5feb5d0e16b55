"""Faces that move in the demo, as its visitors ask for them."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from threading import Event, Lock
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from made_clips import make_video, panned
from PIL import Image, ImageSequence
from test_space import ASTRONAUT, REPOSITORY, WAITING, Visit, demo_of, opened

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.video.clips import ClipError, ClipSettings, Frame
from emorig_diffusers.video.reading import open_clip

pytest.importorskip("gradio")
SIDE, COUNT = 256, 8  # pixels and frames of the clip
MOUTH = np.s_[140:190, 80:190]  # rows, columns that hold it in all of them


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps the files of visitors."""
    return tmp_path_factory.mktemp("clip_server")


@pytest.fixture(scope="module")
def url(pipe: EmoRigPipeline, files: Path) -> Iterator[str]:
    """Address of the demo of the bundled pipeline, in this process."""
    with demo_of(pipe, files) as address:
        yield address


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The astronaut as a camera pans, with sound."""
    frames = panned(ASTRONAUT[:SIDE, 90:400], (SIDE, SIDE), COUNT)
    return make_video(tmp_path_factory.mktemp("clips") / "walk.mp4", frames, sound="aac")


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Visit]:
    with opened(browser, url) as visit:
        yield visit


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demo's own functions around clips."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "space"))
    import clips

    return clips


def give_clip(visit: Visit, path: Path) -> None:
    visit.page.get_by_role("tab", name="Video").click()
    visit.page.set_input_files("#clip input[type=file]", str(path))
    visit.page.locator("#clip video").wait_for(timeout=WAITING)


def test_a_clip_is_changed_and_played_beside_what_it_was(visit: Visit, clip: Path, tmp_path: Path) -> None:
    visit.page.get_by_role("tab", name="Video").click()
    visit.page.locator("#run-clip").click()
    visit.says("Upload or record a clip first.")
    give_clip(visit, clip)
    visit.page.locator("#clip-emotion").get_by_text("Anger").click()
    visit.page.locator("#run-clip").click()
    visit.says(f"of {COUNT} · ")
    visit.page.locator("#after video").wait_for(timeout=WAITING)
    visit.says(f"{COUNT} frames · ")
    visit.page.get_by_role("button", name="Play both").click()
    visit.page.wait_for_function("() => document.querySelector('#after video').currentTime > 0.1", timeout=WAITING)
    with visit.page.expect_download(timeout=WAITING) as download:
        visit.click("Download MP4")
    assert download.value.suggested_filename == "walk_edited.mp4"
    download.value.save_as(tmp_path / "walk_edited.mp4")
    before, after = (list(open_clip(path).frames()) for path in (clip, tmp_path / "walk_edited.mp4"))
    assert [frame.time for frame in after] == [frame.time for frame in before]
    for one, other in zip(before, after):
        moved = np.abs(one.rgb.astype(int) - other.rgb).mean(-1)
        assert moved[MOUTH].mean() > 4 * moved[:40].mean()  # the face changed, its surroundings were coded anew
    with av.open(str(tmp_path / "walk_edited.mp4")) as result:
        assert [stream.codec_context.name for stream in result.streams.audio] == ["aac"]


def test_a_clip_that_is_stopped_leaves_nothing(visit: Visit, files: Path, tmp_path: Path) -> None:
    still = np.ascontiguousarray(ASTRONAUT[:SIDE, 100 : 100 + SIDE])
    give_clip(visit, make_video(tmp_path / "long.mp4", (Frame(still, Fraction(i, 25)) for i in range(150))))
    visit.page.locator("#clip-emotion").get_by_text("Sad").click()
    visit.page.locator("#run-clip").click()
    visit.says("of 150 · ")
    begun = [folder for folder in files.glob(f"{'?' * 32}") if not any(folder.glob("*.mp4"))]
    assert begun
    stop = visit.page.locator("#clip-mood-part").get_by_role("button", name="Stop")
    stop.click()
    visit.says("Stopped.")
    visit.page.locator("#run-clip").click()  # at once, while the server may be at the first one's last frame
    visit.says("of 150 · ")
    stop.click()
    visit.says("Stopped.")
    end = time.monotonic() + WAITING / 1000
    while any(folder.exists() for folder in begun):
        assert time.monotonic() < end, "what was begun is still there"
        time.sleep(0.1)
    visit.page.wait_for_timeout(1000)
    assert visit.page.get_by_text("Stopped.").is_visible()  # and still says so
    assert visit.page.locator("#run-clip").is_visible() and not stop.is_visible()
    assert not visit.page.locator("#after video").is_visible()
    visit.page.locator("nav").get_by_text("日本語").click()
    visit.says("中止しました。")  # the line and the button, which was away, follow
    visit.page.locator("#run-clip").get_by_text("動画の表情を変える").wait_for(timeout=WAITING)
    assert not visit.page.get_by_text("Stopped.").is_visible()


def test_an_edit_is_animated(visit: Visit) -> None:
    visit.page.locator("#photo-part .gallery-item").nth(1).click()
    visit.click("Surprise")
    edited = visit.result()
    seconds = visit.page.locator("#seconds input[type=number]")
    seconds.fill("0.5")
    seconds.press("Tab")
    visit.page.locator("#animate").click()
    picture = visit.page.locator("#moving-picture img")
    picture.wait_for(timeout=WAITING)
    with Image.open(io.BytesIO(visit.fetch(picture.get_attribute("src")))) as animation:
        assert animation.format == "GIF" and animation.info["loop"] == 0
        pictures = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(animation)]
    wanted = np.asarray(edited.convert("RGB"))
    changed = np.abs(pictures[0].astype(int) - wanted).max(-1) > 40  # grey levels: more than a GIF's colours are off
    far = [float(np.abs(one[changed].astype(int) - wanted[changed]).mean()) for one in pictures]
    assert changed.any() and min(far) < 0.2 * far[0]  # on the way it is the edit
    assert far[-1] > 0.5 * far[0]  # and at the end nearly the photo again
    with visit.page.expect_download(timeout=WAITING) as download:
        visit.click("Download animation")
    assert download.value.suggested_filename == "hopper_animated.gif"


def test_api_makes_clips_and_animations(url: str, clip: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)
    Image.fromarray(ASTRONAUT[:SIDE, 100 : 100 + SIDE]).save(tmp_path / "photo.png")
    asked = {"photo": handle_file(tmp_path / "photo.png"), "format": "MP4", "seconds": 0.5}
    path = client.predict(**asked, emotion="happy", api_name="/animate")
    animation = open_clip(Path(path))
    assert animation.size == (SIDE, SIDE)
    assert [frame.time for frame in animation.frames()] == [Fraction(i, 20) for i in range(10)]
    path = client.predict(photo=asked["photo"], clip=handle_file(clip), api_name="/drive")
    driven = open_clip(Path(path))
    assert driven.size == (SIDE, SIDE) and len(list(driven.frames())) == COUNT
    with pytest.raises(Exception, match="'photo.png' is a photo, not a clip"):
        client.predict(clip=asked["photo"], api_name="/video")
    with pytest.raises(Exception, match="There is no face 2: the clip shows 1 person"):
        client.predict(clip=handle_file(clip), face="2", api_name="/video")


def test_people_of_a_clip_are_numbered_from_the_left(clips: ModuleType, hopper: np.ndarray, tmp_path: Path) -> None:
    left, right = hopper[:SIDE, 120:376], ASTRONAUT[:SIDE, 100 : 100 + SIDE]
    both = np.ascontiguousarray(np.hstack([left, right]))
    path = make_video(tmp_path / "both.mp4", (Frame(both, Fraction(i, 25)) for i in range(3)))
    picture, frames, count = clips.number_people(str(path))
    assert count == 2 and picture.size == (2 * SIDE, SIDE)
    assert frames[1][2] < SIDE < frames[2][0]  # x of their boxes


def test_sound_that_browsers_do_not_play_is_left_out_and_said(clips: ModuleType, clip: Path, tmp_path: Path) -> None:
    assert clips.fitting_sound(clip) == (clip, ())
    raw = make_video(tmp_path / "raw.mkv", panned(ASTRONAUT, (64, 64), 3), sound="pcm_s16le")
    sound, (note,) = clips.fitting_sound(raw)
    assert sound is None and "(pcm_s16le)" in note and note.endswith("the result is silent.")


def test_clips_that_browsers_do_not_play_are_shown_as_copies(
    clips: ModuleType, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    assert clips.playable(clip) == clip
    fine = make_video(tmp_path / "fine.mp4", panned(ASTRONAUT, (64, 64), 3), pixel_format="yuv444p")
    copy = clips.playable(fine)
    assert copy.is_relative_to(tmp_path / "files")
    with av.open(str(copy)) as result:
        assert result.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert [frame.time for frame in open_clip(copy).frames()] == [frame.time for frame in open_clip(fine).frames()]


def test_a_full_disk_is_said_without_the_servers_folders(
    clips: ModuleType, full_disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    noise = np.random.default_rng(0).integers(0, 256, (40, 256, 256, 3), np.uint8)
    frames = (Frame(one, Fraction(i, 25)) for i, one in enumerate(noise))
    from jobs import Progress

    path = clips.new_folder() / "out.mp4"
    with full_disk(20_000), pytest.raises(ClipError, match="^Cannot write 'out.mp4': "):
        list(clips.write_stepwise(frames, Progress(), path, Lock(), ClipSettings(Fraction(25))))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_job_gives_its_place_back_before_its_first_frame(
    clips: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from jobs import Progress

    black, turn, go_on = Frame(np.zeros((64, 64, 3), np.uint8), Fraction(0)), Lock(), Event()

    def surveyed() -> Iterator[Frame]:
        go_on.wait(WAITING / 1000)  # as long as a survey takes
        yield black

    settings, path = ClipSettings(Fraction(25)), clips.new_folder() / "one.mp4"
    first = clips.write_stepwise(surveyed(), Progress(), path, turn, settings)
    assert next(first).done == 0  # it says that it goes on
    first.close()
    assert list(tmp_path.iterdir()) == [] and turn.locked()
    next_path = clips.new_folder() / "two.mp4"
    second = clips.write_stepwise(iter([black]), Progress(), next_path, turn, settings)
    assert next(second).done == 0  # the other still works, and its place is taken all the same
    go_on.set()
    assert [made.done for made in second][-1] == 1 and next_path.exists()
    assert list(tmp_path.rglob("*.mp4")) == [next_path]


def test_clips_that_are_too_much_are_refused(clips: ModuleType, tmp_path: Path) -> None:
    small, large = np.zeros((64, 64, 3), np.uint8), np.zeros((1440, 2560, 3), np.uint8)
    long = make_video(tmp_path / "long.mp4", (Frame(small, Fraction(i, 25)) for i in range(25 * 31)))
    with pytest.raises(ClipError, match="takes 31 s, and 30 s are the most here: cut it"):
        clips.open_short(long)
    wide = make_video(tmp_path / "wide.mp4", iter([Frame(large, Fraction(0))]))
    with pytest.raises(ClipError, match="2560 x 1440 pixels, and 1920 x 1080 are the most here: make it smaller"):
        clips.open_short(wide)


def test_a_turn_that_a_photo_cannot_show_is_said(
    clips: ModuleType, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limited:
        limited = True

        def __init__(self, *given: Any, **named: Any) -> None: ...

        def frames(self) -> Iterator[Frame]:
            return panned(ASTRONAUT, (SIDE, SIDE), 3)

    monkeypatch.setattr(clips, "Drive", Limited)
    Image.fromarray(ASTRONAUT).save(tmp_path / "photo.png")
    editor = clips.ClipEditor(None, lambda function: function)
    *_, last = editor.drive(str(tmp_path / "photo.png"), str(clip), "largest", 1.0, 0)
    assert last.result.exists() and last.done == 3
    assert last.notes == ("The clip's head turns further than the photo can show: there it turns as far as that goes.",)
