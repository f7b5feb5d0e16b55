"""Which emotion a face shows, by face-api's small colour network, whose weights come with this package (MIT)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .checks import check_box, face_square

WEIGHTS = Path(__file__).parents[2] / "weights" / "face-api-expression" / "model.safetensors"
OUTPUTS = ("neutral", "happy", "sad", "anger", "fear", "disgust", "surprise")
_MEAN = (122.782, 117.001, 104.298)  # RGB, subtracted before the division by 255
SIDE = 112  # pixels the network sees
_MARGIN = 0.95  # crop side / face-box side: of those tried, acted expressions are named best at this one


class FaceApiJudge:
    """Scores seven emotions with the expression network of face-api (Mühler 2018; Mandic), run in plain torch.

    The best judge that needs no download: of 79 acted expressions it names 74, of 51 faint real smiles of the London
    face set 34, and 50 of their neutral faces. Contempt is unknown to it.
    """

    name = "face-api"
    emotions = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")

    def __init__(self) -> None:
        self.network = ExpressionNet()
        self.network.load_state_dict(load_file(WEIGHTS))
        self.network.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> dict[str, float]:
        """Probabilities of the seven emotions of one face.

        Args:
            rgb: uint8 [H, W, 3].
            box: the face's box (x0, y0, x1, y1) [pixels]; a square 0.95 times its longer side is looked at.

        Returns:
            Name -> probability, AffectNet's names without contempt; they sum to 1.

        Raises:
            ValueError: `rgb` is no uint8 RGB picture, or the box is empty or beside the picture.
        """
        check_box(rgb, box, "FaceApiJudge")
        picture = torch.from_numpy(face_square(rgb, box, SIDE, _MARGIN)).float().permute(2, 0, 1)[None]
        return dict(zip(OUTPUTS, self.network(picture).softmax(-1)[0].tolist()))

    def valence_arousal(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> None:
        """`None`: this network does not tell."""


class ExpressionNet(nn.Module):
    """face-api's expression network: RGB [B, 3, 112, 112] in 0–255 -> logits [B, 7].

    Four blocks of depthwise-separable convolutions (the very first is a full one), each halving the side; within a
    block every convolution sees the rectified sum of all before it.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        self.blocks = nn.ModuleList(_Block(a, b, full=a == 3) for a, b in zip(widths, widths[1:]))
        self.fc = nn.Linear(widths[-1], len(OUTPUTS))

    def forward(self, picture: Tensor) -> Tensor:
        """Logits of neutral, happy, sad, anger, fear, disgust, surprise."""
        x = (picture - picture.new_tensor(_MEAN)[:, None, None]) / 255
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, full: bool) -> None:
        super().__init__()
        first = nn.Conv2d(channels, width, 3, 2) if full else _separable(channels, width, 2)
        self.convs = nn.ModuleList([first, *(_separable(width, width) for _ in range(3))])

    def forward(self, x: Tensor) -> Tensor:
        total = F.relu(self.convs[0](F.pad(x, (0, 1, 0, 1))))  # TensorFlow's "same" pads an even side at its end
        for i, conv in enumerate(self.convs[1:]):
            total = total + conv(total if i == 0 else F.relu(total))
        return F.relu(total)


def _separable(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(channels, channels, 3, stride, padding=int(stride == 1), groups=channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(channels, width, 1))
