"""Read clips frame by frame: videos with PyAV, animated GIF, WebP and PNG with Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from ..photo.io import FORMATS, MAX_PIXELS, MIN_SIDE
from ..timing import timed
from .clips import OPENING, UNSPECIFIED, ClipError, ClipSettings, Colours, Frame, load_av

_ANIMATIONS = ("GIF", "WEBP", "PNG")
_PICTURES = (*_ANIMATIONS, "JPEG", "MPO", "TIFF", "BMP", "AVIF", "HEIF")  # it takes MPEG for one, too
_TICK = Fraction(1, 1000)  # seconds; Pillow tells how long a picture stays in whole ones
_STILL = Fraction(1, 10)  # seconds that pictures stay which do not say, as browsers show them
_CUT_OFF = Fraction(3, 4)  # seconds by which frames may end before the file says that they do
_MICROSECONDS = 1_000_000  # a second, in which FFmpeg counts a file's length
_MOST_BETWEEN = 250  # frames that are read for one of a sample: as far as key frames usually lie apart
_RIGHT_ANGLES = {0: 0, 90: 1, 180: 2, 270: 3}


class Clip:
    """A clip on disk, which can be read any number of times. Open one with `open_clip`.

    Attributes:
        path: The file.
        size: (width, height) of upright frames, pixels.
        settings: How it is stored.
        length: Frames that the file tells of; `None` where it does not.
        damage: What was found wrong while the frames were read last, to go on a sentence with; "" for nothing.
    """

    path: Path
    size: tuple[int, int]
    settings: ClipSettings
    length: int | None = None
    damage: str = ""

    def frames(self) -> Iterator[Frame]:
        """The frames in order, one at a time. Of a damaged file those that can be read; then `damage` tells.

        Raises:
            ClipError: None can be read.
        """
        raise NotImplementedError

    def sample(self, count: int) -> Iterator[Frame]:
        """About so many frames from all over the clip, without reading what lies between where the file allows."""
        raise NotImplementedError


def open_clip(path: Path) -> Clip:
    """A clip of any kind that FFmpeg reads, or an animated GIF, WebP or PNG.

    Raises:
        ClipError: There is no such file, it holds no moving picture, is damaged, or its frames are too small or large.
    """
    path = Path(path)
    if not path.exists():
        raise ClipError(f"There is no file '{path}'.")
    if path.is_dir():
        raise ClipError(f"'{path}' is a folder: give a clip.")
    if path.stat().st_size == 0:
        raise ClipError(f"The file '{path}' is empty.")
    clip = _Animation(path) if _is_picture(path) else _Video(path)
    width, height = clip.size
    if width * height > MAX_PIXELS:
        raise ClipError(f"The clip '{path}' has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller first.")
    if min(width, height) < MIN_SIDE:
        raise ClipError(f"The clip '{path}' is {width} x {height} pixels: at least {MIN_SIDE} a side are needed.")
    return clip


def _is_picture(path: Path) -> bool:
    """Whether a file is one of Pillow's; ClipError for a photo."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format not in _PICTURES:
                return False
            moves = image.format in _ANIMATIONS and getattr(image, "n_frames", 1) > 1
    except UnidentifiedImageError:
        return False
    except Exception as error:  # damaged files make Pillow stumble in two dozen ways
        raise ClipError(f"The file '{path}' is damaged ({' '.join(str(error).split())}).") from error
    if not moves:
        raise ClipError(f"'{path}' is a photo, not a clip: edit it with `emorig edit`.")
    return True


class _Animation(Clip):
    """Several pictures in one file, as Pillow reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with Image.open(path, formats=FORMATS) as image:
            self.size, self.length = image.size, image.n_frames  # pyright: ignore[reportAttributeAccessIssue]
            duration = Fraction(image.info.get("duration") or 0) * _TICK or _STILL
        self.settings = ClipSettings(1 / duration, _TICK, Colours(primaries=1, transfer=13, matrix=UNSPECIFIED))

    def frames(self) -> Iterator[Frame]:
        self.damage, time = "", Fraction(0)
        with Image.open(self.path, formats=FORMATS) as image:
            try:
                for picture in ImageSequence.Iterator(image):
                    rgb = np.array(_on_white(picture))
                    yield Frame(rgb, time)
                    time += Fraction(round(picture.info.get("duration") or 0)) * _TICK or _STILL
            except Exception as error:  # as above
                reason = " ".join(str(error).split())
                if not time:
                    raise ClipError(f"The clip '{self.path}' is damaged ({reason}).") from error
                self.damage = f"is damaged after {float(time):.1f} s ({reason})"

    def sample(self, count: int) -> Iterator[Frame]:
        step = max((self.length or 1) // count, 1)
        return (frame for i, frame in enumerate(self.frames()) if i % step == 0)


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture.convert("RGBA"))
    return page.convert("RGB")


class _Video(Clip):
    """A file that FFmpeg reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as (container, stream):
            frame = next(self._decoded(container, stream), None)
            if frame is None:
                raise ClipError(f"The clip '{path}' holds no frame that can be read: it may be damaged or cut off.")
            turned = _quarters(frame) % 2
            self.size = (frame.height, frame.width) if turned else (frame.width, frame.height)
            self.length = stream.frames or self._guess_length(container, stream)
            self.duration = container.duration  # microseconds
            self.settings = ClipSettings(
                Fraction(stream.average_rate or stream.guessed_rate or 30), Fraction(stream.time_base), _colours(frame),
                _pixel_aspect(stream, turned), dict(container.metadata),
            )  # fmt: skip
        if not self.duration:
            self.length, self.duration = self._measure()
        self.damage = ""

    def frames(self) -> Iterator[Frame]:
        av, last, time = load_av(), None, Fraction(0)
        reformatter = av.video.reformatter.VideoReformatter()
        self.damage = ""
        with self._opened() as (container, stream):
            for frame in self._decoded(container, stream):
                time = self._time(frame, last, stream)
                if last is not None and time <= last:
                    continue  # a file joined from others may go back in time, which no writer takes
                last = time
                with timed("read frames"):
                    rgb = self._upright(reformatter, frame)
                yield Frame(rgb, time)
            if not self.damage and self._ends_early(container, stream, last):
                self.damage = f"ends after {float(time):.1f} s, though it should be longer"

    def sample(self, count: int) -> Iterator[Frame]:
        reformatter = load_av().video.reformatter.VideoReformatter()
        with self._opened() as (container, stream):
            duration, start, last = self.duration or 0, container.start_time or 0, None
            for i in range(count):
                wanted = start + duration * (2 * i + 1) // (2 * count)
                try:
                    container.seek(wanted)  # to the key frame before
                except load_av().error.FFmpegError:
                    continue
                frame = self._frame_at(container, stream, Fraction(wanted, _MICROSECONDS))
                if frame is None or frame.pts == last or frame.pts is None:
                    continue
                last = frame.pts
                yield Frame(self._upright(reformatter, frame), frame.pts * Fraction(stream.time_base))

    def _frame_at(self, container: Any, stream: Any, time: Fraction) -> Any:
        """The frame at a time in seconds, or the last of those that are read for it."""
        found = None
        for found in islice(self._decoded(container, stream), _MOST_BETWEEN):
            if found.pts is None or found.pts * Fraction(stream.time_base) >= time:
                break
        return found

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        av = load_av()
        try:
            container = av.open(str(self.path), **OPENING)
        except (av.error.FFmpegError, ValueError) as error:
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise ClipError(f"The file '{self.path}' is no clip that can be read ({reason}).") from error
        with container:
            shown = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
            if not shown:
                raise ClipError(f"The file '{self.path}' has no video stream: give a clip that shows something.")
            if shown[0].codec_context is None:
                raise ClipError(f"The clip '{self.path}' is coded in a way that cannot be read here.")
            shown[0].thread_type = "AUTO"
            try:
                yield container, shown[0]
            except av.error.FFmpegError as error:  # which decoding alone does not raise
                reason = " ".join(str(error.strerror or error).split())
                raise ClipError(f"The clip '{self.path}' is damaged ({reason}).") from error

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames as FFmpeg gives them; what cannot be decoded is left out and noted as damage."""
        av = load_av()
        packets = container.demux(stream)
        while True:
            try:
                with timed("read frames"):
                    packet = next(packets, None)
                    frames = [] if packet is None else packet.decode()
            except (av.error.FFmpegError, ValueError) as error:
                reason = " ".join(str(getattr(error, "strerror", None) or error).split())
                self.damage = self.damage or f"is damaged ({reason})"
                if isinstance(error, av.error.EOFError):
                    return
                continue
            if packet is None:
                return
            for frame in frames:
                if frame.is_corrupt:
                    self.damage = self.damage or "is damaged"
                yield frame

    def _time(self, frame: Any, last: Fraction | None, stream: Any) -> Fraction:
        """A frame's own time; where it has none, one frame after the last."""
        if frame.pts is not None:
            return frame.pts * Fraction(frame.time_base or stream.time_base)
        return Fraction(0) if last is None else last + 1 / self.settings.rate

    def _upright(self, reformatter: Any, frame: Any) -> np.ndarray:
        """Its pixels as the file wants them shown."""
        interpolation = load_av().video.reformatter.Interpolation
        matrix = None if frame.format.is_rgb else _colours(frame).matrix_of(min(frame.height, frame.width))
        rgb = reformatter.reformat(
            frame, format="rgb24", src_colorspace=matrix, dst_color_range="JPEG",
            interpolation=interpolation.BICUBIC | interpolation.ACCURATE_RND | interpolation.FULL_CHR_H_INT,
        ).to_ndarray()  # fmt: skip
        return np.ascontiguousarray(np.rot90(rgb, _quarters(frame)))

    def _measure(self) -> tuple[int | None, int]:
        """Frames and microseconds of a file that tells neither, such as browsers record."""
        av = load_av()
        with self._opened() as (container, stream):
            times = [Fraction(container.start_time or 0, _MICROSECONDS)]
            with suppress(av.error.FFmpegError, ValueError):  # what comes after damage is not counted
                for packet in container.demux(stream):
                    if packet.pts is not None:
                        times.append(packet.pts * Fraction(packet.time_base))
        return len(times) - 1 or None, round((max(times) - times[0]) * _MICROSECONDS)

    @staticmethod
    def _guess_length(container: Any, stream: Any) -> int | None:
        rate = stream.average_rate or stream.guessed_rate
        return round(container.duration / _MICROSECONDS * rate) if container.duration and rate else None

    def _ends_early(self, container: Any, stream: Any, last: Fraction | None) -> bool:
        """Whether the last frame comes long before the file says that its frames end."""
        if stream.duration:
            end = ((stream.start_time or 0) + stream.duration) * Fraction(stream.time_base)
        elif container.duration and len(container.streams) == 1:  # else it may be the sound that lasts longer
            end = Fraction((container.start_time or 0) + container.duration, _MICROSECONDS)
        else:
            return False
        return last is not None and end - last > _CUT_OFF + 2 / self.settings.rate


def _quarters(frame: Any) -> int:
    """Quarter turns to the left by which a frame is upright."""
    return _RIGHT_ANGLES.get(round(frame.rotation / 90) * 90 % 360, 0)


def _colours(frame: Any) -> Colours:
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    return Colours(int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc), full)


def _pixel_aspect(stream: Any, turned: int) -> Fraction:
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    aspect = aspect if aspect > 0 else Fraction(1)
    return 1 / aspect if turned else aspect
