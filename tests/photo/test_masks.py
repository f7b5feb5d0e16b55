"""Masks and blurs."""

import cv2
import numpy as np
import pytest

from emorig_diffusers.photo.masks import wide_blur


@pytest.mark.parametrize("sigma", (3.0, 7.0, 16.0, 30.0))
def test_wide_blur(sigma: float) -> None:
    """On a smaller field it is OpenCV's own, whatever the sides and channels, but for the border."""
    field = np.zeros((300, 517, 2), np.float32)
    cv2.circle(field, (260, 150), 60, (1.0, -3.0), -1)
    field[..., 0] += np.random.default_rng(0).normal(0, 0.1, field.shape[:2])
    expected, found = cv2.GaussianBlur(field, (0, 0), sigma), wide_blur(field, sigma)
    error = np.abs(found - expected)[40:-40, 40:-40].max((0, 1))
    assert found.shape == field.shape and (error < 0.008 * np.array([1.5, 3.0])).all()
    flat = np.full((64, 64), 2.5, np.float32)
    np.testing.assert_allclose(wide_blur(flat, sigma), flat, rtol=1e-5)
