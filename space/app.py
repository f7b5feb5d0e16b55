"""The demo: a photo and an emotion in, the same person with that emotion out.

python space/app.py [--model emorig-open] [--host 127.0.0.1] [--port 7860] [--share]
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import clip_page
import gradio as gr
import page
import torch
from clips import ClipEditor, Progress, chosen, number_people, playable
from gradio.utils import get_upload_folder
from heads import write_fitted_heads, write_heads
from parts import Job, choose_among, upload, upload_clip
from visitors import friendly, new_folder

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.cli.amounts import by_name, parse_amounts
from emorig_diffusers.cli.main import load_pipeline
from emorig_diffusers.photo.faces import choose_faces, find_faces
from emorig_diffusers.photo.io import PhotoError, read_photo, save_photo
from emorig_diffusers.pipelines.base import FacePipeline
from emorig_diffusers.pipelines.outputs import notes_of
from emorig_diffusers.pipelines.request import ARGUMENTS

BROWSER_FORMATS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif")
EMPTY_STAGE = (None, gr.update(value=None, interactive=False), None, None, gr.update(visible=False))
EMPTY_CLIP_STAGE = (None, None, gr.update(value=None, interactive=False), gr.update(interactive=False))
IDLE = gr.update(visible=True), gr.update(visible=False)  # buttons that run and stop a job
DELETE = (3600, 86400)  # every so many seconds, files older than that
PRIVATE = {"api_visibility": "private"}


class Editor:
    """The demo's functions around one pipeline; the files of every call lie in a folder of its own."""

    def __init__(self, pipe: FacePipeline) -> None:
        self.pipe = pipe
        self.run = on_zero_gpu(pipe)
        self.clips = ClipEditor(pipe, lend_gpu)
        pipe.set_progress_bar_config(disable=True)
        if torch.cuda.is_available():
            pipe.to("cuda")

    def edit(
        self,
        photo: str,
        emotion: str | None = "happy",
        intensity: float = 1.0,
        face: str = "largest",
        reference: str | None = None,
        action_units: str = "",
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        seed: int = 0,
        steps: int | None = None,
    ) -> str:
        """Change the emotion of a face in a photo and keep the person.

        Args:
            photo: A photo in which a face is visible.
            emotion: neutral, happy, sad, surprise, fear, disgust, anger or contempt.
            intensity: 0 keeps the photo's own expression, 1 is a clear emotion, 1.5 the most.
            face: "largest", "all", or a number from 1 counted from the left.
            reference: A photo whose expression is taken over instead of an emotion.
            action_units: Amounts of FACS action units to add, such as "AU12=0.5, AU4=-0.3".
            yaw: Degrees to turn the head to the person's left.
            pitch: Degrees to turn the head up.
            roll: Degrees to tilt the head to the person's right shoulder.
            seed: The same seed gives the same result.
            steps: Steps of the painting network; without it the checkpoint's.

        Returns:
            The edited photo, a PNG of the photo's size.
        """
        with friendly():
            units = read_units(action_units)
        asked = request(emotion, intensity, reference, steps, (yaw, pitch, roll), units)
        result, _ = self._result(photo, face, seed, asked)
        with friendly(photo):
            return save(result, photo)

    def show(
        self,
        photo: str | None,
        emotion: str | None,
        intensity: float,
        face: str,
        reference: str | None,
        seed: float | None,
        steps: int,
        shape: float,
        attributes: list[str],
        amount: float,
        *moved: float,
    ) -> tuple[Any, ...]:
        """What the page shows of an edit: before and after, download, buffers, heads."""
        angles, units = moved[: len(page.ANGLES)], dict(zip(page.UNITS, moved[len(page.ANGLES) :], strict=True))
        asked = request(emotion, intensity, reference, steps, angles, units, dict.fromkeys(attributes, amount), shape)
        try:
            result, fitted = self._result(photo, face, seed, asked)
            with friendly(photo):
                after = save(result, photo)
                heads = self._heads(fitted, result, Path(after).with_suffix(".glb"))
                pair = (before_picture(photo, Path(after).parent), after)
            for note in notes_of(result.faces[0]):
                gr.Info(note)
        except gr.Error as error:
            gr.Warning(error.message)
            return (gr.skip(),) * len(EMPTY_STAGE)
        picture = gr.update(value=pair, width=page.stage_width(*result.images[0].size))
        hidden = gr.update(visible=False)  # the animation of another edit
        return picture, gr.update(value=after, interactive=True), page.gallery(result.faces[0]), heads, hidden

    def show_again(self, frames: dict, photo: str | None, emotion: str | None, *values: Any) -> Sequence[Any]:
        """As `show` where there are a photo with faces and something to do, else an empty stage."""
        reference, attributes, moved = values[2], values[6], values[8:]
        if photo and frames and (emotion or reference or attributes or any(moved)):
            return self.show(photo, emotion, *values)
        return EMPTY_STAGE

    def look(self, photo: str | None) -> tuple[Any, ...]:
        """Find the faces of a new photo: preview, choices, their frames, and an empty stage."""
        picture, frames = number_faces(photo) if photo else (None, {})
        preview = gr.update(value=picture, visible=len(frames) > 1)
        return preview, choose_among(len(frames)), frames, *EMPTY_STAGE

    def look_at_clip(self, clip: str | None) -> tuple[Any, ...]:
        """As `look` for the people of a clip."""
        picture, frames, count = number_people(clip) if clip else (None, {}, 0)
        return gr.update(value=picture, visible=count > 1), choose_among(count), frames, *EMPTY_CLIP_STAGE

    def show_clip(
        self, clip: str | None, emotion: str | None, intensity: float, face: str, photo: str | None
    ) -> Iterator[tuple[Any, ...]]:
        """What the page shows while a clip is edited or moves a photo, and then: controls, before, after, download."""

        def stage(path: str) -> tuple[Any, ...]:
            before = clip and str(playable(Path(clip)))
            return before, path, gr.update(value=path, interactive=True), gr.update(interactive=True)

        if photo:
            job = self.clips.drive(photo, clip, face, intensity, 0)
        else:
            job = self.clips.edit(clip, face, 0, request(emotion, intensity, None, None, (), {}))
        yield from steps(job, EMPTY_CLIP_STAGE, stage)

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
            return gr.update(visible=True), *players, gr.update(value=path, label=f"Download {kind}")

        moved = values[3:]  # after the shape and the attributes, which pipelines with a head do not have
        angles, units = moved[: len(page.ANGLES)], dict(zip(page.UNITS, moved[len(page.ANGLES) :], strict=True))
        asked = request(emotion, intensity, reference, count, angles, units)
        empty = gr.update(visible=False), None, None, None
        yield from steps(self.clips.animate(photo, face, seed, (kind, seconds, loop), asked), empty, stage)

    def video(
        self, clip: str, emotion: str | None = "happy", intensity: float = 1.0, face: str = "largest", seed: int = 0
    ) -> Iterator[str | None]:
        """Change the emotion of a face in a clip and keep the person, what they say, the background and the sound.

        Args:
            clip: A video, or an animated GIF, WebP or PNG, of 30 seconds and 1920 x 1080 pixels at most.
            emotion: neutral, happy, sad, surprise, fear, disgust, anger or contempt.
            intensity: 0 keeps the clip's own expressions, 1 is a clear emotion, 1.5 the most.
            face: "largest", "all", or a number from 1 counted from the left.
            seed: The same seed gives the same result.

        Returns:
            The edited clip, an MP4 of the clip's size.
        """
        yield from results(self.clips.edit(clip, face, seed, request(emotion, intensity, None, None, (), {})))

    def drive(
        self, photo: str, clip: str, intensity: float = 1.0, face: str = "largest", seed: int = 0
    ) -> Iterator[str | None]:
        """Let the largest face of a photo do what somebody in a clip does.

        Args:
            photo: A photo in which a face is visible.
            clip: A video, or an animated GIF, WebP or PNG, of 30 seconds and 1920 x 1080 pixels at most.
            intensity: How much of the clip's movement is taken over, 1 for all.
            face: Whose movement of the clip it is, "largest", or a number from 1 counted from the left.
            seed: The same seed gives the same result.

        Returns:
            The photo as it moves, an MP4 with the clip's sound, whose longer side is 1280 pixels at most.
        """
        yield from results(self.clips.drive(photo, clip, face, intensity, seed))

    def animate(
        self,
        photo: str,
        emotion: str | None = "happy",
        intensity: float = 1.0,
        face: str = "largest",
        format: str = "GIF",
        seconds: float = 2.0,
        loop: bool = True,
        seed: int = 0,
    ) -> Iterator[str | None]:
        """Let a face of a photo change from its own expression to an emotion, as an animation.

        Args:
            photo: A photo in which a face is visible.
            emotion: neutral, happy, sad, surprise, fear, disgust, anger or contempt.
            intensity: 0 keeps the photo's own expression, 1 is a clear emotion, 1.5 the most.
            face: "largest", "all", or a number from 1 counted from the left.
            format: GIF, MP4 or WebP.
            seconds: How long it takes in all.
            loop: Whether the face comes back to the photo's own expression, and begins again.
            seed: The same seed gives the same result.

        Returns:
            The animation, whose longer side is 720 pixels at most.
        """
        asked = request(emotion, intensity, None, None, (), {})
        yield from results(self.clips.animate(photo, face, seed, (format, seconds, loop), asked))

    def _result(
        self, photo: str | None, face: str, seed: float | None, asked: dict[str, Any]
    ) -> tuple[EmoRigOutput, list[Any] | None]:
        """The edit, and the faces that it is of, where they have heads."""
        if not photo:
            raise gr.Error("Upload a photo first.", print_exception=False)
        with friendly(photo, asked.get("reference")):
            self.pipe.check_inputs(**asked)
            which, fitted = chosen(face), None
            if "mesh" in self.pipe.capabilities:
                fitted = self.pipe.encode(read_photo(photo).rgb, which)
            return self.run(photo, int(seed or 0), face=which, faces=fitted, **asked), fitted

    def _heads(self, fitted: list[Any] | None, result: EmoRigOutput, path: Path) -> str | None:
        if fitted is not None:
            return write_heads(self.pipe, fitted, result, path)
        return write_fitted_heads(open_default(), result, path)


def request(
    emotion: str | None,
    intensity: float,
    reference: str | None,
    steps: int | None,
    angles: Sequence[float],
    units: dict[str, float],
    attributes: dict[str, float] | None = None,
    shape: float = 0.0,
) -> dict[str, Any]:
    """What is asked of a pipeline, by its own names, as far as something is; a reference takes the emotion's place."""
    what = {
        "emotion": None if reference else emotion,
        "reference": reference,
        "rotate": angles if any(angles) else None,
        "action_units": {unit: amount for unit, amount in units.items() if amount},
        "attributes": attributes,
        "shape_guidance": page.MOST_SHAPE * shape,
    }
    given = {name: value for name, value in what.items() if value}
    return {"intensity": intensity, "num_inference_steps": steps} | given


@functools.cache
def open_default() -> EmoRigPipeline:
    """The bundled pipeline, which also fits heads where the demo's own has none."""
    return EmoRigPipeline.from_pretrained("emorig-open")


def on_zero_gpu(pipe: FacePipeline) -> Callable[..., EmoRigOutput]:
    """The pipeline as a function of photo, seed and options, on a borrowed GPU where the host lends one."""

    def run(photo: str, seed: int, **options: Any) -> EmoRigOutput:
        return pipe(photo, generator=torch.Generator().manual_seed(seed), **options)

    return lend_gpu(run)


def lend_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, or one that yields, on a borrowed GPU where the host lends one."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(function)


def steps(
    job: Iterator[Progress], empty: tuple[Any, ...], stage: Callable[[str], tuple[Any, ...]]
) -> Iterator[tuple[Any, ...]]:
    """What the page shows of a job: its controls, and its stage, which is empty until there is a result."""
    running = gr.update(visible=False), gr.update(visible=True)
    try:
        for progress in job:
            line = gr.update(value=progress.html, visible=True)
            if progress.result is not None:
                yield *IDLE, line, *stage(str(progress.result))
                for note in progress.notes:
                    gr.Info(note)
            elif not progress.done:
                yield *running, line, *empty
            else:
                yield gr.skip(), gr.skip(), line, *(gr.skip(),) * len(empty)
    except gr.Error as error:
        gr.Warning(error.message)
        yield *IDLE, gr.update(value="", visible=False), *(gr.skip(),) * len(empty)


def stopped() -> tuple[Any, ...]:
    """The controls after a visitor has stopped a job."""
    return *IDLE, gr.update(value="Stopped.", visible=True)


def results(job: Iterator[Progress]) -> Iterator[str | None]:
    """Nothing for every frame, so that a program may cancel, and at last the result's path."""
    for progress in job:
        yield progress.result and str(progress.result)


def read_units(text: str | None) -> dict[str, float]:
    """{"AU12": 0.5} from "AU12=0.5", several separated by commas; ValueError where the text looks different."""
    try:
        return by_name(parse_amounts(text)) if text and text.strip() else {}
    except ValueError as error:
        raise ValueError(f"action_units: {error}") from None


def number_faces(photo: str) -> tuple[Any, dict[int, list[float]]]:
    """Preview and frames of a photo's faces; where there are none, a warning on the page."""
    try:
        with friendly(photo):
            rgb = read_photo(photo).rgb
            return page.number_faces(rgb, dict(enumerate(choose_faces(find_faces(rgb), "all"), 1)))
    except gr.Error as error:
        gr.Warning(error.message)
        return None, {}


def pick_face(frames: dict, point: gr.SelectData) -> Any:
    """The face that was clicked in the preview, as the choice's new value."""
    number = page.face_at(frames, *point.index)
    return gr.skip() if number is None else str(number)


def save(result: EmoRigOutput, photo: str) -> str:
    """Write the edited photo as PNG where gradio serves and clears files."""
    return str(save_photo(result.images[0], new_folder() / f"{Path(photo).stem}_edited.png"))


def before_picture(photo: str, folder: Path) -> str:
    """The photo's own file where browsers show its format, else a PNG of it."""
    if photo.lower().endswith(BROWSER_FORMATS):
        return photo
    return str(save_photo(read_photo(photo).original, folder / "before.png"))


def for_browsers(photo: str | None) -> str | None:
    """A PNG of an upload that browsers cannot show (HEIC, TIFF), with all that its file says; `None` for others."""
    if not photo or photo.lower().endswith(BROWSER_FORMATS):
        return None
    try:
        return str(save_photo(read_photo(photo).original, new_folder() / f"{Path(photo).stem}.png"))
    except PhotoError:
        return None


def wire(shown: page.Page, editor: Editor) -> None:
    """Connect the page's components to the editor."""
    edit = {
        "outputs": shown.stage,
        "show_progress_on": shown.stage[0],
        "trigger_mode": "always_last",
        "concurrency_id": "edit",
        "concurrency_limit": 1,
        **PRIVATE,
    }
    again = {"fn": editor.show_again, "inputs": [shown.frames, *shown.inputs], **edit}
    quiet = {"show_progress": "hidden", **PRIVATE}
    asked = [shown.run.click, shown.emotion.input]
    gr.on(asked, editor.show, shown.inputs, **edit)
    gr.on(asked, js=page.SCROLL, fn=None)
    names, amount = shown.attributes
    sliders = [shown.strength, shown.shape, amount, *shown.angles, *shown.units, shown.sampling[1]]
    others = [shown.face.input, shown.reference.change, names.input, shown.sampling[0].submit]
    gr.on([*others, *(slider.release for slider in sliders)], **again)
    found = [shown.preview, shown.face, shown.frames, *shown.stage]
    # the photo is never given an update, not even gr.skip(): gradio would make it anew, without `page.uploaded`
    converted = gr.State()
    shown.photo.upload(for_browsers, shown.photo, converted, **quiet)
    converted.change(lambda path: path, converted, shown.photo, **quiet)
    shown.photo.change(editor.look, shown.photo, found, **quiet).then(**again)
    shown.preview.select(pick_face, shown.frames, shown.face, **quiet).then(**again)
    animation = shown.animation
    inputs = [*animation.how, *shown.inputs]
    wire_job(animation.job, editor.show_animation, inputs, animation.stage, "animation")
    for button, reset in shown.resets:
        button.click(lambda *values: [0] * len(values), reset, reset, **quiet).then(**again)


def wire_clips(shown: clip_page.ClipPage, editor: Editor) -> None:
    """Connect the components of the tab of clips to the editor."""
    quiet = {"show_progress": "hidden", **PRIVATE}
    found = [shown.preview, shown.face, shown.frames, *shown.stage]
    shown.clip.change(editor.look_at_clip, shown.clip, found, **quiet)
    shown.preview.select(pick_face, shown.frames, shown.face, **quiet)
    wire_job(shown.job, editor.show_clip, shown.inputs, shown.stage, "clip")


def wire_job(job: Job, function: Callable[..., Any], inputs: Sequence[Any], stage: Sequence[Any], queue: str) -> None:
    """Connect the controls of what takes a while to what does it, one visitor of a queue after the other."""
    quiet = {"show_progress": "hidden", **PRIVATE}
    outputs = [*job.components, *stage]
    event = job.run.click(function, inputs, outputs, concurrency_id=queue, concurrency_limit=1, **quiet)
    job.stop.click(stopped, None, job.components, cancels=[event], queue=False, **quiet)


def add_api(editor: Editor) -> None:
    """The endpoints for gradio_client, HTTP and MCP, with typed parameters of their own."""
    names = list(editor.pipe.emotion_names)

    def shared() -> tuple[gr.Radio, gr.Slider, gr.Textbox]:
        limits, usual = ARGUMENTS["intensity"].metadata["limits"], ARGUMENTS["intensity"].default
        emotion = gr.Radio(names, value="happy" if "happy" in names else None, label="emotion")
        return emotion, gr.Slider(*limits, usual, label="intensity"), gr.Textbox("largest", label="face")

    def seed() -> gr.Number:
        return gr.Number(0, precision=0, minimum=0, maximum=page.MAX_SEED, label="seed")

    with gr.Column(visible=False):
        inputs = [
            upload("photo", ["upload"]),
            *shared(),
            upload("reference", ["upload"]),
            gr.Textbox("", label="action_units"),
            *(gr.Number(0, label=name) for name in ("yaw", "pitch", "roll")),
            seed(),
            gr.Number(precision=0, label="steps"),
        ]
        result = gr.Image(type="filepath", format="png", label="edited photo")
        gr.Button().click(editor.edit, inputs, result, api_name="edit", concurrency_id="edit", concurrency_limit=1)
        inputs = [upload_clip("clip", sources=["upload"]), *shared(), seed()]
        gr.Button().click(
            editor.video, inputs, gr.Video(label="edited clip"), api_name="video", concurrency_id="clip",
            concurrency_limit=1,
        )  # fmt: skip
        _, strength, face = shared()
        inputs = [upload("photo", ["upload"]), upload_clip("clip", sources=["upload"]), strength, face, seed()]
        gr.Button().click(
            editor.drive, inputs, gr.Video(label="moving photo"), api_name="drive", concurrency_id="clip",
            concurrency_limit=1,
        )  # fmt: skip
        how = [
            gr.Radio(list(page.KINDS), value=page.KINDS[0], label="format"),
            gr.Slider(*page.SECONDS, label="seconds"),
            gr.Checkbox(True, label="loop"),
        ]
        inputs = [upload("photo", ["upload"]), *shared(), *how, seed()]
        gr.Button().click(
            editor.animate, inputs, gr.File(label="animation"), api_name="animate", concurrency_id="animation",
            concurrency_limit=1,
        )  # fmt: skip


def build_demo(pipe: FacePipeline | None = None) -> gr.Blocks:
    """The demo around a pipeline, by default the bundled one; its style is given when it is launched."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    pipe = open_default() if pipe is None else pipe
    editor = Editor(pipe)
    examples = Path(get_upload_folder()) / "examples"
    with gr.Blocks(title="EmoRig", analytics_enabled=False, delete_cache=DELETE, fill_width=True) as demo:
        gr.Markdown(page.TITLE, elem_id="title")
        with gr.Tabs():
            with gr.Tab("Photo"):
                wire(page.lay_out(page.Offer.of(pipe), examples), editor)
            with gr.Tab("Video", visible=bool(pipe.emotion_names)):
                wire_clips(clip_page.lay_out(page.Offer.of(pipe)), editor)
        gr.Markdown(page.NOTE, elem_id="note")
        add_api(editor)
    return demo


def launch(demo: gr.Blocks, **where: Any) -> str:
    """Serve the demo in its style, with gradio's options of where; its address, once it is closed or does not block."""
    style = {"theme": page.theme(), "css": page.CSS, "footer_links": ["api"], "run_history": False}
    return demo.launch(max_file_size="200mb", **style, **where)[1]


def main() -> None:
    """Parse the command line and serve the demo."""
    parser = argparse.ArgumentParser(description="Change the emotion of a face in a photo, in a browser.")
    parser.add_argument("--model", default="emorig-open", help="bundled name, folder or Hub id (default: %(default)s)")
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 for every network (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="open a public link; off by default")
    args = parser.parse_args()
    try:
        pipe = load_pipeline(args.model)
    except ValueError as error:
        sys.exit(str(error))
    offer = page.Offer.of(pipe)
    if not offer.emotions and not offer.attributes:
        script = "fit_emotions.py" if offer.head else "train_emotion_classifier.py"
        sys.exit(f"The model '{args.model}' knows no emotions: convert or fit them first (train/{script}).")
    launch(build_demo(pipe), server_name=args.host, server_port=args.port, share=args.share)


if __name__ == "__main__":
    main()
