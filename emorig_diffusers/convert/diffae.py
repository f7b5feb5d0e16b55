"""Checkpoints of Diffusion Autoencoders (Preechakul et al., CVPR 2022) become a DiffAEEmotionPipeline.

last.ckpt is a Lightning checkpoint: `ema_model.*` are the averaged weights of guided-diffusion's UNet with a second
modulation, of its encoder and, in latent runs, of the network that draws codes; `model.*` are the last ones, and are
left out. A classifier is a checkpoint of its own. All settings are read from names and shapes, the attention heads from
`hyper_parameters`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..diffusion.schedulers import RespacedDDIMScheduler
from ..face.emotions import EMOTIONS
from ..files.folders import write_folder
from ..models.diffae import LatentNet, SemanticEncoder
from ..models.semantic_classifier import LatentClassifier
from ..models.unet import RigUNet
from ..painting.diffusion_rig import published_scheduler
from ..pipelines.diffae import DiffAEEmotionPipeline
from .adm import Heads, filled, read_half_layout, read_layout, rename, settings_of, size_of
from .diffae_files import (
    ONLY,
    ONLY_LATENT,
    SPREAD,
    SYSTEM,
    Spread,
    State,
    below,
    check_settings,
    read_settings,
    read_spread,
    read_state,
    spread_for,
    whole_setting,
)
from .files import ConvertError, load_exactly
from .rig import write_pipeline

WEIGHTS, ENCODER, LATENT_NET = "ema_model.", "encoder.", "latent_net."
CLASSIFIERS = ("classifier.", "ema_classifier.")  # the average is still 39 % its random start: .9999 ^ 9375 steps
SETTINGS = {"default_num_inference_steps": 100, "inversion_steps": 250, "crop": "ffhq", "resampling": "pil"}
"""Of the pipeline, as the original's notebooks edit photos."""
BROUGHT = "The weights come from Diffusion Autoencoders trained on {data}, non-commercial"
DATA = {"celebalmdb": "CelebA", "celeba": "CelebA", "celebahq": "CelebA-HQ", "horse256": "LSUN", "bedroom256": "LSUN"}
"""The original's name of a data set, where it is not FFHQ -> the data set."""
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""CelebA's 40, in the order of DiffAE's classifiers."""

KNOWN_NAMES = {len(names): names for names in (EMOTIONS, CELEBA_ATTRIBUTES)}


def convert_diffae(
    checkpoint: Path,
    out: Path,
    latent: Path | None = None,
    emotions: Path | None = None,
    attributes: Path | None = None,
    latent_net: Path | None = None,
    names: Sequence[str] | None = None,
    num_heads: int | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> Path:
    """Convert an autoencoder and what goes with it into a complete pipeline.

    Args:
        checkpoint: last.ckpt of an autoencoder, or of a latent run, which holds the autoencoder too.
        out: New or empty folder for `DiffAEEmotionPipeline.from_pretrained(out)`.
        latent: latent.pkl with mean and standard deviation of the codes, for what does not hold its own.
        emotions, attributes: last.ckpt of classifiers; without one of emotions the pipeline cannot edit emotions.
        latent_net: last.ckpt of a latent run, for drawing new faces.
        names: Of a classifier's classes, where they are not AffectNet's 8 emotions or CelebA's 40 attributes.
        num_heads: Attention heads, where the checkpoint's settings (`net_beatgans_attn_head`) do not tell.
        say: Gets a sentence about what had to be assumed.

    Returns:
        The folder.

    Raises:
        ConvertError: With one sentence; nothing is left behind.
    """
    assumed: list[str] = []

    def write(folder: Path) -> None:
        parts = _parts(checkpoint, latent, emotions, attributes, latent_net, names, num_heads, assumed.append)
        write_pipeline(DiffAEEmotionPipeline(**parts, brought=_brought(checkpoint), **SETTINGS), folder)

    written = write_folder(out, write)
    for sentence in assumed:
        say(sentence)
    return written


def _parts(
    checkpoint: Path,
    latent: Path | None,
    emotions: Path | None,
    attributes: Path | None,
    latent_net: Path | None,
    names: Sequence[str] | None,
    num_heads: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Components of the pipeline, by name."""
    spread = None if latent is None else read_spread(latent)
    drawing = latent_net or (checkpoint if _has_latent_net(read_state(checkpoint)) else None)
    if latent_net is not None:
        _check_same_encoder(checkpoint, latent_net)
    net = None if drawing is None else read_latent_net(drawing, spread)
    spread = spread or (net and (net.mean, net.std))
    classifiers = {
        f"{kind}_classifier": file and read_classifier(file, names, spread)
        for kind, file in (("emotion", emotions), ("attribute", attributes))
    }
    unet, encoder = read_networks(checkpoint, num_heads, say)  # last, as the rest takes no time to be refused
    _check_together([unet, encoder, net, *classifiers.values()], names)
    return {
        "unet": unet, "semantic_encoder": encoder, "scheduler": published_scheduler(), "latent_net": net,
        "latent_scheduler": drawing and latent_scheduler(read_settings(drawing).get("latent_beta_scheduler")),
        **classifiers,
    }  # fmt: skip


def _check_together(parts: Sequence[Any], names: Sequence[str] | None) -> None:
    """ConvertError if the parts are for codes of different lengths, or names were given that none of them took."""
    parts = [part for part in parts if part is not None]
    lengths = sorted({part.config.cond_dim for part in parts})
    if len(lengths) > 1:
        raise ConvertError(f"The files are for codes of {' and '.join(map(str, lengths))} numbers: give one model's.")
    counts = [len(part.names) for part in parts if isinstance(part, LatentClassifier)]
    if names is not None and len(names) not in counts:
        raise ConvertError(f"{len(names)} names were given, but no classifier with as many classes: leave them out.")


def _brought(checkpoint: Path) -> str:
    data = read_settings(checkpoint).get("data_name")
    return BROUGHT.format(data=DATA.get(data, "FFHQ") if isinstance(data, str) else "FFHQ")


def latent_scheduler(schedule: str | None = None) -> RespacedDDIMScheduler:
    """DDIM as codes are drawn: 1,000 betas, epsilon, nothing clipped.

    Args:
        schedule: The original's name of the betas, "linear" or one beta for all steps after "const"; `None` for
            "const0.008", which all its configurations have.

    Raises:
        ConvertError: Another name.
    """
    schedule = schedule or "const0.008"
    match = re.fullmatch(r"const(0\.\d+)", schedule)
    if match is None and schedule != "linear":
        raise ConvertError(f"Codes are drawn with betas {schedule!r}: only 'linear' and 'const0.…' are supported.")
    start, end = (float(match[1]),) * 2 if match else (1e-4, 0.02)
    return RespacedDDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=start,
        beta_end=end,
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing="leading",
    )


# the autoencoder


def read_networks(
    checkpoint: Path, num_heads: int | None = None, say: Callable[[str], None] = warnings.warn
) -> tuple[RigUNet, SemanticEncoder]:
    """UNet and encoder of a checkpoint, in float32 and ready for inference.

    Args:
        checkpoint, num_heads, say: As for `convert_diffae`.

    Raises:
        ConvertError: The file is damaged or holds another network, or a tensor is missing, left over or mis-shaped.
    """
    state = read_state(checkpoint)
    strange = [key for key in state if not key.startswith(("model.", WEIGHTS)) and key not in ("x_T", *SPREAD)]
    weights = below(state, WEIGHTS)
    if strange or not weights:
        found = f"'{strange[0]}'" if strange else "none of these"
        raise ConvertError(
            f"'{checkpoint}' is no autoencoder of {SYSTEM}, whose tensors are {WEIGHTS}* (found {found}): give the "
            "last.ckpt of one, and those of classifiers as such."
        )
    settings = read_settings(checkpoint)
    check_settings(settings, ONLY, checkpoint)
    heads = _heads(whole_setting(settings, "net_beatgans_attn_head"), num_heads, checkpoint, say)
    size = size_of(state, "x_T", 4, checkpoint)[-1]
    inner = (ENCODER, LATENT_NET)
    unet = {
        key.replace("time_embed.time_embed.", "time_embed."): tensor
        for key, tensor in weights.items() if not key.startswith(inner)
    }  # fmt: skip
    layout = read_layout(unet, checkpoint)
    blocks = whole_setting(settings, "net_enc_num_res_blocks") or layout.blocks
    encoder = _encoder(below(weights, ENCODER), blocks, heads, size, checkpoint)
    inputs = size_of(unet, "input_blocks.0.0.weight", 4, checkpoint)[1]
    outputs = size_of(unet, "out.2.weight", 4, checkpoint)[0]
    if (inputs, outputs) != (3, 3):
        raise ConvertError(
            f"The network in '{checkpoint}' has {inputs} input and {outputs} output channels, {SYSTEM}' 3 and 3: "
            "give one that draws pictures."
        )
    config = settings_of(unet, layout, heads, checkpoint) | {
        "sample_size": size, "in_channels": 3, "cond_mode": "scale", "condition_channels": (),
    }  # fmt: skip
    return filled(RigUNet, config, rename(unet, layout, heads), checkpoint, SYSTEM), encoder


def _heads(told: int | None, said: int | None, file: Path, say: Callable[[str], None]) -> Heads:
    """As many as the file tells, else as the caller says, else one."""
    if told is None and said is None:
        say(
            f"'{file}' does not tell its attention heads (net_beatgans_attn_head): one is assumed, as in all the "
            "original's configurations."
        )
    if None not in (told, said) and told != said:
        raise ConvertError(f"'{file}' was trained with {told} attention heads, not with {said}: leave num_heads out.")
    return Heads(told or said or 1)


def _encoder(tensors: State, blocks: int, heads: Heads, size: int, file: Path) -> SemanticEncoder:
    layout = read_half_layout(tensors, blocks, file)
    last = size_of(tensors, "out.3.weight", 4, file)
    config = {
        "sample_size": size, "block_out_channels": layout.widths, "layers_per_block": blocks,
        "attention_levels": layout.attention, "cond_dim": last[0], "num_attention_heads": heads.count,
    }  # fmt: skip
    renamed = rename(tensors, layout, heads)
    weight = renamed.pop("out.3.weight")  # a convolution of one pixel
    renamed["proj_out.weight"] = weight[..., 0, 0] if last[2:] == (1, 1) else weight
    if "out.3.bias" in renamed:
        renamed["proj_out.bias"] = renamed.pop("out.3.bias")
    return filled(SemanticEncoder, config, renamed, file, SYSTEM)


# the network that draws codes


def read_latent_net(checkpoint: Path, spread: Spread | None = None) -> LatentNet:
    """The network that draws codes, with what normalises them.

    Args:
        checkpoint: last.ckpt of a latent run.
        spread: Of the codes, where the checkpoint does not hold its own.

    Raises:
        ConvertError: As `read_networks`; or nothing tells how the codes are normalised.
    """
    state = read_state(checkpoint)
    tensors = below(state, WEIGHTS + LATENT_NET)
    if not tensors:
        raise ConvertError(
            f"'{checkpoint}' has no {WEIGHTS}{LATENT_NET}*: give the last.ckpt of a latent run of {SYSTEM}."
        )
    check_settings(read_settings(checkpoint), ONLY_LATENT, checkpoint)
    hidden, width = size_of(tensors, "layers.0.linear.weight", 2, checkpoint)
    layers = sum(bool(re.fullmatch(r"layers\.\d+\.linear\.weight", key)) for key in tensors)
    config = {
        "cond_dim": width, "hidden": hidden, "num_layers": layers,
        "time_channels": size_of(tensors, "time_embed.0.weight", 2, checkpoint)[1],
    }  # fmt: skip
    mean, std = spread_for(state, spread, width, checkpoint)
    renamed = {_latent_name(key, layers - 1): tensor for key, tensor in _single(tensors, checkpoint).items()}
    return filled(LatentNet, config, renamed | {"mean": mean, "std": std}, checkpoint, SYSTEM)


def _latent_name(key: str, last: int) -> str:
    for old, new in (
        ("time_embed.0.", "time_embedding.linear_1."), ("time_embed.2.", "time_embedding.linear_2."),
        (f"layers.{last}.linear.", "proj_out."), (".linear_emb.", ".time_proj."),
    ):  # fmt: skip
        key = key.replace(old, new)
    return key


def _single(tensors: State, file: Path) -> State:
    """Without `cond_layers.1`, a second name of `linear_emb`; ConvertError where it holds something else."""
    single = {}
    for key, tensor in tensors.items():
        twin = key.replace(".cond_layers.1.", ".linear_emb.")
        if twin == key:
            single[key] = tensor
        elif twin not in tensors or not torch.equal(tensor, tensors[twin]):
            raise ConvertError(f"'{file}' has {key} without an equal {twin}: it is damaged, so download it again.")
    return single


def _has_latent_net(state: State) -> bool:
    return any(key.startswith(WEIGHTS + LATENT_NET) for key in state)


def _check_same_encoder(checkpoint: Path, other: Path) -> None:
    """ConvertError if a latent run's encoder is there and not the autoencoder's: its codes would mean nothing."""
    name = f"{WEIGHTS}{ENCODER}out.3.weight"
    first, second = (read_state(file).get(name) for file in (checkpoint, other))
    if first is None or second is None:
        return
    if first.shape != second.shape or not torch.allclose(first, second.to(first), atol=1e-3):
        raise ConvertError(f"The latent run '{other}' was trained on another encoder than that of '{checkpoint}'.")


# classifiers


def read_classifier(
    checkpoint: Path, names: Sequence[str] | None = None, spread: Spread | None = None
) -> LatentClassifier:
    """A LatentClassifier with directions as published: binary cross-entropy for every class, strength .3.

    Args:
        checkpoint: last.ckpt of a classifier.
        names: Of its classes; taken where there are as many. Without them 8 are EMOTIONS, 40 CELEBA_ATTRIBUTES.
        spread: Of the codes, where the checkpoint does not hold its own.

    Raises:
        ConvertError: As `read_networks`; the classes have no names; or nothing tells how the codes are normalised.
    """
    state = read_state(checkpoint)
    strange = [key for key in state if not key.startswith(("model.", WEIGHTS, *CLASSIFIERS)) and key not in SPREAD]
    tensors = next(filter(None, (below(state, prefix) for prefix in CLASSIFIERS)), None)
    if strange or not tensors:
        found = f"'{strange[0]}'" if strange else "none of these"
        raise ConvertError(
            f"'{checkpoint}' is no classifier of {SYSTEM}, whose tensors are {CLASSIFIERS[0]}* (found {found}): give "
            "the last.ckpt of one."
        )
    classes, width = size_of(tensors, "weight", 2, checkpoint)
    mean, std = spread_for(state, spread, width, checkpoint)
    classifier = LatentClassifier(_class_names(classes, names, checkpoint), width, "bce", "direction")
    rest = {name: getattr(classifier, name).data for name in ("means", "strength")}
    load_exactly(classifier, tensors | rest | {"mean": mean, "std": std}, checkpoint)
    return classifier.requires_grad_(False).eval()


def _class_names(count: int, names: Sequence[str] | None, file: Path) -> tuple[str, ...]:
    if names is not None and len(names) == count:
        if len(set(names)) < count:
            raise ConvertError(f"Two of the names {', '.join(names)} are the same: give every class its own.")
        return tuple(names)
    if count in KNOWN_NAMES:
        return KNOWN_NAMES[count]
    given = f"{len(names)} names were given" if names is not None else "their names are not known"
    raise ConvertError(f"The classifier in '{file}' has {count} classes, and {given}: give {count} names.")
