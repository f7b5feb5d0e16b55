"""Which checkpoints of emotion latent diffusion a folder holds, told by what they hold, and the commands that convert
them."""

from __future__ import annotations

import shlex
from pathlib import Path

from .doctor import files_below
from .files import ConvertError, read_checkpoint

FIRST_STAGE, RAW, AVERAGE, TOKENS = "first_stage_model.", "model.diffusion_model.", "model_ema.", "cond_stage_model."
TUNED = ("id_loss_func.", "clip_loss_func.")
"""Beginnings of names in a checkpoint: the autoencoder, the UNet and its average, the tokens; what tuning adds."""
EMOTION_LDM_SITE = "https://github.com/GiannisPikoulis/dsml-thesis (the links in its README; tuned models on request)"
LICENCE = "none stated; trained on AffectNet, non-commercial"
CHECKPOINTS = {
    "model": "emotion latent diffusion, autoencoder and tokens included",
    "tuned": "the same tuned with CLIP for one emotion, whose averaged weights are from before the tuning",
    "autoencoder": "the autoencoder alone (VQ-f4), which the model holds already",
    "incomplete": "of some latent diffusion, but without {}",
}
"""Kinds of checkpoints -> what they are."""


def find_emotion_ldms(folder: Path) -> list[tuple[str, Path]]:
    """Emotion latent diffusion's checkpoints in a folder and all below it, as (one of CHECKPOINTS, path), the nearest
    first; they are told by what they hold."""
    kinds = [(checkpoint_kind(path), path) for path in files_below(folder) if path.suffix == ".ckpt"]
    return [(kind, path) for kind, path in kinds if kind is not None]


def checkpoint_kind(path: Path) -> str | None:
    """One of CHECKPOINTS; `None` for a file of something else."""
    names = _names(path)
    if any(name.startswith(RAW) for name in names):
        tuned = any(name.startswith(TUNED) for name in names)
        return "incomplete" if _lacking(names) else "tuned" if tuned else "model"
    return "autoencoder" if {"quantize.embedding.weight", "encoder.conv_in.weight"} <= {*names} else None


def _names(path: Path) -> list[str]:
    try:
        state = read_checkpoint(path).get("state_dict")
    except ConvertError:
        return []
    return [str(name) for name in state] if isinstance(state, dict) else []


def _lacking(names: list[str]) -> list[str]:
    """Beginnings of names that a whole model has besides its UNet's, and these names have not."""
    needed = (FIRST_STAGE, f"{TOKENS}embedding.", f"{TOKENS}uncond_embedding.")
    return [start for start in needed if not any(name.startswith(start) for name in names)]


def report_emotion_ldms(found: list[tuple[str, Path]]) -> list[str]:
    """What `find_emotion_ldms` found as lines of text, and the next steps as the last ones."""
    lines = []
    for kind, path in found:
        lacking = ", ".join(f"{start}*" for start in _lacking(_names(path))) if kind == "incomplete" else ""
        lines.append(f"{'unreadable' if lacking else 'found':<10}  {path.name}: {CHECKPOINTS[kind].format(lacking)}")
        lines.append(f"{'':<10}  {path}")
        lines.append(f"{'':<10}  licence: {LICENCE}")
    return [*lines, "", *_next_steps(found)]


def _next_steps(found: list[tuple[str, Path]]) -> list[str]:
    models = [path for kind, path in found if kind in ("model", "tuned")]
    if not models:
        return [f"Next: get a checkpoint of the whole model from {EMOTION_LDM_SITE}."]
    each = " (one for each model)" if len(models) > 1 else ""
    command = "Next: `emorig convert emotion-ldm {} OUT`, where OUT is a new folder{}."
    return [command.format(shlex.quote(str(path)), each) for path in models]
