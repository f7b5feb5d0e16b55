"""Prepare photos for training the open default: fit every face, draw its conditions, keep the lower face.

    accelerate launch train/prepare.py PHOTOS OUT

Writes shards of safetensors, each with the photos' windows, what a warp to another expression and back makes of
them (the product's own smear, with the real photo as answer) and their conditions. Finished shards are kept, so an
interrupted run goes on where it stopped; several processes share the shards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.emotions import EMOTIONS, emotion_offset
from emorig_diffusers.faces import choose_faces, find_faces, warp_crop
from emorig_diffusers.photos import PhotoError, read_photo
from emorig_diffusers.phototexture import move_pixels
from emorig_diffusers.repaint import paint_mouth, regions
from emorig_diffusers.rig import EncodedFace

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MAX_ERROR = 4.0  # pixels of a 384-pixel crop; worse fits are left out


def prepare_photo(pipe: EmoRigPipeline, path: Path, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """The arrays of one photo, or None where no face can be used."""
    photo = read_photo(path).rgb
    faces = find_faces(photo)
    if not faces:
        return None
    size, window = pipe.config.crop_size, pipe.repaint_window
    face = pipe.encode_face(photo, choose_faces(faces, "largest")[0])
    if face.error * 192 > MAX_ERROR:
        return None
    here = pipe.grid_vertices(face, face.codes, size)
    there = pipe.grid_vertices(face, other_expression(pipe, face, rng), size)
    still = pipe.texture.warp(here, here, size)
    matrix = face.grid_matrix(size)
    crop = warp_crop(photo, matrix, size)
    identity = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    away = move_pixels(crop, identity, pipe.texture.warp(here, there, size))
    back = pipe.texture.warp(there, here, size)
    area = regions(still)
    arrays = {
        "photo": crop,
        "returned": move_pixels(away, identity, back),
        "painted": np.round(paint_mouth(still, crop) * 255).astype(np.uint8),
        "normal": np.round(still.normal * 127 + 128).astype(np.uint8),
        "albedo": np.round(still.albedo * 255).astype(np.uint8),
        "regions": np.packbits(np.stack([area.mouth, area.edge, area.lips, area.folds, back.hole], -1), -1)[..., 0],
    }
    arrays = {name: np.ascontiguousarray(a[window]) for name, a in arrays.items()}
    opening = np.linalg.norm(still.points[13] - still.points[14]) / still.scale
    return arrays | {"cond": pipe.condition_code(face.codes)[0].numpy(), "opening": np.float32(opening)}


def other_expression(pipe: EmoRigPipeline, face: EncodedFace, rng: np.random.Generator) -> FaceCodes:
    """Codes of the same person with a random emotion."""
    names = pipe.head.config.expression_names
    offset = emotion_offset(str(rng.choice(EMOTIONS)), names, pipe.recipes) * rng.uniform(0.5, 1.2)
    relaxed = pipe.encoder.neutral(pipe.head, face.codes, face.offsets)
    return face.codes.with_(expression=relaxed + offset)


def write_shard(pipe: EmoRigPipeline, photos: list[Path], out: Path, bar: tqdm) -> None:
    """Prepare some photos into one file, written at once."""
    records, failed = [], []
    for path in photos:
        rng = np.random.default_rng(list(path.name.encode()))
        try:
            record = prepare_photo(pipe, path, rng)
        except (PhotoError, Image.DecompressionBombError) as error:
            record = None
            print(f"{path.name}: {error}", file=sys.stderr)
        (failed if record is None else records).append(path.name if record is None else record)
        bar.update()
    arrays = {name: np.stack([r[name] for r in records]) for name in records[0]} if records else {}
    temporary = out.with_suffix(".tmp")
    save_file(arrays, temporary, metadata={"failed": json.dumps(failed)})
    os.replace(temporary, out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos, one face each")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--model", default="emorig-open", help="pipeline whose head and encoder fit the faces")
    parser.add_argument("--shard_size", type=int, default=128)
    args = parser.parse_args()
    photos = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in SUFFIXES) if args.photos.is_dir() else []
    if not photos:
        parser.error(f"{args.photos} has no photos ({', '.join(sorted(SUFFIXES))}).")
    state = Accelerator()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the drawings are small: threads only wait for each other
    pipe = EmoRigPipeline.from_pretrained(args.model)
    shards = [photos[i : i + args.shard_size] for i in range(0, len(photos), args.shard_size)]
    todo = [(i, s) for i, s in enumerate(shards) if not (args.out / f"{i:05d}.safetensors").exists()]
    todo = todo[state.process_index :: state.num_processes]
    with tqdm(total=sum(len(s) for _, s in todo), disable=not state.is_local_main_process) as bar:
        for index, shard in todo:
            write_shard(pipe, shard, args.out / f"{index:05d}.safetensors", bar)


if __name__ == "__main__":
    main()
