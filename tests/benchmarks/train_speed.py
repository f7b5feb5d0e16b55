"""Training: images per second and bytes per photo of our loop and of a plain reproduction of DiffusionRig's.

    python tests/benchmarks/train_speed.py SHARDS [--config train/presets/diffusionrig-256.yaml] [--steps 20]

Ours reads JPEG and codes, draws the buffers in the step, clips gradients and averages the weights. The original reads
PNG and pickled float buffers from LMDB and has no average. Both train the same networks on the same photos, one after
the other, twice; numbers are the better of two. Without --config a small network shows the loop rather than the
convolutions.
"""

from __future__ import annotations

import argparse
import io
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import lmdb
import numpy as np
import torch
import yaml
from diffusers import DDIMScheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.training.rig.data import BufferData
from emorig_diffusers.training.rig.objectives import DenoisingObjective, Drawer, RigNetworks
from emorig_diffusers.training.samplers import StepSampler

SMALL = {"sample_size": 256, "block_out_channels": (16, 16, 32), "layers_per_block": 1, "attention_levels": (),
         "mid_attention": False, "norm_num_groups": 8, "unshuffle": 4}  # fmt: skip


def write_float_buffers(data: BufferData, count: int, drawer: Drawer, folder: Path) -> int:
    """DiffusionRig's LMDB of the first photos; its bytes a photo."""
    with lmdb.open(str(folder), map_size=2**40) as store, store.begin(write=True) as writer:
        for i in range(count):
            item = {k: v[None] for k, v in data[i, 0].items()}
            codes = {k: item[k] for k in ("shape", "expression", "pose", "camera", "light", "texture")}
            drawn = drawer(codes, item["transform"])[0]
            for name, buffer in zip(("rendered", "normal", "albedo"), drawn.split(3)):
                writer.put(f"{name}_{i:06d}".encode(), pickle.dumps(buffer.clone()))
            png = io.BytesIO()
            Image.fromarray(data.shards[i].picture).save(png, "PNG")
            writer.put(f"image_{i:06d}".encode(), png.getvalue())
    return (folder / "data.mdb").stat().st_size // count


class FloatBuffers(Dataset):
    """Reads that LMDB as the original does."""

    def __init__(self, folder: Path, count: int) -> None:
        self.store, self.count = lmdb.open(str(folder), readonly=True, lock=False), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with self.store.begin() as reader:
            names = ("rendered", "normal", "albedo", "image")
            read = {name: reader.get(f"{name}_{index:06d}".encode()) for name in names}
        picture = torch.from_numpy(np.array(Image.open(io.BytesIO(read.pop("image"))))).permute(2, 0, 1) / 127.5 - 1
        return {"picture": picture} | {name: pickle.loads(value) for name, value in read.items()}  # our own bytes


def networks(args: argparse.Namespace) -> RigNetworks:
    """The networks both loops train."""
    torch.manual_seed(0)
    preset = yaml.safe_load(args.config.read_text())["unet"] if args.config else SMALL
    return RigNetworks(RigUNet(**preset), AppearanceEncoder(), ("appearance",)).to(args.device)


def our_steps(args: argparse.Namespace, data: BufferData, objective: DenoisingObjective) -> Iterator[Tensor]:
    """One optimiser step after another, as train_rig.py takes them."""
    model = networks(args)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    ema = EMAModel(model.parameters())
    sampler = StepSampler(np.ones(len(data)), args.batch_size)
    for batch in DataLoader(data, batch_sampler=sampler, num_workers=args.workers):
        losses = objective(model, {k: v.to(args.device) for k, v in batch.items()})
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        yield losses["loss"]


def original_steps(args: argparse.Namespace, data: FloatBuffers, alphas: Tensor) -> Iterator[Tensor]:
    """The same with ready buffers and without an average."""
    model = networks(args)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    loader = DataLoader(data, args.batch_size, shuffle=True, num_workers=args.workers, drop_last=True)
    for batch in cycle(loader):
        batch = {k: v.to(args.device) for k, v in batch.items()}
        clean = batch["picture"]
        t = torch.randint(len(alphas), (len(clean),), device=args.device)
        alpha = alphas[t][:, None, None, None]
        noise = torch.randn_like(clean)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        sample = torch.cat([noisy, batch["rendered"], batch["normal"], batch["albedo"]], 1)
        prediction = model.unet(sample, t, model.appearance_encoder(clean)).sample
        loss = ((prediction - noise).square().mean((1, 2, 3)) * (1 - alphas[t])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss


def speed(args: argparse.Namespace, steps: Callable[[], Iterator[Tensor]]) -> float:
    """Images per second, after two steps to warm up."""
    running = steps()
    for loss in islice(running, 2):
        loss.item()
    start = time.perf_counter()
    for loss in islice(running, args.steps):
        loss.item()
    return args.steps * args.batch_size / (time.perf_counter() - start)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="shards of train/prepare.py")
    parser.add_argument("--config", type=Path, help="preset whose network is trained")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    shards = CodeShards(args.shards)
    resolution = shards.manifest["settings"]["resolution"]
    head = EmoRigPipeline.from_pretrained("emorig-open").head.to(args.device)
    data, drawer, alphas = BufferData(shards), Drawer(head, resolution), DDIMScheduler().alphas_cumprod.to(args.device)
    objective = DenoisingObjective(alphas, "epsilon", 1.0, 1.0, None, drawer)
    with tempfile.TemporaryDirectory() as scratch:
        count = min(args.photos, len(data))
        theirs_bytes = write_float_buffers(data, count, drawer, Path(scratch))
        theirs = FloatBuffers(Path(scratch), count)
        ours, original = [], []
        for _ in range(2):
            ours.append(speed(args, lambda: our_steps(args, data, objective)))
            original.append(speed(args, lambda: original_steps(args, theirs, alphas)))
    ours_bytes = shards.manifest["bytes_a_photo"]
    ratio = max(ours) / max(original)
    print(f"{resolution} px: {ours_bytes:,} bytes a photo (JPEG, codes), {theirs_bytes:,} (PNG, float buffers)")
    print(f"images per second: ours {max(ours):.2f}, original {max(original):.2f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
