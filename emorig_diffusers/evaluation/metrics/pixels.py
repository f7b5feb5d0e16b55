"""How far two pictures are apart pixel by pixel: PSNR and SSIM."""

from __future__ import annotations

import cv2
import numpy as np

from .checks import check_pair

PSNR_CAP = 100.0
"""PSNR of equal pictures, dB, where the formula has infinity."""

_WINDOW, _SIGMA = 11, 1.5  # of SSIM's Gaussian window, pixels
_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio: 10 log10(255² / mean squared difference) over all pixels and channels.

    Args:
        a, b: uint8 RGB [H, W, 3], of one size.

    Returns:
        dB; `PSNR_CAP` for equal pictures, about 48 where every pixel is one step off.

    Raises:
        ValueError: a picture is of another kind, or their sizes differ.
    """
    check_pair(a, b, "PSNR")
    squared = float(np.mean((a.astype(np.float32) - b) ** 2, dtype=np.float64))
    return min(10 * float(np.log10(255**2 / squared)), PSNR_CAP) if squared else PSNR_CAP


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, equation 13), the mean over windows and over the three channels.

    As published, and as piq and scikit-image (with Gaussian weights) have it: windows of 11 pixels, sigma 1.5, only
    those inside the picture. piq moreover shrinks pictures of 384 pixels or more first. Not torchmetrics' function:
    that counts windows over mirrored borders too, some thousandths off, and takes ten times as long.

    Args:
        a, b: uint8 RGB [H, W, 3], of one size, at least 11 pixels a side.

    Returns:
        1 for equal pictures, else less; below 0 only where one is the other's opposite.

    Raises:
        ValueError: a picture is of another kind or too small, or their sizes differ.
    """
    check_pair(a, b, "SSIM")
    if min(a.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {_WINDOW} pixels a side, not {list(a.shape)}.")
    # Variances do not depend on an offset; small numbers lose fewer digits when squares are subtracted.
    x, y = (picture.astype(np.float32) / 255 - 0.5 for picture in (a, b))
    mean_x, mean_y = _windows(x), _windows(y)
    covariance = _windows(x * y) - mean_x * mean_y
    variances = _windows(x * x + y * y) - mean_x**2 - mean_y**2
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return float(np.mean(luminance * (2 * covariance + _C2) / (variances + _C2), dtype=np.float64))


def _windows(values: np.ndarray) -> np.ndarray:
    """Gaussian mean of every window inside [H, W, 3]: [H - 10, W - 10, 3]."""
    edge = _WINDOW // 2
    return cv2.GaussianBlur(values, (_WINDOW, _WINDOW), _SIGMA)[edge:-edge, edge:-edge]
