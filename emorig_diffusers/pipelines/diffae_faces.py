"""Faces as a Diffusion Autoencoder sees them: found, put in code, and decoded again (Preechakul et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from ..diffusion.sampling import Sampling, SamplingMixin, batches
from ..models.diffae import LatentNet, SemanticEncoder
from ..photo.faces import Face
from ..photo.io import read_photo
from ..timing import timed
from .checks import check_generators
from .picture_faces import PictureFace, cut_face, faces_to_encode, unit_picture


@dataclass(frozen=True, eq=False, kw_only=True)
class CodedFace(PictureFace):
    """A face of a photo as the autoencoder sees it.

    Attributes:
        z: z_sem [1, C], on the CPU in float32.
    """

    z: Tensor


class CodingMixin(SamplingMixin):
    """Methods of a pipeline with `semantic_encoder`, `unet`, `scheduler`, and perhaps `latent_net`."""

    semantic_encoder: SemanticEncoder
    latent_net: LatentNet | None
    latent_scheduler: Any | None
    config: Any

    @property
    def latents_side(self) -> int:
        """Side S of the picture, pixels."""
        size = self.unet.config.sample_size
        return size if isinstance(size, int) else size[0]

    @torch.no_grad()
    def semantic_code(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] in [-1, 1] -> z_sem [B, C]."""
        return self.semantic_encoder(pictures.to(self.semantic_encoder.device, self.semantic_encoder.dtype))

    @torch.no_grad()
    def stochastic_code(self, pictures: Tensor, z: Tensor, steps: int | None = None) -> Tensor:
        """The noise x_T [B, 3, S, S] from which DDIM under codes [B, C] comes back to pictures [B, 3, S, S].

        Args:
            steps: T_inv; `None` for the checkpoint's.
        """
        pictures, z = self._place(pictures), self._place(z)
        return self.invert(pictures, pictures[:, :0], z, steps or self.config.inversion_steps)

    @torch.no_grad()
    def decode(self, latents: Tensor, z: Tensor, sampling: Sampling, photos: Sequence[int] | None = None) -> Tensor:
        """Pictures [B, 3, S, S] in about [-1, 1] from noise x_T [B, 3, S, S] and codes [B, C], in batches.

        Args:
            photos: Number of the photo of each, from 0, in what `sampling.generator` lists.

        Returns:
            After an interruption, as many pictures as were begun.
        """
        photos = photos or [0] * len(z)
        parts = [latents[:0].float().cpu()]
        for part in batches(photos, sampling.batch):
            if self.interrupt:
                break
            noise, code = self._place(latents[part]), self._place(z[part])
            drawn, _ = self.sample(noise, noise[:, :0], code, sampling.of(photos[part]))
            parts.append(drawn.float().cpu())
        return torch.cat(parts)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._execution_device, self.unet.dtype)

    @torch.no_grad()
    def encode(
        self,
        photo: np.ndarray,
        faces: int | Literal["largest", "all"] | Sequence[Face | CodedFace] = "largest",
        crop: str | None = None,
        encoder: str | None = None,
    ) -> list[CodedFace]:
        """As `FacePipeline.encode`; there is one encoder only, and no face is looked for in a crop "whole"."""
        crop = str(crop or self.config.crop)
        found = faces_to_encode(photo, faces, crop)
        with timed("encode faces"):
            return [face if isinstance(face, CodedFace) else self._encode_face(photo, face, crop) for face in found]

    def _encode_face(self, rgb: np.ndarray, face: Face | None, crop: str) -> CodedFace:
        cut = cut_face(rgb, face, crop, self.latents_side, self.config.resampling)
        return CodedFace(**vars(cut), z=self.semantic_code(cut.picture[None]).float().cpu())

    def noise_of(self, faces: Sequence[CodedFace], sampling: Sampling, inversion_steps: int | None = None) -> Tensor:
        """x_T of faces [B, 3, S, S], on the CPU in float32; `sampling.latents` says whose, and `sampling` has one
        generator for all or one for each face."""
        if not isinstance(sampling.latents, str):
            return self.prepare_latents(len(faces), sampling.generator, sampling.latents).float().cpu()
        pictures, z = torch.stack([face.picture for face in faces]), torch.cat([face.z for face in faces])
        parts = zip(pictures.split(sampling.batch), z.split(sampling.batch))
        return torch.cat([self.stochastic_code(*both, inversion_steps).float().cpu() for both in parts])

    @torch.no_grad()
    def reconstruct(self, image: Any, crop: str | None = None, sampling: Sampling | None = None) -> Image.Image:
        """The largest face of a photo through both codes and back, [S, S]: what every edit starts from.

        Args:
            image, crop: As for `__call__`.
            sampling: Steps and noise; `None` for the checkpoint's steps and the photo's own noise.
        """
        sampling = sampling or Sampling(self.config.default_num_inference_steps, latents="photo")
        [face] = self.encode(read_photo(image).rgb, "largest", crop)
        return unit_picture(self.decode(self.noise_of([face], sampling), face.z, sampling)[0])

    @torch.no_grad()
    def interpolate(
        self, image: Any, other: Any, shares: Sequence[float] = (0, 0.25, 0.5, 0.75, 1), crop: str | None = None,
        sampling: Sampling | None = None,
    ) -> list[Image.Image]:  # fmt: skip
        """Pictures between the largest faces of two photos: z_sem on a line, x_T on an arc (the paper's figure 5).

        Args:
            image, other, crop: As for `__call__`.
            shares: Of the other, in [0, 1].
            sampling: As for `reconstruct`.
        """
        sampling = sampling or Sampling(self.config.default_num_inference_steps, latents="photo")
        first, second = (self.encode(read_photo(photo).rgb, "largest", crop)[0] for photo in (image, other))
        noise = self.noise_of([first, second], sampling)
        z = torch.cat([torch.lerp(first.z, second.z, share) for share in map(float, shares)])
        latents = torch.stack([_on_arc(noise[0], noise[1], float(share)) for share in shares])
        return [unit_picture(picture) for picture in self.decode(latents, z, sampling)]

    @torch.no_grad()
    def generate(
        self, count: int = 1, generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None, latent_steps: int = 20,
    ) -> list[Image.Image]:  # fmt: skip
        """Pictures of nobody: z_sem drawn by the latent network, x_T by chance (the paper's section 4).

        Args:
            count: Pictures.
            generator: For repeatable results: one, or one for each picture.
            num_inference_steps: Decoding steps; `None` for the checkpoint's.
            latent_steps: Steps of the latent network's scheduler.

        Raises:
            ValueError: This pipeline has no latent network.
        """
        if self.latent_net is None or self.latent_scheduler is None:
            raise ValueError("This pipeline has no latent network: convert one (emorig convert diffae --latent-net).")
        device, net = self._execution_device, self.latent_net
        generator = check_generators(generator, count)
        z = randn_tensor((count, net.config.cond_dim), generator=generator).to(device, net.dtype)
        scheduler = deepcopy(self.latent_scheduler)  # as in `sample`
        scheduler.set_timesteps(latent_steps, device=device)
        for t in scheduler.timesteps:
            z = scheduler.step(net(z, t), t, z).prev_sample
        sampling = Sampling(num_inference_steps or self.config.default_num_inference_steps, generator)
        pictures = self.decode(self.prepare_latents(count, generator), net.denormalise(z), sampling, range(count))
        return [unit_picture(picture) for picture in pictures]


def _on_arc(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two noises (Shoemake 1985); a straight line keeps no unit variance."""
    angle = torch.arccos((torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())).clamp(-1, 1))
    if angle < 1e-4:
        return torch.lerp(a, b, share)
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
