"""Checkpoints of emotion latent diffusion (Pikoulis et al. 2023) become an EmotionLDMPipeline.

Lightning checkpoints: `first_stage_model.*` is taming-transformers' VQ-f4, `model.diffusion_model.*` latent-diffusion's
UNet, `model_ema.*` its average, in whose names no dot is left, and `cond_stage_model.*` the tokens. Both networks are
diffusers' under other names. Widths are read from shapes; a CLIP-tuned file's average is from before the tuning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel, VQModel
from torch import Tensor

from ..diffusion.edit_scheduler import EditDDIMScheduler
from ..face.emotions import EMOTIONS
from ..files.folders import write_folder
from ..models.emotion_ldm import EmotionEmbedding
from ..pipelines.emotion_ldm import EmotionLDMPipeline
from .adm import filled
from .emotion_ldm_files import AVERAGE, FIRST_STAGE, RAW, TOKENS, TUNED
from .files import ConvertError, read_checkpoint
from .rig import write_pipeline

SYSTEM = "emotion latent diffusion"
BROUGHT = (
    "The weights come from the emotion latent-diffusion model of Pikoulis, Filntisis and Maragos, which states no "
    "licence for them, trained on AffectNet, non-commercial"
)
MULTIPLIERS = (1, 2, 4)  # of the first width, level by level, in both networks
HEAD = 32  # channels of one attention head of the UNet
SHRINKAGE = 4  # pixels of the picture for one of the latent
SIDE = 128  # pixels of the picture
SCHEDULE_ERROR = 1e-5  # of ᾱ in float32

_BUFFERS = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "model_ema.decay",
    "model_ema.num_updates",
)  # fmt: skip
"""What a checkpoint holds that follows from the schedule, or only training needs."""

State = dict[str, Tensor]
Names = Sequence[tuple[str, Any]]
"""Patterns of diffusers' names, with the original's name or a function from the match to it."""

_RESNET: Names = (
    (r"\.norm1\.", ".in_layers.0."), (r"\.conv1\.", ".in_layers.2."), (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."), (r"\.conv2\.", ".out_layers.3."), (r"\.conv_shortcut\.", ".skip_connection."),
)  # fmt: skip
_UNET: Names = (
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^time_embedding\.linear_(\d)\.", lambda m: f"time_embed.{2 * int(m[1]) - 2}."),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv\.", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op."),
    (r"^up_blocks\.(\d)\.upsamplers\.0\.conv\.", lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2.conv."),
    (r"^mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.",
     lambda m: f"input_blocks.{3 * int(m[1]) + int(m[3]) + 1}.{int(m[2] == 'attentions')}."),
    (r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.",
     lambda m: f"output_blocks.{3 * int(m[1]) + int(m[3])}.{int(m[2] == 'attentions')}."),
)  # fmt: skip
_VQ: Names = (
    (r"\.down_blocks\.(\d)\.", r".down.\1."),
    (r"\.up_blocks\.(\d)\.", lambda m: f".up.{len(MULTIPLIERS) - 1 - int(m[1])}."),
    (r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
)  # fmt: skip


def unet_name(name: str) -> str:
    """latent-diffusion's name of a tensor of UNet2DConditionModel."""
    return _renamed(name, _UNET if ".transformer_blocks." in name else (*_UNET, *_RESNET))


def vq_name(name: str) -> str:
    """taming-transformers' name of a tensor of VQModel."""
    return _renamed(name, _VQ)


def average_name(name: str) -> str:
    """A tensor's name in `model_ema`, from the UNet's: without a dot."""
    return f"diffusion_model.{name}".replace(".", "")


def _renamed(name: str, names: Names) -> str:
    for pattern, original in names:
        name = re.sub(pattern, original, name)
    return name


def convert_emotion_ldm(
    checkpoint: Path,
    out: Path,
    vq: Path | None = None,
    raw: bool = False,
    say: Callable[[str], None] = warnings.warn,
) -> Path:
    """Convert a model into a complete pipeline.

    Args:
        checkpoint: Lightning's of the latent diffusion model, CLIP-tuned or not.
        out: New or empty folder for `EmotionLDMPipeline.from_pretrained(out)`.
        vq: Lightning's of the autoencoder, to take instead of the one that the model holds.
        raw: Take the last weights instead of the averaged ones.
        say: Gets a sentence about what had to be assumed.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
    """
    assumed: list[str] = []

    def write(folder: Path) -> None:
        pipe = EmotionLDMPipeline(**read_parts(checkpoint, vq, raw, assumed.append), brought=BROUGHT)
        write_pipeline(pipe, folder)

    written = write_folder(out, write)
    for sentence in assumed:
        say(sentence)
    return written


def read_parts(
    checkpoint: Path, vq: Path | None = None, raw: bool = False, say: Callable[[str], None] = warnings.warn
) -> dict[str, Any]:
    """Components of the pipeline, by name, in float32 and ready for inference; arguments and errors as for
    `convert_emotion_ldm`."""
    state = _state(checkpoint)
    _check_names(state, (FIRST_STAGE, RAW, AVERAGE, TOKENS, *TUNED), _BUFFERS, checkpoint)
    if not raw and any(key.startswith(TUNED) for key in state):
        say(f"'{checkpoint}' is CLIP-tuned: its averaged weights are from before that, and the last ones are taken.")
        raw = True
    scheduler = EditDDIMScheduler()
    _check_schedule(state, scheduler, checkpoint)
    embedding = _embedding(_below(state, TOKENS), checkpoint)
    unet = _unet(state, raw, embedding.config.dim, checkpoint)
    if vq is None:
        vqvae = _vq(_below(state, FIRST_STAGE), checkpoint)
    else:
        alone = _state(vq)
        _check_names(alone, ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.", "loss."), (), vq)
        vqvae = _vq({key: tensor for key, tensor in alone.items() if not key.startswith("loss.")}, vq)
    if vqvae.config["latent_channels"] != unet.config["in_channels"]:
        raise ConvertError(f"The latents of '{vq}' are not those of '{checkpoint}': give files of one model.")
    return {"vqvae": vqvae, "unet": unet, "emotion_embedding": embedding, "scheduler": scheduler}


def _state(file: Path) -> State:
    state = read_checkpoint(file).get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ConvertError(f"'{file}' has no state_dict of tensors: give a Lightning checkpoint of {SYSTEM}.")
    return state


def _check_names(state: State, prefixes: tuple[str, ...], names: Sequence[str], file: Path) -> None:
    strange = [key for key in state if not key.startswith(prefixes) and key not in names]
    if strange:
        raise ConvertError(
            f"'{file}' is no checkpoint of {SYSTEM}, whose tensors are {', '.join(f'{p}*' for p in prefixes)} (found "
            f"'{strange[0]}'): give the original's file."
        )


def _check_schedule(state: State, scheduler: EditDDIMScheduler, file: Path) -> None:
    known, ours = state.get("alphas_cumprod", scheduler.alphas_cumprod).float(), scheduler.alphas_cumprod
    if known.shape != ours.shape or not torch.allclose(known, ours, atol=SCHEDULE_ERROR):
        raise ConvertError(f"'{file}' was trained with another noise schedule than {SYSTEM}'s, which is not supported.")


def _embedding(tensors: State, file: Path) -> EmotionEmbedding:
    table, null = (_matrix(tensors, f"{name}.weight", file) for name in ("embedding", "uncond_embedding"))
    if table.shape[0] != len(EMOTIONS) or null.shape != (1, table.shape[1]):
        raise ConvertError(
            f"'{file}' has tokens {list(table.shape)} and {list(null.shape)}, not AffectNet's {len(EMOTIONS)} emotions "
            "and the null class: give a model of these."
        )
    left = {key: tensor for key, tensor in tensors.items() if "embedding.weight" not in key}
    config = {"names": EMOTIONS, "dim": table.shape[1]}
    return filled(EmotionEmbedding, config, {"weight": torch.cat([table, null]), **left}, file, SYSTEM)


def _unet(state: State, raw: bool, dim: int, file: Path) -> UNet2DConditionModel:
    prefix = RAW if raw else AVERAGE
    tensors = {key: tensor for key, tensor in _below(state, prefix).items() if prefix + key not in _BUFFERS}
    if not tensors:
        other = "leave raw out" if raw else "take the last ones (--raw)"
        raise ConvertError(f"'{file}' has no {prefix}*: {other}, or give another checkpoint of {SYSTEM}.")
    named = unet_name if raw else lambda name: average_name(unet_name(name))
    kernel = tensors.get(named("conv_in.weight"))
    if kernel is None or kernel.ndim != 4:
        raise ConvertError(f"'{file}' has no usable {prefix}{named('conv_in.weight')}: give a complete checkpoint.")
    return _filled(UNet2DConditionModel, unet_config(kernel.shape[0], kernel.shape[1], dim), tensors, named, file)


def _vq(tensors: State, file: Path) -> VQModel:
    kernel, codes = tensors.get("encoder.conv_in.weight"), _matrix(tensors, "quantize.embedding.weight", file)
    if kernel is None or kernel.ndim != 4:
        raise ConvertError(f"'{file}' has no usable encoder.conv_in.weight: give a complete autoencoder.")
    flat = {
        key: tensor[..., 0, 0] if re.search(r"attn.*\.(q|k|v|proj_out)\.weight", key) and tensor.ndim == 4 else tensor
        for key, tensor in tensors.items()
    }
    return _filled(VQModel, vq_config(kernel.shape[0], *codes.shape), flat, vq_name, file)


def unet_config(width: int, channels: int = 3, dim: int = 512) -> dict[str, Any]:
    """Settings of the UNet2DConditionModel whose first level is `width` wide (the original's: 160)."""
    widths = [width * factor for factor in MULTIPLIERS]
    return {
        "sample_size": SIDE // SHRINKAGE, "in_channels": channels, "out_channels": channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D",) * 3, "block_out_channels": tuple(widths), "layers_per_block": 2,
        "cross_attention_dim": dim, "attention_head_dim": tuple(max(each // HEAD, 1) for each in widths),
        "norm_eps": 1e-5, "norm_num_groups": 32, "downsample_padding": 1, "use_linear_projection": False,
    }  # fmt: skip


def vq_config(width: int, codes: int = 16384, channels: int = 3) -> dict[str, Any]:
    """Settings of the VQModel whose first level is `width` wide (the original's: 128)."""
    return {
        "in_channels": 3, "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": tuple(width * factor for factor in MULTIPLIERS), "layers_per_block": 2,
        "latent_channels": channels, "num_vq_embeddings": codes, "vq_embed_dim": channels, "norm_num_groups": 32,
        "norm_type": "group", "act_fn": "silu", "mid_block_add_attention": True, "scaling_factor": 1.0,
        "sample_size": SIDE,
    }  # fmt: skip


def _filled(
    kind: type[ModelMixin], config: dict[str, Any], tensors: State, named: Callable[[str], str], file: Path
) -> Any:
    """A network of diffusers with exactly these tensors, which have the original's names."""
    ours = _own_names(kind, config, file)
    originals = {named(name): name for name in ours}
    return filled(kind, config, {originals.get(key, key): tensor for key, tensor in tensors.items()}, file, SYSTEM)


def _own_names(kind: type[ModelMixin], config: dict[str, Any], file: Path) -> Iterable[str]:
    try:
        with torch.device("meta"):
            return list(kind(**config).state_dict())
    except ValueError as error:
        raise ConvertError(f"The network in '{file}' has no layout of {SYSTEM}: {error}") from error


def _matrix(tensors: State, name: str, file: Path) -> Tensor:
    found = tensors.get(name)
    if found is None or found.ndim != 2:
        raise ConvertError(f"'{file}' has no usable {name}: give a complete checkpoint of {SYSTEM}.")
    return found


def _below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
