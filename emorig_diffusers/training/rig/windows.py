"""Windows of moved photos, which the open default is trained on.

Every random choice about a sample follows from the seed that `samplers.StepSampler` gives it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...data.shards import CodeShards, Sample
from ...diffusion.sampling import Sampling
from ...face.codes import FaceCodes
from ...face.emotions import EMOTIONS, emotion_offset, mirrored_units
from ...face.encode import EncodedFace
from ...face.relax import relaxed_expression
from ...files.atomic import write_file
from ...models.mesh_fields import residual_offsets
from ...painting.photo_texture import (
    EditState,
    PhotoTexturePainter,
    facial_flow,
    limit_lip_thickness,
    move_pixels,
    place_heads,
)
from ...painting.stages.inpaint import Seen, shrink_mask
from ...photo.faces import Face
from ...photo.pictures import Picture
from ...pipelines.emorig import EmoRigPipeline
from ..samplers import Item

REGIONS = ("mouth", "edge", "lips", "folds", "hole")  # bits of the array `regions`, highest first
MASKS = ((("edge",), 0.40), (("edge", "folds"), 0.30), (("folds",), 0.08), (("edge", "lips"), 0.10),
         (("edge", "lips", "folds"), 0.12))  # fmt: skip
"""What is blanked together, and how often."""
OPEN, WIDE = 0.0012, 0.013  # metres of lip opening
CLOSED_SHARE, WIDE_SHARE = 0.5, 3.0  # how often such a mouth is drawn, relative to one between
RETURNED_SHARE = 0.5  # how often the source is the warp there and back instead of the photo
SHIFT = 16  # pixels by which training windows move about
CACHE_SHARD = 128  # photos a file of the cache


def draw_window(pipe: EmoRigPipeline, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the network of the open default sees of one photo, before anything is blanked.

    The photo is moved to a random other expression and back: the product's own smear, with the real photo as answer.

    Returns:
        Arrays [W, W, ...] of the repainted window: `photo`, `returned`, `painted`, `normal` (n * 127 + 128) and
        `albedo` uint8 [W, W, 3]; `regions` uint8 bits in the order of REGIONS; `cond` float32 [C], what the network
        is told; `opening` of the lips, metres.
    """
    size, window = pipe.config.crop_size, pipe.repaint_window
    still, back = there_and_back(pipe, sample, _other_expression(pipe, sample, rng), size)
    seen = Seen.of(still.flow, still.photo, size)
    masks = vars(seen.area) | {"hole": shrink_mask(back.flow.hole, size)}
    arrays = {
        "photo": seen.moved,
        "returned": seen.adaptation(back.moved) if seen.adaptation else back.moved,
        "painted": np.round(seen.painted * 255).astype(np.uint8),
        "normal": np.round(seen.small.normal * 127 + 128).astype(np.uint8),
        "albedo": np.round(seen.small.albedo * 255).astype(np.uint8),
        "regions": np.packbits(np.stack([masks[name] for name in REGIONS], -1), -1)[..., 0],
    }
    arrays = {name: np.ascontiguousarray(a[window]) for name, a in arrays.items()}
    opening = np.linalg.norm(still.flow.points[13] - still.flow.points[14]) / still.flow.scale
    return arrays | {"cond": pipe.condition_code(sample.codes)[0].numpy(), "opening": np.float32(opening)}


def there_and_back(
    pipe: EmoRigPipeline, sample: Sample, target: FaceCodes, grid: int
) -> tuple[EditState, EditState]:
    """A prepared photo as it is, and moved to other codes and back, by the stages of every edit; `grid` as for
    `prepared_edit`."""
    away = move_pixels(facial_flow(limit_lip_thickness(place_heads(prepared_edit(pipe, sample, target, grid)))))
    source, there = away.source_vertices, away.target_vertices
    back = replace(away, photo=away.moved, source_vertices=there, target_vertices=source)
    return facial_flow(replace(away, target_vertices=source)), move_pixels(facial_flow(back))


def prepared_edit(pipe: EmoRigPipeline, sample: Sample, target: FaceCodes, grid: int) -> EditState:
    """An edit of a prepared photo with nothing done. Its eyes do not move: shards hold no blendshapes.

    Args:
        pipe: The open default's.
        sample: An aligned crop and its codes.
        target: The codes to show.
        grid: Side of the flow's grid, pixels. The crop's is quick; an edit's is `photo_texture.FLOW_SIZE`, shrunk for
            the network, and takes 2.6 times as long: between the two (median of 20 people, sad and fear) moved pixels
            differ by 44 dB, normals by 32 dB, the drawn mouth by 31 dB.
    """
    offsets = torch.from_numpy(residual_offsets(pipe.head, sample.residual)).float()
    found, picture = Face(0, (0.0, 0.0, 0.0, 0.0), np.zeros((0, 3)), np.zeros(0), 1.0), sample.picture
    face = EncodedFace(found, sample.codes, offsets, 0.0, sample.residual, picture=Picture(picture, np.eye(2, 3)))
    return EditState(PhotoTexturePainter(pipe), picture, face, target, Sampling(1), grid=grid, moves_eyes=False)


def _other_expression(pipe: EmoRigPipeline, sample: Sample, rng: np.random.Generator) -> FaceCodes:
    """Codes of the same person with a random emotion."""
    codes, names = sample.codes, pipe.head.config.expression_names
    offsets = torch.from_numpy(residual_offsets(pipe.head, sample.residual)).float()
    offset = emotion_offset(str(rng.choice(EMOTIONS)), names, pipe.recipes) * rng.uniform(0.5, 1.2)
    return codes.with_(expression=relaxed_expression(pipe.head, codes, pipe.encoder.relaxed_range, offsets) + offset)


def fill_cache(pipe: EmoRigPipeline, shards: CodeShards, folder: Path, accelerator: Accelerator) -> None:
    """Draw the window of every photo once; processes share the work, finished files are kept.

    Raises:
        DataError: If the folder holds windows of other shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"shards": shards.manifest["settings_sha256"], "photos": str(len(shards))}
    starts = range(0, len(shards), CACHE_SHARD)
    todo = []
    for start in starts:
        file = folder / f"{start // CACHE_SHARD:05d}.safetensors"
        if not file.exists():
            todo.append((start, file))
        elif _origin(file) != origin:
            raise DataError(f"{folder} caches other photos: choose another --cache_dir, or delete it.")
    accelerator.wait_for_everyone()  # nobody finishes a file before all have listed what is to do
    todo = todo[accelerator.process_index :: accelerator.num_processes]
    with tqdm(todo, "drawing windows", disable=not (todo and accelerator.is_local_main_process)) as bar:
        for start, file in bar:
            count = range(start, min(start + CACHE_SHARD, len(shards)))
            drawn = [draw_window(pipe, shards[i], np.random.default_rng([0, i])) for i in count]
            write_file(file, save({name: np.stack([d[name] for d in drawn]) for name in drawn[0]}, origin))
    accelerator.wait_for_everyone()


def _origin(file: Path) -> dict[str, str]:
    with safe_open(file, "numpy") as opened:
        return opened.metadata()


class WindowData(Dataset):
    """Windows for the open default: from a cache, or drawn anew each time a photo is seen.

    Args:
        pipe: Draws the windows; its units name the code.
        shards: Prepared photos; aligned crops of the pipeline's crop size.
        side: Side of the training window, pixels.
        cache: Folder that `fill_cache` filled.

    Raises:
        DataError: If the shards hold other pictures.
    """

    def __init__(self, pipe: EmoRigPipeline, shards: CodeShards, side: int, cache: Path | None = None) -> None:
        settings = shards.manifest["settings"]
        if settings["crop"] != "aligned" or settings["resolution"] != pipe.config.crop_size:
            raise DataError(
                f"The open default trains on aligned crops of {pipe.config.crop_size} pixels: run train/prepare.py "
                f"with --crop aligned --resolution {pipe.config.crop_size}."
            )
        room = pipe.config.repaint_window[2]
        if side > room:
            raise DataError(f"The windows are {room} pixels wide: choose a --resolution up to that.")
        self.pipe, self.shards, self.side = pipe, shards, side
        self.mirror = mirror_code(pipe.head.config.expression_names)
        self.files = sorted(cache.glob("*.safetensors")) if cache else []
        self._handles: dict[tuple[int, Path], safe_open] = {}

    def __len__(self) -> int:
        return len(self.shards)

    def weights(self) -> np.ndarray:
        """How often each photo is to be seen [N]: open mouths more often, as far as the cache tells."""
        if not self.files:
            return np.ones(len(self))
        opening = np.concatenate([self._handle(file).get_tensor("opening") for file in self.files])
        return np.select([opening < OPEN, opening > WIDE], [CLOSED_SHARE, WIDE_SHARE], 1.0)

    def _handle(self, file: Path) -> safe_open:
        key = (os.getpid(), file)  # a forked worker opens its own
        if key not in self._handles:
            self._handles[key] = safe_open(file, "numpy").__enter__()
        return self._handles[key]

    def arrays(self, index: int, seed: int) -> dict[str, np.ndarray]:
        """`draw_window` of a photo, cached or not."""
        if not self.files:
            return draw_window(self.pipe, self.shards[index], np.random.default_rng([seed, 1]))
        file, place = divmod(index, CACHE_SHARD)
        opened = self._handle(self.files[file])
        return {name: opened.get_slice(name)[place] for name in opened.keys()}  # noqa: SIM118

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        return self.sample(*item)

    def sample(self, index: int, seed: int, augment: bool = True, side: int | None = None) -> dict[str, Tensor]:
        """One training sample of `side` or the usual pixels, randomly masked; flipped, shifted, tinted if `augment`.

        Returns:
            `photo`, `moved`, `painted` [3, S, S] in [-1, 1], `normal`, `albedo` [3, S, S], `mask`, `mouth` [1, S, S],
            `code` [C], `u` in [0, 1), `seed`.
        """
        rng = np.random.default_rng(seed)
        take = self.arrays(index, seed)
        returned = rng.random() < RETURNED_SHARE
        bits = np.unpackbits(take["regions"][..., None], -1)[..., : len(REGIONS)]
        mask = random_mask(dict(zip(REGIONS, bits.transpose(2, 0, 1))), rng)
        pictures = [take["photo"], take["returned" if returned else "photo"], take["painted"]]
        pictures = np.concatenate(pictures, -1) / np.float32(127.5) - 1
        shape = [(take["normal"].astype(np.float32) - 128) / 127, take["albedo"] / np.float32(255)]
        masks = np.stack([mask, bits[..., 0] * mask], -1)
        stack = np.concatenate([pictures, *shape, masks], -1, dtype=np.float32)
        code = torch.from_numpy(take["cond"]).float()
        if augment:
            stack, code = self._augment(stack, code, rng)
        stack = window(torch.from_numpy(stack.transpose(2, 0, 1)), side or self.side, rng if augment else None)
        names = ("photo", "moved", "painted", "normal", "albedo", "mask", "mouth")
        parts = dict(zip(names, stack.split([3, 3, 3, 3, 3, 1, 1])))
        u = torch.from_numpy(rng.random(3, np.float32))
        return parts | {"code": code, "u": u, "seed": torch.tensor(seed)}

    def _augment(self, stack: np.ndarray, code: Tensor, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        """Mirror every other sample; change exposure and white balance of photo, source and painted mouth alike."""
        if rng.random() < 0.5:
            stack = stack[:, ::-1].copy()
            stack[..., 9] *= -1  # x of the normals
            order, sign = self.mirror
            code = code[order] * sign
        gain = rng.uniform(0.8, 1.12) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
        stack[..., :9] = np.clip((stack[..., :9] + 1) * np.tile(gain, 3) - 1, -1, 1)
        return stack, code


def random_mask(area: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A mask [S, S] in {0, 1}: some regions together, grown by 0 to 2 pixels."""
    chances = np.array([share for _, share in MASKS])
    chosen, _ = MASKS[rng.choice(len(MASKS), p=chances / chances.sum())]
    mask = np.max([area[name] for name in chosen], 0)
    grow = int(rng.integers(0, 3))
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * grow + 1,) * 2, np.uint8)).astype(np.float32)


def window(stack: Tensor, side: int, rng: np.random.Generator | None) -> Tensor:
    """The middle square of `side` pixels, where the mouth is, randomly shifted a little where there is an `rng`."""
    room = stack.shape[-1] - side
    play = min(SHIFT, room // 2)
    top, left = room // 2 + (rng.integers(-play, play + 1, 2) if rng is not None and play else np.zeros(2, int))
    return stack[:, top : top + side, left : left + side].contiguous()


def mirror_code(names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Order and signs that turn the code (expression, pose 6) of a face into its mirror image's."""
    order = [*mirrored_units(names), *range(len(names), len(names) + 6)]
    sign = torch.ones(len(order))
    sign[[-5, -4, -2, -1]] = -1  # turning about y and z changes sides, about x does not
    return torch.tensor(order), sign
