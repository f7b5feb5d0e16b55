"""Stand-ins for the checkpoints of emotion latent diffusion: tensors of the original names and shapes with random
numbers, and what the equations give for them, in plain functions of torch that know nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


@dataclass(frozen=True)
class Original:
    """Hyper-parameters; the defaults are the published model's."""

    base: int = 160
    vq_base: int = 128
    codes: int = 16384
    token: int = 512


SMALL = Original(base=32, vq_base=32, codes=64, token=24)
HEAD, GROUPS, CLASSES = 32, 32, 8


# names and shapes


def conv(name: str, out: int, inputs: int, side: int = 3) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.weight", (out, inputs, side, side)), (f"{name}.bias", (out,)))


def linear(name: str, out: int, inputs: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, inputs)
    if bias:
        yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.weight", (width,)), (f"{name}.bias", (width,)))


def vq_block(name: str, inputs: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm1", inputs)
    yield from conv(f"{name}.conv1", out, inputs)
    yield from norm(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out)
    if inputs != out:
        yield from conv(f"{name}.nin_shortcut", out, inputs, 1)


def vq_attention(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.{part}", width, width, 1)


def vq_shapes(model: Original) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The autoencoder's tensors, in the sheet's order."""
    widths = [model.vq_base * factor for factor in (1, 2, 4)]
    top = widths[-1]
    for half, ends in (("encoder", (3, 3)), ("decoder", (3, 3))):
        first = widths[0] if half == "encoder" else top
        yield from conv(f"{half}.conv_in", first, ends[0])
        width = first
        levels = range(3) if half == "encoder" else reversed(range(3))
        stage, blocks, change = ("down", 2, "downsample") if half == "encoder" else ("up", 3, "upsample")
        for level in levels:
            for number in range(blocks):
                yield from vq_block(f"{half}.{stage}.{level}.block.{number}", width, widths[level])
                width = widths[level]
                if level == 2:
                    yield from vq_attention(f"{half}.{stage}.{level}.attn.{number}", width)
            if level != (2 if half == "encoder" else 0):
                yield from conv(f"{half}.{stage}.{level}.{change}.conv", width, width)
        yield from vq_block(f"{half}.mid.block_1", top, top)
        yield from vq_attention(f"{half}.mid.attn_1", top)
        yield from vq_block(f"{half}.mid.block_2", top, top)
        yield from norm(f"{half}.norm_out", top if half == "encoder" else widths[0])
        yield from conv(f"{half}.conv_out", ends[1], top if half == "encoder" else widths[0])
    yield from conv("quant_conv", 3, 3, 1)
    yield from conv("post_quant_conv", 3, 3, 1)
    yield "quantize.embedding.weight", (model.codes, 3)


def res_block(name: str, inputs: int, out: int, time: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.in_layers.0", inputs)
    yield from conv(f"{name}.in_layers.2", out, inputs)
    yield from linear(f"{name}.emb_layers.1", out, time)
    yield from norm(f"{name}.out_layers.0", out)
    yield from conv(f"{name}.out_layers.3", out, out)
    if inputs != out:
        yield from conv(f"{name}.skip_connection", out, inputs, 1)


def transformer(name: str, width: int, token: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm", width)
    yield from conv(f"{name}.proj_in", width, width, 1)
    inner = f"{name}.transformer_blocks.0"
    for attention, seen in (("attn1", width), ("attn2", token)):
        yield from linear(f"{inner}.{attention}.to_q", width, width, bias=False)
        yield from linear(f"{inner}.{attention}.to_k", width, seen, bias=False)
        yield from linear(f"{inner}.{attention}.to_v", width, seen, bias=False)
        yield from linear(f"{inner}.{attention}.to_out.0", width, width)
    yield from linear(f"{inner}.ff.net.0.proj", 8 * width, width)
    yield from linear(f"{inner}.ff.net.2", width, 4 * width)
    for number in (1, 2, 3):
        yield from norm(f"{inner}.norm{number}", width)
    yield from conv(f"{name}.proj_out", width, width, 1)


def unet_shapes(model: Original) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The UNet's tensors."""
    base, time = model.base, 4 * model.base
    widths = [base, 2 * base, 4 * base]
    yield from linear("time_embed.0", time, base)
    yield from linear("time_embed.2", time, time)
    yield from conv("input_blocks.0.0", base, 3)
    kept, width = [base], base
    for n in range(1, 9):
        level, slot = divmod(n - 1, 3)
        if slot == 2:
            yield from conv(f"input_blocks.{n}.0.op", width, width)
        else:
            yield from res_block(f"input_blocks.{n}.0", width, widths[level], time)
            width = widths[level]
            yield from transformer(f"input_blocks.{n}.1", width, model.token)
        kept.append(width)
    yield from res_block("middle_block.0", width, width, time)
    yield from transformer("middle_block.1", width, model.token)
    yield from res_block("middle_block.2", width, width, time)
    for n in range(9):
        out = widths[2 - n // 3]
        yield from res_block(f"output_blocks.{n}.0", width + kept.pop(), out, time)
        width = out
        yield from transformer(f"output_blocks.{n}.1", width, model.token)
        if n % 3 == 2 and n < 8:
            yield from conv(f"output_blocks.{n}.2.conv", width, width)
    yield from norm("out.0", base)
    yield from conv("out.2", 3, base)


def random_tensors(shapes: Iterator[tuple[str, tuple[int, ...]]], seed: int) -> State:
    """Numbers with which every tensor matters; norms are about 1 and biases about 0."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, size in shapes:
        drawn = torch.randn(size, generator=generator)
        if len(size) > 1:
            state[name] = drawn / math.sqrt(math.prod(size[1:])) if "embedding" not in name else drawn
        else:
            state[name] = 0.1 * drawn + float(name.endswith("weight"))
    return state


def alphas() -> Tensor:
    """Cumulative α of all 1,000 steps."""
    betas = torch.linspace(0.0015**0.5, 0.0205**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def random_state(model: Original = SMALL, seed: int = 0) -> State:
    """The state dict of a latent diffusion model; averaged and last weights differ."""
    raw = random_tensors(unet_shapes(model), seed)
    average = random_tensors(unet_shapes(model), seed + 1)
    buffers = (
        "betas", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
    )  # fmt: skip
    state = {name: torch.zeros(1000) for name in buffers} | {"alphas_cumprod": alphas()}
    state |= {f"model.diffusion_model.{name}": tensor for name, tensor in raw.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    state |= {f"model_ema.diffusion_model{name.replace('.', '')}": tensor for name, tensor in average.items()}
    state |= {f"first_stage_model.{name}": t for name, t in random_tensors(vq_shapes(model), seed + 2).items()}
    generator = torch.Generator().manual_seed(seed + 3)
    state["cond_stage_model.embedding.weight"] = torch.randn(CLASSES, model.token, generator=generator)
    state["cond_stage_model.uncond_embedding.weight"] = torch.randn(1, model.token, generator=generator)
    return state


def averaged(state: State, model: Original = SMALL) -> State:
    """The averaged UNet under the UNet's own names."""
    key = lambda name: f"model_ema.diffusion_model{name.replace('.', '')}"
    return {name: state[key(name)] for name, _ in unet_shapes(model)}


def save(state: State, file: Path) -> Path:
    """A checkpoint as Lightning writes it."""
    torch.save({"epoch": 25, "global_step": 311610, "pytorch-lightning_version": "1.4.2", "state_dict": state}, file)
    return file


# equations


class Net:
    """Tensors of one network, and its layers by name."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride, padding)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def group(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, GROUPS, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])


class Autoencoder(Net):
    """VQ-f4."""

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.group(f"{name}.norm1", x, 1e-6)))
        h = self.conv(f"{name}.conv2", F.silu(self.group(f"{name}.norm2", h, 1e-6)))
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        h = self.group(f"{name}.norm", x, 1e-6)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = (q.transpose(1, 2) @ k * x.shape[1] ** -0.5).softmax(-1)
        return x + self.conv(f"{name}.proj_out", (v @ weights.transpose(1, 2)).reshape(x.shape))

    def middle(self, half: str, x: Tensor) -> Tensor:
        return self.block(f"{half}.mid.block_2", self.attention(f"{half}.mid.attn_1",
                                                                self.block(f"{half}.mid.block_1", x)))  # fmt: skip

    def end(self, half: str, x: Tensor) -> Tensor:
        return self.conv(f"{half}.conv_out", F.silu(self.group(f"{half}.norm_out", x, 1e-6)))

    def encode(self, x: Tensor) -> Tensor:
        h = self.conv("encoder.conv_in", x)
        for level in range(3):
            for number in range(2):
                h = self.block(f"encoder.down.{level}.block.{number}", h)
                if level == 2:
                    h = self.attention(f"encoder.down.2.attn.{number}", h)
            if level < 2:
                h = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), 2, 0)
        return self.conv("quant_conv", self.end("encoder", self.middle("encoder", h)))

    def decode(self, z: Tensor) -> Tensor:
        codes = self.state["quantize.embedding.weight"]
        rows = z.permute(0, 2, 3, 1)
        nearest = (rows[..., None, :] - codes).square().sum(-1).argmin(-1)
        h = self.conv("decoder.conv_in", self.conv("post_quant_conv", codes[nearest].permute(0, 3, 1, 2)))
        h = self.middle("decoder", h)
        for level in (2, 1, 0):
            for number in range(3):
                h = self.block(f"decoder.up.{level}.block.{number}", h)
                if level == 2:
                    h = self.attention(f"decoder.up.2.attn.{number}", h)
            if level:
                h = self.conv(f"decoder.up.{level}.upsample.conv", F.interpolate(h, scale_factor=2.0))
        return self.end("decoder", h)


class Denoiser(Net):
    """latent-diffusion's UNet."""

    def time(self, t: int) -> Tensor:
        base = self.state["time_embed.0.weight"].shape[1]
        angles = t * torch.exp(-math.log(10000) * torch.arange(base // 2) / (base // 2))
        sinusoid = torch.cat([angles.cos(), angles.sin()])[None]
        return self.linear("time_embed.2", F.silu(self.linear("time_embed.0", sinusoid)))

    def block(self, name: str, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv(f"{name}.in_layers.2", F.silu(self.group(f"{name}.in_layers.0", x, 1e-5)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(time))[..., None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(self.group(f"{name}.out_layers.0", h, 1e-5)))
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.state else x)

    def attention(self, name: str, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (self.linear(f"{name}.to_{part}", source) for part, source in zip("qkv", (x, seen, seen)))
        heads = q.shape[-1] // HEAD
        split = lambda y: y.reshape(*y.shape[:2], heads, HEAD).transpose(1, 2)
        weights = (split(q) @ split(k).transpose(-1, -2) * HEAD**-0.5).softmax(-1)
        return self.linear(f"{name}.to_out.0", (weights @ split(v)).transpose(1, 2).reshape(x.shape))

    def transformer(self, name: str, x: Tensor, token: Tensor) -> Tensor:
        inner = f"{name}.transformer_blocks.0"
        h = self.conv(f"{name}.proj_in", self.group(f"{name}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
        own = self.layer_norm(f"{inner}.norm1", h)
        h = h + self.attention(f"{inner}.attn1", own, own)
        h = h + self.attention(f"{inner}.attn2", self.layer_norm(f"{inner}.norm2", h), token[:, None])
        value, gate = self.linear(f"{inner}.ff.net.0.proj", self.layer_norm(f"{inner}.norm3", h)).chunk(2, -1)
        h = h + self.linear(f"{inner}.ff.net.2", value * F.gelu(gate))
        return x + self.conv(f"{name}.proj_out", h.transpose(1, 2).reshape(x.shape))

    def __call__(self, x: Tensor, t: int, token: Tensor) -> Tensor:
        time = self.time(t)
        both = lambda name, h: self.transformer(f"{name}.1", self.block(f"{name}.0", h, time), token)
        h = self.conv("input_blocks.0.0", x)
        kept = [h]
        for n in range(1, 9):
            h = self.conv(f"input_blocks.{n}.0.op", h, 2) if n % 3 == 0 else both(f"input_blocks.{n}", h)
            kept.append(h)
        h = self.transformer("middle_block.1", self.block("middle_block.0", h, time), token)
        h = self.block("middle_block.2", h, time)
        for n in range(9):
            h = both(f"output_blocks.{n}", torch.cat([h, kept.pop()], 1))
            if n in (2, 5):
                h = self.conv(f"output_blocks.{n}.2.conv", F.interpolate(h, scale_factor=2.0))
        return self.conv("out.2", F.silu(self.group("out.0", h, 1e-5)))


Field = Callable[[Tensor, int], Tensor]


def taus(steps: int, strength: float) -> list[int]:
    """Timesteps, upwards."""
    last = int(1000 * strength)
    return [1] + [int(i / (steps - 1) * last) for i in range(1, steps)]


def guided(network: Callable[[Tensor, int, Tensor], Tensor], token: Tensor, null: Tensor, scale: float) -> Field:
    """Noise under one token, beyond the null class."""

    def field(x: Tensor, t: int) -> Tensor:
        under = network(x, t, token)
        if scale <= 1:
            return under
        without = network(x, t, null)
        return without + scale * (under - without)

    return field


def up(x: Tensor, field: Field, steps: int, strength: float) -> Tensor:
    """From a latent to noise level t0."""
    bars, times = alphas(), taus(steps, strength)
    for i, t in enumerate(times):
        level, before = bars[t], bars[times[i - 1]] if i else bars[0]
        noise = field(x, t)
        clean = (x - (1 - before).sqrt() * noise) / before.sqrt()
        x = level.sqrt() * clean + (1 - level).sqrt() * noise
    return x


def down(x: Tensor, field: Field, steps: int, strength: float) -> Tensor:
    """And back."""
    bars, times = alphas(), taus(steps, strength)
    for i in reversed(range(steps)):
        level, before = bars[times[i]], bars[times[i - 1]] if i else bars[0]
        noise = field(x, times[i])
        clean = (x - (1 - level).sqrt() * noise) / level.sqrt()
        x = before.sqrt() * clean + (1 - before).sqrt() * noise
    return x
