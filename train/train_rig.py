"""Train the network of EmoRigPipeline.

    accelerate launch train/train_rig.py --config train/presets/open-256.yaml --train_data_dir prepared
        --output_dir runs/open-256

A preset sets any of the arguments below; the command line wins. The run can be stopped at any moment and continued
with `--resume_from_checkpoint latest`.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDIMScheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from rig_data import Batch, RigData, describe
from torch import Tensor
from tqdm.auto import tqdm

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.metrics.perceptual import LPIPS
from emorig_diffusers.models.unet import RigUNet

OUTSIDE_WEIGHT = 0.05  # of the loss where nothing is painted: the sample stays quiet there


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML preset, see train/presets")
    parser.add_argument("--pretrained_model_name_or_path", default="emorig-open", help="gives head and encoder")
    parser.add_argument("--train_data_dir", type=Path, help="shards written by train/prepare.py")
    parser.add_argument("--output_dir", type=Path, help="checkpoints, validation pictures and the trained pipeline")
    parser.add_argument("--from_scratch", type=int, default=1, help="0 continues the pipeline's own network")
    parser.add_argument("--resolution", type=int, default=128, help="side of the training windows, pixels")
    parser.add_argument("--train_batch_size", type=int, default=12)
    parser.add_argument("--max_train_steps", type=int, default=10000)
    parser.add_argument("--max_train_minutes", type=float, help="end (and decay the learning rate) by this time")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--lr_warmup_steps", type=int, default=100)
    parser.add_argument("--adam_weight_decay", type=float, default=0.01)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    parser.add_argument("--ema_decay", type=float, default=0.999)
    parser.add_argument("--terminal_share", type=float, default=0.3, help="samples at pure noise")
    parser.add_argument("--sampler_steps", type=int, help="train only at the timesteps of this many sampling steps")
    parser.add_argument("--code_dropout", type=float, default=0.0, help="samples whose code is hidden (zero)")
    parser.add_argument("--lpips_weight", type=float, default=0.0)
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--checkpointing_steps", type=int, default=500)
    parser.add_argument("--checkpoints_total_limit", type=int, default=2)
    parser.add_argument("--resume_from_checkpoint", help='a checkpoint folder, or "latest"')
    parser.add_argument("--validation_steps", type=int, default=500)
    parser.add_argument("--report_to", help='"tensorboard", or nothing')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unet", type=dict, help=argparse.SUPPRESS)
    config = parser.parse_known_args(argv)[0].config
    if config is not None:
        preset = yaml.safe_load(config.read_text())
        unknown = set(preset) - {a.dest for a in parser._actions}
        if unknown:
            parser.error(f"{config} sets unknown arguments: {', '.join(sorted(unknown))}.")
        parser.set_defaults(**preset)
    args = parser.parse_args(argv)
    for needed in ("train_data_dir", "output_dir"):
        if getattr(args, needed) is None:
            parser.error(f"--{needed} is missing.")
    return args


def make_scheduler() -> DDIMScheduler:
    """Cosine schedule down to pure noise (zero terminal SNR, Lin et al. 2024), v-prediction, trailing steps."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def training_timesteps(scheduler: DDIMScheduler, sampler_steps: int | None) -> Tensor:
    """Timesteps to train at, pure noise first: those of the sampler where its steps are fixed, else all."""
    scheduler.set_timesteps(sampler_steps or scheduler.config.num_train_timesteps)
    return scheduler.timesteps.clone()


@dataclass
class Objective:
    """The loss of one batch: v-prediction (Salimans & Ho 2022, eq. 10) of the masked residual, plus LPIPS of x0.

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

    def __call__(self, unet: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        count = len(batch.photo)
        clean = (batch.photo - batch.base) * batch.mask * self.residual_scale
        t = self.timesteps[torch.randint(len(self.timesteps), (count,), device=clean.device)]
        t = torch.where(torch.rand(count, device=clean.device) < self.terminal_share, self.timesteps[0], t)
        alpha = self.alphas[t].sqrt()[:, None, None, None]
        sigma = (1 - self.alphas[t]).sqrt()[:, None, None, None]
        noise = torch.randn_like(clean)
        noisy = alpha * clean + sigma * noise
        code = batch.code * (torch.rand(count, 1, device=clean.device) >= self.code_dropout)
        v = unet(torch.cat([noisy, batch.conditions], 1), t, code, return_dict=False)[0].float()
        weight = batch.mask + OUTSIDE_WEIGHT * (1 - batch.mask)
        error = (v - (alpha * noise - sigma * clean)).square() * weight
        losses = {"v": error.sum() / (3 * weight.sum())}
        if self.lpips is not None:
            guess = batch.base + (alpha * noisy - sigma * v) / self.residual_scale * batch.mask
            losses["lpips"] = self.lpips.distance(guess.clamp(-1, 1), batch.photo).mean()
        losses["total"] = losses["v"] + self.lpips_weight * losses.get("lpips", 0)
        return losses


class Progress:
    """How far a run is, in [0, 1], by steps or by time, whichever is further; and the learning rate there."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.start = args, time.monotonic()

    def share(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        minutes = (time.monotonic() - self.start) / 60
        by_time = minutes / self.args.max_train_minutes if self.args.max_train_minutes else 0.0
        return min(1.0, max(step / self.args.max_train_steps, by_time))

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine."""
        warm = min(1.0, (step + 1) / max(self.args.lr_warmup_steps, 1))
        return self.args.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * self.share(step)))


def save_checkpoint(accelerator: Accelerator, args: argparse.Namespace, step: int) -> None:
    """Write `checkpoint-<step>` under another name, rename it, and drop the oldest."""
    final = args.output_dir / f"checkpoint-{step}"
    temporary = args.output_dir / f".{final.name}"
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in checkpoints(args.output_dir)[: -args.checkpoints_total_limit]:
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))


def resume(accelerator: Accelerator, args: argparse.Namespace) -> int:
    """Load the wanted checkpoint and return its step; 0 without one."""
    if not args.resume_from_checkpoint:
        return 0
    found = checkpoints(args.output_dir)
    if args.resume_from_checkpoint != "latest":
        found = [Path(args.resume_from_checkpoint)]
    if not found or not found[-1].is_dir():
        raise SystemExit(f"No checkpoint to resume in {args.output_dir}: leave out --resume_from_checkpoint.")
    accelerator.load_state(str(found[-1]))
    return int(found[-1].name.split("-")[1])


@torch.no_grad()
def validate(pipe: EmoRigPipeline, data: RigData, out: Path, device: torch.device) -> None:
    """Rows of real photo, base, painted in 1, 2 and 4 steps, for fixed faces and seeds."""
    rng = np.random.default_rng(1)
    index = np.argsort(-data.arrays["opening"])[np.linspace(0, len(data) * 0.6, 12).astype(int)]
    batch = data.batch(index, data.arrays["photo"].shape[1], rng, augment=False)
    columns = [batch.photo, batch.base]
    for steps in (1, 2, 4):
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(batch.base.shape, generator=generator).to(device)
        correction = pipe.denoise(latents, batch.conditions.to(device), batch.code.to(device), steps, generator)[0]
        columns.append((batch.base + correction.cpu() * batch.mask).clamp(-1, 1))
    rows = torch.cat(columns, 3)
    half = torch.cat(list(rows[:6]), 1), torch.cat(list(rows[6:]), 1)
    picture = ((torch.cat(half, 2) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(out)


def build(args: argparse.Namespace) -> tuple[EmoRigPipeline, RigUNet]:
    """The pipeline with the network to train."""
    pipe = EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path)
    if args.from_scratch or pipe.unet is None:
        if not args.unet:
            raise SystemExit("A network from scratch needs its sizes: give a --config with a `unet` section.")
        unet = RigUNet(cond_dim=pipe.head.config.num_expression + 6, **args.unet)
    else:
        unet = pipe.unet
    parts = {"head": pipe.head, "encoder": pipe.encoder, "unet": unet, "scheduler": make_scheduler()}
    settings = {n: pipe.config[n] for n in ("emotions", "crop_size", "repaint_window", "residual_scale")}
    steps = args.sampler_steps or pipe.config.default_num_inference_steps
    return EmoRigPipeline(**parts, **settings, default_num_inference_steps=steps), unet


def main() -> None:
    """Command line."""
    args = parse_args()
    logger = {"log_with": args.report_to, "project_dir": args.output_dir} if args.report_to else {}
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, gradient_accumulation_steps=args.gradient_accumulation_steps, **logger
    )
    set_seed(args.seed, device_specific=True)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    pipe, unet = build(args)
    pipe.set_progress_bar_config(disable=True)
    data = RigData(args.train_data_dir, pipe.head.config.expression_names)
    ema = EMAModel(unet.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(
        unet.parameters(), args.learning_rate, betas=(0.9, 0.99), weight_decay=args.adam_weight_decay
    )
    unet, optimizer = accelerator.prepare(unet, optimizer)
    accelerator.register_for_checkpointing(ema)
    ema.to(accelerator.device)
    objective = Objective(
        pipe.scheduler.alphas_cumprod.to(accelerator.device),
        pipe.config.residual_scale,
        training_timesteps(pipe.scheduler, args.sampler_steps).to(accelerator.device),
        args.terminal_share,
        args.code_dropout,
        LPIPS("alex").to(accelerator.device) if args.lpips_weight else None,
        args.lpips_weight,
    )
    accelerator.print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, {describe(data)}")
    if args.report_to:
        accelerator.init_trackers("train_rig")
    step = resume(accelerator, args)
    train(accelerator, args, data, unet, optimizer, ema, objective, pipe, step)


def train(
    accelerator: Accelerator,
    args: argparse.Namespace,
    data: RigData,
    unet: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel,
    objective: Objective,
    pipe: EmoRigPipeline,
    step: int,
) -> None:
    """The loop; ends with the averaged network in `output_dir` as a pipeline."""
    progress = Progress(args)
    batches = data.batches(args.train_batch_size, args.resolution, args.seed + 1000 * accelerator.process_index + step)
    bar = tqdm(total=args.max_train_steps, initial=step, disable=not accelerator.is_local_main_process, mininterval=10)
    means: dict[str, float] = {}
    while progress.share(step) < 1:
        for group in optimizer.param_groups:
            group["lr"] = progress.learning_rate(step)
        for _ in range(args.gradient_accumulation_steps):
            with accelerator.accumulate(unet):
                batch = next(batches)
                batch = Batch(*(value.to(accelerator.device) for value in vars(batch).values()))
                losses = objective(unet, batch)
                accelerator.backward(losses["total"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), args.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
        ema.step(unet.parameters())
        step += 1
        means = {k: means.get(k, v.item()) * 0.98 + v.item() * 0.02 for k, v in losses.items()}
        bar.update()
        bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()}, refresh=False)
        accelerator.log(means, step)
        if step % args.checkpointing_steps == 0:
            save_checkpoint(accelerator, args, step)
        if step % args.validation_steps == 0 and accelerator.is_main_process:
            ema.store(unet.parameters())
            ema.copy_to(unet.parameters())
            validate(pipe, data, args.output_dir / f"validation-{step}.png", accelerator.device)
            ema.restore(unet.parameters())
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        ema.copy_to(unet.parameters())
        pipe.unet = accelerator.unwrap_model(unet)
        validate(pipe, data, args.output_dir / "validation.png", accelerator.device)
        pipe.save_pretrained(args.output_dir / "pipeline")
    accelerator.end_training()


if __name__ == "__main__":
    main()
