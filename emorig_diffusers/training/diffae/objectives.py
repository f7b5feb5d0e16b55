"""The losses of a Diffusion Autoencoder: denoising under the photo's own code, and a second step that keeps the shape.

In the second step codes besides the expression, above all β, must not change by an edit of the emotion. The UNet is
trained to decode an edited code with the photo's β, to denoise under the photo's own code as before, and to show the
expression that it showed before.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn import functional as F

from ...diffusion.guidance import CodeReader
from ...diffusion.schedulers import predicted_sample
from ...models.diffae import SemanticEncoder
from ...models.semantic_classifier import LatentClassifier
from ...models.unet import RigUNet
from ..objectives import goal_of, noise_like, noised

INTENSITIES = (0.5, 1.5)  # of the edits that are trained


class ShapeStepObjective:
    """Keeps codes under edits of the emotion.

    z = encoder(x), z' = z moved to an emotion at an intensity, x_t = x noised, x0' and x0 what the UNet predicts from
    x_t under z' and z. The loss is the error under z (the autoencoder's own), plus `keep_weight` times
    ᾱ_t |c(x0') - c(x)|², c the codes that `reader` reads in their spreads, plus `expression_weight` times
    ᾱ_t |ψ(x0') - ψ(teacher's x0')|². ᾱ_t because predictions are blurs at high noise.

    Args:
        alphas: Cumulative products ᾱ [T].
        prediction_type: "epsilon" or "v_prediction".
        teacher: The UNet as it was before, frozen; `None` lets the expression go.
        reader: Of the codes to keep, its encoder frozen.
        classifier: Of the emotions, frozen.
        keep_weight: Of the kept codes.
        expression_weight: Of the teacher's expression.
        intensities: Least and most of the edits.
    """

    def __init__(
        self,
        alphas: Tensor,
        prediction_type: str,
        teacher: nn.Module | None,
        reader: CodeReader,
        classifier: LatentClassifier,
        keep_weight: float = 1.0,
        expression_weight: float = 1.0,
        intensities: tuple[float, float] = INTENSITIES,
    ) -> None:
        self.alphas, self.prediction_type, self.teacher = alphas, prediction_type, teacher
        self.reader, self.classifier, self.intensities = reader, classifier, intensities
        self.expression = CodeReader(reader.encoder, ("expression",))
        self.keep_weight, self.expression_weight = keep_weight, expression_weight

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch: `loss`, `mse`, `keep` and, with a teacher, `expression`.

        Args:
            networks: (x_t, t, picture or None, code) -> prediction [B, 3, S, S]; its `semantic_encoder` is frozen.
            batch: `picture` [B, 3, S, S] in [-1, 1]; `transform` [B, 3, 3], NDC of the reader's crop to the picture's;
                `u` [B, 3] in [0, 1): time, emotion, intensity; `seed` [B] of the noise.
        """
        clean, t = batch["picture"], (batch["u"][:, 0] * len(self.alphas)).long()
        noise, alphas = noise_like(clean, batch["seed"]), self.alphas[t]
        noisy, alpha, sigma = noised(clean, noise, alphas)
        with torch.no_grad():
            code = extract_model_from_parallel(networks).semantic_encoder(clean)
            edited = self.edited(code, batch["u"][:, 1], batch["u"][:, 2])
            kept = self.reader(clean, batch["transform"])
        # one pass for both: processes that train together must not meet twice in a step
        both = networks(torch.cat([noisy, noisy]), torch.cat([t, t]), None, torch.cat([code, edited]))
        own, prediction = both.chunk(2)
        goal = goal_of(self.prediction_type, clean, noise, alpha, sigma)
        guess = self._guess(prediction, noisy, alphas)
        losses = {"mse": F.mse_loss(own, goal)}
        losses["keep"] = _distance(self.reader(guess, batch["transform"]), kept, alphas)
        total = losses["mse"] + self.keep_weight * losses["keep"]
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(noisy, t, edited, return_dict=False)[0].float()
                shown = self.expression(self._guess(taught, noisy, alphas), batch["transform"])
            losses["expression"] = _distance(self.expression(guess, batch["transform"]), shown, alphas)
            total = total + self.expression_weight * losses["expression"]
        return {"loss": total} | losses

    def edited(self, code: Tensor, which: Tensor, how_much: Tensor) -> Tensor:
        """Codes [B, C], each moved to an emotion at an intensity; `which` and `how_much` [B] are in [0, 1)."""
        names, (least, most) = self.classifier.names, self.intensities
        moved = [
            self.classifier.moved(one[None], {names[int(w * len(names))]: 1.0}, float(least + (most - least) * h))
            for one, w, h in zip(code, which.tolist(), how_much.tolist())
        ]
        return torch.cat(moved)

    def _guess(self, prediction: Tensor, noisy: Tensor, alphas: Tensor) -> Tensor:
        """The predicted x0 [B, 3, S, S] in [-1, 1]."""
        return predicted_sample(prediction, noisy, alphas[:, None, None, None], self.prediction_type).clamp(-1, 1)


def _distance(read: Tensor, goal: Tensor, alphas: Tensor) -> Tensor:
    """Mean of ᾱ |read - goal|² over readings [B, N]."""
    return (alphas * (read - goal).square().sum(1)).mean()


class DiffAENetworks(nn.Module):
    """What is trained, as one module: the UNet, the semantic encoder, and perhaps a linear probe of its code."""

    def __init__(self, unet: RigUNet, semantic_encoder: SemanticEncoder, probe: nn.Linear | None = None) -> None:
        super().__init__()
        self.unet, self.semantic_encoder, self.probe = unet, semantic_encoder, probe

    def forward(self, sample: Tensor, t: Tensor, picture: Tensor | None, code: Tensor | None = None) -> Any:
        """Prediction [B, 3, S, S] under the picture's code, or under a given one [B, C]; with a probe, also what it
        reads from the picture's code [B, E]."""
        given, code = code, self.semantic_encoder(picture) if code is None else code
        prediction = self.unet(sample, t, code, return_dict=False)[0].float()
        return prediction if self.probe is None or given is not None else (prediction, self.probe(code).float())


class AutoencoderObjective:
    """The noise (or velocity) in a noised photo is predicted under the photo's own code (Preechakul et al., eq. 6).

    With a probe the code must also tell the head's expression: on few photos it would take long to find out that
    mouths and brows count, which are few pixels (the slides' "DDIM specialised on expression").

    Args:
        alphas: Cumulative products ᾱ [T].
        prediction_type: "epsilon" or "v_prediction".
        noise_bias: Timesteps are drawn with a density that grows as t to this power; 0 is uniform, as published.
        code_weight: Of the probe's mean squared error, in the expressions' standard deviations.
        mean, spread: Of the photos' expressions [E]; a probe needs them.
    """

    def __init__(
        self, alphas: Tensor, prediction_type: str, noise_bias: float = 0.0, code_weight: float = 0.0,
        mean: Tensor | None = None, spread: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.alphas, self.prediction_type, self.noise_bias = alphas, prediction_type, noise_bias
        self.code_weight = code_weight
        self.mean, self.spread = torch.zeros(()) if mean is None else mean, torch.ones(()) if spread is None else spread

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch of `PictureData`."""
        clean = batch["picture"]
        t = (batch["u"][:, 0] ** (1 / (1 + self.noise_bias)) * len(self.alphas)).long()
        noise = noise_like(clean, batch["seed"])
        noisy, alpha, sigma = noised(clean, noise, self.alphas[t])
        goal = goal_of(self.prediction_type, clean, noise, alpha, sigma)
        prediction = networks(noisy, t, clean)
        if not self.code_weight:
            return {"loss": F.mse_loss(prediction, goal)}
        prediction, told = prediction
        mse = F.mse_loss(prediction, goal)
        code = F.mse_loss(told, (batch["expression"] - self.mean) / self.spread)
        return {"loss": mse + self.code_weight * code, "mse": mse, "code": code}
