"""A photo that moves: from its own expression to an emotion, to others after it, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from ..face.codes import FaceCodes
from ..painting.stages.mouth_light import TeethLight, mean_light
from ..photo.masks import ramp
from ..pipelines.base import FacePipeline
from ..pipelines.checks import need
from ..pipelines.marking import edit_of
from ..pipelines.request import ARGUMENTS, EditRequest
from .clips import Frame
from .portrait import Lights, Portrait

RATE = 25  # frames a second
SECONDS = 2.0  # for each emotion, the way back from the last one included
MAX_SECONDS, MAX_RATE = 600.0, 60
HOLD = 0.2  # share of the time of each move in which a face stays as it has become
BLINK_EVERY = 3.0  # seconds from one blink to the next, as calm people do
# seconds in which lids come down, stay, and rise: as measured of people (Kwon et al. 2013), on the slow side, for lids
# that fall within two frames seem to jump
BLINK_FALL, BLINK_STAY, BLINK_RISE = 0.12, 0.04, 0.22


def animate(
    pipe: FacePipeline,
    photo: Any,
    seconds: float | None = None,
    loop: bool = False,
    blink: bool = False,
    rate: int = RATE,
    seed: int = 0,
    **given: Any,
) -> Iterator[Frame]:
    """Frames in which faces of a photo change to what is asked; the first one is the photo, to the bit.

    Args:
        pipe: Any pipeline with a head.
        photo: As `FacePipeline.__call__` takes one.
        seconds: How long it takes in all; `None` for SECONDS an emotion.
        loop: Whether the faces come back to what the photo shows, so that the end joins the beginning; else the last
            frame is what the edit gives.
        blink: Whether they blink.
        rate: Frames a second.
        seed: Of the noise, which is the same in all frames.
        given: Arguments of `FacePipeline.__call__`; a list of emotions comes one after the other.

    Raises:
        NoFaceError, PhotoError, ValueError: As for an edit, or where a time is out of range; before the first frame.
    """
    request = EditRequest(**pipe.defaults | given)
    emotions: Any = request.emotion if isinstance(request.emotion, (list, tuple)) else [request.emotion]
    check_animation(pipe, request, seconds, blink, rate)
    portrait = Portrait(pipe, photo, request, seed)
    portrait.keys = keys = [portrait.codes, *(portrait.edited(one) for one in emotions)]
    length = SECONDS * len(emotions) if seconds is None else seconds
    return _frames(portrait, [*keys, keys[0]] if loop else keys, length, loop, blink, rate)


def check_animation(
    pipe: FacePipeline, request: EditRequest, seconds: float | None = None, blink: bool = False, rate: int = RATE
) -> None:
    """Raise ValueError with one sentence for what cannot be done; arguments as for `animate`."""
    need(pipe, "head", "face that moves")
    ways = [getattr(request, name) for name, one in ARGUMENTS.items() if one.metadata["asks"]]
    if not blink or any(way is not None for way in ways):
        pipe.check(request)
    if blink and "action_units" not in pipe.capabilities:
        raise ValueError("This pipeline's head has no unit that closes its eyes, so it cannot blink.")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"The animation must take from 0 to {MAX_SECONDS:g} seconds, got {seconds!r}.")
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= MAX_RATE:
        raise ValueError(f"The rate must be a whole number of frames a second from 1 to {MAX_RATE}, got {rate!r}.")


def _frames(
    portrait: Portrait, keys: Sequence[Sequence[FaceCodes]], seconds: float, loop: bool, blink: bool, rate: int
) -> Iterator[Frame]:
    """Frames from each of several states of all faces to the next."""
    count, lights = max(round(seconds * rate), 2), [portrait.lights(key) for key in keys]

    def targets() -> Iterator[tuple[list[FaceCodes], Lights]]:
        for i in range(count):
            number, share = eased(i / (count if loop else count - 1), len(keys) - 1)
            codes = [a.towards(b, share) for a, b in zip(keys[number], keys[number + 1])]
            closed = blinking(i / rate, count / rate) if blink else 0.0
            teeth = [partial(_between, *both, share) for both in zip(lights[number], lights[number + 1])]
            yield portrait.closing(codes, closed) if closed else codes, teeth

    edit = edit_of(portrait.pipe, portrait.request)
    for i, rgb in enumerate(portrait.draw_each(targets())):
        yield Frame(rgb, Fraction(i, rate), edit, portrait.landmarks(rgb))


def _between(before: Callable[[], TeethLight], after: Callable[[], TeethLight], share: float) -> TeethLight:
    """The light on teeth at a share of the way from one state to another."""
    if share in (0, 1):
        return after() if share else before()
    return mean_light([before(), after()], [1 - share, share], [1, 1])


def eased(progress: float, moves: int) -> tuple[int, float]:
    """At a share of an animation's time: which of its moves that is, from 0, and how much of it is done, in [0, 1];
    a move starts and ends gently, and holds what it has come to."""
    number = min(int(progress * moves), moves - 1)
    return number, float(ramp(np.float64(progress * moves - number), 0, 1 - HOLD))


def blinking(time: float, seconds: float) -> float:
    """How far lids are closed, in [0, 1], at a time of an animation that takes so many seconds."""
    count = max(math.floor(seconds / BLINK_EVERY), 1)
    length = BLINK_FALL + BLINK_STAY + BLINK_RISE
    since = (time % (seconds / count)) - (seconds / count - length) / 2
    if since < BLINK_FALL:
        return float(ramp(np.float64(since), 0, BLINK_FALL))
    return 1 - float(ramp(np.float64(since - BLINK_FALL - BLINK_STAY), 0, BLINK_RISE))
