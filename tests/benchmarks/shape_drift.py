"""How much the shape code changes between photos of one person, between people, and by an edit.

    python tests/benchmarks/shape_drift.py PHOTOS --person 'london_(?:neutral|smiling)-(\\d+)' [--encoder ENCODER]
        [--pipelines RUN1/pipeline RUN2/pipeline] [--emotion happy]

Shape codes are not constant in one person: the first number is the floor below which a drift means nothing. Distances
are medians of |β1 - β2|, in units of the spread of β over the photos. Encoders: the pipeline's landmark fit, and the
`EmocaEncoder` in the folder ENCODER. For each pipeline, the drift is what ENCODER reads from the photo's crop and from
the edited crop.
"""

from __future__ import annotations

import argparse
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.data.sources import open_dataset
from emorig_diffusers.face.encode import EncodedFace, crop_tensor
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.emoca import EmocaEncoder


def read_crop(encoder: EmocaEncoder, photo: np.ndarray, face: EncodedFace) -> Tensor:
    """β [S] that a network reads from the aligned crop of a photo."""
    side = encoder.config.image_size
    with torch.no_grad():
        return encoder(crop_tensor(photo, face.grid_matrix(side), side)).shape[0]


def report(name: str, shapes: list[Tensor], people: list[str]) -> float:
    """Print and return the median distance of two photos of one person; the unit is the spread of all."""
    codes = torch.stack(shapes)
    unit = codes.std(0).norm()
    distance = lambda pairs: float(np.median([(codes[i] - codes[j]).norm() / unit for i, j in pairs]))
    pairs = list(combinations(range(len(people)), 2))
    same = distance([p for p in pairs if people[p[0]] == people[p[1]]])
    other = distance([p for p in pairs if people[p[0]] != people[p[1]]])
    print(f"{name}: one person {same:.3f}, two people {other:.3f}, ratio {same / other:.2f}")
    return same


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--person", required=True, help="regular expression; its first group names the person")
    parser.add_argument("--encoder", default="encoder-open", help="folder of an EmocaEncoder")
    parser.add_argument("--pipelines", nargs="*", default=[])
    parser.add_argument("--emotion", default="happy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe, encoder = EmoRigPipeline.from_pretrained("emorig-open"), EmocaEncoder.from_pretrained(resolve(args.encoder))
    data = open_dataset(args.photos)
    chosen = [(s, m.group(1)) for s in data.sources if (m := re.search(args.person, s.file))]
    photos, people = [data.read(s) for s, _ in chosen], [person for _, person in chosen]
    faces = [pipe.encode(photo)[0] for photo in photos]
    report("landmark fit", [f.codes.shape[0] for f in faces], people)
    read = [read_crop(encoder, photo, face) for photo, face in zip(photos, faces)]
    floor = report(args.encoder, read, people)
    unit = torch.stack(read).std(0).norm()
    for name in args.pipelines:
        editor = EmoRigPipeline.from_pretrained(name)
        editor.set_progress_bar_config(disable=True)
        drift = []
        for photo, face, before in zip(photos, faces, read):
            generator = torch.Generator().manual_seed(0)
            edited = editor(photo, args.emotion, output_type="np", generator=generator).images[0]
            drift.append(float((read_crop(encoder, edited, face) - before).norm() / unit))
        median = float(np.median(drift))
        print(f"{name} to {args.emotion}: drift {median:.3f}, {median / floor:.2f} times one person's")


if __name__ == "__main__":
    main()
