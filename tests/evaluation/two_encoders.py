"""A pipeline that both encoders can read for, tiny and random."""

from __future__ import annotations

import torch
from drawing_unet import drawing_unet
from torch import nn

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.painting.diffusion_rig import published_scheduler

SIDE, STEPS = 64, 2
PAIRS = [("DECA", "DECA"), ("DECA", "EMOCA"), ("EMOCA", "DECA"), ("EMOCA", "EMOCA")]
NOISE = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def rig(pipe: EmoRigPipeline, encoder: nn.Module, **options: object) -> EmoRigPipeline:
    """DiffusionRig's kind of pipeline, tiny and random, layers that start at zero too."""
    parts = (
        pipe.head,
        encoder,
        drawing_unet(8),
        published_scheduler(),
        AppearanceEncoder(cond_dim=8).eval(),
    )
    options = {"default_num_inference_steps": STEPS, "crop_size": SIDE, "code_parts": "appearance"} | options
    pipeline = EmoRigPipeline(*parts, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
