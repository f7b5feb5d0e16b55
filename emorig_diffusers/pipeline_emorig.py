"""EmoRigPipeline: a photo and an emotion in, the same person with that emotion out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from . import compose
from .codes import FaceCodes
from .emotions import action_unit_offset, check_amount, emotion_offset
from .faces import warp_crop
from .hub import fetch, needs_no_trust
from .models.appearance import AppearanceEncoder
from .models.emoca import EmocaEncoder
from .models.head import HeadModel
from .models.landmarks import LandmarkEncoder
from .models.unet import RigUNet
from .photos import Photo, read_photo
from .phototexture import PhotoTexture, move_pixels
from .published import PublishedMixin
from .repaint import stack_conditions
from .rig import OPEN_CODE, EncodedFace, part_names, unchanged
from .sampling import Sampling

OUTPUT_TYPES = ("pil", "np", "pt")
GRID = 512  # side of the grid on which motion is computed


@dataclass
class EditedFace:
    """What happened to one face.

    Attributes:
        number: 1 for the leftmost face of the photo.
        box: (x0, y0, x1, y1) in photo pixels.
        source, target: Codes before and after.
        crop: Aligned crop of the result.
        buffers: The head under the target codes: `normal`, `albedo`, `rendered`, and `repainted`, the mask of what
            the network painted.
        vertices: Target head [V, 3] in metres, where the target's camera sees it in the crop.
    """

    number: int
    box: tuple[float, float, float, float]
    source: FaceCodes
    target: FaceCodes
    crop: Image.Image
    buffers: dict[str, Image.Image]
    vertices: Tensor


@dataclass
class EmoRigOutput(BaseOutput):
    """Result of `EmoRigPipeline`.

    Attributes:
        images: Edited photos, each of its input's size and mode: PIL images, or uint8 arrays [H, W, 3] for
            `output_type="np"`, or float tensors [3, H, W] in [0, 1] for `output_type="pt"`.
        faces: For every photo, the faces that were edited.
    """

    images: list[Any]
    faces: list[list[EditedFace]]


class EmoRigPipeline(PublishedMixin, DiffusionPipeline):
    """Change the emotion of faces in photos.

    A network that sees ("rendered", "normal", "albedo") draws the whole crop, as published (DiffusionRig); any other
    paints what moving the photo's pixels cannot give.

    Args:
        head: Shape and expression codes to vertices.
        encoder: A face to its codes.
        unet: The network; without it plain fillings stand where moving the photo's pixels gives nothing.
        scheduler: Sampler of the network.
        appearance_encoder: Code of the photo for networks that take one.
        emotions: Emotion recipes of this checkpoint; `None` for `emorig_diffusers.emotions.RECIPES`.
        default_num_inference_steps: Steps where the caller gives none.
        crop_size: Side of the aligned crop the network was trained on, pixels.
        repaint_window: (left, top, side) of the part of the crop the network sees, unless it draws the whole crop.
        residual_scale: The network's output is this times the difference from its base, unless it draws the whole crop.
        code_parts: What the network is told of a face besides pictures, in order: names of `rig.CODE_PARTS`, in a
            sequence or in one text with spaces between them.
        shape: Shape code of the one person that a network which draws the whole crop was tuned on; it replaces what
            the encoder reads from each photo.

    Raises:
        ValueError: If a code part is unknown.
    """

    model_cpu_offload_seq = "appearance_encoder->unet"
    _optional_components = ["unet", "scheduler", "appearance_encoder"]
    _exclude_from_cpu_offload = ["head", "encoder"]  # they tell nothing of where the networks compute

    def __init__(
        self,
        head: HeadModel,
        encoder: LandmarkEncoder | EmocaEncoder,
        unet: RigUNet | None = None,
        scheduler: Any | None = None,
        appearance_encoder: AppearanceEncoder | None = None,
        emotions: dict[str, dict[str, float]] | None = None,
        default_num_inference_steps: int = 4,
        crop_size: int = 256,
        repaint_window: tuple[int, int, int] | list[int] = (48, 88, 160),
        residual_scale: float = 2.0,
        code_parts: str | tuple[str, ...] | list[str] = OPEN_CODE,
        shape: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            head=head, encoder=encoder, unet=unet, scheduler=scheduler, appearance_encoder=appearance_encoder
        )
        self.register_to_config(
            emotions=emotions,
            default_num_inference_steps=default_num_inference_steps,
            crop_size=crop_size,
            repaint_window=tuple(repaint_window),
            residual_scale=residual_scale,
            code_parts=" ".join(part_names(code_parts)),  # diffusers takes lists of texts for components
            shape=shape,
        )
        self.texture = PhotoTexture(head)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> EmoRigPipeline:
        """As `DiffusionPipeline.from_pretrained`; a bundled name such as "emorig-open" needs no network, and a
        folder or Hub repository whose code only imports from this package needs no `trust_remote_code`."""
        folder = fetch(pretrained_model_name_or_path, **kwargs)
        if kwargs.get("custom_pipeline") is None:
            kwargs.setdefault("trust_remote_code", needs_no_trust(folder))
        pipe = super().from_pretrained(folder, **kwargs)
        pipe.register_to_config(_name_or_path=os.fspath(pretrained_model_name_or_path))
        return pipe

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

    # 1. inputs

    def check_inputs(
        self,
        emotion: Any,
        intensity: Any,
        reference: Any,
        action_units: Any,
        codes: Any,
        rotate: Any,
        steps: Any,
        output_type: Any = "pil",
        latents: Any = None,
    ) -> None:
        """Raise ValueError with one sentence for what cannot be done."""
        self._check_components()
        names = self.head.config.expression_names
        check_amount("intensity", intensity)
        if emotion is not None:
            emotion_offset(emotion, names, self.recipes)
        if action_units is not None:
            action_unit_offset(action_units, names)
        if sum(x is not None for x in (emotion, reference, codes)) > 1:
            raise ValueError("Give one of emotion, reference and codes, not several.")
        if all(x is None for x in (emotion, reference, action_units, codes, rotate)):
            raise ValueError("Nothing to do: give an emotion, a reference photo, action units, codes or a rotation.")
        if codes is not None and not (isinstance(codes, FaceCodes) and codes.expression.shape == (1, len(names))):
            raise ValueError("codes must be the FaceCodes of one face, fitted with this pipeline's head.")
        if rotate is not None and not _three_angles(rotate):
            raise ValueError(f"rotate must be three angles (yaw, pitch, roll) from -90 to 90 degrees, got {rotate!r}.")
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= 1000):
            raise ValueError(f"num_inference_steps must be a whole number from 1 to 1000, got {steps!r}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}.")
        shape = (1, 3, self.latents_side, self.latents_side)
        if latents is not None and not (isinstance(latents, Tensor) and latents.shape == shape):
            raise ValueError(f"latents must be a tensor {list(shape)}, the noise to start from.")

    def _check_components(self) -> None:
        if self.unet is not None and self.scheduler is None:
            raise ValueError("This pipeline has a network but no scheduler: give it the one of its checkpoint.")
        if self.unet is not None and "appearance" in self.code_parts and self.appearance_encoder is None:
            raise ValueError(
                "This pipeline's network takes a code of the photo but there is no appearance_encoder: give it the one "
                "of its checkpoint."
            )

    # 2. painting

    @property
    def latents_side(self) -> int:
        """Side of what the network sees, pixels of the crop."""
        return self.config.crop_size if self.published else self.config.repaint_window[2]

    def denoise(
        self,
        latents: Tensor,
        conditions: Tensor,
        code: Tensor,
        num_inference_steps: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback: Callable | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Corrections of the base [B, 3, side, side]: a sample, and the mean that the first step predicts.

        The mean is smooth, as skin is; the sample has the detail of teeth.
        """
        sampling = Sampling(num_inference_steps, generator, callback=callback)
        sample, mean = self.sample(latents, conditions, code, sampling)
        return sample / self.config.residual_scale, mean / self.config.residual_scale

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        emotion: str | Mapping[str, float] | None = None,
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
        latents: Tensor | None = None,
    ) -> EmoRigOutput | tuple:
        """Edit one photo or a list of photos.

        Args:
            image: Path, PIL image, array [H, W(, C)] or tensor [3, H, W] in [0, 1], or a list of them.
            emotion: One of the eight emotions, or a blend such as `{"happy": .6, "surprise": .4}`.
            intensity: 0 returns the photo itself, 1 is a clear emotion, 1.5 the most.
            reference: A photo whose (largest) face's expression and jaw are taken over.
            action_units: Amounts of action units (`AU12`, `L12`, `R12`) or expression units to add, e.g. `{"AU1": .5}`.
            codes: Codes whose expression and pose are used as they are.
            face: "largest", "all", or a number from 1 counted from the left.
            rotate: (yaw, pitch, roll) in degrees to turn the head by; the subject's left, up and right shoulder.
            num_inference_steps: Steps of the network; `None` for the checkpoint's.
            generator: For repeatable results.
            output_type: "pil", "np" or "pt".
            return_dict: Return an `EmoRigOutput`, else a tuple (images, faces).
            callback_on_step_end: Called as `f(pipe, step, timestep, {"latents": …})`, as in diffusers.
            latents: Noise [1, 3, S, S] to start every face from, instead of fresh noise for each; S is the side of
                what the network sees.

        Raises:
            PhotoError, NoFaceError, ValueError: With one sentence that says what to do.
        """
        # 1. check
        self.check_inputs(
            emotion, intensity, reference, action_units, codes, rotate, num_inference_steps, output_type, latents
        )
        photos = [read_photo(x) for x in (image if isinstance(image, (list, tuple)) else [image])]
        steps = num_inference_steps or self.config.default_num_inference_steps
        sampling = Sampling(steps, generator, latents, callback_on_step_end)

        # 2. encode the reference
        if reference is not None:
            reference = self.encode_photo(read_photo(reference).rgb)[0]

        results = []
        for photo in photos:
            # 3. encode the faces, edit their codes
            faces = self.encode_photo(photo.rgb, face)
            targets = [
                self.edit_codes(f, emotion, intensity, reference, action_units, rotate)
                if codes is None
                else f.codes.with_(expression=codes.expression, pose=codes.pose)
                for f in faces
            ]
            # 4. move and repaint
            results.append(self._edit_photo(photo, faces, targets, sampling))

        # 5. hand over
        images = [_as_type(p, rgb, output_type) for p, (rgb, _) in zip(photos, results)]
        edited = [e for _, e in results]
        self.maybe_free_model_hooks()
        return EmoRigOutput(images, edited) if return_dict else (images, edited)

    def _edit_photo(
        self, photo: Photo, faces: list[EncodedFace], targets: list[FaceCodes], sampling: Sampling
    ) -> tuple[np.ndarray, list[EditedFace]]:
        rgb, edited = photo.rgb, []
        draw = self.redraw_face if self.published else self._move_face
        for face, target in zip(faces, targets):
            mask = Image.new("L", (self.config.crop_size,) * 2)
            if not unchanged(face.codes, target):
                rgb, mask = draw(rgb, face, target, sampling)
            edited.append(self._describe(rgb, face, target, mask))
        return rgb, edited

    def _move_face(
        self, rgb: np.ndarray, face: EncodedFace, target: FaceCodes, sampling: Sampling
    ) -> tuple[np.ndarray, Image.Image]:
        here, there = (self.grid_vertices(face, c, GRID) for c in (face.codes, target))
        turning = not torch.equal(face.codes.pose[:, :3], target.pose[:, :3])
        warp = self.texture.warp(here, there, GRID, turning)
        moved = move_pixels(rgb, face.grid_matrix(GRID), warp)
        size, matrix = self.config.crop_size, face.grid_matrix(self.config.crop_size)
        plan = compose.plan(warp, warp_crop(moved, matrix, size), size)
        painted = plan.base
        if self.unet is not None and plan.network_mask.any():
            painted = self._paint(plan, target, sampling)
        return compose.finish(moved, plan, painted, matrix), plan.picture()

    def _paint(self, plan: compose.Plan, target: FaceCodes, sampling: Sampling) -> Tensor:
        """Base plus the network's correction [1, 3, S, S] within the network's mask."""
        window = (..., *self.repaint_window)
        device, dtype = self._execution_device, self.unet.dtype
        conditions = stack_conditions(plan.base, plan.normal, plan.albedo, plan.network_mask, plan.mouth)[window]
        sample, mean = self.denoise(
            self.prepare_latents(1, sampling.generator, sampling.latents),
            conditions.to(device, dtype),
            self.condition_code(target).to(device, dtype),
            sampling.steps,
            sampling.generator,
            sampling.callback,
        )
        detail = torch.from_numpy(plan.inside).float()[window[1:]]
        correction = torch.lerp(mean.float().cpu(), sample.float().cpu(), detail)
        painted = plan.base.clone()
        painted[window] += correction * plan.network_mask[window]
        return painted.clamp(-1, 1)

    def _describe(self, rgb: np.ndarray, face: EncodedFace, target: FaceCodes, mask: Image.Image) -> EditedFace:
        size = self.config.crop_size
        vertices = self.placed_head(face.codes, target)
        drawn = self.draw_head(target, size, vertices=vertices)
        buffers = {
            "normal": _picture(drawn.normal[0] * 0.5 + 0.5),
            "albedo": _picture(drawn.albedo[0].clamp(0) ** (1 / 2.2)),
            "rendered": _picture(drawn.rendered[0].clamp(0) ** (1 / 2.2)),
            "repainted": mask,
        }
        crop = Image.fromarray(warp_crop(rgb, face.grid_matrix(size), size))
        return EditedFace(face.face.index + 1, face.face.box, face.codes, target, crop, buffers, vertices[0])


def _three_angles(rotate: Any) -> bool:
    return (
        isinstance(rotate, (Sequence, np.ndarray))
        and len(rotate) == 3
        and all(isinstance(angle, Real) and abs(angle) <= 90 for angle in rotate)
    )


def _picture(tensor: Tensor) -> Image.Image:
    return Image.fromarray((tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def _as_type(photo: Photo, rgb: np.ndarray, output_type: str) -> Any:
    if output_type == "np":
        return rgb
    if output_type == "pt":
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255
    return photo.restore(rgb)
