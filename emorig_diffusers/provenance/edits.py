"""What an edit was, on its way from the pipeline that made it to the file that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..photo.faces import Face, follow_face, same_place
from ..photo.io import read_photo
from ..version import __version__
from .watermark import Design, add_mark, design_mark, mark_faces
from .xmp import EDITED, write_packet

SOFTWARE = "emorig-diffusers"
READ_EVERY = 3  # frames of a clip from one look at a face's edited landmarks to the next
SAYING = f"Edited with {SOFTWARE} "  # how a sentence about an edit begins


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit of a picture or a clip. In `info["edit"]` of a picture it says to `photo.io.save_photo` what to write.

    Attributes:
        model: Name of the pipeline's checkpoint.
        emotion: What was asked for, e.g. "happy", or "happy 0.6, surprise 0.4".
        intensity: How much of it.
        code: Of the mark, by which system drew the picture; `None` for no mark.
        faces: Landmarks [478, 3] of the edited faces before the edit, in pixels of the picture.
        size: (width, height) of the picture.
    """

    model: str
    emotion: str
    intensity: float
    code: int | None = None
    faces: Sequence[np.ndarray] = ()
    size: tuple[int, int] = (0, 0)

    @property
    def tool(self) -> str:
        """Software, version and model."""
        return f"{SOFTWARE} {__version__} ({self.model})"

    @property
    def sentence(self) -> str:
        """The edit in words, for tags that hold some."""
        what = f"{self.emotion}, intensity {self.intensity:g}"
        return f"{SAYING}{__version__} ({self.model}): {what}. Digital source type: {EDITED}"

    def packet(self, former: bytes | None = None) -> bytes:
        """The XMP packet of a result whose source had a former one."""
        own = {"Model": self.model, "Version": __version__, "Emotion": self.emotion, "Intensity": f"{self.intensity:g}"}
        standard = {"Iptc4xmpExt:DigitalSourceType": EDITED, "xmp:CreatorTool": self.tool}
        return write_packet(standard | {f"emorig:{name}": text for name, text in own.items()}, former)

    def marked(self, image: Image.Image) -> Image.Image:
        """A result with the mark in its edited faces; itself where it was cropped or resized since."""
        if self.code is None or image.size != self.size or not self.faces:
            return image
        photo = read_photo(image)
        now = [_read_again(photo.rgb, _face(landmarks)) for landmarks in self.faces]
        result = photo.restore(mark_faces(photo.rgb, now, self.code))
        result.info = image.info
        return result


class MovingMark:
    """Marks faces of a clip, each by one design, which goes with it from frame to frame and so does not flicker.

    Args:
        code: Of the mark.
    """

    def __init__(self, code: int) -> None:
        self.code = code
        self._known: list[_Marked] = []

    def __call__(self, rgb: np.ndarray, faces: Sequence[np.ndarray]) -> np.ndarray:
        """The next frame uint8 [H, W, 3] with its edited faces marked, of landmarks [478, 3] before the edit."""
        known, self._known = self._known, []
        for landmarks in faces:
            face = _face(landmarks)
            last = next((one for one in known if same_place(one.face.box, face.box)), None)
            if last is None or last.age + 1 == READ_EVERY:
                now = _read_again(rgb, face)
                design = last.design if last else design_mark(rgb, now, self.code)
                self._known.append(_Marked(face, design, now - landmarks))
            else:
                self._known.append(replace(last, face=face, age=last.age + 1))
            mine = self._known[-1]
            rgb = add_mark(rgb, landmarks + mine.change, mine.design)
        return rgb


@dataclass(frozen=True)
class _Marked:
    """A face of the last frame: as it was before the edit, its mark, by how much the edit moves its landmarks
    [478, 3], and how many frames ago these were read."""

    face: Face
    design: Design
    change: np.ndarray
    age: int = 0


def _read_again(rgb: np.ndarray, face: Face) -> np.ndarray:
    """Landmarks [478, 3] of an edited face; those before the edit where none is seen."""
    return (follow_face(rgb, face) or face).landmarks


def _face(landmarks: np.ndarray) -> Face:
    """A face that is known by its landmarks alone."""
    low, high = landmarks.min(0).tolist(), landmarks.max(0).tolist()
    return Face(0, (low[0], low[1], high[0], high[1]), landmarks, np.zeros(0, np.float32), 1.0)
