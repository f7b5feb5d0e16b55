"""Seconds per stage and peak memory of one edit of a 512-pixel photo.

    python tests/benchmarks/edit_speed.py [--threads 2] [--repeat 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch
from skimage import data

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.timing import recorded, timed


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
    busy = []
    with recorded() as seconds:
        for _ in range(args.repeat):
            used = time.process_time()
            with timed("whole edit"):
                pipe(photo, "surprise")
            busy.append(time.process_time() - used)
    whole = statistics.median(seconds["whole edit"])
    for name, values in seconds.items():
        share = statistics.median(values)
        print(f"{name:22s} {share:7.3f} s  {share / whole:6.1%}")
    print(f"processor time         {statistics.median(busy):7.3f} s")
    print(f"peak memory            {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GB")


if __name__ == "__main__":
    main()
