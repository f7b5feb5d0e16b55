"""How blurred a photo is around a face: what is painted there must not have sharper edges than the photo.

Slopes under a Gaussian derivative filter tell. Those of a step edge, blurred with standard deviation b, are as steep as
s / sqrt(s² + b²) in units of the filter's standard deviation s: alike for wide filters, less for those narrower than
the blur. So the fall of a face's steepest slopes from a wide filter to narrow ones gives b.
"""

from __future__ import annotations

import cv2
import numpy as np

from .landmarks import MESH
from .resample import warp_crop

NARROW, WIDE = (1, 2), 16  # standard deviations of the filters, pixels; the wide one's on the grid
STEEPEST = 0.98  # quantile of slopes
SHARP = 1.9  # pixels that 90 % of 17 portraits stay below as they are; median 1.45
MOST = 4  # times finer grids on which photos with more pixels are looked at
THIN = 0.25  # brows and lips are no steps but bands, seen whole by wide filters: share of blur that this hides
BLURS = np.geomspace(0.1, 100, 300)


def photo_blur(photo: np.ndarray, matrix: np.ndarray, points: np.ndarray) -> float:
    """Standard deviation of the blur around a face beyond that of a sharp photo, grid pixels; 0 in a sharp one.

    Found within 25 % from two photo pixels on, noise or not (17 portraits, blurred and enlarged), but half of it where
    a face has fine features alone, or is 60 pixels large.

    Args:
        photo: uint8 [H, W, 3].
        matrix: Similarity [2, 3] from photo pixels to a grid on which a face is about 340 pixels wide.
        points: Landmarks [468 or more, 2] on the grid.
    """
    coarse = float(np.linalg.norm(matrix[:, 0]))  # grid pixels a photo pixel
    times = finer(coarse)
    low, high = points[:MESH].min(0), points[:MESH].max(0)
    part = times * (matrix - np.column_stack([np.zeros((2, 2)), low]))
    crop = warp_crop(photo, part, max(round(times * float((high - low).max())), 8))
    pixel = max(coarse * times, 1)
    blur = _blur_of(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32), pixel, WIDE * times)
    return float(np.sqrt(max(blur**2 - (SHARP * pixel) ** 2, 0))) / times


def finer(coarse: float) -> int:
    """How many times finer a grid has to be for a photo, of which a pixel is `coarse` pixels of it."""
    return int(np.clip(np.round(1 / coarse), 1, MOST))


def _blur_of(grey: np.ndarray, pixel: float, wide: float) -> float:
    """Standard deviation of the blur of a face [S, S] in grey levels, `pixel` the photo's; pixels."""
    narrow = [pixel * scale for scale in NARROW]
    wide = max(wide, 4 * narrow[-1])
    seen = sum(_log_slope(grey, scale) for scale in narrow) - len(narrow) * _log_slope(grey, wide)
    step = lambda scale: np.log(scale / np.hypot(scale, BLURS))
    fall = sum(step(scale) for scale in narrow) - len(narrow) * step(wide)
    blur = float(np.interp(-seen, -fall, BLURS))
    return blur * (1 + THIN * blur / wide)


def _log_slope(grey: np.ndarray, scale: float) -> float:
    """Logarithm of the steepest slopes under a Gaussian derivative filter, grey levels a standard deviation."""
    step = 2 ** max(int(np.log2(scale)) - 1, 0)
    small = cv2.resize(grey, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA) if step > 1 else grey
    soft = cv2.GaussianBlur(small, (0, 0), scale / step)
    x, y = (cv2.Sobel(soft, cv2.CV_32F, *axis, ksize=1, scale=0.5) for axis in ((1, 0), (0, 1)))
    return float(np.log(np.quantile(cv2.magnitude(x, y), STEEPEST) * scale / step + 0.05))
