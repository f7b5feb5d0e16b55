"""What a caller of a pipeline asks for, and whether it can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from ..diffusion.sampling import CALLBACK_TENSORS
from ..face.codes import FaceCodes
from ..face.edit import MODES
from ..face.emotions import action_unit_offset, check_amount
from ..photo.crops import PICTURE_FRAMES

if TYPE_CHECKING:
    from .emorig import EmoRigPipeline

OUTPUT_TYPES = ("pil", "np", "pt")


@dataclass(frozen=True)
class Request:
    """Arguments of `EmoRigPipeline.__call__`, which says what they mean."""

    emotion: Any = None
    intensity: Any = 1.0
    reference: Any = None
    action_units: Any = None
    codes: Any = None
    rotate: Any = None
    num_inference_steps: Any = None
    output_type: Any = "pil"
    latents: Any = None
    modes: Any = ("exp",)
    source_encoder: Any = None
    target_encoder: Any = None
    crop: Any = None
    detail: Any = False
    batch_size: Any = 8
    best_of: Any = None

    def emotions(self, photos: int) -> list[Any]:
        """The emotion of every result, as `moods`."""
        return moods(self.emotion, photos)


def moods(emotion: Any, photos: int) -> list[Any]:
    """The emotion of every result: one for all photos, one each, or several for one photo.

    Raises:
        ValueError: If there are neither one photo nor as many as emotions.
    """
    if not isinstance(emotion, (list, tuple)):
        return [emotion] * photos
    if photos not in (1, len(emotion)):
        raise ValueError(f"There are {photos} photos and {len(emotion)} emotions: give one each, or one photo.")
    return list(emotion)


def check_generators(generator: Any, photos: int, results: int | None = None) -> Any:
    """One generator for all, or a list with one for each photo (or for each of the results of one photo), as it is.

    Raises:
        ValueError: If it is anything else.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    if not isinstance(generator, (list, tuple)) or not all(isinstance(one, torch.Generator) for one in generator):
        raise ValueError(
            f"generator must be a torch.Generator, such as torch.Generator().manual_seed(5), or a list of them, "
            f"got {generator!r}."
        )
    if len(generator) not in (photos, results):
        many = f"{photos} photos" if photos > 1 else "1 photo"
        raise ValueError(f"There are {many} and {len(generator)} generators: give one for each photo, or one for all.")
    return list(generator)


def check_request(pipe: EmoRigPipeline, request: Request) -> None:
    """Raise ValueError with one sentence for what cannot be done."""
    _check_components(pipe)
    _check_edit(pipe, request)
    _check_lending(pipe, request)
    _check_sampling(pipe, request)
    pipe.painter.check(request)


def _need(pipe: EmoRigPipeline, capability: str, what: str) -> None:
    if capability not in pipe.capabilities:
        raise ValueError(f"{what} needs a network that draws the whole crop, as a converted rig does.")


def _check_components(pipe: EmoRigPipeline) -> None:
    if pipe.unet is not None and pipe.scheduler is None:
        raise ValueError("This pipeline has a network but no scheduler: give it the one of its checkpoint.")
    if pipe.unet is not None and "appearance" in pipe.code_parts and pipe.appearance_encoder is None:
        raise ValueError(
            "This pipeline's network takes a code of the photo but there is no appearance_encoder: give it the one "
            "of its checkpoint."
        )


def _check_edit(pipe: EmoRigPipeline, request: Request) -> None:
    config = pipe.head.config
    check_amount("intensity", request.intensity)
    if isinstance(request.emotion, (list, tuple)) and not request.emotion:
        raise ValueError("The list of emotions is empty: give at least one.")
    for emotion in request.emotions(1):
        if emotion is not None:
            pipe.emotion_change(emotion)
    if request.action_units is not None:
        action_unit_offset(request.action_units, config.expression_names)
        for unit in pipe.painter.undrawn_units:
            if request.action_units.get(unit):
                raise ValueError(f"The unit {unit} cannot be shown: no tongue is drawn outside a mouth. Leave it out.")
    given = (request.emotion, request.reference, request.codes)
    if sum(x is not None for x in given) > 1:
        raise ValueError("Give one of emotion, reference and codes, not several.")
    if all(x is None for x in (*given, request.action_units, request.rotate)):
        raise ValueError("Nothing to do: give an emotion, a reference photo, action units, codes or a rotation.")
    codes, shape = request.codes, (1, config.num_expression)
    if codes is not None and not (isinstance(codes, FaceCodes) and codes.expression.shape == shape):
        raise ValueError("codes must be the FaceCodes of one face, fitted with this pipeline's head.")
    limit = pipe.painter.max_angle
    if request.rotate is not None and not _three_angles(request.rotate, limit):
        raise ValueError(
            f"rotate must be three angles (yaw, pitch, roll) from {-limit:g} to {limit:g} degrees, got "
            f"{request.rotate!r}."
        )


def _check_lending(pipe: EmoRigPipeline, request: Request) -> None:
    """What is taken of whom, and who reads it."""
    modes = request.modes
    if isinstance(modes, str) or not isinstance(modes, Sequence) or not modes or any(m not in MODES for m in modes):
        raise ValueError(f"modes must be some of {', '.join(MODES)} in a list, got {modes!r}.")
    for mode in modes:
        if mode in ("light", "latent"):
            _need(pipe, mode, f"The mode {mode!r}")
    for name in ("source_encoder", "target_encoder"):
        branch, known = getattr(request, name), pipe.encoder.branches
        if branch is not None and branch not in known:
            can = f"choose one of {', '.join(known)}" if known else "leave it out"
            raise ValueError(f"This pipeline's encoder cannot be {branch!r} ({name}): {can}.")
    if request.detail:
        _need(pipe, "detail", "detail")
    if request.crop is not None and request.crop not in PICTURE_FRAMES:
        raise ValueError(f"crop must be one of {', '.join(PICTURE_FRAMES)}, got {request.crop!r}.")


def _check_sampling(pipe: EmoRigPipeline, request: Request) -> None:
    steps, latents, count = request.num_inference_steps, request.latents, request.batch_size
    check_steps("num_inference_steps", steps, pipe.scheduler)
    if request.best_of is not None:
        check_best_of(request.best_of)
        _need(pipe, "best_of", "best_of")
    if not whole(count, 1024):
        raise ValueError(f"batch_size must be a whole number from 1 to 1024, got {count!r}.")
    if request.output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {request.output_type!r}.")
    if isinstance(latents, str) and latents == "photo":
        _need(pipe, "inversion", "latents='photo'")
        return
    shape = (1, 3, pipe.latents_side, pipe.latents_side)
    if latents is not None and not (isinstance(latents, Tensor) and latents.shape == shape):
        raise ValueError(f"latents must be a tensor {list(shape)}, the noise to start from, or 'photo'.")


def check_best_of(count: Any) -> None:
    """Raise ValueError for a number of samples that cannot be drawn."""
    if not whole(count, 64):
        raise ValueError(f"best_of must be a whole number from 1 to 64, got {count!r}.")


def check_steps(name: str, steps: Any, scheduler: Any | None) -> None:
    """Raise ValueError for steps that a scheduler does not have; `None` is left to the checkpoint."""
    limit = scheduler.config.get("num_train_timesteps", 1000) if scheduler is not None else 1000
    if steps is not None and not whole(steps, limit):
        raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {steps!r}.")


def callback_tensors(callback: Any, names: Any) -> list[str]:
    """What a callback is to be given: names of CALLBACK_TENSORS, its own where it is one of diffusers' classes.

    Raises:
        ValueError: If there is another name.
    """
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        names = callback.tensor_inputs
    if isinstance(names, str) or not isinstance(names, Sequence) or any(name not in CALLBACK_TENSORS for name in names):
        known = ", ".join(CALLBACK_TENSORS)
        raise ValueError(f"callback_on_step_end_tensor_inputs must be some of {known} in a list, got {names!r}.")
    return list(names)


def whole(value: Any, limit: int) -> bool:
    """Whether a value is a whole number from 1 to a limit."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= value <= limit


def _three_angles(rotate: Any, limit: float) -> bool:
    return (
        isinstance(rotate, (Sequence, np.ndarray))
        and len(rotate) == 3
        and all(isinstance(angle, Real) and abs(angle) <= limit for angle in rotate)
    )
