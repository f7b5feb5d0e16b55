"""A Diffusion Autoencoder for tests: random networks in which every input matters."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import nn

from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.models.diffae import LatentNet, SemanticEncoder
from emorig_diffusers.models.semantic_classifier import LatentClassifier
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline

CODE = 16  # length of z_sem


def small_diffae(side: int = 32, crop: str = "aligned", move: str = "direction") -> DiffAEEmotionPipeline:
    """A pipeline with both classifiers and a latent network; the same numbers on every call."""
    torch.manual_seed(0)
    unet = RigUNet(
        sample_size=side, in_channels=3, block_out_channels=(8, 16), layers_per_block=1, attention_levels=(),
        mid_attention=False, norm_num_groups=4, cond_dim=CODE, cond_mode="scale", condition_channels=(),
    )  # fmt: skip
    encoder = SemanticEncoder(
        sample_size=side, block_out_channels=(8, 16), layers_per_block=1, attention_levels=(), norm_num_groups=4,
        cond_dim=CODE,
    )  # fmt: skip
    nn.init.normal_(unet.conv_out.weight, std=0.05)
    for name, parameter in unet.named_parameters():
        if "cond_emb_proj" in name:
            nn.init.normal_(parameter, std=0.3)
    # a random network predicts no noise, but about no velocity, from which a photo comes back
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="leading"
    )
    latent_scheduler = DDIMScheduler(trained_betas=[0.008] * 1000, clip_sample=False)
    pipe = DiffAEEmotionPipeline(
        unet.eval(), encoder.eval(), scheduler, _classifier(EMOTIONS, "softmax", move),
        _classifier(("Smiling", "Young"), "bce", "direction"), LatentNet(CODE, 32, 3), latent_scheduler,
        default_num_inference_steps=10, inversion_steps=25, crop=crop,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _classifier(names: tuple[str, ...], loss: str, move: str) -> LatentClassifier:
    classifier = LatentClassifier(names, CODE, loss, move)
    for parameter in (classifier.weight, classifier.means):
        nn.init.normal_(parameter)
    nn.init.uniform_(classifier.std, 0.5, 2)
    nn.init.normal_(classifier.mean)
    return classifier.requires_grad_(False)
