"""Stand-ins for the checkpoints of Diffusion Autoencoders: tensors of the original names and shapes with random
numbers, and what the equations give for them, in plain functions of torch that know nothing of the package."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import original_rig
import torch
from original_flame import named
from original_rig import Shapes, State, attention, layer, pooled, random_tensor
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Original:
    """Hyper-parameters of an autoencoder; the defaults are those of ffhq128_autoenc_130M."""

    base: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 3, 4)
    attention: tuple[int, ...] = (3,)
    encoder: tuple[int, ...] = (1, 1, 2, 3, 4, 4)
    encoder_attention: tuple[int, ...] = (3,)
    blocks: int = 2
    code: int = 512
    size: int = 128
    inputs: int = 3
    outputs: int = 3
    hidden: int = 2048
    latent_layers: int = 10
    heads: int = 1
    embedding: int | None = None
    encoder_blocks: int | None = None


FFHQ256 = Original(
    multipliers=(1, 1, 2, 2, 4, 4), attention=(4,), encoder=(1, 1, 2, 2, 4, 4, 4), encoder_attention=(4,), size=256
)
FFHQ64 = Original(
    base=64, multipliers=(1, 2, 4, 8), attention=(2,), encoder=(1, 2, 4, 8, 8), encoder_attention=(2,), size=64,
    embedding=512,
)  # fmt: skip
"""ffhq64_autoenc, and celeba64d2c_autoenc: time is embedded in 512 numbers whatever the width."""
SMALL = Original(
    base=32, multipliers=(1, 2), attention=(1,), encoder=(1, 2, 2), encoder_attention=(1,), code=48, size=32,
    hidden=40, latent_layers=3,
)  # fmt: skip


# names and shapes


def shapes(model: Original, latent: bool = False) -> Shapes:
    """Names and shapes of all tensors of one model, in the original's order but for time's."""
    yield from unet_shapes(model)
    yield from ((f"encoder.{name}", size) for name, size in encoder_shapes(model))
    if latent:
        yield from ((f"latent_net.{name}", size) for name, size in latent_shapes(model))


def unet_shapes(model: Original) -> Shapes:
    """The UNet's tensors: DiffusionRig's, with time one level deeper and the code's scale alone."""
    for name, size in original_rig.unet_shapes(original_rig.Original(**_rig(model))):
        if "cond_emb_layers" in name:
            size = (size[0] // 2, *size[1:])
        yield name.replace("time_embed.", "time_embed.time_embed."), size


def _rig(model: Original) -> dict[str, object]:
    names = ("base", "multipliers", "blocks", "attention", "code", "inputs", "outputs", "heads", "embedding")
    return {name: getattr(model, name) for name in names}


def encoder_shapes(model: Original) -> Shapes:
    """The encoder's tensors: half a UNet of blocks with one convolution."""
    widths = [multiplier * model.base for multiplier in model.encoder]
    yield from layer("input_blocks.0.0", widths[0], 3, 3, 3)
    channels, number = widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(model.encoder_blocks or model.blocks):
            yield from short_res(f"input_blocks.{number}.0", channels, width)
            if level in model.encoder_attention:
                yield from attention(f"input_blocks.{number}.1", width)
            channels, number = width, number + 1
        if level < len(widths) - 1:
            yield from short_res(f"input_blocks.{number}.0", width, width)
            number += 1
    yield from short_res("middle_block.0", channels, channels)
    yield from attention("middle_block.1", channels)
    yield from short_res("middle_block.2", channels, channels)
    yield from layer("out.0", channels)
    yield from layer("out.3", model.code, channels, 1, 1)


def short_res(name: str, inputs: int, outputs: int) -> Shapes:
    yield from layer(f"{name}.in_layers.0", inputs)
    yield from layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
    if inputs != outputs:
        yield from layer(f"{name}.skip_connection", outputs, inputs, 1, 1)


def latent_shapes(model: Original) -> Shapes:
    """The network that draws codes; `cond_layers.1` is `linear_emb` once more."""
    code, hidden, last = model.code, model.hidden, model.latent_layers - 1
    yield from layer("time_embed.0", code, 64)
    yield from layer("time_embed.2", code, code)
    for i in range(last):
        yield from layer(f"layers.{i}.linear", hidden, code + hidden * (i > 0))
        yield from layer(f"layers.{i}.linear_emb", hidden, code)
        yield from layer(f"layers.{i}.cond_layers.1", hidden, code)
        yield from layer(f"layers.{i}.norm", hidden)
    yield from layer(f"layers.{last}.linear", code, hidden + code)


# files


def random_state(model: Original, latent: bool = False, seed: int = 0, flat: bool = False) -> State:
    """`ema_model.*` at random, other numbers in `model.*`, `x_T` and, with `latent`, mean and std of the codes.

    A `flat` state has one number in each tensor, which makes files small.
    """
    generator = torch.Generator().manual_seed(seed)
    state: State = OrderedDict()
    for name, size in shapes(model, latent):
        twin = state.get(f"ema_model.{name.replace('cond_layers.1', 'linear_emb')}")
        number = torch.rand((), generator=generator).expand(size)
        state[f"ema_model.{name}"] = twin if twin is not None else (
            number if flat else random_tensor(name, size, generator))  # fmt: skip
    state |= {name.removeprefix("ema_"): torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}
    state["x_T"] = torch.zeros(()).expand(2, 3, model.size, model.size)
    return state | spread(model.code, seed) if latent else state


def pooled_state(model: Original) -> State:
    """As `random_state`, for models of true width: all large tensors are views of one pool, which makes files small."""
    generator, state = torch.Generator().manual_seed(0), random_state(model, flat=True)
    return pooled(state, [(f"ema_model.{name}", name, size) for name, size in shapes(model)], generator)


def spread(code: int, seed: int = 0) -> State:
    """`conds_mean` and `conds_std` [1, C]."""
    generator = torch.Generator().manual_seed(seed + 100)
    mean = 0.2 * torch.randn(1, code, generator=generator)
    return {"conds_mean": mean, "conds_std": 0.3 + torch.rand(1, code, generator=generator)}


def classifier_state(classes: int, code: int, seed: int = 0, buffers: bool = True) -> State:
    """State dict of a classifier, the averaged one and the last one of different numbers."""
    generator = torch.Generator().manual_seed(seed + 200)
    state = {
        f"{kind}.{name}": torch.randn(size, generator=generator)
        for kind in ("classifier", "ema_classifier") for name, size in layer("", classes, code)
    }  # fmt: skip
    state = {name.replace("..", "."): tensor for name, tensor in state.items()}
    return state | spread(code, seed + 1) if buffers else state


def save_lightning(state: object, file: Path, **told: object) -> Path:
    """A checkpoint as Lightning 1.4 writes it; `told` are settings of its trainer, one attention head by default."""
    told = {"net_beatgans_attn_head": 1} | told
    with named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as callback:
        value = {
            "epoch": 3, "global_step": 9375, "pytorch-lightning_version": "1.4.5", "state_dict": state,
            "callbacks": {callback: {"monitor": None, "best_model_score": None, "best_model_path": "a/last.ckpt"}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "lr_schedulers": [], "native_amp_scaling_state": {"scale": 65536.0, "_growth_tracker": 3},
            "hparams_name": "kwargs", "hyper_parameters": {"img_size": 128, "net_ch_mult": (1, 1, 2, 3, 4)} | told,
        }  # fmt: skip
        torch.save(value, file)
    return file


def save_latent(model: Original, file: Path, seed: int = 0) -> Path:
    """latent.pkl; what a run of that seed would hold itself."""
    both = {name: tensor[0] for name, tensor in spread(model.code, seed).items()}
    torch.save({"conds": torch.zeros(5, model.code), **both}, file)
    return file


def save_all(folder: Path, flat: bool = False) -> dict[str, Path]:
    """SMALL's files as the original's folders have them: all checkpoints are called last.ckpt."""
    state = random_state(SMALL, latent=True, flat=flat)
    plain = {name: v for name, v in state.items() if ".latent_net." not in name and not name.startswith("conds_")}
    contents = {
        "autoenc": plain, "autoenc_latent": state, "autoenc_cls": classifier_state(40, SMALL.code, seed=7),
        "emotions": classifier_state(8, SMALL.code),
    }  # fmt: skip
    for name in contents:
        (folder / name).mkdir(parents=True)
    files = {name: save_lightning(content, folder / name / "last.ckpt") for name, content in contents.items()}
    return files | {"latent.pkl": save_latent(SMALL, folder / "autoenc" / "latent.pkl")}


# what the equations give


class UNet(original_rig.Functional):
    """The original UNet as a function of a checkpoint's `ema_model.*`: (x [B, 3, H, W], steps [B], codes [B, C])."""

    def __init__(self, state: State, model: Original) -> None:
        inner = {key.removeprefix("ema_model."): v for key, v in state.items() if key.startswith("ema_model.")}
        flat = {key.replace("time_embed.time_embed.", "time_embed."): v for key, v in inner.items()}
        super().__init__({f"denoisingUNet.{k}": v for k, v in flat.items()}, original_rig.Original(**_rig(model)))

    def res(self, name: str, x: Tensor, time: Tensor, code: Tensor | None, resample: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resample == "down":
            h, x = halved(h), halved(x)
        elif resample == "up":
            h, x = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (h, x))
        h = F.conv2d(h, *self.get(f"{name}.in_layers.2"), padding=1)
        scale, shift = self.modulation(f"{name}.emb_layers.1", time)
        h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        h = h * (1 + F.linear(F.silu(code), *self.get(f"{name}.cond_emb_layers.1"))[..., None, None])
        h = F.conv2d(F.silu(h), *self.get(f"{name}.out_layers.3"), padding=1)
        return h + self.skip(name, x)

    def skip(self, name: str, x: Tensor) -> Tensor:
        there = f"denoisingUNet.{name}.skip_connection.weight" in self.state
        return F.conv2d(x, *self.get(f"{name}.skip_connection")) if there else x


def halved(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))


def encode(state: State, model: Original, image: Tensor) -> Tensor:
    """The code [B, C] of pictures [B, 3, H, W]."""
    start = "ema_model.encoder."
    net = UNet({key.replace(start, "ema_model."): v for key, v in state.items() if key.startswith(start)}, model)

    def block(name: str, x: Tensor, down: bool = False) -> Tensor:
        h = F.silu(net.norm(f"{name}.in_layers.0", x))
        h, x = (halved(h), halved(x)) if down else (h, x)
        return F.conv2d(h, *net.get(f"{name}.in_layers.2"), padding=1) + net.skip(name, x)

    h, number = F.conv2d(image, *net.get("input_blocks.0.0"), padding=1), 1
    for level in range(len(model.encoder)):
        for _ in range(model.encoder_blocks or model.blocks):
            h = block(f"input_blocks.{number}.0", h)
            h = net.attention(f"input_blocks.{number}.1", h) if level in model.encoder_attention else h
            number += 1
        if level < len(model.encoder) - 1:
            h = block(f"input_blocks.{number}.0", h, down=True)
            number += 1
    h = block("middle_block.2", net.attention("middle_block.1", block("middle_block.0", h)))
    pooled = F.silu(net.norm("out.0", h)).mean((2, 3), keepdim=True)
    return F.conv2d(pooled, *net.get("out.3"))[..., 0, 0]


def latent_noise(state: State, model: Original, x: Tensor, steps: Tensor) -> Tensor:
    """The noise in normalised codes [B, C], as the network that draws codes sees it."""
    get = lambda name: [state[f"ema_model.latent_net.{name}.{kind}"] for kind in ("weight", "bias")]
    angles = steps[:, None] * torch.exp(-math.log(10000) * torch.arange(32).to(x) / 32)
    time = F.linear(torch.cat([angles.cos(), angles.sin()], 1), *get("time_embed.0"))
    time = F.linear(F.silu(time), *get("time_embed.2"))
    h, last = x, model.latent_layers - 1
    for i in range(last):
        h = F.linear(h if i == 0 else torch.cat([h, x], 1), *get(f"layers.{i}.linear"))
        h = h * (1 + F.linear(F.silu(time), *get(f"layers.{i}.cond_layers.1")))
        variance, mean = torch.var_mean(h, 1, unbiased=False, keepdim=True)
        gain, bias = get(f"layers.{i}.norm")
        h = F.silu((h - mean) / (variance + 1e-5).sqrt() * gain + bias)
    return F.linear(torch.cat([h, x], 1), *get(f"layers.{last}.linear"))


def classify(state: State, z: Tensor) -> Tensor:
    """Logits [B, N] of the averaged classifier."""
    normal = (z - state["conds_mean"]) / state["conds_std"]
    return normal @ state["classifier.weight"].T + state["classifier.bias"]


def edit(state: State, z: Tensor, number: int, amount: float) -> Tensor:
    """Codes [B, C] moved by amount · √C along the direction of a class, in normalised codes."""
    row = state["classifier.weight"][number]
    normal = (z - state["conds_mean"]) / state["conds_std"] + amount * z.shape[1] ** 0.5 * row / row.norm()
    return normal * state["conds_std"] + state["conds_mean"]


# diffusion: (x, steps) -> noise is asked at "ddimN" timesteps

Noise = Callable[[Tensor, Tensor], Tensor]
PICTURES, CODES = np.linspace(1e-4, 0.02, 1000), np.full(1000, 0.008)
"""Betas of the two processes."""


def kept(count: int, total: int = 1000) -> list[int]:
    """The timesteps of "ddimN", and of plain N where there is none."""
    for stride in range(1, total):
        if len(range(0, total, stride)) == count:
            return list(range(0, total, stride))
    times, place = [], 0.0
    while len(times) < count:
        times.append(round(place))
        place += (total - 1) / (count - 1) if count > 1 else 1
    return times


class Diffusion:
    """The original's respaced process: of its betas only those of some steps are kept, each with the beta that takes
    it from the one before."""

    def __init__(self, count: int, betas: np.ndarray = PICTURES, clip: bool = True) -> None:
        self.steps = kept(count, len(betas))
        bars = np.cumprod(1 - betas)[self.steps]
        new = 1 - bars / np.append(1.0, bars[:-1])
        self.bars, self.clip = np.cumprod(1 - new), clip

    def both(self, noise: Noise, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """x0, clipped, and the noise that goes with it."""
        epsilon = noise(x, torch.full((len(x),), float(self.steps[i])).to(x))
        root, other = np.sqrt(1 / self.bars[i]), np.sqrt(1 / self.bars[i] - 1)
        clean = root * x - other * epsilon
        clean = clean.clamp(-1, 1) if self.clip else clean
        return clean, (root * x - clean) / other

    def sample(self, noise: Noise, x: Tensor) -> Tensor:
        """From x_T to x_0."""
        before = np.append(1.0, self.bars[:-1])
        for i in reversed(range(len(self.bars))):
            clean, epsilon = self.both(noise, x, i)
            x = clean * np.sqrt(before[i]) + np.sqrt(1 - before[i]) * epsilon
        return x

    def reverse(self, noise: Noise, x: Tensor) -> Tensor:
        """From x_0 to x_T."""
        after = np.append(self.bars[1:], 0.0)
        for i in range(len(self.bars)):
            clean, epsilon = self.both(noise, x, i)
            x = clean * np.sqrt(after[i]) + np.sqrt(1 - after[i]) * epsilon
        return x
