"""EmoRigPipeline: a photo and an emotion in, the same person with that emotion out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image

from ..diffusion.sampling import Sampling
from ..face.codes import FaceCodes
from ..face.edit import EditMixin
from ..face.encode import EncodedFace
from ..face.gaze import EYES_KEPT
from ..face.light import relit
from ..models.appearance import AppearanceEncoder
from ..models.detail import DetailModel
from ..models.emoca import EmocaEncoder
from ..models.head import HeadModel
from ..models.landmark_fit import LandmarkEncoder
from ..models.nphm import NeuralHeadModel
from ..models.occlusion import MOUTH_KEPT, MOUTH_NOT_LENT
from ..models.unet import RigUNet
from ..painting.base import PaintedFace, Painter, PhotoEdits
from ..painting.diffusion_rig import DiffusionRigPainter, draws_whole_crop
from ..painting.neural_normals import NeuralNormals
from ..painting.photo_texture import PhotoTexturePainter
from ..painting.stages.flow import PhotoTexture
from ..photo.resample import warp_crop
from ..render.buffers import buffer_pictures, to_picture
from ..timing import timed
from .base import FacePipeline
from .checks import check_rig_request
from .outputs import DrawnWhenAsked, EditedFace, EmoRigOutput
from .request import OUTPUT_TYPES, EditRequest
from .settings import EMORIG, chosen_settings
from .steps import encode_references, steps_of

__all__ = ["OUTPUT_TYPES", "EditedFace", "EmoRigOutput", "EmoRigPipeline", "EncodedFace"]


class EmoRigPipeline(EditMixin, FacePipeline):
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
        neural_head: A neural head, for `normals`.
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
        wrinkles: Depth of the lines between the brows that come with a frown, 0 for none; heads without named units
            have none.
        shading: Strength of the shade that comes with expressions, 0 for none; heads without shading maps have none.
        light_blur: Pixels of the crop over which the network's word on the mouth's inside is averaged, so that it
            tells how light spreads among the drawn teeth (mouth.py); 0 takes its own teeth.
        best_of: Samples of each face, of which the least grainy is kept, where the caller gives none; for networks
            that draw the whole crop.
        normals: Whose normals networks that draw the whole crop see: "linear", the head's, as published, or "neural",
            those of `neural_head`, which is fitted to the head's faces (`painting/neural_normals.py`).
        settings: The checkpoint's, of the arguments above from `emotions` on (`pipe.components` has them); they count
            for those that are `None`, else `settings.EMORIG` do.

    Raises:
        ValueError: If a code part or a choice is unknown, `wrinkles`, `shading` or `light_blur` is negative, or
            `best_of` below 1; or if `normals` are to be neural without a neural head.
    """

    blocks = "emorig_diffusers.pipelines.modular.EmoRigBlocks"
    encoder: LandmarkEncoder | EmocaEncoder
    model_cpu_offload_seq = "detail->appearance_encoder->unet"
    _optional_components = ["unet", "scheduler", "appearance_encoder", "detail", "neural_head"]
    # they stay on the CPU, and tell nothing of where the networks compute
    _exclude_from_cpu_offload = ["head", "encoder", "neural_head"]

    def __init__(
        self,
        head: HeadModel,
        encoder: LandmarkEncoder | EmocaEncoder,
        unet: RigUNet | None = None,
        scheduler: Any | None = None,
        appearance_encoder: AppearanceEncoder | None = None,
        detail: DetailModel | None = None,
        neural_head: NeuralHeadModel | None = None,
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
        normals: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        chosen = chosen_settings(EMORIG, settings, locals())
        if chosen["normals"] == "neural" and neural_head is None:
            raise ValueError("normals='neural' needs a neural head: give neural_head, or normals='linear'.")
        self.register_modules(
            head=head, encoder=encoder, unet=unet, scheduler=scheduler, appearance_encoder=appearance_encoder,
            detail=detail, neural_head=neural_head,
        )  # fmt: skip
        self.register_to_config(**chosen)
        self._texture: PhotoTexture | None = None
        self._neural_normals: NeuralNormals | None = None

    @property
    def texture(self) -> PhotoTexture:
        """What moving pixels knows of the head's mesh."""
        if self._texture is None or self._texture.head is not self.head:
            self._texture = PhotoTexture(self.head)
        return self._texture

    @property
    def neural_normals(self) -> NeuralNormals | None:
        """What draws a neural head's normals; `None` where the linear head's are seen."""
        if self.config.normals != "neural":
            return None
        own = self._neural_normals
        if own is None or own.linear is not self.head or own.neural is not self.neural_head:
            self._neural_normals = NeuralNormals(self.head, self.neural_head)
        return self._neural_normals

    @property
    def brought(self) -> str:
        """As `HubMixin.brought`; the open head's units have names, FLAME's components have not, and only NPHM's own
        neural heads have its `blend_epsilon`."""
        whose = []
        if not self.head.config.expression_names:
            whose.append("The head, and networks trained on its codes, come from FLAME, DECA, EMOCA or DiffusionRig")
        if self.neural_head is not None and self.neural_head.config.blend_epsilon:
            whose.append("The neural head comes from NPHM")
        return f"{'. '.join(whose)}: research only, not to be passed on" if whose else ""

    def to(self, *args: Any, **kwargs: Any) -> EmoRigPipeline:
        """Move or cast the networks, as `DiffusionPipeline.to`; head and encoder stay on the CPU in float32."""
        networks: Any = copy(self)
        networks.head = networks.encoder = networks.neural_head = None
        DiffusionPipeline.to(networks, *args, **kwargs)
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers, for the networks; head and encoder, which it takes to the GPU, come back."""
        super().enable_model_cpu_offload(*args, **kwargs)
        for part in filter(None, map(self.components.get, self._exclude_from_cpu_offload)):
            part.to("cpu")

    @property
    def repaint_window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop that the network sees."""
        left, top, side = self.config.repaint_window
        return slice(top, top + side), slice(left, left + side)

    @property
    def painter(self) -> Painter:
        """Draws this checkpoint's faces."""
        return DiffusionRigPainter(self) if draws_whole_crop(self.unet) else PhotoTexturePainter(self)

    @property
    def capabilities(self) -> frozenset[str]:
        """As `FacePipeline.capabilities`; "action_units" where the head's units have names."""
        names = self.head.config.expression_names
        named = ({"action_units"} if names else set()) | ({"gaze"} if "eyeLookUpLeft" in names else set())
        return frozenset({"head", "mesh", *named}) | self.painter.capabilities

    @property
    def latents_side(self) -> int:
        """Side of what the network sees, pixels of the crop."""
        return self.painter.latents_side

    def describe_codes(self, face: EncodedFace) -> dict[str, Any]:
        """As `FacePipeline.describe_codes`; the expression also by the names of its units, where they have any."""
        units = zip(self.head.config.expression_names, face.codes.expression[0].tolist())
        place = {"number": face.face.index + 1, "box": list(face.face.box)}
        return place | {"expression": dict(units), "codes": face.codes.to_dict()}

    def check(self, request: EditRequest) -> None:
        """As `FacePipeline.check`."""
        super().check(request)
        check_rig_request(self, request)

    def edit(self, face: EncodedFace, request: EditRequest, reference: EncodedFace | None = None) -> FaceCodes:
        """As `FacePipeline.edit`."""
        target = face.codes
        for step in steps_of(encode_references(self, request), face.face.index + 1):
            target = self._edit_from(target, face, step, step.reference)
        target = self._edit_from(target, face, request, reference)
        self.painter.check_target(face.codes, target)
        return target

    def _edit_from(
        self, start: FaceCodes, face: EncodedFace, request: EditRequest, reference: EncodedFace | None
    ) -> FaceCodes:
        """What one edit makes of codes to start from."""
        light = request.light_turn, request.light_strength
        if request.codes is not None:
            target = start.with_(expression=request.codes.expression, pose=request.codes.pose)
            return relit(self.keep_mouth(face.codes, target) if face.covered else target, face.codes, *light)
        units, rotate, gaze = request.action_units, request.rotate, request.gaze
        emotion: Any = request.emotion  # of one result
        target = self.edit_codes(face, emotion, request.intensity, reference, units, rotate, request.modes, gaze, start)
        return relit(target, face.codes, *light)

    def paint(self, photos: Sequence[PhotoEdits], sampling: Sampling) -> list[tuple[np.ndarray, list[EditedFace]]]:
        """As `FacePipeline.paint`."""
        painted = self.painter.paint(photos, sampling)
        results = [(edits, targets) for edits in photos for targets in edits.targets]
        return [
            (made.rgb, [self._describe(edits, made.rgb, *face) for face in zip(edits.faces, targets, made.faces)])
            for made, (edits, targets) in zip(painted, results)
        ]

    def _describe(
        self, edits: PhotoEdits, rgb: np.ndarray, face: EncodedFace, target: FaceCodes, painted: PaintedFace | None
    ) -> EditedFace:
        """What happened to a face of a result."""
        size, textured = self.config.crop_size, bool(self.head.config.num_texture)
        vertices = self.painter.place_head(face.codes, target)
        mask = painted.mask if painted else Image.new("L", (size, size))
        drawn = painted and painted.buffers

        def draw() -> dict[str, Image.Image]:
            with timed("buffers for the output"):
                heads = drawn or self.draw_head(target, size, face.transform, vertices)
                return buffer_pictures(heads, textured) | {"repainted": mask}

        buffers = draw() if drawn else DrawnWhenAsked(draw)
        crop = Image.fromarray(warp_crop(rgb, face.grid_matrix(size), size))
        picture = to_picture(painted.picture) if painted and painted.picture is not None else None
        number, box, notes = face.face.index + 1, face.face.box, self._notes(face, edits)
        notes += painted.notes if painted else ()
        return EditedFace(number, box, face.codes, target, crop, buffers, picture, vertices[0], notes=notes)

    def _notes(self, face: EncodedFace, edits: PhotoEdits) -> tuple[str, ...]:
        """What an edit leaves out for something is before a mouth, or for eyes are shut."""
        lent, named = edits.reference and edits.reference[1], bool(self.head.config.expression_names)
        earlier = [(step, step.reference) for step in steps_of(edits.request, face.face.index + 1)]
        hidden = lacking = shut = False
        for step, lender in (*earlier, (edits.request, lent)):
            lends = lender is not None and "exp" in step.modes
            moved = step.intensity > 0 and (step.emotion is not None or lends)
            hidden |= face.covered and (moved or bool(step.action_units) or step.codes is not None)
            shut |= step.gaze is not None and any(face.shut_eyes)
            lacking |= moved and lends and lender is not None and lender.covered and named
        return (MOUTH_KEPT,) * hidden + (MOUTH_NOT_LENT,) * lacking + (EYES_KEPT,) * shut
