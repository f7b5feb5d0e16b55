"""A Diffusion Autoencoder (Preechakul et al. 2022): what is built, and the run of either stage."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn

from ...data.preparation import open_all_shards, shown_square
from ...diffusion.guidance import CodeReader
from ...diffusion.sampling import Sampling
from ...evaluation.sheets import draw_rows
from ...hub.repository import resolve
from ...models.diffae import SemanticEncoder
from ...models.emoca import EmocaEncoder
from ...models.unet import RigUNet
from ...painting.diffusion_rig import published_scheduler
from ...pipelines.diffae import DiffAEEmotionPipeline
from ...pipelines.picture_faces import unit_picture
from ..config import parse_trainer, preset_networks, trainer_parser
from ..pictures import PictureData
from ..trainer import CHANNELS_LAST, SampledRun
from .objectives import AutoencoderObjective, DiffAENetworks, ShapeStepObjective

SETTINGS = ("stage", "resolution", "unet", "semantic_encoder", "scheduler", "code_weight")
"""Arguments that a checkpoint cannot change."""
KEPT = ("shape", "camera", "light", "texture")  # what stage `shape` can keep besides β
SHEET_TILE = (256, 256)  # pixels of a picture on the validation sheet


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    sections = ("unet", "semantic_encoder", "scheduler")
    parser = trainer_parser("Train a Diffusion Autoencoder on shards or photos.", sections)
    add = parser.add_argument
    add("--stage", choices=("autoencoder", "shape"), default="autoencoder", help="shape: keep β in emotion edits")
    add("--also_train_on", type=Path, nargs="+", default=[], help="more shards, such as painted emotions")
    add("--pretrained_model_name_or_path", help="go on with this pipeline; stage shape needs one with emotions")
    add("--resolution", type=int, help="side of the pictures, pixels; default: the UNet's")
    add("--crop", help="which square of a photo the shards show; default: what they were prepared with")
    add("--num_inference_steps", type=int, default=100, help="decoding steps to store in the result")
    add("--inversion_steps", type=int, default=250, help="steps of the stochastic code to store in the result")
    add("--code_weight", type=float, default=0.0, help="the code must tell the head's expression, by a linear probe")
    add("--noise_bias", type=float, default=0.0, help="train more at high noise, where the code tells most; 0: uniform")
    add("--validation_steps_of_sampling", type=int, default=20, help="decoding steps of the validation sheet")
    add("--encoder", help="stage shape: folder of the EmocaEncoder that reads β (default: encoder-open)")
    add("--keep", nargs="+", choices=KEPT, default=["shape"], help="stage shape: which codes an edit must keep")
    add("--keep_weight", type=float, default=1.0, help="stage shape: of the kept codes")
    add("--expression_weight", type=float, default=1.0, help="stage shape: of the edit's own expression")
    args = parse_trainer(parser, argv)
    if args.stage == "shape" and not args.pretrained_model_name_or_path:
        parser.error("--stage shape needs --pretrained_model_name_or_path: a pipeline with an emotion classifier.")
    return args


def build(args: argparse.Namespace) -> DiffAEEmotionPipeline:
    """The pipeline whose networks are trained.

    Raises:
        SystemExit: If the arguments do not fit together, with one sentence.
    """
    if args.pretrained_model_name_or_path:
        pipe = DiffAEEmotionPipeline.from_pretrained(args.pretrained_model_name_or_path)
        if args.stage == "shape" and pipe.emotion_classifier is None:
            raise SystemExit(
                f"{args.pretrained_model_name_or_path} has no emotion classifier: train_emotion_classifier.py adds one."
            )
        return pipe
    if not args.unet or not args.semantic_encoder:
        raise SystemExit("Networks from scratch need their sizes: give a --config with `unet` and `semantic_encoder`.")
    with preset_networks():
        encoder = SemanticEncoder(**args.semantic_encoder)
        unet = RigUNet(**{"in_channels": 3, "cond_mode": "scale", "condition_channels": (), **args.unet},
                       cond_dim=encoder.config.cond_dim)  # fmt: skip
        scheduler = DDIMScheduler(**args.scheduler) if args.scheduler else published_scheduler()
    steps = {"default_num_inference_steps": args.num_inference_steps, "inversion_steps": args.inversion_steps}
    return DiffAEEmotionPipeline(unet, encoder, scheduler, **steps)


class DiffAERun(SampledRun):
    """Trains a Diffusion Autoencoder."""

    result = "pipeline"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.pipe = build(args)
        self.pipe.set_progress_bar_config(disable=True)
        args.resolution = args.resolution or self.pipe.latents_side
        options = {"resolution": args.resolution, "crop": args.crop or self.pipe.config.crop}
        shards = open_all_shards([args.train_data_dir, *args.also_train_on], args.output_dir, accelerator, **options)
        self.pipe.register_to_config(crop=args.crop or shown_square(shards))
        mirror = args.stage == "autoencoder" and not args.code_weight  # a mirrored face has another expression code
        self.data = PictureData(shards, args.resolution, mirror)
        objective, probe = self.make_objective(args, accelerator.device), None
        if args.stage == "autoencoder" and args.code_weight:
            probe = nn.Linear(self.pipe.semantic_encoder.config.cond_dim, len(self.data.picture(0)[2]))
        networks = DiffAENetworks(self.pipe.unet, self.pipe.semantic_encoder, probe)
        networks.unet.requires_grad_(True)
        networks.semantic_encoder.requires_grad_(args.stage == "autoencoder")
        if accelerator.device.type == "cpu":
            networks.to(**CHANNELS_LAST)
        settings, even = {name: getattr(args, name) for name in SETTINGS}, np.ones(len(self.data))
        super().__init__(args, accelerator, networks, settings, self.data, even, objective)

    def __str__(self) -> str:
        return f"{len(self.data)} photos of {self.args.resolution} pixels"

    def make_objective(
        self, args: argparse.Namespace, device: torch.device
    ) -> AutoencoderObjective | ShapeStepObjective:
        """The loss of the stage."""
        alphas, kind = self.pipe.scheduler.alphas_cumprod.to(device), self.pipe.scheduler.config.prediction_type
        if args.stage == "autoencoder":
            spread = [value.to(device) for value in self.expressions()] if args.code_weight else []
            return AutoencoderObjective(alphas, kind, args.noise_bias, args.code_weight, *spread)
        encoder = EmocaEncoder.from_pretrained(resolve(args.encoder or "encoder-open"))
        frozen = lambda module: copy.deepcopy(module).requires_grad_(False).eval().to(device)
        return ShapeStepObjective(
            alphas, kind, frozen(self.pipe.unet), CodeReader(frozen(encoder), tuple(args.keep)),
            frozen(self.pipe.emotion_classifier), args.keep_weight, args.expression_weight,
        )  # fmt: skip

    def expressions(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the photos' expressions [E] each; a unit that nobody uses has 1."""
        codes = torch.stack([self.data.picture(i)[2] for i in range(len(self.data))])
        spread = codes.std(0)
        return codes.mean(0), torch.where(spread > 1e-4, spread, torch.ones_like(spread))

    @torch.no_grad()
    def sheets(self) -> dict[str, Image.Image]:
        """Photos, their reconstructions from code and x_T, and from the code under two other noises."""
        count, steps = min(6, len(self.data)), self.args.validation_steps_of_sampling
        chosen = np.linspace(0, len(self.data) - 1, count).astype(int)
        photos = torch.stack([self.data[int(i), 0]["picture"] for i in chosen]).to(self.accelerator.device)
        pipe, sampling = self.pipe, Sampling(steps, batch=count)
        z = pipe.semantic_code(photos)
        noise = [torch.randn(photos.shape, generator=torch.Generator().manual_seed(i)).to(photos) for i in range(2)]
        shown = [photos, *(pipe.decode(x, z, sampling) for x in (pipe.stochastic_code(photos, z, steps), *noise))]
        captions = ("photo", f"z and x_T, {steps} steps", "z, noise 1", "z, noise 2")
        enlarge = lambda one: unit_picture(one).resize(SHEET_TILE, Image.Resampling.BICUBIC)
        return {"reconstructions": draw_rows([
            [(caption, enlarge(one)) for one in row] for caption, row in zip(captions, shown)
        ])}  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the pipeline."""
        self.pipe.save_pretrained(folder)
