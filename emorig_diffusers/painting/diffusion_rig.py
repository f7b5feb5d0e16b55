"""Conditioning 1, as published: a network draws the whole aligned crop, from the drawn head and a code of the photo.

DiffusionRig (Ding et al., CVPR 2023): buffers of the head under the edited codes are stacked below the noisy sample;
what the head does not hold (hair, glasses, background) comes from a code of the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from ..diffusion.sampling import Sampling, SamplingMixin, batches
from ..diffusion.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler
from ..face.codes import FaceCodes
from ..face.encode import EncodedFace, RigMixin, crop_tensor, picture_tensor
from ..photo.masks import border_mask, smooth
from ..photo.resample import paste
from ..render.buffers import Buffers, to_picture

if TYPE_CHECKING:
    from ..models.appearance import AppearanceEncoder
    from ..models.detail import DetailModel

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


@dataclass
class Redrawing:
    """One face to draw.

    Attributes:
        rgb: Its photo, uint8 [H, W, 3].
        face: The face with its own codes.
        target: The codes to draw.
        look: Photo and face whose code z is taken; `None` for its own.
        detail: Draw DECA's wrinkles too.
        photo: Number of the photo, from 0, in what `Sampling.generator` lists.
    """

    rgb: np.ndarray
    face: EncodedFace
    target: FaceCodes
    look: tuple[np.ndarray, EncodedFace] | None = None
    detail: bool = False
    photo: int = 0


@dataclass
class Redrawn:
    """What became of it.

    Attributes:
        picture: The network's picture [3, S, S] in [0, 1].
        mask: How much of it is taken [S, S] in [0, 1].
        buffers: What the network saw of the head [1, ...].
    """

    picture: Tensor
    mask: np.ndarray
    buffers: Buffers


class PublishedMixin(RigMixin, SamplingMixin):
    """Methods of a pipeline whose network draws the whole crop."""

    appearance_encoder: AppearanceEncoder | None
    detail: DetailModel | None

    @property
    def published(self) -> bool:
        """Whether the network is one of conditioning 1."""
        if self.unet is None:
            return False
        config = self.unet.config
        channels = config.in_channels - config.sample_channels
        return tuple(config.condition_channels) == CONDITIONS and channels == 3 * len(CONDITIONS)

    def draw_conditions(self, codes: FaceCodes, size: int, transform: Tensor | None = None) -> Tensor:
        """What the network sees of heads [B, 9, S, S]: CONDITIONS in the ranges of `rasterize.Buffers`, background 0.

        Args:
            codes: Codes of B faces, on the device of the head.
            size: Side S of the pictures, pixels.
            transform: As for `draw_head`.
        """
        return _stack(self.draw_head(codes, size, transform))

    def recentred_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """Vertices [B, V, 3] in metres of the target's head, moved to where FFHQ's alignment would have it.

        The network's pictures are all centred between eyes and mouth; a target is shifted so that this point stays
        where the source's is (DiffusionRig's inference).
        """
        vertices = self.pose_head(target)
        return vertices + self._ffhq_centre(self.pose_head(source)) - self._ffhq_centre(vertices)

    def _ffhq_centre(self, vertices: Tensor) -> Tensor:
        points = self.head.landmarks68(vertices)
        eyes = (points[:, 36:42].mean(1) + points[:, 42:48].mean(1)) / 2
        mouth = (points[:, 48] + points[:, 54]) / 2
        return torch.lerp(eyes, mouth, MOUTH_SHARE)[:, None]

    def target_head(self, source: FaceCodes, target: FaceCodes) -> Tensor:
        """Vertices [B, V, 3] in metres of the target's head where the picture shows it."""
        if not self.published:
            return self.placed_head(source, target)
        return self.recentred_head(source, self._one_shape(target))

    def appearance_code(self, crop: Tensor) -> Tensor:
        """Code z [B, Z] of pictures [B, 3, S, S] in [-1, 1]."""
        return self.appearance_encoder(crop.to(self.appearance_encoder.device, self.appearance_encoder.dtype))

    def redraw_faces(self, tasks: Sequence[Redrawing], sampling: Sampling) -> list[Redrawn]:
        """Draw faces, `sampling.batch` at a time, and keep the best of as many as `sampling` says of each; after an
        interruption, as many faces as were begun."""
        codes = self._looks([task.look or (task.rgb, task.face) for task in tasks])
        photos = [task.photo for task in tasks]
        drawn: list[Redrawn] = []
        for part in batches(photos, sampling.batch):
            own = sampling.of(photos[part])
            tries = [self._redraw_batch(tasks[part], codes[part], own) for _ in range(sampling.best_of)]
            tries = [made for made in tries if made]  # none after an interruption
            drawn += [min(same, key=lambda one: laplacian_variance(one.picture)) for same in zip(*tries)]
        return drawn

    def _looks(self, looks: Sequence[tuple[np.ndarray, EncodedFace]]) -> list[Tensor | None]:
        """Code z [1, Z] of photos around faces, computed once for each picture."""
        if "appearance" not in self.code_parts:
            return [None] * len(looks)
        different = {id(face): (rgb, face) for rgb, face in looks}
        known = {key: self.appearance_code(self._picture(*look)) for key, look in different.items()}
        return [known[id(face)] for _, face in looks]

    def _picture(self, rgb: np.ndarray, face: EncodedFace) -> Tensor:
        """The picture around a face [1, 3, S, S] in [-1, 1]."""
        size, kept = self.config.crop_size, face.picture
        if kept is not None and len(kept.pixels) == size:
            return picture_tensor(kept.pixels) * 2 - 1
        return crop_tensor(rgb, face.grid_matrix(size), size) * 2 - 1

    def _redraw_batch(
        self, tasks: Sequence[Redrawing], looks: Sequence[Tensor | None], sampling: Sampling
    ) -> list[Redrawn]:
        """A batch of faces, with a generator for each or one for all; nothing after an interruption."""
        device, dtype = self._execution_device, self.unet.dtype
        read, wanted = (FaceCodes.cat(codes) for codes in zip(*((t.face.codes, t.target) for t in tasks)))
        source, target = self._one_shape(read), self._one_shape(wanted)
        look = _together(looks)
        inverted = isinstance(sampling.latents, str)
        here = self._draw_tasks(tasks, source, tasks[0].detail and inverted)  # else only its outline counts
        there = self._draw_tasks(tasks, target, tasks[0].detail)
        conditions = _stack(there).to(device, dtype)
        code = self.condition_code(target, look, wanted.shape).to(device, dtype)
        if inverted:
            photos = torch.cat([self._picture(task.rgb, task.face) for task in tasks]).to(device, dtype)
            own = _together(self._looks([(task.rgb, task.face) for task in tasks]))
            told = self.condition_code(source, own, read.shape).to(device, dtype)
            latents = self.invert(photos, _stack(here).to(device, dtype), told, sampling.steps)
        else:
            latents = self.prepare_latents(len(tasks), sampling.generator, sampling.latents)
        if self.interrupt:
            return []
        sample, _ = self.sample(latents, conditions, code, sampling)
        pictures = ((sample.float().cpu() + 1) / 2).clamp(0, 1)
        heads = torch.stack([here.mask, there.mask], 1)
        masks = [paste_mask(head) * _own_share(task.face) for head, task in zip(heads, tasks)]
        return [Redrawn(pictures[i], masks[i], there[i]) for i in range(len(tasks))]

    def _one_shape(self, codes: FaceCodes) -> FaceCodes:
        """Codes with the album's mean shape, for a network that was tuned on an album."""
        shape = self.config.shape
        return codes if shape is None else codes.with_(shape=torch.tensor([shape]).expand(len(codes), -1))

    def _draw_tasks(self, tasks: Sequence[Redrawing], codes: FaceCodes, wrinkles: bool) -> Buffers:
        """Buffers of heads under codes [B, ...], in the pictures of the tasks' faces."""
        vertices = self.recentred_head(FaceCodes.cat([task.face.codes for task in tasks]), codes)
        transform = torch.cat([task.face.transform for task in tasks])
        detail = self._detail_map(tasks, codes, vertices) if wrinkles else None
        return self.draw_head(codes, self.config.crop_size, transform, vertices, detail)

    def _detail_map(self, tasks: Sequence[Redrawing], codes: FaceCodes, vertices: Tensor) -> Tensor:
        """Normals [B, 3, h, w] with the wrinkles that DECA reads from the photo and expects of an expression."""
        detail, faces = self.detail, {id(task.face): task.face for task in tasks}
        own = {key: detail.code(face.seen.to(detail.device, detail.dtype)) for key, face in faces.items()}
        code = torch.cat([own[id(task.face)] for task in tasks])
        displacement = detail.decode(code, codes.pose[:, 3:].to(code), codes.expression.to(code))
        return detail.normals(self.head, vertices, displacement, self.config.rasterizer)


def laplacian_variance(picture: Tensor) -> float:
    """Variance of the Laplacian of a picture [3, S, S] in [0, 1], in grey levels²: grain left by sampling raises it.

    DiffusionRig-EMO's first version keeps the least of four samples by it.
    """
    grey = cv2.cvtColor(np.asarray(to_picture(picture)), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def paste_redrawn(rgb: np.ndarray, face: EncodedFace, drawn: Redrawn) -> np.ndarray:
    """A photo uint8 [H, W, 3] with what was drawn of one of its faces."""
    picture = drawn.picture.permute(1, 2, 0).numpy()
    return paste(rgb, picture, drawn.mask, face.grid_matrix(len(drawn.mask)))


def _own_share(face: EncodedFace) -> np.ndarray | float:
    """How much of the network's picture may be taken: where it saw the photo blurred, the photo stays."""
    return 1.0 if face.picture is None or face.picture.own is None else face.picture.own


def _together(looks: Sequence[Tensor | None]) -> Tensor | None:
    return None if looks[0] is None else torch.cat(list(looks))


def _stack(drawn: Buffers) -> Tensor:
    return torch.cat([getattr(drawn, name) for name in CONDITIONS], 1)


def paste_mask(heads: Tensor) -> np.ndarray:
    """How much of a redrawn crop is taken [S, S] in [0, 1], from masks of heads [N, 1, S, S] in {0, 1}.

    All of it on the heads and GROWTH around, nothing from FEATHER farther on and at the crop's border.
    """
    outside = (heads.amax((0, 1)) == 0).cpu().numpy().astype(np.uint8)
    size = len(outside)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / size
    near = smooth(np.clip(1 + (GROWTH - distance) / FEATHER, 0, 1))
    return near * border_mask(size, BORDER)
