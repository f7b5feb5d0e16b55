"""The UNet of guided-diffusion (Dhariwal and Nichol 2021), as its tensors are named and shaped, to diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from torch import Tensor

from .files import ConvertError, load_exactly

Network = TypeVar("Network", bound=ModelMixin)

LAYERS = {
    "": "",
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "cond_emb_layers.1": "cond_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
}
"""Layer of an original block -> layer of diffusers' block; `qkv` becomes three."""

_KEY = re.compile(r"((?:(?:in|out)put_blocks\.\d+|middle_block|time_embed|out)\.\d+)(?:\.(.+))?\.(weight|bias)")


@dataclass(frozen=True)
class Heads:
    """How an original splits the channels of its self-attention, which its tensors do not tell.

    Attributes:
        count: Heads at every width (`num_heads`).
        channels: Channels a head (`num_head_channels`); `None` where `count` says it.
        new_order: Whether the rows of `qkv` are all of q, then k, then v (`use_new_attention_order`), instead of q, k
            and v of one head after the other.
    """

    count: int = 1
    channels: int | None = None
    new_order: bool = False

    def settings(self) -> dict[str, int]:
        """Arguments of RigUNet."""
        if self.channels is not None:
            return {"attention_head_dim": self.channels}
        return {"num_attention_heads": self.count} if self.count != 1 else {}

    def split(self, rows: Tensor) -> list[Tensor]:
        """The rows [3 C, ...] of `qkv` -> those of q, k and v [C, ...], heads one after the other in each.

        Rows that cannot be split so stay in one piece too many, which no network takes.
        """
        count = self.count if self.channels is None else len(rows) // 3 // self.channels
        if self.new_order or count < 2 or len(rows) % (3 * count):
            return list(rows.chunk(3))
        return [part.flatten(0, 1) for part in rows.unflatten(0, (count, 3, -1)).unbind(1)]


@dataclass(frozen=True)
class Layout:
    """The levels of an original UNet.

    Attributes:
        widths: Channels of each level.
        blocks: Residual blocks a level on the way down, without the one that halves the resolution.
        attention: Levels with self-attention.
    """

    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]

    def names(self) -> dict[str, str]:
        """Original block -> diffusers' block."""
        ends = {
            "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
            "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
            "middle_block.0": "mid_block.resnets.0", "middle_block.1": "mid_block.attentions.0",
            "middle_block.2": "mid_block.resnets.1",
        }  # fmt: skip
        return ends | dict(self._down()) | dict(self._up())

    def _down(self) -> Iterator[tuple[str, str]]:
        """Every level: its residual blocks, and unless it is the last a residual block that halves the resolution."""
        number = 1
        for level in range(len(self.widths)):
            for i in range(self.blocks):
                yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{i}"
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{i}"
                number += 1
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            number += 1

    def _up(self) -> Iterator[tuple[str, str]]:
        """From the deepest level: one residual block more; the last one's entry ends by doubling the resolution."""
        number = 0
        for depth, level in enumerate(reversed(range(len(self.widths)))):
            attended = level in self.attention
            for i in range(self.blocks + 1):
                yield f"output_blocks.{number}.0", f"up_blocks.{depth}.resnets.{i}"
                if attended:
                    yield f"output_blocks.{number}.1", f"up_blocks.{depth}.attentions.{i}"
                number += 1
            yield f"output_blocks.{number - 1}.{1 + attended}", f"up_blocks.{depth}.upsamplers.0"


def read_layout(tensors: Mapping[str, Tensor], file: Path) -> Layout:
    """The levels, from names and shapes of an original UNet's tensors.

    Every level has as many entries on the way down as on the way up, so their number alone tells the product of
    levels and blocks; the residual blocks that double the resolution, one for each level but one, tell the levels.

    Raises:
        ConvertError: Another layout, or a tensor that every such network has is missing.
    """
    plain = next((key for key in tensors if re.match(r"(in|out)put_blocks\.\d+\.\d+\.(op|conv)\.", key)), None)
    if plain is not None:
        raise ConvertError(
            f"'{file}' was trained without resblock_updown (it has {plain}): give a model trained with it, as plain "
            "convolutions between levels are not supported."
        )
    entries = {int(m[1]) for m in (re.match(r"output_blocks\.(\d+)\.0\.", key) for key in tensors) if m}
    ups = [key for key in tensors if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.2\.weight", key)]
    levels = 1 + len(ups)
    blocks = len(entries) // levels - 1
    down = {m[1] for m in (re.match(r"input_blocks\.(\d+)\.0\.", key) for key in tensors) if m}
    if blocks < 1 or len(entries) % levels or len(down) != len(entries):
        raise ConvertError(
            f"'{file}' holds no complete UNet of guided-diffusion with resblock_updown ({len(down)} input_blocks and "
            f"{len(entries)} output_blocks for {levels} levels): other layouts are not supported."
        )
    return _layout(tensors, levels, blocks, file)


def read_half_layout(tensors: Mapping[str, Tensor], blocks: int, file: Path) -> Layout:
    """The levels of half a UNet, which has no way up that tells them: `blocks` residual blocks each.

    Raises:
        ConvertError: A tensor that every such network has is missing, or the entries make up no such levels.
    """
    entries = {int(m[1]) for m in (re.match(r"input_blocks\.(\d+)\.0\.", key) for key in tensors) if m}
    if not entries or entries != set(range(len(entries))) or len(entries) % (blocks + 1):
        raise ConvertError(
            f"'{file}' holds no complete encoder ({len(entries)} input_blocks for levels of {blocks} blocks each): "
            "other layouts are not supported."
        )
    return _layout(tensors, len(entries) // (blocks + 1), blocks, file)


def _layout(tensors: Mapping[str, Tensor], levels: int, blocks: int, file: Path) -> Layout:
    """Widths and attention, as the first block of each level has them."""
    first = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = tuple(size_of(tensors, f"{block}.0.in_layers.2.weight", 4, file)[0] for block in first)
    return Layout(widths, blocks, tuple(level for level in range(levels) if f"{first[level]}.1.qkv.weight" in tensors))


def rename(tensors: Mapping[str, Tensor], layout: Layout, heads: Heads) -> dict[str, Tensor]:
    """Tensors of an original UNet under diffusers' names; what has no place there keeps its name.

    The 1-D convolutions of attention lose their last dimension of 1, and `qkv` is split.
    """
    blocks, renamed = layout.names(), {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        block, layer, kind = match.groups("") if match else ("", "", "")
        target = blocks.get(block)
        if layer in ("qkv", "proj_out") and tensor.ndim == 3 and tensor.shape[2] == 1:
            tensor = tensor[..., 0]
        if target is not None and layer == "qkv" and tensor.ndim:
            renamed |= {f"{target}.to_{x}.{kind}": part for x, part in zip("qkv", heads.split(tensor), strict=False)}
        elif target is not None and layer in LAYERS:
            renamed[".".join(filter(None, (target, LAYERS[layer], kind)))] = tensor
        else:
            renamed[key] = tensor
    return renamed


def settings_of(tensors: Mapping[str, Tensor], layout: Layout, heads: Heads, file: Path) -> dict[str, Any]:
    """Arguments of RigUNet that an original UNet's tensors tell, the heads, and the dropout that both originals train
    with.

    Raises:
        ConvertError: Another layout, or a tensor that every such network has is missing.
    """
    embedded, base = size_of(tensors, "time_embed.0.weight", 2, file)
    first = "input_blocks.1.0"
    if size_of(tensors, f"{first}.emb_layers.1.weight", 2, file)[0] != 2 * layout.widths[0]:
        raise ConvertError(
            f"'{file}' was trained without use_scale_shift_norm: give a model trained with it, as blocks that time "
            "only shifts are not supported."
        )
    return heads.settings() | {
        "block_out_channels": layout.widths,
        "layers_per_block": layout.blocks,
        "attention_levels": layout.attention,
        "cond_dim": size_of(tensors, f"{first}.cond_emb_layers.1.weight", 2, file)[1],
        "dropout": 0.1,
        "time_channels": None if base == layout.widths[0] else base,
        "time_embedding_dim": None if embedded == 4 * base else embedded,
    }


def size_of(tensors: Mapping[str, Tensor], name: str, dimensions: int, file: Path) -> tuple[int, ...]:
    """Size of a tensor with so many dimensions; ConvertError where there is none."""
    if name not in tensors or tensors[name].ndim != dimensions:
        raise ConvertError(
            f"'{file}' has no usable tensor {name}: it is incomplete, or of a variant that is not supported."
        )
    return tuple(tensors[name].shape)


def filled(
    kind: type[Network], config: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path, system: str
) -> Network:
    """A network with exactly these tensors, which must be all that it holds, in float32 and ready for inference.

    Raises:
        ConvertError: Settings that contradict each other, as no network of `system` has them, or as `load_exactly`.
    """
    try:
        with torch.device("meta"):  # numbers to start from would take seconds
            module = kind(**config)
    except ValueError as error:
        raise ConvertError(f"The network in '{file}' has no layout of {system}: {error}") from error
    load_exactly(module.to_empty(device="cpu"), tensors, file)
    return module.requires_grad_(False).eval()
