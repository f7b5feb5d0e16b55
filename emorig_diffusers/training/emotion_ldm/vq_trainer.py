"""The autoencoder of the emotion latent-diffusion model (VQGAN, Esser et al. 2021): what is built, and the run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import VQModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...data.preparation import shown_square
from ...evaluation.metrics.perceptual import LPIPS
from ...evaluation.sheets import draw_rows
from ...models.aligned import align_weights
from ...pipelines.emotion_ldm import EmotionLDMPipeline
from ...pipelines.picture_faces import unit_picture
from ..config import parse_trainer, preset_networks, trainer_parser
from ..pictures import PictureData, Pictures
from ..trainer import CHANNELS_LAST, SampledRun
from .autoencoder import VQNetworks, VQObjective
from .discriminator import PatchDiscriminator
from .photos import add_photo_arguments, open_photos

DEFAULTS = {"train_batch_size": 8, "learning_rate": 3.6e-5, "adam_beta1": 0.5, "adam_beta2": 0.9,
            "max_grad_norm": math.inf, "use_ema": False}  # fmt: skip
"""As published: no average, and no clipping."""
SHOWN, TILE = 6, (256, 256)  # pictures on the validation sheet, and their size in pixels
BEGUN = 64  # photos whose latents a codebook begins with
LEAST_SPREAD = 0.01  # of latents along an axis, as a share of the widest: less is not made wider
BATCH = 16  # pictures at a time where nothing is trained


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = trainer_parser("Train the autoencoder of an emotion LDM on shards or photos.", ("vqvae", "discriminator"))
    add = parser.add_argument
    add("--pretrained_vqvae", type=Path, help="go on with this autoencoder (or a pipeline's), not from scratch")
    add_photo_arguments(parser)
    add("--codes_from_photos", action="store_true", help="begin with independent channels of latents, and codes "
        "that are latents of photos: short runs use few codes otherwise (published: codes around 0)")  # fmt: skip
    add("--lpips_net", choices=("vgg", "alex"), default="vgg", help="vgg as published; alex costs a fifteenth")
    add("--perceptual_weight", type=float, default=1.0, help="of LPIPS beside the mean difference")
    add("--codebook_weight", type=float, default=1.0)
    add("--disc_weight", type=float, default=0.8, help="of the discriminator's word, beside the adaptive weight")
    add("--disc_start", type=int, default=10000, help="step from which the discriminator learns and counts")
    parser.set_defaults(**DEFAULTS)
    return parse_trainer(parser, argv)


def open_vqvae(folder: Path) -> VQModel:
    """The autoencoder in a folder of train/train_vq.py, or that of a pipeline.

    Raises:
        DataError: Neither is there.
    """
    if (folder / "model_index.json").is_file():
        return EmotionLDMPipeline.from_pretrained(folder).vqvae
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} is no autoencoder: give what train/train_vq.py wrote, or a pipeline's folder.")
    vqvae = VQModel.from_pretrained(folder, use_safetensors=True)
    align_weights(vqvae)
    return vqvae


def build(args: argparse.Namespace) -> VQNetworks:
    """The networks that are trained.

    Raises:
        SystemExit: If the preset's sections make none, with one sentence.
    """
    if not args.pretrained_vqvae and not args.vqvae:
        raise SystemExit("An autoencoder from scratch needs its sizes: give a --config with a `vqvae` section.")
    with preset_networks():
        vqvae = open_vqvae(args.pretrained_vqvae) if args.pretrained_vqvae else VQModel(**args.vqvae)
        return VQNetworks(vqvae, PatchDiscriminator(**(args.discriminator or {})))


@torch.no_grad()
def begin_codebook(vqvae: VQModel, pictures: Tensor, generator: torch.Generator) -> None:
    """Make latents of pictures [B, 3, S, S], drawn by chance, the codes, once their channels are independent of each
    other, with mean 0 and deviation 1.

    An untrained encoder gives all channels almost the same values: codes on that line keep latents there, and colours
    are never learnt.
    """
    last: Any = vqvae.quant_conv
    codes = vqvae.quantize.embedding.weight
    latents = vqvae.encode(pictures).latents.movedim(1, 3).flatten(0, 2)
    spread, axes = torch.linalg.eigh(torch.cov(latents.T))
    white = axes / spread.clamp(min=LEAST_SPREAD**2 * float(spread[-1])).sqrt()
    last.weight.copy_((white.T @ last.weight[..., 0, 0])[..., None, None])
    last.bias.copy_(white.T @ (last.bias - latents.mean(0)))
    latents = (latents - latents.mean(0)) @ white
    codes.copy_(latents[torch.randint(len(latents), (len(codes),), generator=generator)])


class VQRun(SampledRun):
    """Trains an autoencoder."""

    result = "vqvae"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        networks = build(args)
        self.vqvae = networks.vqvae
        side, device = int(self.vqvae.config["sample_size"]), accelerator.device
        lpips = LPIPS(args.lpips_net).to(device) if args.perceptual_weight else None
        shards, held_out = open_photos(args, side, accelerator)
        shown_square([*shards, *held_out])
        data = PictureData(shards, side, args.mirror)
        if args.codes_from_photos and not args.pretrained_vqvae:
            chosen = np.linspace(0, len(data) - 1, min(BEGUN, len(data))).astype(int)
            seen = torch.stack([data[int(i), args.seed]["picture"] for i in chosen])
            begin_codebook(self.vqvae, seen, torch.Generator().manual_seed(args.seed))
        self.looked_at, self.held_out = Pictures(held_out or shards, side), bool(held_out)
        mean: Any = lambda gradient: accelerator.reduce(gradient, "mean")
        objective = VQObjective(lpips, args.perceptual_weight, args.codebook_weight, args.disc_weight, mean)
        if device.type == "cpu":
            networks.to(**CHANNELS_LAST)  # faster there
        config = {name: value for name, value in self.vqvae.config.items() if not name.startswith("_")}
        settings = {"vqvae": config, "discriminator": args.discriminator, "disc_start": args.disc_start}
        super().__init__(args, accelerator, networks, settings, data, np.ones(len(data)), objective)

    def __str__(self) -> str:
        return f"{len(self.looked_at)} photos of {self.looked_at.side} pixels"

    def losses(self, number: int) -> dict[str, Tensor]:
        """As `SampledRun.losses`; the discriminator counts from its step on."""
        self.objective.judged = self.step >= self.args.disc_start
        return super().losses(number)

    @torch.no_grad()
    def sheets(self) -> dict[str, Image.Image]:
        """Photos above what the autoencoder makes of them; figures of photos that it never saw are printed."""
        if self.held_out:
            tqdm.write(f"step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in self.figures().items()))
        chosen = np.linspace(0, len(self.looked_at) - 1, min(SHOWN, len(self.looked_at))).astype(int)
        photos = torch.stack([self.looked_at[int(i)] for i in chosen]).to(self.accelerator.device)
        rows = ("photo", photos), ("reconstruction", self.vqvae(photos).sample)
        enlarge = lambda one: unit_picture(one).resize(TILE, Image.Resampling.BICUBIC)
        return {"reconstructions": draw_rows([[(caption, enlarge(one)) for one in row] for caption, row in rows])}

    def figures(self) -> dict[str, float]:
        """Of the photos that are only looked at: `l1`, `lpips`, their weighted sum `val_rec_loss`, and the share of
        `codes` in use."""
        count, used = len(self.looked_at), torch.zeros(self.vqvae.config["num_vq_embeddings"], dtype=torch.bool)
        sums = {"l1": 0.0, "lpips": 0.0}
        for batch in DataLoader(self.looked_at, BATCH):
            batch = batch.to(self.accelerator.device)
            latents = self.vqvae.encode(batch).latents
            _, _, (_, _, codes) = self.vqvae.quantize(latents)
            used[codes.flatten().cpu()] = True
            found = self.objective.distances(batch, self.vqvae.decode(latents, return_dict=False)[0])
            sums = {name: total + float(found[name]) * len(batch) / count for name, total in sums.items()}
        both = sums["l1"] + self.args.perceptual_weight * sums["lpips"]
        return {"val_rec_loss": both, **sums, "codes": float(used.float().mean())}

    def save(self, folder: Path) -> None:
        """The autoencoder, with the averaged weights where there is an average."""
        vqvae: Any = self.vqvae
        vqvae.to(memory_format=torch.contiguous_format).save_pretrained(folder)
