"""Faces of the stages' tests."""

from __future__ import annotations

import numpy as np
import pytest
from plain_faces import GRID, SIZE, SKIN, make_warp

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.photo.resample import warp_crop


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """Nothing but skin."""
    return np.full((GRID, GRID, 3), SKIN, np.uint8)


@pytest.fixture(scope="module")
def still(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    return make_warp(pipe, hopper_face)


@pytest.fixture(scope="module")
def opened(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    return make_warp(pipe, hopper_face, jawOpen=0.6)


@pytest.fixture(scope="module")
def smiling(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> Warp:
    return make_warp(pipe, hopper_face, mouthSmileLeft=0.4, mouthSmileRight=0.4)


@pytest.fixture(scope="module")
def crop(hopper: np.ndarray, hopper_face: EncodedFace) -> np.ndarray:
    return warp_crop(hopper, hopper_face.grid_matrix(SIZE), SIZE)


@pytest.fixture(scope="module")
def fine(hopper: np.ndarray, hopper_face: EncodedFace) -> np.ndarray:
    return warp_crop(hopper, hopper_face.grid_matrix(GRID), GRID)
