"""The tab of many photos: what it shows, and what happens in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import presets
from batch import BatchProgress, edit_batch
from editor import Editor, request
from faces import face_choices
from jobs import IDLE, QUIET, job, status
from parts import Given, emotion_choice, heard, strength_slider, upload_photos
from preset_part import of_file
from texts import say
from visitors import friendly, warn

from emorig_diffusers.face.sentence import LONGEST


def build(editor: Editor, kept: gr.BrowserState) -> None:
    """Create the tab, where the pipeline knows emotions; presets are those that the visitor's browser keeps."""
    with gr.Tab(say("batch.tab"), visible=bool(editor.offer.emotions), elem_id="batch-tab") as tab:
        with gr.Row(elem_classes="bench"):
            with gr.Column(elem_id="batch-part"):
                photos = upload_photos(say("batch.photos"), elem_id="batch-photos")
            with gr.Column(elem_id="batch-mood-part"):
                emotion = emotion_choice(editor.offer.emotions, "batch-emotion")
                strength = strength_slider("batch-strength")
                words = gr.Textbox(
                    label=say("batch.prompt"), placeholder=say("prompt.example"), max_lines=1, max_length=LONGEST,
                    elem_id="batch-prompt",
                )  # fmt: skip
                with gr.Row(elem_id="batch-presets"):
                    preset = gr.Dropdown(
                        preset_choices([]), value="", label=say("batch.preset"), min_width=160, scale=2,
                        elem_id="batch-preset",
                    )  # fmt: skip
                    load = gr.UploadButton(say("presets.load"), file_types=[".json"], size="sm", min_width=150)
                face = gr.Radio(
                    face_choices(), value="largest", label=say("batch.face"), elem_id="batch-face",
                    elem_classes="choices",
                )  # fmt: skip
                run, stop = job(say("batch.run"), variant="primary", size="lg", elem_id="run-batch")
            with gr.Column(elem_id="batch-stage-part"):
                line = status()
                table = gr.HTML(elem_id="batch-table", padding=False)
                download = gr.DownloadButton(say("batch.download"), interactive=False, elem_id="download-batch")
        loaded = gr.State(None)
        named = lambda kept, loaded: gr.update(choices=preset_choices([*(kept or []), *filter(None, [loaded])]))
        tab.select(named, [kept, loaded], preset, **QUIET)
        arrived = load.upload(lambda path: of_file(editor.pipe, path), load, loaded, **QUIET)
        arrived.then(named, [kept, loaded], preset, **QUIET).then(
            lambda loaded: loaded["name"] if loaded else gr.skip(), loaded, preset, **QUIET
        )
        wanted = [emotion, strength, words, preset, kept, loaded]
        BatchTab(editor).wire([photos, face, *wanted], [run, stop, line, table, download])


def preset_choices(presets: Sequence[Any]) -> list[tuple[str, str]]:
    """None, and each of some presets by its name."""
    names = dict.fromkeys(one["name"] for one in presets if isinstance(one, Mapping) and one.get("name"))
    return [("–", ""), *((name, name) for name in names)]


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

    def asked(
        self, emotion: str | None, intensity: float, words: str, preset: str, kept: Any, loaded: Any
    ) -> dict[str, Any]:
        """What every photo gets: a preset, or else what words say, or else an emotion; gr.Error where that is none."""
        if preset:
            known = [one for one in (loaded, *(kept or [])) if isinstance(one, Mapping)]
            with friendly():
                found = next((one for one in known if one.get("name") == preset), None)
                steps = presets.read(self.editor.pipe, found)["edits"]
            return {"edits": steps} if self.editor.offer.head else steps[0]
        if words and words.strip():
            heard(words)
            return request(None, intensity, prompt=words)
        return request(emotion, intensity)

    def show(self, photos: list[Given] | None, face: str, visit: gr.Request, *wanted: Any) -> Iterator[tuple[Any, ...]]:
        """What the page shows while photos are edited, and then."""
        asker, running = str(visit.session_hash), (gr.update(visible=False), gr.update(visible=True))
        self._stopping.discard(asker)
        try:
            stopped = lambda: asker in self._stopping
            for made in edit_batch(self.editor, photos, face, 0, self.asked(*wanted), stopped):
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
