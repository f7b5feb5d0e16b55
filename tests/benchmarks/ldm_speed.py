"""Emotion latent diffusion in our order of work against the original's: passes, GMAC and time of one photo.

    python tests/benchmarks/ldm_speed.py [PIPELINE] [--width 160] [--emotions 6] [--steps 20] [--guidance 4]
        [--repeat 1] [--clock cpu] [--threads 1] [--device cuda]

PIPELINE is a folder of `emorig convert emotion-ldm` or of training; without it networks `--width` wide (160 is the
published one, 32 a tiny one) are made with random weights. Both orders use the same weights and arithmetic:

- The original's scripts run once for every target emotion: each run encodes the picture, inverts it under its own
  emotion, samples under the target, and decodes the result and the latent it began with. The class token goes through
  attention with queries and keys.
- Ours encodes and inverts once, samples and decodes all targets in one batch, and attends to the one token without
  queries and keys. "With the photo's detail" is the default of a call, which also draws the face as it is, to bring
  only the change into the photo.

A pass is one row of a batch. GMAC are those of convolutions, matrix products and attention, counted on one pass each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel, VQModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from emorig_diffusers.convert.emotion_ldm import unet_config, vq_config
from emorig_diffusers.diffusion.edit_scheduler import EditDDIMScheduler
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.models.emotion_ldm import EmotionEmbedding, fold_one_token_attention
from emorig_diffusers.pipelines.emotion_ldm import EmotionLDMPipeline

SOURCE = "neutral"
PARTS = ("UNet", "encoder", "decoder")
FULL = 160  # width of the published UNet, whose autoencoder is 128 wide
LINE = "{:44}" + 5 * "{:>11}"


def make_pipeline(width: int) -> EmotionLDMPipeline:
    """The published layout with random weights under which the token counts."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_config(width)).eval().requires_grad_(False)
    vqvae = VQModel(**vq_config(width * 4 // 5 if width == FULL else width)).eval().requires_grad_(False)
    nn.init.normal_(vqvae.quantize.embedding.weight)
    return EmotionLDMPipeline(vqvae, unet, EmotionEmbedding(EMOTIONS).requires_grad_(False), EditDDIMScheduler())


def original_order(pipe: EmotionLDMPipeline, rgb: np.ndarray, targets: list[str], steps: int, scale: float) -> Tensor:
    """Pictures of all targets [N, 3, S, S], one run after another."""
    table, drawn = dict(zip(pipe.emotion_names, pipe.emotion_embedding.weight[:, None])), []
    strength = float(pipe.config.strength)
    for target in targets:
        [face] = pipe.encode(rgb, crop="whole")
        pipe.decode(face.latent)
        noisy = pipe.add_noise(face.latent, table[SOURCE], steps, strength, scale)
        drawn.append(pipe.decode(pipe.remove_noise(noisy, table[target], Sampling(steps), strength, scale)))
    return torch.cat(drawn)


def our_order(
    pipe: EmotionLDMPipeline, rgb: np.ndarray, targets: list[str], steps: int, scale: float, paste: str = "crop"
) -> list[np.ndarray]:
    """Photos of all targets, uint8 [H, W, 3], by one call."""
    options = {"source_emotion": SOURCE, "num_inference_steps": steps, "guidance_scale": scale, "crop": "whole"}
    return pipe(rgb, targets, paste=paste, batch_size=2 * len(targets), output_type="np", **options).images


@dataclass(frozen=True)
class Cost:
    """What one order of work takes: passes by PARTS, GMAC, seconds."""

    passes: dict[str, int]
    gmac: float
    seconds: float


def parts_of(pipe: EmotionLDMPipeline) -> dict[str, nn.Module]:
    """Modules whose passes are counted, by PARTS."""
    return dict(zip(PARTS, (pipe.unet, pipe.vqvae.encoder, pipe.vqvae.decoder)))


def count_passes(pipe: EmotionLDMPipeline, work: Callable[[], Any]) -> tuple[dict[str, int], Any]:
    """Rows that each part of PARTS computes, and what the work gives."""
    passes = dict.fromkeys(PARTS, 0)

    def counter(part: str) -> Callable[..., None]:
        def count(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            passes[part] += len(given[0])

        return count

    hooks = [module.register_forward_pre_hook(counter(part)) for part, module in parts_of(pipe).items()]
    given = work()
    for hook in hooks:
        hook.remove()
    return passes, given


@torch.no_grad()
def gmac_of_passes(pipe: EmotionLDMPipeline) -> dict[str, float]:
    """GMAC of one pass, by PARTS."""
    side, dim, device = pipe.latents_side, pipe.emotion_embedding.config.dim, pipe.device
    picture, small = torch.zeros(1, 3, side, side, device=device), pipe.unet.config.sample_size
    latent, token = torch.zeros(1, 3, small, small, device=device), torch.zeros(1, 1, dim, device=device)
    runs = (
        lambda: pipe.unet(latent, 1, encoder_hidden_states=token),
        lambda: pipe.vqvae.encode(picture),
        lambda: pipe.vqvae.decode(latent),
    )
    found = {}
    for part, run in zip(PARTS, runs):
        with FlopCounterMode(display=False) as counter:
            run()
        found[part] = counter.get_total_flops() / 2e9
    return found


def measure(
    pipe: EmotionLDMPipeline, work: Callable[[], Any], clock: Callable[[], float], repeat: int
) -> tuple[Cost, Any]:
    """Cost of some work, the seconds those of the fastest run after the one that is counted, and what it gives."""
    (passes, given), macs, taken = count_passes(pipe, work), gmac_of_passes(pipe), []
    for _ in range(repeat):
        start = clock()
        work()
        if pipe.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return Cost(passes, sum(passes[part] * macs[part] for part in PARTS), min(taken)), given


def compare_orders(args: argparse.Namespace) -> dict[str, Cost]:
    """Cost of each order of work by its name, in one run."""
    torch.set_num_threads(args.threads)
    pipe = EmotionLDMPipeline.from_pretrained(args.pipeline) if args.pipeline else make_pipeline(args.width)
    pipe.to(args.device).set_progress_bar_config(disable=True)
    targets = [name for name in pipe.emotion_names if name != SOURCE][: args.emotions]
    side = pipe.latents_side
    rgb = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    given = (pipe, rgb, targets, args.steps, args.guidance)
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    costs: dict[str, Cost] = {}
    costs["the original's order"], pictures = measure(pipe, lambda: original_order(*given), clock, args.repeat)
    theirs = ((pictures.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    fold_one_token_attention(pipe.unet)
    costs["ours"], ours = measure(pipe, lambda: our_order(*given), clock, args.repeat)
    inside = np.s_[side // 4 : -(side // 4)]  # the border is blended into the photo
    apart = max(np.abs(a[inside, inside] - b[inside, inside]).max() for a, b in zip(ours, theirs))
    detailed = lambda: our_order(*given, "change")
    costs["ours, with the photo's detail"], _ = measure(pipe, detailed, clock, args.repeat)
    print(f"Pictures of both orders differ by {apart:.2f} grey levels at most.")
    return costs


def main(words: list[str] | None = None) -> dict[str, Cost]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?")
    parser.add_argument("--width", type=int, default=FULL)
    parser.add_argument("--emotions", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    costs = compare_orders(parser.parse_args(words))
    first = next(iter(costs.values()))
    print(LINE.format("", *(f"{part}s" for part in PARTS), "GMAC", "time"))
    for name, cost in costs.items():
        shares = f"{cost.gmac:.1f}", f"{cost.seconds / first.seconds:.3f}"
        print(LINE.format(name, *(cost.passes[part] for part in PARTS), *shares))
    return costs


if __name__ == "__main__":
    main()
