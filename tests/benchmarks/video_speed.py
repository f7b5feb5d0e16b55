"""Frames a second of a clip's edit and of a photo that moves, stages, memory; beside single photos in the same run.

Some frames are drawn at a time, so that stages take more than a frame in all. On a busy machine processor time tells.

python tests/benchmarks/video_speed.py [--threads 2] [--frames 24] [--size 1280 720] [--face 250] [--clip FILE]
    [--memory-every 20]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import data

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.timing import recorded, timed
from emorig_diffusers.video.animate import animate
from emorig_diffusers.video.clips import Frame
from emorig_diffusers.video.edit import edit_clip
from emorig_diffusers.video.reading import open_clip
from emorig_diffusers.video.writing import write_clip

RATE = 25
FACE = 110  # pixels of the astronaut's face in scikit-image's photo, and its middle
MIDDLE = 223, 120


def moving(count: int, size: tuple[int, int], face: int) -> Iterator[Frame]:
    """The astronaut, who sways; frames of a size (width, height), the face so many pixels high."""
    photo = data.astronaut()
    for i in range(count):
        scale = face / FACE * (1 + 0.03 * np.sin(i / 9))
        shift = np.array(size) / 2 - scale * np.array(MIDDLE) + (20 * np.sin(i / 7), 6 * np.cos(i / 5))
        matrix = np.column_stack([scale * np.eye(2), shift])
        rgb = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        yield Frame(rgb, Fraction(i, RATE))


def memory() -> float:
    """Most that the process has held, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def held_now() -> float:
    """What the process holds, GB, where the system tells it as Linux does."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720))
    parser.add_argument("--face", type=int, default=250, help="height of the face, pixels")
    parser.add_argument("--clip", type=Path, help="another clip than the astronaut's")
    parser.add_argument("--emotion", default="happy")
    parser.add_argument("--memory-every", type=int, default=0, help="tell memory every so many frames, and no more")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    pipe = EmoRigPipeline.from_pretrained("emorig-open")
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        source = args.clip or Path(folder) / "in.mp4"
        if args.clip is None:
            write_clip(moving(args.frames, tuple(args.size), args.face), source)
        clip = open_clip(source)
        if args.memory_every:
            for i, _ in enumerate(edit_clip(pipe, clip, emotion=args.emotion)):
                if i % args.memory_every == 0:
                    print(f"frame {i:6d}  {held_now():6.2f} GB", flush=True)
            return
        photo = next(clip.frames()).rgb
        pipe(photo, args.emotion)  # the first one sets up what all use
        with recorded() as photos:
            for _ in range(3):
                with timed("photo"):
                    pipe(photo, args.emotion)
        held: list[float] = []
        busy: list[float] = []  # processor time when each frame is there: the first comes after the survey

        def watched() -> Iterator[Frame]:
            for frame in edit_clip(pipe, clip, emotion=args.emotion):
                held.append(memory())
                busy.append(time.process_time())
                yield frame

        with recorded() as seconds:
            start = time.perf_counter()
            count = write_clip(watched(), Path(folder) / "out.mp4", clip.settings, source)
            whole = time.perf_counter() - start
    start, used = time.perf_counter(), time.process_time()
    moved = len(list(animate(pipe, photo, args.frames / RATE, emotion=args.emotion)))
    animated, used = (time.perf_counter() - start) / moved, (time.process_time() - used) / moved
    survey = sum(seconds.pop("survey the clip"))
    frame, single = (whole - survey) / count, statistics.median(photos["photo"])
    for name, values in seconds.items():
        print(f"{name:22s} {sum(values) / count:7.3f} s a frame  {sum(values) / (whole - survey):6.1%}")
    print(f"a frame                {frame:7.3f} s, {1 / frame:.1f} a second; {count} frames, {clip.size}")
    print(f"processor time         {(busy[-1] - busy[0]) / (count - 1):7.3f} s a frame, after the first")
    print(f"a photo by itself      {single:7.3f} s, {single / frame:.2f} times a frame")
    print(f"animated from a photo  {animated:7.3f} s, {1 / animated:.1f} a second; {used:.3f} s of processor time")
    print(f"survey beforehand      {survey:7.3f} s")
    print(f"memory                 {held[len(held) // 2]:7.2f} GB at half the clip, {held[-1]:.2f} GB at its end")


if __name__ == "__main__":
    main()
