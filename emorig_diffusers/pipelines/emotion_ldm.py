"""EmotionLDMPipeline: emotions by a latent diffusion model that is told them.

Pikoulis, Filntisis and Maragos, "Photorealistic and identity-preserving image-based emotion manipulation with latent
diffusion models", 2023. A face's latent goes up to a noise level under the emotion that it shows (DDIM inversion), and
comes back under another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import UNet2DConditionModel, VQModel
from PIL import Image
from torch import Tensor

from ..diffusion.edit_scheduler import EditDDIMInverseScheduler, EditDDIMScheduler
from ..diffusion.sampling import Sampling, batches
from ..face.emotions import blend_shares
from ..models.emotion_ldm import EmotionEmbedding, fold_one_token_attention
from ..painting.base import PhotoEdits
from ..photo.faces import Face
from ..photo.io import read_photo
from ..photo.resample import warp_crop
from ..timing import timed
from .base import FacePipeline
from .checks import UNKNOWN, check_emotion_ldm_request, sources_of_faces
from .emotion_lora import EmotionLoraMixin
from .outputs import EditedFace
from .picture_faces import PictureFace, cut_face, faces_to_encode, paste_picture, unit_picture
from .request import EditRequest
from .settings import EMOTION_LDM, chosen_settings

__all__ = ["EmotionLDMPipeline"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentFace(PictureFace):
    """A face of a photo as the model sees it.

    Attributes:
        latent: Not quantised [1, C, S', S'], on the CPU in float32.
        judged: Emotion -> probability, as the pipeline's judge sees it; empty without one.
    """

    latent: Tensor
    judged: dict[str, float]


class EmotionLDMPipeline(EmotionLoraMixin, FacePipeline):
    """Change the emotion of faces by a latent diffusion model; intensity goes from the source emotion's token (0) to
    the target's (1).

    Args:
        vqvae: Pictures to latents and back; the decoder quantises.
        unet: Predicts the noise of latents under one token.
        emotion_embedding: The tokens.
        scheduler: The steps up and down.
        default_num_inference_steps: Steps S each way where the caller gives none.
        strength: Share t0 of the diffusion that a photo goes through.
        guidance_scale: γ under the target emotion.
        inversion_guidance_scale: γ under the source emotion; `None` for the other γ, as published, where 1 loses less
            of the photo.
        crop: Which square of the photo is the picture: one of `crops.PICTURE_FRAMES`.
        brought: As for `DiffAEEmotionPipeline`.
        resampling: Likewise.
        settings: The checkpoint's, of the arguments above; they count for those that are `None`, else
            `settings.EMOTION_LDM` do.

    Raises:
        ValueError: An unknown crop or resampling, or networks that do not fit each other.
    """

    defaults = {"latents": "photo"}
    noise_per_result = False
    asks_judge = True
    model_cpu_offload_seq = "emotion_embedding->vqvae->unet"

    def __init__(
        self,
        vqvae: VQModel,
        unet: UNet2DConditionModel,
        emotion_embedding: EmotionEmbedding,
        scheduler: EditDDIMScheduler,
        default_num_inference_steps: int | None = None,
        strength: float | None = None,
        guidance_scale: float | None = None,
        inversion_guidance_scale: float | None = None,
        crop: str | None = None,
        brought: str | None = None,
        resampling: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        chosen = chosen_settings(EMOTION_LDM, settings, locals())
        channels, dim = vqvae.config["latent_channels"], emotion_embedding.config.dim
        if unet.config["in_channels"] != channels or unet.config["cross_attention_dim"] != dim:
            raise ValueError("The UNet must take latents of the autoencoder, and tokens as long as the embedding's.")
        fold_one_token_attention(unet)
        self.register_modules(vqvae=vqvae, unet=unet, emotion_embedding=emotion_embedding, scheduler=scheduler)
        self.register_to_config(**chosen)

    @property
    def brought(self) -> str:
        """As `HubMixin.brought`."""
        return self.config.brought

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Emotions that this checkpoint knows."""
        return self.emotion_embedding.names

    @property
    def capabilities(self) -> frozenset[str]:
        """As `FacePipeline.capabilities`."""
        return frozenset({"emotion_guidance", "inversion", "picture"})

    @property
    def latents_side(self) -> int:
        """Side S of the picture, pixels."""
        return int(self.vqvae.config["sample_size"])

    def chosen(self, name: str, request: EditRequest) -> Any:
        """A setting as the caller gives it, else as the checkpoint does."""
        asked = getattr(request, name)
        return self.config[name] if asked is None else asked

    def check(self, request: EditRequest) -> None:
        """As `FacePipeline.check`."""
        super().check(request)
        check_emotion_ldm_request(self, request)

    def describe_codes(self, face: LatentFace) -> dict[str, Any]:
        """As `FacePipeline.describe_codes`: the latent, and how probable emotions are where there is a judge."""
        known = {"emotions": face.judged} if face.judged else {}
        return {"number": face.number, "box": list(face.box), **known, "latent": face.latent[0].tolist()}

    @torch.no_grad()
    def encode(
        self,
        photo: np.ndarray,
        faces: int | Literal["largest", "all"] | Sequence[Face | LatentFace] = "largest",
        crop: str | None = None,
        encoder: str | None = None,
    ) -> list[LatentFace]:
        """As `FacePipeline.encode`; no face is looked for in a crop "whole"."""
        crop = str(crop or self.config.crop)
        found = faces_to_encode(photo, faces, crop)
        with timed("encode faces"):
            return [face if isinstance(face, LatentFace) else self._encode_face(photo, face, crop) for face in found]

    def _encode_face(self, rgb: np.ndarray, face: Face | None, crop: str) -> LatentFace:
        cut = cut_face(rgb, face, crop, self.latents_side, self.config.resampling)
        seen: Any = self.vqvae.encode(cut.picture[None].to(self._execution_device, self.vqvae.dtype))
        judged = {} if self.judge is None else dict(self.judge(rgb, cut.box))
        return LatentFace(**vars(cut), latent=seen.latents.float().cpu(), judged=judged)

    def source_token(self, face: LatentFace, emotion: Any | None = None) -> Tensor:
        """The token [1, D] of what a face shows, on the CPU in float32.

        Args:
            emotion: A name or a blend, or UNKNOWN; `None` for the most probable of what the judge saw.

        Raises:
            ValueError: Nobody says which emotion it is.
        """
        if emotion is None:
            known = self._judged(face)
            emotion = max(known, key=known.__getitem__)
        table = self.emotion_embedding
        null = table.null.detach()
        token = null if emotion == UNKNOWN else table.moved(null, blend_shares(emotion, dict.fromkeys(table.names)))
        return token.detach().float().cpu()

    def edit(self, face: LatentFace, request: EditRequest, reference: Any | None = None) -> Tensor:
        """As `FacePipeline.edit`: the token [1, D] to come back under."""
        source, table = self.source_token(face, request.source_emotion), self.emotion_embedding
        emotion: Any = request.emotion if reference is None else self._judged(reference)
        shares = blend_shares(emotion, dict.fromkeys(table.names))
        target = table.moved(source.to(table.weight), shares, request.intensity).float().cpu()
        return source if torch.allclose(target, source) else target

    def _judged(self, face: LatentFace) -> dict[str, float]:
        """The emotions of this checkpoint by how probable the judge found them, in sum 1."""
        known = {name: face.judged[name] for name in self.emotion_names if name in face.judged}
        if not any(known.values()):
            raise ValueError("The judge was set after this face was encoded: encode it again, or say what it shows.")
        return {name: probability / sum(known.values()) for name, probability in known.items()}

    def _sources(self, edits: PhotoEdits) -> list[Tensor]:
        """The token of what each face of a photo shows."""
        shown = sources_of_faces(edits.request.source_emotion, len(edits.faces))
        return [self.source_token(face, emotion) for face, emotion in zip(edits.faces, shown)]

    @torch.no_grad()
    def reconstruct(self, image: Any, crop: str | None = None, sampling: Sampling | None = None) -> Image.Image:
        """As `FacePipeline.reconstruct`: through the autoencoder alone, so that nothing is sampled."""
        [face] = self.encode(read_photo(image).rgb, "largest", crop)
        return unit_picture(self.decode(face.latent)[0])

    # diffusion

    def noise(self, x: Tensor, t: Tensor, token: Tensor, scale: float) -> Tensor:
        """Noise [B, ...] in latents under tokens [B, D], with guidance beyond 1: from the null class, and on."""
        if scale <= 1:
            return self.unet(x, t, encoder_hidden_states=token[:, None], return_dict=False)[0]
        null = self.emotion_embedding.null.to(token).expand_as(token)
        both = self.unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([null, token])[:, None],
                         return_dict=False)[0]  # fmt: skip
        without, under = both.chunk(2)
        return without + scale * (under - without)

    @torch.no_grad()
    def add_noise(self, latents: Tensor, tokens: Tensor, steps: int, strength: float, scale: float) -> Tensor:
        """Latents [B, C, S', S'] at noise level t0 from those of pictures, under tokens [B, D] (DDIM inversion).

        Args:
            latents: Not quantised.
            tokens: What the pictures show.
            steps: S.
            strength: t0.
            scale: γ.
        """
        up: Any = EditDDIMInverseScheduler.from_config(self.scheduler.config)
        with self.with_loras():
            return self._follow(up, latents, tokens, Sampling(steps), strength, scale)

    @torch.no_grad()
    def remove_noise(
        self, latents: Tensor, tokens: Tensor, sampling: Sampling, strength: float, scale: float
    ) -> Tensor:
        """The way back under tokens [B, D]; arguments as for `add_noise`, `sampling` with the steps and callback."""
        down = deepcopy(self.scheduler)  # other threads sample too
        return self._follow(down, latents, tokens, sampling, strength, scale)

    def _follow(
        self, scheduler: EditDDIMScheduler, latents: Tensor, tokens: Tensor, sampling: Sampling, strength: float,
        scale: float,
    ) -> Tensor:  # fmt: skip
        """Up or down, in float32 on the CPU."""
        scheduler.set_timesteps(sampling.steps, self._execution_device, strength)
        x, tokens = self._place(latents), self._place(tokens)
        predict = lambda t, latents, conditions, code: self.noise(latents, t, code, scale)
        return self.follow(scheduler, (x, x[:, :0], tokens), sampling, predict)[0].float().cpu()

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._execution_device, self.unet.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, S, S] in about [-1, 1] from latents, which are quantised first."""
        placed = latents.to(self._execution_device, self.vqvae.dtype)
        return self.vqvae.decode(placed, return_dict=False)[0].float().cpu()

    # painting

    def paint(self, photos: Sequence[PhotoEdits], sampling: Sampling) -> list[tuple[np.ndarray, list[EditedFace]]]:
        """As `FacePipeline.paint`: each face is inverted once for all of its results. Faces that were not begun before
        an interruption stay as they are."""
        request = photos[0].request
        drawn = self._draw_all(photos, request, sampling)
        results = []
        for photo, edits in enumerate(photos):
            sources = self._sources(edits)
            for result, targets in enumerate(edits.targets):
                rgb, edited = edits.rgb, []
                for place, (face, target) in enumerate(zip(edits.faces, targets)):
                    pictures = drawn.get((photo, place, result)), drawn.get((photo, place, None))
                    rgb, one = self._finish(rgb, face, sources[place], target, *pictures, request.paste == "change")
                    edited.append(one)
                results.append((rgb, edited))
        return results

    def _draw_all(
        self, photos: Sequence[PhotoEdits], request: EditRequest, sampling: Sampling
    ) -> dict[tuple[int, int, int | None], Tensor]:
        """Pictures by photo, face and result, and under the face's own emotion for the result `None`, as many as were
        begun; none for faces that keep their emotion."""
        strength, scale = float(self.chosen("strength", request)), float(self.chosen("guidance_scale", request))
        asked = self.chosen("inversion_guidance_scale", request)
        up = scale if asked is None else float(asked)
        noisy: dict[tuple[int, int], Tensor] = {}
        rows: list[tuple[tuple[int, int, int | None], Tensor]] = []
        faces = {(i, place): face for i, edits in enumerate(photos) for place, face in enumerate(edits.faces)}
        sources = {
            (i, place): token for i, edits in enumerate(photos) for place, token in enumerate(self._sources(edits))
        }
        for (photo, place), source in sources.items():
            targets = enumerate(targets[place] for targets in photos[photo].targets)
            changed = [((photo, place, i), target) for i, target in targets if not torch.equal(target, source)]
            rows += changed
            if changed and request.paste == "change":
                rows.append(((photo, place, None), source))
        begun = dict.fromkeys(key[:2] for key, _ in rows)
        for part in _parts(list(begun), sampling.batch):
            latents, tokens = (torch.cat(found) for found in zip(*((faces[key].latent, sources[key]) for key in part)))
            if not self.interrupt:
                noisy |= zip(part, self.add_noise(latents, tokens, sampling.steps, strength, up).split(1))
        drawn = {}
        for loras, alike in self._by_loras(rows, sources).items():
            for part in _parts(alike, sampling.batch):
                if self.interrupt:
                    break
                latents, tokens = (torch.cat(one) for one in zip(*((noisy[key[:2]], token) for key, token in part)))
                with self.with_loras(loras):
                    back = self.remove_noise(latents, tokens, sampling, strength, scale)
                drawn |= zip([key for key, _ in part], self.decode(back))
        return drawn

    def _by_loras(self, rows: list[Any], sources: dict[tuple[int, int], Tensor]) -> dict[Any, list[Any]]:
        """Rows of one batch need the same LoRAs."""
        groups: dict[Any, list[Any]] = {}
        for key, token in rows:
            groups.setdefault(self.lora_weights(sources[key[:2]], token), []).append((key, token))
        return groups

    def _finish(
        self, rgb: np.ndarray, face: LatentFace, source: Tensor, target: Tensor, drawn: Tensor | None,
        redrawn: Tensor | None, keep_detail: bool,
    ) -> tuple[np.ndarray, EditedFace]:  # fmt: skip
        """The photo with a face's picture in it, and what happened."""
        before = redrawn if keep_detail and drawn is not None else None
        changed = drawn is not None and (before is not None or not keep_detail)  # an interruption may leave one out
        rgb, buffers = paste_picture(rgb, face, face.picture if drawn is None else drawn, before, changed)
        crop = Image.fromarray(warp_crop(rgb, face.matrix, self.latents_side))
        return rgb, EditedFace(face.number, face.box, source, target, crop, buffers, buffers["edited"])


def _parts(rows: list[Any], size: int) -> Iterable[list[Any]]:
    return [rows[part] for part in batches([0] * len(rows), size)]
