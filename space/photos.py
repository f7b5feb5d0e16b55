"""Photos that visitors work on: read, searched for faces and encoded once, and forgotten when others come."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from visitors import new_folder

from emorig_diffusers.photo.faces import Face, choose_faces, find_faces
from emorig_diffusers.photo.io import Photo, read_photo, save_photo
from emorig_diffusers.pipelines.base import FacePipeline

KEPT = 8  # photos that are remembered; of 12 megapixels each takes some 70 MB
THUMBNAIL = 160  # longest side of pictures in the history, pixels
SMALL = 360  # side of the pictures of all emotions, pixels
MARGIN = 0.45  # of a face's longer side, which such a picture shows around it


@dataclass(eq=False)
class Known:
    """What is known of a photo.

    Attributes:
        photo: Its pixels.
        found: Its faces, from the left.
        encoded: Number -> face with codes, of those that were asked for.
    """

    photo: Photo
    found: list[Face]
    encoded: dict[int, Any] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        return self.found.index(choose_faces(self.found, "largest")[0]) + 1


class Photos:
    """Of a pipeline, by the path of an upload, which is one of its contents: what is kept tells of nobody else's."""

    def __init__(self, pipe: FacePipeline) -> None:
        self.pipe = pipe
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str) -> Known:
        """A photo; raises what the package says of one that cannot be read or has no face."""
        with self._lock:
            if path in self._known:
                self._known.move_to_end(path)
                return self._known[path]
        photo = read_photo(path)
        known = Known(photo, choose_faces(find_faces(photo.rgb), "all"))
        with self._lock:
            self._known[path] = known
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return known

    def faces(self, path: str, numbers: Sequence[int]) -> list[Any]:
        """Faces of a photo with their codes, by number from 1 at the left."""
        known = self.read(path)
        for number in numbers:
            if number not in known.encoded:
                [known.encoded[number]] = self.pipe.encode(known.photo.rgb, [known.found[number - 1]])
        return [known.encoded[number] for number in numbers]


def thumbnail(image: Image.Image, faces: Sequence[Face]) -> str:
    """The path of a very small picture of a photo's faces."""
    return str(save_photo(around(image, faces, THUMBNAIL), new_folder() / "thumbnail.jpg"))


def around(image: Image.Image, faces: Sequence[Face], side: int = SMALL) -> Image.Image:
    """A small picture, of so many pixels at most a side, of what is around some faces of a photo."""
    boxes = [face.box for face in faces]
    x0, y0, x1, y1 = (f(box[i] for box in boxes) for i, f in enumerate((min, min, max, max)))
    half = (0.5 + MARGIN) * max(x1 - x0, y1 - y0)
    left, top = max((x0 + x1) / 2 - half, 0), max((y0 + y1) / 2 - half, 0)
    right, bottom = min((x0 + x1) / 2 + half, image.width), min((y0 + y1) / 2 + half, image.height)
    small = Image.fromarray(read_photo(image.crop((round(left), round(top), round(right), round(bottom)))).rgb)
    small.thumbnail((side, side))
    return small
