"""Shards to the layout that Diffusion Autoencoders train on: an LMDB of JPEGs, and a ±1 list of their emotions.

    python train/write_lmdb.py SHARDS OUT [--resolution 128]

OUT/<resolution>.lmdb holds the pictures that have a label, or all where none has one; OUT/labels.txt their emotions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from emorig_diffusers.data.attributes import one_hot_rows, write_attributes
from emorig_diffusers.data.lmdb_layouts import write_diffae_lmdb
from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.training.scripts import refusals


def pictures(shards: CodeShards, chosen: list[int], resolution: int) -> Iterator[np.ndarray]:
    """Their pictures, uint8 [resolution, resolution, 3]."""
    for i in tqdm(chosen):
        picture = Image.fromarray(shards[i].picture)
        yield np.asarray(picture.resize((resolution, resolution), Image.LANCZOS))


def write(shards: CodeShards, out: Path, resolution: int) -> str:
    """Write the list, then the LMDB; one line about both."""
    chosen = [i for i, label in enumerate(shards.labels) if label is not None]
    labelled, chosen = bool(chosen), chosen or list(range(len(shards)))
    out.mkdir(parents=True, exist_ok=True)
    if labelled:
        write_attributes(out / "labels.txt", *one_hot_rows(shards.labels[i] for i in chosen))
    count = write_diffae_lmdb(out / f"{resolution}.lmdb", pictures(shards, chosen, resolution), resolution)
    return f"{count:,} pictures of {resolution} pixels in {out}, {'with' if labelled else 'without'} labels.txt."


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path, help="shards of train/prepare.py")
    parser.add_argument("out", type=Path, help="folder for the LMDB and the list")
    parser.add_argument("--resolution", type=int, default=128, help="side of the pictures in pixels")
    args = parser.parse_args()
    if args.resolution < 1:
        parser.error("--resolution must be at least 1.")
    with refusals():
        print(write(CodeShards(args.shards), args.out, args.resolution))


if __name__ == "__main__":
    main()
