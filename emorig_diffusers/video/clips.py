"""What a clip is: frames with their times, and how it was stored, so that a result can be stored alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line asks for suffixes alone, and help waits for nothing
    import numpy as np

    from ..provenance.edits import Edit

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
ANIMATION_SUFFIXES = (".gif", ".webp", ".png", ".apng")
WRITABLE = (*VIDEO_SUFFIXES, *ANIMATION_SUFFIXES)
"""Suffixes that results can have: videos by FFmpeg, animations by Pillow."""
UNSPECIFIED = 2  # FFmpeg's word for a matrix, primaries or transfer that a file does not tell
HD_HEIGHT = 720  # rows from which untold colours are those of BT.709, as players take them


CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "mjpeg", "h264", "hevc", "av1", "obu", "flv", "ogg",
    "asf", "mxf", "gxf", "nut", "ivf", "dv", "wtv", "rm", "swf", "yuv4mpegpipe", "wav", "mp3",
    "flac", "aac",
)  # fmt: skip
"""FFmpeg's names of files that hold their own frames: what it takes for a list of other files, or for a place on the
network (concat, hls, dash, sdp ...), is not opened, whatever it is called."""
OPENING: dict[str, Any] = {"metadata_errors": "replace", "options": {"format_whitelist": ",".join(CONTAINERS)}}
"""How every clip is opened for reading."""


class ClipError(ValueError):
    """A clip cannot be read or written; the message says why in one sentence."""


@dataclass(frozen=True)
class Frame:
    """One picture of a clip, upright.

    Attributes:
        rgb: uint8 [H, W, 3], gamma-coded in the clip's own primaries.
        time: Seconds from the clip's zero, exact.
        edit: What the clip's file says of an edit, where it is one's result.
        faces: Landmarks [478, 3] of those that the edit changes in this frame, before it, in pixels.
    """

    rgb: np.ndarray
    time: Fraction
    edit: Edit | None = None
    faces: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Colours:
    """How colours are stored, by FFmpeg's numbers (ITU-T H.273), UNSPECIFIED where a file does not tell.

    Attributes:
        matrix: From red, green and blue to luma and chroma.
        primaries: Whose red, green and blue.
        transfer: The curve from light to values.
        full_range: Whether luma takes all 256 values, not 16 to 235.
    """

    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    full_range: bool = False

    def matrix_of(self, height: int) -> int:
        """The matrix of a picture of so many rows as swscale numbers it: what a file does not tell is taken by size."""
        if self.matrix == UNSPECIFIED:
            return 1 if height >= HD_HEIGHT else 5
        return {6: 5, 10: 9}.get(self.matrix, self.matrix)


@dataclass(frozen=True)
class ClipSettings:
    """How frames are stored besides their pixels.

    Attributes:
        rate: Frames a second, the mean where it varies.
        time_base: Seconds of which every frame's time is a multiple.
        colours: How colours are stored.
        pixel_aspect: Width of a pixel over its height.
        metadata: The file's tags, such as its title and date.
    """

    rate: Fraction = Fraction(30)
    time_base: Fraction = Fraction(1, 90_000)
    colours: Colours = Colours()
    pixel_aspect: Fraction = Fraction(1)
    metadata: Mapping[str, str] = field(default_factory=dict)


def load_av() -> ModuleType:
    """PyAV.

    Raises:
        ClipError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ClipError("Video needs PyAV: run `pip install 'emorig-diffusers[video]'`.") from error
    return av
