"""Neutral photo -> each emotion, against the same person's real expression.

    python tests/benchmarks/expression_targets.py EXPRESSIONS [--left-out] [--sheet SHEET.png] [--pipeline NAME]

EXPRESSIONS has a manifest.csv: file, person, expression. With `--left-out` every person is edited by a head whose units
were fitted without them (train/fit_expressions.py), as strangers are. Prints, for every expression, LPIPS to the real
one by region and that of the untouched photo, how many are nearer, the flow within the face that is left over, what two
judges name in ours and in the real one, SFace's similarity to the neutral photo of ours and of the real expression, and
how much of a person's motion of landmarks the others' median leaves, which no motion that is one for everybody can much
undercut. The sheet has neutral, real and ours of every person, then brows and eyes, nose, and mouth enlarged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.photo.resample import warp_crop
from emorig_diffusers.training.expressions.fields import make_atlas
from emorig_diffusers.training.expressions.targets import (
    REGIONS,
    Ruler,
    Target,
    by_expression,
    left_by_others,
    read_targets,
)
from emorig_diffusers.training.expressions.units import fit, read_motions

TILE = 256  # side of a sheet's pictures, pixels


def pipelines(args: argparse.Namespace, people: list[str]) -> Iterator[tuple[EmoRigPipeline, list[str]]]:
    """Pipelines, and whom each of them edits."""
    pipe = EmoRigPipeline.from_pretrained(args.pipeline)
    pipe.set_progress_bar_config(disable=True)
    if not args.left_out:
        yield pipe, people
        return
    atlas = make_atlas(pipe.head)
    for person in people:
        head = fit(pipe, read_motions(pipe, atlas, args.expressions, [person]))
        other = EmoRigPipeline(**pipe.components | {"head": head})
        other.set_progress_bar_config(disable=True)
        yield other, [person]


def edit(pipe: EmoRigPipeline, target: Target) -> np.ndarray:
    """The neutral photo with the target's emotion."""
    generator = torch.Generator().manual_seed(0)
    return pipe(target.neutral, target.emotion, output_type="np", generator=generator).images[0]


def tiles(target: Target, edited: np.ndarray) -> np.ndarray:
    """Neutral, real and ours side by side; below each its regions enlarged."""
    crops = [warp_crop(target.neutral, target.matrix, TILE), target.real, warp_crop(edited, target.matrix, TILE)]
    rows = [np.hstack(crops)]
    for region, box in target.boxes().items():
        if region != "face":
            shown = [crop[box] for crop in crops]
            size = TILE, round(TILE * shown[0].shape[0] / shown[0].shape[1])
            rows.append(np.hstack([cv2.resize(s, size, interpolation=cv2.INTER_CUBIC) for s in shown]))
    return np.vstack(rows)


def save_sheet(path: Path, shown: list[np.ndarray]) -> None:
    """Write pictures [H, W, 3] of different heights in rows of four."""
    height = max(len(s) for s in shown)
    padded = [np.pad(s, ((0, height - len(s)), (0, 8), (0, 0)), constant_values=255) for s in shown]
    padded += [np.full_like(padded[0], 255)] * (-len(padded) % 4)
    Image.fromarray(np.vstack([np.hstack(padded[i : i + 4]) for i in range(0, len(padded), 4)])).save(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expressions", type=Path)
    parser.add_argument("--left-out", action="store_true", help="fit units anew without the person who is edited")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--pipeline", default="emorig-open")
    args = parser.parse_args()
    targets = [t for t in read_targets(args.expressions) if t.emotion in EMOTIONS]
    ruler, figures, shown = Ruler(), {}, []
    for pipe, people in pipelines(args, sorted({t.person for t in targets})):
        for target in (t for t in targets if t.person in people):
            edited = edit(pipe, target)
            figures[target.person, target.expression] = ruler.to(target).measure(edited)
            shown.append(tiles(target, edited))
    left = left_by_others(targets)
    for expression, row in by_expression(figures).items():
        others = np.mean([share for (_, what), share in left.items() if what == expression] or [np.nan])
        regions = "; ".join(
            f"{r} {row['lpips ' + r]:.3f} (unedited {row['unedited lpips ' + r]:.3f}, "
            f"nearer {row['nearer ' + r]:.2f}), flow {row['flow ' + r]:.2f}" for r in REGIONS
        )  # fmt: skip
        judged = ", ".join(f"{name} {row[name]:.2f} (real {row[name + ' real']:.2f})" for name in ruler.judges)
        print(f"{expression}: LPIPS {regions}; {judged}; SFace {row['sface']:.3f} (real {row['sface acted']:.3f}), "
              f"to the real one {row['sface real']:.3f}; the others' median leaves {others:.2f} of motion")  # fmt: skip
    if args.sheet:
        save_sheet(args.sheet, shown)


if __name__ == "__main__":
    main()
