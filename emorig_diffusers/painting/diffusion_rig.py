"""Conditioning 1, as published: a network draws the whole aligned crop, from the drawn head and a code of the photo.

DiffusionRig (Ding et al., CVPR 2023): buffers of the head under the edited codes are stacked below the noisy sample;
what the head does not hold (hair, glasses, background) comes from a code of the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..diffusion.sampling import Sampling, batches
from ..diffusion.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler
from ..face.codes import FaceCodes
from ..face.encode import EncodedFace, crop_tensor, draw_head, picture_tensor, unchanged
from ..models.head import HeadModel
from ..photo.masks import border_mask, smooth
from ..photo.resample import paste
from ..render.buffers import Buffers, to_picture
from ..timing import timed
from .base import PaintedFace, PaintedPhoto, Painter, PhotoEdits

if TYPE_CHECKING:
    from ..pipelines.emorig import EmoRigPipeline
    from ..pipelines.request import EditRequest

CONDITIONS = ("rendered", "normal", "albedo")  # 3 + 3 + 3 channels after the noisy sample
GROWTH = 0.03  # of the crop's side by which the drawn heads are grown before they are pasted: hairline, ears
FEATHER = 0.05  # of the crop's side over which the paste fades out then
BORDER = 0.06  # of the crop's side over which the paste fades in from the crop's border
MOUTH_SHARE = 0.1  # of the way from the eyes to the mouth, where FFHQ's pictures are centred


def published_scheduler(
    diffusion_steps: int = 1000, sampler: str = "ddim"
) -> RespacedDDIMScheduler | RespacedDDPMScheduler:
    """guided-diffusion's "linear" schedule as DiffusionRig samples it: epsilon predicted, x0 clipped to [-1, 1].

    Args:
        diffusion_steps: T. With fewer than the 1,000 of training, as DiffusionRig-EMO's second version has it, betas
            grow by 1000 / T: step t is as noisy as 1000 t / T was in training, and the network is told t all the same.
        sampler: "ddim", or "ddpm" with the larger of the two fixed variances.

    Raises:
        ValueError: An unknown sampler, or steps for which no beta stays below 1.
    """
    if not 20 < diffusion_steps <= 10_000:  # beta_end is 20 / T
        raise ValueError(f"diffusion_steps is {diffusion_steps}: give a number from 21 to 10000.")
    growth = 1000 / diffusion_steps
    shared = {
        "num_train_timesteps": diffusion_steps, "beta_schedule": "linear", "beta_start": 1e-4 * growth,
        "beta_end": 0.02 * growth, "prediction_type": "epsilon", "clip_sample": True,
        "timestep_spacing": "leading", "steps_offset": 0,
    }  # fmt: skip
    match sampler:
        case "ddim":
            return RespacedDDIMScheduler(**shared, set_alpha_to_one=True)
        case "ddpm":
            return RespacedDDPMScheduler(**shared, variance_type="fixed_large")
    raise ValueError(f"sampler is {sampler!r}: choose ddim or ddpm.")


def draws_whole_crop(unet: Any) -> bool:
    """Whether a network is one of conditioning 1; `None` is not."""
    if unet is None:
        return False
    config = unet.config
    channels = config.in_channels - config.sample_channels
    return tuple(config.condition_channels) == CONDITIONS and channels == 3 * len(CONDITIONS)


def stack_conditions(drawn: Buffers) -> Tensor:
    """What the network sees of heads [B, 9, S, S]: CONDITIONS in the ranges of `render.Buffers`, background 0."""
    return torch.cat([getattr(drawn, name) for name in CONDITIONS], 1)


def draw_conditions(
    head: HeadModel, codes: FaceCodes, size: int, transform: Tensor | None = None, rasterizer: str = "exact"
) -> Tensor:
    """`stack_conditions` of heads under codes [B, ...]; arguments as for `draw_head`."""
    return stack_conditions(draw_head(head, codes, size, transform, rasterizer=rasterizer))


@dataclass(frozen=True)
class _Task:
    """One face to draw: places of its photo, of the result among all, and of the face in its photo; its target."""

    photo: int
    result: int
    face: int
    target: FaceCodes


@dataclass(frozen=True)
class _Drawn:
    """The network's picture [3, S, S] in [0, 1], how much of it is taken [S, S] in [0, 1], and the head [1, ...]."""

    picture: Tensor
    mask: np.ndarray
    buffers: Buffers


class DiffusionRigPainter(Painter):
    """Draws the whole crop of each face, many at a time, as `base.Painter`.

    Args:
        pipe: Gives head, networks and settings.
    """

    max_angle = 90.0

    def __init__(self, pipe: EmoRigPipeline) -> None:
        self.pipe, self.config = pipe, pipe.config

    @property
    def capabilities(self) -> frozenset[str]:
        """As `base.Painter`; "latent" is the code of a photo, "detail" DECA's wrinkles."""
        own = {"latent"} if "appearance" in self.pipe.code_parts else set()
        wrinkles = self.pipe.detail is not None and self.pipe.encoder.crop == "deca"
        own |= {"detail"} if wrinkles and self.config.normals == "linear" else set()
        return frozenset({"whole_crop", "inversion"} | own)

    @property
    def latents_side(self) -> int:
        """As `base.Painter`."""
        return self.config.crop_size

    def check(self, request: EditRequest) -> None:
        """As `base.Painter`."""
        if request.latents is not None and (request.best_of or 1) > 1:
            raise ValueError("best_of draws other noise each time: leave latents out, or best_of.")

    def place_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """As `base.Painter`."""
        return self.recentred_head(source, self._one_shape(target))

    def recentred_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """Vertices [B, V, 3] in metres of the target's head, moved to where FFHQ's alignment would have it.

        The network's pictures are all centred between eyes and mouth; a target is shifted so that this point stays
        where the source's is (DiffusionRig's inference).
        """
        vertices = self.pipe.pose_head(target)
        return vertices + self._ffhq_centre(self.pipe.pose_head(source)) - self._ffhq_centre(vertices)

    def _ffhq_centre(self, vertices: Tensor) -> Tensor:
        points = self.pipe.head.landmarks68(vertices)
        eyes = (points[:, 36:42].mean(1) + points[:, 42:48].mean(1)) / 2
        mouth = (points[:, 48] + points[:, 54]) / 2
        return torch.lerp(eyes, mouth, MOUTH_SHARE)[:, None]

    def _one_shape(self, codes: FaceCodes) -> FaceCodes:
        """Codes with the album's mean shape, for a network that was tuned on an album."""
        shape = self.config.shape
        return codes if shape is None else codes.with_(shape=torch.tensor([shape]).expand(len(codes), -1))

    def crop(self, rgb: np.ndarray, face: EncodedFace) -> Tensor:
        """The picture around a face [1, 3, S, S] in [-1, 1]."""
        size, kept = self.config.crop_size, face.picture
        if kept is not None and len(kept.pixels) == size:
            return picture_tensor(kept.pixels) * 2 - 1
        return crop_tensor(rgb, face.grid_matrix(size), size) * 2 - 1

    def appearance_code(self, crop: Tensor) -> Tensor:
        """Code z [B, Z] of pictures [B, 3, S, S] in [-1, 1]."""
        encoder = self.pipe.appearance_encoder
        return encoder(crop.to(encoder.device, encoder.dtype))

    def paint(self, photos: Sequence[PhotoEdits], sampling: Sampling) -> list[PaintedPhoto]:
        """As `base.Painter`, `sampling.batch` faces at a time, and the best of as many samples as `sampling` says of
        each; faces that an interruption left out stay as they are."""
        results = [(photo, targets) for photo, edits in enumerate(photos) for targets in edits.targets]
        tasks = [
            _Task(photo, result, face, target)
            for result, (photo, targets) in enumerate(results)
            for face, target in enumerate(targets)
            if self._changes(photos[photo], face, target)
        ]
        drawn = {(task.result, task.face): made for task, made in zip(tasks, self._draw(photos, tasks, sampling))}
        with timed("paste"):
            return [
                _paste(photos[photo], [drawn.get((result, face)) for face in range(len(targets))])
                for result, (photo, targets) in enumerate(results)
            ]

    @staticmethod
    def _changes(edits: PhotoEdits, face: int, target: FaceCodes) -> bool:
        return edits.redraw or edits.appearance is not None or not unchanged(edits.faces[face].codes, target)

    def _draw(self, photos: Sequence[PhotoEdits], tasks: Sequence[_Task], sampling: Sampling) -> list[_Drawn]:
        """Tasks in batches; after an interruption, as many as were begun."""
        with timed("code of the photo"):
            codes = self._appearance_codes(photos, tasks)
        results, drawn = [task.result for task in tasks], []
        for part in batches(results, sampling.batch):
            own = sampling.of(results[part])
            tries = [self._draw_batch(photos, tasks[part], codes[part], own) for _ in range(sampling.best_of)]
            tries = [made for made in tries if made]  # none after an interruption
            drawn += [min(same, key=lambda one: laplacian_variance(one.picture)) for same in zip(*tries)]
        return drawn

    def _appearance_codes(
        self, photos: Sequence[PhotoEdits], tasks: Sequence[_Task], own: bool = False
    ) -> list[Tensor | None]:
        """Code z [1, Z] for each task, computed once for each face: of what lends its look unless it is to be its own;
        `None` where the network is told none."""
        if "appearance" not in self.pipe.code_parts:
            return [None] * len(tasks)
        known: dict[tuple[int, int | None], Tensor] = {}
        places = [(task.photo, None if photos[task.photo].appearance and not own else task.face) for task in tasks]
        for task, place in zip(tasks, places):
            if place not in known:
                edits = photos[task.photo]
                lent = edits.appearance if place[1] is None else None
                known[place] = self.appearance_code(self.crop(*(lent or (edits.rgb, edits.faces[task.face]))))
        return [known[place] for place in places]

    def _draw_batch(
        self, photos: Sequence[PhotoEdits], tasks: Sequence[_Task], looks: Sequence[Tensor | None], sampling: Sampling
    ) -> list[_Drawn]:
        """A batch of faces, with a generator for each or one for all; nothing after an interruption."""
        pipe, faces = self.pipe, [photos[task.photo].faces[task.face] for task in tasks]
        device, dtype = pipe._execution_device, pipe.unet.dtype
        latents, detail = sampling.latents, photos[tasks[0].photo].request.detail
        read, wanted = FaceCodes.cat([face.codes for face in faces]), FaceCodes.cat([task.target for task in tasks])
        source, target = self._one_shape(read), self._one_shape(wanted)
        with timed("draw buffers"):
            # where noise is not the photo's own, only the head's outline counts
            before = self._draw_heads(tasks, faces, source, detail, seen=isinstance(latents, str))
            after = self._draw_heads(tasks, faces, target, detail)
        conditions = stack_conditions(after).to(device, dtype)
        code = pipe.condition_code(target, _together(looks), wanted.shape).to(device, dtype)
        if isinstance(latents, str):
            crops = torch.cat([self.crop(photos[t.photo].rgb, face) for t, face in zip(tasks, faces)])
            own = _together(self._appearance_codes(photos, tasks, own=True))
            told = pipe.condition_code(source, own, read.shape).to(device, dtype)
            with timed("network"):
                seen = stack_conditions(before).to(device, dtype)
                latents = pipe.invert(crops.to(device, dtype), seen, told, sampling.steps)
        else:
            latents = pipe.prepare_latents(len(tasks), sampling.generator, latents)
        if pipe.interrupt:
            return []
        with timed("network"):
            sample, _ = pipe.sample(latents, conditions, code, sampling)
            pictures = ((sample.float().cpu() + 1) / 2).clamp(0, 1)
        heads = torch.stack([before.mask, after.mask], 1)
        masks = [paste_mask(head) * _own_share(face) for head, face in zip(heads, faces)]
        return [_Drawn(pictures[i], masks[i], after[i]) for i in range(len(tasks))]

    def _draw_heads(
        self, tasks: Sequence[_Task], faces: Sequence[EncodedFace], codes: FaceCodes, wrinkles: bool, seen: bool = True
    ) -> Buffers:
        """Buffers of heads under codes [B, ...], in the pictures of the tasks' faces; plain ones unless they are
        seen by the network."""
        vertices = self.recentred_head(FaceCodes.cat([face.codes for face in faces]), codes)
        transform = torch.cat([face.transform for face in faces])
        detail = self._detail_map(tasks, faces, codes, vertices) if wrinkles and seen else None
        drawn = self.pipe.draw_head(codes, self.config.crop_size, transform, vertices, detail)
        if not seen or self.pipe.neural_normals is None:
            return drawn
        return self.pipe.neural_normals.replace(drawn, codes, vertices, transform)

    def _detail_map(
        self, tasks: Sequence[_Task], faces: Sequence[EncodedFace], codes: FaceCodes, vertices: Tensor
    ) -> Tensor:
        """Normals [B, 3, h, w] with the wrinkles that DECA reads from the photo and expects of an expression."""
        detail, places = self.pipe.detail, [(task.photo, task.face) for task in tasks]
        distinct = dict(zip(places, faces))
        views = {place: face.seen for place, face in distinct.items() if face.seen is not None}
        known = {place: detail.code(view.to(detail.device, detail.dtype)) for place, view in views.items()}
        code = torch.cat([known[place] for place in places])
        displacement = detail.decode(code, codes.pose[:, 3:].to(code), codes.expression.to(code))
        return detail.normals(self.pipe.head, vertices, displacement, self.config.rasterizer)


def _paste(edits: PhotoEdits, drawn: Sequence[_Drawn | None]) -> PaintedPhoto:
    """A photo with those of its faces that were drawn."""
    rgb, faces = edits.rgb, []
    for face, made in zip(edits.faces, drawn):
        if made is None:
            faces.append(None)
            continue
        rgb = paste(rgb, made.picture.permute(1, 2, 0).numpy(), made.mask, face.grid_matrix(len(made.mask)))
        mask = Image.fromarray((made.mask * 255).round().astype(np.uint8))
        faces.append(PaintedFace(mask, made.picture, made.buffers))
    return PaintedPhoto(rgb, faces)


def laplacian_variance(picture: Tensor) -> float:
    """Variance of the Laplacian of a picture [3, S, S] in [0, 1], in grey levels²: grain left by sampling raises it.

    DiffusionRig-EMO's first version keeps the least of four samples by it.
    """
    grey = cv2.cvtColor(np.asarray(to_picture(picture)), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _own_share(face: EncodedFace) -> np.ndarray | float:
    """How much of the network's picture may be taken: where it saw the photo blurred, the photo stays."""
    return 1.0 if face.picture is None or face.picture.own is None else face.picture.own


def _together(looks: Sequence[Tensor | None]) -> Tensor | None:
    told = [look for look in looks if look is not None]
    return torch.cat(told) if told else None


def paste_mask(heads: Tensor) -> np.ndarray:
    """How much of a redrawn crop is taken [S, S] in [0, 1], from masks of heads [N, 1, S, S] in {0, 1}.

    All of it on the heads and GROWTH around, nothing from FEATHER farther on and at the crop's border.
    """
    outside = (heads.amax((0, 1)) == 0).cpu().numpy().astype(np.uint8)
    size = len(outside)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / size
    near = smooth(np.clip(1 + (GROWTH - distance) / FEATHER, 0, 1))
    return near * border_mask(size, BORDER)
