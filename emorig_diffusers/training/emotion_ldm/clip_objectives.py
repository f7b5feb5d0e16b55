"""What CLIP-guided tuning minimises: an edit's change must be the one that words tell, on the same person.

The edit is drawn as it is for users, in few steps, and gradients flow through all of them (Kim et al. 2022, as Pikoulis
et al. 2023 use it).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...diffusion.sampling import Sampling
from ...evaluation.metrics.identity_loss import IdentityLoss
from ...pipelines.emotion_ldm import EmotionLDMPipeline
from .clip_guide import ClipGuide, picture_directions

LEAST = 1e-4  # of (2 - L_dir) / 2, which is 0 where a picture changes the other way round: its logarithm stays finite


@dataclass(frozen=True)
class Weights:
    """Of the losses; the last two are off in the published recipe."""

    l2: float = 1.0
    identity: float = 1.0
    directional: float = 1.0
    text: float = 0.0
    emotion: float = 0.0


class TargetEdits(nn.Module):
    """The way back to one emotion, as one module: its UNet is what is trained.

    Args:
        pipe: The model.
        emotion: The target.
        strength: Where the noisy latents are, t0.
        scale: γ.
        sparing: Compute each UNet pass again for its gradient instead of keeping what it computed: of S passes the
            memory of one, for about a third more time.
    """

    def __init__(self, pipe: EmotionLDMPipeline, emotion: str, strength: float, scale: float, sparing: bool) -> None:
        super().__init__()
        self.unet = pipe.unet
        self.draw = _Way(pipe, emotion, strength, scale, sparing)

    def forward(self, noisy: Tensor, steps: int) -> Tensor:
        """Latents [B, C, S', S'] of edited pictures from those at noise level t0."""
        return self.draw(noisy, steps).float()


class _Way:
    """No module: what it holds is the pipeline's, and not saved with the UNet."""

    def __init__(self, pipe: EmotionLDMPipeline, emotion: str, strength: float, scale: float, sparing: bool) -> None:
        self.pipe, self.strength, self.scale, self.sparing = pipe, strength, scale, sparing
        self.row = pipe.emotion_names.index(emotion)

    def __call__(self, noisy: Tensor, steps: int) -> Tensor:
        pipe, scheduler = self.pipe, deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(steps, noisy.device, self.strength)
        tokens = pipe.emotion_embedding.weight[self.row].to(noisy).expand(len(noisy), -1)
        return pipe.follow(scheduler, (noisy, noisy[:, :0], tokens), Sampling(steps), self.predict)[0]

    def predict(self, t: Tensor, x: Tensor, conditions: Tensor, tokens: Tensor) -> Tensor:
        """As the pipeline does, its activations kept or not."""
        given = x, t, tokens, self.scale
        if self.sparing and torch.is_grad_enabled():
            return checkpoint(self.pipe.noise, *given, use_reentrant=False)
        return self.pipe.noise(*given)


class ClipObjective:
    """l2_w |x - x0|² + id_w (1 - cos) + dir_w (-log((2 - L_dir) / 2)), and optional ones; x0 is what the autoencoder
    makes of the photo.

    L_dir is the mean of 1 - cos between the picture's change in CLIP's space and the texts' (Gal et al. 2022).
    Optional: the distance from the target's text itself, and the cross-entropy of an emotion judge.

    Args:
        decode: Latents to pictures in about [-1, 1], with gradients.
        steps: S of the edit.
        clip: Frozen.
        identity: Frozen; `None` where its weight is 0.
        directions: Of the texts, for each row of the table of emotions [K + 1, D].
        text: Of the target, [D].
        weights: Of the losses.
        judge: Cross-entropy [B] of pictures against the target, where its weight is not 0.
    """

    def __init__(
        self, decode: Callable[[Tensor], Tensor], steps: int, clip: ClipGuide, identity: IdentityLoss | None,
        directions: Tensor, text: Tensor, weights: Weights, judge: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.decode, self.steps, self.clip, self.identity = decode, steps, clip, identity
        self.directions, self.text, self.weights, self.judge = directions, text, weights, judge

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of `InvertedPhotos`."""
        return self.losses(self.decode(networks(batch["noisy"], self.steps)), batch["clean"], batch["source"])

    def losses(self, edited: Tensor, clean: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Each loss, unweighted, and `loss`, their sum; `cosine` is 1 - L_dir.

        Args:
            edited, clean: Pictures [B, 3, S, S] in about [-1, 1].
            source: Rows [B] of what the photos show.
        """
        weights, after = self.weights, self.clip.pictures(edited)
        with torch.no_grad():
            before = self.clip.pictures(clean)
        cosine = (picture_directions(after, before) * self.directions[source]).sum(1).mean()
        losses = {"l2": F.mse_loss(edited, clean), "directional": -((1 + cosine) / 2).clamp(min=LEAST).log()}
        total = weights.l2 * losses["l2"] + weights.directional * losses["directional"]
        if self.identity is not None:
            losses["identity"] = self.identity(edited, clean).mean()
            total = total + weights.identity * losses["identity"]
        if weights.text:
            losses["global"] = 1 - (after @ self.text).mean()
            total = total + weights.text * losses["global"]
        if self.judge is not None:
            losses["emotion"] = self.judge(edited).mean()
            total = total + weights.emotion * losses["emotion"]
        return {"loss": total} | losses | {"cosine": cosine}
