"""Presets on the page: kept in the browser, as a file, as a link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import photo_page as page
import presets
from gradio.context import Context
from jobs import QUIET
from looks import Edits, Sitting
from parts import uploaded
from texts import say
from visitors import friendly, new_folder, warn

from emorig_diffusers.pipelines.base import FacePipeline

if TYPE_CHECKING:
    from photo_tab import PhotoTab

WHOLE_LINK = "query => location.origin + location.pathname + query"


def edits_of(steps: Sequence[Mapping[str, Any]]) -> Edits:
    """A preset's steps, as the page's controls can show them."""
    return presets.edits_of(steps, page.MAX_ANGLE)


def wire(tab: PhotoTab) -> None:
    """Connect the components."""
    shown, pipe = tab.page.presets, tab.editor.pipe

    def choices(kept: list[dict[str, Any]], name: str | None = None) -> Any:
        return gr.update(choices=[preset["name"] for preset in kept], value=name)

    def save(name: str, kept: list[dict[str, Any]], sitting: Sitting, *controls: Any) -> dict[Any, Any]:
        """Keep what the controls ask of the present face."""
        preset = presets.make(name, tab.wanted_edits(sitting, controls))
        if not preset["edits"]:
            warn(say("nothing_yet"))
            return {shown.kept: kept}
        kept = [one for one in kept if one["name"] != preset["name"]] + [preset]
        return {
            shown.kept: kept,
            shown.chosen: choices(kept, preset["name"]),
            shown.file: gr.update(value=presets.write(preset, new_folder()), interactive=True),
            shown.link: gr.update(value=presets.query(preset), visible=True),
        }

    def apply(sitting: Sitting, preset: dict[str, Any] | None) -> dict[Any, Any]:
        return tab.with_preset(sitting, preset) if preset else tab.nothing

    def choose(name: str | None, kept: list[dict[str, Any]], sitting: Sitting) -> dict[Any, Any]:
        """One that the browser keeps."""
        found = next((one for one in kept if one.get("name") == name), None)
        return apply(sitting, found and tried(lambda: presets.read(pipe, found)))

    def load(path: str, sitting: Sitting) -> dict[Any, Any]:
        """One from a file."""
        return apply(sitting, of_file(pipe, path))

    def arrive(kept: list[dict[str, Any]], sitting: Sitting, visitor: gr.Request) -> dict[Any, Any]:
        """One from the page's own link, and the names of those that the browser keeps."""
        named = [one for one in kept or [] if isinstance(one, Mapping) and isinstance(one.get("name"), str)]
        preset = tried(lambda: presets.of_query(pipe, dict(visitor.query_params)))
        return {**apply(sitting, preset), shown.chosen: choices(named)}

    saved = [shown.kept, shown.chosen, shown.file, shown.link]
    inputs = [shown.name, shown.kept, tab.sitting, *tab.page.controls]
    gr.on([shown.save.click, shown.name.submit], save, inputs, saved, **QUIET).then(
        None, shown.link, shown.link, js=WHOLE_LINK
    )
    told = {"outputs": tab.everything, **tab.queue}
    shown.chosen.input(choose, [shown.chosen, shown.kept, tab.sitting], **told)
    shown.load.upload(load, [shown.load, tab.sitting], **told)
    Context.root_block.load(arrive, [shown.kept, tab.sitting], [*tab.everything, shown.chosen], **QUIET)


def of_file(pipe: FacePipeline, path: str) -> dict[str, Any] | None:
    """The preset of an uploaded file, or none and a sentence for the visitor; without a name it has the file's."""
    with open(str(uploaded(path)), encoding="utf-8", errors="replace") as file:
        text = file.read(presets.MOST_BYTES + 1)
    preset = tried(lambda: presets.read(pipe, presets.parse(text)))
    return preset and {**preset, "name": preset["name"] or Path(path).stem[: presets.MOST_NAME]}


def tried(read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """A preset, or none and a sentence for the visitor."""
    try:
        with friendly():
            return read()
    except gr.Error as error:
        warn(error.message)
        return None
