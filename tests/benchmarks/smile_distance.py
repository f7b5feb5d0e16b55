"""LPIPS between what a pipeline makes of a neutral photo and the same person's real smile, or the other way round.

    python tests/benchmarks/smile_distance.py NEUTRAL... --smiling neutral=smiling [--back] [--pipelines NAME NAME]

`--smiling A=B` turns a neutral photo's file name into that of the smile. Pairs whose smile shows no teeth are left out.
The real photo is moved onto the edited one by points that expressions leave alone; then both are compared on the
aligned crop, and on the mouth alone; and by how much of the lips' way from one photo to the other the edit goes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.evaluation.metrics import LPIPS
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.photo.landmarks import INNER_LIPS, OUTER_LIPS
from emorig_diffusers.photo.resample import align, transform_points, warp_crop

STILL = [33, 133, 362, 263, 168, 6, 197, 4, 1, 98, 327]  # corners of the eyes, nose
SIZE = 256
MOUTH = (slice(None), slice(None), slice(128, 232), slice(64, 192))  # of the crop
TOOTHY = 0.08  # opening of the lips, in widths of the mouth
LIPS = [*OUTER_LIPS, *INNER_LIPS]


@dataclass
class Pair:
    """A photo uint8 [H, W, 3] to edit, its landmarks [478, 2], its crop's matrix, its and the goal's crop [1, 3, S, S]
    in [-1, 1], and the goal's lips in the crop [N, 2]."""

    photo: np.ndarray
    points: np.ndarray
    matrix: np.ndarray
    before: Tensor
    goal: Tensor
    goal_lips: np.ndarray


def crop(photo: np.ndarray, matrix: np.ndarray) -> Tensor:
    """Aligned crop [1, 3, S, S] in [-1, 1]."""
    return torch.from_numpy(warp_crop(photo, matrix, SIZE)).permute(2, 0, 1)[None] / 127.5 - 1


def read_pair(source: Path, goal: Path) -> Pair | None:
    """One person, or `None` where neither photo shows teeth."""
    photos = [read_photo(path).rgb for path in (source, goal)]
    here, there = (find_faces(photo)[0].landmarks[:, :2] for photo in photos)
    if max(_opening(here), _opening(there)) < TOOTHY:
        return None
    matrix = align(here, SIZE)
    both = _onto(there, here, matrix)
    goal_lips = transform_points(both, there[LIPS])
    return Pair(photos[0], here, matrix, crop(photos[0], matrix), crop(photos[1], both), goal_lips)


def _opening(points: np.ndarray) -> float:
    """Of the lips, in widths of the mouth."""
    return float(np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[61] - points[291]))


def _onto(points: np.ndarray, others: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Matrix [2, 3] to a crop from a photo with landmarks `points`, by way of one with landmarks `others`."""
    onto, _ = cv2.estimateAffinePartial2D(points[STILL], others[STILL], method=cv2.LMEDS)
    return (np.vstack([matrix, [0, 0, 1]]) @ np.vstack([onto, [0, 0, 1]]))[:2]


@torch.no_grad()
def distances(lpips: LPIPS, picture: Tensor, goal: Tensor) -> tuple[float, float]:
    """Of the whole crop and of the mouth."""
    return float(lpips.distance(picture, goal)), float(lpips.distance(picture[MOUTH], goal[MOUTH]))


def edit(pipe: EmoRigPipeline, photo: np.ndarray, emotion: str) -> np.ndarray:
    """The photo with an emotion."""
    return pipe(photo, emotion, output_type="np", generator=torch.Generator().manual_seed(0)).images[0]


def way(pair: Pair, edited: np.ndarray) -> float:
    """How much of the lips' way to the goal the edited photo has gone."""
    there, start = find_faces(edited)[0].landmarks[:, :2], transform_points(pair.matrix, pair.points[LIPS])
    gone = transform_points(_onto(there, pair.points, pair.matrix), there[LIPS]) - start
    whole = pair.goal_lips - start
    return float((gone * whole).sum() / (whole**2).sum())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("neutral", type=Path, nargs="+")
    parser.add_argument("--smiling", required=True, metavar="A=B")
    parser.add_argument("--back", action="store_true", help="Make the smiles neutral.")
    parser.add_argument("--pipelines", nargs="+", default=["emorig-open"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = [(f, f.with_name(f.name.replace(*args.smiling.split("=")))) for f in args.neutral]
    pairs = [p for pair in files if (p := read_pair(*(reversed(pair) if args.back else pair)))]
    lpips = LPIPS("alex")
    unedited = np.array([distances(lpips, p.before, p.goal) for p in pairs])
    print(f"{len(pairs)} pairs; face and mouth; unedited: {unedited.mean(0).round(4)}")
    for name in args.pipelines:
        pipe = EmoRigPipeline.from_pretrained(name)
        pipe.set_progress_bar_config(disable=True)
        pictures = [edit(pipe, p.photo, "neutral" if args.back else "happy") for p in pairs]
        edited = np.array([distances(lpips, crop(x, p.matrix), p.goal) for p, x in zip(pairs, pictures)])
        gone = np.median([way(p, x) for p, x in zip(pairs, pictures)])
        print(f"{name}: {edited.mean(0).round(4)}, nearer than unedited in {(edited < unedited).mean(0).round(2)}, "
              f"median of the lips' way {gone:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
