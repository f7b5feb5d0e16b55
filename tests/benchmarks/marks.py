"""How often the invisible mark of an edited face is found, after what happens to pictures, and how often by mistake.

    python tests/benchmarks/marks.py FOLDER [--photos 500] [--edited 100] [--model NAME]

Of the folder's photos, as many as asked for, the first `--edited` in a fixed random order are edited, with all emotions
in turn, and saved; every result is attacked in each way and looked at as `emorig verify` does, its metadata aside. The
others are looked at as they are and as JPEG 75: whatever counts as marked there is a false alarm. So does the search
for marks of other seeds on the same photos, which tells chance at lower rates. Then how far the mark changes results.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from emorig_diffusers.evaluation.metrics import LPIPS
from emorig_diffusers.evaluation.metrics.face_api import FaceApiJudge
from emorig_diffusers.evaluation.metrics.identity import IdentityJudge
from emorig_diffusers.evaluation.metrics.pixels import ssim
from emorig_diffusers.photo.faces import Face, choose_faces, find_faces
from emorig_diffusers.photo.files import is_photo
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.pipelines.base import FacePipeline, open_pipeline
from emorig_diffusers.provenance.watermark import THRESHOLD, detect

MARGIN = 0.15  # of the face's box, around it in a crop
SEEDS = (1, 2)  # of marks that nothing has

Table = dict[str, list[float]]
"""A row's name -> its figures, of every photo."""


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """As after JPEG with chroma at half size."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def scaled(image: Image.Image, scale: float, method: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """Of another size."""
    return image.resize([max(round(side * scale), 1) for side in image.size], method)


def cropped(image: Image.Image, face: Face) -> Image.Image:
    """Its face alone."""
    x0, y0, x1, y1 = face.box
    margin = MARGIN * (x1 - x0)
    return image.crop((int(x0 - margin), int(y0 - margin), int(x1 + margin), int(y1 + margin)))


ATTACKS: dict[str, Callable[[Image.Image, Face], Image.Image]] = {
    "none": lambda image, face: image,
    "JPEG 75": lambda image, face: jpeg(image, 75),
    "JPEG 50": lambda image, face: jpeg(image, 50),
    "half size": lambda image, face: scaled(image, 0.5),
    "crop of the face": cropped,
    "half size, JPEG 75": lambda image, face: jpeg(scaled(image, 0.5), 75),
    "crop, half size, JPEG 75": lambda image, face: jpeg(scaled(cropped(image, face), 0.5), 75),
    "screenshot: 1.37 times, JPEG 80": lambda image, face: jpeg(scaled(image, 1.37, Image.Resampling.BICUBIC), 80),
}


def interval(hits: int, count: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    share, z = hits / count, 1.96
    middle, reach = share + z * z / (2 * count), z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    low, high = (max(x, 0.0) / (1 + z * z / count) for x in (middle - reach, middle + reach))
    return f"{hits}/{count} = {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def measure_edits(pipe: FacePipeline, files: Sequence[Path]) -> tuple[Table, Table]:
    """Scores of edited photos after every attack, and what the mark changed."""
    scores, changes = defaultdict(list), defaultdict(list)
    lpips, judge, identity = LPIPS(), FaceApiJudge(), IdentityJudge()
    names = [name for name in pipe.emotion_names if name in judge.emotions and name != "neutral"]
    for i, file in enumerate(tqdm(files, desc="edited")):
        source, emotion = read_photo(file).rgb, names[i % len(names)]
        if not (faces := find_faces(source)):
            continue
        [face] = choose_faces(faces)
        result = pipe(source, emotion, faces=[face], generator=torch.manual_seed(0))
        plain = np.asarray(result.images[0])
        with tempfile.TemporaryDirectory() as folder:
            marked = read_photo(result.save(Path(folder) / "result.png")).rgb
        if (marked == plain).all():
            continue  # the face stayed as it was
        for name, attack in ATTACKS.items():
            seen = np.asarray(attack(Image.fromarray(marked), face))
            scores[name].append(detect(seen, find_faces(seen)).score)
        error = (marked.astype(float) - plain)[(marked != plain).any(-1)] ** 2
        x0, y0, x1, y1 = (max(int(side), 0) for side in face.box)
        parts = [picture[y0:y1, x0:x1] for picture in (plain, marked)]
        tensors = [torch.from_numpy(part.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for part in parts]
        told = [judge(picture, face.box)[emotion] for picture in (plain, marked)]
        known = [identity.embed(picture, face.landmarks) for picture in (source, plain, marked)]
        changes["PSNR of the pixels that change, dB"].append(10 * np.log10(255**2 / error.mean()))
        changes["SSIM of the face"].append(ssim(parts[0], parts[1]))
        changes["LPIPS of the face"].append(float(lpips.distance(*tensors)))
        changes["probability of the emotion (face-api), change"].append(told[1] - told[0])
        changes["CSIM with the source, change"].append(float(known[0] @ known[2] - known[0] @ known[1]))
    return scores, changes


def measure_others(files: Sequence[Path]) -> Table:
    """Scores of photos as they are."""
    alarms = defaultdict(list)
    for file in tqdm(files, desc="unedited"):
        rgb = read_photo(file).rgb
        if not (faces := find_faces(rgb)):
            continue
        alarms["none"].append(detect(rgb, faces).score)
        alarms["JPEG 75"].append(detect(np.asarray(jpeg(Image.fromarray(rgb), 75)), faces).score)
        alarms["none, marks of other seeds"] += [detect(rgb, faces, seed).score for seed in SEEDS]
    return alarms


def print_rates(title: str, table: Table) -> None:
    print(f"\n| {title} | score {THRESHOLD:g} or more [95 %] | median score | least | most |\n|---|---|---|---|---|")
    for name, each in table.items():
        rate = interval(sum(score >= THRESHOLD for score in each), len(each))
        print(f"| {name} | {rate} | {np.median(each):.1f} | {min(each):.1f} | {max(each):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--edited", type=int, default=100)
    parser.add_argument("--model", default="emorig-open")
    args = parser.parse_args()
    files = sorted(file for file in args.folder.rglob("*") if is_photo(file.name))
    random.Random(0).shuffle(files)
    pipe = open_pipeline(args.model)
    pipe.set_progress_bar_config(disable=True)
    scores, changes = measure_edits(pipe, files[: args.edited])
    print_rates("edited", scores)
    print("\n| what the mark changes | median | 5 % | 95 % |\n|---|---|---|---|")
    for name, each in changes.items():
        print(f"| {name} | {np.median(each):.4f} | {np.percentile(each, 5):.4f} | {np.percentile(each, 95):.4f} |")
    print_rates("not edited", measure_others(files[args.edited : args.photos]))


if __name__ == "__main__":
    main()
