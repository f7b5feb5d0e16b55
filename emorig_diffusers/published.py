"""Conditioning 1, as published: a network draws the whole aligned crop, from the drawn head and a code of the photo.

DiffusionRig (Ding et al., CVPR 2023): buffers of the head under the edited codes are stacked below the noisy sample;
what the head does not hold (hair, glasses, background) comes from a code of the photo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from .codes import FaceCodes
from .faces import paste
from .phototexture import smooth
from .render import Buffers
from .rig import EncodedFace, RigMixin, crop_tensor
from .sampling import Sampling, SamplingMixin

if TYPE_CHECKING:
    from .models.appearance import AppearanceEncoder

CONDITIONS = ("rendered", "normal", "albedo")  # 3 + 3 + 3 channels after the noisy sample
GROWTH = 0.03  # of the crop's side by which the drawn heads are grown before they are pasted: hairline, ears
FEATHER = 0.05  # of the crop's side over which the paste fades out then
BORDER = 0.06  # of the crop's side over which the paste fades in from the crop's border


def published_scheduler() -> DDIMScheduler:
    """DDIM as DiffusionRig samples: 1,000 linear betas, epsilon, x0 clipped to [-1, 1].

    Its timesteps are those of guided-diffusion's "ddimN" for N = 10, 20, 25, 40, 50, 100, 125, 200, 250. As there, the
    noise has to be derived again from the clipped x0 (`use_clipped_model_output=True` of `step`), which pipelines do.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="epsilon",
        clip_sample=True,
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing="leading",
    )


class PublishedMixin(RigMixin, SamplingMixin):
    """Methods of a pipeline whose network draws the whole crop."""

    appearance_encoder: AppearanceEncoder | None

    @property
    def published(self) -> bool:
        """Whether the network is one of conditioning 1."""
        if self.unet is None:
            return False
        config = self.unet.config
        channels = config.in_channels - config.sample_channels
        return tuple(config.condition_channels) == CONDITIONS and channels == 3 * len(CONDITIONS)

    def draw_conditions(self, codes: FaceCodes, size: int, transform: Tensor | None = None) -> Tensor:
        """What the network sees of heads [B, 9, S, S]: CONDITIONS in the ranges of `render.Buffers`, background 0.

        Args:
            codes: Codes of B faces, on the device of the head.
            size: Side S of the pictures, pixels.
            transform: As for `draw_head`.
        """
        return _stack(self.draw_head(codes, size, transform))

    def appearance_code(self, crop: Tensor) -> Tensor:
        """Code z [B, Z] of aligned crops [B, 3, S, S] in [-1, 1]."""
        return self.appearance_encoder(crop.to(self.appearance_encoder.device, self.appearance_encoder.dtype))

    def redraw_face(
        self, rgb: np.ndarray, face: EncodedFace, target: FaceCodes, sampling: Sampling
    ) -> tuple[np.ndarray, Image.Image]:
        """Draw a face of a photo uint8 [H, W, 3] under target codes; the photo, and what was pasted into its crop."""
        size, matrix = self.config.crop_size, face.grid_matrix(self.config.crop_size)
        if self.config.shape is not None:
            target = target.with_(shape=torch.tensor([self.config.shape]))
        drawn = self.draw_head(target, size, vertices=self.placed_head(face.codes, target))
        code = self.condition_code(target, self._appearance(rgb, matrix))
        device, dtype = self._execution_device, self.unet.dtype
        sample, _ = self.sample(
            self.prepare_latents(1, sampling.generator, sampling.latents),
            _stack(drawn).to(device, dtype),
            code.to(device, dtype),
            sampling,
        )
        crop = (sample[0].permute(1, 2, 0).float().cpu().numpy() + 1) / 2
        mask = paste_mask(torch.cat([self.draw_head(face.codes, size).mask, drawn.mask]))
        pasted = paste(rgb, np.clip(crop, 0, 1), mask, matrix)
        return pasted, Image.fromarray((mask * 255).round().astype(np.uint8))

    def _appearance(self, rgb: np.ndarray, matrix: np.ndarray) -> Tensor | None:
        if "appearance" not in self.code_parts:
            return None
        return self.appearance_code(crop_tensor(rgb, matrix, self.config.crop_size) * 2 - 1)


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
    steps = np.arange(size)
    edge = smooth(np.clip(np.minimum(steps, steps[::-1]) / (BORDER * size), 0, 1))
    return near * edge[:, None] * edge
