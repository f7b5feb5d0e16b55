"""The tab of many photos: what it shows, and what happens in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from batch import BatchProgress, edit_batch
from editor import Editor, request
from faces import face_choices
from jobs import IDLE, QUIET, job, status
from parts import Given, emotion_choice, strength_slider, upload_photos
from texts import say
from visitors import warn


def build(editor: Editor) -> None:
    """Create the tab, where the pipeline knows emotions."""
    with gr.Tab(say("batch.tab"), visible=bool(editor.offer.emotions), elem_id="batch-tab"):
        with gr.Row(elem_classes="bench"):
            with gr.Column(elem_id="batch-part"):
                photos = upload_photos(say("batch.photos"), elem_id="batch-photos")
            with gr.Column(elem_id="batch-mood-part"):
                emotion = emotion_choice(editor.offer.emotions, "batch-emotion")
                strength = strength_slider("batch-strength")
                face = gr.Radio(
                    face_choices(), value="largest", label=say("batch.face"), elem_id="batch-face",
                    elem_classes="choices",
                )  # fmt: skip
                run, stop = job(say("batch.run"), variant="primary", size="lg", elem_id="run-batch")
            with gr.Column(elem_id="batch-stage-part"):
                line = status()
                table = gr.HTML(elem_id="batch-table", padding=False)
                download = gr.DownloadButton(say("batch.download"), interactive=False, elem_id="download-batch")
        BatchTab(editor).wire([photos, emotion, strength, face], [run, stop, line, table, download])


class BatchTab:
    """What the tab's events do. To stop is to ask for what is done by then: the job itself ends after its photo."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self._stopping: set[str] = set()

    def wire(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Connect the page's components: run, stop, line, table, download."""
        run, stop = outputs[:2]
        run.click(self.show, inputs, outputs, concurrency_id="batch", concurrency_limit=1, **QUIET)
        stop.click(self.stop, None, stop, queue=False, **QUIET)

    def stop(self, visit: gr.Request) -> Any:
        """Ask for an end."""
        self._stopping.add(str(visit.session_hash))
        return gr.update(visible=False)

    def show(
        self, photos: list[Given] | None, emotion: str | None, intensity: float, face: str, visit: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """What the page shows while photos are edited, and then."""
        asker, running = str(visit.session_hash), (gr.update(visible=False), gr.update(visible=True))
        self._stopping.discard(asker)
        try:
            stopped = lambda: asker in self._stopping
            for made in edit_batch(self.editor, photos, face, 0, request(emotion, intensity), stopped):
                shown = gr.update(value=made.html, visible=True), gr.update(value=made.table)
                if made.finished:
                    yield *IDLE, *shown, _download(made)
                elif not made.done:
                    yield *running, *shown, gr.update(value=None, interactive=False)
                else:
                    yield gr.skip(), gr.skip(), *shown, gr.skip()
        except gr.Error as error:
            warn(error.message)
            yield *IDLE, gr.update(value="", visible=False), gr.skip(), gr.skip()
        finally:
            self._stopping.discard(asker)


def _download(made: BatchProgress) -> Any:
    return gr.update(value=made.result and str(made.result), interactive=made.result is not None)
