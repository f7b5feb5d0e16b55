"""An emotion latent-diffusion model for tests: random networks in which every input matters."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel, VQModel
from torch import nn

from emorig_diffusers.diffusion.edit_scheduler import EditDDIMScheduler
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.models.emotion_ldm import EmotionEmbedding
from emorig_diffusers.pipelines.emotion_ldm import EmotionLDMPipeline

TOKEN = 16  # length of a token


def small_ldm(side: int = 32, **settings: object) -> EmotionLDMPipeline:
    """A pipeline whose judge sees sadness in every face; the same numbers on every call."""
    torch.manual_seed(0)
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, num_vq_embeddings=512, vq_embed_dim=3, sample_size=side,
    )  # fmt: skip
    nn.init.normal_(vqvae.quantize.embedding.weight, std=0.5)
    unet = UNet2DConditionModel(
        sample_size=side // 2, in_channels=3, out_channels=3, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=TOKEN, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    pipe = EmotionLDMPipeline(
        vqvae.eval(), unet.eval(), EmotionEmbedding(EMOTIONS, TOKEN).requires_grad_(False), EditDDIMScheduler(),
        settings={"default_num_inference_steps": 3} | settings,
    )  # fmt: skip
    pipe.judge = lambda rgb, box: {"neutral": 0.1, "sad": 0.7, "happy": 0.2}
    pipe.set_progress_bar_config(disable=True)
    return pipe
