"""DiffAEEmotionPipeline: emotions and attributes as directions of a Diffusion Autoencoder's semantic code.

Preechakul et al., "Diffusion Autoencoders: Toward a Meaningful and Decodable Representation", CVPR 2022. A photo is
two codes: z_sem, what it shows, and x_T, the noise from which DDIM under z_sem comes back to the photo's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from ..diffusion.guidance import CodeReader, ShapeGuide
from ..diffusion.sampling import Sampling, batches
from ..face.emotions import blend_shares, in_order
from ..hub.repository import HubMixin
from ..models.diffae import LatentNet, SemanticEncoder
from ..models.emoca import EmocaEncoder
from ..models.semantic_classifier import LatentClassifier
from ..models.unet import RigUNet
from ..painting.detail_transfer import BORDER, paste_change
from ..photo.crops import encoder_transform
from ..photo.io import Photo, read_photo
from ..photo.masks import border_mask
from ..photo.resample import paste, warp_crop
from .diffae_faces import CodedFace, CodingMixin, unit_picture
from .naming import naming_photo, naming_reference
from .outputs import EditedCode, EmoRigOutput, as_type
from .request import callback_tensors, check_generators, moods
from .request_diffae import CodeRequest, check_code_request
from .settings import DIFFAE, chosen_settings

__all__ = ["DiffAEEmotionPipeline"]



class DiffAEEmotionPipeline(CodingMixin, HubMixin, DiffusionPipeline):
    """Change the emotion of faces by moving their semantic code, and decoding it with the photo's own noise.

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

    def check_inputs(self, **given: Any) -> None:
        """Raise ValueError with one sentence for what cannot be done; arguments of `__call__` by name."""
        check_code_request(self, CodeRequest(**given))

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        emotion: str | Mapping[str, float] | Sequence[str | Mapping[str, float]] | None = None,
        intensity: float = 1.0,
        reference: Any | None = None,
        attributes: Mapping[str, float] | None = None,
        face: int | Literal["largest", "all"] = "largest",
        num_inference_steps: int | None = None,
        inversion_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        latents: Tensor | Literal["photo"] | None = "photo",
        batch_size: int = 8,
        crop: str | None = None,
        shape_guidance: float = 0.0,
        paste: Literal["change", "crop"] = "change",
    ) -> EmoRigOutput | tuple:
        """Edit one photo or a list of photos.

        Args:
            image: Path, PIL image, array [H, W(, C)] or tensor [3, H, W] in [0, 1], or a list of them.
            emotion: One of `emotion_names`, or a blend such as `{"happy": .6, "surprise": .4}`; a list gives each
                photo its own, and one photo every one of them.
            intensity: 0 returns the photo itself, 1 is as far as the classifier's `strength` says, 1.5 the most.
            reference: A photo whose (largest) face lends its emotion: its code within the classes' span.
            attributes: Amounts by name, of the attribute classifier; below 0 goes the other way.
            face: "largest", "all", or a number from 1 counted from the left.
            num_inference_steps: Decoding steps T; `None` for the checkpoint's.
            inversion_steps: Steps T_inv in which x_T is found; `None` for the checkpoint's.
            generator: For repeatable results where `latents` is `None`: one, or a list with one for each photo, whose
                result is then that of a call with this photo and generator alone.
            output_type: "pil", "np" or "pt".
            return_dict: Return an `EmoRigOutput`, else a tuple (images, faces).
            callback_on_step_end: Called as `f(pipe, step, timestep, {"latents": …})`, as in diffusers; a true
                `pipe._interrupt` ends the sampling, and faces that it has not begun stay as they are.
            callback_on_step_end_tensor_inputs: What it is given, and may give back: of "latents", "conditions", "code".
            latents: "photo" for the x_T that each photo came from, noise [1, 3, S, S] for every face, or `None` for
                fresh noise: the code alone, with other details.
            batch_size: Faces that are inverted and decoded at a time.
            crop: Which square of the photo is the picture; "whole" for pictures that are aligned already, in which no
                face is looked for; `None` for the checkpoint's.
            shape_guidance: How much the shape code β is held while decoding (`guidance.ShapeGuide`); 0 is off.
            paste: "change" brings the network's change into the photo and keeps the photo's detail where little
                changed; "crop" pastes the network's picture as it is.

        Raises:
            PhotoError, NoFaceError, ValueError: With one sentence that says what to do.
        """
        # 1. check
        request = CodeRequest(
            emotion, intensity, reference, attributes, num_inference_steps, inversion_steps, output_type, latents,
            batch_size, crop, shape_guidance, paste,
        )  # fmt: skip
        check_code_request(self, request)
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        emotions = moods(emotion, len(images))
        generator = check_generators(generator, len(images))
        tensors = callback_tensors(callback_on_step_end, callback_on_step_end_tensor_inputs)
        steps = num_inference_steps or self.config.default_num_inference_steps
        sampling = Sampling(
            steps, generator, latents, callback_on_step_end, batch_size, callback_tensors=tensors
        )

        # 2. read and find; every result has the faces of its photo
        lender = None if reference is None else self._lender(reference, crop)
        photos, faces = self._read(images, face, crop)
        seen = [one for found in faces for one in found]
        first = np.cumsum([0, *map(len, faces)])
        shown = [(i if len(photos) > 1 else 0, mood) for i, mood in enumerate(emotions)]
        places = [(place, i, mood) for i, mood in shown for place in range(first[i], first[i + 1])]
        rows, owners = [place for place, _, _ in places], [i for _, i, _ in places]

        with self._interruptible():
            # 3. encode, move the codes
            whose = [i for i, found in enumerate(faces) for _ in found]
            codes = self.encode_faces(seen, sampling.of(whose), inversion_steps)
            source, noise = codes.z[rows], codes.latents[rows]
            target = torch.cat([self._moved(codes.z[place : place + 1], mood, request, lender)
                                for place, _, mood in places])  # fmt: skip

            # 4. decode; faces that were not begun before an interruption stay as they are
            drawn = self._decode_moved(noise, target, owners, self._guides([seen[i] for i in rows], request), sampling)
            redrawn = self.decode(codes.latents, codes.z, sampling, whose) if paste == "change" else None
            redrawn = None if self.interrupt else redrawn
        target[len(drawn) :] = source[len(drawn) :]
        drawn = torch.cat([drawn, *(seen[i].picture[None] for i in rows[len(drawn) :])])

        # 5. paste, hand over
        pictures, described, number = [], [], 0
        for i, _ in shown:
            rgb, edited = photos[i].rgb, []
            for place in range(first[i], first[i + 1]):
                before = None if redrawn is None else redrawn[place]
                both = source[number : number + 1], target[number : number + 1]
                rgb, one = self._finish(rgb, seen[place], both, noise[number : number + 1], drawn[number], before)
                edited.append(one)
                number += 1
            pictures.append(as_type(photos[i], rgb, output_type))
            described.append(edited)
        self.maybe_free_model_hooks()
        return EmoRigOutput(pictures, described) if return_dict else (pictures, described)

    # steps of __call__

    def _moved(self, z: Tensor, emotion: Any, request: CodeRequest, lender: Tensor | None) -> Tensor:
        """The code to show [1, C]: the photo's own [1, C], edited."""
        emotions, attributes = self.emotion_classifier, self.attribute_classifier
        if emotion is not None:
            shares = blend_shares(emotion, dict.fromkeys(self.emotion_names))
            z = _on(emotions, lambda codes: emotions.moved(codes, shares, request.intensity), z)
        if lender is not None and request.intensity > 0:
            share = min(request.intensity, 1.0)
            z = _on(emotions, lambda codes: emotions.borrowed(codes, lender.to(codes), share), z)
        if request.attributes and request.intensity > 0:
            z = _on(attributes, lambda codes: attributes.moved(codes, request.attributes, request.intensity), z)
        return z

    def _read(
        self, images: Sequence[Any], face: int | Literal["largest", "all"], crop: str | None
    ) -> tuple[list[Photo], list[list[CodedFace]]]:
        """Photos, and the chosen faces of each."""
        photos, faces = [], []
        for i, image in enumerate(images, 1):
            with naming_photo(i, len(images)):
                photos.append(read_photo(image))
                faces.append(self.find(photos[-1].rgb, face, crop))
        return photos, faces

    def _lender(self, reference: Any, crop: str | None) -> Tensor:
        """The code of the reference [1, C]."""
        with naming_reference():
            face = self.look(reference, "largest", crop)[0]
        return self.encode(face.picture[None])

    def _guides(self, faces: Sequence[CodedFace], request: CodeRequest) -> Callable[[slice], ShapeGuide | None]:
        """What keeps β of a batch of results, by its place among all; `None` where nothing does."""
        if not request.shape_guidance:
            return lambda _: None
        reader, device = CodeReader(self.shape_encoder), self._execution_device
        kind, side = self.shape_encoder.crop, self.latents_side
        classifier = self.emotion_classifier or self.attribute_classifier

        def guide(part: slice) -> ShapeGuide:
            views = [encoder_transform(kind, face.landmarks, face.matrix, side) for face in faces[part]]
            transform = torch.from_numpy(np.stack(views)).float().to(device)
            pictures = torch.stack([face.picture for face in faces[part]]).to(device)
            goal = reader(pictures, transform)
            return ShapeGuide(reader, goal, transform, weight=request.shape_guidance, classifier=classifier)

        return guide

    def _decode_moved(
        self, noise: Tensor, target: Tensor, photos: Sequence[int],
        guides: Callable[[slice], ShapeGuide | None], sampling: Sampling,
    ) -> Tensor:  # fmt: skip
        """Pictures of moved codes, batch by batch, each with its own guide; as many as were begun."""
        parts = [noise[:0]]
        for part in batches(photos, sampling.batch):
            guided = replace(sampling, guide=guides(part))
            parts.append(self.decode(noise[part], target[part], guided, photos[part]))
        return torch.cat(parts)

    def _finish(
        self, rgb: np.ndarray, face: CodedFace, codes: tuple[Tensor, Tensor], latents: Tensor, drawn: Tensor,
        redrawn: Tensor | None,
    ) -> tuple[np.ndarray, EditedCode]:  # fmt: skip
        """The photo with a face's picture in it, and what happened."""
        same, after = torch.equal(*codes), _unit(drawn)
        buffers = {"photo": unit_picture(face.picture), "edited": unit_picture(drawn)}
        if redrawn is not None:
            before = after if same else _unit(redrawn)
            rgb, replaced = paste_change(rgb, before, after, face.matrix)
            buffers |= {"reconstructed": unit_picture(redrawn), "replaced": _mask_picture(replaced)}
        elif not same:
            mask = border_mask(len(after), BORDER)
            rgb = paste(rgb, after, mask if face.own is None else mask * face.own, face.matrix)
        size = self.latents_side
        crop = Image.fromarray(warp_crop(rgb, face.matrix, size))
        chances = self._probabilities(*codes)
        return rgb, EditedCode(
            face.number, face.box, *codes, latents, crop, buffers, buffers["edited"], chances
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


def _unit(picture: Tensor) -> np.ndarray:
    """[3, S, S] in [-1, 1] -> float32 [S, S, 3] in [0, 1]."""
    return ((picture.float() + 1) / 2).clamp(0, 1).permute(1, 2, 0).cpu().numpy()


def _mask_picture(mask: np.ndarray) -> Image.Image:
    return Image.fromarray((mask * 255).round().astype(np.uint8))
