"""Train a Diffusion Autoencoder (Preechakul et al. 2022) on shards that train/prepare.py wrote.

    accelerate launch train/train_diffae.py --config train/presets/diffae-tiny.yaml --train_data_dir SHARDS
        --output_dir run
    accelerate launch train/train_diffae.py --stage shape --config train/presets/diffae-shape.yaml
        --pretrained_model_name_or_path run-emotions/pipeline --train_data_dir SHARDS --output_dir run-shape

Stage `autoencoder` trains semantic encoder and UNet together. Stage `shape` goes on with the UNet of a pipeline that
has an emotion classifier, so that an edit of the emotion leaves the face's shape code β where it is. A run can be
killed at any moment and continued with `--resume_from_checkpoint latest`; the result is `output_dir/pipeline`.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from classifier_codes import check_side
from diffae_shape import ShapeStepObjective
from diffusers import DDIMScheduler
from loop import add_loop_arguments, parse_with_preset, require
from objectives import goal_of, noise_like, noised
from PIL import Image
from prepare import open_all_shards, shown_square
from run import SampledRun, start
from samplers import Item
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, Dataset

from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.diffusion.guidance import CodeReader
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.evaluation.sheets import draw_rows
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.diffae import SemanticEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.painting.diffusion_rig import published_scheduler
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline
from emorig_diffusers.pipelines.diffae_faces import unit_picture

SETTINGS = ("stage", "resolution", "unet", "semantic_encoder", "scheduler", "code_weight")
"""Arguments that a checkpoint cannot change."""
KEPT = ("shape", "camera", "light", "texture")  # what stage `shape` can keep besides β
SHEET_TILE = (256, 256)  # pixels of a picture on the validation sheet
IN_MEMORY = 2**30  # bytes of pictures up to which they are read once


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_loop_arguments(parser)
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
    for section in ("unet", "semantic_encoder", "scheduler"):
        add(f"--{section}", type=dict, help=argparse.SUPPRESS)
    args = parse_with_preset(parser, argv)
    require(parser, args, "train_data_dir", "output_dir")
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
    try:
        encoder = SemanticEncoder(**args.semantic_encoder)
        unet = RigUNet(**{"in_channels": 3, "cond_mode": "scale", "condition_channels": (), **args.unet},
                       cond_dim=encoder.config.cond_dim)  # fmt: skip
        scheduler = DDIMScheduler(**args.scheduler) if args.scheduler else published_scheduler()
    except TypeError as error:  # an unknown key of a section
        raise SystemExit(f"The preset's networks cannot be built: {error}.") from None
    steps = {"default_num_inference_steps": args.num_inference_steps, "inversion_steps": args.inversion_steps}
    return DiffAEEmotionPipeline(unet, encoder, scheduler, **steps)


class PictureData(Dataset):
    """Pictures of shards at a resolution, half of them mirrored where `mirror` says so.

    Args:
        shards: Prepared photos.
        resolution: Side S, pixels; larger pictures are averaged down.
        mirror: Off where the transform to the encoder's crop counts.

    Raises:
        DataError: If the shards' pictures are smaller.
    """

    def __init__(self, shards: CodeShards, resolution: int, mirror: bool) -> None:
        self.shards, self.resolution, self.mirror = shards, resolution, mirror
        check_side([shards], resolution)
        self.kept: dict[int, tuple[np.ndarray, np.ndarray, Tensor]] = {}
        self.keeps = len(shards) * 3 * resolution**2 < IN_MEMORY

    def __len__(self) -> int:
        return len(self.shards)

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """uint8 [S, S, 3], the transform float32 [3, 3] and the expression [E] of a sample."""
        if index in self.kept:
            return self.kept[index]
        sample, side = self.shards[index], self.resolution
        small = cv2.resize(sample.picture, (side, side), interpolation=cv2.INTER_AREA)
        found = small, sample.transform, sample.codes.expression[0]
        if self.keeps:
            self.kept[index] = found
        return found

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        """`picture` [3, S, S] in [-1, 1], `transform` [3, 3], `expression` [E], `seed`, and `u` [3] in [0, 1)."""
        index, seed = item
        rng = np.random.default_rng(seed)
        picture, transform, expression = self.picture(index)
        if self.mirror and rng.random() < 0.5:
            picture = picture[:, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1) / 127.5 - 1
        u = torch.from_numpy(rng.random(3, np.float32))
        return {"picture": tensor, "transform": torch.from_numpy(transform), "expression": expression, "u": u,
                "seed": torch.tensor(seed)}  # fmt: skip


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
        mean, spread: Of the photos' expressions [E].
    """

    def __init__(
        self, alphas: Tensor, prediction_type: str, noise_bias: float = 0.0, code_weight: float = 0.0,
        mean: Tensor | None = None, spread: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.alphas, self.prediction_type, self.noise_bias = alphas, prediction_type, noise_bias
        self.code_weight, self.mean, self.spread = code_weight, mean, spread

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
        self.data = ConcatDataset([PictureData(one, args.resolution, mirror) for one in shards])
        objective, probe = self.make_objective(args, accelerator.device), None
        if args.stage == "autoencoder" and args.code_weight:
            probe = nn.Linear(self.pipe.semantic_encoder.config.cond_dim, len(objective.mean))
        networks = DiffAENetworks(self.pipe.unet, self.pipe.semantic_encoder, probe)
        networks.unet.requires_grad_(True)
        networks.semantic_encoder.requires_grad_(args.stage == "autoencoder")
        if accelerator.device.type == "cpu":
            networks = networks.to(memory_format=torch.channels_last)
        settings, even = {name: getattr(args, name) for name in SETTINGS}, np.ones(len(self.data))
        super().__init__(args, accelerator, networks, settings, _Indexed(self.data), even, objective)

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
        codes = torch.stack([part.picture(i)[2] for part in self.data.datasets for i in range(len(part))])
        spread = codes.std(0)
        return codes.mean(0), torch.where(spread > 1e-4, spread, torch.ones_like(spread))

    @torch.no_grad()
    def sheets(self) -> dict[str, Image.Image]:
        """Photos, their reconstructions from code and x_T, and from the code under two other noises."""
        count, steps = min(6, len(self.data)), self.args.validation_steps_of_sampling
        chosen = np.linspace(0, len(self.data) - 1, count).astype(int)
        photos = torch.stack([_Indexed(self.data)[int(i), 0]["picture"] for i in chosen]).to(self.accelerator.device)
        pipe, sampling = self.pipe, Sampling(steps, batch=count)
        z = pipe.encode(photos)
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


class _Indexed(Dataset):
    """A concatenation that passes the seed on."""

    def __init__(self, data: ConcatDataset) -> None:
        self.data = data

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        index, seed = item
        part = int(np.searchsorted(self.data.cumulative_sizes, index, side="right"))
        before = self.data.cumulative_sizes[part - 1] if part else 0
        return self.data.datasets[part][index - before, seed]


def main() -> None:
    """Train from the command line."""
    start(DiffAERun, parse_args(), "diffae")


if __name__ == "__main__":
    main()
