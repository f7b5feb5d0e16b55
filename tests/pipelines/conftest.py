"""A pipeline of conditioning 1, as DiffusionRig's."""

from __future__ import annotations

import pytest
from drawing_unet import drawing_unet

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.painting.diffusion_rig import published_scheduler

SIDE = 64


@pytest.fixture(scope="module")
def published(pipe: EmoRigPipeline) -> EmoRigPipeline:
    """The bundled head and encoder with DiffusionRig's kind of network, tiny and random, at 64 pixels in 3 steps."""
    unet = drawing_unet(64)
    appearance = AppearanceEncoder(cond_dim=64).requires_grad_(False).eval()
    pipeline = EmoRigPipeline(
        pipe.head, pipe.encoder, unet, published_scheduler(), appearance,
        default_num_inference_steps=3, crop_size=SIDE, code_parts=["appearance"],
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def codes(astronaut_face: EncodedFace, hopper_face: EncodedFace) -> FaceCodes:
    return FaceCodes.cat([astronaut_face.codes, hopper_face.codes])
