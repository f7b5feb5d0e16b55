"""The emotion latent-diffusion model (Pikoulis et al. 2023): what is built on a trained autoencoder, and the run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ...data.preparation import shown_square
from ...diffusion.edit_scheduler import EditDDIMScheduler
from ...diffusion.sampling import Sampling
from ...evaluation.sheets import draw_rows
from ...face.emotions import EMOTIONS
from ...models.emotion_ldm import EmotionEmbedding
from ...pipelines.emotion_ldm import EmotionLDMPipeline
from ...pipelines.picture_faces import unit_picture
from ..config import parse_trainer, preset_networks, trainer_parser
from ..pictures import Pictures
from ..rows import fingerprint
from ..samplers import class_weights
from ..trainer import SampledRun
from .latents import LatentData, read_data
from .objectives import LDMNetworks, NoiseObjective
from .photos import add_photo_arguments, open_photos
from .vq_trainer import open_vqvae

DEFAULTS = {"train_batch_size": 24, "learning_rate": 2.4e-5, "adam_weight_decay": 0.01,
            "max_grad_norm": math.inf}  # fmt: skip
"""As published, without clipping."""
SHOWN, TILE = 4, (192, 192)  # photos on the validation sheet, and the size of its pictures in pixels
BATCH = 64  # latents at a time where nothing is trained


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = trainer_parser("Train an emotion latent-diffusion model on shards or photos.", ("unet", "scheduler"))
    add = parser.add_argument
    add("--vqvae", type=Path, help="folder of train/train_vq.py, or a pipeline whose autoencoder is taken")
    add("--pretrained_model_name_or_path", help="go on with this pipeline, instead of a network from scratch")
    add_photo_arguments(parser)
    add("--null_share", type=float, default=0.2, help="how often no emotion is told, for guidance")
    add("--null_per_sample", action="store_true", help="each sample for itself, not a whole batch as published")
    add("--class_balanced", action="store_true", help="every emotion equally often")
    add("--num_inference_steps", type=int, help="steps each way to store in the result (20)")
    add("--strength", type=float, help="noise level to store in the result (.5)")
    add("--guidance_scale", type=float, help="guidance to store in the result (4)")
    add("--inversion_guidance_scale", type=float, help="that of the way up, likewise (the same)")
    add("--validation_steps_of_sampling", type=int, default=10, help="steps each way for the validation sheet")
    parser.set_defaults(**DEFAULTS)
    args = parse_trainer(parser, argv)
    if not 0 <= args.null_share < 1:
        parser.error("--null_share must be at least 0 and below 1.")
    if not args.vqvae and not args.pretrained_model_name_or_path:
        parser.error("--vqvae is missing: train/train_vq.py makes one.")
    return args


def build(args: argparse.Namespace) -> EmotionLDMPipeline:
    """The pipeline whose networks are trained.

    Raises:
        DataError: There is no autoencoder.
        SystemExit: The preset's section makes no network, with one sentence.
    """
    given = {name: getattr(args, name) for name in ("strength", "guidance_scale", "inversion_guidance_scale")}
    given |= {"default_num_inference_steps": args.num_inference_steps}
    stored = {name: value for name, value in given.items() if value is not None}
    if args.pretrained_model_name_or_path:
        pipe = EmotionLDMPipeline.from_pretrained(args.pretrained_model_name_or_path)
        pipe.register_to_config(**stored)
        return pipe
    if not args.unet:
        raise SystemExit("A network from scratch needs its sizes: give a --config with a `unet` section.")
    vqvae = open_vqvae(args.vqvae)
    channels, side = vqvae.config["latent_channels"], int(vqvae.config["sample_size"])
    shrunk = 2 ** (len(vqvae.config["down_block_types"]) - 1)
    with preset_networks():
        own = {"sample_size": side // shrunk, "in_channels": channels, "out_channels": channels}
        unet = UNet2DConditionModel(**own | args.unet)
        scheduler = EditDDIMScheduler(**args.scheduler or {})
    begin_at_zero(unet)
    embedding = EmotionEmbedding(EMOTIONS, unet.config["cross_attention_dim"])
    return EmotionLDMPipeline(vqvae, unet, embedding, scheduler, **stored)


def begin_at_zero(unet: UNet2DConditionModel) -> None:
    """Zero the last layer of every residual block and transformer, and of all, as the original does before training."""
    last: list[nn.Module] = [unet.conv_out]
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            last.append(module.conv2)
        elif isinstance(module, Transformer2DModel):
            last.append(module.proj_out)
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


class LDMRun(SampledRun):
    """Trains a pipeline's UNet and table of emotions on latents of its frozen autoencoder."""

    result = "pipeline"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.pipe = build(args)
        self.pipe.set_progress_bar_config(disable=True)
        vqvae = self.pipe.vqvae.requires_grad_(False).eval().to(accelerator.device)
        shards, held_out = open_photos(args, self.pipe.latents_side, accelerator)
        self.pipe.register_to_config(crop=shown_square([*shards, *held_out]))
        names, out = self.pipe.emotion_names, args.output_dir
        data = read_data(vqvae, shards, names, out / "latents", accelerator, args.mirror)
        self.held_out = read_data(vqvae, held_out, names, out / "latents-validation", accelerator) if held_out else None
        self.looked_at, self.pictures = self.held_out or data, Pictures(held_out or shards, self.pipe.latents_side)
        labels = [label for one in shards for label in one.labels]
        weights = class_weights(labels) if args.class_balanced else np.ones(len(data))
        networks = LDMNetworks(self.pipe.unet, self.pipe.emotion_embedding).requires_grad_(True)
        self.null = len(names)
        alphas = self.pipe.scheduler.alphas_cumprod.to(accelerator.device)
        objective = NoiseObjective(alphas, self.null, args.null_share, args.null_per_sample)
        config = {name: value for name, value in self.pipe.unet.config.items() if not name.startswith("_")}
        settings = {"unet": config, "scheduler": args.scheduler, "vqvae": fingerprint(vqvae, [])}
        super().__init__(args, accelerator, networks, settings, data, weights, objective)

    def __str__(self) -> str:
        return f"{len(self.pictures)} photos of {self.pipe.latents_side} pixels"

    def average(self) -> EMAModel:
        """With decay min(--ema_decay, (1 + n) / (10 + n)) in the n-th step, as published; of the table too."""
        return EMAModel(self.parameters, decay=self.args.ema_decay, update_after_step=-1)

    @torch.no_grad()
    def sheets(self) -> dict[str, Image.Image]:
        """Photos, what the autoencoder makes of them, and their emotions; the loss of held-out photos is printed."""
        if self.held_out is not None:
            tqdm.write(f"step {self.step}: val_loss_ema {self.validation_loss(self.held_out):.4f}")
        chosen = np.linspace(0, len(self.looked_at) - 1, min(SHOWN, len(self.looked_at))).astype(int)
        return {"emotions": draw_rows([self.edits(int(index)) for index in chosen])}

    def validation_loss(self, held_out: LatentData) -> float:
        """Mean of the loss over held-out photos, their emotions told."""
        loader, total = DataLoader(held_out, BATCH, sampler=[(i, i) for i in range(len(held_out))]), 0.0
        for batch in loader:
            batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
            networks = self.accelerator.unwrap_model(self.networks)
            total += float(self.objective.errors(networks, batch).sum())
        return total / len(held_out)

    def edits(self, index: int) -> list[tuple[str, Image.Image]]:
        """One photo's row of the sheet."""
        pipe, settings = self.pipe, self.pipe.config
        table, up = pipe.emotion_embedding.weight.detach(), settings.inversion_guidance_scale
        source, latent = int(self.looked_at.emotions[index]), self.looked_at.latents[index]["latents"][:1]
        steps, scale = self.args.validation_steps_of_sampling, settings.guidance_scale
        noisy = pipe.add_noise(latent, table[source, None], steps, settings.strength, scale if up is None else up)
        tokens = table[: self.null]
        noisy = noisy.expand(len(tokens), -1, -1, -1)
        edited = pipe.decode(pipe.remove_noise(noisy, tokens, Sampling(steps), settings.strength, scale))
        shown = (*pipe.emotion_names, "unlabelled")[source]
        row = [(shown, self.pictures[index]), ("autoencoder", pipe.decode(latent)[0]), *zip(pipe.emotion_names, edited)]
        return [(caption, unit_picture(one).resize(TILE, Image.Resampling.BICUBIC)) for caption, one in row]

    def save(self, folder: Path) -> None:
        """The pipeline with the averaged weights."""
        self.pipe.save_pretrained(folder)
