"""Whether a pipeline can do what is asked: each mistake is one sentence, before any work."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from ..diffusion.sampling import CALLBACK_TENSORS
from ..face.codes import FaceCodes
from ..face.emotions import action_unit_offset, blend_shares, check_amount
from ..face.gaze import MAX_GAZE
from ..face.light import MAX_LIGHT_STRENGTH, MAX_LIGHT_TURN
from ..photo.crops import PICTURE_FRAMES
from .request import ARGUMENTS, MODES, OUTPUT_TYPES, PASTES, EditRequest
from .steps import check_edits

if TYPE_CHECKING:
    from .base import FacePipeline
    from .diffae import DiffAEEmotionPipeline
    from .emorig import EmoRigPipeline
    from .emotion_ldm import EmotionLDMPipeline

UNKNOWN = "unknown"
"""The source emotion of faces of which none is known."""
_SET_JUDGE = "Set pipe.judge to what tells, such as evaluation.metrics.face_api.FaceApiJudge()."
MAX_ATTRIBUTE = 5.0  # of a direction's strength, either way
LACKING = {
    "head": "This pipeline has no head, so no {}: use one such as emorig-open.",
    "gaze": "{} needs a head with named units that turn its eyes, such as emorig-open's.",
    "whole_crop": "{} needs a network that draws the whole crop, as a converted rig does.",
    "inversion": "{} needs a network that draws the whole crop, as a converted rig does.",
    "latent": "{} needs a network that takes a code of the photo.",
    "detail": "{} needs DECA's encoder, its detail model and a network that draws the whole crop, from linear normals.",
    "attributes": "This pipeline has no attribute classifier: use a Diffusion Autoencoder with one, or leave {} out.",
    "picture": "{} needs a pipeline whose network draws a small picture, such as a Diffusion Autoencoder.",
    "emotion_guidance": "{} needs an emotion latent-diffusion model, which this pipeline is not.",
    "semantic_code": "{} needs a Diffusion Autoencoder, which this pipeline is not.",
}
"""What is said where a pipeline lacks a capability."""


def need(pipe: FacePipeline, capability: str, what: str) -> None:
    """Raise ValueError for what a pipeline without a capability cannot do."""
    if capability not in pipe.capabilities:
        raise ValueError(LACKING[capability].format(what))


def check_request(pipe: FacePipeline, request: EditRequest) -> None:
    """Raise ValueError for what no pipeline, or none with these capabilities, can do."""
    for name, one in ARGUMENTS.items():
        value, capability = getattr(request, name), one.metadata["needs"]
        plain = value is one.default or (one.default is not None and value == one.default)
        if capability and not plain:
            need(pipe, capability, name)
    check_amount("intensity", request.intensity)
    if isinstance(request.emotion, (list, tuple)) and not request.emotion:
        raise ValueError("The list of emotions is empty: give at least one.")
    ways = {name: one.metadata for name, one in ARGUMENTS.items() if one.metadata["asks"]}
    known = [way["asks"] for way in ways.values() if not way["needs"] or way["needs"] in pipe.capabilities]
    if all(getattr(request, name) is None for name in ways):
        raise ValueError(f"Nothing to do: give {', '.join(known[:-1])} or {known[-1]}.")
    for name, choices in (("crop", PICTURE_FRAMES), ("output_type", OUTPUT_TYPES), ("paste", PASTES)):
        value = getattr(request, name)
        if value not in choices and (value is not None or name != "crop"):
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")
    for name in ("num_inference_steps", "inversion_steps"):
        check_steps(name, getattr(request, name), pipe.scheduler)
    if not is_count(request.batch_size, 1024):
        raise ValueError(f"batch_size must be a whole number from 1 to 1024, got {request.batch_size!r}.")
    _check_latents(pipe, request.latents)
    _check_eta(pipe, request)


def _check_latents(pipe: FacePipeline, latents: Any) -> None:
    if isinstance(latents, str) and latents == "photo":
        need(pipe, "inversion", "latents='photo'")
    elif latents is not None:
        shape = (1, 3, pipe.latents_side, pipe.latents_side)
        if not (isinstance(latents, Tensor) and latents.shape == shape):
            raise ValueError(f"latents must be a tensor {list(shape)}, the noise to start from, None or 'photo'.")


def _check_eta(pipe: FacePipeline, request: EditRequest) -> None:
    check_amount("eta", request.eta, 1.0)
    if request.eta and isinstance(request.latents, str):
        raise ValueError("eta must be 0 with the photo's own noise: with fresh noise on the way it does not come back.")
    known = inspect.signature(pipe.scheduler.step).parameters if pipe.scheduler is not None else {}
    if request.eta and "eta" not in known:
        raise ValueError("This pipeline's scheduler takes no eta: use a DDIM scheduler, or leave it out.")


def check_rig_request(pipe: EmoRigPipeline, request: EditRequest) -> None:
    """What pipelines with a head cannot do."""
    _check_components(pipe)
    _check_reference(pipe, request)
    _check_expression(pipe, request)
    if request.best_of is not None:
        check_best_of(request.best_of)
    if request.edits is not None:
        check_edits(pipe, request.edits)
    pipe.painter.check(request)


def _check_components(pipe: EmoRigPipeline) -> None:
    if pipe.unet is not None and pipe.scheduler is None:
        raise ValueError("This pipeline has a network but no scheduler: give it the one of its checkpoint.")
    if pipe.unet is not None and "appearance" in pipe.code_parts and pipe.appearance_encoder is None:
        raise ValueError(
            "This pipeline's network takes a code of the photo but there is no appearance_encoder: give it the one "
            "of its checkpoint."
        )


def _check_expression(pipe: EmoRigPipeline, request: EditRequest) -> None:
    config = pipe.head.config
    for emotion in broadcast_emotions(request.emotion, 1):
        if emotion is not None:
            pipe.emotion_change(emotion)
    if request.action_units is not None:
        action_unit_offset(request.action_units, config.expression_names)
        for unit in pipe.painter.undrawn_units:
            if request.action_units.get(unit):
                raise ValueError(f"The unit {unit} cannot be shown: no tongue is drawn outside a mouth. Leave it out.")
    lent = request.reference if request.codes is not None or request.lends_expression else None
    if sum(x is not None for x in (request.emotion, lent, request.codes)) > 1:
        raise ValueError(
            "Give one of emotion, reference and codes, not several; a reference may lend its pose beside an emotion."
        )
    codes, shape = request.codes, (1, config.num_expression)
    if codes is not None and not (isinstance(codes, FaceCodes) and codes.expression.shape == shape):
        raise ValueError("codes must be the FaceCodes of one face, fitted with this pipeline's head.")
    limit = pipe.painter.max_angle
    if request.rotate is not None and not _are_angles(request.rotate, (limit,) * 3):
        raise ValueError(
            f"rotate must be three angles (yaw, pitch, roll) from {-limit:g} to {limit:g} degrees, got "
            f"{request.rotate!r}."
        )
    if request.gaze is not None and not _is_gaze(request.gaze):
        raise ValueError(
            "gaze must be two angles (yaw, pitch), from {1:g} to {0:g} and from {3:g} to {2:g} degrees, or 'camera', "
            "got {4!r}.".format(*(sign * most for most in MAX_GAZE for sign in (1, -1)), request.gaze)
        )
    _check_light(request)


def _check_light(request: EditRequest) -> None:
    turn, (yaw, pitch) = request.light_turn, MAX_LIGHT_TURN
    if turn is not None and not _are_angles(turn, MAX_LIGHT_TURN):
        limits = f"from {-yaw:g} to {yaw:g} and from {-pitch:g} to {pitch:g} degrees"
        raise ValueError(f"light_turn must be two angles (yaw, pitch), {limits}, got {turn!r}.")
    if request.light_strength is not None:
        check_amount("light_strength", request.light_strength, MAX_LIGHT_STRENGTH)


def _check_reference(pipe: EmoRigPipeline, request: EditRequest) -> None:
    """What is taken of whom, and who reads it."""
    modes = request.modes
    if isinstance(modes, str) or not isinstance(modes, Sequence) or not modes or any(m not in MODES for m in modes):
        raise ValueError(f"modes must be some of {', '.join(MODES)} in a list, got {modes!r}.")
    for mode in modes:
        if mode in ("light", "latent"):
            need(pipe, "whole_crop", f"The mode {mode!r}")
    if "latent" in modes:
        need(pipe, "latent", "The mode 'latent'")
    for name in ("source_encoder", "target_encoder"):
        branch, known = getattr(request, name), pipe.encoder.branches
        if branch is not None and branch not in known:
            can = f"choose one of {', '.join(known)}" if known else "leave it out"
            raise ValueError(f"This pipeline's encoder cannot be {branch!r} ({name}): {can}.")


def check_diffae_request(pipe: DiffAEEmotionPipeline, request: EditRequest) -> None:
    """What Diffusion Autoencoders cannot do."""
    asked = [emotion for emotion in broadcast_emotions(request.emotion, 1) if emotion is not None]
    if pipe.emotion_classifier is None and (asked or request.reference is not None):
        raise ValueError("This pipeline has no emotion classifier: train one (train/train_emotion_classifier.py).")
    for emotion in asked:
        blend_shares(emotion, dict.fromkeys(pipe.emotion_names))
    if asked and request.reference is not None:
        raise ValueError("Give one of emotion and reference, not both.")
    if request.attributes is not None:
        _check_attributes(pipe.attribute_classifier.names, request.attributes)
    check_amount("shape_guidance", request.shape_guidance, 10.0)
    if request.shape_guidance:
        if pipe.shape_encoder is None:
            raise ValueError("shape_guidance needs a shape_encoder: give this pipeline an EmocaEncoder.")
        if (request.crop or pipe.config.crop) == "whole":
            raise ValueError("shape_guidance needs to know where the face is: use crop='aligned' or 'ffhq'.")


def check_emotion_ldm_request(pipe: EmotionLDMPipeline, request: EditRequest) -> None:
    """What emotion latent-diffusion models cannot do."""
    if request.reference is not None and request.emotion is not None:
        raise ValueError("Give one of emotion and reference, not both.")
    if not (isinstance(request.latents, str) and request.latents == "photo"):
        raise ValueError("latents must be 'photo': this pipeline always starts from the photo's own noise.")
    known = dict.fromkeys(pipe.emotion_names)
    for emotion in broadcast_emotions(request.emotion, 1):
        if emotion is not None:
            blend_shares(emotion, known)
    if pipe.judge is None and request.reference is not None:
        raise ValueError(f"Which emotions does the reference show? {_SET_JUDGE}")
    for shown in _flat(request.source_emotion):
        if shown is None and pipe.judge is None:
            raise ValueError(
                f"Which emotion do the faces show? Give source_emotion, 'unknown' for the null class. {_SET_JUDGE}"
            )
        if shown not in (None, UNKNOWN):
            blend_shares(shown, known)
    for name in ("strength", "guidance_scale", "inversion_guidance_scale"):
        value, (low, high) = pipe.chosen(name, request), ARGUMENTS[name].metadata["limits"]
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (number and low <= float(value) <= high):
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}.")
    steps = request.num_inference_steps or pipe.config.default_num_inference_steps
    pipe.scheduler.timesteps_of(steps, pipe.chosen("strength", request))


def _flat(shown: Any) -> Iterator[Any]:
    """Every source emotion of a request."""
    if isinstance(shown, (list, tuple)):
        for one in shown:
            yield from _flat(one)
    else:
        yield shown


def _check_attributes(known: Sequence[str], attributes: Any) -> None:
    if not isinstance(attributes, Mapping):
        raise ValueError(f"attributes must be amounts by name, such as {{'Smiling': 1.0}}, got {attributes!r}.")
    for name, amount in attributes.items():
        if name not in known:
            raise ValueError(f"Unknown attribute {name!r}: choose from {', '.join(known)}.")
        if isinstance(amount, bool) or not isinstance(amount, Real) or not abs(float(amount)) <= MAX_ATTRIBUTE:
            raise ValueError(f"The amount of {name} must be a number from -5 to 5, got {amount!r}.")


def broadcast_emotions(emotion: Any, photos: int) -> list[Any]:
    """The emotion of every result: one for all photos, one each, or several for one photo.

    Raises:
        ValueError: If there are neither one photo nor as many as emotions.
    """
    if not isinstance(emotion, (list, tuple)):
        return [emotion] * photos
    if photos not in (1, len(emotion)):
        raise ValueError(f"There are {photos} photos and {len(emotion)} emotions: give one each, or one photo.")
    return list(emotion)


def broadcast_sources(request: EditRequest, photos: int) -> list[Any]:
    """The source emotion of every photo, or a list of its faces': one for all, one each, or of one photo each face's.

    Raises:
        ValueError: If there are not as many as photos.
    """
    shown = request.source_emotion
    if not isinstance(shown, (list, tuple)):
        return [shown] * photos
    if photos == 1 and len(shown) > 1 and not any(isinstance(one, (list, tuple)) for one in shown):
        shown = [shown]
    if len(shown) != photos:
        raise ValueError(f"There are {photos} photos and {len(shown)} source emotions: give one each, or one for all.")
    return list(shown)


def sources_of_faces(shown: Any, faces: int) -> list[Any]:
    """The source emotion of every face of a photo, of which `broadcast_sources` gives one entry.

    Raises:
        ValueError: If there are not as many as faces.
    """
    if not isinstance(shown, (list, tuple)):
        return [shown] * faces
    if len(shown) != faces:
        raise ValueError(f"There are {faces} faces and {len(shown)} source emotions: give one each, or one for all.")
    return list(shown)


def broadcast_faces(request: EditRequest, photos: int) -> list[Any]:
    """What `encode` is to take of every photo: `faces`, or else the choice `face`.

    Raises:
        ValueError: If there are lists of faces, and not one for each photo.
    """
    faces = request.faces
    if faces is None:
        return [request.face] * photos
    if photos == 1 and not any(isinstance(one, (list, tuple)) for one in faces):
        faces = [faces]
    if len(faces) != photos or not all(isinstance(one, (list, tuple)) for one in faces):
        raise ValueError(f"faces must be a list of faces for each of the {photos} photos.")
    return list(faces)


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


def check_best_of(count: Any) -> None:
    """Raise ValueError for a number of samples that cannot be drawn."""
    if not is_count(count, 64):
        raise ValueError(f"best_of must be a whole number from 1 to 64, got {count!r}.")


def check_steps(name: str, steps: Any, scheduler: Any | None) -> None:
    """Raise ValueError for steps that a scheduler does not have; `None` is left to the checkpoint."""
    limit = scheduler.config.get("num_train_timesteps", 1000) if scheduler is not None else 1000
    if steps is not None and not is_count(steps, limit):
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


def is_count(value: Any, limit: int) -> bool:
    """Whether a value is a whole number from 1 to a limit."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= limit


def _is_gaze(gaze: Any) -> bool:
    return gaze == "camera" if isinstance(gaze, str) else _are_angles(gaze, MAX_GAZE)


def _are_angles(angles: Any, limits: Sequence[float]) -> bool:
    """Whether these are as many numbers as limits, each within its own either way."""
    return (
        isinstance(angles, (Sequence, np.ndarray))
        and len(angles) == len(limits)
        and all(isinstance(angle, Real) and abs(float(angle)) <= most for angle, most in zip(angles, limits))
    )
