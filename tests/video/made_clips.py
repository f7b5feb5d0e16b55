"""Clips that tests make by code, of photos that every machine has."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from emorig_diffusers.video.clips import Frame

RATE = 25


def panned(photo: np.ndarray, size: tuple[int, int], count: int, step: int = 2) -> Iterator[Frame]:
    """A window (width, height) that goes to the right over a photo, RATE frames a second."""
    width, height = size
    for i in range(count):
        yield Frame(np.ascontiguousarray(photo[:height, i * step : i * step + width]), Fraction(i, RATE))


def make_video(
    path: Path,
    frames: Iterator[Frame],
    sound: str = "",
    rotation: int = 0,
    colours: tuple[int, int, int, bool] | None = None,
    pixel_format: str = "yuv420p",
    live: bool = False,
) -> Path:
    """A video as a camera might write it, with tags that this package's own writer never writes.

    Args:
        path: The file.
        frames: Of even sides.
        sound: Encoder of a tone beside it.
        rotation: Degrees counterclockwise by which players turn it.
        colours: FFmpeg's numbers of matrix, primaries and transfer, and whether the range is full.
        pixel_format: FFmpeg's name.
        live: As browsers record, in a Matroska file that tells neither its length nor where frames lie.
    """
    with av.open(str(path), "w", options={"live": "1"} if live else {}) as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "8", "g": "5"})
        stream.pix_fmt = pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        matrix, *tags, full = colours or (2, 2, 2, False)
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = matrix, *tags
        context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        tone: Any = container.add_stream(sound, rate=48_000) if sound else None
        for i, frame in enumerate(frames):
            if not i:
                stream.height, stream.width = frame.rgb.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame.rgb, format="rgb24").reformat(
                format=pixel_format, dst_colorspace=1 if matrix == 1 else 5, src_color_range="JPEG",
                dst_color_range="JPEG" if full else "MPEG",
            )  # fmt: skip
            picture.pts, picture.time_base = i, Fraction(1, RATE)
            container.mux(stream.encode(picture))
            if sound:
                wave = np.sin(np.arange(1920) * (i + 3) / 90) * 8000
                samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
                samples.sample_rate, samples.pts = 48_000, 1920 * i
                container.mux(tone.encode(samples))
        for one in (stream, tone):
            if one is not None:
                container.mux(one.encode(None))
    return path
