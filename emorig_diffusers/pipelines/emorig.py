"""EmoRigPipeline: a photo and an emotion in, the same person with that emotion out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from ..diffusion.sampling import Sampling, SamplingMixin
from ..face.codes import FaceCodes
from ..face.edit import EditMixin
from ..face.encode import EncodedFace
from ..hub.repository import HubMixin
from ..models.appearance import AppearanceEncoder
from ..models.detail import DetailModel
from ..models.emoca import EmocaEncoder
from ..models.head import HeadModel
from ..models.landmark_fit import LandmarkEncoder
from ..models.occlusion import MOUTH_KEPT, MOUTH_NOT_LENT
from ..models.unet import RigUNet
from ..painting.base import PaintedFace, Painter, PhotoEdits
from ..painting.diffusion_rig import DiffusionRigPainter, draws_whole_crop
from ..painting.photo_texture import PhotoTexturePainter
from ..painting.stages.flow import PhotoTexture
from ..photo.io import read_photo
from ..photo.resample import warp_crop
from ..render.buffers import buffer_pictures, to_picture
from ..timing import timed
from .naming import naming_photo, naming_reference
from .outputs import EditedFace, EmoRigOutput, as_type
from .request import OUTPUT_TYPES, Request, callback_tensors, check_generators, check_request
from .settings import EMORIG, chosen_settings

__all__ = ["OUTPUT_TYPES", "EditedFace", "EmoRigOutput", "EmoRigPipeline", "EncodedFace"]

Lender = tuple[np.ndarray, EncodedFace]  # the reference: photo and face


class EmoRigPipeline(SamplingMixin, EditMixin, HubMixin, DiffusionPipeline):
    """Change the emotion of faces in photos.

    A network that sees ("rendered", "normal", "albedo") draws the whole crop, as published (DiffusionRig); any other
    paints what moving the photo's pixels cannot give.

    Args:
        head: Shape and expression codes to vertices.
        encoder: A face to its codes.
        unet: The network; without it plain fillings stand where moving the photo's pixels gives nothing.
        scheduler: Sampler of the network.
        appearance_encoder: Code of the photo for networks that take one.
        detail: DECA's wrinkles, for pipelines whose encoder looks at DECA's crop.
        emotions: Emotion recipes of this checkpoint; `None` for `emorig_diffusers.face.emotions.RECIPES`.
        default_num_inference_steps: Steps where the caller gives none.
        crop_size: Side of the aligned crop the network was trained on, pixels.
        repaint_window: (left, top, side) of the part of the crop the network sees, unless it draws the whole crop.
        residual_scale: The network's output is this times the difference from its base, unless it draws the whole crop.
        code_parts: What the network is told of a face besides pictures, in order: names of `encode.CODE_PARTS`, in a
            sequence or in one text with spaces between them.
        shape: Shape code of the one person that a network which draws the whole crop was tuned on; it replaces what
            the encoder reads from each photo.
        crop: Which square of the photo the network draws, or the crop that moved pixels are computed on: one of
            `crops.PICTURE_FRAMES`.
        crop_landmarks: Whose landmarks DECA's crop is put around: "mediapipe", or "fan" as published.
        resampling: How photos become pictures, one of `pictures.RESAMPLINGS`: "area", or "skimage" as published.
        rasterizer: How heads are drawn, one of `rasterize.RULES`: "exact", or "pytorch3d" as published.
        emotion_codes: Emotion -> expression and jaw [E + 3], absolute; they replace the recipes, and are what a head
            without named units needs.
        wrinkles: Depth of the wrinkles of expression that are shaded onto moved pixels, 0 for none; heads without
            named units have none.
        shading: Strength of the shade that comes with expressions, 0 for none; heads without shading maps have none.
        light_blur: Pixels of the crop over which the network's word on the mouth's inside is averaged, so that it
            tells how light spreads among the drawn teeth (mouth.py); 0 takes its own teeth.
        best_of: Samples of each face, of which the least grainy is kept, where the caller gives none; for networks
            that draw the whole crop.
        settings: The checkpoint's, of the arguments above from `emotions` on (`pipe.components` has them); they count
            for those that are `None`, else `settings.EMORIG` do.

    Raises:
        ValueError: If a code part or a choice is unknown, `wrinkles`, `shading` or `light_blur` is negative, or
            `best_of` below 1.
    """

    model_cpu_offload_seq = "detail->appearance_encoder->unet"
    _optional_components = ["unet", "scheduler", "appearance_encoder", "detail"]
    _exclude_from_cpu_offload = ["head", "encoder"]  # they tell nothing of where the networks compute

    def __init__(
        self,
        head: HeadModel,
        encoder: LandmarkEncoder | EmocaEncoder,
        unet: RigUNet | None = None,
        scheduler: Any | None = None,
        appearance_encoder: AppearanceEncoder | None = None,
        detail: DetailModel | None = None,
        emotions: dict[str, dict[str, float]] | None = None,
        default_num_inference_steps: int | None = None,
        crop_size: int | None = None,
        repaint_window: tuple[int, int, int] | list[int] | None = None,
        residual_scale: float | None = None,
        code_parts: str | tuple[str, ...] | list[str] | None = None,
        shape: list[float] | None = None,
        crop: str | None = None,
        crop_landmarks: str | None = None,
        resampling: str | None = None,
        rasterizer: str | None = None,
        emotion_codes: dict[str, list[float]] | None = None,
        wrinkles: float | None = None,
        shading: float | None = None,
        light_blur: float | None = None,
        best_of: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        chosen = chosen_settings(EMORIG, settings, locals())
        self.register_modules(
            head=head, encoder=encoder, unet=unet, scheduler=scheduler, appearance_encoder=appearance_encoder,
            detail=detail,
        )  # fmt: skip
        self.register_to_config(**chosen)
        self._texture: PhotoTexture | None = None

    @property
    def texture(self) -> PhotoTexture:
        """What moving pixels knows of the head's mesh."""
        if self._texture is None or self._texture.head is not self.head:
            self._texture = PhotoTexture(self.head)
        return self._texture

    @property
    def brought(self) -> str:
        """As `HubMixin.brought`; the open head's units have names, FLAME's components have not."""
        if self.head.config.expression_names:
            return ""
        return (
            "The head, and networks trained on its codes, come from FLAME, DECA, EMOCA or DiffusionRig: research only, "
            "not to be passed on"
        )

    @contextmanager
    def _rig_aside(self) -> Iterator[None]:
        """Keep head and encoder out of what diffusers does to all components: they compute on the CPU in float32."""
        rig = {name: self.__dict__[name] for name in ("head", "encoder")}
        self.__dict__.update(dict.fromkeys(rig))  # past __setattr__, which would change the config
        try:
            yield
        finally:
            self.__dict__.update(rig)

    def to(self, *args: Any, **kwargs: Any) -> EmoRigPipeline:
        """Move or cast the networks, as `DiffusionPipeline.to`; head and encoder stay where they are."""
        with self._rig_aside():
            return super().to(*args, **kwargs)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers, for the networks."""
        with self._rig_aside():
            super().enable_model_cpu_offload(*args, **kwargs)

    @property
    def repaint_window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop that the network sees."""
        left, top, side = self.config.repaint_window
        return slice(top, top + side), slice(left, left + side)

    def check_inputs(self, **given: Any) -> None:
        """Raise ValueError with one sentence for what cannot be done; arguments of `__call__` by name."""
        check_request(self, Request(**given))

    @property
    def painter(self) -> Painter:
        """Draws this checkpoint's faces."""
        return DiffusionRigPainter(self) if draws_whole_crop(self.unet) else PhotoTexturePainter(self)

    @property
    def capabilities(self) -> frozenset[str]:
        """What a request may ask of this checkpoint."""
        return self.painter.capabilities

    @property
    def latents_side(self) -> int:
        """Side of what the network sees, pixels of the crop."""
        return self.painter.latents_side

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        emotion: str | Mapping[str, float] | Sequence[str | Mapping[str, float]] | None = None,
        intensity: float = 1.0,
        reference: Any | None = None,
        action_units: Mapping[str, float] | None = None,
        codes: FaceCodes | None = None,
        face: int | Literal["largest", "all"] = "largest",
        rotate: Sequence[float] | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        latents: Tensor | Literal["photo"] | None = None,
        modes: Sequence[str] = ("exp",),
        source_encoder: str | None = None,
        target_encoder: str | None = None,
        crop: str | None = None,
        detail: bool = False,
        batch_size: int = 8,
        best_of: int | None = None,
    ) -> EmoRigOutput | tuple:
        """Edit one photo or a list of photos.

        Args:
            image: Path, PIL image, array [H, W(, C)] or tensor [3, H, W] in [0, 1], or a list of them.
            emotion: One of the eight emotions, or a blend such as `{"happy": .6, "surprise": .4}`; a list gives each
                photo its own, and one photo every one of them.
            intensity: 0 returns the photo itself, 1 is a clear emotion, 1.5 the most; faint smiles have closed lips.
            reference: A photo whose (largest) face lends what `modes` says.
            action_units: Amounts of action units (`AU12`, `L12`, `R12`) or expression units to add, e.g. `{"AU1": .5}`.
            codes: Codes whose expression and pose are used as they are.
            face: "largest", "all", or a number from 1 counted from the left.
            rotate: (yaw, pitch, roll) in degrees to turn the head by; the subject's left, up and right shoulder. Moved
                pixels can show 30 degrees a way, and 45 past the camera in all.
            num_inference_steps: Steps of the network; `None` for the checkpoint's.
            generator: For repeatable results: one, or a list with one for each photo (or each emotion of one photo),
                whose result is then that of a call with this photo and generator alone.
            output_type: "pil", "np" or "pt".
            return_dict: Return an `EmoRigOutput`, else a tuple (images, faces).
            callback_on_step_end: Called as `f(pipe, step, timestep, {"latents": …})`, as in diffusers; a true
                `pipe._interrupt` ends the sampling, and faces that it has not begun stay as they are.
            callback_on_step_end_tensor_inputs: What it is given, and may give back: of "latents", "conditions", "code".
            latents: Noise [1, 3, S, S] to start every face from, instead of fresh noise for each; S is the side of
                what the network sees. "photo" takes the noise that DDIM inversion finds for each photo.
            modes: What the reference lends: "exp" (expression and jaw), "pose", "light", "latent" (the code of the
                photo), the last two for networks that draw the whole crop.
            source_encoder, target_encoder: "deca" or "emoca", for encoders that can be both: who reads the codes of
                the photo, and those of the reference. `None` for the checkpoint's.
            crop: Which square of the photo the network draws ("whole" for photos that are aligned already); `None`
                for the checkpoint's.
            detail: Draw DECA's wrinkles into the normals.
            batch_size: Faces that a network which draws the whole crop draws at a time.
            best_of: Samples that it draws of each face, from other noise each; the least grainy is kept. `None` for the
                checkpoint's, 1 where `latents` are given.

        Raises:
            PhotoError, NoFaceError, ValueError: With one sentence that says what to do.
        """
        # 1. check
        request = Request(
            emotion, intensity, reference, action_units, codes, rotate, num_inference_steps, output_type, latents,
            modes, source_encoder, target_encoder, crop, detail, batch_size, best_of,
        )  # fmt: skip
        check_request(self, request)
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        emotions = request.emotions(len(images))
        generator = check_generators(generator, len(images), len(emotions))
        tensors = callback_tensors(callback_on_step_end, callback_on_step_end_tensor_inputs)
        steps = num_inference_steps or self.config.default_num_inference_steps
        tries = best_of or (self.config.best_of if latents is None else 1)
        sampling = Sampling(
            steps, generator, latents, callback_on_step_end, batch_size, best_of=tries, callback_tensors=tensors
        )

        # 2. read, and encode the reference and the faces
        photos, encoded, lender = [], [], None
        if reference is not None:
            with naming_reference():
                rgb = read_photo(reference).rgb
                lender = rgb, self.encode_photo(rgb, "largest", crop, target_encoder)[0]
        for i, one in enumerate(images, 1):
            with naming_photo(i, len(images)):
                photos.append(read_photo(one))
                encoded.append(self.encode_photo(photos[-1].rgb, face, crop, source_encoder))
        if isinstance(generator, list) and len(generator) < len(emotions):
            sampling = replace(sampling, generator=generator * len(emotions))

        # 3. edit their codes, 4. paint
        look = lender if lender and "latent" in request.modes and request.intensity > 0 else None
        moods = [[emotion] for emotion in emotions] if len(photos) == len(emotions) else [emotions]
        edits = []
        for i, (photo, faces, wanted) in enumerate(zip(photos, encoded, moods), 1):
            with naming_photo(i, len(images)):
                targets = [[self._target(face, request, mood, lender) for face in faces] for mood in wanted]
            edits.append(PhotoEdits(photo.rgb, faces, targets, look, request.detail))
        with self._interruptible():
            results = self.paint(edits, sampling)

        # 5. hand over
        owners = [i for i, wanted in enumerate(moods) for _ in wanted]
        pictures = [as_type(photos[i], rgb, output_type) for i, (rgb, _) in zip(owners, results)]
        edited = [faces for _, faces in results]
        for i, faces in zip(owners, edited):
            for face, one in zip(encoded[i], faces):
                one.notes = self._notes(face, request, lender)
        for note in sorted({note for faces in edited for one in faces for note in one.notes}):
            warnings.warn(note, stacklevel=3)
        self.maybe_free_model_hooks()
        return EmoRigOutput(pictures, edited) if return_dict else (pictures, edited)

    def _target(self, face: EncodedFace, request: Request, emotion: Any, lender: Lender | None) -> FaceCodes:
        codes, reference = request.codes, None if lender is None else lender[1]
        if codes is not None:
            target = face.codes.with_(expression=codes.expression, pose=codes.pose)
            target = self.keep_mouth(face.codes, target) if face.covered else target
        else:
            units, rotate = request.action_units, request.rotate
            target = self.edit_codes(face, emotion, request.intensity, reference, units, rotate, request.modes)
        self.painter.check_target(face.codes, target)
        return target

    def _notes(self, face: EncodedFace, request: Request, lender: Lender | None) -> tuple[str, ...]:
        """What an edit leaves out for something is before a mouth."""
        lent = lender is not None and "exp" in request.modes
        moved = request.intensity > 0 and (request.emotion is not None or lent)
        hidden = face.covered and (moved or bool(request.action_units) or request.codes is not None)
        lacking = moved and lent and lender[1].covered and bool(self.head.config.expression_names)
        return (MOUTH_KEPT,) * hidden + (MOUTH_NOT_LENT,) * lacking

    def paint(
        self, photos: Sequence[PhotoEdits], sampling: Sampling
    ) -> list[tuple[np.ndarray, list[EditedFace]]]:
        """Every result of photos: uint8 [H, W, 3], and its faces.

        Args:
            photos: Photos and target codes.
            sampling: How the network is sampled; a list of generators has one for each result.
        """
        painted = self.painter.paint(photos, sampling)
        pairs = [(edits.faces, targets) for edits in photos for targets in edits.targets]
        return [
            (result.rgb, [self._describe(result.rgb, *face) for face in zip(faces, targets, result.faces)])
            for result, (faces, targets) in zip(painted, pairs)
        ]

    def _describe(
        self, rgb: np.ndarray, face: EncodedFace, target: FaceCodes, painted: PaintedFace | None
    ) -> EditedFace:
        """What happened to a face of a result."""
        size = self.config.crop_size
        with timed("buffers for the output"):
            vertices = self.painter.place_head(face.codes, target)
            drawn = painted and painted.buffers
            heads = drawn or self.draw_head(target, size, face.transform, vertices)
            buffers = buffer_pictures(heads, bool(self.head.config.num_texture))
        buffers["repainted"] = painted.mask if painted else Image.new("L", (size, size))
        crop = Image.fromarray(warp_crop(rgb, face.grid_matrix(size), size))
        picture = to_picture(painted.picture) if painted and painted.picture is not None else None
        number, box = face.face.index + 1, face.face.box
        return EditedFace(number, box, face.codes, target, crop, buffers, vertices[0], picture)
