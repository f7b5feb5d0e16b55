"""RigUNet: the denoising network, steered by pictures (channels) and by a code of the photo (modulation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn
from torch.nn import functional as F

from .aligned import AlignedMixin

COND_MODES = {"scale_shift": 2, "scale": 1}
"""Modulation by the code -> numbers per channel that `cond_emb_proj` gives."""

_DOWN_BLOCKS = {"resnet": "ResnetDownsampleBlock2D", "conv": "DownBlock2D"}
_UP_BLOCKS = {"resnet": "ResnetUpsampleBlock2D", "conv": "UpBlock2D"}


class ConditionedResnetBlock2D(ResnetBlock2D):
    """A residual block modulated twice after its second GroupNorm: by time, then by a code z [B, cond_dim].

    h <- GN(h) (1 + s_t) + b_t;  h <- h (1 + s_z) + b_z  ('scale_shift', DiffusionRig, Ding et al. 2023)
    or h <- h (1 + s_z) ('scale', Diffusion Autoencoders, Preechakul et al. 2022); s_z, b_z linear in SiLU(z).
    `temb` carries both: [B, T] is the time embedding alone (second step skipped), [B, T + cond_dim] has z
    appended. `cond_emb_proj` starts at zero, so that an untrained code changes nothing.
    """

    time_emb_proj: nn.Linear
    upsample: nn.Module
    downsample: nn.Module

    def __init__(self, *, cond_dim: int, cond_mode: str, **block_arguments: Any) -> None:
        super().__init__(**block_arguments)
        self.cond_emb_proj = nn.Linear(cond_dim, COND_MODES[cond_mode] * self.out_channels)
        nn.init.zeros_(self.cond_emb_proj.weight)
        nn.init.zeros_(self.cond_emb_proj.bias)

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H', W'], sides doubled (up) or halved (down)."""
        hidden = self.conv1(self._resample(self.nonlinearity(self.norm1(input_tensor))))
        hidden = self._modulate(self.norm2(hidden), temb)
        hidden = self.conv2(self.dropout(self.nonlinearity(hidden)))
        shortcut = self._resample(input_tensor)
        if self.conv_shortcut is not None:
            shortcut = self.conv_shortcut(shortcut)
        return (shortcut + hidden) / self.output_scale_factor

    def _resample(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.up:
            return self.upsample(hidden)
        return self.downsample(hidden) if self.down else hidden

    def _modulate(self, hidden: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        time_width = self.time_emb_proj.in_features
        active = self.nonlinearity(temb)
        hidden = _scale_shift(hidden, self.time_emb_proj(active[:, :time_width]))
        if temb.shape[1] == time_width:
            return hidden
        return _scale_shift(hidden, self.cond_emb_proj(active[:, time_width:]))


def _scale_shift(hidden: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """hidden [B, C, H, W] (1 + s) + b, where factors is [B, 2C] = [s, b] or [B, C] = [s]."""
    scale, *shift = factors[:, :, None, None].split(hidden.shape[1], dim=1)
    hidden = hidden * (1 + scale)
    return hidden + shift[0] if shift else hidden


def _conditioned(block: ResnetBlock2D, cond_dim: int, cond_mode: str, time_width: int) -> ConditionedResnetBlock2D:
    return ConditionedResnetBlock2D(
        cond_dim=cond_dim,
        cond_mode=cond_mode,
        in_channels=block.in_channels,
        out_channels=block.out_channels,
        temb_channels=time_width,
        dropout=block.dropout.p,
        groups=block.norm1.num_groups,
        eps=block.norm1.eps,
        time_embedding_norm=block.time_embedding_norm,
        output_scale_factor=block.output_scale_factor,
        up=block.up,
        down=block.down,
    )


def _condition_blocks(module: nn.Module, cond_dim: int, cond_mode: str, time_width: int) -> None:
    """Replace every ResnetBlock2D below `module`, keeping its place and therefore its tensor names."""
    for name, child in list(module.named_children()):
        if isinstance(child, ResnetBlock2D):
            module.add_module(name, _conditioned(child, cond_dim, cond_mode, time_width))
        else:
            _condition_blocks(child, cond_dim, cond_mode, time_width)


def self_attention(width: int, groups: int, heads: int = 1, eps: float = 1e-5) -> Attention:
    """Self-attention [B, width, H, W] -> the same, as diffusers' AttnDownBlock2D builds it, with so many heads."""
    return Attention(
        width, heads=heads, dim_head=width // heads, eps=eps, norm_num_groups=groups, residual_connection=True,
        bias=True, upcast_softmax=True, _from_deprecated_attn_block=True,
    )  # fmt: skip


def _divide_attention(module: nn.Module, groups: int, heads: int) -> None:
    """Replace every Attention below `module` by one with so many heads, keeping its place and tensor names."""
    for name, child in list(module.named_children()):
        if isinstance(child, Attention):
            module.add_module(name, self_attention(child.inner_dim, groups, heads))
        else:
            _divide_attention(child, groups, heads)


def _attention_flags(levels: Sequence[bool | int], count: int) -> list[bool]:
    """One flag a level, from flags ([False, True]) or from level numbers ([1])."""
    if len(levels) > 0 and all(isinstance(level, bool) for level in levels):
        if len(levels) != count:
            raise ValueError(f"attention_levels has {len(levels)} flags; give one for each of {count}.")
        return [bool(level) for level in levels]
    if any(isinstance(level, bool) or not 0 <= level < count for level in levels):
        raise ValueError(
            f"attention_levels {list(levels)} must be all flags or all level numbers from 0 to {count - 1}."
        )
    return [level in levels for level in range(count)]


def _choose(table: Mapping[str, Any], name: str, value: str) -> Any:
    if value not in table:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, table))}.")
    return table[value]


def _check_heads(attended: Sequence[int], head_dim: int | None, heads: int | None) -> None:
    if head_dim and heads:
        raise ValueError("attention_head_dim and num_attention_heads exclude each other: give one of them.")
    odd = [width for width in attended if head_dim and width % head_dim]
    if odd:
        raise ValueError(f"attention_head_dim {head_dim} does not divide {odd}; use None for one head.")
    odd = [width for width in attended if heads and width % heads]
    if odd or (heads is not None and heads < 1):
        raise ValueError(f"num_attention_heads {heads} does not divide {odd or attended}; use None for one head.")


def _check_widths(widths: Sequence[int], groups: int, unshuffle: int) -> None:
    if unshuffle < 1:
        raise ValueError(f"unshuffle is {unshuffle}; use 1 (off) or the stem's factor, such as 2.")
    odd = [width for width in widths if width % groups]
    if odd:
        raise ValueError(f"norm_num_groups {groups} does not divide widths {odd}; choose a common divisor.")


class RigUNet(AlignedMixin, ModelMixin, ConfigMixin):
    """UNet of DiffusionRig, of the 314-wide variant, of Diffusion Autoencoders and of the open default.

    The defaults are DiffusionRig's at 256 (133,400,835 parameters). The network is diffusers' UNet2DModel,
    tensor names included, plus a `cond_emb_proj` in every residual block. Fresh weights start with a zero
    output convolution and zero `cond_emb_proj`; loading replaces them.

    Args:
        sample_size: height and width (or one number) it was trained at, in pixels; any size that
            `size_multiple` divides runs.
        in_channels: channels of the input: noisy sample and condition pictures together.
        out_channels: channels of the prediction.
        block_out_channels: width of each level; each level after the first halves the resolution.
        layers_per_block: residual blocks a level (one more on the way up).
        attention_levels: levels with self-attention, as level numbers or as one flag a level.
        mid_attention: self-attention in the middle block.
        attention_head_dim: channels a head; None is one head at every width, as in the originals.
        norm_num_groups: groups of every GroupNorm; must divide every width.
        dropout: probability inside residual blocks (the originals train with 0.1).
        downsample_type, upsample_type: 'resnet' (a residual block resamples, the originals) or 'conv'.
        cond_dim: width of the code z; None builds the network without the second modulation.
        cond_mode: 'scale_shift' (DiffusionRig) or 'scale' (Diffusion Autoencoders).
        unshuffle: factor of a pixel-unshuffle stem (and pixel-shuffle end); 1 is off, 2 quarters the work.
        sample_channels: how many of `in_channels` are the noisy sample. Read by pipelines only.
        condition_channels: names of the condition pictures, in channel order. Read by pipelines only.
        time_channels: width of the sinusoids of time; None is the width of the first level (guided-diffusion's
            layout for 512 pixels has twice that).
        time_embedding_dim: width of their embedding; None is four times theirs (Diffusion Autoencoders: always 512).
        num_attention_heads: heads at every width, instead of attention_head_dim.

    Raises:
        ValueError: settings that contradict each other.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["norm"]
    _no_split_modules = [
        "ConditionedResnetBlock2D", "ResnetBlock2D", "Attention", "AttnUpBlock2D", *_UP_BLOCKS.values()
    ]  # fmt: skip

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 256,
        in_channels: int = 12,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (128, 128, 256, 256, 512, 512),
        layers_per_block: int = 2,
        attention_levels: tuple[bool | int, ...] = (4,),
        mid_attention: bool = True,
        attention_head_dim: int | None = None,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        downsample_type: str = "resnet",
        upsample_type: str = "resnet",
        cond_dim: int | None = 64,
        cond_mode: str = "scale_shift",
        unshuffle: int = 1,
        sample_channels: int = 3,
        condition_channels: tuple[str, ...] = ("rendered", "normal", "albedo"),
        time_channels: int | None = None,
        time_embedding_dim: int | None = None,
        num_attention_heads: int | None = None,
    ) -> None:
        super().__init__()
        _choose(COND_MODES, "cond_mode", cond_mode)
        core, time = self._plain_unet(), time_channels or block_out_channels[0]
        embedded = time_embedding_dim or 4 * time
        if cond_dim is not None:
            core.time_proj, core.time_embedding = Timesteps(time, True, 0), TimestepEmbedding(time, embedded)
            _condition_blocks(core, cond_dim, cond_mode, embedded)
        elif (time, embedded) != (block_out_channels[0], 4 * block_out_channels[0]):
            raise ValueError(
                "time_channels and time_embedding_dim need a network that takes a code: give cond_dim, or leave them "
                "out."
            )
        if num_attention_heads is not None:
            _divide_attention(core, norm_num_groups, num_attention_heads)
        # The children are adopted one by one, not kept under one name, so that tensor names stay diffusers'.
        for name, child in core.named_children():
            self.add_module(name, child)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def _plain_unet(self) -> UNet2DModel:
        config = self.config
        widths = tuple(config.block_out_channels)
        flags = _attention_flags(config.attention_levels, len(widths))
        attended = [width for width, flag in zip(widths, flags, strict=True) if flag]
        attended += [widths[-1]] if config.mid_attention else []
        _check_widths(widths, config.norm_num_groups, config.unshuffle)
        _check_heads(attended, config.attention_head_dim, config.num_attention_heads)
        down = _choose(_DOWN_BLOCKS, "downsample_type", config.downsample_type)
        up = _choose(_UP_BLOCKS, "upsample_type", config.upsample_type)
        return UNet2DModel(
            in_channels=config.in_channels * config.unshuffle**2,
            out_channels=config.out_channels * config.unshuffle**2,
            block_out_channels=widths,
            layers_per_block=config.layers_per_block,
            down_block_types=tuple("AttnDownBlock2D" if flag else down for flag in flags),
            up_block_types=tuple("AttnUpBlock2D" if flag else up for flag in reversed(flags)),
            add_attention=config.mid_attention,
            attention_head_dim=config.attention_head_dim,
            norm_num_groups=config.norm_num_groups,
            attn_norm_num_groups=config.norm_num_groups,
            norm_eps=1e-5,
            dropout=config.dropout,
            downsample_type=config.downsample_type,
            upsample_type=config.upsample_type,
            resnet_time_scale_shift="scale_shift",
            flip_sin_to_cos=True,
            freq_shift=0,
        )

    @property
    def size_multiple(self) -> int:
        """Height and width of the input must be multiples of this many pixels."""
        return self.config.unshuffle * 2 ** (len(self.config.block_out_channels) - 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        cond: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Predict noise, velocity or sample, whatever the scheduler says the weights were trained for.

        Args:
            sample: [B, in_channels, H, W], noisy sample first, then the condition pictures, in [-1, 1].
            timestep: one for the batch, or a tensor [] or [B], in the scheduler's training steps.
            cond: the code z [B, cond_dim]; None skips the second modulation.
            return_dict: False returns a tuple.

        Returns:
            UNet2DOutput with `sample` [B, out_channels, H, W], or a tuple of it.

        Raises:
            ValueError: wrong channel count, size, timestep shape or code shape.
        """
        self._check_sample(sample)
        embedding = self._embed(timestep, cond, sample)
        hidden = F.pixel_unshuffle(sample, self.config.unshuffle)
        hidden = self.conv_in(hidden)
        hidden = self._walk(hidden, embedding)
        hidden = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        output = F.pixel_shuffle(hidden, self.config.unshuffle)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _walk(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Down, middle and up, with skip connections."""
        skips = (hidden,)
        for block in self.down_blocks:
            hidden, states = block(hidden, embedding)
            skips += states
        hidden = self.mid_block(hidden, embedding)
        for block in self.up_blocks:
            count = len(block.resnets)
            hidden = block(hidden, skips[-count:], embedding)
            skips = skips[:-count]
        return hidden

    def _embed(
        self, timestep: float | torch.Tensor, cond: torch.Tensor | None, sample: torch.Tensor
    ) -> torch.Tensor:
        """Time embedding with the code appended: one vector, which diffusers' blocks pass on untouched."""
        batch = sample.shape[0]
        steps = torch.as_tensor(timestep, device=sample.device)
        if steps.shape not in ((), (1,), (batch,)):
            raise ValueError(f"timestep has shape {list(steps.shape)}; give one number or {batch} of them.")
        time = self.time_embedding(self.time_proj(steps.expand(batch)).to(self.dtype))
        if cond is None:
            return time
        self._check_cond(cond, batch)
        return torch.cat([time, cond.to(time)], dim=1)

    def _check_sample(self, sample: torch.Tensor) -> None:
        channels, multiple = self.config.in_channels, self.size_multiple
        if sample.ndim != 4 or sample.shape[1] != channels:
            raise ValueError(
                f"sample has shape {list(sample.shape)}; this network takes [batch, {channels}, height, "
                f"width]: the noisy sample and {', '.join(self.config.condition_channels)}."
            )
        height, width = sample.shape[2:]
        if height % multiple or width % multiple:
            raise ValueError(f"sample is {height} x {width}; make both sides multiples of {multiple}.")

    def _check_cond(self, cond: torch.Tensor, batch: int) -> None:
        width = self.config.cond_dim
        if width is None:
            raise ValueError("This network takes no code (cond_dim is None); call it with cond=None.")
        if cond.shape != (batch, width):
            raise ValueError(f"cond has shape {list(cond.shape)}; this network takes [{batch}, {width}].")
