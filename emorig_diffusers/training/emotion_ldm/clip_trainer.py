"""CLIP-guided tuning of an emotion latent-diffusion model, one emotion at a time: arguments and the run."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import default_collate
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...data.preparation import RESOLUTION, open_shards
from ...evaluation.metrics.emotion_loss import JUDGES, EmotionLoss
from ...evaluation.metrics.identity_loss import IdentityLoss
from ...evaluation.sheets import draw_rows
from ...pipelines.emotion_ldm import EmotionLDMPipeline
from ...pipelines.picture_faces import unit_picture
from ..config import parse_trainer, trainer_parser
from ..trainer import SampledRun
from .clip_guide import ClipGuide
from .clip_objectives import ClipObjective, TargetEdits, Weights
from .clip_prompts import target_text, with_article
from .inversion import Inversion, InvertedPhotos, invert_photos
from .latents import source_rows

CLIP = "openai/clip-vit-base-patch16"
DEFAULTS = {"learning_rate": 4e-6, "train_batch_size": 4, "max_train_steps": 5000, "adam_weight_decay": 0.01,
            "use_ema": False, "checkpointing_steps": 1000, "validation_steps": 1000}  # fmt: skip
"""As published; its learning rate is 1e-6 a sample of the batch."""
SETTINGS = ("emotion", "lora_rank", "inversion_steps", "strength", "inversion_guidance_scale", "guidance_scale",
            "clip", "num_inference_steps")  # fmt: skip
"""Arguments that a checkpoint cannot change."""
LORA_TARGETS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
"""Layers that a LoRA changes: self-attention and feed-forward of every transformer. Cross-attention on one token is a
constant."""
SHEET_PHOTOS, SHEET_TILE = 6, (256, 256)  # held-out photos on the sheet, pixels of each
SEEN_AT_ONCE = 16  # held-out photos that the networks see at a time


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = trainer_parser("Tune an emotion latent-diffusion model for one emotion, guided by CLIP.")
    add = parser.add_argument
    add("--pretrained_model_name_or_path", help="an EmotionLDMPipeline")
    add("--emotion", help="the target, one of the model's")
    add("--lora_rank", type=int, default=0, help="train a LoRA of this rank, a few MB; 0: the whole UNet, as published")
    add("--clip", default=CLIP, help="folder or Hub name of a CLIP of transformers")
    add("--identity", default="sface", help='"sface", or the file of IR-SE50 (model_ir_se50.pth), as published')
    add("--num_inference_steps", type=int, default=6, help="steps of the edits that gradients flow through")
    add("--strength", type=float, help="noise level t0; default: the pipeline's")
    add("--guidance_scale", type=float, default=1.0, help="γ of the edits")
    add("--inversion_steps", type=int, default=40, help="steps of the inversion")
    add("--inversion_guidance_scale", type=float, default=1.0, help="γ of the inversion")
    add("--max_photos", type=int, default=1000, help="drawn at random for the training")
    add("--validation_photos", type=int, default=100, help="drawn at random and held out")
    add("--validation_inference_steps", type=int, default=40, help="steps of the held-out photos' edits")
    add("--latents_dir", type=Path, help="where inverted photos are kept, for all emotions; default: in output_dir")
    add("--l2_weight", type=float, default=1.0, help="of the mean squared error, pictures in [-1, 1]")
    add("--identity_weight", type=float, default=1.0)
    add("--directional_weight", type=float, default=1.0, help="of CLIP's directional loss")
    add("--global_weight", type=float, default=0.0, help="of the distance from the target's text in CLIP")
    add("--emotion_weight", type=float, default=0.0, help="of the cross-entropy of an emotion judge")
    add("--judge", choices=JUDGES, default=JUDGES[0], help="which emotion judge; keep another one for figures")
    add("--gradient_checkpointing", action=argparse.BooleanOptionalAction, default=True, help="less memory, more time")
    parser.set_defaults(**DEFAULTS)
    args = parse_trainer(parser, argv, "pretrained_model_name_or_path", "emotion")
    for name in ("max_photos", "validation_photos"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1.")
    if args.lora_rank < 0:
        parser.error("--lora_rank must not be negative.")
    return args


def open_model(args: argparse.Namespace) -> EmotionLDMPipeline:
    """The model to tune, without LoRAs of earlier runs.

    Raises:
        DataError: It does not know the emotion.
    """
    pipe = EmotionLDMPipeline.from_pretrained(args.pretrained_model_name_or_path)
    pipe.set_progress_bar_config(disable=True)
    pipe.unload_lora_weights()
    if args.emotion not in pipe.emotion_names:
        raise DataError(f"--emotion is {args.emotion!r}: choose one of {', '.join(pipe.emotion_names)}.")
    return pipe


def choose_trained(pipe: EmotionLDMPipeline, emotion: str, rank: int) -> None:
    """Let gradients flow to the UNet, or to a new LoRA of it, and to nothing else.

    Raises:
        DataError: There is no peft for a LoRA.
    """
    for network in (pipe.vqvae, pipe.emotion_embedding, pipe.unet):
        network.requires_grad_(False)
    if not rank:
        pipe.unet.requires_grad_(True)
        return
    pipe.add_lora(emotion, rank, LORA_TARGETS)


def draw_photos(count: int, training: int, held_out: int, seed: int) -> list[int]:
    """Numbers of photos at random, those that are held out first.

    Raises:
        DataError: Too few are left to train on.
    """
    if count <= held_out:
        raise DataError(f"{count} photos are too few to hold {held_out} out: give more, or a smaller "
                        "--validation_photos.")  # fmt: skip
    return np.random.default_rng(seed).permutation(count)[: held_out + training].tolist()


class ClipRun(SampledRun):
    """Tunes a model for one emotion."""

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.pipe = open_model(args).to(accelerator.device)
        pipe, self.result = self.pipe, "lora" if args.lora_rank else "pipeline"
        args.strength = args.strength or pipe.config.strength
        options = {"resolution": max(pipe.latents_side, RESOLUTION), "crop": pipe.config.crop}
        shards = open_shards(args.train_data_dir, args.output_dir, accelerator, **options)
        chosen = draw_photos(len(shards), args.max_photos, args.validation_photos, args.seed)
        how = Inversion(args.inversion_steps, args.strength, args.inversion_guidance_scale)
        rows = invert_photos(pipe, shards, chosen, how, args.latents_dir or args.output_dir / "latents", accelerator)
        sources = source_rows(pipe.emotion_names, [shards.labels[i] for i in chosen])
        self.held_out = InvertedPhotos(rows, sources, range(args.validation_photos))
        self.data = InvertedPhotos(rows, sources, range(args.validation_photos, len(rows)))
        self.unlabelled = int((sources == len(pipe.emotion_names)).sum())
        objective = self.make_objective(args, accelerator.device)
        choose_trained(pipe, args.emotion, args.lora_rank)
        self.edits = TargetEdits(pipe, args.emotion, args.strength, args.guidance_scale, args.gradient_checkpointing)
        settings, even = {name: getattr(args, name) for name in SETTINGS}, np.ones(len(self.data))
        super().__init__(args, accelerator, self.edits, settings, self.data, even, objective)

    def __str__(self) -> str:
        known = f", {self.unlabelled} without an emotion" if self.unlabelled else ""
        return f"{len(self.data)} photos to train on and {len(self.held_out)} held out{known}"

    def make_objective(self, args: argparse.Namespace, device: torch.device) -> ClipObjective:
        """The losses, their networks on the device."""
        clip = ClipGuide.from_pretrained(args.clip).to(device)
        names, vqvae = self.pipe.emotion_names, self.pipe.vqvae
        directions = torch.stack([clip.direction(source, args.emotion) for source in (*names, None)])
        identity = IdentityLoss(args.identity).to(device) if args.identity_weight else None
        judge = EmotionLoss(args.emotion, args.judge).to(device) if args.emotion_weight else None
        weights = Weights(args.l2_weight, args.identity_weight, args.directional_weight, args.global_weight,
                          args.emotion_weight)  # fmt: skip
        decode = lambda latents: vqvae.decode(latents.to(vqvae.dtype), return_dict=False)[0].float()
        text = clip.texts([with_article(target_text(args.emotion))])[0]
        return ClipObjective(decode, args.num_inference_steps, clip, identity, directions, text, weights, judge)

    def train(self) -> None:
        """Also a look at the held-out photos before the first step."""
        if not self.step:
            self.validate("-0")
        super().train()

    @torch.no_grad()
    def sheets(self) -> dict[str, Image.Image]:
        """Some held-out photos as the autoencoder draws them, and edited; the losses of all are printed."""
        objective, device, steps = self.objective, self.accelerator.device, self.args.validation_inference_steps
        totals, shown, samples = Counter(), [], [self.held_out[i, 0] for i in range(len(self.held_out))]
        for start in range(0, len(samples), SEEN_AT_ONCE):
            batch = default_collate(samples[start : start + SEEN_AT_ONCE])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            edited = objective.decode(self.edits(batch["noisy"], steps))
            losses = objective.losses(edited, batch["clean"], batch["source"])
            totals.update({name: float(value) * len(edited) for name, value in losses.items()})
            shown += zip(batch["clean"].cpu(), edited.cpu())
        told = ", ".join(f"{name} {total / len(self.held_out):.4f}" for name, total in totals.items())
        tqdm.write(f"step {self.step}, held-out photos in {steps} steps: {told}")
        enlarge = lambda one: unit_picture(one).resize(SHEET_TILE, Image.Resampling.BICUBIC)
        captions = ("reconstruction", self.args.emotion)
        pairs = shown[:SHEET_PHOTOS]
        return {"edits": draw_rows([
            [(caption, enlarge(pair[i])) for pair in pairs] for i, caption in enumerate(captions)
        ])}  # fmt: skip

    def save(self, folder: Path) -> None:
        """The LoRA alone, or the pipeline."""
        if self.args.lora_rank:
            self.pipe.save_lora_weights(folder)
        else:
            self.pipe.save_pretrained(folder)
