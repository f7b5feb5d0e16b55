"""Batches for training the open default from shards that train/prepare.py wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from emorig_diffusers.repaint import make_base, stack_conditions

REGIONS = ("mouth", "edge", "lips", "folds", "hole")  # bits of the array `regions`, highest first
MASKS = ((("edge",), 0.40), (("edge", "folds"), 0.30), (("folds",), 0.08), (("edge", "lips"), 0.10),
         (("edge", "lips", "folds"), 0.12))  # fmt: skip
"""What is blanked together, and how often."""
OPEN, WIDE = 0.0012, 0.013  # metres of lip opening
CLOSED_SHARE, WIDE_SHARE = 0.5, 3.0  # how often such a mouth is drawn, relative to one between
RETURNED_SHARE = 0.5  # how often the source is the warp there and back instead of the photo

SHIFT = 16  # pixels by which training windows move about


@dataclass
class Batch:
    """One training batch; B samples of side S.

    Attributes:
        photo: The answer [B, 3, S, S] in [-1, 1].
        base: What the network corrects [B, 3, S, S].
        mask: What it paints [B, 1, S, S].
        conditions: Channels after the noisy sample [B, 11, S, S].
        code: Expression and pose [B, C].
    """

    photo: Tensor
    base: Tensor
    mask: Tensor
    conditions: Tensor
    code: Tensor


class RigData:
    """Prepared photos in memory, served as random batches.

    Args:
        folder: Shards of `train/prepare.py`.
        expression_names: Names of the head's units, to mirror codes.

    Raises:
        FileNotFoundError: If there is no shard.
    """

    def __init__(self, folder: Path, expression_names: tuple[str, ...]) -> None:
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise FileNotFoundError(f"{folder} has no prepared shards: run train/prepare.py PHOTOS {folder} first.")
        parts = [part for part in map(self._read, shards) if part]
        if not parts:
            raise FileNotFoundError(f"No photo in {folder} could be used: prepare photos with one visible face each.")
        self.arrays = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        opening = self.arrays["opening"]
        weight = np.select([opening < OPEN, opening > WIDE], [CLOSED_SHARE, WIDE_SHARE], 1.0)
        self.weight = weight / weight.sum()
        self.mirror = mirror_code(expression_names)

    @staticmethod
    def _read(shard: Path) -> dict[str, np.ndarray]:
        with safe_open(shard, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def __len__(self) -> int:
        return len(self.weight)

    def batches(self, size: int, side: int, seed: int) -> Iterator[Batch]:
        """Endless random batches of `size` windows of `side` pixels."""
        rng = np.random.default_rng(seed)
        while True:
            index = rng.choice(len(self), size, p=self.weight)
            yield self.batch(index, side, rng)

    def batch(self, index: np.ndarray, side: int, rng: np.random.Generator, augment: bool = True) -> Batch:
        """The samples at `index`, with random masks; flipped, shifted and tinted where `augment`."""
        take = {name: self.arrays[name][index] for name in self.arrays}
        returned = rng.random(len(index)) < RETURNED_SHARE
        image = lambda a: torch.from_numpy(a).permute(0, 3, 1, 2).float()  # noqa: E731
        photo = image(take["photo"]) / 127.5 - 1
        moved = image(np.where(returned[:, None, None, None], take["returned"], take["photo"])) / 127.5 - 1
        painted = image(take["painted"]) / 127.5 - 1
        normal, albedo = (image(take["normal"]) - 128) / 127, image(take["albedo"]) / 255
        bits = torch.from_numpy(np.unpackbits(take["regions"][..., None], -1)).permute(0, 3, 1, 2).float()
        area = {name: bits[:, i : i + 1] for i, name in enumerate(REGIONS)}
        mask = random_masks(area, rng)
        mouth = area["mouth"] * mask
        code = torch.from_numpy(take["cond"]).float()
        stack = torch.cat([photo, moved, painted, normal, albedo, mask, mouth], 1)
        if augment:
            stack, code = self._augment(stack, code, rng)
        stack = window(stack, side, rng if augment else None)
        photo, moved, painted, normal, albedo, mask, mouth = stack.split([3, 3, 3, 3, 3, 1, 1], 1)
        base = make_base(moved, painted, mask, mouth)
        return Batch(photo, base, mask, stack_conditions(base, normal, albedo, mask, mouth), code)

    def _augment(self, stack: Tensor, code: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mirror half of the samples; change exposure and white balance of photo, source and painted mouth alike."""
        flip = torch.from_numpy(rng.random(len(code)) < 0.5)
        stack, code = stack.clone(), code.clone()
        stack[flip] = stack[flip].flip(3)
        stack[flip, 9] *= -1  # x of the normals
        order, sign = self.mirror
        code[flip] = code[flip][:, order] * sign
        gain = rng.uniform(0.8, 1.12, (len(code), 1, 1, 1)) * rng.uniform(0.93, 1.07, (len(code), 3, 1, 1))
        gain = torch.from_numpy(np.tile(gain, (1, 3, 1, 1))).float()
        stack[:, :9] = ((stack[:, :9] + 1) * gain - 1).clamp(-1, 1)
        return stack, code


def random_masks(area: dict[str, Tensor], rng: np.random.Generator) -> Tensor:
    """A mask [B, 1, S, S] per sample: some regions together, grown by 0 to 2 pixels."""
    chances = np.array([share for _, share in MASKS])
    masks = []
    for i in range(len(area["edge"])):
        chosen, _ = MASKS[rng.choice(len(MASKS), p=chances / chances.sum())]
        mask = torch.stack([area[name][i] for name in chosen]).amax(0)
        grow = int(rng.integers(0, 3))
        masks.append(F.max_pool2d(mask[None], 2 * grow + 1, 1, grow)[0])
    return torch.stack(masks)


def window(stack: Tensor, side: int, rng: np.random.Generator | None) -> Tensor:
    """The middle square of `side` pixels, where the mouth is, randomly shifted a little; the same for all samples."""
    room = stack.shape[-1] - side
    if room < 0:
        raise ValueError(f"The prepared windows are {stack.shape[-1]} pixels wide: choose a resolution up to that.")
    play = min(SHIFT, room // 2) if rng is not None else 0
    top, left = room // 2 + (rng.integers(-play, play + 1, 2) if play else np.zeros(2, int))
    return stack[:, :, top : top + side, left : left + side].contiguous()


def mirror_code(names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Order and signs that turn the code (expression, pose 6) of a face into its mirror image's."""
    swap = {"Left": "Right", "Right": "Left"}
    other = [next((n.removesuffix(a) + b for a, b in swap.items() if n.endswith(a)), n) for n in names]
    order = [names.index(n) for n in other] + [len(names) + i for i in range(6)]
    sign = torch.ones(len(order))
    sign[[-5, -4, -2, -1]] = -1  # turning about y and z changes sides, about x does not
    return torch.tensor(order), sign


def describe(data: RigData) -> str:
    """One line about the data, for the log."""
    openness = data.arrays["opening"] > OPEN
    return json.dumps({"photos": len(data), "open mouths": int(openness.sum())})
