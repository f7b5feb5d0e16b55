"""The tab of photos: what happens in it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import photo_page as page
import preset_part
from controls import Controls, Update
from editor import GLANCE, Editor, for_browsers, on_stage, references, save, small_copy
from faces import choose_among, number_faces, pick_face
from jobs import PRIVATE, QUIET, others_wait, steps, wire_job
from looks import Edits, History, Look, Settings, Sitting, tell
from parts import heard
from photos import SMALL, thumbnail
from texts import say, say_emotion
from visitors import friendly, inform, warn

from emorig_diffusers.pipelines.outputs import notes_of


def build(editor: Editor, examples: Path, retell: gr.Button) -> page.Page:
    """Create the tab; example photos are written into a folder, and a button is pressed when the language changes."""
    with gr.Tab(say("photo.tab")):
        return PhotoTab(editor, page.lay_out(editor.offer, examples), retell).page


class PhotoTab:
    """What the tab's events do.

    A visitor's `Sitting` is state of the session. Events read it and the controls, and tell what the page shows;
    controls only change where another face, look or preset is taken.

    Args:
        editor: Makes pictures.
        shown: The page.
        retell: Pressed by page.js when the page's language was changed.
    """

    def __init__(self, editor: Editor, shown: page.Page, retell: gr.Button) -> None:
        self.editor, self.page = editor, shown
        self.sitting, self.open = gr.State(Sitting()), gr.State("")
        self.controls = Controls(editor, shown)
        self.queue = {
            "show_progress_on": shown.stage.picture,
            "concurrency_id": "edit",
            "concurrency_limit": 1,
            **PRIVATE,
        }
        shown_by = [*self._stage, *self._past]
        self.nothing: Update = {shown.stage.told: gr.skip()}
        self.everything = [*shown_by, *self.controls.components, shown.preview, shown.frames]
        self._wire_edits(shown_by)
        self._wire_photo()
        self._wire_past()
        self._wire_tabs()
        told = [shown.stage.told, shown.past.looks, shown.stage.eight, shown.stage.buffers]
        retell.click(self.tell_again, [self.sitting, self.open], told, **QUIET)
        preset_part.wire(self)

    @property
    def _stage(self) -> list[Any]:
        stage = self.page.stage
        return [stage.picture, stage.told, stage.download, stage.eight, stage.animated]

    @property
    def _past(self) -> list[Any]:
        past = self.page.past
        return [past.undo, past.redo, past.go_on, past.reset, past.looks]

    def _wire_edits(self, shown_by: Sequence[Any]) -> None:
        shown, read = self.page, [self.sitting, *self.page.controls]
        edit = {"outputs": shown_by, "trigger_mode": "always_last", **self.queue}
        asked = [shown.run.click, shown.emotion.input]
        gr.on(asked, self.show_asked, [shown.photo, *read], **edit)
        gr.on([*asked, shown.all.click], js=page.SCROLL, fn=None)
        names, amount = shown.attributes
        camera, *eyes = shown.gaze
        sliders = [
            shown.strength,
            shown.shape,
            amount,
            *shown.angles,
            *eyes,
            *shown.light,
            *shown.units,
            shown.sampling[1],
        ]
        lender = [shown.reference.upload, shown.reference.clear, shown.lends.input]
        others = [camera.input, *lender, names.input, shown.sampling[0].submit]
        self.again = {"fn": self.show, "inputs": read, **edit}
        gr.on([*others, *(slider.release for slider in sliders)], **self.again)
        dragged = {"trigger_mode": "always_last", **self.queue, "show_progress": "hidden"}
        gr.on([slider.input for slider in sliders[:-1]], self.glance, read, shown.stage.picture, **dragged)
        said = {"outputs": self.everything, **self.queue}
        shown.prompt.submit(self.with_prompt, [shown.prompt, self.sitting], **said)
        shown.prompt.submit(js=page.SCROLL, fn=None)
        stage = shown.stage
        chosen = stage.format.input(None, None, stage.download, js=page.WAIT, **QUIET)
        chosen.then(self.choose_format, [self.sitting, stage.format], stage.download, **QUIET)
        shown.all.click(self.show_all, read, [stage.eight, stage.picture], **self.queue)
        stage.eight.select(self.pick_emotion, None, shown.emotion, **QUIET).then(
            self.show, read, shown_by, **self.queue
        )
        animation = shown.animation
        inputs = [*animation.how, *read]
        wire_job(animation.job, self.show_animation, inputs, animation.stage, "animation")

    def _wire_photo(self) -> None:
        shown = self.page
        converted = gr.State()
        shown.photo.upload(for_browsers, shown.photo, converted, **QUIET)
        converted.change(lambda path: path, converted, shown.photo, **QUIET)
        read = [shown.photo, self.sitting]
        shown.photo.change(self.look_at, read, self.everything, **QUIET).then(**self.again)
        lent = self.controls.lent
        lent.change(lambda lent: lent and lent[0], lent, shown.reference, **QUIET)
        turn = {
            "fn": self.turn_to,
            "inputs": [self.sitting, shown.face, shown.emotion],
            "outputs": self.everything,
            **QUIET,
        }
        turned = (
            shown.face.input(**turn),
            shown.preview.select(pick_face, shown.frames, shown.face, **QUIET).then(**turn),
        )
        if not self.editor.offer.head:  # one face at a time: what was asked of another is asked of it
            for event in turned:
                event.then(**self.again)

    def _wire_past(self) -> None:
        past, shown = self.page.past, self.page
        go = {"inputs": self.sitting, "outputs": self.everything, **QUIET}
        past.undo.click(lambda sitting: self.at(sitting, sitting.history.back(1)), **go)
        past.redo.click(lambda sitting: self.at(sitting, sitting.history.back(-1)), **go)
        past.looks.select(self.at_clicked, **go)
        past.go_on.click(self.go_on, **go)
        past.reset.click(self.to_photo, **go)
        units, angles = shown.resets
        for button, sliders in ((units, [*shown.units, shown.basis]), (angles, shown.angles)):
            own = lambda sitting, sliders=sliders: self.controls.own(sitting.history, sliders)
            button.click(own, self.sitting, sliders, **QUIET).then(**self.again)

    def _wire_tabs(self) -> None:
        stage = self.page.stage
        inner = [stage.buffers, stage.heads]
        for tab, name in zip(stage.tabs, ("", "buffers", "heads")):
            opened = tab.select(lambda name=name: (name, None, None), None, [self.open, *inner], **QUIET)
            opened.then(self.look_inside, [self.open, self.sitting], inner, **QUIET)
        # what another look has inside is asked for where one looks
        gr.on([stage.told.change], self.look_inside, [self.open, self.sitting], inner, **QUIET)

    # what events do

    def look_at(self, photo: str | None, sitting: Sitting) -> Update:
        """A new photo: its faces, a history that begins with it, and sliders where it is. Other controls stay, for
        they may have been used meanwhile; where a preset waits for the photo, they are its."""
        shown, found, frames, picture = self.page, "", {}, None
        fresh = History(wish=sitting.history.wish)
        try:
            if photo:
                with friendly(photo):
                    known = self.editor.photos.read(photo)
                    picture, frames = number_faces(known.photo.rgb, dict(enumerate(known.found, 1)))
                    found, numbers = str(known.largest), range(1, len(known.found) + 1)
                    first = Look(
                        dict.fromkeys(numbers, Edits()),
                        found,
                        count=self.editor.offer.steps,
                        thumbnail=thumbnail(known.photo.original, known.found),
                    )
                    before = on_stage(known.photo.original, photo)
                    fresh = replace(fresh, photo=photo, before=before, looks=(first,))
        except gr.Error as error:
            warn(error.message)
        sitting.history, waited = fresh, bool(fresh.look and fresh.wish)
        if waited:
            self._wish(sitting)
        controls = self.controls.updates(sitting.history) if waited else self.controls.slider_updates(fresh, Settings())
        return {
            **self._show(sitting),
            **controls,
            shown.face: choose_among(len(frames), found),
            shown.preview: gr.update(value=picture, visible=len(frames) > 1),
            shown.frames: frames,
        }

    def _wish(self, sitting: Sitting) -> None:
        """Do the wished steps to the present face or faces, where they can be done."""
        history = sitting.history
        look, edits = history.look, preset_part.edits_of(history.wish)
        sitting.history = replace(history, wish=())
        self._make(sitting, replace(look, faces={**look.faces, **dict.fromkeys(look.numbers, edits)}))

    def with_preset(self, sitting: Sitting, preset: Mapping[str, Any]) -> Update:
        """A preset on the present photo, or else on the next one."""
        sitting.history = replace(sitting.history, wish=tuple(preset["edits"]))
        if sitting.history.look:
            self._wish(sitting)
            return self.at(sitting, sitting.history)
        inform(say("presets.loaded", name=html.escape(preset["name"])))
        return self.controls.updates(sitting.history, preset_part.edits_of(sitting.history.wish).open)

    def with_prompt(self, text: str, sitting: Sitting) -> Update:
        """What a sentence asks, in the controls' place and as far as they can show it; on the next photo where there is
        none."""
        try:
            reading = heard(text)
            with friendly():
                self.editor.pipe.check_inputs(**reading.asked)
        except gr.Error as error:
            warn(error.message)
            return self.nothing
        look = sitting.history.look
        sitting.history = replace(sitting.history, wish=(*(look.edits.done if look else ()), reading.asked))
        if look:
            self._wish(sitting)
            return self.at(sitting, sitting.history)
        inform(say("prompt.first"))
        return self.controls.updates(sitting.history, preset_part.edits_of(sitting.history.wish).open)

    def wanted_edits(self, sitting: Sitting, controls: Sequence[Any]) -> Edits:
        """What the controls ask of the present face, after what it goes on from."""
        return self.controls.wanted(sitting.history, controls).edits

    def show_asked(self, photo: str | None, sitting: Sitting, *controls: Any) -> Update:
        """As `show` where a visitor asks for it, so that it is said where there is nothing to do."""
        if not photo:
            warn(say("no_photo"))
        elif not self.controls.wanted(sitting.history, controls).steps:
            warn(say("nothing_yet"))
        return self.show(sitting, *controls)

    def show(self, sitting: Sitting, *controls: Any) -> Update:
        """What the page shows of what the controls ask, where it is something new."""
        history, stage = sitting.history, self.page.stage
        if not history.look:
            return self.nothing
        look = self.controls.wanted(history, controls)
        if look.same(history.look) or not self._make(sitting, look):
            return {stage.eight: gr.update(visible=False), stage.picture: gr.update(visible=True)}
        return self._show(sitting)

    def _make(self, sitting: Sitting, look: Look) -> bool:
        """Add a look to the history with its picture; whether it could be made, else a warning on the page."""
        photo, path, stage, small = str(sitting.history.photo), None, None, sitting.history.looks[0].thumbnail
        try:
            if look.steps:
                _, result = self.editor.draw(photo, look)
                with friendly(photo):
                    path = save(result, photo)
                stage = on_stage(result.images[0], path)
                small = thumbnail(result.images[0], self.editor.photos.read(photo).found)
                for note in notes_of(result.faces[0]):
                    inform(note)
        except gr.Error as error:
            warn(error.message)
            return False
        if sitting.history.photo == photo:  # else another was given meanwhile
            sitting.history = sitting.history.then(replace(look, result=path, stage=stage, thumbnail=small))
        return True

    def glance(self, sitting: Sitting, *controls: Any) -> Any:
        """The picture of what the controls ask while a slider is dragged, small and not kept, where nobody waits; the
        slider's release finds it made."""
        history = sitting.history
        if not history.look or others_wait():
            return gr.skip()
        look, photo = self.controls.wanted(history, controls), str(history.photo)
        after = history.look.stage if look.same(history.look) else history.before
        try:
            if look.steps and not look.same(history.look):
                _, result = self.editor.draw(photo, look)
                after = small_copy(result.images[0], GLANCE, "glance")
        except gr.Error:
            return gr.skip()  # the release says why
        if sitting.history.at != history.at or sitting.history.photo != photo:
            return gr.skip()
        size = self.editor.photos.read(photo).photo.original.size
        return gr.update(value=(history.before, after or history.before), width=page.stage_width(*size))

    def show_all(self, sitting: Sitting, *controls: Any) -> Update:
        """Small pictures of all emotions in the picture's place."""
        stage, history = self.page.stage, sitting.history
        try:
            if not history.look:
                raise gr.Error(say("no_photo"), print_exception=False)
            pictures = self.editor.draw_all(str(history.photo), self.controls.wanted(history, controls))
        except gr.Error as error:
            warn(error.message)
            return {stage.eight: gr.update(visible=False), stage.picture: gr.update(visible=True)}
        sitting.eight = [small_copy(picture, SMALL, "emotion") for picture in pictures]
        return {
            stage.eight: gr.update(value=self._eight(sitting), visible=True),
            stage.picture: gr.update(visible=False),
        }

    def _eight(self, sitting: Sitting) -> list[tuple[str, str]]:
        """The small pictures of all emotions, and what they are called."""
        return list(zip(sitting.eight, map(say_emotion, self.editor.offer.emotions)))

    def pick_emotion(self, point: gr.SelectData) -> str:
        """The emotion whose small picture was clicked."""
        return self.editor.offer.emotions[point.index]

    def turn_to(self, sitting: Sitting, face: str, emotion: str | None) -> Update:
        """Another face for the controls, with what they asked of it."""
        if not sitting.history.look or not self.editor.offer.head:
            return self.nothing
        shown = self.at(sitting, sitting.history.now(replace(sitting.history.look, face=face)))
        if shown[self.page.emotion] == emotion:
            del shown[self.page.emotion]  # it may have been changed meanwhile
        return shown

    def at(self, sitting: Sitting, history: History) -> Update:
        """A look of the history, with the controls as they were."""
        sitting.history = history
        if not history.look:
            return self.nothing
        controls = self.controls.updates(history)  # which may take a while, for a face that was not looked at before
        return {**controls, **self._show(sitting)}

    def at_clicked(self, sitting: Sitting, point: gr.SelectData) -> Update:
        """The look whose thumbnail was clicked."""
        history = sitting.history
        return self.at(sitting, history.back(history.at - int(point.index)))

    def go_on(self, sitting: Sitting) -> Update:
        """The same picture, with controls that go on from it."""
        history = sitting.history
        return self.at(sitting, history.now(history.look.going_on()) if history.look else history)

    def to_photo(self, sitting: Sitting) -> Update:
        """The photo itself, as a new look."""
        history = sitting.history
        first = history.look and replace(history.looks[0], face=history.look.face)
        return self.at(sitting, history.then(first) if first else history)

    def tell_again(self, sitting: Sitting, name: str) -> Update:
        """What there is to read of what was made, in the language that the page has now; buffers where their tab is
        open."""
        shown, stage = self._show(sitting), self.page.stage
        told = {one: shown[one] for one in (stage.told, self.page.past.looks)}
        if name == "buffers":
            told[stage.buffers], _ = self.look_inside(name, sitting)
        return {**told, stage.eight: gr.update(value=self._eight(sitting))}

    def choose_format(self, sitting: Sitting, name: str) -> Any:
        """The present look's file in another format, and those of all that follow."""
        sitting.format = name
        return self._download(sitting)

    def show_animation(
        self, kind: str, seconds: float, loop: bool, sitting: Sitting, *controls: Any
    ) -> Iterator[tuple[Any, ...]]:
        """What the page shows while an edit is animated, and then: controls, the animation, and its download."""
        history = sitting.history

        def stage(path: str) -> tuple[Any, ...]:
            video = kind == "MP4"
            players = (
                gr.update(value=None if video else path, visible=not video),
                gr.update(value=path if video else None, visible=video),
            )
            return gr.update(visible=True), *players, gr.update(value=path)

        def job() -> Iterator[Any]:
            asked: dict[str, Any] = {}
            if history.look:
                look = self.controls.wanted(history, controls)
                if not look.steps:
                    raise gr.Error(say("nothing_yet"), print_exception=False)
                with friendly(history.photo, *references(look)):
                    asked = self.editor.asked(str(history.photo), look)
            yield from self.editor.clips.animate(history.photo, controls[1], (kind, seconds, loop), asked)

        yield from steps(job(), (gr.update(visible=False), None, None, None), stage)

    def look_inside(self, name: str, sitting: Sitting) -> tuple[Any, Any]:
        """Buffers, or heads, of the present look, where their tab is open."""
        history = sitting.history
        if not name or not history.look or not history.look.result:
            return None, None
        try:
            drawn = self.editor.draw(str(history.photo), history.look)
            if name == "buffers":
                return page.gallery(drawn[1].faces[0]), None
            with friendly(history.photo):
                return None, self.editor.heads(drawn, Path(history.look.result).with_suffix(".glb"))
        except gr.Error as error:
            warn(error.message)
            return None, None

    # what the page gets

    def _download(self, sitting: Sitting) -> Any:
        """The present look's file in the format that is chosen, as a button gets it."""
        history, file = sitting.history, None
        try:
            if history.look and history.look.result:
                file = self.editor.in_format(str(history.photo), history.look, sitting.format)
        except gr.Error as error:
            warn(error.message)
        return gr.update(value=file, interactive=bool(file))

    def _show(self, sitting: Sitting) -> Update:
        """A history's present look on the stage, and what was made so far."""
        stage, past, history = self.page.stage, self.page.past, sitting.history
        look, made = history.look, len(history.looks) > 1
        after = (look and look.stage) or (history.before if made else None)
        pair = (history.before, after) if after else None
        size = self.editor.photos.read(str(history.photo)).photo.original.size if pair else (1, 1)
        named = [(one.thumbnail, tell(one)) for one in history.looks]
        looks = gr.update(value=named, visible=made, selected_index=history.at) if made else None
        return {
            stage.picture: gr.update(value=pair, width=page.stage_width(*size), visible=True),
            stage.told: html.escape(tell(look)) if pair and look else "",
            stage.download: self._download(sitting),
            stage.eight: gr.update(value=None, visible=False),
            stage.animated: gr.update(visible=False),  # of another look
            past.undo: gr.update(interactive=history.at > 0),
            past.redo: gr.update(interactive=history.at < len(history.looks) - 1),
            past.go_on: gr.update(interactive=bool(look and look.edits.open.step)),
            past.reset: gr.update(interactive=bool(look and look.steps)),
            past.looks: looks or gr.update(value=None, visible=False),
        }
