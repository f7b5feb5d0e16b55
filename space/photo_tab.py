"""The tab of photos: what happens in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import photo_page as page
from editor import Editor, before_picture, for_browsers, request, save
from faces import choose_among, number_faces, pick_face
from jobs import PRIVATE, QUIET, steps, wire_job
from texts import say
from visitors import friendly

from emorig_diffusers.photo.faces import choose_faces, find_faces
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.pipelines.outputs import notes_of

EMPTY = (None, gr.update(value=None, interactive=False), None, None, gr.update(visible=False))


def build(editor: Editor, examples: Path) -> None:
    """Create the tab; example photos are written into a folder."""
    with gr.Tab(say("photo.tab")):
        PhotoTab(editor).wire(page.lay_out(editor.offer, examples))


class PhotoTab:
    """What the tab's events do."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    def wire(self, shown: page.Page) -> None:
        """Connect the page's components."""
        edit = {
            "outputs": shown.stage,
            "show_progress_on": shown.stage[0],
            "trigger_mode": "always_last",
            "concurrency_id": "edit",
            "concurrency_limit": 1,
            **PRIVATE,
        }
        again = {"fn": self.show_again, "inputs": [shown.frames, *shown.inputs], **edit}
        asked = [shown.run.click, shown.emotion.input]
        gr.on(asked, self.show, shown.inputs, **edit)
        gr.on(asked, js=page.SCROLL, fn=None)
        names, amount = shown.attributes
        sliders = [shown.strength, shown.shape, amount, *shown.angles, *shown.units, shown.sampling[1]]
        others = [shown.face.input, shown.reference.change, names.input, shown.sampling[0].submit]
        gr.on([*others, *(slider.release for slider in sliders)], **again)
        found = [shown.preview, shown.face, shown.frames, *shown.stage]
        # the photo is never given an update, not even gr.skip(): gradio would make it anew, without `parts.uploaded`
        converted = gr.State()
        shown.photo.upload(for_browsers, shown.photo, converted, **QUIET)
        converted.change(lambda path: path, converted, shown.photo, **QUIET)
        shown.photo.change(look, shown.photo, found, **QUIET).then(**again)
        shown.preview.select(pick_face, shown.frames, shown.face, **QUIET).then(**again)
        animation = shown.animation
        inputs = [*animation.how, *shown.inputs]
        wire_job(animation.job, self.show_animation, inputs, animation.stage, "animation")
        for button, reset in shown.resets:
            button.click(lambda *values: [0] * len(values), reset, reset, **QUIET).then(**again)

    def show(
        self,
        photo: str | None,
        emotion: str | None,
        intensity: float,
        face: str,
        reference: str | None,
        seed: float | None,
        count: int,
        shape: float,
        attributes: list[str],
        amount: float,
        *moved: float,
    ) -> tuple[Any, ...]:
        """What the page shows of an edit: before and after, download, buffers, heads."""
        others = {"attributes": dict.fromkeys(attributes, amount), "shape_guidance": page.MOST_SHAPE * shape}
        asked = request(emotion, intensity, reference, count, *moves(moved), **others)
        try:
            result, fitted = self.editor.edit(photo, face, seed, asked)
            with friendly(photo):
                after = save(result, photo)
                heads = self.editor.heads(fitted, result, Path(after).with_suffix(".glb"))
                pair = (before_picture(photo, Path(after).parent), after)
            for note in notes_of(result.faces[0]):
                gr.Info(note)
        except gr.Error as error:
            gr.Warning(error.message)
            return (gr.skip(),) * len(EMPTY)
        picture = gr.update(value=pair, width=page.stage_width(*result.images[0].size))
        hidden = gr.update(visible=False)  # the animation of another edit
        return picture, gr.update(value=after, interactive=True), page.gallery(result.faces[0]), heads, hidden

    def show_again(self, frames: dict, photo: str | None, emotion: str | None, *values: Any) -> Sequence[Any]:
        """As `show` where there are a photo with faces and something to do, else an empty stage."""
        reference, attributes, moved = values[2], values[6], values[8:]
        if photo and frames and (emotion or reference or attributes or any(moved)):
            return self.show(photo, emotion, *values)
        return EMPTY

    def show_animation(
        self,
        kind: str,
        seconds: float,
        loop: bool,
        photo: str | None,
        emotion: str | None,
        intensity: float,
        face: str,
        reference: str | None,
        seed: float | None,
        count: int,
        *values: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """What the page shows while an edit is animated, and then: controls, the animation, and its download."""

        def stage(path: str) -> tuple[Any, ...]:
            video = kind == "MP4"
            players = (
                gr.update(value=None if video else path, visible=not video),
                gr.update(value=path if video else None, visible=video),
            )
            return gr.update(visible=True), *players, gr.update(value=path, label=say("animation.download", kind=kind))

        # after the shape and the attributes, which pipelines with a head do not have
        asked = request(emotion, intensity, reference, count, *moves(values[3:]))
        empty = gr.update(visible=False), None, None, None
        yield from steps(self.editor.clips.animate(photo, face, seed, (kind, seconds, loop), asked), empty, stage)


def moves(values: Sequence[float]) -> tuple[Sequence[float], dict[str, float]]:
    """Angles, and units by name, of the sliders' values."""
    return values[: len(page.AXES)], dict(zip(page.UNITS, values[len(page.AXES) :], strict=True))


def look(photo: str | None) -> tuple[Any, ...]:
    """Find the faces of a new photo: preview, choices, their frames, and an empty stage."""
    picture, frames = None, {}
    try:
        if photo:
            with friendly(photo):
                rgb = read_photo(photo).rgb
                picture, frames = number_faces(rgb, dict(enumerate(choose_faces(find_faces(rgb), "all"), 1)))
    except gr.Error as error:
        gr.Warning(error.message)
    return gr.update(value=picture, visible=len(frames) > 1), choose_among(len(frames)), frames, *EMPTY
