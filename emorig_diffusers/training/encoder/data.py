"""Photos with the codes of a landmark fit, for training an encoder: read once, kept in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...data.shards import CodeShards, Sample
from ...evaluation.metrics import FerJudge
from ...face.codes import FaceCodes
from ...models.head import HeadModel
from ...photo.resample import warp_crop
from ...render.camera import project

ROOM = 1.25  # stored pictures are this much larger than the network's
NUM_EMOTIONS = 7  # of the frozen classifier


@dataclass
class Batch:
    """One training batch of B crops with N landmarks; it can be indexed and joined.

    Attributes:
        image: [B, 3, S, S] in [0, 1].
        codes: Those to predict [B, ...].
        points: Landmarks [B, N, 2], normalised device coordinates of the crop, before it was mirrored.
        mirrored: Whether image and codes were mirrored [B].
        lit: Whether the light in `codes` is known [B].
        emotion: What a frozen classifier sees [B, 7]; zero where it was not asked.
    """

    image: Tensor
    codes: FaceCodes
    points: Tensor
    mirrored: Tensor
    lit: Tensor
    emotion: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """Some of the samples."""
        codes = FaceCodes(*(getattr(self.codes, f.name)[index] for f in fields(FaceCodes)))
        rest = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "codes"}
        return Batch(codes=codes, **rest)

    def to(self, device: torch.device) -> Batch:
        """Move all to a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @classmethod
    def cat(cls, batches: list[Batch]) -> Batch:
        """Join batches."""
        codes = FaceCodes.cat([b.codes for b in batches])
        rest = {f.name: torch.cat([getattr(b, f.name) for b in batches]) for f in fields(cls) if f.name != "codes"}
        return cls(codes=codes, **rest)


class EncoderData:
    """Prepared photos in memory, as crops a little larger than the network's.

    Args:
        folder: Shards of `train/prepare.py`.
        head: The head the codes belong to.
        image_size: Side of the network's picture.
        judge: Asked once for the emotion of every photo; `None` leaves it unknown.
        part: (i, n) loads every n-th photo from the i-th.

    Attributes:
        photos: All as one Batch, images uint8.
        errors: Mean landmark error of the landmark fit [N], pixels of a 384-pixel crop.

    Raises:
        ValueError: If the codes were made for another head.
    """

    def __init__(
        self,
        folder: Path,
        head: HeadModel,
        image_size: int,
        judge: FerJudge | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        shards, self.image_size, side = CodeShards(folder), image_size, round(ROOM * image_size)
        numbers = range(len(shards))[part[0] :: part[1]]
        samples = [_read(shards[i], head, side, judge) for i in tqdm(numbers, desc="read photos", mininterval=10)]
        self.photos = Batch.cat(samples)
        self.errors = torch.tensor([shards.info(i).get("error") or 0.0 for i in numbers])

    def __len__(self) -> int:
        return len(self.photos)

    def take(self, index: np.ndarray) -> Batch:
        """Photos as they were fitted, images float."""
        batch = self.photos[torch.from_numpy(index)]
        return replace(batch, image=batch.image.float() / 255)

    def statistics(self) -> tuple[FaceCodes, FaceCodes]:
        """Mean and standard deviation of every code [1, ...]."""
        values = [getattr(self.photos.codes, f.name) for f in fields(FaceCodes)]
        mean = FaceCodes(*(v.mean(0, keepdim=True) for v in values))
        return mean, FaceCodes(*(v.std(0, keepdim=True, correction=0) if v.numel() else v[:1] for v in values))


def _read(sample: Sample, head: HeadModel, side: int, judge: FerJudge | None) -> Batch:
    """One photo as a batch of one: the encoder's crop, cut out of the training picture."""
    codes, size = sample.codes, sample.picture.shape[0]
    with torch.no_grad():
        vertices = head(codes.shape, codes.expression, codes.pose)
        points = project(head.landmarks(vertices), codes.camera)[0, :, :2].numpy()
    points = points + (sample.residual if len(sample.residual) else 0)
    to_pixels = np.array([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1]])
    from_crop = to_pixels @ sample.transform @ np.array([[2 / side, 0, -1], [0, 2 / side, -1], [0, 0, 1]])
    image = warp_crop(sample.picture, np.linalg.inv(from_crop)[:2], side)
    emotion = torch.zeros(1, NUM_EMOTIONS)
    if judge is not None:
        seen = (points + 1) * side / 2
        scores = judge(image, (*seen.min(0).clip(0, side - 2), *seen.max(0).clip(2, side)))
        emotion = torch.tensor([list(scores.values())])
    tensor = lambda value: torch.from_numpy(np.ascontiguousarray(value))[None]
    yes = torch.ones(1, dtype=torch.bool)
    return Batch(tensor(image).permute(0, 3, 1, 2), codes, tensor(points).float(), ~yes, yes, emotion)
