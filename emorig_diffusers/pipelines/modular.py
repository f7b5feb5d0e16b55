"""`EmoRigPipeline` as blocks of Modular Diffusers: each is a verb of the pipeline, and all in a row are its call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.modular_pipelines import (
    ComponentSpec,
    ConfigSpec,
    InputParam,
    ModularPipeline,
    ModularPipelineBlocks,
    OutputParam,
    PipelineState,
    SequentialPipelineBlocks,
)

from ..models.appearance import AppearanceEncoder
from ..models.detail import DetailModel
from ..models.head import HeadModel
from ..models.landmark_fit import LandmarkEncoder
from ..models.nphm import NeuralHeadModel
from ..models.unet import RigUNet
from ..photo.faces import choose_faces, find_faces
from ..photo.io import Photo, read_photo
from .base import hand_over
from .checks import broadcast_faces
from .emorig import EmoRigPipeline
from .naming import naming_photo
from .request import ARGUMENTS, EditRequest
from .settings import EMORIG
from .steps import encode_references, faces_of_edits

COMPONENTS = {
    "head": HeadModel, "encoder": LandmarkEncoder, "unet": RigUNet, "scheduler": DDIMScheduler,
    "appearance_encoder": AppearanceEncoder, "detail": DetailModel, "neural_head": NeuralHeadModel,
}  # fmt: skip
"""Of the open default; those of a checkpoint are named in its `modular_model_index.json`."""
NEEDED = ("head", "encoder")
FINDING = ("face", "faces", "edits")
READING = ("crop", "source_encoder", "reference", "target_encoder")
SAMPLING = (
    "num_inference_steps", "generator", "latents", "batch_size", "eta", "best_of", "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)  # fmt: skip
_OTHERS = ("attributes", "picture", "semantic_code", "emotion_guidance")  # needs that no pipeline with a head meets
_NOT_EDITING = {"face", "faces", *READING, *SAMPLING, "output_type", "return_dict"}
EDITING = tuple(n for n, one in ARGUMENTS.items() if n not in _NOT_EDITING and one.metadata["needs"] not in _OTHERS)


def arguments(*names: str) -> list[InputParam]:
    """Inputs of a block that are arguments of `EmoRigPipeline.__call__`."""
    about = [(name, ARGUMENTS[name]) for name in names]
    return [InputParam(name, one.type, one.default, description=one.metadata["about"]) for name, one in about]


IMAGE = InputParam("image", Any, description="A photo, or a list, as `EmoRigPipeline.__call__` takes them.")
PHOTOS = "Photos as `photo.io.read_photo` returns them."
EDITS = "For every photo a `painting.base.PhotoEdits`: the photo, its faces, and the codes of each in each result."
ENCODED = "For every photo its faces as `EmoRigPipeline.encode` returns them."
LENDER = "The reference photo, uint8 [H, W, 3], and its face; `None` without one."
PAINTED = "For every result the photo, uint8 [H, W, 3], and its `EditedFace`s."


def needs(name: str, about: str) -> InputParam:
    """An input that another block gives."""
    return InputParam(name, list, required=True, description=about)


def pipeline_of(components: Any) -> EmoRigPipeline:
    """The pipeline of a modular pipeline's components and settings.

    Raises:
        ValueError: If they are not loaded.
    """
    parts: dict[str, Any] = {name: getattr(components, name, None) for name in COMPONENTS}
    known = lambda name: components.get_component_spec(name).pretrained_model_name_or_path is not None
    if missing := [name for name, part in parts.items() if part is None and (name in NEEDED or known(name))]:
        raise ValueError(f"Not loaded: {', '.join(missing)}. Call load_components() of this pipeline first.")
    settings = {name: components.config[name] for name in EMORIG}
    made, given = getattr(components, "_emorig", (None, None))  # kept, as it knows the head's mesh
    if made is None or given != settings or any(getattr(made, name) is not part for name, part in parts.items()):
        made = EmoRigPipeline(**parts, settings=settings)
        components._emorig = made, settings
    return made


def request_of(state: Any, names: Sequence[str], **known: Any) -> EditRequest:
    """What the inputs of a block ask."""
    return EditRequest(**{name: getattr(state, name) for name in names} | known)


def read_photos(image: Any) -> list[Photo]:
    """One photo or a list of them."""
    images, photos = list(image) if isinstance(image, (list, tuple)) else [image], []
    for i, one in enumerate(images, 1):
        with naming_photo(i, len(images)):
            photos.append(read_photo(one))
    return photos


class _Block(ModularPipelineBlocks):
    """A verb.

    Attributes:
        about: What it does.
        takes, gives: Its inputs and outputs.
    """

    about: ClassVar[str]
    takes: ClassVar[list[InputParam]]
    gives: ClassVar[list[OutputParam]]

    description = property(lambda self: self.about)
    inputs = property(lambda self: list(self.takes))
    intermediate_outputs = property(lambda self: list(self.gives))

    @torch.no_grad()
    def __call__(self, components: ModularPipeline, state: PipelineState) -> tuple[ModularPipeline, PipelineState]:
        """As Modular Diffusers calls a block."""
        block_state = self.get_block_state(state)
        self.work(components, block_state)
        self.set_block_state(state, block_state)  # pyright: ignore[reportArgumentType]
        return components, state

    def work(self, components: ModularPipeline, state: Any) -> None:
        """Set the outputs, attributes of `state` as the inputs are."""
        raise NotImplementedError


class _PipelineBlock(_Block):
    """A verb of the pipeline itself."""

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """All: which painter a pipeline has, its network tells, and faces are read for the painter."""
        return [ComponentSpec(name, kind) for name, kind in COMPONENTS.items()]

    @property
    def expected_configs(self) -> list[ConfigSpec]:
        """Settings of the checkpoint."""
        return [ConfigSpec(name, default) for name, default in EMORIG.items()]


class FindFaces(_Block):
    """Photos and their faces."""

    about = "Reads photos and finds their faces."
    takes = [replace(IMAGE, required=True), *arguments(*FINDING)]
    gives = [
        OutputParam("photos", list, PHOTOS),
        OutputParam("found_faces", list, "For every photo the chosen faces, as `photo.faces.find_faces` finds them."),
    ]

    def work(self, components: ModularPipeline, state: Any) -> None:
        """As `_Block.work`."""
        state.photos, state.found_faces = read_photos(state.image), []
        request = request_of(state, FINDING)
        wanted = broadcast_faces(request, len(state.photos))
        faces: Any
        for i, (photo, faces) in enumerate(zip(state.photos, wanted), 1):
            with naming_photo(i, len(state.photos)):
                faces = faces_of_edits(request, photo.rgb, faces)
                chosen = isinstance(faces, (str, int))
                state.found_faces.append(choose_faces(find_faces(photo.rgb), faces) if chosen else faces)


class EncodeFaces(_PipelineBlock):
    """Codes of faces."""

    about = "Reads the codes of faces: shape, expression, pose, camera, light."
    takes = [
        replace(IMAGE, description=f"{IMAGE.description} Not looked at where there are photos."),
        InputParam("photos", list, description=PHOTOS),
        InputParam("found_faces", list, description="For every photo its faces; `None` for the largest."),
        *arguments(*READING),
    ]
    gives = [
        OutputParam("photos", list, PHOTOS),
        OutputParam("encoded_faces", list, ENCODED),
        OutputParam("reference_face", tuple, LENDER),
    ]

    def work(self, components: ModularPipeline, state: Any) -> None:
        """As `_Block.work`."""
        pipe, request = pipeline_of(components), request_of(state, READING)
        state.reference_face = pipe.encode_reference(request)
        state.photos, state.encoded_faces = state.photos or read_photos(state.image), []
        found = broadcast_faces(EditRequest(faces=state.found_faces), len(state.photos))
        for i, (photo, faces) in enumerate(zip(state.photos, found), 1):
            with naming_photo(i, len(state.photos)):
                state.encoded_faces.append(pipe.encode(photo.rgb, faces, request.crop, request.source_encoder))


class EditCodes(_PipelineBlock):
    """Codes that faces are to show."""

    about = "Edits the codes of faces: an emotion, action units, another photo's expression, a turn of the head."
    takes = [
        needs("photos", PHOTOS),
        needs("encoded_faces", ENCODED),
        InputParam("reference_face", tuple, description=LENDER),
        *arguments(*EDITING, *READING),
    ]
    gives = [OutputParam("photo_edits", list, EDITS)]

    def work(self, components: ModularPipeline, state: Any) -> None:
        """As `_Block.work`."""
        pipe, request = pipeline_of(components), request_of(state, (*EDITING, *READING))
        pipe.check(request)
        request = encode_references(pipe, request)
        state.photo_edits = pipe.edit_photos(state.photos, state.encoded_faces, request, state.reference_face)


class PaintFaces(_PipelineBlock):
    """Edited faces in their photos."""

    about = "Paints edited faces into their photos: pixels move, and the network gives what motion cannot."
    takes = [needs("photo_edits", EDITS), *arguments(*SAMPLING)]
    gives = [OutputParam("painted", list, PAINTED)]
    progress: Mapping[str, Any] = {}

    def set_progress_bar_config(self, **options: Any) -> None:
        """As `DiffusionPipeline.set_progress_bar_config`; `ModularPipeline`'s comes here."""
        self.progress = options

    def work(self, components: ModularPipeline, state: Any) -> None:
        """As `_Block.work`."""
        pipe, sampled = pipeline_of(components), {name: getattr(state, name) for name in SAMPLING}
        request = replace(state.photo_edits[0].request, source_emotion=None, **sampled)
        pipe.check(request)
        pipe.set_progress_bar_config(**self.progress)
        results = sum(len(edits.targets) for edits in state.photo_edits)
        with pipe._interruptible():
            state.painted = pipe.paint(state.photo_edits, pipe.sampling_of(request, len(state.photo_edits), results))


class Compose(_Block):
    """Results as the caller wants them."""

    about = "Hands results over in the photos' own mode, with their alpha, profile and metadata."
    takes = [needs("photos", PHOTOS), needs("photo_edits", EDITS), needs("painted", PAINTED), *arguments("output_type")]
    gives = [
        OutputParam("images", list, "Edited photos, as `EmoRigOutput` has them."),
        OutputParam("edited_faces", list, "For every result its `EditedFace`s: codes before and after, masks, notes."),
    ]

    def work(self, components: ModularPipeline, state: Any) -> None:
        """As `_Block.work`."""
        made = hand_over(components, state.photos, state.photo_edits, state.painted, state.output_type)
        state.images, state.edited_faces = made.images, made.faces


class EmoRigBlocks(SequentialPipelineBlocks):
    """`EmoRigPipeline.__call__`, block by block."""

    block_classes = [FindFaces, EncodeFaces, EditCodes, PaintFaces, Compose]
    block_names = ["find_faces", "encode_faces", "edit_codes", "paint_faces", "compose"]
    description = property(lambda self: "Changes the emotion of faces in photos and keeps the person.")
