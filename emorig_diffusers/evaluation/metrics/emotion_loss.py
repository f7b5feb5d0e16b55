"""Emotion judges as losses: gradients flow through them to the picture, of which the whole is looked at."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import face_api, hsemotion

JUDGES = ("hsemotion", "face-api")


class EmotionLoss(nn.Module):
    """Cross-entropy of pictures against one emotion.

    Args:
        emotion: What they are to show.
        judge: One of JUDGES. An edit that was tuned by one is to be scored by another.

    Raises:
        ValueError: The judge does not know the emotion.
        AssetError: Its weights are not to be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, emotion: str, judge: str = JUDGES[0]) -> None:
        super().__init__()
        if judge == "hsemotion":
            published = hsemotion.HSEmotionJudge()
            names, self.side = published.model.classes, published.model.side
            mean, std = hsemotion.MEAN, hsemotion.STD
        else:
            published = face_api.FaceApiJudge()
            names, self.side = face_api.OUTPUTS, face_api.SIDE
            mean, std = torch.zeros(1), torch.full((1,), 1 / 255)  # it takes numbers up to 255
        if emotion not in names:
            raise ValueError(f"The judge {judge} does not know {emotion!r}: give another judge, or no weight to it.")
        self.network, self.goal = published.network, names.index(emotion)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.requires_grad_(False).eval()

    def forward(self, picture: Tensor) -> Tensor:
        """Loss [B] of pictures [B, 3, H, W] in [-1, 1]."""
        seen = F.interpolate((picture + 1) / 2, (self.side, self.side), mode="bilinear", antialias=True)
        return -self.network((seen - self.mean) / self.std).log_softmax(1)[:, self.goal]
