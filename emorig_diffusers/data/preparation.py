"""Photos to shards: the face of each photo is found, its codes are fitted, picture and codes are kept.

Which photo goes into which shard depends on the data set alone, so any number of processes and any interruption give
the same shards, on machines of one kind bit for bit; finished shards are kept, and an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from ..models.landmark_fit import LandmarkEncoder
from ..photo.faces import choose_faces, find_faces
from ..photo.io import PhotoError
from ..photo.pictures import take_picture
from ..pipelines.emorig import EmoRigPipeline
from .shards import MANIFEST, CodeShards, Sample, finished_shards, write_manifest, write_shard
from .sources import DataError, Dataset, Source, count_table, open_dataset

MAX_ERROR, MAX_READ_ERROR = 4.0, 16.0  # of a fit to landmarks and of a network, pixels of a 384-pixel crop
HALF_CROP = 192  # pixels of the 384-pixel crop in which errors are told, per unit of normalised device coordinates
RESOLUTION = 256  # pixels
SHARD_SIZE = 512  # photos
SMALL_SHARD = 64  # photos; where a training prepares them, so that its processes have done at about the same time


@dataclass
class Settings:
    """What is prepared how.

    Attributes:
        photos: A data set: a folder of photos or another layout.
        out: Folder for the shards.
        layout: Of the data set, told by what it holds if "auto".
        pretrained_model_name_or_path: Pipeline whose head and encoder fit the faces.
        resolution: Side of the training pictures, pixels.
        crop: Which square of the photo they show, one of `crops.PICTURE_FRAMES`; `None`: what the pipeline's network
            draws.
        shard_size: Photos a shard.
        max_error: Mean landmark error the codes may have, pixels of a 384-pixel crop; `None`: MAX_ERROR for a fit to
            landmarks, MAX_READ_ERROR for a network that reads codes.
        limit: Use only the first photos.
    """

    photos: Path
    out: Path
    layout: str = "auto"
    pretrained_model_name_or_path: str = "emorig-open"
    resolution: int = RESOLUTION
    crop: str | None = None
    shard_size: int = SHARD_SIZE
    max_error: float | None = None
    limit: int | None = None


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
    settings: Settings, pipe: EmoRigPipeline, dataset: Dataset, sources: Sequence[Source]
) -> dict[str, Any]:
    """All that the shards depend on: the command's options, the weights that fit, the photos and their labels."""
    weights = hashlib.sha256(b"".join((*weight_bytes(pipe.head), *weight_bytes(pipe.encoder))))
    listed = json.dumps([astuple(source) for source in sources]).encode()
    options = ("resolution", "crop", "shard_size", "max_error")
    resampling = pipe.config.resampling
    others = {} if resampling == "area" else {"resampling": resampling}  # older shards do not say it
    return (
        {name: getattr(settings, name) for name in options}
        | others
        | {
            "model": settings.pretrained_model_name_or_path,
            "model_sha256": weights.hexdigest(),
            "layout": dataset.layout,
            "attribute_names": list(dataset.attribute_names),
            "photos": {"count": len(sources), "sha256": hashlib.sha256(listed).hexdigest()},
        }
    )


def weight_bytes(module: Any) -> Iterator[bytes]:
    """Names and bytes of the tensors of an `nn.Module`, for a fingerprint."""
    for name, tensor in sorted(module.state_dict().items()):
        yield name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes()


def prepare(settings: Settings, accelerator: Accelerator) -> None:
    """Write this process's share of the unfinished shards; the main process then writes the manifest.

    Raises:
        DataError: The photos, or the folder, cannot be used.
    """
    dataset = open_dataset(settings.photos, settings.layout)
    sources = dataset.sources[: settings.limit]
    if accelerator.is_main_process:
        print(count_table(dataset))
    pipe = EmoRigPipeline.from_pretrained(settings.pretrained_model_name_or_path)
    crop, max_error = settings.crop or pipe.config.crop, settings.max_error
    if max_error is None:
        max_error = MAX_ERROR if isinstance(pipe.encoder, LandmarkEncoder) else MAX_READ_ERROR
    settings = replace(settings, crop=crop, max_error=max_error)
    described, out = describe_settings(settings, pipe, dataset, sources), settings.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made ({error.strerror}): choose another folder.") from error
    parts = [sources[i : i + settings.shard_size] for i in range(0, len(sources), settings.shard_size)]
    finished = finished_shards(out, described)
    todo = [number for number in range(len(parts)) if number not in finished]
    accelerator.wait_for_everyone()  # nobody finishes a shard before all have listed what is to do
    todo = todo[accelerator.process_index :: accelerator.num_processes]
    preparation = Preparation(pipe, dataset, settings.resolution, crop, max_error)
    with tqdm(total=sum(len(parts[n]) for n in todo), disable=not accelerator.is_local_main_process) as bar:
        for number in todo:
            failures: dict[str, list[str]] = {}
            samples = preparation.samples(parts[number], failures, bar)
            write_shard(out, number, samples, failures, described)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        print(summary(write_manifest(out)))


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
        options: Of `Settings`, for photos.

    Raises:
        DataError: Neither shards nor photos are there, or `output_dir/name` holds what was prepared otherwise.
    """
    if is_prepared(folder):
        return CodeShards(folder)
    out, threads = output_dir / name, torch.get_num_threads()
    if folder.exists():
        accelerator.print(f"{folder} holds photos: they are prepared in {out}, which can be given in their place.")
    torch.set_num_threads(1)
    try:
        prepare(Settings(folder, out, **{"shard_size": SMALL_SHARD, **options}), accelerator)
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
