"""Diffusion Autoencoders besides their UNet: the semantic encoder, and the network that draws codes from noise.

Preechakul et al., "Diffusion Autoencoders: Toward a Meaningful and Decodable Representation", CVPR 2022. The UNet is
`RigUNet` with cond_dim 512, cond_mode 'scale' and no condition pictures.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from .aligned import AlignedMixin
from .unet import self_attention

EPS = 1e-5  # of every GroupNorm


class SemanticEncoder(AlignedMixin, ModelMixin, ConfigMixin):
    """Photo [B, 3, H, W] in [-1, 1] -> semantic code z_sem [B, cond_dim]: half a UNet without time.

    The defaults are those of ffhq128 (24,673,536 parameters). Tensors are named as in UNet2DModel.

    Args:
        sample_size: Side it was trained at, pixels; other sides run.
        in_channels: Channels of the photo.
        block_out_channels: Width of each level; each level after the first halves the resolution.
        layers_per_block: Residual blocks a level, without the one that halves the resolution.
        attention_levels: Levels with self-attention, by number.
        norm_num_groups: Groups of every GroupNorm; must divide every width.
        cond_dim: Length of the code.
        unshuffle: Factor of a pixel-unshuffle stem; 1 is off.
        num_attention_heads: Heads of every self-attention; must divide the widths that have one.

    Raises:
        ValueError: Settings that contradict each other.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ["EncoderBlock", "Attention"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        in_channels: int = 3,
        block_out_channels: tuple[int, ...] = (128, 128, 256, 384, 512, 512),
        layers_per_block: int = 2,
        attention_levels: tuple[int, ...] = (3,),
        norm_num_groups: int = 32,
        cond_dim: int = 512,
        unshuffle: int = 1,
        num_attention_heads: int = 1,
    ) -> None:
        super().__init__()
        odd = [width for width in block_out_channels if width % norm_num_groups]
        if odd:
            raise ValueError(f"norm_num_groups {norm_num_groups} does not divide widths {odd}; choose another.")
        first, last, heads = block_out_channels[0], block_out_channels[-1], num_attention_heads
        attended = [width for level, width in enumerate(block_out_channels) if level in attention_levels] + [last]
        if heads < 1 or any(width % heads for width in attended):
            raise ValueError(f"num_attention_heads {heads} does not divide widths {attended}; choose another.")
        self.conv_in = nn.Conv2d(in_channels * unshuffle**2, first, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(block_out_channels):
            before = block_out_channels[max(level - 1, 0)]
            halves, own = level < len(block_out_channels) - 1, heads if level in attention_levels else 0
            self.down_blocks.append(EncoderLevel(before, width, layers_per_block, own, halves, norm_num_groups))
        self.mid_block = EncoderLevel(last, last, 2, 0, False, norm_num_groups)
        self.mid_block.attentions.append(self_attention(last, norm_num_groups, heads, EPS))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, last, EPS)
        self.proj_out = nn.Linear(last, cond_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Photos [B, 3, H, W] in [-1, 1] -> codes [B, cond_dim].

        Raises:
            ValueError: The photo is not [B, 3, H, W], or its sides cannot be halved often enough.
        """
        multiple = self.config.unshuffle * 2 ** (len(self.config.block_out_channels) - 1)
        if image.ndim != 4 or image.shape[1] != self.config.in_channels:
            raise ValueError(f"image has shape {list(image.shape)}; give RGB as [batch, 3, height, width].")
        if image.shape[2] % multiple or image.shape[3] % multiple:
            raise ValueError(f"image is {image.shape[2]} x {image.shape[3]}; make both sides multiples of {multiple}.")
        hidden = self.conv_in(F.pixel_unshuffle(image, self.config.unshuffle))
        for level in self.down_blocks:
            hidden = level(hidden)
        first, second = self.mid_block.resnets
        hidden = second(self.mid_block.attentions[0](first(hidden)))
        return self.proj_out(F.silu(self.conv_norm_out(hidden)).mean((2, 3)))


class EncoderLevel(nn.Module):
    """Residual blocks, each followed by self-attention with `heads` if any, then one that halves the resolution."""

    def __init__(self, inputs: int, width: int, layers: int, heads: int, halves: bool, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(EncoderBlock(inputs if i == 0 else width, width, groups) for i in range(layers))
        attentions = [self_attention(width, groups, heads, EPS) for _ in range(layers if heads else 0)]
        self.attentions = nn.ModuleList(attentions)
        self.downsamplers = nn.ModuleList([EncoderBlock(width, width, groups, down=True)] if halves else [])

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, width, H', W']."""
        for i, block in enumerate(self.resnets):
            hidden = block(hidden)
            if len(self.attentions):
                hidden = self.attentions[i](hidden)
        for block in self.downsamplers:
            hidden = block(hidden)
        return hidden


class EncoderBlock(nn.Module):
    """x -> shortcut(x) + conv(SiLU(GN(x))); one convolution, as nothing modulates a second one.

    `down` averages 2 x 2 pixels in both branches, before the convolution.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, down: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W], sides halved by `down`."""
        hidden = F.silu(self.norm1(x))
        if self.down:
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return shortcut + self.conv1(hidden)


class LatentNet(AlignedMixin, ModelMixin, ConfigMixin):
    """Predicts the noise in normalised codes [B, cond_dim]: a multilayer perceptron that sees its input at every layer.

    h_0 = x; h_{i+1} = SiLU(LN((W_i [h_i, x] + b_i) (1 + s_i))), s_i linear in SiLU(time embedding); the last layer is
    linear alone (Preechakul et al. 2022, appendix A). The defaults are those of ffhq128 and ffhq256 (54,109,696
    trainable parameters).

    Args:
        cond_dim: Length of the code.
        hidden: Width of the layers.
        num_layers: Layers, at least 2.
        time_channels: Width of the sinusoids of time.

    Attributes:
        mean, std: Of the codes that it was trained on [cond_dim], not trained; what it draws is (z - mean) / std.
    """

    @register_to_config
    def __init__(self, cond_dim: int = 512, hidden: int = 2048, num_layers: int = 10, time_channels: int = 64) -> None:
        super().__init__()
        self.time_proj = Timesteps(time_channels, True, 0)
        self.time_embedding = TimestepEmbedding(time_channels, cond_dim)
        self.layers = nn.ModuleList(
            LatentLayer(cond_dim if i == 0 else hidden + cond_dim, hidden, cond_dim) for i in range(num_layers - 1)
        )
        self.proj_out = nn.Linear(hidden + cond_dim, cond_dim)
        self.mean = nn.Parameter(torch.zeros(cond_dim), requires_grad=False)  # diffusers places parameters only
        self.std = nn.Parameter(torch.ones(cond_dim), requires_grad=False)

    def normalise(self, z: Tensor) -> Tensor:
        """Codes [B, cond_dim] as the encoder gives them -> normalised codes [B, cond_dim]."""
        return (z - self.mean) / self.std

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return z * self.std + self.mean

    def forward(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """Noisy codes [B, cond_dim] at training steps [] or [B] -> their noise [B, cond_dim]."""
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time = F.silu(self.time_embedding(self.time_proj(steps).to(sample)))
        hidden = sample
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden if i == 0 else torch.cat([hidden, sample], 1), time)
        return self.proj_out(torch.cat([hidden, sample], 1))


class LatentLayer(nn.Module):
    """SiLU(LN((W x + b) (1 + s))), s linear in the activated time embedding."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.time_proj = nn.Linear(time, outputs)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, inputs] and [B, time] -> [B, outputs]."""
        return F.silu(self.norm(self.linear(x) * (1 + self.time_proj(time))))
