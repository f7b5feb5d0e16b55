"""What the files of Diffusion Autoencoders hold: tensors, what normalises codes, and what the trainer was told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import ConvertError, read_checkpoint

SYSTEM = "Diffusion Autoencoders"
SPREAD = ("conds_mean", "conds_std")
ONLY = {"beta_scheduler": "linear", "T": 1000, "beatgans_rescale_timesteps": False}
ONLY_LATENT = {"net_latent_condition_bias": 1, "latent_rescale_timesteps": False, "latent_clip_sample": False}
"""The trainer's settings that change what a network means -> the one that is supported."""

State = dict[str, Tensor]
Spread = tuple[Tensor, Tensor]
"""Mean and standard deviation [C] of codes."""


def read_spread(file: Path) -> Spread:
    """Mean and standard deviation [C] of codes, from latent.pkl (`conds`, `conds_mean`, `conds_std`).

    Raises:
        ConvertError: The file is damaged or something else.
    """
    spread = _own_spread(read_checkpoint(file), file)
    if spread is None:
        raise ConvertError(f"'{file}' has no {' and '.join(SPREAD)}: give the latent.pkl of {SYSTEM}.")
    return spread


def _own_spread(state: Mapping[str, Any], file: Path) -> Spread | None:
    """[C] or [1, C] each; `None` where there are none."""
    found = [state[name] for name in SPREAD if state.get(name) is not None]
    if not found:
        return None
    usable = lambda x: isinstance(x, Tensor) and x.is_floating_point() and x.ndim and x.shape[-1] == x.numel()
    if len(found) < len(SPREAD) or not all(map(usable, found)):
        raise ConvertError(f"'{file}' has no usable {' and '.join(SPREAD)}: give another file of the same model.")
    mean, std = (x.flatten().float() for x in found)
    if mean.shape != std.shape or not mean.isfinite().all() or not (std.isfinite() & (std > 0)).all():
        raise ConvertError(f"'{file}' has {' and '.join(SPREAD)} that normalise nothing: give another file.")
    return mean, std


def spread_for(state: State, other: Spread | None, width: int, file: Path) -> Spread:
    spread = _own_spread(state, file) or other
    if spread is None:
        raise ConvertError(f"'{file}' does not tell how its codes are normalised: give the latent.pkl of its model.")
    if len(spread[0]) != width:
        raise ConvertError(
            f"'{file}' is for codes of {width} numbers, but normalised are {len(spread[0])}: give files of one model."
        )
    return spread


def read_state(file: Path) -> State:
    """The state dict of a Lightning checkpoint; ConvertError where there is none."""
    state = read_checkpoint(file).get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ConvertError(f"'{file}' has no state_dict of tensors: give a last.ckpt of {SYSTEM}.")
    return state


def read_settings(file: Path) -> dict[str, Any]:
    """What a Lightning checkpoint's trainer was told, as far as the file tells."""
    settings = read_checkpoint(file).get("hyper_parameters")
    return settings if isinstance(settings, dict) else {}


def check_settings(settings: Mapping[str, Any], only: Mapping[str, Any], file: Path) -> None:
    """ConvertError for a setting that the file tells and that is not the one that is supported."""
    for name, supported in only.items():
        if settings.get(name, supported) != supported:
            raise ConvertError(
                f"'{file}' was trained with {name} {settings[name]!r}: only {supported!r} is supported, as in the "
                "original's own configurations."
            )


def whole_setting(settings: Mapping[str, Any], name: str) -> int | None:
    value = settings.get(name)
    return value if isinstance(value, int) and value > 0 else None


def below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
