"""Stand-ins for DiffusionRig's checkpoints: tensors of the original names and shapes with random numbers, and what the
equations give for them, in plain functions of torch that know nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Iterator[tuple[str, tuple[int, ...]]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Original:
    """Hyper-parameters of a DiffusionRig model; the defaults are those of the released one (256 pixels)."""

    base: int = 128
    multipliers: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    code: int = 64
    latent: int = 64
    resnet: int = 18
    inputs: int = 12
    outputs: int = 3
    heads: int = 1
    head_channels: int | None = None
    new_order: bool = False
    embedding: int | None = None


SMALL = Original(base=32, multipliers=(1, 2, 3, 4), attention=(2,))
"""The layout for 64 pixels, a quarter as wide."""
TINY = Original(base=32, multipliers=(1, 2), blocks=1, attention=(1,))
"""Two levels, with self-attention at the second."""


def shapes(model: Original) -> Shapes:
    """Names and shapes of all tensors, in the original's order."""
    yield from (("denoisingUNet." + name, size) for name, size in unet_shapes(model))
    yield from (("encoder." + name, size) for name, size in encoder_shapes(model))


def unet_shapes(model: Original) -> Shapes:
    """The UNet's tensors."""
    time = model.embedding or 4 * model.base
    widths = [int(m * model.base) for m in model.multipliers]
    yield from layer("time_embed.0", time, model.base)
    yield from layer("time_embed.2", time, time)
    yield from layer("input_blocks.0.0", widths[0], model.inputs, 3, 3)
    skips, channels, number = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(model.blocks):
            yield from res(f"input_blocks.{number}.0", channels, width, time, model.code)
            if level in model.attention:
                yield from attention(f"input_blocks.{number}.1", width)
            channels, number = width, number + 1
            skips.append(width)
        if level < len(widths) - 1:
            yield from res(f"input_blocks.{number}.0", width, width, time, model.code)
            skips.append(width)
            number += 1
    yield from res("middle_block.0", channels, channels, time, model.code)
    yield from attention("middle_block.1", channels)
    yield from res("middle_block.2", channels, channels, time, model.code)
    number = 0
    for level, width in reversed(list(enumerate(widths))):
        for i in range(model.blocks + 1):
            yield from res(f"output_blocks.{number}.0", channels + skips.pop(), width, time, model.code)
            channels, after = width, 1
            if level in model.attention:
                yield from attention(f"output_blocks.{number}.1", width)
                after = 2
            if level and i == model.blocks:
                yield from res(f"output_blocks.{number}.{after}", width, width, time, model.code)
            number += 1
    yield from layer("out.0", channels)
    yield from layer("out.2", model.outputs, channels, 3, 3)


def layer(name: str, *weight: int) -> Shapes:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def res(name: str, inputs: int, outputs: int, time: int, code: int) -> Shapes:
    yield from layer(f"{name}.in_layers.0", inputs)
    yield from layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
    yield from layer(f"{name}.emb_layers.1", 2 * outputs, time)
    yield from layer(f"{name}.cond_emb_layers.1", 2 * outputs, code)
    yield from layer(f"{name}.out_layers.0", outputs)
    yield from layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
    if inputs != outputs:
        yield from layer(f"{name}.skip_connection", outputs, inputs, 1, 1)


def attention(name: str, width: int) -> Shapes:
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.qkv", 3 * width, width, 1)
    yield from layer(f"{name}.proj_out", width, width, 1)


def encoder_shapes(model: Original) -> Shapes:
    """The ResNet's tensors under torchvision's names."""
    deep = model.resnet == 50
    yield "conv1.weight", (64, 3, 7, 7)
    yield from batch_norm("bn1", 64)
    channels = 64
    for stage, depth in enumerate((3, 4, 6, 3) if deep else (2, 2, 2, 2)):
        width = 64 * 2**stage
        for i in range(depth):
            block, outputs = f"layer{stage + 1}.{i}", width * (4 if deep else 1)
            sides = ((width, channels, 1), (width, width, 3), (outputs, width, 1)) if deep else (
                (width, channels, 3), (width, width, 3))  # fmt: skip
            for k, (out, into, side) in enumerate(sides, 1):
                yield f"{block}.conv{k}.weight", (out, into, side, side)
                yield from batch_norm(f"{block}.bn{k}", out)
            if channels != outputs:
                yield f"{block}.downsample.0.weight", (outputs, channels, 1, 1)
                yield from batch_norm(f"{block}.downsample.1", outputs)
            channels = outputs
    yield from layer("fc", model.latent, channels)


def batch_norm(name: str, width: int) -> Shapes:
    yield from layer(name, width)
    yield f"{name}.running_mean", (width,)
    yield f"{name}.running_var", (width,)
    yield f"{name}.num_batches_tracked", ()


def random_state(model: Original, seed: int = 0, flat: bool = False) -> State:
    """All tensors at random, those too that the original starts at zero, of a size that keeps signals near 1.

    A `flat` encoder has one number in each tensor, which makes files small.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: random_tensor(name, size, generator, flat and "encoder." in name) for name, size in shapes(model)}


def pooled_state(model: Original) -> State:
    """As `random_state`, for models of true width: large tensors are views of one pool, which makes files small."""
    generator, state = torch.Generator().manual_seed(0), random_state(model, flat=True)
    return pooled(state, [(name, name, size) for name, size in shapes(model) if "encoder." not in name], generator)


def pooled(state: State, wanted: list[tuple[str, str, tuple[int, ...]]], generator: torch.Generator) -> State:
    """A state in which tensors (key, name, size) of more than one dimension are views of one pool."""
    pool = 0.03 * torch.randn(5_000_000, generator=generator)  # about one over the root of most layers' inputs
    for number, (key, name, size) in enumerate(wanted):
        count, start = math.prod(size), 97 * number
        view = pool[start : start + count].reshape(size) if len(size) > 1 else random_tensor(name, size, generator)
        state[key] = view
    return state


def random_tensor(name: str, size: tuple[int, ...], generator: torch.Generator, flat: bool = False) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if flat:
        return torch.rand((), generator=generator).expand(size)
    noise = torch.randn(size, generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.2 * noise.abs()
    if name.endswith("weight"):
        return noise / math.prod(size[1:]) ** 0.5 if len(size) > 1 else 1 + 0.1 * noise
    return 0.1 * noise


# what the equations give


class Functional:
    """The original UNet as functions of its tensors.

    Args:
        state: Tensors by their original names.
        model: What they were made from.
    """

    def __init__(self, state: State, model: Original) -> None:
        self.state, self.model = state, model

    def get(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"denoisingUNet.{name}.weight"], self.state[f"denoisingUNet.{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        """GroupNorm, written out: 32 groups of zero mean and unit variance."""
        groups = x.reshape(len(x), 32, -1)
        variance, mean = torch.var_mean(groups, 2, unbiased=False, keepdim=True)
        weight, bias = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in self.get(name))
        return ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape) * weight + bias

    def modulation(self, name: str, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift [B, C, 1, 1] each, from SiLU and a linear layer; the scale comes first."""
        both = F.linear(F.silu(vector), *self.get(name))[..., None, None]
        return both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]

    def res(self, name: str, x: Tensor, time: Tensor, code: Tensor | None, resample: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resample == "down":
            h, x = (v.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1)) for v in (h, x))
        elif resample == "up":
            h, x = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (h, x))
        h = F.conv2d(h, *self.get(f"{name}.in_layers.2"), padding=1)
        h = self.norm(f"{name}.out_layers.0", h)
        for layer_name, vector in (("emb_layers.1", time), ("cond_emb_layers.1", code)):
            if vector is not None:
                scale, shift = self.modulation(f"{name}.{layer_name}", vector)
                h = h * (1 + scale) + shift
        h = F.conv2d(F.silu(h), *self.get(f"{name}.out_layers.3"), padding=1)
        if f"denoisingUNet.{name}.skip_connection.weight" in self.state:
            x = F.conv2d(x, *self.get(f"{name}.skip_connection"))
        return x + h

    def attention(self, name: str, x: Tensor) -> Tensor:
        """Head by head: in the legacy order its rows of qkv follow each other, in the new one q, k and v do."""
        flat = x.flatten(2)
        width = flat.shape[1]
        qkv = F.conv1d(self.norm(f"{name}.norm", flat), *self.get(f"{name}.qkv"))
        size = self.model.head_channels or width // self.model.heads
        answers = []
        for head in range(width // size):
            starts = [head * size + width * i if self.model.new_order else (3 * head + i) * size for i in range(3)]
            q, k, v = (qkv[:, start : start + size] for start in starts)
            answers.append(v @ (q.mT @ k / size**0.5).softmax(-1).mT)
        h = F.conv1d(torch.cat(answers, 1), *self.get(f"{name}.proj_out"))
        return (flat + h).reshape(x.shape)

    def __call__(self, x: Tensor, step: Tensor, code: Tensor | None) -> Tensor:
        """[B, 12, H, W], steps [B], codes [B, Z] -> [B, 3, H, W]."""
        model = self.model
        half = model.base // 2
        angles = step[:, None] * torch.exp(-math.log(10000) * torch.arange(half).to(x) / half)
        time = F.linear(torch.cat([angles.cos(), angles.sin()], 1), *self.get("time_embed.0"))
        time = F.linear(F.silu(time), *self.get("time_embed.2"))
        levels, h = len(model.multipliers), F.conv2d(x, *self.get("input_blocks.0.0"), padding=1)
        skips, number = [h], 1
        for level in range(levels):
            for _ in range(model.blocks):
                h = self.res(f"input_blocks.{number}.0", h, time, code)
                h = self.attention(f"input_blocks.{number}.1", h) if level in model.attention else h
                skips.append(h)
                number += 1
            if level < levels - 1:
                h = self.res(f"input_blocks.{number}.0", h, time, code, "down")
                skips.append(h)
                number += 1
        h = self.res("middle_block.0", h, time, code)
        h = self.res("middle_block.2", self.attention("middle_block.1", h), time, code)
        number = 0
        for level in reversed(range(levels)):
            for i in range(model.blocks + 1):
                h, after = self.res(f"output_blocks.{number}.0", torch.cat([h, skips.pop()], 1), time, code), 1
                if level in model.attention:
                    h, after = self.attention(f"output_blocks.{number}.1", h), 2
                if level and i == model.blocks:
                    h = self.res(f"output_blocks.{number}.{after}", h, time, code, "up")
                number += 1
        return F.conv2d(F.silu(self.norm("out.0", h)), *self.get("out.2"), padding=1)


def encode(state: State, model: Original, image: Tensor) -> Tensor:
    """The ResNet's code [B, Z] of pictures [B, 3, H, W], with BatchNorm's stored statistics."""
    get = lambda name: state[f"encoder.{name}"]

    def conv(name: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = get(f"{name}.weight")
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, bias = (get(f"{norm}.{part}")[:, None, None] for part in parts)
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        short = conv(f"{name}.downsample.0", f"{name}.downsample.1", x, stride) if (
            f"encoder.{name}.downsample.0.weight" in state) else x  # fmt: skip
        if model.resnet == 50:
            h = conv(f"{name}.conv1", f"{name}.bn1", x).relu()
            h = conv(f"{name}.conv2", f"{name}.bn2", h, stride).relu()
            return (conv(f"{name}.conv3", f"{name}.bn3", h) + short).relu()
        h = conv(f"{name}.conv1", f"{name}.bn1", x, stride).relu()
        return (conv(f"{name}.conv2", f"{name}.bn2", h) + short).relu()

    h = F.max_pool2d(conv("conv1", "bn1", image, 2).relu(), 3, 2, 1)
    for stage, depth in enumerate((3, 4, 6, 3) if model.resnet == 50 else (2, 2, 2, 2)):
        for i in range(depth):
            h = block(f"layer{stage + 1}.{i}", h, 2 if stage and not i else 1)
    return F.linear(h.mean((2, 3)), get("fc.weight"), get("fc.bias"))
