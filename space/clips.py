"""Faces that move in the demo: an emotion in a clip, a photo moved by a clip, and the present edit as an animation.

All are generators that say how far they are again and again: gradio closes them where a visitor stops them or goes
away, and then nothing of the result is left.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextvars import copy_context
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Any

import gradio as gr
import numpy as np
from faces import chosen, number_faces
from jobs import Progress
from PIL import Image
from texts import say
from visitors import friendly, new_folder, warn

from emorig_diffusers.evaluation.metrics.identity import IdentityJudge
from emorig_diffusers.pipelines.base import FacePipeline
from emorig_diffusers.video.animate import animate
from emorig_diffusers.video.clips import ClipError, ClipSettings, Frame, load_av
from emorig_diffusers.video.drive import LIMITED, Drive
from emorig_diffusers.video.edit import edit_clip
from emorig_diffusers.video.follow import People
from emorig_diffusers.video.reading import Clip, open_clip
from emorig_diffusers.video.survey import SAMPLE, Sighting, people_in_order, survey
from emorig_diffusers.video.writing import write_clip

MAX_SECONDS = 30  # of a clip: some minutes of work
MAX_RATE = 60  # frames a second
MAX_SIDES = 1920, 1080  # pixels; a frame may have as many as their product
ANIMATION_SIDE, DRIVEN_SIDE = 720, 1280  # longest side of an animation, and of a photo that a clip moves, pixels
ANIMATION_RATE = 20  # frames a second, which a GIF's hundredths of a second can tell
PLAYED = (".mp4", ".m4v", ".mov", ".webm"), ("h264", "vp8", "vp9", "av1"), ("yuv420p", "yuvj420p")
"""Suffixes, coding and pixels of clips that browsers play."""
PLAYED_SOUND = ("aac", "mp3", "opus", "flac")  # that browsers play from an MP4
TICK = 0.5  # seconds after which a job says that it goes on: so long whoever stops it waits at most


class ClipEditor:
    """The demo's functions around one pipeline that make clips.

    Args:
        pipe: The pipeline.
        lend: Makes a generator function one that runs on a borrowed GPU, where the host lends some.
    """

    def __init__(self, pipe: FacePipeline, lend: Callable[..., Any]) -> None:
        def frames_of_clip(clip: Clip, seed: int, given: dict[str, Any]) -> Iterator[Frame]:
            yield from edit_clip(pipe, clip, seed, **given)

        def frames_of_photo(
            photo: str, seconds: float, loop: bool, seed: int, given: dict[str, Any]
        ) -> Iterator[Frame]:
            yield from animate(pipe, photo, seconds, loop, rate=ANIMATION_RATE, seed=seed, **given)

        def driven_frames(photo: str, clip: Clip, face: int | str, strength: float, seed: int) -> Iterator[Frame | str]:
            drive = Drive(pipe, photo, clip, face, seed, intensity=strength)
            yield from drive.frames()
            if drive.limited:  # told with the frames, which may come from another process
                yield LIMITED[0].upper() + LIMITED[1:]

        self.frames_of_clip, self.frames_of_photo = lend(frames_of_clip), lend(frames_of_photo)
        self.driven_frames = lend(driven_frames)
        self.turns = {"clip": Lock(), "animation": Lock()}

    def edit(self, path: str | None, face: str, seed: float | None, asked: dict[str, Any]) -> Iterator[Progress]:
        """A clip with what is asked of a face, as an MP4 with the clip's sound."""
        if not path:
            raise gr.Error(say("no_clip"), print_exception=False)
        with friendly(path):
            clip = open_short(Path(path))
            yield Progress()
            result = new_folder() / f"{clip.path.stem}_edited.mp4"
            wanted = Wanted(clip, result.parent)
            frames = self.frames_of_clip(wanted, int(seed or 0), {"face": chosen(face), **asked})
            yield from clip_steps(frames, clip, result, self.turns["clip"], clip.settings)

    def drive(
        self, photo: str | None, path: str | None, face: str, strength: float, seed: float | None
    ) -> Iterator[Progress]:
        """A photo whose largest face does what one in a clip does, as an MP4 with the clip's sound.

        Args:
            photo: Whose face moves.
            path: The clip.
            face: Of the clip, "largest", or a number.
            strength: How much of the movement is taken over.
            seed: Of the noise.
        """
        if not photo or not path:
            raise gr.Error(say("no_clip" if photo else "no_photo"), print_exception=False)
        with friendly(photo, path):
            clip = open_short(Path(path))
            yield Progress()
            told: list[str] = []
            result = new_folder() / f"{Path(photo).stem}_moved.mp4"
            wanted = Wanted(clip, result.parent)
            driven = frames_alone(self.driven_frames(photo, wanted, chosen(face), strength, int(seed or 0)), told)
            settings = ClipSettings(clip.settings.rate, clip.settings.time_base)
            for made in clip_steps(smaller(driven, DRIVEN_SIDE), clip, result, self.turns["clip"], settings):
                yield replace(made, notes=(*made.notes, *told))

    def animate(
        self, path: str | None, seed: float | None, how: tuple[str, float, bool], asked: dict[str, Any]
    ) -> Iterator[Progress]:
        """A photo that goes from its own expression to what is asked.

        Args:
            path: The photo.
            seed, asked: As for an edit.
            how: The suffix of a format, seconds, and whether the face comes back.
        """
        if not path:
            raise gr.Error(say("no_photo"), print_exception=False)
        kind, seconds, loop = how
        with friendly(path, asked.get("reference")):
            yield Progress()
            frames = smaller(self.frames_of_photo(path, seconds, loop, int(seed or 0), asked), ANIMATION_SIDE)
            made, result = Progress(total=round(seconds * ANIMATION_RATE)), f"{Path(path).stem}_animated.{kind.lower()}"
            how = new_folder() / result, self.turns["animation"], ClipSettings(Fraction(ANIMATION_RATE))
            yield (yield from write_stepwise(frames, made, *how, repeat=loop))


def open_short(path: Path) -> Clip:
    """A clip that is not too much for a page on which others wait.

    Raises:
        ClipError: It cannot be read, or is too large or too long.
    """
    clip, most = open_clip(path), MAX_SIDES[0] * MAX_SIDES[1]
    if clip.size[0] * clip.size[1] > most:
        sides, limit = " x ".join(map(str, clip.size)), " x ".join(map(str, MAX_SIDES))
        raise ClipError(
            f"The clip has {sides} pixels, and {limit} are the most here: make it smaller, or use `emorig video`."
        )
    seconds = float((clip.length or 0) / clip.settings.rate)
    if seconds > MAX_SECONDS or (clip.length or 0) > MAX_SECONDS * MAX_RATE:
        raise ClipError(
            f"The clip takes {seconds:.0f} s, and {MAX_SECONDS} s are the most here: cut it, or use `emorig video`."
        )
    return clip


def fitting_sound(path: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The clip whose sound is copied, if browsers play it from an MP4, and otherwise a sentence that says so."""
    av = load_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            streams = [stream.codec_context for stream in container.streams.audio]
            coded = [context.codec.canonical_name for context in streams if context is not None]
    except (av.error.FFmpegError, ValueError):
        return None, ()  # an animation that FFmpeg does not read has no sound
    unknown = [name for name in coded if name not in PLAYED_SOUND]
    if not unknown:
        return path, ()
    return None, (f"The clip's sound ({unknown[0]}) does not go into an MP4 that browsers play: the result is silent.",)


def playable(path: Path) -> Path:
    """A clip, or a copy of it where browsers do not play its kind; the clip all the same where none can be made."""
    av = load_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            context = container.streams.video[0].codec_context
            kind = path.suffix.lower(), context and context.codec.canonical_name, context and context.pix_fmt
        if all(one in known for one, known in zip(kind, PLAYED)):
            return path
    except (av.error.FFmpegError, ValueError, IndexError):
        pass  # an animation that FFmpeg does not read
    copy = new_folder() / f"{path.stem}.mp4"
    try:
        clip = open_clip(path)
        write_clip(clip.frames(), copy, clip.settings, fitting_sound(path)[0])
    except ClipError:
        copy.parent.rmdir()
        return path
    return copy


def clip_steps(
    frames: Iterator[Frame], clip: Clip, path: Path, turn: Lock, settings: ClipSettings
) -> Iterator[Progress]:
    """Write frames made of a clip's with its sound, and say how far that is, and at last what else there is to say."""
    sound, notes = fitting_sound(clip.path)
    made = yield from write_stepwise(frames, Progress(total=clip.length), path, turn, settings, sound)
    if clip.damage:
        notes += (f"The clip {clip.damage}: the result has the {made.done} frames that can be read.",)
    yield replace(made, total=made.done, notes=notes)


class _Stopped(Exception):
    """Ends the thread that makes a result nobody waits for any more."""


class Wanted(Clip):
    """A clip that can be read as long as a folder is there, that of what is made of it: who stops a job while its clip
    is surveyed can say so in no other way."""

    def __init__(self, clip: Clip, folder: Path) -> None:
        self.clip, self.folder = clip, folder
        self.path, self.size, self.settings, self.length = clip.path, clip.size, clip.settings, clip.length

    def frames(self) -> Iterator[Frame]:
        yield from while_there(self.folder, self.clip.frames())

    def sample(self, count: int) -> Iterator[Frame]:
        yield from while_there(self.folder, self.clip.sample(count))


def while_there(folder: Path, frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames as long as a folder is there; `_Stopped` once it is gone."""
    for frame in frames:
        if not folder.exists():
            raise _Stopped
        yield frame


def write_stepwise(
    frames: Iterator[Frame], made: Progress, path: Path, turn: Lock, *how: Any, **named: Any
) -> Generator[Progress, None, Progress]:
    """Make and write frames in a thread, and say how far that is, after every frame, and every TICK without one:
    gradio can close a generator, and lend its place in the queue to others, between two of its values only.

    Args:
        frames: In order of time.
        made: What is known beforehand.
        path: The file, in a folder of its own. Where the generator is closed, that is deleted, which ends the thread
            at its next frame.
        turn: Of the threads that share it one works at a time: one that has been stopped may be at a frame yet.
        how, named: What else `write_clip` takes.

    Returns:
        What was made, with the file.

    Raises:
        ClipError: It cannot be written. What `frames` raises is passed on; then, and where the generator is closed,
            no file is left.
    """
    said: Queue[int | Exception | None] = Queue()
    start = 0.0

    def counted() -> Iterator[Frame]:
        for done, frame in enumerate(while_there(path.parent, frames), 1):
            yield frame
            said.put(done)

    def work() -> None:
        try:
            with turn:
                if path.parent.exists():
                    write_clip(counted(), path, *how, **named)
            said.put(None)
        except Exception as error:
            said.put(error)

    Thread(target=copy_context().run, args=(work,), daemon=True).start()  # in the visitor's language
    try:
        while True:
            try:
                item = said.get(timeout=TICK)
            except Empty:
                yield made
                continue
            if item is None:
                return replace(made, result=path)
            if isinstance(item, Exception):
                raise item
            start = start or time.monotonic()
            made = replace(made, done=item, seconds=time.monotonic() - start)
            yield made
    except BaseException as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        if isinstance(error, ClipError):
            raise ClipError(str(error).replace(str(path), path.name)) from error
        raise


def frames_alone(items: Iterator[Frame | str], told: list[str]) -> Iterator[Frame]:
    """Frames from among what is to be told, which is added to a list."""
    for item in items:
        if isinstance(item, str):
            told.append(item)
        else:
            yield item


def smaller(frames: Iterator[Frame], side: int) -> Iterator[Frame]:
    """Frames whose longest side has so many pixels at most."""
    for frame in frames:
        if max(frame.rgb.shape) <= side:
            yield frame
            continue
        picture = Image.fromarray(frame.rgb)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        yield replace(frame, rgb=np.asarray(picture))


def number_people(path: str) -> tuple[Any, dict[int, list[float]], int]:
    """A frame with the clip's people numbered as `choose_people` does, their frames there, and how many people the clip
    has; where there is nobody, or the clip cannot be edited, a warning on the page."""
    try:
        with friendly(path):
            found = survey(open_short(Path(path)).sample(SAMPLE), People(IdentityJudge().embed))
    except gr.Error as error:
        warn(error.message)
        return None, {}, 0
    shown: dict[int, dict[int, Sighting]] = {}  # picture -> number of a person -> where that is
    for number, person in enumerate(people_in_order(found), 1):
        for one in found[person]:
            shown.setdefault(id(one.rgb), {})[number] = one
    fullest = max(shown.values(), key=len)
    rgb = next(iter(fullest.values())).rgb
    return *number_faces(rgb, {number: one.face for number, one in fullest.items()}), len(found)
