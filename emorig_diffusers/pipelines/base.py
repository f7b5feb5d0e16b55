"""What every pipeline is: faces of a photo are encoded, their codes edited, and the edited faces painted."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..diffusion.sampling import Sampling, SamplingMixin
from ..hub.index import read_index
from ..hub.repository import HubMixin, fetch
from ..painting.base import PhotoEdits
from ..photo.io import Photo, read_photo
from .checks import (
    broadcast_emotions,
    broadcast_faces,
    broadcast_sources,
    callback_tensors,
    check_generators,
    check_request,
    sources_of_faces,
)
from .marking import edit_of
from .naming import naming_photo, naming_reference
from .outputs import EditedFace, EmoRigOutput, as_type
from .request import EditRequest, Understood, describe_arguments, signature
from .steps import encode_references, faces_of_edits

PIPELINES = {"EmoRigPipeline": "emorig", "DiffAEEmotionPipeline": "diffae", "EmotionLDMPipeline": "emotion_ldm"}
"""Class -> its module here: what `open_pipeline` can open. A new system adds a line."""


def pipeline_class(name: object) -> type[FacePipeline]:
    """The class of a name of PIPELINES; `EmoRigPipeline` for any other."""
    name = name if isinstance(name, str) and name in PIPELINES else "EmoRigPipeline"
    return getattr(import_module(f".{PIPELINES[name]}", __package__), name)


def open_pipeline(name: str | os.PathLike, **kwargs: Any) -> FacePipeline:
    """Open whichever of the package's pipelines a bundled name, a folder or a Hub id holds.

    Args:
        name: As for `from_pretrained`.
        kwargs: Likewise.
    """
    kind = read_index(fetch(name, **kwargs)).get("_class_name")
    kind = kind[-1] if isinstance(kind, list) and kind else kind
    return pipeline_class(kind).from_pretrained(name, **kwargs)


def wanted_results(request: EditRequest, photos: int) -> list[list[Any]]:
    """The emotions of every photo's results."""
    emotions = broadcast_emotions(request.emotion, photos)
    return [[emotion] for emotion in emotions] if photos == len(emotions) else [emotions]


def hand_over(
    pipe: Any,
    photos: Sequence[Photo],
    edits: Sequence[PhotoEdits],
    painted: Sequence[tuple[np.ndarray, list[EditedFace]]],
    output_type: str,
) -> EmoRigOutput:
    """What `FacePipeline.paint` made of photos, as "pil", "np" or "pt"; pictures know of their edits."""
    wanted = wanted_results(edits[0].request, len(photos)) if photos else []
    asked = [(i, replace(edits[i].request, emotion=emotion)) for i, each in enumerate(wanted) for emotion in each]
    said = [edit_of(pipe, request, edits[i].faces, photos[i].original.size) for i, request in asked]
    owners = [photos[i] for i, _ in asked]
    pictures = [as_type(photo, rgb, output_type, edit) for photo, (rgb, _), edit in zip(owners, painted, said)]
    return EmoRigOutput(pictures, [faces for _, faces in painted])


class FacePipeline(SamplingMixin, HubMixin, DiffusionPipeline):
    """A photo and an edit in, the edited photo out. A system gives `encode`, `edit`, `paint` and `capabilities`.

    Attributes:
        defaults: Arguments of a call whose defaults are not those of `EditRequest`.
        judge: Probability of each emotion that a face shows, from a photo uint8 [H, W, 3] and its box (x0, y0, x1, y1)
            in pixels, where edits start from it: set it before faces are encoded.
        asks_judge: Whether they do.
        noise_per_result: Whether each of several results of one photo has noise of its own.
        watermark: Whether faces of results are marked, invisibly, where they are saved (`EmoRigOutput.save`).
    """

    judge: Callable[[np.ndarray, tuple[float, float, float, float]], Mapping[str, float]] | None = None
    defaults: ClassVar[dict[str, Any]] = {}
    noise_per_result: ClassVar[bool] = True
    asks_judge: ClassVar[bool] = False
    watermark: bool = True

    @property
    def capabilities(self) -> frozenset[str]:
        """What a request may ask of this checkpoint, as `EditRequest`'s fields need it; "mesh" is a head to export."""
        raise NotImplementedError

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Emotions that this checkpoint knows."""
        raise NotImplementedError

    def encode(
        self, photo: np.ndarray, faces: Any = "largest", crop: str | None = None, encoder: str | None = None
    ) -> list[Any]:
        """Faces of a photo uint8 [H, W, 3] with their codes.

        Args:
            photo: The photo.
            faces: "largest", "all", a number from 1 counted from the left; or faces as `photo.faces.find_faces` finds
                them or as this method returns them.
            crop: Which square of the photo is the network's picture; `None` for the checkpoint's.
            encoder: "deca" or "emoca" for encoders that can be both; `None` for the checkpoint's.

        Raises:
            NoFaceError: If there is no such face.
        """
        raise NotImplementedError

    def reconstruct(self, image: Any, crop: str | None = None, sampling: Sampling | None = None) -> Image.Image:
        """The largest face of a photo through the network and back, [S, S]: what every edit starts from, in pipelines
        whose capabilities have "picture".

        Args:
            image, crop: As for `__call__`.
            sampling: Steps and noise, where something is sampled; `None` for the checkpoint's steps and the photo's
                own noise.
        """
        raise NotImplementedError

    def edit(self, face: Any, request: EditRequest, reference: Any | None = None) -> Any:
        """Codes that a face is to show.

        Args:
            face: As `encode` returns it.
            request: What is asked, of one emotion and one source emotion.
            reference: The reference's face.
        """
        raise NotImplementedError

    def paint(self, photos: Sequence[PhotoEdits], sampling: Sampling) -> list[tuple[np.ndarray, list[EditedFace]]]:
        """Every result of photos: uint8 [H, W, 3], and its faces.

        Args:
            photos: Photos and target codes.
            sampling: How the network is sampled; a list of generators has one for each result, or for each photo where
                its results share their noise.
        """
        raise NotImplementedError

    def describe_codes(self, face: Any) -> dict[str, Any]:
        """How a face was read, as JSON holds it: number, box (x0, y0, x1, y1) in photo pixels, and its codes."""
        raise NotImplementedError

    def check(self, request: EditRequest) -> None:
        """Raise ValueError with one sentence for what cannot be done."""
        check_request(self, request)

    def check_inputs(self, **given: Any) -> None:
        """As `check`, from arguments of `__call__` by name."""
        self.check(EditRequest(**self.defaults | given))

    @torch.no_grad()
    def __call__(self, image: Any, *positional: Any, **given: Any) -> EmoRigOutput:
        """Edit one photo or a list of photos.

        Args:
            image: Path, PIL image, array [H, W(, C)] or tensor [3, H, W] in [0, 1], or a list of them.
            {arguments}

        Returns:
            Photos and faces; with `return_dict=False` the two as a tuple.

        Raises:
            PhotoError, NoFaceError, ValueError: With one sentence that says what to do.
            TypeError: An argument that there is not.
        """
        # 1. check
        bound = signature(self.defaults).bind(self, image, *positional, **given).arguments
        request = EditRequest(**self.defaults | {k: v for k, v in bound.items() if k not in ("self", "image")})
        self.check(request)
        if isinstance(request.prompt, Understood) and request.prompt.reading.unknown:
            warnings.warn(f"Not understood: {', '.join(request.prompt.reading.unknown)}.", stacklevel=3)
        request = encode_references(self, request)
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        results = wanted_results(request, len(images))
        broadcast_sources(request, len(images))
        sampling = self.sampling_of(request, len(images), sum(map(len, results)))

        # 2. read, find, encode
        reference = self.encode_reference(request)
        photos, encoded = [], []
        for i, (one, faces) in enumerate(zip(images, broadcast_faces(request, len(images))), 1):
            with naming_photo(i, len(images)):
                photos.append(read_photo(one))
                faces = faces_of_edits(request, photos[-1].rgb, faces)
                encoded.append(self.encode(photos[-1].rgb, faces, request.crop, request.source_encoder))

        # 3. edit, 4. paint
        edits = self.edit_photos(photos, encoded, request, reference)
        with self._interruptible():
            painted = self.paint(edits, sampling)

        # 5. hand over
        made = hand_over(self, photos, edits, painted, request.output_type)
        for note in sorted({note for faces in made.faces for face in faces for note in face.notes}):
            warnings.warn(note, stacklevel=3)
        self.maybe_free_model_hooks()
        output: Any = made if request.return_dict else (made.images, made.faces)
        return output

    __call__.__wrapped__.__signature__ = signature({})
    __call__.__doc__ = str(__call__.__doc__).format(arguments=describe_arguments().strip())

    def encode_reference(self, request: EditRequest) -> tuple[np.ndarray, Any] | None:
        """The photo that lends an expression, uint8 [H, W, 3], and its face, where a request names one."""
        if request.reference is None:
            return None
        with naming_reference():
            rgb = read_photo(request.reference).rgb
            return rgb, self.encode(rgb, "largest", request.crop, request.target_encoder)[0]

    def edit_photos(
        self,
        photos: Sequence[Photo],
        encoded: Sequence[Sequence[Any]],
        request: EditRequest,
        reference: tuple[np.ndarray, Any] | None = None,
    ) -> list[PhotoEdits]:
        """Photos, the faces of each as `encode` returns them, and the codes that they are to show."""
        count, edits, lent = len(photos), [], reference and reference[1]
        sources, results = broadcast_sources(request, count), wanted_results(request, count)
        for i, (photo, faces, wanted, source) in enumerate(zip(photos, encoded, results, sources), 1):
            with naming_photo(i, count):
                told = sources_of_faces(source, len(faces))
                ask = lambda emotion, shown: replace(request, emotion=emotion, source_emotion=shown)
                pairs = list(zip(faces, told))
                targets = [[self.edit(face, ask(each, shown), lent) for face, shown in pairs] for each in wanted]
            edits.append(PhotoEdits(photo.rgb, faces, targets, replace(request, source_emotion=told), reference))
        return edits

    def sampling_of(self, request: EditRequest, photos: int = 1, results: int = 1) -> Sampling:
        """How the network is sampled for a request, of so many photos or results."""
        per_result = results if self.noise_per_result else photos
        generator = check_generators(request.generator, photos, per_result)
        if isinstance(generator, list) and len(generator) < per_result:
            generator = generator * per_result
        callback, names = request.callback_on_step_end, request.callback_on_step_end_tensor_inputs
        return Sampling(
            request.num_inference_steps or self.config.default_num_inference_steps, generator, request.latents,
            callback, request.batch_size, callback_tensors=callback_tensors(callback, names),
            best_of=request.best_of or (self.config.get("best_of", 1) if request.latents is None else 1),
            eta=request.eta,
        )  # fmt: skip
