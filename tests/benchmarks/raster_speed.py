"""Milliseconds to rasterise the open head, and how they grow with size and batch, as ratios to one head at 256.

    python tests/benchmarks/raster_speed.py [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.render.camera import ndc_to_pixels, project
from emorig_diffusers.render.rasterize import rasterize


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    head = EmoRigPipeline.from_pretrained("emorig-open").head
    points = project(head.template[None], torch.tensor([[8.0, 0.0, 0.0]]))
    first = None
    for size, batch in ((256, 1), (512, 1), (1024, 1), (256, 8)):
        pixels = ndc_to_pixels(points, size).repeat(batch, 1, 1)
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            rasterize(pixels, head.faces, size, size)
            seconds.append(time.perf_counter() - start)
        middle = statistics.median(seconds)
        first = first or middle
        print(f"{batch} x {size:4d}: {middle * 1e3:7.1f} ms, {middle / first:5.2f} times the first")


if __name__ == "__main__":
    main()
