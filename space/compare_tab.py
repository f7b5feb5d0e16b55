"""The tab that compares pipelines: what it shows, and what happens in it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
from comparing import Comparer
from jobs import PRIVATE
from parts import upload
from texts import in_all, say
from visitors import warn


def build(comparer: Comparer) -> None:
    """Create the tab."""
    with gr.Tab(say("compare.tab"), elem_id="compare-tab"):
        with gr.Row(elem_classes="bench"):
            with gr.Column(elem_id="compare-part"):
                source, target = map(_upload, ("source", "target"))
                modes = gr.CheckboxGroup(
                    [(say(f"compare.{mode}"), mode) for mode in comparer.modes], value=["exp"],
                    label=say("compare.modes"), elem_id="compare-modes",
                )  # fmt: skip
                run = gr.Button(say("compare.run"), variant="primary", size="lg", elem_id="run-compare")
                gr.Markdown(say("compare.about", names=", ".join(comparer.names)), elem_classes="about")
            with gr.Column(elem_id="compare-stage-part"):
                sheet = gr.Image(
                    show_label=False, type="filepath", format="png", interactive=False, buttons=["fullscreen"],
                    elem_id="sheet",
                )  # fmt: skip
                download = gr.DownloadButton(say("compare.download"), interactive=False, elem_id="download-sheet")
                table = gr.HTML(elem_id="distances")

        def show(source: str | None, target: str | None, modes: list[str]) -> tuple[Any, ...]:
            """The sheet, its download, and the table."""
            try:
                path, text = comparer.compare(source, target, modes, 0)
            except gr.Error as error:
                warn(error.message)
                return (gr.skip(),) * 3
            return path, gr.update(value=path, interactive=True), _draw_table(text)

        run.click(
            show, [source, target, modes], [sheet, download, table], show_progress_on=sheet, concurrency_id="edit",
            concurrency_limit=1, **PRIVATE,
        )  # fmt: skip


def _upload(role: str) -> gr.Image:
    """An upload under what it is for."""
    gr.Markdown(f"**{say(f'compare.{role}')}**")
    return upload(say("photo"), ["upload", "clipboard"], height=220, elem_id=f"compare-{role}")


def _draw_table(text: str) -> str:
    """Distances, and the times of stages folded away, as HTML."""
    distances, _, times = html.escape(text).partition("\n\n")
    folded = f"<details><summary>{in_all(say('compare.times'))}</summary><pre tabindex=0>{times}</pre></details>"
    return f"<pre tabindex=0>{distances}</pre>{folded}"
