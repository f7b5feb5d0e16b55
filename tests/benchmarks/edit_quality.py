"""Edit photos into all eight emotions; draw the contact sheet; count what independent judges see.

    python tests/benchmarks/edit_quality.py PHOTOS... -o OUT

Writes sheet.png and figures.json. Judges: fer's network for the emotion (weak: see metrics/emotion.py), SFace for
identity.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from emorig_diffusers import EMOTIONS, EmoRigPipeline
from emorig_diffusers.faces import choose_faces, find_faces
from emorig_diffusers.metrics import EmotionJudge, IdentityJudge
from emorig_diffusers.photos import read_photo

CELL = 192


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="emorig-open")
    parser.add_argument("--intensity", type=float, default=1.0)
    parser.add_argument("--without_network", action="store_true", help="the warp alone, for comparison")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pipe = EmoRigPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    if args.without_network:
        pipe.unet = None
    emotion, identity = EmotionJudge(), IdentityJudge()
    rows, sheet = [], Image.new("RGB", (CELL * 9, CELL * len(args.photos) + 20), "white")
    for line, path in enumerate(tqdm(args.photos)):
        photo = read_photo(path).rgb
        face = choose_faces(find_faces(photo))[0]
        own, before = identity.embed(photo, face.landmarks), emotion(photo, face.box)
        for column, name in enumerate(EMOTIONS):
            result = pipe(path, name, args.intensity, generator=torch.Generator().manual_seed(0), output_type="np")
            edited, after = result.images[0], emotion(result.images[0], face.box)
            rows.append({
                "photo": path.name,
                "emotion": name,
                "before": before.get(name),
                "after": after.get(name),
                "top": max(after, key=after.get),
                "identity": identity.similarity(own, identity.embed(edited, face.landmarks)),
            })  # fmt: skip
            if column == 0:
                paste(sheet, Image.fromarray(photo), face.box, 0, line, "input")
            paste(sheet, Image.fromarray(edited), face.box, column + 1, line, name)
    sheet.save(args.out / "sheet.png")
    (args.out / "figures.json").write_text(json.dumps(rows, indent=1))
    report(rows)


def paste(sheet: Image.Image, photo: Image.Image, box: tuple, column: int, line: int, title: str) -> None:
    """Put the surroundings of a face into a cell."""
    centre, half = np.array([box[0] + box[2], box[1] + box[3]]) / 2, max(box[2] - box[0], box[3] - box[1]) * 0.75
    cell = photo.crop((*(centre - half).round().astype(int), *(centre + half).round().astype(int)))
    sheet.paste(cell.resize((CELL, CELL), Image.Resampling.LANCZOS), (column * CELL, line * CELL + 20))
    if line == 0:
        ImageDraw.Draw(sheet).text((column * CELL + 8, 4), title, fill="black")


def report(rows: list[dict]) -> None:
    """Print a table: how often the target's probability rose, how often it came first, identity."""
    print("| emotion | rose | first | mean before | mean after | identity median |\n|---|---|---|---|---|---|")
    for name in EMOTIONS:
        mine = [r for r in rows if r["emotion"] == name]
        same = f"{np.median([r['identity'] for r in mine]):.3f}"
        if mine[0]["after"] is None:
            print(f"| {name} | – | – | – | – | {same} |")
            continue
        rose, first = sum(r["after"] > r["before"] for r in mine), sum(r["top"] == name for r in mine)
        before, after = (np.mean([r[k] for r in mine]) for k in ("before", "after"))
        print(f"| {name} | {rose}/{len(mine)} | {first}/{len(mine)} | {before:.2f} | {after:.2f} | {same} |")


if __name__ == "__main__":
    main()
