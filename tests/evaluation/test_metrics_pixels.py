"""PSNR, SSIM, background change, and the refusals of FID and KID."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.metrics import structural_similarity

from emorig_diffusers.evaluation.metrics import MetricError, psnr, ssim
from emorig_diffusers.evaluation.metrics.background import background_change
from emorig_diffusers.evaluation.metrics.distribution import MINIMUM, Pictures, fid, kid
from emorig_diffusers.face.encode import EncodedFace


@pytest.fixture(scope="module")
def noisy(astronaut: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 12, astronaut.shape)
    return np.clip(astronaut + noise, 0, 255).astype(np.uint8)


def published_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equations 13 to 16, window by window in double precision; piq's below 384 pixels."""
    ticks = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = np.outer(ticks, ticks) / ticks.sum() ** 2
    windows = (np.lib.stride_tricks.sliding_window_view(p / 255, (11, 11), (0, 1)) for p in (a, b))
    x, y = windows
    mean = lambda values: (values * weight).sum((-2, -1))
    mx, my = mean(x), mean(y)
    vx, vy = (mean((v - m[..., None, None]) ** 2) for v, m in ((x, mx), (y, my)))
    cov = mean((x - mx[..., None, None]) * (y - my[..., None, None]))
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_psnr_is_the_formula(astronaut: np.ndarray, noisy: np.ndarray) -> None:
    error = np.mean((astronaut.astype(float) - noisy) ** 2)
    assert psnr(astronaut, noisy) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-4)
    one_off = np.full((16, 16, 3), 7, np.uint8)
    assert psnr(one_off, one_off + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(one_off * 0, one_off * 0 + 255) == 0
    assert psnr(astronaut, astronaut) == 100


def test_ssim_is_the_published_one(astronaut: np.ndarray, noisy: np.ndarray) -> None:
    a, b = astronaut[60:124, 160:240], noisy[60:124, 160:240]
    assert ssim(a, b) == pytest.approx(published_ssim(a, b), abs=1e-5)
    library = structural_similarity(
        astronaut, noisy, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2
    )
    assert ssim(astronaut, noisy) == pytest.approx(library, abs=1e-5)


def test_ssim_of_equal_opposite_and_flat_pictures(astronaut: np.ndarray) -> None:
    assert ssim(astronaut, astronaut) == pytest.approx(1, abs=1e-6)
    assert ssim(astronaut, 255 - astronaut) < 0
    flat = np.full((20, 30, 3), 250, np.uint8)
    assert ssim(flat, flat) == pytest.approx(1, abs=1e-6)
    assert ssim(flat, flat - 1) == pytest.approx(published_ssim(flat, flat - 1), abs=1e-3)


def test_pictures_of_another_kind_are_refused(astronaut: np.ndarray) -> None:
    for figure in (psnr, ssim):
        with pytest.raises(ValueError, match=r"one size, not \(512, 512, 3\) and \(512, 511, 3\)"):
            figure(astronaut, astronaut[:, 1:])
        with pytest.raises(ValueError, match="uint8"):
            figure(astronaut, astronaut / 255)
        with pytest.raises(ValueError, match="uint8"):
            figure(astronaut[..., 0], astronaut[..., 0])
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(astronaut[:10], astronaut[:10])


# background


def test_only_what_is_far_from_the_face_counts(astronaut: np.ndarray, astronaut_face: EncodedFace) -> None:
    points = astronaut_face.face.landmarks
    height = np.ptp(points[:468, :2], axis=0).max()
    face = np.zeros(astronaut.shape[:2], bool)
    columns, rows = np.floor(points[:468, :2].T).astype(int)
    face[rows, columns] = True
    distance = distance_transform_edt(~face)  # from the nearest landmark: a little more than from the hull
    edited = astronaut.copy()
    edited[distance < 0.4 * height] = 0
    assert background_change(astronaut, edited, points) == 0
    far = distance > 0.6 * height
    edited[far] = 255 - edited[far]
    expected = np.abs(astronaut[far].astype(float) - edited[far]).sum()
    measured = background_change(astronaut, edited, points)
    assert measured == pytest.approx(expected / far.sum() / 3 / 255, rel=0.05)


def test_one_step_everywhere_is_one_step(astronaut: np.ndarray, astronaut_face: EncodedFace) -> None:
    a = np.full_like(astronaut, 100)
    assert background_change(a, a + 3, astronaut_face.face.landmarks) == pytest.approx(3 / 255)
    assert background_change(a, a, astronaut_face.face.landmarks) == 0


def test_a_tight_crop_has_no_background(astronaut: np.ndarray, astronaut_face: EncodedFace) -> None:
    x0, y0, x1, y1 = (round(v) for v in astronaut_face.face.box)
    tight = np.ascontiguousarray(astronaut[y0:y1, x0:x1])
    assert background_change(tight, 255 - tight, astronaut_face.face.landmarks - (x0, y0, 0)) is None


def test_background_of_a_face_cut_by_the_border(astronaut: np.ndarray, astronaut_face: EncodedFace) -> None:
    shift = np.array([astronaut_face.face.landmarks[4, 0], 0, 0], np.float32)
    half = np.ascontiguousarray(astronaut[:, int(shift[0]) :])
    whole = background_change(astronaut, 255 - astronaut, astronaut_face.face.landmarks)
    assert background_change(half, 255 - half, astronaut_face.face.landmarks - shift) == pytest.approx(whole, rel=0.5)
    with pytest.raises(ValueError, match="landmarks"):
        background_change(half, half, astronaut_face.face.landmarks[:68])


# sets


@pytest.mark.parametrize(("figure", "name"), [(fid, "fid"), (kid, "kid")])
def test_too_few_pictures_are_refused_with_the_number(figure: object, name: str) -> None:
    few, enough = ["a.png"] * (MINIMUM[name] - 1), ["b.png"] * MINIMUM[name]
    for a, b in ((few, enough), (enough, few)):
        with pytest.raises(MetricError, match=rf"{name.upper()} needs at least {MINIMUM[name]:,} .* not {len(few)}"):
            figure(a, b)


def test_without_torch_fidelity_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MetricError, match="need torch-fidelity .* pip install torch-fidelity"):
        kid(["a.png"] * 100, ["b.png"] * 100)


def test_pictures_come_as_torch_fidelity_wants_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (height, 25, 3), np.uint8) for height in (30, 31)]
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, picture in zip(files, pictures):
        Image.fromarray(picture).save(file)
    read = Pictures(files)
    assert len(read) == 2 and all(read[i].dtype == torch.uint8 for i in range(2))
    assert all(np.array_equal(read[i].permute(1, 2, 0).numpy(), pictures[i]) for i in range(2))
