"""Settings of pipelines: what a checkpoint says besides its components, with the defaults of those that it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..face.encode import OPEN_CODE, part_names
from ..photo.crops import PICTURE_FRAMES
from ..photo.pictures import RESAMPLINGS
from ..render.rasterize import RULES
from .checks import check_best_of

EMORIG = {
    "emotions": None, "default_num_inference_steps": 4, "crop_size": 256, "repaint_window": (48, 88, 160),
    "residual_scale": 2.0, "code_parts": OPEN_CODE, "shape": None, "crop": "aligned", "crop_landmarks": "mediapipe",
    "resampling": "area", "rasterizer": "exact", "emotion_codes": None, "wrinkles": 1.0, "shading": 1.0,
    "light_blur": 3.0, "best_of": 1, "normals": "linear",
}  # fmt: skip
"""Defaults of `EmoRigPipeline`'s settings, which says what they mean."""
DIFFAE = {"default_num_inference_steps": 100, "inversion_steps": 250, "crop": "ffhq", "brought": "",
          "resampling": "area"}  # fmt: skip
"""Those of `DiffAEEmotionPipeline`."""
EMOTION_LDM = {"default_num_inference_steps": 20, "strength": 0.5, "guidance_scale": 4.0,
               "inversion_guidance_scale": None, "crop": "landmarks", "brought": "", "resampling": "area"}  # fmt: skip
"""Those of `EmotionLDMPipeline`: t0, T and γ as its makers recommend them."""


_CHOICES = {"crop": PICTURE_FRAMES, "crop_landmarks": ("mediapipe", "fan"), "resampling": RESAMPLINGS,
            "rasterizer": RULES, "normals": ("linear", "neural")}  # fmt: skip


def chosen_settings(
    defaults: Mapping[str, Any], checkpoint: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of a pipeline, in a form that diffusers saves.

    Args:
        defaults: EMORIG, DIFFAE or EMOTION_LDM.
        checkpoint: Settings that count before the defaults.
        given: Those that count before these two, where they are not `None`; other names are left out.

    Raises:
        ValueError: If the checkpoint's have a name that is not among the defaults, or a value cannot be.
    """
    checkpoint = checkpoint or {}
    if unknown := checkpoint.keys() - defaults.keys():
        raise ValueError(f"settings has {', '.join(sorted(unknown))}: choose from {', '.join(defaults)}.")
    own = {name: given[name] for name in defaults if given.get(name) is not None}
    chosen = {**defaults, **checkpoint, **own}
    _check(chosen)
    if "repaint_window" in chosen:
        chosen["repaint_window"] = tuple(chosen["repaint_window"])
    if "code_parts" in chosen:  # diffusers takes lists of texts for components
        chosen["code_parts"] = " ".join(part_names(chosen["code_parts"]))
    return chosen


def _check(settings: Mapping[str, Any]) -> None:
    for name, advice in (
        ("wrinkles", "a number from 0 (none) on, 1 for the usual"),
        ("shading", "a number from 0 (none) on, 1 for the usual"),
        ("light_blur", "pixels, or 0 for the network's own mouths"),
    ):
        if name in settings and not settings[name] >= 0:
            raise ValueError(f"{name} is {settings[name]!r}: give {advice}.")
    if "best_of" in settings:
        check_best_of(settings["best_of"])
    for name, known in _CHOICES.items():
        if name in settings and settings[name] not in known:
            raise ValueError(f"{name} is {settings[name]!r}: choose one of {', '.join(known)}.")
