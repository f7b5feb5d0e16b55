"""The losses of a rig: the open default's repainting, DiffusionRig's denoising, and what keeps the shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...diffusion.guidance import CodeReader
from ...diffusion.schedulers import predicted_sample
from ...evaluation.metrics.perceptual import LPIPS
from ...face.codes import FaceCodes
from ...face.encode import code_vector
from ...models.emoca import EmocaEncoder
from ...models.head import HeadModel
from ...painting.diffusion_rig import draw_conditions
from ...painting.stages.inpaint import make_base, stack_conditions
from ..objectives import goal_of, noise_like, noised

OUTSIDE_WEIGHT = 0.05  # of the loss where nothing is painted: the sample stays quiet there
CODES = ("shape", "expression", "pose", "camera", "light", "texture")  # of FaceCodes, as batches hold them
TOLD = (*CODES, "own_shape")  # what a code can be made of besides
MASK_SHARE = 0.12  # what masks cover of a window on average; keeps the loss near 1 for an untrained network


class RigNetworks(nn.Module):
    """What is trained, as one module: the UNet and, where the code has a part of the photo, its encoder.

    Args:
        unet: Denoiser.
        appearance_encoder: Code of the clean photo, or `None`.
        code_parts: What the code is made of, see `EmoRigPipeline`.
    """

    def __init__(self, unet: nn.Module, appearance_encoder: nn.Module | None, code_parts: tuple[str, ...]) -> None:
        super().__init__()
        self.unet, self.appearance_encoder, self.code_parts = unet, appearance_encoder, code_parts

    def forward(self, sample: Tensor, t: Tensor, code: Tensor | dict[str, Tensor], picture: Tensor | None) -> Tensor:
        """Prediction [B, 3, H, W]; `code` is ready [B, C], or codes by name to be joined with the picture's."""
        if isinstance(code, dict):
            z = self.appearance_encoder(picture) if self.appearance_encoder is not None else None
            codes = FaceCodes(**{name: code[name] for name in CODES})
            code = code_vector(codes, self.code_parts, z, code.get("own_shape"))
        return self.unet(sample, t, code, return_dict=False)[0].float()


@dataclass
class RepaintObjective:
    """v-prediction (Salimans & Ho 2022, eq. 10) of the masked residual of the base, plus LPIPS of the picture.

    Attributes:
        alphas: Cumulative products ᾱ [1000].
        residual_scale: x0 is this times photo minus base, within the mask.
        timesteps: Those to train at; the first is pure noise.
        terminal_share: How often the first is drawn.
        code_dropout: How often the code is hidden, so that the pictures are looked at.
        lpips, lpips_weight: Perceptual distance of the composed picture, and its weight.
    """

    alphas: Tensor
    residual_scale: float
    timesteps: Tensor
    terminal_share: float
    code_dropout: float
    lpips: LPIPS | None
    lpips_weight: float

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        photo, mask, u = batch["photo"], batch["mask"], batch["u"]
        base, conditions = repaint_inputs(batch)
        clean = (photo - base) * mask * self.residual_scale
        t = self.timesteps[(u[:, 0] * len(self.timesteps)).long()]
        t = torch.where(u[:, 1] < self.terminal_share, self.timesteps[0], t)
        noise = noise_like(clean, batch["seed"])
        noisy, alpha, sigma = noised(clean, noise, self.alphas[t])
        code = batch["code"] * (u[:, 2:] >= self.code_dropout)
        v = networks(torch.cat([noisy, conditions], 1), t, code, None)
        weight = mask + OUTSIDE_WEIGHT * (1 - mask)
        error = (v - (alpha * noise - sigma * clean)).square() * weight
        losses = {"v": error.mean() / MASK_SHARE}
        if self.lpips is not None:
            guess = base + (alpha * noisy - sigma * v) / self.residual_scale * mask
            losses["lpips"] = self.lpips.distance(guess.clamp(-1, 1), photo).mean()
        return {"loss": losses["v"] + self.lpips_weight * losses.get("lpips", 0)} | losses


def repaint_inputs(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Base [B, 3, S, S] and condition channels [B, 11, S, S] of a batch of windows."""
    base = make_base(batch["moved"], batch["painted"], batch["mask"], batch["mouth"])
    return base, stack_conditions(base, batch["normal"], batch["albedo"], batch["mask"], batch["mouth"])


@dataclass
class DenoisingObjective:
    """DiffusionRig's loss (Ding et al. 2023): the photo is denoised under its own buffers and code.

    Attributes:
        alphas: Cumulative products ᾱ [T].
        prediction_type: "epsilon" or "v_prediction".
        p2_gamma, p2_k: Weight 1 / (k + SNR)^γ (Choi et al. 2022, eq. 8); 1 and 1 give 1 - ᾱ, γ 0 switches it off.
        snr_gamma: Min-SNR weight instead (Hang et al. 2023), or `None`.
        draw: Buffers [B, 9, S, S] of codes under a transform.
        shape: Keeps β, or `None`.
        prior: Frozen networks whose prediction under foreign light is kept, or `None`.
        prior_weight: Weight of that.
    """

    alphas: Tensor
    prediction_type: str
    p2_gamma: float
    p2_k: float
    snr_gamma: float | None
    draw: Drawer
    shape: ShapeLoss | None = None
    prior: nn.Module | None = None
    prior_weight: float = 1.0

    def __call__(self, networks: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        clean = batch["picture"]
        codes = {name: batch[name] for name in TOLD if name in batch}
        t = (batch["u"][:, 0] * len(self.alphas)).long()
        noise = noise_like(clean, batch["seed"])
        noisy, alpha, sigma = noised(clean, noise, self.alphas[t])
        sample = torch.cat([noisy, self.draw(codes, batch["transform"])], 1)
        prediction = networks(sample, t, codes, clean)
        goal = goal_of(self.prediction_type, clean, noise, alpha, sigma)
        error = (prediction - goal).square().mean((1, 2, 3))
        losses = {"mse": error.mean()}
        total = (error * self._weight(self.alphas[t])).mean()
        if self.shape is not None:
            alphas = self.alphas[t][:, None, None, None]
            guess = predicted_sample(prediction, noisy, alphas, self.prediction_type).clamp(-1, 1)
            losses["shape"] = self.shape(guess, clean, batch["transform"], self.alphas[t])
            total = total + self.shape.weight * losses["shape"]
        if self.prior is not None:
            losses["prior"] = self._prior(self.prior, networks, noisy, t, codes, batch)
            total = total + self.prior_weight * losses["prior"]
        return {"loss": total} | losses

    def _weight(self, alphas: Tensor) -> Tensor:
        snr = alphas / (1 - alphas)
        if self.snr_gamma is None:
            return (self.p2_k + snr) ** -self.p2_gamma
        return snr.clamp(max=self.snr_gamma) / (snr if self.prediction_type == "epsilon" else snr + 1)

    def _prior(
        self, prior: nn.Module, networks: nn.Module, noisy: Tensor, t: Tensor, codes: dict[str, Tensor],
        batch: dict[str, Tensor],
    ) -> Tensor:  # fmt: skip
        """How far the prediction has left the frozen one's, under the light of another photo of the batch.

        An album has few lights: without this, the network learns that they are part of the person (the colour shift
        of DiffusionRig's second stage).
        """
        foreign = codes | {"light": codes["light"].roll(1, 0)}
        sample = torch.cat([noisy, self.draw(foreign, batch["transform"])], 1)
        with torch.no_grad():
            kept = prior(sample, t, foreign, batch["picture"])
        return F.mse_loss(networks(sample, t, foreign, batch["picture"]), kept)


class Drawer:
    """Draws the buffers of codes by name as the pipeline does, with a head on the training device.

    Args:
        head: On that device.
        size: Side of the pictures.
        rasterizer: Whose rule of drawing, as the pipeline's setting says.
    """

    def __init__(self, head: HeadModel, size: int, rasterizer: str = "exact") -> None:
        self.head, self.size, self.rasterizer = head, size, rasterizer

    @torch.no_grad()
    def __call__(self, codes: dict[str, Tensor], transform: Tensor) -> Tensor:
        """Buffers [B, 9, S, S]."""
        drawn = FaceCodes(**{name: codes[name] for name in CODES})
        return draw_conditions(self.head, drawn, self.size, transform, self.rasterizer)


@dataclass
class ShapeLoss:
    """Keeps β: a frozen encoder must read the same shape from the predicted photo as from the real one.

    L = mean of ᾱ_t |β(x̂0) - β(x0)|² / S, in units of β's spread where the encoder knows it. ᾱ_t because x̂0 is a
    blur at high noise. The real photo's β is read by the same encoder on the same crop, so a perfect prediction costs
    nothing whatever the encoder's own error.

    Attributes:
        encoder: Frozen.
        weight: Of this loss.
    """

    encoder: EmocaEncoder
    weight: float

    def __call__(self, guess: Tensor, clean: Tensor, transform: Tensor, alphas: Tensor) -> Tensor:
        read = CodeReader(self.encoder)
        with torch.no_grad():
            goal = read(clean, transform)
        return (alphas * (read(guess, transform) - goal).square().sum(1)).mean()
