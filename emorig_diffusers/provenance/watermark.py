"""An invisible mark in the pixels of an edited face, which a copy keeps that was saved again, shrunk or cut out.

Spread spectrum (Cox et al., IEEE TIP 1997): a faint noise of known phases is added to luma, as strong as the face's own
grain hides it, and most of it where the face's own phases differ. It lies in the face's own frame, which landmarks give
again in any copy, so that size, crop and turn of the picture do not matter; what landmarks are off by is searched for.
The detector flattens the face's contrast and spectrum, and compares every place, size, turn and code with what all of
them give together: a score is in standard deviations of those.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft

from ..photo.colour import LUMA
from ..photo.faces import Face
from ..photo.masks import ramp
from ..photo.resample import align, invert

CODES = 8  # different marks: three bits
THRESHOLD = 6.0  # score from which a face counts as marked: one in 6,000 by chance
_CHANCE = 4.07, 0.22  # mode and scale of unmarked faces' scores (Gumbel), of 1,200 searches for marks of other seeds
_SIDE = 128  # pixels of the frame in which the mark lies, of `resample.align`
_BAND = 8, 48  # cycles a frame between which it lies: half a face of 200 pixels still shows them
_RADII = 0.32, 0.42  # of the ellipse of a face, sides of the frame
_EDGE = 0.25  # of them, over which the mark fades
_FINE, _GRAIN = 1.5, 3.0  # pixels of the frame: grain is what is finer than this, averaged over that
_STRENGTH = 0.4  # of the grain's mean, the mark's standard deviation
_LEAST, _MOST = 0.6, 2.8  # grey levels of the mark on the smoothest skin, and on hair; by eye
_LOUDEST = 1.8  # grey levels of the mark over the face: 42.3 dB of the pixels that it changes
_STEPS = 3  # in which it is fitted to a face
_AGREEING = 0.7  # share of what a face says already that is not said again
_PEAK = 2.5  # standard deviations from which it is cut off
_FAINT = 0.5  # grey levels of contrast that count as none
_REACH, _STEP = 5.0, 0.5  # pixels of the frame by which landmarks may be off, and between places that are tried
_SCALES = 0.975, 0.9875, 1.0, 1.0125, 1.025  # sizes that are tried
_TURNS = -2.0, -1.0, 0.0, 1.0, 2.0  # degrees that are tried
_MEDIAN_OF_SQUARES = 0.4549  # of a normal distribution, in variances
_SEED = 0x656D6F72  # of the phases


@dataclass(frozen=True)
class Found:
    """What was found in faces.

    Attributes:
        score: Standard deviations above chance, of the best face, place and code.
        code: The code there, from 0.
    """

    score: float = 0.0
    code: int = 0

    @property
    def marked(self) -> bool:
        """Whether the score tells a mark."""
        return self.score >= THRESHOLD

    @property
    def chance(self) -> float:
        """How likely an unmarked face has this score, or a higher one."""
        mode, scale = _CHANCE
        return float(-np.expm1(-np.exp((mode - self.score) / scale)))


def mark_faces(rgb: np.ndarray, faces: Iterable[np.ndarray], code: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] whose faces, of landmarks [468 or more, 2 or 3] each, are marked.

    Pixels away from them stay bit for bit.
    """
    result = rgb.copy()
    for landmarks in faces:
        part, moved = _around(rgb.shape, landmarks)
        change = mark(luma(result[part]), moved, code)[:, :, None]
        result[part] = np.clip(np.rint(result[part] + change), 0, 255).astype(np.uint8)
    return result


def mark(grey: np.ndarray, landmarks: np.ndarray, code: int, seed: int = _SEED) -> np.ndarray:
    """Grey levels to add to a picture so that its face is marked, float32 [H, W]; 0 away from the face.

    Args:
        grey: The picture's luma, float32 [H, W] in grey levels.
        landmarks: MediaPipe's points of the face in it.
        code: Below CODES.
        seed: Of the phases: only a detector of the same seed finds the mark.
    """
    matrix, window = align(landmarks, _SIDE), _window()
    seen = _frame(grey, matrix)
    grain = cv2.GaussianBlur(np.abs(seen - cv2.GaussianBlur(seen, (0, 0), _FINE)), (0, 0), _GRAIN)
    level = np.clip(_STRENGTH * grain, _LEAST, _MOST)
    level *= window * min(1.0, _LOUDEST / np.sqrt(np.mean(level[window > 0] ** 2)))
    noise = np.zeros_like(seen)
    for step in range(1, _STEPS + 1):
        noise += _towards(_phases(code, seed), seen + noise * level)
        noise *= step / _STEPS * np.sqrt(np.mean(level**2) / np.mean((noise * level) ** 2))
        noise = np.clip(noise, -_PEAK, _PEAK)
    size = (grey.shape[1], grey.shape[0])
    return cv2.warpAffine(noise * level, _centred(invert(matrix)), size, flags=cv2.INTER_CUBIC)


def _towards(phases: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The change of a frame that brings it soonest to a code's phases, mean square 1 on the face, float32: most where
    the face is faint or says something else, nothing where it agrees (as in improved spread spectrum, Malvar &
    Florencio, IEEE TSP 2003)."""
    spectrum, contrast = _spectrum(seen)
    size = np.abs(spectrum)
    told = spectrum / np.maximum(size, 1e-6)
    lacking = phases - _AGREEING * np.real(np.conj(phases) * told) * told
    push = np.asarray(fft.irfft2(lacking / (size + np.median(size[_in_band()])) * _in_band(), s=seen.shape))
    push *= _window() / contrast
    return (push / np.sqrt(np.mean(push[_window() > 0] ** 2))).astype(np.float32)


def detect(rgb: np.ndarray, faces: Iterable[Face], seed: int = _SEED) -> Found:
    """The best of what is found in faces of a picture uint8 [H, W, 3]; a score of 0 without faces."""
    found = Found()
    for face in faces:
        part, moved = _around(rgb.shape, face.landmarks)
        found = max(found, _search(luma(rgb[part]), moved, seed), key=lambda one: one.score)
    return found


def _around(shape: tuple[int, ...], landmarks: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    """Rows and columns of a picture that show a face's frame, and its landmarks there [N, 2]."""
    points = np.asarray(landmarks, np.float64)[:, :2]
    middle, reach = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0).max()  # a frame has 1.5 faces a side
    last = np.array([shape[1], shape[0]]) - 1
    x0, y0 = np.clip(np.floor(middle - reach), 0, last).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(middle + reach), (x0 + 1, y0 + 1), last + 1).astype(int).tolist()
    return (slice(y0, y1), slice(x0, x1)), points - (x0, y0)


def luma(rgb: np.ndarray) -> np.ndarray:
    """Grey levels float32 [H, W] of a picture uint8 [H, W, 3]."""
    return (rgb @ np.array(LUMA)).astype(np.float32)


def _search(grey: np.ndarray, landmarks: np.ndarray, seed: int) -> Found:
    spectra, (down, across), matrix = _spectra(seed), _places(), align(landmarks, _SIDE)
    best = Found()
    for scale in _SCALES:
        for turn in _TURNS:
            around = cv2.getRotationMatrix2D((_SIDE / 2, _SIDE / 2), turn, scale)
            spectrum, _ = _spectrum(_frame(grey, around @ np.vstack([matrix, (0, 0, 1)])))
            flat = spectrum / np.maximum(np.abs(spectrum), 1e-6)
            places = (down @ (flat * spectra).astype(np.complex64) @ across).real
            scores = places.max(axis=(1, 2)) / max(np.sqrt(np.median(places**2) / _MEDIAN_OF_SQUARES), 1e-9)
            code = int(scores.argmax())
            best = max(best, Found(float(scores[code]), code), key=lambda one: one.score)
    return best


@functools.cache
def _places() -> tuple[np.ndarray, np.ndarray]:
    """Matrices [places, rows] and [columns, places] that bring a spectrum to every place within reach."""
    steps = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    down = np.exp(2j * np.pi * steps[:, None] * fft.fftfreq(_SIDE)[None])
    across = np.exp(2j * np.pi * fft.rfftfreq(_SIDE)[:, None] * steps[None])
    return down.astype(np.complex64), across.astype(np.complex64)


def _centred(matrix: np.ndarray) -> np.ndarray:
    """A similarity as OpenCV takes it, which counts from pixel centres."""
    linear = matrix[:, :2]
    return np.column_stack([linear, linear @ [0.5, 0.5] + matrix[:, 2] - 0.5])


def _frame(grey: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A face in its frame, float32 [_SIDE, _SIDE], without aliasing."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    while scale < 0.5 and min(grey.shape) > 1:
        height, width = grey.shape
        grey = cv2.resize(grey, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        shrunk = np.array([width / grey.shape[1], height / grey.shape[0], 1.0])
        matrix, scale = matrix * shrunk, scale * 2
    if scale < 1:
        grey = cv2.GaussianBlur(grey, (0, 0), 0.5 * (1 / scale**2 - 1) ** 0.5 + 1e-3)
    size = (_SIDE, _SIDE)
    return cv2.warpAffine(grey, _centred(matrix), size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


@functools.cache
def _window() -> np.ndarray:
    """Where a frame shows the face, float32 [_SIDE, _SIDE] in [0, 1]."""
    steps = (np.arange(_SIDE) + 0.5) / _SIDE - 0.5
    radius = np.hypot(steps[None] / _RADII[0], steps[:, None] / _RADII[1])
    return ramp(-radius, -1 - _EDGE, -1 + _EDGE).astype(np.float32)


@functools.cache
def _in_band() -> np.ndarray:
    """Which entries of a spectrum [_SIDE, _SIDE // 2 + 1] are the mark's."""
    radius = np.hypot(fft.fftfreq(_SIDE)[:, None], fft.rfftfreq(_SIDE)[None]) * _SIDE
    return (radius >= _BAND[0]) & (radius <= _BAND[1])


def _phases(code: int, seed: int) -> np.ndarray:
    """Of a code's noise on a face, complex [_SIDE, _SIDE // 2 + 1], of size 1 in the mark's band."""
    spectrum = _spectra(seed)[code].conj()
    return spectrum / np.maximum(np.abs(spectrum), 1e-9)


@functools.lru_cache(maxsize=8)
def _spectra(seed: int) -> np.ndarray:
    """Conjugate spectra of all codes' noise on a face, complex64 [CODES, _SIDE, _SIDE // 2 + 1]."""
    shape = (CODES, *_in_band().shape)
    raw = [np.random.PCG64(np.random.SeedSequence([seed, code])).random_raw(_in_band().size) for code in range(CODES)]
    phases = np.exp(2j * np.pi * np.stack(raw).astype(np.float64) / 2**64).reshape(shape)
    noise = np.asarray(fft.irfft2(phases * _in_band(), s=(_SIDE, _SIDE))) * _window()
    return (np.conj(np.asarray(fft.rfft2(noise))) * _in_band()).astype(np.complex64)


def _spectrum(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The spectrum, within the mark's band, of a face whose contrast was made flat, and that contrast."""
    band = np.asarray(fft.irfft2(fft.rfft2(seen) * _in_band(), s=seen.shape), np.float32)
    contrast = np.sqrt(cv2.GaussianBlur(band**2, (0, 0), _GRAIN)) + _FAINT
    return np.asarray(fft.rfft2(band / contrast * _window())) * _in_band(), contrast
