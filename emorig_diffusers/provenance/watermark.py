"""An invisible mark in the pixels of an edited face, which a copy keeps that was saved again, shrunk or cut out.

Spread spectrum (Cox et al., IEEE TIP 1997): a faint noise of known phases is added to luma, as strong as the face's own
grain hides it, and most of it where the face's own phases differ. Of several noises that mean the same, that one is
taken to which the face is closest by chance (as in dirty-paper codes; Miller, Doerr & Cox, IEEE TIP 2004), and it is
fitted to the picture and to a small JPEG of it alike. It lies in the face's own frame, which landmarks give again in
any copy, so that size, crop and turn of the picture do not matter; what landmarks are off by is searched for.
The detector flattens the face's contrast, ring by ring of its spectrum, and compares every place, size, turn and noise
with what all of them give together: a score is in standard deviations of those, less for places that are less likely.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft

from ..photo.colour import LUMA
from ..photo.faces import Face, follow_face
from ..photo.masks import ramp
from ..photo.resample import align, invert

CODES = 4  # different marks: two bits
THRESHOLD = 5.5  # score from which a face counts as marked: one in 8,000 by chance
_TRIES = 6000.0  # independent ones that a search is worth, by 628 searches for marks of other seeds in unedited photos
_VARIANTS = 16  # noises that mean the same code
_SIDE = 128  # pixels of the frame in which the mark lies, of `resample.align`
_RINGS = 8, 16, 28, 48  # cycles a frame between which the mark's rings lie
_FINEST = 40.0  # cycles a frame that a picture must be able to show, for the last ring to count in embedding
_RADIUS, _EDGE = 0.49, 0.2  # of the mark's rounded square, sides of the frame, and of that, over which it fades
_ROUNDNESS = 3.0  # its exponent: 2 is a circle
_FINE, _GRAIN = 1.5, 3.0  # pixels of the frame: grain is what is finer than this, averaged over that
_FLATNESS = 2.0  # pixels of the frame over which contrast is made flat
_STRENGTH = 0.5  # of the grain's mean, the mark's standard deviation
_LEAST, _MOST = 0.6, 2.8  # grey levels of the mark on the smoothest skin, and on hair; by eye
_LOUDEST = 1.8  # grey levels of the mark over the frame: 42 dB of the pixels that it changes
_LOUDNESS = 0.75, 1.0, 1.12  # of that, tried in turn until a small JPEG tells the mark
_ENOUGH = 7.5  # score there
_STEPS = 6  # in which it is fitted to a face
_AGREEING = 0.7  # share of what a face says already that is not said again
_PEAK = 2.5  # standard deviations from which it is cut off
_FAINT = 0.5  # grey levels of contrast that count as none
_COPY = 0.5, 256.0, 75  # share of the picture's size, most pixels of the frame, and quality of the JPEG it is fitted to
_WEIGHT, _CHOICE = 0.6, 1.5  # of that JPEG beside the picture's own share: of the push, and in the choice of noise
_REACH, _STEP = 3.0, 0.5  # pixels of the frame by which landmarks may be off, and between places that are tried
_SCALES = 0.975, 0.9875, 1.0, 1.0125, 1.025  # sizes that are tried
_TURNS = -1.0, 0.0, 1.0  # degrees that are tried
_OFF = 1.0, 0.012, 0.8  # pixels, sizes and degrees that landmarks are usually off by, or less (of 160 copies)
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
        return -math.expm1(-_TRIES * math.erfc(self.score / math.sqrt(2)) / 2)


@dataclass(frozen=True)
class Design:
    """A mark made for a face.

    Attributes:
        noise: In the face's frame, float32 [_SIDE, _SIDE], standard deviation about 1.
        loudness: Its share of what `_level` allows.
    """

    noise: np.ndarray
    loudness: float

    def change(self, grey: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Grey levels to add to a picture float32 [H, W], float32 [H, W]; 0 away from the face of the landmarks."""
        matrix = align(landmarks, _SIDE)
        return _laid(self.noise * _level(_frame(grey, matrix)) * self.loudness, matrix, grey.shape)


def mark_faces(rgb: np.ndarray, faces: Iterable[np.ndarray], code: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] whose faces, of landmarks [468 or more, 2 or 3] each, are marked.

    Pixels away from them stay bit for bit.
    """
    for landmarks in faces:
        rgb = add_mark(rgb, landmarks, design_mark(rgb, landmarks, code))
    return rgb.copy()


def add_mark(rgb: np.ndarray, landmarks: np.ndarray, design: Design) -> np.ndarray:
    """A picture uint8 [H, W, 3] with a mark that was made for its face, whose landmarks are now these."""
    result = rgb.copy()
    part, moved = _around(rgb.shape, landmarks)
    changed = result[part] + design.change(luma(result[part]), moved)[:, :, None]
    result[part] = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return result


def design_mark(rgb: np.ndarray, landmarks: np.ndarray, code: int, seed: int = _SEED) -> Design:
    """A mark for a face: no louder than a small JPEG of it needs.

    Args:
        rgb: The picture, uint8 [H, W, 3].
        landmarks: MediaPipe's points of the face in it.
        code: Below CODES.
        seed: Of the phases: only a detector of the same seed finds the mark.
    """
    part, landmarks = _around(rgb.shape, landmarks)
    grey, matrix = luma(rgb[part]), align(landmarks, _SIDE)
    seen, level = _frame(grey, matrix), _level(_frame(grey, matrix))
    told = _agreement(seen, _RINGS, seed) + _CHOICE * _agreement(*_copied(grey, matrix, 0), seed)
    number = code * _VARIANTS + int(told[code * _VARIANTS : (code + 1) * _VARIANTS].argmax())
    design = Design(np.zeros_like(seen), 1.0)
    for loudness in _LOUDNESS:
        design = Design(_fitted(grey, matrix, level * loudness, number, seed), loudness)
        small = _copied(grey + _laid(design.noise * level * loudness, matrix, grey.shape), matrix, _STEPS + 1)
        if _agreement(*small, seed)[number] >= _ENOUGH:
            break
    return design


def _level(seen: np.ndarray) -> np.ndarray:
    """Grey levels of noise that a face in its frame hides, float32 [_SIDE, _SIDE]; 0 beyond its surroundings."""
    fine = np.abs(seen - cv2.GaussianBlur(seen, (0, 0), _FINE))
    grain = cv2.GaussianBlur(np.sqrt(fine), (0, 0), _GRAIN) ** 2  # a sky beside hair has little of the hair's
    level = np.clip(_STRENGTH * grain, _LEAST, _MOST)
    return level * _window() * min(1.0, _LOUDEST / np.sqrt(np.mean((level * _window())[_window() > 0] ** 2)))


def _fitted(grey: np.ndarray, matrix: np.ndarray, level: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The noise of a number as it is to be added, times `level`, so that a face and its copies tell it."""
    noise = np.zeros_like(level)
    seen = _frame(grey, matrix)
    for step in range(1, _STEPS + 1):
        copy = _copied(grey + _laid(noise * level, matrix, grey.shape), matrix, step)
        push = (1 - _WEIGHT) * _towards(seen + noise * level, _RINGS, number, seed)
        noise += push + _WEIGHT * _towards(*copy, number, seed)
        noise *= step / _STEPS * np.sqrt(np.mean(level**2) / np.mean((noise * level) ** 2))
        noise = np.clip(noise, -_PEAK, _PEAK)
    return noise


def _copied(grey: np.ndarray, matrix: np.ndarray, number: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """A face as a small JPEG of its picture shows it in its frame, and the rings that are left of it; JPEG's blocks lie
    elsewhere in each number's copy."""
    share, most, quality = _COPY
    left, top = 5 * number % 16, 3 * number % 16
    cut = np.clip(np.rint(grey), 0, 255).astype(np.uint8)[min(top, grey.shape[0] - 1) :, min(left, grey.shape[1] - 1) :]
    share = min(share, most / _pixels(matrix))
    size = [max(round(side * share), 1) for side in cut.shape[::-1]]
    shrunk = cv2.resize(cut, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", shrunk, [cv2.IMWRITE_JPEG_QUALITY, quality])
    small = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32)
    scale = np.array(cut.shape[::-1]) / size
    placed = np.column_stack([matrix[:, :2] * scale, matrix[:, :2] @ [left, top] + matrix[:, 2]])
    return _frame(small, placed), _RINGS if _pixels(placed) / 2 >= _FINEST else _RINGS[:-1]


def _towards(seen: np.ndarray, rings: tuple[int, ...], number: int, seed: int) -> np.ndarray:
    """The change of a frame that brings it soonest to a noise's phases, mean square 1, float32: most where the face is
    faint or says something else, nothing where it agrees (as in improved spread spectrum, Malvar & Florencio, IEEE
    TSP 2003)."""
    spectrum, contrast = _spectrum(seen, rings, _window())
    size = np.abs(spectrum)
    told = spectrum / np.maximum(size, 1e-6)
    wanted = _spectra(rings, seed)[number].conj()
    phases = wanted / np.maximum(np.abs(wanted), 1e-9)
    lacking = phases - _AGREEING * np.real(np.conj(phases) * told) * told
    band = _between(rings[0], rings[-1])
    push = np.asarray(fft.irfft2(lacking / (size + np.median(size[band])) * band, s=seen.shape)) * _window() / contrast
    return (push / np.sqrt(np.mean(push[_window() > 0] ** 2))).astype(np.float32)


def _agreement(seen: np.ndarray, rings: tuple[int, ...], seed: int) -> np.ndarray:
    """Scores [CODES * _VARIANTS] of a face in its frame where landmarks are right."""
    spectra = _spectra(rings, seed)
    told = 2 * np.real(_flat(seen, rings, _window()) * spectra).sum((1, 2))
    return told / np.sqrt(2 * (np.abs(spectra) ** 2).sum((1, 2)))


def settled(rgb: np.ndarray, face: Face) -> np.ndarray:
    """Landmarks of a face of a picture uint8 [H, W, 3] as they are read on its own aligned crop, which hardly depends
    on the picture's size and borders."""
    return (follow_face(rgb, face) or face).landmarks


def detect(rgb: np.ndarray, faces: Iterable[Face], seed: int = _SEED) -> Found:
    """The best of what is found in faces of a picture uint8 [H, W, 3]; a score of 0 without faces."""
    found = Found()
    for face in faces:
        search = Search(seed)
        search.add(rgb, settled(rgb, face))
        found = max(found, search.best(), key=lambda one: one.score)
    return found


class Search:
    """Looks for the mark of one face, in a picture or in frames of a clip together."""

    def __init__(self, seed: int = _SEED) -> None:
        self.seed = seed
        self.told: dict[tuple[tuple[int, ...], float, float], np.ndarray] = {}

    def add(self, rgb: np.ndarray, landmarks: np.ndarray) -> None:
        """Look at a picture uint8 [H, W, 3], whose face has landmarks [468 or more, 2 or 3]."""
        part, moved = _around(rgb.shape, landmarks)
        grey, matrix = luma(rgb[part]), align(moved, _SIDE)
        blurred = _pixels(matrix) < _SIDE  # so that the last ring may be empty
        for scale in _SCALES:
            for turn in _TURNS:
                around = cv2.getRotationMatrix2D((_SIDE / 2, _SIDE / 2), turn, scale)
                placed = around @ np.vstack([matrix, (0, 0, 1)])
                seen, window = _frame(grey, placed), _shown(grey.shape, placed)
                for rings in (_RINGS, _RINGS[:-1])[: 1 + blurred]:
                    place = (rings, scale, turn)
                    self.told[place] = self.told.get(place, 0) + _flat(seen, rings, window)

    def best(self) -> Found:
        """The best place and code."""
        best = Found()
        (down, across), off = _places()
        for (rings, scale, turn), flat in self.told.items():
            places = (down @ (flat * _spectra(rings, self.seed)).astype(np.complex64) @ across).real
            places /= max(np.sqrt(np.median(places**2) / _MEDIAN_OF_SQUARES), 1e-9)
            unlikely = off + ((scale - 1) / _OFF[1]) ** 2 + (turn / _OFF[2]) ** 2
            likely = places * np.abs(places) - unlikely
            number = int(likely.max((1, 2)).argmax())
            score = math.sqrt(max(float(likely[number].max()), 0.0))
            best = max(best, Found(score, number // _VARIANTS), key=lambda one: one.score)
        return best


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
    return cv2.transform(rgb.astype(np.float32), np.array([LUMA], np.float32))


@functools.cache
def _places() -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Matrices [places, rows] and [columns, places] that bring a spectrum to every place within reach, and how far off
    those are [places, places], in squares of what is usual."""
    steps = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    down = np.exp(2j * np.pi * steps[:, None] * fft.fftfreq(_SIDE)[None])
    across = np.exp(2j * np.pi * fft.rfftfreq(_SIDE)[:, None] * steps[None])
    off = (steps[:, None] ** 2 + steps[None] ** 2) / _OFF[0] ** 2
    return (down.astype(np.complex64), across.astype(np.complex64)), off


def _pixels(matrix: np.ndarray) -> float:
    """Side of a frame in pixels of its picture."""
    return _SIDE / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _laid(change: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A change of a frame as one of its picture."""
    return cv2.warpAffine(change, _centred(invert(matrix)), (shape[1], shape[0]), flags=cv2.INTER_CUBIC)


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
    """Where a frame has the mark, float32 [_SIDE, _SIDE] in [0, 1]."""
    steps = np.abs((np.arange(_SIDE) + 0.5) / _SIDE - 0.5) / _RADIUS
    radius = (steps[None] ** _ROUNDNESS + steps[:, None] ** _ROUNDNESS) ** (1 / _ROUNDNESS)
    return ramp(-radius, -1, -1 + _EDGE).astype(np.float32)


@functools.cache
def _between(low: int, high: int) -> np.ndarray:
    """Which entries of a spectrum [_SIDE, _SIDE // 2 + 1] lie between so many cycles a frame."""
    radius = np.hypot(fft.fftfreq(_SIDE)[:, None], fft.rfftfreq(_SIDE)[None]) * _SIDE
    return (radius >= low) & (radius < high)


@functools.lru_cache(maxsize=8)
def _spectra(rings: tuple[int, ...], seed: int) -> np.ndarray:
    """Conjugate spectra of all codes' noises in a frame, complex64 [CODES * _VARIANTS, _SIDE, _SIDE // 2 + 1]."""
    band = _between(rings[0], rings[-1])
    sources = [np.random.PCG64(np.random.SeedSequence([seed, number])) for number in range(CODES * _VARIANTS)]
    raw = np.stack([source.random_raw(band.size) for source in sources]).astype(np.float64)
    phases = np.exp(2j * np.pi * raw / 2**64).reshape(-1, *band.shape)
    noise = np.asarray(fft.irfft2(phases * band, s=(_SIDE, _SIDE))) * _window()
    return (np.conj(np.asarray(fft.rfft2(noise))) * band).astype(np.complex64)


def _shown(shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """The mark's place as far as a picture [H, W] shows it, in the frame, float32 [_SIDE, _SIDE] in [0, 1]."""
    size, whole = (_SIDE, _SIDE), np.ones(shape, np.uint8)
    return _window() * cv2.warpAffine(whole, _centred(matrix), size, flags=cv2.INTER_NEAREST)


def _flat(seen: np.ndarray, rings: tuple[int, ...], window: np.ndarray) -> np.ndarray:
    """Phases of a face in its frame, where a window [_SIDE, _SIDE] is, complex [_SIDE, _SIDE // 2 + 1], of size 1 in
    its rings."""
    spectrum, _ = _spectrum(seen, rings, window)
    return spectrum / np.maximum(np.abs(spectrum), 1e-6)


def _spectrum(seen: np.ndarray, rings: tuple[int, ...], window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The spectrum, within rings, of a face whose contrast was made flat in each, and what that contrast was."""
    spectrum, flat, gain = fft.rfft2(seen), np.zeros_like(seen), np.zeros_like(seen)
    whole = _between(rings[0], rings[-1])
    for low, high in zip(rings, rings[1:]):
        ring = _between(low, high)
        band = np.asarray(fft.irfft2(spectrum * ring, s=seen.shape), np.float32)
        faint = _FAINT * np.sqrt(ring.sum() / whole.sum())
        contrast = np.sqrt(cv2.GaussianBlur(band**2, (0, 0), _FLATNESS)) + faint
        flat += band / contrast
        gain += 1 / contrast
    return np.asarray(fft.rfft2(flat * window)) * whole, (len(rings) - 1) / gain
