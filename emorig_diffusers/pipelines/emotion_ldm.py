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

from ..diffusion.edit_scheduler import EditDDIMScheduler
from ..diffusion.sampling import CALLBACK_TENSORS, Sampling, batches
from ..face.emotions import blend_shares
from ..face.encode import picture_tensor
from ..models.emotion_ldm import EmotionEmbedding
from ..painting.base import PhotoEdits
from ..painting.detail_transfer import BORDER, paste_change
from ..photo.crops import square_matrix
from ..photo.faces import Face, choose_faces, find_faces
from ..photo.masks import border_mask
from ..photo.pictures import take_picture
from ..photo.resample import paste, warp_crop
from ..timing import timed
from .base import FacePipeline
from .checks import UNKNOWN, check_emotion_ldm_request
from .diffae_faces import unit_picture
from .outputs import EditedFace
from .request import EditRequest
from .settings import EMOTION_LDM, chosen_settings

__all__ = ["EmotionLDMPipeline"]


@dataclass(frozen=True, eq=False)
class LatentFace:
    """A face of a photo as the model sees it.

    Attributes:
        number: 1 for the leftmost face.
        box: (x0, y0, x1, y1) in photo pixels.
        matrix: Similarity [2, 3] from photo pixels to the picture.
        picture: [3, S, S] in [-1, 1].
        latent: Not quantised [1, C, S', S'], on the CPU in float32.
        judged: Emotion -> probability, as the pipeline's judge sees it; empty without one.
        own: As for `pictures.Picture`.
    """

    number: int
    box: tuple[float, float, float, float]
    matrix: np.ndarray
    picture: Tensor
    latent: Tensor
    judged: dict[str, float]
    own: np.ndarray | None = None


class EmotionLDMPipeline(FacePipeline):
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
        crop, found = str(crop or self.config.crop), faces
        if isinstance(found, (str, int)):
            with timed("find faces"):
                found = [None] if crop == "whole" else choose_faces(find_faces(photo), found)
        with timed("encode faces"):
            return [face if isinstance(face, LatentFace) else self._encode_face(photo, face, crop) for face in found]

    def _encode_face(self, rgb: np.ndarray, face: Face | None, crop: str) -> LatentFace:
        size = self.latents_side
        taken = take_picture(rgb, crop, None if face is None else face.landmarks, size, self.config.resampling)
        picture = picture_tensor(taken.pixels)[0] * 2 - 1
        seen: Any = self.vqvae.encode(picture[None].to(self._execution_device, self.vqvae.dtype))
        if face is None:
            matrix = square_matrix(rgb.shape, size)
            x, y, side = -matrix[0, 2] / matrix[0, 0], -matrix[1, 2] / matrix[1, 1], size / matrix[0, 0]
            number, box = 1, (x, y, x + side, y + side)
        else:
            number, box = face.index + 1, face.box
        judged = {} if self.judge is None else dict(self.judge(rgb, box))
        return LatentFace(number, box, taken.matrix, picture, seen.latents.float().cpu(), judged, taken.own)

    def source_token(self, face: LatentFace, request: EditRequest) -> Tensor:
        """The token [1, D] of what a face shows, on the CPU in float32.

        Raises:
            ValueError: Nobody says which emotion it is.
        """
        emotion: Any = request.source_emotion
        if emotion is None:
            known = {name: face.judged[name] for name in self.emotion_names if name in face.judged}
            if not known:
                raise ValueError("The judge was set after this face was encoded: encode it again, or give "
                                 "source_emotion.")  # fmt: skip
            emotion = max(known, key=known.__getitem__)
        table = self.emotion_embedding
        null = table.null.detach()
        token = null if emotion == UNKNOWN else table.moved(null, blend_shares(emotion, dict.fromkeys(table.names)))
        return token.detach().float().cpu()

    def edit(self, face: LatentFace, request: EditRequest, reference: Any | None = None) -> Tensor:
        """As `FacePipeline.edit`: the token [1, D] to come back under."""
        source, table, emotion = self.source_token(face, request), self.emotion_embedding, request.emotion
        shares = blend_shares(emotion, dict.fromkeys(table.names))  # type: ignore[arg-type]  of one result
        target = table.moved(source.to(table.weight), shares, request.intensity).float().cpu()
        return source if torch.allclose(target, source) else target

    # diffusion

    def _noise(self, x: Tensor, t: Tensor, token: Tensor, scale: float) -> Tensor:
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
        x, tokens, scheduler = self._place(latents), self._place(tokens), self._stepping(steps, strength)
        for t in self.progress_bar(reversed(scheduler.timesteps)):
            if not self.interrupt:
                x = scheduler.step_up(self._noise(x, t, tokens, scale), t, x)
        return x.float().cpu()

    @torch.no_grad()
    def remove_noise(
        self, latents: Tensor, tokens: Tensor, sampling: Sampling, strength: float, scale: float
    ) -> Tensor:
        """The way back under tokens [B, D]; arguments as for `add_noise`, `sampling` with the steps and callback."""
        x, tokens, scheduler = self._place(latents), self._place(tokens), self._stepping(sampling.steps, strength)
        state: dict[str, Tensor] = dict(zip(CALLBACK_TENSORS, (x, x[:, :0], tokens)))
        self._num_timesteps = len(scheduler.timesteps)
        for step, t in enumerate(self.progress_bar(scheduler.timesteps)):
            if self.interrupt:
                continue
            noise = self._noise(state["latents"], t, state["code"], scale)
            state["latents"] = scheduler.step(noise, t, state["latents"], return_dict=False)[0]
            if sampling.callback is not None:
                given = {name: state[name] for name in sampling.callback_tensors}
                state |= sampling.callback(self, step, t, given) or {}
        return state["latents"].float().cpu()

    def _stepping(self, steps: int, strength: float) -> EditDDIMScheduler:
        scheduler = deepcopy(self.scheduler)  # other threads sample too
        scheduler.set_timesteps(steps, self._execution_device, strength)
        return scheduler

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
            for result, targets in enumerate(edits.targets):
                rgb, edited = edits.rgb, []
                for place, (face, target) in enumerate(zip(edits.faces, targets)):
                    pictures = drawn.get((photo, place, result)), drawn.get((photo, place, None))
                    source = self.source_token(face, request)
                    rgb, one = self._finish(rgb, face, source, target, *pictures, request.paste == "change")
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
        sources = {key: self.source_token(face, request) for key, face in faces.items()}
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
        for part in _parts(rows, sampling.batch):
            if self.interrupt:
                break
            latents, tokens = torch.cat([noisy[key[:2]] for key, _ in part]), torch.cat([token for _, token in part])
            back = self.remove_noise(latents, tokens, sampling, strength, scale)
            drawn |= zip([key for key, _ in part], self.decode(back))
        return drawn

    def _finish(
        self, rgb: np.ndarray, face: LatentFace, source: Tensor, target: Tensor, drawn: Tensor | None,
        redrawn: Tensor | None, keep_detail: bool,
    ) -> tuple[np.ndarray, EditedFace]:  # fmt: skip
        """The photo with a face's picture in it, and what happened."""
        buffers = {"photo": unit_picture(face.picture)}
        buffers["edited"] = buffers["photo"] if drawn is None else unit_picture(drawn)
        if drawn is not None and keep_detail and redrawn is not None:
            rgb, replaced = paste_change(rgb, _unit(redrawn), _unit(drawn), face.matrix)
            buffers["reconstructed"] = unit_picture(redrawn)
            buffers["replaced"] = Image.fromarray((replaced * 255).round().astype(np.uint8))
        elif drawn is not None and not keep_detail:
            after = _unit(drawn)
            mask = border_mask(len(after), BORDER)
            rgb = paste(rgb, after, mask if face.own is None else mask * face.own, face.matrix)
        crop = Image.fromarray(warp_crop(rgb, face.matrix, self.latents_side))
        return rgb, EditedFace(face.number, face.box, source, target, crop, buffers, buffers["edited"])


def _parts(rows: list[Any], size: int) -> Iterable[list[Any]]:
    return [rows[part] for part in batches([0] * len(rows), size)]


def _unit(picture: Tensor) -> np.ndarray:
    """[3, S, S] in [-1, 1] -> float32 [S, S, 3] in [0, 1]."""
    return ((picture + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
