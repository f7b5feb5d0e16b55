"""Put a trained pipeline into the package: half precision, with the emotions' recipes written into its index.

python train/tools/bundle.py run/pipeline emorig_diffusers/weights/emorig-open [--default_num_inference_steps 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import RECIPES
from emorig_diffusers.training.trainer import write_whole


def bundle(source: Path, target: Path, steps: int | None = None) -> None:
    """Write `target` anew from the pipeline in `source`; the old folder stays until the new one is whole."""
    pipe = EmoRigPipeline.from_pretrained(source)
    pipe = EmoRigPipeline(**pipe.components, emotions=RECIPES, default_num_inference_steps=steps)

    def save(folder: Path) -> None:
        for name in ("head", "unet"):
            pipe.components[name].half().save_pretrained(folder / name)
        pipe.encoder.save_pretrained(folder / "encoder")
        pipe.scheduler.save_pretrained(folder / "scheduler")
        pipe.save_config(folder)

    write_whole(save, target)
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--default_num_inference_steps", type=int, help="steps to store in the checkpoint")
    args = parser.parse_args()
    bundle(args.source, args.target, args.default_num_inference_steps)


if __name__ == "__main__":
    main()
