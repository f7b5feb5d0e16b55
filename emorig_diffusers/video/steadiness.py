"""How steady an edited clip is, how like the person, and how much of the emotion it shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluation.metrics.background import background_change
from ..evaluation.metrics.flicker import FlickerMeter
from .clips import ClipError, Frame
from .follow import Followed, People, Watched, follow
from .reading import Clip

SAME_TIME = 0.005  # seconds by which times of the same frame differ in two formats


@dataclass
class Steadiness:
    """What was measured of a clip's edit, of the largest face of each frame.

    Attributes:
        frames: How many there are, and
        faces: in how many a face is seen.
        changes: From frame to frame along the source's motion, as `FlickerMeter` gives them.
        background: Change of what lies away from the face [N], in [0, 1].
        likeness: Cosine of the identity judge's vectors of source and edit [N].
        emotion: Probability of the emotion asked for [N].
    """

    frames: int = 0
    faces: int = 0
    changes: list[np.ndarray] = field(default_factory=list)
    background: list[float] = field(default_factory=list)
    likeness: list[float] = field(default_factory=list)
    emotion: list[float] = field(default_factory=list)

    @property
    def flicker(self) -> tuple[float, float] | None:
        """The edit's changes from frame to frame over the source's, of the face and of the face without the mouth;
        `None` where no face stays for two frames."""
        before, after = np.sum(self.changes, 0).T if self.changes else (np.zeros(2), np.zeros(2))
        return (float(after[0] / before[0]), float(after[1] / before[1])) if before.all() else None


def median_and_low(values: list[float]) -> tuple[float, float] | None:
    """Median and 5th percentile; `None` of nothing."""
    return (float(np.median(values)), float(np.percentile(values, 5))) if values else None


def measure(source: Clip, edited: Clip, identity: Any, judge: Any = None, emotion: str = "") -> Steadiness:
    """Hold an edited clip against its source.

    Args:
        source, edited: Clips of the same frames; the edit may have one row and column more.
        identity: As `IdentityJudge`.
        judge: As `Judge`, where the emotion is to be measured too.
        emotion: The one asked for.

    Raises:
        ClipError: The clips are not of the same frames.
    """
    result, meter, shot = Steadiness(), FlickerMeter(), 0
    for before, after in _together(source, edited, identity):
        rgb, picture = before.frame.rgb, after.frame.rgb
        pair = _largest(before, after)
        result.frames += 1
        new_shot, shot = before.shot != shot, before.shot
        landmarks = [one.face.landmarks for one in pair] if pair else None
        if new_shot:
            meter = FlickerMeter()
        change = meter(rgb, picture, landmarks)
        if change is not None:
            result.changes.append(change)
        if pair is None:
            continue
        result.faces += 1
        if (away := background_change(rgb, picture, pair[0].raw.landmarks)) is not None:
            result.background.append(away)
        vectors = [identity.embed(p, one.raw.landmarks) for p, one in zip((rgb, picture), pair)]
        result.likeness.append(identity.similarity(*vectors))
        if judge is not None:
            result.emotion.append(judge(picture, pair[1].raw.box).get(emotion, 0.0))
    return result


def _together(source: Clip, edited: Clip, identity: Any) -> Iterator[tuple[Watched, Watched]]:
    """Frames of both, with their faces."""
    width, height = source.size
    if edited.size not in ((width, height), (width + width % 2, height + height % 2)):
        raise ClipError(f"The clips differ in size: '{source.path}' and '{edited.path}' are not of the same frames.")
    trimmed = (Frame(frame.rgb[:height, :width], frame.time) for frame in edited.frames())
    watched = [follow(frames, People(identity.embed)) for frames in (source.frames(), trimmed)]
    while True:
        before, after = (next(one, None) for one in watched)
        if before is None and after is None:
            return
        if before is None or after is None or abs(before.frame.time - after.frame.time) > SAME_TIME:
            raise ClipError(f"'{edited.path}' has not the frames of '{source.path}': give a clip and its edit.")
        yield before, after


def _largest(before: Watched, after: Watched) -> tuple[Followed, Followed] | None:
    """The source's largest face that the edit shows in the same place."""
    area = lambda one: (one.raw.box[2] - one.raw.box[0]) * (one.raw.box[3] - one.raw.box[1])
    middle = lambda one: np.array(one.raw.box).reshape(2, 2).mean(0)
    for one in sorted(before.faces.values(), key=area, reverse=True):
        for other in after.faces.values():
            if np.abs(middle(one) - middle(other)).max() < area(one) ** 0.5 / 4:
                return one, other
    return None
