"""Scans of heads and the neural head that is fitted to them, while a page waits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Lock
from time import monotonic

import gradio as gr
import numpy as np
import torch
from clips import TICK
from jobs import Progress
from texts import in_all, say
from visitors import friendly, new_folder

from emorig_diffusers.cli.head_fit import POOR, in_scan, write_fit
from emorig_diffusers.data.scans import Scan, as_points, read_scan, unit_of
from emorig_diffusers.mesh.surfaces import write_surfaces
from emorig_diffusers.models.geometry import Surface
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.models.nphm_fit import STEPS, HeadFit, fit_scan
from emorig_diffusers.models.scan_alignment import largest_part

KINDS = (".ply", ".obj", ".glb", ".npz")  # of scans that are taken
THREAD = "scan-fit"  # begins the name of a thread that fits
RESOLUTION = 128  # cells of the shown surface a side: 2 mm, in seconds
TURN = Lock()  # one fit works at a time: one that has been stopped may be at a step yet
SHOWN, FITTED, CODES = "shown.glb", "{name}_head.glb", "{name}_codes.json"  # files of a fit


@dataclass(frozen=True)
class FitProgress(Progress):
    """How far a fit is, in steps; `result` is the folder with its files."""

    misfit: float | None = None

    @property
    def html(self) -> str:
        """As `Progress.html`."""
        if self.misfit is not None:
            return in_all(say("scan.done", seconds=self.seconds, misfit=self.misfit * 1000))
        if not self.done:
            return f"<progress></progress> {in_all(say('scan.looking'))}"
        if self.done == self.total:
            return f"<progress></progress> {in_all(say('scan.drawing'))}"
        left = (self.total - self.done) * self.seconds / self.done if self.total else 0.0
        line = in_all(say("scan.step", done=self.done, total=self.total, seconds=left))
        return f'<progress value="{self.done}" max="{self.total}"></progress> {line}'


class _Stopped(Exception):
    """Ends the fit's thread."""


def fit_steps(head: NeuralHeadModel, path: str | None) -> Iterator[FitProgress]:
    """Fit a head to an uploaded scan, and say how far that is, after every step, and every TICK without one; where the
    visitor stops it, nothing is left, and the thread ends at its next step without keeping anybody up.

    Raises:
        gr.Error: With one sentence for the visitor.
    """
    if not path:
        raise gr.Error(say("no_scan"), print_exception=False)
    with friendly(path):
        scan, start = read_scan(Path(path)), monotonic()
        made = FitProgress(total=STEPS)
        yield made
        cloud = as_points(replace(scan, exact=None), np.random.default_rng(0))
        name, unit = unit_of(cloud.points)
        steps: Queue[int | None] = Queue()
        stopped = False

        def count(step: int, _: float) -> None:
            if stopped:
                raise _Stopped
            steps.put(step + 1)

        def fit() -> HeadFit:
            try:
                with TURN:
                    return fit_scan(head, cloud.points, cloud.normals, unit, bool(name), steps=STEPS, progress=count)
            finally:
                steps.put(None)

        pool = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        job, first = pool.submit(fit), 0.0
        try:
            while True:
                try:
                    done = steps.get(timeout=TICK)
                except Empty:
                    yield made
                    continue
                if done is None:
                    break
                first = first or monotonic()
                made = replace(made, done=done, seconds=monotonic() - first)
                yield made
            found = job.result()
        finally:
            stopped = True  # where the visitor does not wait for it
            pool.shutdown(wait=False, cancel_futures=True)
        folder = write_files(head, scan, found, Path(path).stem)
        notes = (say("scan.poor"),) if found.misfit > POOR else ()
        yield replace(made, result=folder, misfit=found.misfit, seconds=monotonic() - start, notes=notes)


def write_files(head: NeuralHeadModel, scan: Scan, found: HeadFit, name: str) -> Path:
    """A new folder with SHOWN (upright, in metres, beside the scan where that is a mesh), FITTED (on the scan, in its
    coordinates) and CODES of a fit."""
    surface = largest_part(head.surface(found.shape, found.expression, resolution=RESOLUTION))
    row = {"head": surface}
    if scan.is_mesh:
        placed = torch.from_numpy(found.placement.apply(scan.points.astype(np.float64))).float()
        row = {"scan": Surface(placed, torch.from_numpy(np.asarray(scan.faces, np.int64)))} | row
    folder = new_folder()
    write_surfaces(row, folder / SHOWN)
    write_surfaces(in_scan(surface, found), folder / FITTED.format(name=name))
    write_fit(folder / CODES.format(name=name), found)
    return folder
