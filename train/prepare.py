"""Prepare photos for training: find the face of each, fit its codes, keep picture and codes in shards.

    accelerate launch train/prepare.py PHOTOS OUT

PHOTOS is a folder or file in one of the layouts of `emorig_diffusers.data.sources`. Which photo goes into which shard
depends on the data set alone, so any number of processes and any interruption give the same shards, on machines of
one kind bit for bit; finished shards are kept, and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from PIL import Image
from tqdm.auto import tqdm

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.shards import MANIFEST, CodeShards, Sample, finished_shards, write_manifest, write_shard
from emorig_diffusers.data.sources import DataError, Dataset, Source, count_table, open_dataset
from emorig_diffusers.files.assets import AssetError
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.photo.crops import PICTURE_FRAMES
from emorig_diffusers.photo.faces import choose_faces, find_faces
from emorig_diffusers.photo.io import PhotoError
from emorig_diffusers.photo.pictures import take_picture

MAX_ERROR, MAX_READ_ERROR = 4.0, 16.0
HALF_CROP = 192  # pixels of the 384-pixel crop in which errors are told, per unit of normalised device coordinates
RESOLUTION = 256  # pixels
SMALL_SHARD = 64  # photos; where a training prepares them, so that its processes have done at about the same time
PATIENCE = timedelta(days=1)  # for the processes with more shards, before the others give up waiting


@dataclass
class Preparation:
    """How photos of a data set become samples.

    Attributes:
        pipe: Its head and encoder fit the faces.
        dataset: The photos.
        resolution: Side of the training picture, pixels.
        crop: Which square of the photo the picture shows, one of `crops.PICTURE_FRAMES`.
        max_error: Mean landmark error above which a fit is left out, pixels of a 384-pixel crop.
    """

    pipe: EmoRigPipeline
    dataset: Dataset
    resolution: int
    crop: str
    max_error: float

    def sample(self, source: Source) -> Sample | str:
        """The sample of one photo, or why there is none: "unreadable", "no face" or "poor fit"."""
        try:
            photo = self.dataset.read(source)
        except (PhotoError, Image.DecompressionBombError) as error:
            tqdm.write(f"{source.file}: {error}", file=sys.stderr)
            return "unreadable"
        faces = find_faces(photo)
        if not faces:
            return "no face"
        face = self.pipe.encode_face(photo, choose_faces(faces, "largest")[0], self.crop)
        error = face.error * HALF_CROP
        if not error <= self.max_error:  # a fit that went to NaN is poor too
            return "poor fit"
        size = self.resolution
        picture = take_picture(photo, self.crop, face.face.landmarks, size, self.pipe.config.resampling).pixels
        transform = face.transform[0].numpy()
        info = {name: getattr(source, name) for name in ("file", "label", "valence", "arousal", "attributes")}
        return Sample(source.key, picture, face.codes, transform, face.residual, info | {"error": round(error, 4)})

    def samples(self, sources: Sequence[Source], failures: dict[str, list[str]], bar: tqdm) -> Iterator[Sample]:
        """The samples that some photos give, one by one; files that give none are added to `failures`."""
        for source in sources:
            sample = self.sample(source)
            bar.update()
            if isinstance(sample, Sample):
                yield sample
            else:
                failures.setdefault(sample, []).append(source.file)


def describe_settings(
    args: argparse.Namespace, pipe: EmoRigPipeline, dataset: Dataset, sources: Sequence[Source]
) -> dict[str, Any]:
    """All that the shards depend on: the command's options, the weights that fit, the photos and their labels."""
    weights = hashlib.sha256()
    for module in (pipe.head, pipe.encoder):
        for name, tensor in sorted(module.state_dict().items()):
            weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    listed = json.dumps([astuple(source) for source in sources]).encode()
    options = ("resolution", "crop", "shard_size", "max_error")
    resampling = pipe.config.resampling
    others = {} if resampling == "area" else {"resampling": resampling}  # older shards do not say it
    return {name: getattr(args, name) for name in options} | others | {
        "model": args.pretrained_model_name_or_path,
        "model_sha256": weights.hexdigest(),
        "layout": dataset.layout,
        "attribute_names": list(dataset.attribute_names),
        "photos": {"count": len(sources), "sha256": hashlib.sha256(listed).hexdigest()},
    }


def prepare(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Write this process's share of the unfinished shards; the main process then writes the manifest."""
    dataset = open_dataset(args.photos, args.layout)
    sources = dataset.sources[: args.limit]
    if accelerator.is_main_process:
        print(count_table(dataset))
    pipe = EmoRigPipeline.from_pretrained(args.pretrained_model_name_or_path)
    args.crop = args.crop or pipe.config.crop
    if args.max_error is None:
        args.max_error = MAX_ERROR if isinstance(pipe.encoder, LandmarkEncoder) else MAX_READ_ERROR
    settings = describe_settings(args, pipe, dataset, sources)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{args.out} cannot be made ({error.strerror}): choose another folder.") from error
    parts = [sources[i : i + args.shard_size] for i in range(0, len(sources), args.shard_size)]
    finished = finished_shards(args.out, settings)
    todo = [number for number in range(len(parts)) if number not in finished]
    accelerator.wait_for_everyone()  # nobody finishes a shard before all have listed what is to do
    todo = todo[accelerator.process_index :: accelerator.num_processes]
    preparation = Preparation(pipe, dataset, args.resolution, args.crop, args.max_error)
    with tqdm(total=sum(len(parts[n]) for n in todo), disable=not accelerator.is_local_main_process) as bar:
        for number in todo:
            failures: dict[str, list[str]] = {}
            samples = preparation.samples(parts[number], failures, bar)
            write_shard(args.out, number, samples, failures, settings)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        print(summary(write_manifest(args.out)))


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds shards, be it damaged ones; else it is photos."""
    return (folder / MANIFEST).is_file() or any(folder.glob("[0-9]*.tar"))


def open_shards(
    folder: Path, output_dir: Path, accelerator: Accelerator, name: str = "shards", **options: object
) -> CodeShards:
    """The shards in a folder; photos are prepared first, into `output_dir/name`, where they are found again next time.

    Args:
        folder: Of `train/prepare.py`, or a data set as it takes.
        output_dir: Of the training.
        accelerator: Its processes share the work; all wait until the last shard is written.
        options: Of `train/prepare.py`, for photos.

    Raises:
        DataError: Neither shards nor photos are there, or `output_dir/name` holds what was prepared otherwise.
    """
    if is_prepared(folder):
        return CodeShards(folder)
    out, threads = output_dir / name, torch.get_num_threads()
    if folder.exists():
        accelerator.print(f"{folder} holds photos: they are prepared in {out}, which can be given in their place.")
    words = [f"--{option}={value}" for option, value in {"shard_size": SMALL_SHARD, **options}.items()]
    torch.set_num_threads(1)
    try:
        prepare(parse([str(folder), str(out), *words]), accelerator)
    finally:
        torch.set_num_threads(threads)
    return CodeShards(out)


def open_all_shards(
    folders: Sequence[Path], output_dir: Path, accelerator: Accelerator, resolution: int, **options: object
) -> list[CodeShards]:
    """`open_shards` of several folders, for pictures of `resolution` pixels or less: they are averaged down."""
    options["resolution"] = max(resolution, RESOLUTION)
    names = ["shards", *(f"shards-{number}" for number in range(2, len(folders) + 1))]
    return [open_shards(one, output_dir, accelerator, name, **options) for one, name in zip(folders, names)]


def shown_square(shards: Sequence[CodeShards]) -> str:
    """The square that the photos show: what the trained pipeline cuts out of any photo.

    Raises:
        DataError: If the shards show different ones.
    """
    settings = [one.manifest["settings"] for one in shards]
    squares = {"ffhq" if (s["crop"], s["layout"]) == ("whole", "ffhq") else s["crop"] for s in settings}
    if len(squares) > 1:
        raise DataError(f"The shards show different squares ({', '.join(sorted(squares))}): prepare them alike.")
    return squares.pop()


def summary(manifest: dict[str, Any]) -> str:
    """One line about what was prepared."""
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in manifest["failures"].items())
    return (
        f"{manifest['used']:,} of {manifest['photos']:,} photos prepared (shards: {len(manifest['shards']):,}, "
        f"{manifest['bytes_a_photo'] / 1000:.1f} kB a photo)" + (f"; left out: {left_out}." if left_out else ".")
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="the data set: a folder of photos or another layout")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--layout", default="auto", help="layout of the data set, told by what it holds if 'auto'")
    parser.add_argument(
        "--pretrained_model_name_or_path", default="emorig-open", help="pipeline whose head and encoder fit the faces"
    )
    parser.add_argument("--resolution", type=int, default=RESOLUTION, help="side of the training pictures in pixels")
    parser.add_argument(
        "--crop", choices=PICTURE_FRAMES,
        help="aligned: the square around the upright face; ffhq: FFHQ's square; whole: the photo's largest square in "
        "the middle, for sets that are aligned already (default: what the pipeline's network draws)",
    )  # fmt: skip
    parser.add_argument("--shard_size", type=int, default=512, help="photos a shard")
    parser.add_argument(
        "--max_error", type=float,
        help="mean landmark error the codes may have, pixels of a 384-pixel crop (default: "
        f"{MAX_ERROR:g} for a fit to landmarks, {MAX_READ_ERROR:g} for a network that reads codes)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="use only the first photos")
    args = parser.parse_args(arguments)
    for name in ("resolution", "shard_size", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1.")
    return args


def main() -> None:
    """Command line; exits with one sentence where the photos or the folder cannot be used."""
    args = parse()
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    torch.set_num_threads(1)  # the fits are small: threads only wait for each other
    try:
        prepare(args, accelerator)
    except (DataError, AssetError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
