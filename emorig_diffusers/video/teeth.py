"""The light on a person's teeth over time.

What a frame shows of it (skin, whites of eyes, own teeth) changes as lids and lips move: by a seventh at a blink, and
more between lips that just part and a laugh. So it is looked at now and then, and teeth that are drawn get a mean that
comes and goes gently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from ..face.encode import EncodedFace
from ..painting.photo_texture import PhotoTexturePainter
from ..painting.stages.mouth_light import TeethLight, mean_light
from ..photo.masks import ramp
from ..photo.resample import warp_crop

EVERY = 0.2  # seconds from one look to the next
COMES = 0.4  # seconds in which a look comes to count, and
GOES = 2.0, 4.0  # after which it counts less, and no more


@dataclass
class _Look:
    """A face in one frame, and the light on its teeth, which is found when a mouth is drawn.

    Attributes:
        painter: Knows the head.
        crop: uint8 [S, S, 3], the network's.
        face: The face.
        time: Seconds.
        first: Whether there was none before.
    """

    painter: PhotoTexturePainter
    crop: np.ndarray
    face: EncodedFace
    time: float
    first: bool

    @cached_property
    def light(self) -> tuple[TeethLight, float]:
        """It, and how surely the face shows its own teeth."""
        return self.painter.teeth_light(self.crop, self.face)

    def weight(self, time: float) -> float:
        """How much it counts at a time."""
        age = time - self.time
        return (1.0 if self.first else float(ramp(age, 0, COMES))) * (1 - float(ramp(age, *GOES)))


class TeethLights:
    """The light on one person's teeth in a shot."""

    def __init__(self) -> None:
        self.looks: list[_Look] = []

    def at(
        self, painter: PhotoTexturePainter, rgb: np.ndarray, face: EncodedFace, time: float
    ) -> Callable[[], TeethLight]:
        """What gives it in a frame uint8 [H, W, 3] at a time in seconds; frames come in order."""
        self.looks = [look for look in self.looks if time - look.time < GOES[1]]
        if not self.looks or time - self.looks[-1].time >= EVERY:
            size = painter.config.crop_size
            crop = warp_crop(rgb, face.grid_matrix(size), size)
            self.looks.append(_Look(painter, crop, face, time, not self.looks))
        counting = [(look, weight) for look in self.looks if (weight := look.weight(time)) > 0]
        return partial(_mean, counting or [(self.looks[-1], 1.0)])


def _mean(looks: list[tuple[_Look, float]]) -> TeethLight:
    lights, shown = zip(*(look.light for look, _ in looks))
    return mean_light(lights, [weight for _, weight in looks], shown)
