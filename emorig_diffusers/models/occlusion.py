"""Whether the lips of a face are seen, or something is before the mouth: a mask, a hand, a microphone, a cup, a scarf.

Landmarks do not tell: their network guesses lips under a mask as well. A small network looks at the mouth in colours
that are relative to the skin around the eyes, with the outline of the lips as the landmarks have it.

Measured by `train/fit_cover.py` on 496 portraits of people that neither the network nor the threshold was chosen on:
two count as covered, a tongue put out and a hand at the lips; made grey, dim, blurred, noisy, tinted, with lipstick or
with something beside the mouth, 17 of 2,480. Of 176 photos from elsewhere (51 people neutral and smiling, acted
expressions, hard ones) one does, with a painted face. Of covers drawn onto those people that hide a quarter of the lips
or more, as they are and made worse, it finds 393 of 399 masks, 323 of 336 hands, 337 of 375 fingers, 383 of 400
microphones, 336 of 399 scarves, 359 of 399 cups, 331 of 364 cards, 340 of 400 strips of tape, 345 of 399 odd shapes.
One that had seen no cups, cards and tape found 83, 95 and 79 % of them. It takes 2 ms.
"""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..photo.landmarks import OUTER_LIPS
from ..photo.masks import fill_polygon
from ..photo.resample import align, transform_points, warp_crop

WEIGHTS = Path(__file__).parents[1] / "weights" / "lips-seen" / "model.safetensors"
SIDE = 128  # pixels of the crop of the face
SURE = 2.0  # logit from which a mouth counts as covered: 306 portraits of others, and 1,530 made worse, stay below
PATCH = 48  # pixels of the square around the mouth that the network sees: from the nose to the chin
MOUTH = 64, 88  # where in the crop the middle of the lips lies, pixels
ABOVE = (151, 108, 337, 69, 299, 9, 6, 197, 118, 119, 347, 348, 50, 280)
"""Landmarks on skin above a mask, or at its edge: forehead, bridge of the nose, below the eyes."""
MOUTH_UNITS = ("mouth", "jaw", "tongue", "cheekPuff")
"""Beginnings of the names of expression units that a covered mouth keeps. Cheeks and nose do rise above a mask."""
SEEN_UNITS = ("brow", "eye")
"""The same of those that a reference with a covered mouth lends."""
MOUTH_KEPT = "The mouth is covered and was left as it is."
MOUTH_NOT_LENT = "The mouth of the reference is covered: only its eyes and brows were taken over."
DIM = 0.03  # of white, added to colours before ratios are taken: noise in the dark tells nothing


class LipsNet(nn.Module):
    """Patches of `mouth_patch` [B, 4, PATCH, PATCH] -> logit [B] of a covered mouth."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (4, width, 2 * width, 3 * width, 3 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2 if i < 3 else 1, 1) for i, (a, b) in enumerate(zip(widths, widths[1:]))
        )
        self.hidden = nn.Linear(2 * widths[-1], 32)
        self.last = nn.Linear(32, 1)

    def forward(self, patch: Tensor) -> Tensor:
        x = patch
        for conv in self.convs:
            x = torch.relu(conv(x))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return self.last(torch.relu(self.hidden(x)))[:, 0]


def mouth_covered(photo: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether something is before a mouth. Arguments as for `mouth_patch`."""
    return cover_logit(mouth_patch(photo, landmarks)) > SURE


@torch.no_grad()
def cover_logit(patch: np.ndarray) -> float:
    """How surely the mouth of a patch is covered: the mean of what the network says of it and of its mirror image."""
    both = np.stack([patch, patch[..., ::-1]])
    return float(_network()(torch.from_numpy(both)).mean())


def read_network(file: Path = WEIGHTS) -> LipsNet:
    """A network from where train/fit_cover.py writes it, in float32."""
    network = LipsNet()
    network.load_state_dict({name: values.float() for name, values in load_file(file).items()})
    return network.requires_grad_(False).eval()


_network = functools.cache(read_network)


def mouth_patch(photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """What the network sees of a face, float32 [4, PATCH, PATCH]: logarithms of red, green and blue over the skin's,
    and the lips as landmarks have them.

    Args:
        photo: uint8 [H, W, 3].
        landmarks: [468 or more, 2 or 3] in photo pixels.
    """
    matrix = align(landmarks, SIDE)
    points = transform_points(matrix, landmarks[:, :2])
    shift = np.array(MOUTH) - points[list(OUTER_LIPS)].mean(0)
    matrix, points = matrix + np.column_stack([np.zeros((2, 2)), shift]), points + shift
    crop = warp_crop(photo, matrix, SIDE)
    x, y = np.clip(points[list(ABOVE)].astype(int), 0, SIDE - 1).T
    skin = np.median(cv2.blur(crop, (3, 3))[y, x], 0) / 255
    left, top = (int(place - PATCH / 2) for place in MOUTH)
    part = slice(top, top + PATCH), slice(left, left + PATCH)
    ratio = np.log((crop[part] / np.float32(255) + DIM) / (skin + DIM))
    lips = fill_polygon(crop.shape, points[list(OUTER_LIPS)])[part]
    return np.dstack([ratio, lips]).transpose(2, 0, 1).astype(np.float32)
