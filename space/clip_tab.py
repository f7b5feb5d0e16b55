"""The tab of clips: what happens in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clip_page
import gradio as gr
from clips import number_people, playable
from editor import Editor, request
from faces import choose_among, pick_face
from jobs import QUIET, steps, wire_job
from texts import say

EMPTY = (None, None, gr.update(value=None, interactive=False), gr.update(interactive=False))


def build(editor: Editor) -> None:
    """Create the tab, where the pipeline knows emotions."""
    with gr.Tab(say("clip.tab"), visible=bool(editor.offer.emotions)):
        shown = clip_page.lay_out(editor.offer)

        def show(
            clip: str | None, emotion: str | None, intensity: float, face: str, photo: str | None
        ) -> Iterator[tuple[Any, ...]]:
            """What the page shows while a clip is edited or moves a photo, and then: controls, before, after,
            download."""

            def stage(path: str) -> tuple[Any, ...]:
                before = clip and str(playable(Path(clip)))
                return before, path, gr.update(value=path, interactive=True), gr.update(interactive=True)

            if photo:
                job = editor.clips.drive(photo, clip, face, intensity, 0)
            else:
                job = editor.clips.edit(clip, face, 0, request(emotion, intensity))
            yield from steps(job, EMPTY, stage)

        found = [shown.preview, shown.face, shown.frames, *shown.stage]
        shown.clip.change(look, shown.clip, found, **QUIET)
        shown.preview.select(pick_face, shown.frames, shown.face, **QUIET)
        wire_job(shown.job, show, shown.inputs, shown.stage, "clip")


def look(clip: str | None) -> tuple[Any, ...]:
    """Find the people of a new clip: preview, choices, their frames, and an empty stage."""
    picture, frames, count = number_people(clip) if clip else (None, {}, 0)
    return gr.update(value=picture, visible=count > 1), choose_among(count), frames, *EMPTY
