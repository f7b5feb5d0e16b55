"""EmocaEncoder: face codes by one pass of a network over a face crop; DECA's and EMOCA's coarse encoders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from ..face.codes import FaceCodes
from .aligned import AlignedMixin
from .head import HeadModel
from .landmark_fit import FitResult, compare
from .resnet import ResNetTrunk

BACKBONES = ("resnet50", "resnet18", "small")
EXPRESSION_POSES = {"none": 0, "jaw": 3, "global": 3, "both": 6}
"""What of the pose the expression encoder replaces, and how many numbers that is."""
CROPS = ("aligned", "deca")
BRANCHES = ("deca", "emoca")
"""Whose codes to give: DECA's are all E_flame's, EMOCA's have E_expression's expression."""

_SMALL = ((2, 32, 2, 2), (4, 64, 3, 2), (4, 128, 3, 2))  # expansion, channels, blocks, stride of the first
_SMALL_STEM, _SMALL_FEATURES = 24, 384
_SMALL_STRIDE = 16


class EmocaEncoder(AlignedMixin, ModelMixin, ConfigMixin):
    """Codes from a picture: DECA (Feng et al. 2021); with a second trunk for expression EMOCA (Daněček et al. 2022).

    The defaults are EMOCA's published layout, `E_flame.encoder.*`, `E_flame.layers.{0,2}.*` and the same under
    `E_expression`: 318 + 4 tensors each. A trunk's features pass two linear layers, whose outputs are in this
    order: shape, texture, expression, global pose, jaw, camera, light. RGB comes as it is, without ImageNet's mean
    and deviation. Call `eval()` for inference (`from_pretrained` does).

    Args:
        backbone: 'resnet50', 'resnet18', or 'small' for a mobile-style network of under a million parameters.
        hidden: Width between the two linear layers.
        num_shape, num_texture, num_expression: Lengths of the codes S, T, E.
        image_size: Side of the crop the network sees, pixels; a multiple of 16 for 'small'.
        expression_encoder: False is DECA; True lets `E_expression` replace the expression.
        expression_pose: What of the pose `E_expression` replaces too: 'none', 'jaw', 'global' or 'both'.
        shared_trunk: `E_expression` has only its linear layers, on the features of E_flame's trunk.
        calibrated: Outputs are relative to the mean and spread of the training codes, and the range of units on
            relaxed faces is known; False is as published.
        crop: The frame of crop and camera: 'aligned' is `resample.align`'s, 'deca' DECA's own.

    Raises:
        ValueError: An unknown choice, or a size that the small backbone cannot take.
    """

    _keep_in_fp32_modules = ["mean", "spread", "neutral_low", "neutral_high"]

    @register_to_config
    def __init__(
        self,
        backbone: str = "resnet50",
        hidden: int = 1024,
        num_shape: int = 100,
        num_texture: int = 50,
        num_expression: int = 50,
        image_size: int = 224,
        expression_encoder: bool = True,
        expression_pose: str = "none",
        shared_trunk: bool = False,
        calibrated: bool = False,
        crop: str = "deca",
    ) -> None:
        super().__init__()
        _choose("backbone", backbone, BACKBONES)
        _choose("expression_pose", expression_pose, tuple(EXPRESSION_POSES))
        _choose("crop", crop, CROPS)
        self.sizes = (num_shape, num_texture, num_expression, 6, 3, 27)
        self.E_flame = CodeRegressor(build_trunk(backbone, image_size), hidden, sum(self.sizes), calibrated)
        if expression_encoder:
            trunk = None if shared_trunk else build_trunk(backbone, image_size)
            outputs = num_expression + EXPRESSION_POSES[expression_pose]
            self.E_expression = CodeRegressor(trunk, hidden, outputs, calibrated, self.E_flame.num_features)
        if calibrated:
            for name in ("neutral_low", "neutral_high"):
                self.register_parameter(name, nn.Parameter(torch.zeros(num_expression), requires_grad=False))

    @property
    def crop(self) -> str:
        """The frame of crop, points and camera, one of CROPS."""
        return self.config.crop

    @property
    def branches(self) -> tuple[str, ...]:
        """Those of BRANCHES whose codes this encoder can give."""
        return BRANCHES if self.config.expression_encoder else BRANCHES[:1]

    def forward(self, image: Tensor, branch: str | None = None) -> FaceCodes:
        """Codes of cropped faces.

        Args:
            image: Crops [B, 3, S, S], RGB in [0, 1], S the configured image size.
            branch: 'deca' for all codes from E_flame, 'emoca' to want E_expression's; `None` for the checkpoint's own,
                which is 'emoca' where there is an E_expression.

        Returns:
            Codes [B, ...]; the jaw's rotation is an axis-angle as the head's.

        Raises:
            ValueError: The crops have another size, or this encoder has no such branch.
        """
        self._check_branch(branch)
        side = self.config.image_size
        if image.ndim != 4 or image.shape[1:] != (3, side, side):
            raise ValueError(f"image has shape {list(image.shape)}; give crops as [batch, 3, {side}, {side}].")
        features = self.E_flame.encoder(image)
        shape, texture, expression, pose, camera, light = self.E_flame(features).split(self.sizes, 1)
        if self.config.expression_encoder and branch != "deca":
            own = features if self.config.shared_trunk else self.E_expression.encoder(image)
            expression, extra = self.E_expression(own).tensor_split((self.config.num_expression,), 1)
            pose = self._replace_pose(pose, extra)
        return FaceCodes(shape, expression, pose, camera, light.unflatten(1, (9, 3)), texture)

    def _check_branch(self, branch: str | None) -> None:
        if branch is not None:
            _choose("branch", branch, BRANCHES)
        if branch == "emoca" and "emoca" not in self.branches:
            raise ValueError("This encoder is DECA alone, without E_expression: take branch 'deca', or convert EMOCA.")

    def _replace_pose(self, pose: Tensor, extra: Tensor) -> Tensor:
        """Pose [B, 6] with the part that the expression encoder gives instead."""
        match self.config.expression_pose:
            case "jaw":
                return torch.cat([pose[:, :3], extra], 1)
            case "global":
                return torch.cat([extra, pose[:, 3:]], 1)
            case "both":
                return extra
        return pose

    @torch.no_grad()
    def fit(
        self,
        head: HeadModel,
        points: np.ndarray,
        scores: dict[str, float],
        crop: Callable[[int], Tensor],
        branch: str | None = None,
        shape: Tensor | None = None,
    ) -> FitResult:
        """Codes of one face from its crop, with what they leave over of the detected landmarks.

        Args:
            head: Head with as many shape and expression coefficients, and a landmark embedding.
            points: Detected landmarks [N, 2+] in normalised device coordinates of this encoder's own `crop`.
            scores: Blendshape scores; not looked at.
            crop: Gives this encoder's own crop, of a side in pixels, as [1, 3, side, side] in [0, 1].
            branch: As for `forward`.
            shape: The person's shape [1, S] where it is known; it replaces what the network sees.

        Raises:
            ValueError: If there are too few landmarks, or this encoder has no such branch.
        """
        image = crop(self.config.image_size).to(self.device, self.dtype)
        codes = self(image, branch).to("cpu", torch.float32)
        return compare(head, codes if shape is None else codes.with_(shape=shape), points)

    @property
    def relaxed_range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of every unit on relaxed faces [E]; zeros where that is not known."""
        if not self.config.calibrated:
            zeros = torch.zeros(self.config.num_expression)
            return zeros, zeros
        return self.neutral_low.cpu(), self.neutral_high.cpu()

    @torch.no_grad()
    def calibrate(self, mean: FaceCodes, spread: FaceCodes, low: Tensor, high: Tensor) -> None:
        """Set what `calibrated` encoders know of their training codes.

        Args:
            mean, spread: Mean and standard deviation of every code [1, ...]; a code of spread 0 stays at its mean.
            low, high: Range of every unit on relaxed faces [E].
        """
        for name, codes in (("mean", mean), ("spread", spread)):
            parts = (codes.shape, codes.texture, codes.expression, codes.pose, codes.camera, codes.light.flatten(1))
            getattr(self.E_flame, name).copy_(torch.cat(parts, 1)[0])
            if self.config.expression_encoder:
                start = {"jaw": 3}.get(self.config.expression_pose, 0)
                pose = codes.pose[:, start : start + EXPRESSION_POSES[self.config.expression_pose]]
                getattr(self.E_expression, name).copy_(torch.cat([codes.expression, pose], 1)[0])
        self.neutral_low.copy_(low)
        self.neutral_high.copy_(high)


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


class CodeRegressor(nn.Module):
    """A trunk (`encoder`, unless features come from elsewhere) and two linear layers (`layers.0`, `layers.2`).

    `forward` takes features [B, F] and gives codes [B, outputs].
    """

    def __init__(
        self, trunk: Trunk | None, hidden: int, outputs: int, calibrated: bool, num_features: int = 0
    ) -> None:
        super().__init__()
        if trunk is not None:
            self.encoder, num_features = trunk, trunk.num_features
        self.num_features = num_features
        first, last = nn.Linear(num_features, hidden), nn.Linear(hidden, outputs)
        self.layers = nn.Sequential(first, nn.ReLU(), last)
        self.calibrated = calibrated
        if calibrated:
            self.mean = nn.Parameter(torch.zeros(outputs), requires_grad=False)
            self.spread = nn.Parameter(torch.ones(outputs), requires_grad=False)
            nn.init.normal_(last.weight, std=0.01)  # training starts at the mean
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> Tensor:
        values = self.layers(features)
        return self.mean + self.spread * values.float() if self.calibrated else values


def build_trunk(backbone: str, image_size: int) -> Trunk:
    """A trunk of BACKBONES for pictures of `image_size` pixels: [B, 3, S, S] -> [B, `num_features`]."""
    return SmallTrunk(image_size) if backbone == "small" else ResNetTrunk(backbone)


class SmallTrunk(nn.Sequential):
    """Inverted residuals (Sandler et al. 2018) and a learnt weight a place instead of average pooling.

    [B, 3, S, S] -> [B, num_features]. Averaging would lose where things are; a depthwise convolution as large as
    the last map keeps it (MobileFaceNets, Chen et al. 2018).

    Attributes:
        num_features: 384.

    Raises:
        ValueError: The side is no multiple of 16.
    """

    def __init__(self, image_size: int = 112) -> None:
        if image_size < _SMALL_STRIDE or image_size % _SMALL_STRIDE:
            raise ValueError(f"The small backbone takes sides that are multiples of {_SMALL_STRIDE}, not {image_size}.")
        layers: list[nn.Module] = [*_conv(3, _SMALL_STEM, 3, 2), nn.ReLU(inplace=True)]
        inputs = _SMALL_STEM
        for expansion, channels, blocks, stride in _SMALL:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, channels, expansion, stride if i == 0 else 1))
                inputs = channels
        layers += [*_conv(inputs, _SMALL_FEATURES, 1), nn.ReLU(inplace=True)]
        side = image_size // _SMALL_STRIDE
        pool = nn.Conv2d(_SMALL_FEATURES, _SMALL_FEATURES, side, groups=_SMALL_FEATURES, bias=False)
        layers += [pool, nn.BatchNorm2d(_SMALL_FEATURES), nn.Flatten()]
        super().__init__(*layers)
        self.num_features = _SMALL_FEATURES


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times as many channels, 3x3 depthwise, 1x1 back, and a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        wide = [*_conv(inputs, width, 1), nn.ReLU(inplace=True)]
        deep = [*_conv(width, width, 3, stride, width), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*wide, *deep, *_conv(width, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs)


Trunk = ResNetTrunk | SmallTrunk
