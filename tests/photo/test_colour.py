"""tones.py: monochrome photos stay monochrome, whatever is painted onto them; photos in colour stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.colour import LUMA, find_tone
from emorig_diffusers.photo.resample import warp_crop

SEPIA = np.array([[-0.10, 1.10, 0.03], [-0.06, 1.02, 0.01], [0.05, 0.80, 0.0]]).T  # quadratics, one a column


def toned(photo: np.ndarray, curve: np.ndarray) -> np.ndarray:
    luma = photo @ LUMA / 255
    picture = np.stack([np.polyval(powers, luma) for powers in curve.T], -1)
    return np.clip(np.round(255 * picture), 0, 255).astype(np.uint8)


def missed(photo: np.ndarray, curve: np.ndarray) -> float:
    """Grey levels by which 1 % of a photo's pixels are off a tone."""
    return float(np.quantile(np.abs(toned(photo, curve).astype(int) - photo).max(-1), 0.99))


def test_photos_in_colour_have_no_tone(
    hopper: np.ndarray, hopper_face: EncodedFace, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    for photo, face in ((hopper, hopper_face), (astronaut, astronaut_face)):
        assert find_tone(warp_crop(photo, face.grid_matrix(256), 256)) is None


@pytest.mark.parametrize("curve", [np.array([[0.0, 1, 0]] * 3).T, SEPIA])
def test_a_tone_is_found_under_noise(astronaut: np.ndarray, astronaut_face: EncodedFace, curve: np.ndarray) -> None:
    crop = toned(warp_crop(astronaut, astronaut_face.grid_matrix(256), 256), curve)
    noisy = crop + np.random.default_rng(0).normal(0, 1.2, crop.shape)
    tone = find_tone(np.clip(np.round(noisy), 0, 255).astype(np.uint8))
    assert tone is not None and tone.share == 1
    ramp = np.repeat(np.linspace(0.1, 0.9, 50)[:, None], 3, 1)
    goal = np.stack([np.polyval(powers, ramp @ LUMA) for powers in curve.T], -1)
    np.testing.assert_allclose(tone(ramp), goal, atol=0.02)
    red = tone(np.float32([0.7, 0.2, 0.2]))
    goal = [np.polyval(powers, np.float32([0.7, 0.2, 0.2]) @ LUMA) for powers in curve.T]
    np.testing.assert_allclose(red, goal, atol=0.02)


@pytest.mark.parametrize("curve", [np.array([[0.0, 1, 0]] * 3).T, SEPIA])
def test_edits_of_a_monochrome_photo_are_monochrome(
    pipe: EmoRigPipeline, astronaut: np.ndarray, curve: np.ndarray
) -> None:
    photo = toned(astronaut, curve)
    generator = torch.Generator().manual_seed(0)
    for edited in pipe(photo, ["surprise", "sad"], generator=generator, output_type="np").images:
        changed = (edited != photo).any(-1)
        assert changed.mean() > 0.02
        assert missed(edited[changed][None], curve) <= 6
    colourful = pipe(astronaut, "surprise", output_type="np").images[0]
    assert missed(colourful[(colourful != astronaut).any(-1)][None], curve) > 30
