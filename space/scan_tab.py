"""The tab of scans: a neural head is fitted to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from jobs import Job, job, status, steps, wire_job
from parts import give_again, uploaded
from scans import CODES, FITTED, KINDS, SHOWN, fit_steps
from texts import say

from emorig_diffusers.models.nphm import NeuralHeadModel

EMPTY = (None, gr.update(value=None, interactive=False), gr.update(value=None, interactive=False))


def build(head: NeuralHeadModel | None) -> None:
    """Create the tab; without a head it says what it needs."""
    with gr.Tab(say("scan.tab")):
        if head is None:
            gr.Markdown(say("scan.none"), elem_id="no-scans")
            return
        with gr.Row(elem_classes="bench"):
            with gr.Column(elem_id="scan-part"):
                scan = upload_scan()
                gr.Markdown(say("scan.about"))
                run, stop = job(say("scan.run"), variant="primary", size="lg", elem_id="run-scan")
            with gr.Column(elem_id="scan-stage-part"):
                line = status()
                shown = gr.Model3D(
                    show_label=False, height=560, camera_position=(90, 90, 0.6), interactive=False, elem_id="fit"
                )
                with gr.Row():
                    fitted = gr.DownloadButton(say("scan.download"), interactive=False, elem_id="download-fit")
                    codes = gr.DownloadButton(say("scan.codes"), interactive=False, elem_id="download-codes")

        def fit(path: str | None) -> Iterator[tuple[Any, ...]]:
            """What the page shows while a head is fitted, and then: controls, the head, its file and its codes."""

            def stage(folder: str) -> tuple[Any, ...]:
                name, place = Path(str(path)).stem, Path(folder)
                files = (str(place / file.format(name=name)) for file in (FITTED, CODES))
                return str(place / SHOWN), *(gr.update(value=file, interactive=True) for file in files)

            yield from steps(fit_steps(head, path), EMPTY, stage)

        fits = wire_job(Job(run, stop, line), fit, [scan], [shown, fitted, codes], "scan")
        give_again(fits.then, shown)


def upload_scan() -> gr.File:
    """An upload of a scan whose value is the path of the untouched file."""
    scan = gr.File(label=say("scan"), file_types=list(KINDS), height=180, elem_id="scan")

    def path_of(data: FileData | None) -> str | None:
        return uploaded(data.path) if data else None

    scan.preprocess = path_of
    return scan
