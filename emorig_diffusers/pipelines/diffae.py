"""DiffAEEmotionPipeline: emotions and attributes as directions of a Diffusion Autoencoder's semantic code.

Preechakul et al., "Diffusion Autoencoders: Toward a Meaningful and Decodable Representation", CVPR 2022. A photo is
two codes: z_sem, what it shows, and x_T, the noise from which DDIM under z_sem comes back to the photo's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..diffusion.guidance import CodeReader, ShapeGuide
from ..diffusion.sampling import Sampling, batches
from ..face.emotions import blend_shares, in_order
from ..models.diffae import LatentNet, SemanticEncoder
from ..models.emoca import EmocaEncoder
from ..models.semantic_classifier import LatentClassifier
from ..models.unet import RigUNet
from ..painting.base import PhotoEdits
from ..photo.crops import encoder_transform
from ..photo.resample import warp_crop
from .base import FacePipeline
from .checks import check_diffae_request
from .diffae_faces import CodedFace, CodingMixin
from .outputs import EditedFace
from .picture_faces import paste_picture
from .request import EditRequest
from .settings import DIFFAE, chosen_settings

__all__ = ["DiffAEEmotionPipeline"]



class DiffAEEmotionPipeline(CodingMixin, FacePipeline):
    """Change the emotion of faces by moving their semantic code, and decoding it with the photo's own noise: without
    `latents` a call takes "photo".

    Args:
        unet: Denoiser that is told z_sem: `RigUNet` with cond_mode 'scale' and no condition pictures.
        semantic_encoder: Photo to z_sem.
        scheduler: Sampler; DDIM where x_T is to be the photo's.
        emotion_classifier: Emotions of z_sem and the way to them.
        attribute_classifier: The same for other attributes, such as CelebA's forty.
        latent_net, latent_scheduler: Draw z_sem from noise, for pictures of nobody.
        shape_encoder: Reads the shape code β that `shape_guidance` keeps.
        default_num_inference_steps: Decoding steps T where the caller gives none.
        inversion_steps: Steps T_inv in which x_T is found.
        crop: Which square of the photo is the picture: one of `crops.PICTURE_FRAMES`.
        brought: Whose the weights are, in a sentence without a full stop, where users must not pass them on.
        resampling: How photos become pictures, one of `pictures.RESAMPLINGS`: "area", or "pil" as published.
        settings: The checkpoint's, of the five arguments above (`pipe.components` has them); they count for those that
            are `None`, else `settings.DIFFAE` do.

    Raises:
        ValueError: An unknown crop or resampling, or a UNet that takes pictures or another code.
    """

    defaults = {"latents": "photo"}
    noise_per_result = False
    model_cpu_offload_seq = "semantic_encoder->latent_net->unet"
    _optional_components = [
        "emotion_classifier", "attribute_classifier", "latent_net", "latent_scheduler", "shape_encoder",
    ]  # fmt: skip

    def __init__(
        self,
        unet: RigUNet,
        semantic_encoder: SemanticEncoder,
        scheduler: Any,
        emotion_classifier: LatentClassifier | None = None,
        attribute_classifier: LatentClassifier | None = None,
        latent_net: LatentNet | None = None,
        latent_scheduler: Any | None = None,
        shape_encoder: EmocaEncoder | None = None,
        default_num_inference_steps: int | None = None,
        inversion_steps: int | None = None,
        crop: str | None = None,
        brought: str | None = None,
        resampling: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        chosen = chosen_settings(DIFFAE, settings, locals())
        if unet.config.in_channels != 3 or unet.config.cond_dim != semantic_encoder.config.cond_dim:
            raise ValueError("The UNet must take noisy pictures alone, and codes as long as the semantic encoder's.")
        self.register_modules(
            unet=unet, semantic_encoder=semantic_encoder, scheduler=scheduler, emotion_classifier=emotion_classifier,
            attribute_classifier=attribute_classifier, latent_net=latent_net, latent_scheduler=latent_scheduler,
            shape_encoder=shape_encoder,
        )  # fmt: skip
        self.register_to_config(**chosen)

    @property
    def brought(self) -> str:
        """As `HubMixin.brought`."""
        return self.config.brought

    @property
    def emotion_names(self) -> tuple[str, ...]:
        """Emotions that this checkpoint knows."""
        known = () if self.emotion_classifier is None else self.emotion_classifier.names
        return tuple(in_order(dict.fromkeys(known)))

    @property
    def capabilities(self) -> frozenset[str]:
        """As `FacePipeline.capabilities`."""
        known = {"attributes"} if self.attribute_classifier is not None else set()
        known |= {"shape_guidance"} if self.shape_encoder is not None else set()
        return frozenset({"semantic_code", "inversion", "picture", *known})

    def describe_codes(self, face: CodedFace) -> dict[str, Any]:
        """As `FacePipeline.describe_codes`: z_sem, and how probable emotions and attributes are."""
        known = {"emotions": self.emotion_classifier, "attributes": self.attribute_classifier}
        chances = {
            kind: dict(zip(classifier.names, _on(classifier, classifier.probabilities, face.z)[0].tolist()))
            for kind, classifier in known.items()
            if classifier is not None
        }
        return {"number": face.number, "box": list(face.box), **chances, "z_sem": face.z[0].tolist()}

    def check(self, request: EditRequest) -> None:
        """As `FacePipeline.check`."""
        super().check(request)
        check_diffae_request(self, request)

    def edit(self, face: CodedFace, request: EditRequest, reference: CodedFace | None = None) -> Tensor:
        """As `FacePipeline.edit`: z_sem [1, C]."""
        z, emotions, attributes = face.z, self.emotion_classifier, self.attribute_classifier
        if request.emotion is not None:
            emotion: Any = request.emotion  # of one result
            shares = blend_shares(emotion, dict.fromkeys(self.emotion_names))
            z = _on(emotions, lambda codes: emotions.moved(codes, shares, request.intensity), z)
        if reference is not None and request.intensity > 0:
            share = min(request.intensity, 1.0)
            z = _on(emotions, lambda codes: emotions.borrowed(codes, reference.z.to(codes), share), z)
        if request.attributes and request.intensity > 0:
            z = _on(attributes, lambda codes: attributes.moved(codes, request.attributes, request.intensity), z)
        return z

    def paint(
        self, photos: Sequence[PhotoEdits], sampling: Sampling
    ) -> list[tuple[np.ndarray, list[EditedFace]]]:
        """As `FacePipeline.paint`: faces are decoded from their target codes and their own noise. Those that were not
        begun before an interruption stay as they are."""
        faces = [face for edits in photos for face in edits.faces]
        owners = [photo for photo, edits in enumerate(photos) for _ in edits.faces]
        first = np.cumsum([0, *(len(edits.faces) for edits in photos)])
        rows = [
            (first[photo] + place, photo, target)
            for photo, edits in enumerate(photos)
            for targets in edits.targets
            for place, target in enumerate(targets)
        ]
        places, request = [place for place, _, _ in rows], photos[0].request
        noise = self.noise_of(faces, sampling.of(owners), request.inversion_steps)
        guides = self._guides([faces[place] for place in places], request)
        target = torch.cat([target for _, _, target in rows])
        drawn = self._decode_edited(noise[places], target, [photo for _, photo, _ in rows], guides, sampling)
        source = torch.cat([face.z for face in faces])
        redrawn = self.decode(noise, source, sampling, owners) if request.paste == "change" else None
        redrawn = None if self.interrupt else redrawn
        target[len(drawn) :] = source[places[len(drawn) :]]
        drawn = torch.cat([drawn, *(faces[place].picture[None] for place in places[len(drawn) :])])

        results, number = [], 0
        for photo, edits in enumerate(photos):
            for targets in edits.targets:
                rgb, edited = edits.rgb, []
                for place in range(first[photo], first[photo] + len(targets)):
                    before = None if redrawn is None else redrawn[place]
                    code, x_t = target[number : number + 1], noise[place : place + 1]
                    rgb, one = self._finish(rgb, faces[place], code, x_t, drawn[number], before)
                    edited.append(one)
                    number += 1
                results.append((rgb, edited))
        return results

    def _guides(self, faces: Sequence[CodedFace], request: EditRequest) -> Callable[[slice], ShapeGuide | None]:
        """What keeps β of a batch of results, by its place among all; `None` where nothing does."""
        if not request.shape_guidance:
            return lambda _: None
        reader, device = CodeReader(self.shape_encoder), self._execution_device
        kind, side = self.shape_encoder.crop, self.latents_side
        classifier = self.emotion_classifier or self.attribute_classifier

        def guide(part: slice) -> ShapeGuide:
            views = [encoder_transform(kind, np.asarray(face.landmarks), face.matrix, side) for face in faces[part]]
            transform = torch.from_numpy(np.stack(views)).float().to(device)
            pictures = torch.stack([face.picture for face in faces[part]]).to(device)
            goal = reader(pictures, transform)
            return ShapeGuide(reader, goal, transform, weight=request.shape_guidance, classifier=classifier)

        return guide

    def _decode_edited(
        self, noise: Tensor, target: Tensor, photos: Sequence[int],
        guides: Callable[[slice], ShapeGuide | None], sampling: Sampling,
    ) -> Tensor:  # fmt: skip
        """Pictures of edited codes, batch by batch, each with its own guide; as many as were begun."""
        parts = [noise[:0]]
        for part in batches(photos, sampling.batch):
            guided = replace(sampling, guide=guides(part))
            parts.append(self.decode(noise[part], target[part], guided, photos[part]))
        return torch.cat(parts)

    def _finish(
        self, rgb: np.ndarray, face: CodedFace, target: Tensor, latents: Tensor, drawn: Tensor, redrawn: Tensor | None
    ) -> tuple[np.ndarray, EditedFace]:
        """The photo with a face's picture in it, and what happened."""
        rgb, buffers = paste_picture(rgb, face, drawn, redrawn, not torch.equal(face.z, target))
        crop = Image.fromarray(warp_crop(rgb, face.matrix, self.latents_side))
        return rgb, EditedFace(
            face.number, face.box, face.z, target, crop, buffers, buffers["edited"], latents=latents,
            probabilities=self._probabilities(face.z, target),
        )  # fmt: skip

    def _probabilities(self, source: Tensor, target: Tensor) -> dict[str, tuple[float, float]]:
        if self.emotion_classifier is None:
            return {}
        before, after = (_on(self.emotion_classifier, self.emotion_classifier.probabilities, z)[0].tolist()
                         for z in (source, target))  # fmt: skip
        return dict(zip(self.emotion_classifier.names, zip(before, after)))


def _on(module: LatentClassifier, function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """A function of codes where a module is, in its precision; the result as the codes were."""
    return function(z.to(module.device, module.dtype)).to(z)
