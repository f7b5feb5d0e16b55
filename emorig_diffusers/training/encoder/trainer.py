"""An EmocaEncoder: what is built, the run, and how far its codes are from a photo's."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...data.preparation import open_shards
from ...evaluation.metrics import FerJudge
from ...face.codes import FaceCodes
from ...models.emoca import EmocaEncoder
from ...models.head import HeadModel
from ...pipelines.emorig import EmoRigPipeline
from ...render.buffers import vertex_normals
from ...render.camera import ndc_to_pixels, project
from ...render.rasterize import interpolate, rasterize
from ..config import parse_trainer, require, trainer_parser
from ..trainer import CHANNELS_LAST, Run
from .augment import Augment, Mirror
from .data import Batch, EncoderData
from .drawn_heads import DrawnHeads
from .objectives import EncoderNetworks, EncoderObjective, measure, upright

WEIGHTS = {"shape": 1.0, "expression": 2.0, "pose": 1.0, "camera": 1.0, "light": 0.3,
           "landmark": 0.5, "relative": 0.5, "photometric": 0.1, "emotion": 0.05}  # fmt: skip
"""Losses and their default weights: five kinds of codes, and those of `EncoderObjective`."""
EVALUATED = 16  # photos at a time


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = trainer_parser("Train an EmocaEncoder on shards or photos, and on drawn heads.", ("encoder",))
    add = parser.add_argument
    add("--pretrained_model_name_or_path", default="emorig-open", help="gives the head, and the relaxed face")
    add("--pretrained_encoder", type=Path, help="go on with this EmocaEncoder, instead of one from scratch")
    add("--freeze_coarse", action="store_true", help="train only its expression encoder, as EMOCA did on DECA")
    add("--validation_data_dir", type=Path, help="shards or photos that are only looked at")
    add("--render_share", type=float, default=0.25, help="of each batch: drawn heads instead of photos")
    add("--photometric_samples", type=int, default=4, help="photos of a batch whose colours are compared")
    for name, weight in WEIGHTS.items():
        add(f"--{name}_weight", type=float, default=weight)
    args = parse_trainer(parser, argv)
    if not args.pretrained_encoder:
        require(parser, args, "encoder")
    if not 0 <= args.render_share < 1:
        parser.error("--render_share must be at least 0 and below 1.")
    return args


def build(args: argparse.Namespace, head: HeadModel) -> EmocaEncoder:
    """The encoder to train.

    Raises:
        ValueError: If it is for another head, or has nothing left to train.
    """
    sizes = {"num_shape": head.config.num_shape, "num_expression": head.config.num_expression}
    if args.pretrained_encoder:
        encoder = EmocaEncoder.from_pretrained(args.pretrained_encoder)
        if any(encoder.config[name] != size for name, size in sizes.items()):
            raise ValueError(f"{args.pretrained_encoder} is for another head: give the pipeline it belongs to.")
    else:
        encoder = EmocaEncoder(**{"num_texture": 0, "crop": "aligned", **args.encoder, **sizes}, calibrated=True)
    if args.freeze_coarse and (not encoder.config.expression_encoder or encoder.config.shared_trunk):
        raise ValueError("--freeze_coarse leaves nothing to train: the encoder has no second trunk for expression.")
    return encoder


class EncoderRun(Run):
    """Trains an encoder."""

    result = "encoder"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        pipe = EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path)
        self.encoder, device = build(args, pipe.head), accelerator.device
        size = self.encoder.config.image_size
        judge = FerJudge() if args.emotion_weight else None
        part = accelerator.process_index, accelerator.num_processes
        options = {"pretrained_model_name_or_path": args.pretrained_model_name_or_path}
        shards = open_shards(args.train_data_dir, args.output_dir, accelerator, **options)
        self.data, self.held_out = EncoderData(shards.folder, pipe.head, size, judge, part), None
        if args.validation_data_dir:
            held_out = open_shards(args.validation_data_dir, args.output_dir, accelerator, "validation", **options)
            self.held_out = EncoderData(held_out.folder, pipe.head, size)
        (mean, spread), (low, high) = self.data.statistics(), (x.detach().clone() for x in pipe.encoder.relaxed_range)
        if not args.pretrained_encoder:
            self.encoder.calibrate(mean, spread, low, high)
        mirror, head = Mirror(pipe.head), copy.deepcopy(pipe.head).to(device)
        self.augment = Augment(head, mirror, size)
        self.drawn = DrawnHeads(pipe.head, self.data, mirror, low, high, pipe.recipes, device)
        self.objective = EncoderObjective(head, mirror, spread, args)
        networks = EncoderNetworks(self.encoder, emotions=bool(args.emotion_weight))
        if args.freeze_coarse:
            self.encoder.E_flame.requires_grad_(False)
        if device.type == "cpu":
            networks.to(**CHANNELS_LAST)  # a third faster there
        config = {name: value for name, value in self.encoder.config.items() if not name.startswith("_")}
        super().__init__(args, accelerator, networks, {"encoder": config, "freeze_coarse": args.freeze_coarse})

    def __str__(self) -> str:
        return f"{len(self.data)} photos"

    def set_mode(self, training: bool) -> None:
        """Training or inference; a frozen part keeps its BatchNorm statistics."""
        super().set_mode(training)
        if self.args.freeze_coarse:
            self.encoder.E_flame.eval()

    def losses(self, number: int) -> dict[str, Tensor]:
        """Of photos and drawn heads that follow from seed, number and process."""
        args, rng = self.args, self.batch_rng(number)
        torch.manual_seed(int(rng.integers(2**63)))
        count = round(args.train_batch_size * args.render_share)
        photos = self.data.take(rng.integers(len(self.data), size=args.train_batch_size - count))
        parts = [photos.to(self.accelerator.device)]
        if count:
            parts.append(self.drawn.batch(count, rng))
        return self.objective(self.networks, self.augment(Batch.cat(parts), rng))

    def sheets(self) -> dict[str, Image.Image]:
        """Held-out photos with the predicted heads; their figures are printed."""
        if self.held_out is None:
            return {}
        figures, sheet = evaluate(self.encoder, self.objective, self.held_out)
        tqdm.write(f"step {self.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        return {"heads": sheet}

    def save(self, folder: Path) -> None:
        """The encoder with the averaged weights."""
        self.encoder.to(memory_format=torch.contiguous_format).save_pretrained(folder)


@torch.no_grad()
def evaluate(
    encoder: EmocaEncoder, objective: EncoderObjective, data: EncoderData
) -> tuple[dict[str, float], Image.Image]:
    """What an encoder makes of photos.

    Returns:
        Medians over the photos: `pixels`, mean landmark error on a 384-pixel crop; `fit`, that of the codes in the
        shards; `expression`, RMS difference of units to those; and a sheet of photos with the predicted heads' normals.
    """
    figures, pictures = {"pixels": [], "expression": []}, []
    for first in range(0, len(data), EVALUATED):
        photos = data.take(np.arange(first, min(first + EVALUATED, len(data)))).to(objective.head.device)
        batch = upright(photos, encoder.config.image_size)
        codes = encoder(batch.image)
        for name, value in measure(objective, codes, batch).items():
            figures[name].append(value)
        if len(pictures) < 2:
            pictures.append(torch.cat(list(_overlay(objective.head, codes, photos.image)), 2).cpu())
    medians = {name: float(torch.cat(values).median()) for name, values in figures.items()}
    sheet = torch.cat([row for row in pictures if row.shape == pictures[0].shape], 1)
    sheet = Image.fromarray((sheet * 255).byte().permute(1, 2, 0).numpy())
    return medians | {"fit": float(data.errors.median())}, sheet


def _overlay(head: HeadModel, codes: FaceCodes, image: Tensor) -> Tensor:
    """Photos [B, 3, S, S] above the same with half-transparent normals [B, 3, 2 S, S]."""
    size, vertices = image.shape[-1], head(codes.shape, codes.expression, codes.pose)
    fragments = rasterize(ndc_to_pixels(project(vertices, codes.camera), size), head.faces, size, size)
    normal = interpolate(fragments, head.faces, vertex_normals(vertices, head.faces)).permute(0, 3, 1, 2)
    on = (fragments.face >= 0)[:, None]
    return torch.cat([image, torch.where(on, 0.4 * image + 0.6 * (normal * 0.5 + 0.5), image).clamp(0, 1)], 2)
