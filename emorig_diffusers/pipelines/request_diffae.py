"""What a caller asks of `DiffAEEmotionPipeline`, and whether it can be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..face.emotions import blend_shares, check_amount
from ..photo.crops import PICTURE_FRAMES
from .request import OUTPUT_TYPES, check_steps, moods, whole

if TYPE_CHECKING:
    from .diffae import DiffAEEmotionPipeline

PASTES = ("change", "crop")
MAX_ATTRIBUTE = 5.0  # of a direction's strength, either way


@dataclass(frozen=True)
class CodeRequest:
    """Arguments of `DiffAEEmotionPipeline.__call__`, which says what they mean."""

    emotion: Any = None
    intensity: Any = 1.0
    reference: Any = None
    attributes: Any = None
    num_inference_steps: Any = None
    inversion_steps: Any = None
    output_type: Any = "pil"
    latents: Any = "photo"
    batch_size: Any = 8
    crop: Any = None
    shape_guidance: Any = 0.0
    paste: Any = "change"
    action_units: Any = None
    rotate: Any = None


def check_code_request(pipe: DiffAEEmotionPipeline, request: CodeRequest) -> None:
    """Raise ValueError with one sentence for what cannot be done."""
    _check_edit(pipe, request)
    _check_sampling(pipe, request)


def _check_edit(pipe: DiffAEEmotionPipeline, request: CodeRequest) -> None:
    check_amount("intensity", request.intensity)
    for name in ("action_units", "rotate"):
        if getattr(request, name) is not None:
            raise ValueError(f"A Diffusion Autoencoder has no head, so no {name}: use a pipeline such as emorig-open.")
    if isinstance(request.emotion, (list, tuple)) and not request.emotion:
        raise ValueError("The list of emotions is empty: give at least one.")
    asked = [emotion for emotion in moods(request.emotion, 1) if emotion is not None]
    if pipe.emotion_classifier is None and (asked or request.reference is not None):
        raise ValueError("This pipeline has no emotion classifier: train one (train/train_emotion_classifier.py).")
    for emotion in asked:
        blend_shares(emotion, dict.fromkeys(pipe.emotion_names))
    if asked and request.reference is not None:
        raise ValueError("Give one of emotion and reference, not both.")
    if request.attributes is not None:
        _check_attributes(pipe, request.attributes)
    if not asked and request.reference is None and not request.attributes:
        raise ValueError("Nothing to do: give an emotion, a reference photo or attributes.")
    if request.crop is not None and request.crop not in PICTURE_FRAMES:
        raise ValueError(f"crop must be one of {', '.join(PICTURE_FRAMES)}, got {request.crop!r}.")


def _check_attributes(pipe: DiffAEEmotionPipeline, attributes: Any) -> None:
    if pipe.attribute_classifier is None:
        raise ValueError("This pipeline has no attribute classifier: convert or train one, or leave attributes out.")
    known = pipe.attribute_classifier.names
    if not isinstance(attributes, Mapping):
        raise ValueError(f"attributes must be amounts by name, such as {{'Smiling': 1.0}}, got {attributes!r}.")
    for name, amount in attributes.items():
        if name not in known:
            raise ValueError(f"Unknown attribute {name!r}: choose from {', '.join(known)}.")
        if isinstance(amount, bool) or not isinstance(amount, Real) or not abs(amount) <= MAX_ATTRIBUTE:
            raise ValueError(f"The amount of {name} must be a number from -5 to 5, got {amount!r}.")


def _check_sampling(pipe: DiffAEEmotionPipeline, request: CodeRequest) -> None:
    for name in ("num_inference_steps", "inversion_steps"):
        check_steps(name, getattr(request, name), pipe.scheduler)
    if not whole(request.batch_size, 1024):
        raise ValueError(f"batch_size must be a whole number from 1 to 1024, got {request.batch_size!r}.")
    for name, known in (("output_type", OUTPUT_TYPES), ("paste", PASTES)):
        if getattr(request, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(request, name)!r}.")
    check_amount("shape_guidance", request.shape_guidance, 10.0)
    if request.shape_guidance:
        if pipe.shape_encoder is None:
            raise ValueError("shape_guidance needs a shape_encoder: give this pipeline an EmocaEncoder.")
        if (request.crop or pipe.config.crop) == "whole":
            raise ValueError("shape_guidance needs to know where the face is: use crop='aligned' or 'ffhq'.")
    latents, side = request.latents, pipe.latents_side
    if latents is None or (isinstance(latents, str) and latents == "photo"):
        return
    if not (isinstance(latents, Tensor) and latents.shape == (1, 3, side, side)):
        raise ValueError(f"latents must be a tensor {[1, 3, side, side]}, the noise to start from, None or 'photo'.")
