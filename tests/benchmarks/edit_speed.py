"""Seconds per stage and peak memory of one edit of a 512-pixel photo.

    python tests/benchmarks/edit_speed.py [--threads 2] [--repeat 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from skimage import data

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face import encode
from emorig_diffusers.painting.stages import composite, flow
from emorig_diffusers.pipelines import emorig

STAGES = {
    "find faces": (encode, "find_faces"),
    "fit codes": (EmoRigPipeline, "encode_face"),
    "plan motion": (flow.PhotoTexture, "warp"),
    "move pixels": (emorig, "move_pixels"),
    "choose and fill": (composite, "plan"),
    "network": (EmoRigPipeline, "_paint"),
    "wrinkles": (emorig, "shade_wrinkles"),
    "paste back": (composite, "finish"),
    "buffers for the output": (EmoRigPipeline, "_describe"),
}


def timed(function: Callable, name: str, seconds: dict[str, list[float]]) -> Callable:
    """The same function, noting how long it takes."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name].append(time.perf_counter() - start)

    return call


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    pipe = EmoRigPipeline.from_pretrained("emorig-open")
    pipe.set_progress_bar_config(disable=True)
    print(f"open the pipeline      {time.perf_counter() - start:7.3f} s")
    photo = data.astronaut()
    pipe(photo, "surprise")
    seconds: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        for name, (owner, attribute) in STAGES.items():
            stack.enter_context(patch.object(owner, attribute, timed(getattr(owner, attribute), name, seconds)))
        for _ in range(args.repeat):
            timed(pipe, "whole edit", seconds)(photo, "surprise")
    whole = statistics.median(seconds["whole edit"])
    for name, values in seconds.items():
        share = statistics.median(values)
        print(f"{name:22s} {share:7.3f} s  {share / whole:6.1%}")
    print(f"peak memory            {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GB")


if __name__ == "__main__":
    main()
