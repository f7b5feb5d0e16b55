"""How near few steps of DDIM, UniPC and DPM-Solver++ come to many of DDIM, from the same noise and conditions.

    python tests/benchmarks/solver_quality.py PIPELINE PHOTO... [--emotion happy] [--reference 100] [--grid]
    python tests/benchmarks/solver_quality.py --oracle PHOTO... [--size 64]

PIPELINE is one whose network draws the whole crop. With --oracle an ideal network stands in for it, the exact posterior
mean over the photos: what perfect training would reach, without a network's errors, and unconditional. Numbers are
means over the pictures: absolute difference in levels of 255 and its median picture, PSNR, LPIPS (AlexNet), and
milliseconds a picture; a mean far above the median tells of single pictures that became different ones. --grid shows
every setting of the two solvers, from which CHOSEN was chosen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.diffusion.sampling import Sampling, SamplingMixin
from emorig_diffusers.evaluation.metrics.perceptual import LPIPS
from emorig_diffusers.face.encode import crop_tensor
from emorig_diffusers.painting.diffusion_rig import CONDITIONS, published_scheduler
from emorig_diffusers.photo.crops import picture_matrix
from emorig_diffusers.photo.faces import choose_faces, find_faces
from emorig_diffusers.photo.io import read_photo

CLIP = {"thresholding": True, "sample_max_value": 1.0}
"""What clips x0 to [-1, 1] in these two, to which `clip_sample` means nothing: their dynamic threshold, at most 1."""
TIMES: dict[str, dict[str, Any]] = {
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"use_karras_sigmas": True},
}
"""Where the steps lie."""
CHOSEN = {"times": "linspace", "clip": True, "order": 2}
"""Nearest on a trained network. On the ideal one "karras" is, and clipping makes no difference."""
STEPS = {"ddim": (10, 20, 50), "unipc": (8, 10, 20), "dpm": (8, 10, 20)}
ROW = "{:34}{:>6}{:>9}{:>9}{:>8}{:>9}{:>7}"


def solver(kind: str, config: Any, times: str, clip: bool, order: int) -> Any:
    """A scheduler of "unipc" or "dpm" on a DDIM scheduler's betas and prediction."""
    kept = {name: config[name] for name in ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end",
                                            "trained_betas", "prediction_type", "rescale_betas_zero_snr")}  # fmt: skip
    settings = kept | TIMES[times] | (CLIP if clip else {}) | {"solver_order": order}
    return UniPCMultistepScheduler(**settings) if kind == "unipc" else DPMSolverMultistepScheduler(**settings)


def candidates(config: Any, grid: bool) -> Iterator[tuple[str, Any, int]]:
    """Name, scheduler and steps of each row."""
    for steps in STEPS["ddim"]:
        yield "DDIM", DDIMScheduler.from_config(config), steps
    settings = [dict(zip(CHOSEN, values)) for values in product(TIMES, (True, False), (2, 3))] if grid else [CHOSEN]
    for kind, name in (("unipc", "UniPC"), ("dpm", "DPM-Solver++")):
        for chosen, steps in product(settings, STEPS[kind]):
            clip = "clipped" if chosen["clip"] else "free"
            yield f"{name} {chosen['order']}, {chosen['times']}, {clip}", solver(kind, config, **chosen), steps


@dataclass
class Task:
    """Pictures to draw: what samples them, and from which noise, conditions and code."""

    sampler: SamplingMixin
    latents: Tensor
    conditions: Tensor
    code: Tensor

    @torch.no_grad()
    def draw(self, scheduler: Any, steps: int) -> tuple[Tensor, float]:
        """Pictures [B, 3, S, S] in [-1, 1], and milliseconds a picture."""
        self.sampler.scheduler = scheduler
        start = time.perf_counter()
        sample, _ = self.sampler.sample(self.latents, self.conditions, self.code, Sampling(steps))
        sample = sample.float().cpu().clamp(-1, 1)
        return sample, 1000 * (time.perf_counter() - start) / len(sample)


def noise_like(shape: Sequence[int]) -> Tensor:
    """x_T, the same in every run."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))


def pipeline_task(pipe: EmoRigPipeline, photos: Iterable[Path], emotion: str) -> Task:
    """The faces of photos under an emotion.

    Raises:
        ValueError: If the network does not draw the whole crop.
    """
    if "whole_crop" not in pipe.capabilities:
        raise ValueError("Only a network that draws the whole crop can be compared: give such a pipeline.")
    size, conditions, codes = pipe.config.crop_size, [], []
    for photo in photos:
        rgb = read_photo(photo).rgb
        face = pipe.encode(rgb)[0]
        target = pipe.edit_codes(face, emotion)
        drawn = pipe.draw_head(target, size, face.transform, pipe.painter.recentred_head(face.codes, target))
        conditions.append(torch.cat([getattr(drawn, name) for name in CONDITIONS], 1))
        look = None
        if "appearance" in pipe.code_parts:
            look = pipe.painter.appearance_code(crop_tensor(rgb, face.grid_matrix(size), size) * 2 - 1)
        codes.append(pipe.condition_code(target, look))
    latents = noise_like((len(codes), 3, size, size))
    return Task(pipe, *(x.to(pipe.device, pipe.unet.dtype) for x in (latents, torch.cat(conditions), torch.cat(codes))))


class Oracle(SamplingMixin):
    """Samples an ideal network: the posterior mean over photos, each with a little noise around it.

    With x0 from the mixture of N(photo_i, s² I), x = √ᾱ x0 + √(1-ᾱ) n has E[x0 | x] = Σ w_i m_i, where w is the softmax
    of -|x - √ᾱ photo_i|² / 2v, m_i = photo_i + √ᾱ s² (x - √ᾱ photo_i) / v, and v = ᾱ s² + 1 - ᾱ. ε follows from it.

    Args:
        photos: [N, 3, S, S] in [-1, 1].
        spread: s, in the same unit; without it every sample ends on a photo.
    """

    def __init__(self, photos: Tensor, spread: float = 0.05) -> None:
        self.photos, self.spread, self.scheduler = photos.flatten(1).double(), spread, published_scheduler()
        self.alphas = self.scheduler.alphas_cumprod.double()

    def progress_bar(self, steps: Any) -> Any:
        return steps

    def unet(self, sample: Tensor, t: Any, code: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """ε [B, 3, S, S] of x at a timestep."""
        x, alpha = sample.flatten(1).double(), self.alphas[int(t)]
        variance = alpha * self.spread**2 + 1 - alpha
        centres = alpha.sqrt() * self.photos
        weights = (-torch.cdist(x, centres).square() / (2 * variance)).softmax(1)
        clean = weights @ self.photos + alpha.sqrt() * self.spread**2 / variance * (x - weights @ centres)
        return (((x - alpha.sqrt() * clean) / (1 - alpha).sqrt()).view_as(sample).to(sample),)


def oracle_task(photos: Iterable[Path], size: int, count: int) -> Task:
    """Samples of the ideal network for FFHQ's crops of photos in `size` pixels; photos without a face are left out."""
    crops = []
    for photo in photos:
        rgb = read_photo(photo).rgb
        if faces := find_faces(rgb):
            matrix = picture_matrix("ffhq", choose_faces(faces)[0].landmarks, rgb.shape, 4 * size)
            crops.append(torch.nn.functional.avg_pool2d(crop_tensor(rgb, matrix, 4 * size) * 2 - 1, 4))
    oracle, latents = Oracle(torch.cat(crops)), noise_like((count, 3, size, size))
    print(f"ideal network of {len(crops)} photos, {count} samples of {size} pixels")
    return Task(oracle, latents, latents[:, :0], latents[:, :0])


def report(task: Task, config: Any, reference: int, grid: bool) -> None:
    """Print the table."""
    lpips = LPIPS()
    task.draw(DDIMScheduler.from_config(config), 2)  # the first pass sets up what all use
    wanted, took = task.draw(DDIMScheduler.from_config(config), reference)
    print(ROW.format("sampler", "steps", "|diff|", "median", "PSNR", "LPIPS", "ms"))
    print(ROW.format("DDIM", reference, "0", "0", "", "0", f"{took:.0f}"))
    for name, scheduler, steps in candidates(config, grid):
        found, took = task.draw(scheduler, steps)
        levels = ((found - wanted) * 127.5).flatten(1)
        away, power = levels.abs().mean(1), levels.square().mean(1).clamp(min=1e-9)
        psnr = (10 * (255**2 / power).log10()).mean()
        distance = lpips.distance(found, wanted).mean()
        numbers = f"{away.mean():.2f}", f"{away.median():.2f}", f"{psnr:.1f}", f"{distance:.4f}", f"{took:.0f}"
        print(ROW.format(name, steps, *numbers), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="PIPELINE PHOTO...")
    parser.add_argument("--oracle", nargs="+", type=Path, help="photos of the ideal network")
    parser.add_argument("--emotion", default="happy")
    parser.add_argument("--reference", type=int, default=100, help="steps of DDIM to compare with")
    parser.add_argument("--grid", action="store_true", help="every setting of the solvers")
    parser.add_argument("--size", type=int, default=64, help="pixels, of --oracle")
    parser.add_argument("--count", type=int, default=16, help="samples, of --oracle")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    disable_progress_bar()
    if args.oracle:
        task = oracle_task(args.oracle, args.size, args.count)
    elif len(args.paths) > 1:
        pipe = EmoRigPipeline.from_pretrained(args.paths[0]).to(args.device)
        pipe.set_progress_bar_config(disable=True)
        task = pipeline_task(pipe, args.paths[1:], args.emotion)
    else:
        parser.error("give PIPELINE PHOTO..., or --oracle PHOTO...")
    report(task, task.sampler.scheduler.config, args.reference, args.grid)


if __name__ == "__main__":
    main()
