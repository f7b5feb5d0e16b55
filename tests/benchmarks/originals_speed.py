"""Milliseconds of the originals' models: DECA against EMOCA stage by stage, and our path against the originals'.

    python tests/benchmarks/originals_speed.py [PIPELINE] [--photos PHOTO...] [--width 32] [--size 256] [--steps 20]
        [--batch 1 4 8] [--device cuda] [--dtype bfloat16] [--channels-last] [--clock cpu]

PIPELINE is a folder of `emorig convert`; without it stand-ins with random weights are made: the open head in FLAME's
layout, DECA's and EMOCA's networks in full size, and DiffusionRig's network `--width` wide (128 is the published one).
What the originals do is told of their scripts; it is done with our modules, so that only the organisation differs:

- DiffusionRig draws one picture after another towards one target photo a run, so every further expression reads the
  source again. Each reading runs E_flame and E_detail, whose code nothing uses; each picture encodes the photo's look
  and is sampled alone. It saves the crop.
- The EMOCA prototype besides runs EMOCA's whole decoder with every reading: wrinkles, grey heads, texture in UV space.
- Ours reads a photo once, takes all expressions in batches, pastes the face back and draws the sheet of buffers.

Every variant runs in a process of its own, after an edit to warm up. Other load disturbs `--clock cpu` less, which
counts the processor's time of the process. Face detector and rasteriser are ours everywhere.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from skimage import data
from solver_quality import CHOSEN, noise_like, solver
from torch import nn
from torch.nn import functional as F

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.convert.flame import convert_flame
from emorig_diffusers.convert.rig import RESOLUTIONS
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face import encode
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.face.encode import EncodedFace, RigMixin, crop_tensor
from emorig_diffusers.models import emoca
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.detail import DetailModel, draw_uv
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.painting import diffusion_rig
from emorig_diffusers.painting.diffusion_rig import CONDITIONS, published_scheduler
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.render.buffers import draw_buffers, vertex_normals
from emorig_diffusers.render.camera import project

sys.path.insert(0, str(Path(__file__).parents[1] / "originals"))
from original_flame import write_flame  # noqa: E402

WHOLE = ("network", "sheet of the result")
"""Stages whose inside is not told apart."""
STAGE = "{:22}" + 3 * "{:>18}"
VARIANT = "{:38}{:>10}{:>8}{:>22}{:>10}"


def make_pipeline(folder: Path, width: int, size: int, backbone: str) -> Path:
    """Write a pipeline of the published layout with random weights."""
    torch.manual_seed(0)
    open_head = EmoRigPipeline.from_pretrained("emorig-open", unet=None, scheduler=None).head
    files = write_flame(folder / "flame", open_head, components=50)
    head = HeadModel.from_pretrained(convert_flame(**files.arguments(), out=folder / "head"))
    encoder = EmocaEncoder(backbone).eval()
    with torch.no_grad():  # a head that fills the crop, in even light, whatever the photo
        encoder.E_flame.layers[2].weight.mul_(0.02)
        encoder.E_flame.layers[2].bias.zero_()[206:210] = torch.tensor([8.0, 0.0, 0.0, 2.0])
    multipliers = {side: m for m, side in RESOLUTIONS.items()}[size]
    unet = RigUNet(
        sample_size=size, block_out_channels=[width * m for m in multipliers],
        attention_levels=[(size // 16).bit_length() - 1],
    )  # fmt: skip
    nn.init.normal_(unet.conv_out.weight, std=0.02)
    codes = {name: (0.3 * torch.randn(53)).tolist() for name in EMOTIONS}
    EmoRigPipeline(
        head, encoder, unet.eval(), published_scheduler(), AppearanceEncoder().eval(), DetailModel(backbone).eval(),
        code_parts="appearance", crop="ffhq", crop_size=size, default_num_inference_steps=20, emotion_codes=codes,
    ).save_pretrained(folder / "pipeline")  # fmt: skip
    return folder / "pipeline"


def open_pipeline(args: argparse.Namespace) -> EmoRigPipeline:
    """The pipeline where and as it computes."""
    torch.set_num_threads(args.threads)
    disable_progress_bar()
    pipe = EmoRigPipeline.from_pretrained(args.pipeline).to(args.device)
    if args.dtype != "float32":
        pipe.to(getattr(torch, args.dtype))
    if "whole_crop" not in pipe.capabilities:
        raise SystemExit("Only a network that draws the whole crop can be compared: give such a pipeline.")
    if args.channels_last:
        pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def open_photos(args: argparse.Namespace) -> list[np.ndarray]:
    """uint8 [H, W, 3] each."""
    return [read_photo(photo).rgb for photo in args.photos] or [data.astronaut()]


@dataclass
class Stopwatch:
    """Own milliseconds of stages, without those of the stages inside.

    Attributes:
        device: Which is waited for.
        clock: "wall" or "cpu".
        spent: Milliseconds by stage.
    """

    device: str
    clock: str
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    inside: list[float] = field(default_factory=list)
    closed: bool = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        if self.closed:
            yield
            return
        self.inside.append(0.0)
        self.closed, start = name in WHOLE, self.now()
        yield
        took, self.closed = self.now() - start, False
        self.spent[name] += took - self.inside.pop()
        if self.inside:
            self.inside[-1] += took

    def now(self) -> float:
        """Milliseconds, when all that was asked of the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.process_time() if self.clock == "cpu" else time.perf_counter())

    def timed(self, function: Callable, name: str) -> Callable:
        """The same function, as a stage."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return call

    @contextmanager
    def watch(self, stages: Sequence[tuple[str, Any, str]]) -> Iterator[None]:
        """Time (stage, owner, attribute) wherever they are called."""
        with ExitStack() as stack:
            for name, owner, attribute in stages:
                stack.enter_context(patch.object(owner, attribute, self.timed(getattr(owner, attribute), name)))
            yield


def stages_of(pipe: EmoRigPipeline) -> list[tuple[str, Any, str]]:
    """Stages of an edit, in order, with the functions that they are made of."""
    reads: list[tuple[str, Any, str]] = [("landmark fit", pipe.encoder, "fit")]
    if isinstance(pipe.encoder, EmocaEncoder):
        names = ("E_flame", "E_expression")[: len(pipe.encoder.branches)]
        networks = [(name, getattr(pipe.encoder, name)) for name in names]
        reads = [(name, part, "forward") for name, net in networks for part in (net, net.encoder)]
        reads.append(("error of the reading", emoca, "compare"))
    if pipe.detail is not None:
        reads += [("wrinkles", pipe.detail, name) for name in ("code", "decode", "normals")]
    look = [("look of the photo", pipe.appearance_encoder, "forward")] if pipe.appearance_encoder else []
    return [
        ("detect", encode, "find_faces"), ("crop", RigMixin, "_view"), ("crop", encode, "take_picture"),
        ("crop", encode, "deca_crop"), *reads, ("head", pipe.head, "forward"), ("buffers", RigMixin, "draw_head"),
        *look, ("network", EmoRigPipeline, "sample"), ("paste", diffusion_rig, "paste_mask"),
        ("paste", diffusion_rig, "_paste"), ("sheet of the result", EmoRigPipeline, "_describe"),
    ]  # fmt: skip


def compare_encoders(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median milliseconds of each stage of an edit, by encoder."""
    pipe, photos = open_pipeline(args), open_photos(args)
    kinds = {(branch or "landmarks").upper(): {"source_encoder": branch} for branch in pipe.encoder.branches or (None,)}
    if pipe.detail is not None:
        kinds[f"{list(kinds)[-1]}, wrinkles"] = list(kinds.values())[-1] | {"detail": True}
    stages, found = stages_of(pipe), {kind: [] for kind in kinds}
    for round_ in range(args.repeat + 1):  # the first is not counted
        for photo in photos:
            for kind, options in kinds.items():
                watch = Stopwatch(args.device, args.clock)
                with watch.watch(stages), watch.stage("other"):
                    pipe(photo, "happy", num_inference_steps=args.steps if round_ else 1, output_type="np", **options)
                found[kind] += [watch.spent] if round_ else []
    names = [*dict.fromkeys(name for name, *_ in stages), "other"]
    middle = lambda runs, name: statistics.median(run.get(name, 0.0) for run in runs)
    return {kind: {name: middle(runs, name) for name in names} for kind, runs in found.items()}


def print_stages(found: dict[str, dict[str, float]]) -> None:
    """Stages down, encoders across: milliseconds and shares."""
    whole = {kind: sum(spent.values()) for kind, spent in found.items()}
    cell = lambda spent, all_: f"{spent:9.1f} {spent / all_:6.1%}"
    row = lambda name, cells: print(STAGE.format(name, *cells, *[""] * (3 - len(found))).rstrip())
    row("ms an edit, share", found)
    for name in next(iter(found.values())):
        row(name, [cell(spent[name], whole[kind]) for kind, spent in found.items()])
    rest = {kind: whole[kind] - spent["network"] for kind, spent in found.items()}
    first = next(iter(found))
    row("all", [cell(whole[kind], whole[kind]) for kind in found])
    row(f"all / {first}", [f"{whole[kind] / whole[first]:.3f}" for kind in found])
    row("all but network", [cell(rest[kind], whole[kind]) for kind in found])
    row(f"... / {first}", [f"{rest[kind] / rest[first]:.2f}" for kind in found])


def read_as_published(pipe: EmoRigPipeline, photo: np.ndarray, visualise: bool) -> EncodedFace:
    """A photo's largest face as the original scripts read it."""
    face = pipe.encode(photo)[0]
    if visualise:
        decode_as_emoca(pipe, face)
    elif pipe.detail is not None:
        pipe.detail.code(face.seen.to(pipe.detail.device, pipe.detail.dtype))
    return face


def decode_as_emoca(pipe: EmoRigPipeline, face: EncodedFace) -> None:
    """What EMOCA's decoder and its visualisation compute of a face: a coarse picture, wrinkles, two grey heads, and the
    photo as a texture."""
    head, detail, codes, side = pipe.head, pipe.detail, face.codes, face.seen.shape[-1]
    vertices = pipe.pose_head(codes)
    pipe.draw_head(codes, side, vertices=vertices)
    seen = face.seen.to(detail.device, detail.dtype)
    displacement = detail(seen, codes.pose[:, 3:].to(seen), codes.expression.to(seen))
    normals = detail.normals(head, vertices, displacement, pipe.config.rasterizer)
    grey = torch.full_like(vertices, 0.7)
    for texture in (None, normals):
        uv = {"uv": head.uv, "faces_uv": head.faces_uv, "normal_map": texture}
        draw_buffers(vertices, head.faces, codes.camera, codes.light, grey, side, **uv)
    places = project(vertices, codes.camera)
    grid = draw_uv(head, places)[..., :2]
    draw_uv(head, vertex_normals(places, head.faces))
    F.grid_sample(face.seen, grid, align_corners=False)


def edit_as_published(
    pipe: EmoRigPipeline, photos: Sequence[np.ndarray], noise: torch.Tensor, args: argparse.Namespace, visualise: bool
) -> int:
    """As many runs as there are expressions, each with a target photo; the number of pictures."""
    size, device, dtype = pipe.config.crop_size, pipe.device, pipe.unet.dtype
    for run in range(args.emotions):
        lender = read_as_published(pipe, photos[-1 - run % len(photos)], visualise)
        for photo in photos:
            face = read_as_published(pipe, photo, visualise)
            target = pipe.edit_codes(face, reference=lender)
            drawn = pipe.draw_head(target, size, face.transform, pipe.painter.recentred_head(face.codes, target))
            conditions = torch.cat([getattr(drawn, name) for name in CONDITIONS], 1).to(device, dtype)
            look = pipe.painter.appearance_code(crop_tensor(photo, face.grid_matrix(size), size) * 2 - 1)
            code = pipe.condition_code(target, look).to(device, dtype)
            pipe.sample(noise.to(device, dtype), conditions, code, Sampling(args.steps))[0].float().cpu()
    return args.emotions * len(photos)


def edit_ours(
    pipe: EmoRigPipeline, photos: Sequence[np.ndarray], noise: torch.Tensor, args: argparse.Namespace, batch: int
) -> int:
    """Every photo with a list of emotions; the number of pictures."""
    for photo in photos:
        options = {"num_inference_steps": args.steps, "latents": noise, "batch_size": batch, "output_type": "np"}
        pipe(photo, list(pipe.emotion_names[: args.emotions]), **options)
    return args.emotions * len(photos)


@dataclass(frozen=True)
class Variant:
    """A way to make the same pictures: "published", "prototype" or "ours" with a batch, a solver and its steps."""

    kind: str
    batch: int = 1
    solver: str = "ddim"
    steps: int = 20

    def __str__(self) -> str:
        if self.kind != "ours":
            name = {"published": "DiffusionRig's path", "prototype": "EMOCA prototype's path"}[self.kind]
            return f"{name}, DDIM {self.steps}"
        solver_name = {"ddim": "DDIM", "unipc": "UniPC", "dpm": "DPM-Solver++"}[self.solver]
        return f"ours, batch {self.batch}, {solver_name} {self.steps}"


def measure(args: argparse.Namespace, variant: Variant) -> dict[str, float]:
    """Milliseconds a picture, those outside the network, and peak memory in MB, of CUDA too."""
    pipe, photos = open_pipeline(args), open_photos(args)
    asked = argparse.Namespace(steps=variant.steps, emotions=args.emotions)
    if variant.solver != "ddim":
        pipe.scheduler = solver(variant.solver, pipe.scheduler.config, **CHOSEN)
    noise = noise_like((1, 3, pipe.config.crop_size, pipe.config.crop_size))

    def edit(some: Sequence[np.ndarray], options: argparse.Namespace) -> int:
        with torch.no_grad():
            if variant.kind == "ours":
                return edit_ours(pipe, some, noise, options, variant.batch)
            return edit_as_published(pipe, some, noise, options, variant.kind == "prototype")

    edit(photos[:1], argparse.Namespace(steps=1, emotions=1))
    rounds = []
    for _ in range(args.repeat):
        watch = Stopwatch(args.device, args.clock)
        with watch.watch([("network", EmoRigPipeline, "sample")]), watch.stage("other"):
            count = edit(photos, asked)
        rounds.append({"all": sum(watch.spent.values()), "other": watch.spent["other"]})
    found = {name: statistics.median(r[name] for r in rounds) / count for name in rounds[0]}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cuda = torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else 0.0
    return found | {"memory": memory, "cuda": cuda}


def apart(function: Callable, *args: Any) -> Any:
    """Call in a new process."""
    context = multiprocessing.get_context("forkserver")  # which opens the packages once
    context.set_forkserver_preload(["emorig_diffusers.pipelines.emorig", "skimage.data"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def compare_paths(args: argparse.Namespace, prototype: bool) -> None:
    """Print a row for every variant as it is measured."""
    kinds = ("published", "prototype")[: 1 + prototype]
    variants = [Variant(kind, steps=args.steps) for kind in kinds]
    variants += [Variant("ours", batch, steps=args.steps) for batch in args.batch]
    variants += [Variant("ours", max(args.batch), kind, int(n)) for kind, n in (s.split(":") for s in args.solvers)]
    print(VARIANT.format("a picture", "ms", "ratio", "all but network, ms", "peak MB"))
    first = None
    for variant in variants:
        found = apart(measure, args, variant)
        first = first or found["all"]
        memory = f"{found['memory']:.0f}" + (f"+{found['cuda']:.0f}" if found["cuda"] else "")
        numbers = f"{found['all']:.0f}", f"{found['all'] / first:.2f}", f"{found['other']:.0f}"
        print(VARIANT.format(str(variant), *numbers, memory), flush=True)


def machine(args: argparse.Namespace) -> str:
    """What was measured on."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if (
        info.exists()) else []  # fmt: skip
    cpu = names[0] if names else platform.machine()
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    load = f"load average before {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return f"{cpu}, {device}, {args.clock} clock, {args.dtype}, torch {torch.__version__}, {load}"


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", nargs="?", type=Path)
    parser.add_argument("--photos", nargs="*", type=Path, default=[])
    parser.add_argument("--emotions", type=int, default=4, help="pictures to make of every photo")
    parser.add_argument("--width", type=int, default=32, help="of the stand-in's first level")
    parser.add_argument("--size", type=int, choices=sorted(RESOLUTIONS.values()), default=256, help="of the stand-in")
    parser.add_argument("--backbone", choices=emoca.BACKBONES, default="resnet50", help="of the stand-in's encoders")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--solvers", nargs="*", default=["unipc:8", "unipc:10", "dpm:8", "dpm:10"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--channels-last", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args = parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        args.pipeline = args.pipeline or make_pipeline(Path(scratch), args.width, args.size, args.backbone)
        print(machine(args))
        found = apart(compare_encoders, args)
        print_stages(found)
        print()
        compare_paths(args, any("wrinkles" in kind for kind in found))


if __name__ == "__main__":
    main()
