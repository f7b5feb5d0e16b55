"""Write frames as they come: videos with PyAV, animated GIF, WebP and PNG with Pillow. Files appear when complete.

A video's encoder holds some dozens of frames, however long it is. Of animations Pillow holds every picture before it
writes the first: one byte a pixel of GIF, three of WebP and PNG, which are refused from MAX_HELD on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files.atomic import replacing
from ..photo.metadata import save_options
from ..provenance.containers import BOXED, add_to_gif, append_box
from ..provenance.edits import SAYING, Edit, MovingMark
from ..timing import timed
from .clips import (
    ANIMATION_SUFFIXES,
    OPENING,
    UNSPECIFIED,
    VIDEO_SUFFIXES,
    WRITABLE,
    ClipError,
    ClipSettings,
    Frame,
    load_av,
)

# names of FFmpeg's muxers and encoders; a constant quality at which edits of faces keep their grain
_H264 = ("libx264", {"crf": "16", "preset": "veryfast"})  # half the time of "fast" at 17, for 1.3 dB less
_VP9 = ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"})
_MUXERS = {".mp4": ("mp4", _H264), ".m4v": ("mp4", _H264), ".mov": ("mov", _H264), ".mkv": ("matroska", _H264),
           ".webm": ("webm", _VP9)}  # fmt: skip
_LEFT_OUT = ("rotate", "encoder", "major_brand", "minor_version", "compatible_brands")  # tags of the source's container
_SHORTEST = {".gif": Fraction(1, 50)}  # seconds a frame has to stay: browsers slow down what is faster
_TICKS = {".gif": 100}  # a second, in which times are stored; else 1000
_COARSE = (".gif",)  # whose 256 colours leave nothing of a mark
_PALETTE_FRAMES, _PALETTE_PIXELS = 40, 100_000  # of a GIF, from which its 256 colours are chosen
MAX_HELD = 2**31  # bytes of an animation's pictures


def check_clip_path(path: Path) -> None:
    """Raise ClipError where a clip cannot be written, as far as the path tells."""
    if path.suffix.lower() not in WRITABLE:
        raise ClipError(f"Cannot tell the format of '{path}': use {', '.join(WRITABLE)}.")
    if not path.parent.is_dir():
        raise ClipError(f"The folder '{path.parent}' does not exist: create it first.")
    if path.is_dir():
        raise ClipError(f"'{path}' is a folder: give the clip a name.")
    if path.exists() and not path.is_file():
        raise ClipError(f"'{path}' is no file that can be replaced: give the clip another name.")


def written_size(path: Path, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) that frames of a size have in a file: videos need even sides, so the last column or row of an odd
    one comes twice."""
    width, height = size
    return (width + width % 2, height + height % 2) if path.suffix.lower() in VIDEO_SUFFIXES else size


def write_clip(
    frames: Iterable[Frame],
    path: Path,
    settings: ClipSettings | None = None,
    sound: Path | None = None,
    repeat: bool = True,
    sign: Callable[[Path, Path, Any], None] | None = None,
    mark: bool = True,
) -> int:
    """Write frames of one size to `path`, atomically; the suffix chooses the format, one of `clips.WRITABLE`.

    Args:
        frames: In order of time; they are taken one by one.
        path: The file; one that is there is replaced when all is written.
        settings: How they are stored; a plain video's where there are none.
        sound: A clip whose sound is copied as it is, into videos.
        repeat: Whether animations begin again at their end, for ever; else they play once. Players decide of videos.
        sign: What puts a signature into an edit's result: of a file, the path it is to have, and the edit
            (`provenance.credentials.Signer.sign_file`).
        mark: Whether faces of an edit's frames are marked; in GIF they never are.

    Frames of an edit say so in the file: by XMP in .mp4, .m4v, .mov and animations, by tags in all videos.

    Returns:
        How many frames were written.

    Raises:
        ClipError: The path, the sound's coding or the disk does not allow it, or there are no frames; then nothing has
            changed. What `frames` raises is passed on, likewise.
    """
    path, settings = Path(path), settings or ClipSettings()
    check_clip_path(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ClipError(f"There are no frames to write to '{path}'.")
    frames = chain([first], frames)
    if mark and first.edit is not None and first.edit.code is not None and path.suffix.lower() not in _COARSE:
        frames = _marked(frames, MovingMark(first.edit.code))
    with replacing(path) as temporary:
        if path.suffix.lower() in ANIMATION_SUFFIXES:
            count = _write_animation(frames, path, temporary, repeat, first.edit)
        else:
            count = _write_video(frames, first.rgb.shape, path, temporary, settings, sound, first.edit)
        if sign is not None and first.edit is not None:
            sign(temporary, path, first.edit)
        with _saying(path), open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    return count


def _marked(frames: Iterable[Frame], mark: MovingMark) -> Iterator[Frame]:
    for frame in frames:
        with timed("mark frames"):
            rgb = mark(frame.rgb, frame.faces)
        yield replace(frame, rgb=rgb)


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """Say that a file cannot be written, and why."""
    errors = (OSError, load_av().error.FFmpegError) if path.suffix.lower() in VIDEO_SUFFIXES else OSError
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or error
        raise ClipError(f"Cannot write '{path}': {' '.join(str(reason).split())}.") from error


def _write_video(
    frames: Iterator[Frame], shape: tuple[int, ...], path: Path, temporary: Path, settings: ClipSettings,
    sound: Path | None, edit: Edit | None,
) -> int:  # fmt: skip
    av = load_av()
    muxer, (codec, quality) = _MUXERS[path.suffix.lower()]
    options = {"movflags": "+faststart"} if muxer in ("mp4", "mov") else {}
    count = 0
    with _Sound(sound) as packets:
        with _saying(path):
            container = av.open(str(temporary), "w", format=muxer, options=options)
        try:
            stream = container.add_stream(codec, rate=settings.rate.limit_denominator(100_000), options=quality)
            _describe(stream, shape, path, settings)
            packets.add_to(container, path)
            container.metadata.update({k: v for k, v in settings.metadata.items() if k not in _LEFT_OUT})
            if edit is not None:
                _tell(container.metadata, edit)
            convert, last = _Converter(settings), -1
            for frame in frames:
                with _saying(path), timed("write frames"):
                    picture = convert(_even(frame.rgb))
                    picture.pts = last = max(round(frame.time / settings.time_base), last + 1)
                    packets.mux_until(frame.time)
                    container.mux(stream.encode(picture))
                count += 1
            with _saying(path):
                container.mux(stream.encode())
                packets.mux_until(None)
                container.close()
                if edit is not None and path.suffix.lower() in BOXED:
                    append_box(temporary, edit.packet())
        finally:
            _close_quietly(container)
    return count


def _tell(tags: Any, edit: Edit) -> None:
    """Say in a video's tags that it was edited, after what its comment says; once, however often it was."""
    name = next((name for name in tags if name.lower() == "comment"), "comment")
    before = tags.get(name, "").partition(SAYING)[0].strip()
    tags[name] = f"{before} {edit.sentence}".strip()


def _close_quietly(container: Any) -> None:
    """Close a container after an error, whatever it says; its file goes away."""
    try:
        container.close()
    except Exception:
        return


def _describe(stream: Any, shape: tuple[int, ...], path: Path, settings: ClipSettings) -> None:
    """Tell an encoder what its frames are."""
    context = stream.codec_context
    context.width, context.height = written_size(path, (shape[1], shape[0]))
    context.pix_fmt = "yuv420p"
    context.time_base = settings.time_base
    context.sample_aspect_ratio = settings.pixel_aspect
    colours = settings.colours
    # red, green and blue as they are, and mixtures of light, cannot be told of 4:2:0 with 8 bits
    context.colorspace = colours.matrix if colours.matrix not in (0, 8, 10) else UNSPECIFIED
    context.color_primaries, context.color_trc = colours.primaries, colours.transfer
    context.color_range = 2 if colours.full_range else 1


class _Converter:
    """RGB frames as encoders take them."""

    def __init__(self, settings: ClipSettings) -> None:
        self.av, self.settings = load_av(), settings
        self.reformatter = self.av.video.reformatter.VideoReformatter()

    def __call__(self, rgb: np.ndarray) -> Any:
        """A frame of FFmpeg's, without time."""
        interpolation, colours = self.av.video.reformatter.Interpolation, self.settings.colours
        source = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = self.reformatter.reformat(
            source, format="yuv420p", dst_colorspace=colours.matrix_of(min(rgb.shape[:2])),
            dst_color_range="JPEG" if colours.full_range else "MPEG", src_color_range="JPEG",
            interpolation=interpolation.BICUBIC | interpolation.ACCURATE_RND | interpolation.FULL_CHR_H_INP,
        )  # fmt: skip
        frame.time_base = self.settings.time_base
        frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer
        return frame


def _even(rgb: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] whose sides are even: the last row and column of odd ones comes twice."""
    height, width = rgb.shape[:2]
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), "edge") if height % 2 or width % 2 else rgb


class _Sound:
    """The sound of a clip, copied packet by packet between the frames; nothing without a clip, or sound in it."""

    def __init__(self, source: Path | None) -> None:
        self.source = source
        self.container: Any = None
        self.waiting: Any = None
        self.streams: dict[int, Any] = {}
        self.packets: Any = iter(())

    def __enter__(self) -> _Sound:
        if self.source is not None:
            av = load_av()
            try:
                self.container = av.open(str(self.source), **OPENING)
            except (av.error.FFmpegError, ValueError):
                self.container = None  # an animation that FFmpeg does not read has no sound
        return self

    def __exit__(self, *_: Any) -> None:
        if self.container is not None:
            self.container.close()

    def add_to(self, container: Any, path: Path) -> None:
        """Streams of a file to be for all that sounds; ClipError where it cannot hold them."""
        if self.container is None:
            return
        sounds = self.container.streams.audio
        for stream in sounds:
            if stream.codec_context is None:
                continue
            codec, known = stream.codec_context.codec.canonical_name, container.supported_codecs
            if known and codec not in known:
                raise ClipError(
                    f"The sound ({codec}) cannot be copied into {path.suffix}: write .mkv, or leave it out."
                )
            self.streams[stream.index] = container.add_stream_from_template(stream)
        if self.streams:
            self.packets = self.container.demux(*sounds)

    def mux_until(self, time: Fraction | None) -> None:
        """Write what sounds before a time in seconds, or all that is left."""
        while (packet := self._next()) is not None:
            if time is not None and packet.dts * Fraction(packet.time_base) > time:
                return
            self.waiting = None
            packet.stream = self.streams[packet.stream.index]
            packet.stream.container.mux(packet)

    def _next(self) -> Any:
        """The packet that comes next, and stays so until it is written; `None` at the end, or where it is damaged."""
        av = load_av()
        while self.waiting is None:
            try:
                packet = next(self.packets, None)
            except (av.error.FFmpegError, ValueError):
                return None
            if packet is None:
                return None
            if packet.dts is not None:  # else it only says that the end is reached
                self.waiting = packet
        return self.waiting


def _write_animation(
    frames: Iterator[Frame], path: Path, temporary: Path, repeat: bool, edit: Edit | None
) -> int:
    """One file of pictures that stay for whole ticks, so that the time of each is right, however long the clip."""
    suffix = path.suffix.lower()
    timed = _Timed(frames, path)
    pictures = _with_one_palette(iter(timed)) if suffix == ".gif" else iter(timed)
    options: dict[str, Any] = {
        ".gif": {"format": "GIF", "disposal": 1, "optimize": False},
        ".webp": {"format": "WEBP", "quality": 90, "method": 3},
    }.get(suffix, {"format": "PNG"})
    if repeat or suffix != ".gif":  # a GIF that does not say plays once
        options["loop"] = 0 if repeat else 1
    packet = b"" if edit is None else edit.packet()
    if packet and suffix != ".gif":
        options |= {"xmp": packet} if suffix == ".webp" else save_options({"xmp": packet}, "PNG")
    first, *rest = pictures  # Pillow would hold them as well, and looks through some formats' twice
    with _saying(path), open(temporary, "wb") as file:  # closing writes too
        first.save(file, save_all=True, append_images=rest, duration=timed.durations, **options)
    if packet and suffix == ".gif":
        with _saying(path):
            temporary.write_bytes(add_to_gif(temporary.read_bytes(), packet))
    return len(timed.durations)


class _Timed:
    """Pictures of frames, with the milliseconds that each stays, which are known when the next one comes.

    Attributes:
        durations: Of the pictures given so far.
    """

    def __init__(self, frames: Iterator[Frame], path: Path) -> None:
        suffix = path.suffix.lower()
        self.frames, self.path = frames, path
        self.tick, self.shortest = Fraction(1, _TICKS.get(suffix, 1000)), _SHORTEST.get(suffix, Fraction(1, 1000))
        self.bytes_a_pixel = 1 if suffix == ".gif" else 3
        self.durations: list[int] = []
        self.held = 0

    def __iter__(self) -> Iterator[Image.Image]:
        last, start, stay = None, Fraction(0), self.shortest
        for frame in self.frames:
            time = round(frame.time / self.tick) * self.tick
            if last is not None:
                if time - start < self.shortest:
                    continue
                stay = time - start
                yield self._picture(last, stay)
            last, start = frame.rgb, time
        if last is not None:
            yield self._picture(last, stay)

    def _picture(self, rgb: np.ndarray, stay: Fraction) -> Image.Image:
        self.durations.append(round(stay * 1000))
        self.held += rgb.shape[0] * rgb.shape[1] * self.bytes_a_pixel
        if self.held > MAX_HELD:
            raise ClipError(f"The clip is too long for '{self.path}': write a video, such as .mp4.")
        return Image.fromarray(rgb)


def _with_one_palette(pictures: Iterator[Image.Image]) -> Iterator[Image.Image]:
    """Pictures in 256 colours, the same for all and without dither, so that what stands still does not flicker."""
    first = list(islice(pictures, _PALETTE_FRAMES))
    seen = np.concatenate([np.asarray(picture).reshape(-1, 3) for picture in first])
    seen = seen[:: max(len(seen) // _PALETTE_PIXELS, 1)]
    palette = Image.fromarray(seen[None]).quantize(256, Image.Quantize.MEDIANCUT)
    for picture in chain(first, pictures):
        yield picture.quantize(palette=palette, dither=Image.Dither.NONE)
