"""The networks of EmoRigPipeline: what is built, its data and losses, and the run."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ...data.preparation import open_shards, shown_square
from ...data.shards import CodeShards
from ...evaluation.metrics.perceptual import LPIPS
from ...face.encode import code_width
from ...hub.repository import push, resolve
from ...models.appearance import AppearanceEncoder
from ...models.emoca import EmocaEncoder
from ...models.unet import RigUNet
from ...painting.diffusion_rig import CONDITIONS, published_scheduler
from ...photo.io import read_photo
from ...pipelines.emorig import EmoRigPipeline
from ...pipelines.settings import EMORIG
from ..config import parse_trainer, parse_with_preset, preset_networks, trainer_parser
from ..samplers import class_weights
from ..trainer import SampledRun
from .data import BufferData, describe, mean_shape
from .objectives import DenoisingObjective, Drawer, RepaintObjective, RigNetworks, ShapeLoss
from .sheets import emotion_grid, repaint_sheet
from .windows import WindowData, fill_cache

ALBUM = {"learning_rate": 1e-5, "train_batch_size": 4, "max_train_steps": 5000, "lr_warmup_steps": 0}
"""Defaults of stage 2 (Ding et al. 2023, section 4)."""
SETTINGS = ("stage", "resolution", "unet", "appearance_encoder", "code_parts", "scheduler", "sampler_steps")
"""Arguments that a checkpoint cannot change."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    sections = ("unet", "appearance_encoder", "scheduler")
    parser = trainer_parser("Train the networks of EmoRigPipeline on shards or photos.", sections)
    add = parser.add_argument
    add("--stage", choices=("rig", "album"), default="rig", help="album: fine-tune the UNet on one person's photos")
    add("--pretrained_model_name_or_path", default="emorig-open", help="gives head and encoder; for --stage album all")
    add("--encoder", choices=("deca", "emoca"), help="which encoder the pipeline must have")
    add("--from_scratch", action=argparse.BooleanOptionalAction, default=True, help="or go on with its networks")
    add("--resolution", type=int, help="side of the training pictures, pixels; what the pipeline sees by default")
    add("--cache_dir", type=Path, help="keep drawn windows here (open default): for machines with few cores")
    add("--class_balanced", action=argparse.BooleanOptionalAction, default=False, help="every emotion equally often")
    add("--code_parts", nargs="+", help="what the network is told besides pictures, see EmoRigPipeline")
    add("--code_dropout", type=float, default=0.0, help="samples whose code is hidden (open default)")
    add("--sampler_steps", type=int, help="train only at the timesteps of this many sampling steps (open default)")
    add("--terminal_share", type=float, default=0.3, help="samples at pure noise (open default)")
    add("--lpips_weight", type=float, default=0.0, help="perceptual loss of the painted picture (open default)")
    add("--p2_gamma", type=float, default=0.0, help="loss weight 1 / (k + SNR)^gamma")
    add("--p2_k", type=float, default=1.0)
    add("--snr_gamma", type=float, help="min-SNR loss weight instead")
    add("--shape_weight", type=float, default=0.0, help="keep the shape code of the predicted photo")
    add("--shape_encoder", help="folder of the EmocaEncoder that reads it, or encoder-open; else the pipeline's own")
    add("--prior_loss_weight", type=float, default=1.0, help="album: stay near the old network under foreign light")
    add("--num_inference_steps", type=int, help="steps to store in the result")
    add("--validation_images", type=Path, nargs="+", help="photos for the grid of emotions; else some of the shards")
    add("--num_validation_images", type=int, default=3)
    add("--push_to_hub", action="store_true", help="upload the result; needs `hf auth login`")
    add("--hub_model_id", help="owner/name")
    if parse_with_preset(parser, argv).stage == "album":
        parser.set_defaults(**ALBUM)
    args = parse_trainer(parser, argv)
    if args.push_to_hub and not args.hub_model_id:
        parser.error("--push_to_hub needs --hub_model_id owner/name.")
    return args


def build(args: argparse.Namespace) -> EmoRigPipeline:
    """The pipeline whose networks are trained.

    Raises:
        SystemExit: If the arguments do not fit together, with one sentence.
    """
    pipe = EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path)
    check_encoder(pipe, args)
    if args.stage == "album" or not args.from_scratch:
        if pipe.unet is None:
            raise SystemExit(f"{args.pretrained_model_name_or_path} has no network to go on with: train a rig first.")
        if steps := args.num_inference_steps or args.sampler_steps:
            pipe.register_to_config(default_num_inference_steps=steps)
        args.resolution = args.resolution or pipe.latents_side
        return pipe
    if not args.unet:
        raise SystemExit("A network from scratch needs its sizes: give a --config with a `unet` section.")
    published = tuple(args.unet.get("condition_channels", CONDITIONS)) == CONDITIONS
    args.resolution = args.resolution or (256 if published else pipe.latents_side)
    parts = tuple(args.code_parts or (("appearance",) if published else ("expression", "pose")))
    with preset_networks():
        appearance = AppearanceEncoder(**(args.appearance_encoder or {})) if "appearance" in parts else None
        texture_dim = pipe.encoder.config.get("num_texture", 0)
        width = code_width(pipe.head, parts, appearance.config.cond_dim if appearance else 0, texture_dim)
        unet = RigUNet(cond_dim=width, **args.unet)
        scheduler = DDIMScheduler(**args.scheduler) if args.scheduler else published_scheduler()
    if args.resolution % unet.size_multiple:
        raise SystemExit(f"--resolution must be a multiple of {unet.size_multiple} for this network.")
    steps = args.num_inference_steps or args.sampler_steps or (20 if published else 4)
    settings = {name: pipe.config[name] for name in EMORIG} | {
        "crop_size": args.resolution if published else pipe.config.crop_size, "code_parts": parts, "shape": None,
        "default_num_inference_steps": steps, "normals": "linear",  # which is what training draws
    }  # fmt: skip
    detail = pipe.detail if published else None
    return EmoRigPipeline(pipe.head, pipe.encoder, unet, scheduler, appearance, detail, **settings)


def check_encoder(pipe: EmoRigPipeline, args: argparse.Namespace) -> None:
    """End with one sentence if the preset wants DECA's or EMOCA's codes and the pipeline has others."""
    has = "landmarks"
    if isinstance(pipe.encoder, EmocaEncoder):
        has = "emoca" if pipe.encoder.config.expression_encoder else "deca"
    if args.encoder and args.encoder != has:
        raise SystemExit(
            f"This preset trains on the codes of {args.encoder.upper()}, but {args.pretrained_model_name_or_path} "
            "has another encoder: convert the original and give its folder as --pretrained_model_name_or_path."
        )


def read_shards(args: argparse.Namespace, pipe: EmoRigPipeline, accelerator: Accelerator) -> CodeShards:
    """The prepared photos; bare photos are prepared on the way.

    Raises:
        SystemExit: If they were prepared with another head.
    """
    shards = open_shards(
        args.train_data_dir,
        args.output_dir,
        accelerator,
        pretrained_model_name_or_path=args.pretrained_model_name_or_path,
        resolution=args.resolution if "whole_crop" in pipe.capabilities else pipe.config.crop_size,
        layout="album" if args.stage == "album" else "auto",
    )
    codes, head = shards[0].codes, pipe.head.config
    if (codes.shape.shape[1], codes.expression.shape[1]) != (head.num_shape, head.num_expression):
        raise SystemExit(
            f"{shards.folder} was prepared with another head: run train/prepare.py with the pipeline you train."
        )
    return shards


def make_data(
    args: argparse.Namespace, pipe: EmoRigPipeline, shards: CodeShards, accelerator: Accelerator
) -> tuple[Dataset, np.ndarray]:
    """What is drawn from the shards, and how often each photo [N]."""
    if "whole_crop" in pipe.capabilities:
        if shards.manifest["settings"]["resolution"] != args.resolution:
            raise SystemExit(
                f"The shards hold pictures of {shards.manifest['settings']['resolution']} pixels: prepare them with "
                f"--resolution {args.resolution}, or give that number here."
            )
        pipe.register_to_config(crop=shown_square([shards]))
        shape = None
        if args.stage == "album":
            shape = mean_shape(shards)
            pipe.register_to_config(shape=shape[0].tolist())
        data, weights = BufferData(shards, shape), np.ones(len(shards))
    else:
        if args.cache_dir:
            fill_cache(pipe, shards, args.cache_dir, accelerator)
        data = WindowData(pipe, shards, args.resolution, args.cache_dir)
        weights = data.weights()
    return data, weights * (class_weights(shards.labels) if args.class_balanced else 1.0)


def make_objective(
    args: argparse.Namespace, pipe: EmoRigPipeline, device: torch.device
) -> RepaintObjective | DenoisingObjective:
    """The loss that the pipeline's conditioning asks for."""
    alphas = pipe.scheduler.alphas_cumprod.to(device)
    if "whole_crop" not in pipe.capabilities:
        if args.shape_weight:
            raise SystemExit("--shape_weight needs whole faces: the open default paints mouths only. Leave it out.")
        lpips = LPIPS("alex").to(device) if args.lpips_weight else None
        times = training_timesteps(pipe.scheduler, args.sampler_steps).to(device)
        return RepaintObjective(
            alphas, pipe.config.residual_scale, times, args.terminal_share, args.code_dropout, lpips, args.lpips_weight
        )
    prior = None
    if args.stage == "album" and args.prior_loss_weight:
        prior = RigNetworks(pipe.unet, pipe.appearance_encoder, pipe.code_parts)
        prior = copy.deepcopy(prior).requires_grad_(False).eval().to(device)
    return DenoisingObjective(
        alphas,
        pipe.scheduler.config.prediction_type,
        args.p2_gamma,
        args.p2_k,
        args.snr_gamma,
        Drawer(copy.deepcopy(pipe.head).to(device), args.resolution, pipe.config.rasterizer),
        shape_loss(args, pipe, device),
        prior,
        args.prior_loss_weight,
    )


def shape_loss(args: argparse.Namespace, pipe: EmoRigPipeline, device: torch.device) -> ShapeLoss | None:
    """What keeps β, if it is wanted."""
    if not args.shape_weight:
        return None
    encoder = EmocaEncoder.from_pretrained(resolve(args.shape_encoder)) if args.shape_encoder else pipe.encoder
    if not isinstance(encoder, EmocaEncoder):
        raise SystemExit("--shape_weight needs a network that reads shapes: give an EmocaEncoder as --shape_encoder.")
    return ShapeLoss(copy.deepcopy(encoder).requires_grad_(False).eval().to(device), args.shape_weight)


def training_timesteps(scheduler: DDIMScheduler, sampler_steps: int | None) -> Tensor:
    """Timesteps to train at, pure noise first: those of the sampler where its steps are fixed, else all."""
    scheduler.set_timesteps(sampler_steps or scheduler.config["num_train_timesteps"])
    return scheduler.timesteps.clone()


class RigRun(SampledRun):
    """Trains the networks of a pipeline."""

    result = "pipeline"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.pipe = build(args)
        self.pipe.set_progress_bar_config(disable=True)
        objective = make_objective(args, self.pipe, accelerator.device)
        self.shards = read_shards(args, self.pipe, accelerator)
        self.data, weights = make_data(args, self.pipe, self.shards, accelerator)
        networks = RigNetworks(self.pipe.unet, self.pipe.appearance_encoder, self.pipe.code_parts)
        if args.stage == "album" and networks.appearance_encoder is not None:
            networks.appearance_encoder.requires_grad_(False)
        networks.unet.requires_grad_(True)
        settings = {name: getattr(args, name) for name in SETTINGS}
        super().__init__(args, accelerator, networks, settings, self.data, weights, objective)
        self.validation = self.validation_photos()

    def __str__(self) -> str:
        return describe(self.shards)

    def set_mode(self, training: bool) -> None:
        """Training or inference; the album's appearance encoder keeps its BatchNorm statistics."""
        super().set_mode(training)
        if self.args.stage == "album" and self.pipe.appearance_encoder is not None:
            self.pipe.appearance_encoder.eval()

    def sheets(self) -> dict[str, Image.Image]:
        """The grid of emotions and, for the open default, windows."""
        sheets = {"emotions": emotion_grid(self.pipe, self.validation)}
        if isinstance(self.data, WindowData):
            sheets["windows"] = repaint_sheet(self.pipe, self.data)
        return sheets

    def validation_photos(self) -> list[np.ndarray]:
        """The photos of the emotion grid, uint8 [H, W, 3]."""
        if self.args.validation_images:
            return [read_photo(file).rgb for file in self.args.validation_images]
        chosen = np.linspace(0, len(self.shards) - 1, self.args.num_validation_images).astype(int)
        return [self.shards[int(i)].picture for i in dict.fromkeys(chosen)]

    def save(self, folder: Path) -> None:
        """The pipeline with the averaged weights."""
        self.pipe.save_pretrained(folder)

    def finish(self) -> None:
        """Also upload the pipeline where that is wanted."""
        super().finish()
        if self.args.push_to_hub and self.accelerator.is_main_process:
            push(self.pipe, self.args.hub_model_id)
