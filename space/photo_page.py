"""The tab of photos: its components, and the pictures it shows besides the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import matplotlib.cbook
import skimage.data
from editor import FORMATS
from faces import face_part
from gradio.components import Component
from jobs import Job, job, status
from offer import BOTH, SIDED, Offer
from parts import emotion_choice, strength_slider, upload
from PIL import Image
from texts import say

from emorig_diffusers.face.gaze import MAX_GAZE
from emorig_diffusers.face.light import MAX_LIGHT_TURN
from emorig_diffusers.face.sentence import LONGEST
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.pipelines.outputs import EditedFace
from emorig_diffusers.pipelines.request import ARGUMENTS, MODES

AXES = ("yaw", "pitch", "roll")
MAX_ANGLE = 20  # degrees
MAX_SEED = 2**32 - 1
MAX_STEPS = 50
MAX_ATTRIBUTE = 2  # either way
MOST_SHAPE = 0.1  # shape_guidance at the slider's end, where a step may go a third of an emotion's way
LENT = MODES[:2]  # of a reference photo: the others are for networks that draw the whole crop
KINDS = ("GIF", "MP4", "WebP")  # of animations
SECONDS = 0.5, 6, 2  # of an animation: least, most, and to begin with

SCROLL = """() => {
  if (innerWidth <= 860) document.getElementById("strength").scrollIntoView({behavior: "smooth"})
}"""

WAIT = "() => ({__type__: 'update', interactive: false})"  # for a button that is to have another file in a moment


@dataclass(frozen=True)
class Animation:
    """The components that animate a photo's edit.

    Attributes:
        how: Which of KINDS, seconds, and whether the face comes back.
        job: Does it.
        stage: The animation as a picture, as a video, and its download.
    """

    how: list[Component]
    job: Job
    stage: list[Component]


@dataclass(frozen=True)
class Stage:
    """What shows a result.

    Attributes:
        picture, told: Before and after; what that is in words.
        format, download: Which of `editor.FORMATS`, and the result in it.
        eight: Small pictures of all emotions.
        animated: What shows an animation of it.
        tabs, buffers, heads: The tabs of buffers and of heads, and what they hold.
    """

    picture: gr.ImageSlider
    told: gr.HTML
    format: gr.Radio
    download: gr.DownloadButton
    eight: gr.Gallery
    animated: gr.Column
    tabs: tuple[gr.Tab, gr.Tab, gr.Tab]
    buffers: gr.Gallery
    heads: gr.Model3D


@dataclass(frozen=True)
class Past:
    """What has been made so far.

    Attributes:
        undo, redo, go_on, reset: Buttons.
        looks: Thumbnails, the photo first.
    """

    undo: gr.Button
    redo: gr.Button
    go_on: gr.Button
    reset: gr.Button
    looks: gr.Gallery


@dataclass(frozen=True)
class Presets:
    """Settings with a name.

    Attributes:
        kept: Those of this visitor's browser.
        name, save: A name, and the button that keeps the present settings under it.
        chosen, load: One of them, and one from a file.
        file, link: The present settings as a file and as a link, once they are saved.
    """

    kept: gr.BrowserState
    name: gr.Textbox
    save: gr.Button
    chosen: gr.Dropdown
    load: gr.UploadButton
    file: gr.DownloadButton
    link: gr.Textbox


@dataclass(frozen=True)
class Page:
    """The components that events read and write.

    Attributes:
        photo, reference: Uploads; their values are paths of untouched files.
        lends: What the reference lends.
        preview, face, frames: The photo with numbered faces, the choice among them, and their frames.
        emotion, strength, shape: What to do, how strongly, and how much shape is held.
        run, all: Buttons that do it, and that show all emotions.
        attributes: Names of attributes, and their amount.
        prompt: A sentence that sets the controls.
        angles, units, sampling: Sliders of yaw, pitch and roll; of UNITS; seed and steps.
        gaze: Whether the eyes look at the camera, and by how far they turn aside and up otherwise.
        light: By how far the light turns aside and up, and how hard it is.
        basis: Values of angles and units that ask for nothing, as JSON; not seen.
        resets: Buttons that set angles, and units, to what the photo shows.
        stage, past, presets, animation: What they say.
    """

    photo: gr.Image
    preview: gr.Image
    face: gr.Radio
    frames: gr.State
    prompt: gr.Textbox
    emotion: gr.Radio
    strength: gr.Slider
    shape: gr.Slider
    run: gr.Button
    all: gr.Button
    reference: gr.Image
    lends: gr.CheckboxGroup
    attributes: tuple[gr.Dropdown, gr.Slider]
    angles: list[gr.Slider]
    gaze: tuple[gr.Checkbox, gr.Slider, gr.Slider]
    light: list[gr.Slider]
    units: list[gr.Slider]
    sampling: list[Component]
    basis: gr.Textbox
    resets: list[gr.Button]
    stage: Stage
    past: Past
    presets: Presets
    animation: Animation

    @property
    def controls(self) -> list[Component]:
        """What an edit depends on besides the photo, in the order of `Controls.wanted`."""
        first = [
            self.basis,
            self.emotion,
            self.strength,
            self.reference,
            self.lends,
            self.shape,
            *self.attributes,
            *self.gaze,
            *self.light,
        ]
        return [self.face, *self.sampling, *first, *self.angles, *self.units]


def lay_out(offer: Offer, folder: Path) -> Page:
    """Create the page inside an open `gr.Blocks`.

    Args:
        offer: What the pipeline can do; components for the rest are not visible.
        folder: Where example photos are written.
    """
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_id="photo-part"):
            photo = photo_part(folder)
        with gr.Column(elem_id="mood-part"):
            mood = mood_part(offer)
        with gr.Column(elem_id="stage-part"):
            stage, past, animation = stage_part(offer)
        with gr.Column(elem_id="details-part"):
            details = details_part(offer)
            presets = presets_part()
    return Page(*photo, *mood, *details, stage, past, presets, animation)


def photo_part(folder: Path) -> tuple[gr.Image, gr.Image, gr.Radio, gr.State]:
    """Upload, examples, and the choice among several faces."""
    photo = upload(say("photo"), ["upload", "webcam", "clipboard"], height=280, elem_id="photo")
    gr.Examples(examples(folder), photo, label=say("photo.examples"))
    return photo, *face_part("face", "faces"), gr.State({})


def mood_part(offer: Offer) -> tuple[gr.Textbox, gr.Radio, gr.Slider, gr.Slider, gr.Button, gr.Button]:
    """A sentence, emotion buttons, strength, how much the shape is held, and the buttons that do it."""
    prompt = gr.Textbox(
        label=say("prompt"), placeholder=say("prompt.example"), submit_btn=True, max_lines=1,
        max_length=LONGEST, visible=bool(offer.emotions), elem_id="prompt",
    )  # fmt: skip
    emotion, strength = emotion_choice(offer.emotions, "emotion"), strength_slider("strength")
    shape = gr.Slider(0, 1, 0, step=0.05, label=say("shape"), visible=offer.shape, elem_id="shape")
    run = gr.Button(say("run"), variant="primary", size="lg", elem_id="run")
    every = gr.Button(say("all"), size="lg", visible=bool(offer.emotions), elem_id="all")
    return prompt, emotion, strength, shape, run, every


def details_part(
    offer: Offer,
) -> tuple[
    gr.Image,
    gr.CheckboxGroup,
    tuple[gr.Dropdown, gr.Slider],
    list,
    tuple,
    list,
    list,
    list,
    gr.Textbox,
    list[gr.Button],
]:
    """Reference photo, attributes, action units, head pose, gaze, light, seed and steps; all folded away."""
    lends = bool(offer.emotions)
    with gr.Accordion(say("reference.part"), open=False, visible=lends, elem_id="lending"):
        reference = upload(say("reference"), ["upload", "clipboard"], height=220, elem_id="reference")
        choices = [(say(f"reference.{mode}"), mode) for mode in LENT]
        modes = gr.CheckboxGroup(
            choices, value=list(LENT[:1]), label=say("reference.modes"), visible=offer.head, elem_id="lends"
        )
    shown = bool(offer.attributes)
    with gr.Accordion(say("attributes"), open=False, visible=shown, elem_id="attributes", elem_classes="tight"):
        choices = [(name.replace("_", " "), name) for name in offer.attributes]
        chosen = gr.Dropdown(choices, value=[], multiselect=True, label=say("attributes.which"), elem_id="which")
        amount = gr.Slider(-MAX_ATTRIBUTE, MAX_ATTRIBUTE, 1, step=0.05, label=say("attributes.amount"))
    with gr.Accordion(say("units"), open=False, visible=offer.movements, elem_id="units", elem_classes="tight"):
        gr.Markdown(say("units.about"), elem_classes="about")
        moves = lambda names: [gr.Slider(-1, 1, 0, step=0.05, label=unit_label(name), buttons=[]) for name in names]
        units = moves(BOTH)
        with gr.Accordion(say("units.sides"), open=False, elem_id="sides"):
            units += moves(SIDED)
        reset_units = gr.Button(say("reset"), size="sm")
    with gr.Accordion(say("pose"), open=False, visible=offer.head, elem_id="pose", elem_classes="tight"):
        slider = lambda axis: gr.Slider(-MAX_ANGLE, MAX_ANGLE, 0, step=1, label=say(f"pose.{axis}"), buttons=[])
        angles = [slider(axis) for axis in AXES]
        reset_angles = gr.Button(say("reset"), size="sm")
    with gr.Accordion(say("gaze"), open=False, visible=offer.gaze, elem_id="gaze", elem_classes="tight"):
        camera = gr.Checkbox(False, label=say("gaze.camera"))
        eye = lambda axis, most: gr.Slider(-most, most, 0, step=1, label=say(f"gaze.{axis}"), buttons=[])
        gaze = camera, *map(eye, AXES, MAX_GAZE)
    with gr.Accordion(say("light"), open=False, visible=offer.head, elem_id="light", elem_classes="tight"):
        lamp = lambda axis, most: gr.Slider(-most, most, 0, step=5, label=say(f"light.{axis}"), buttons=[])
        limits = ARGUMENTS["light_strength"].metadata["limits"]
        light = [
            *map(lamp, AXES, MAX_LIGHT_TURN),
            gr.Slider(*limits, 1, step=0.05, label=say("light.strength"), buttons=[]),
        ]
    with gr.Accordion(say("sampling"), open=False, elem_id="sampling", elem_classes="tight"):
        seed = gr.Number(0, label=say("sampling.seed"), precision=0, minimum=0, maximum=MAX_SEED)
        count = gr.Slider(1, max(MAX_STEPS, offer.steps), offer.steps, step=1, label=say("sampling.steps"))
    basis = gr.Textbox(visible=False)
    resets = [reset_units, reset_angles]
    return reference, modes, (chosen, amount), angles, gaze, light, units, [seed, count], basis, resets


def presets_part() -> Presets:
    """Settings that are kept under a name, written and read."""
    # the key is no secret: what is kept is the visitor's own, and is checked when it is used; what is folded away would
    # not be read when the page opens
    kept = gr.BrowserState([], storage_key="emorig-presets", secret="emorig")
    with gr.Accordion(say("presets"), open=False, elem_id="presets"):
        chosen = gr.Dropdown([], value=None, label=say("presets.chosen"), elem_id="preset")
        with gr.Row(elem_id="preset-row"):
            name = gr.Textbox(label=say("presets.name"), max_lines=1, min_width=160, scale=2, elem_id="preset-name")
            save = gr.Button(say("presets.save"), min_width=80, elem_id="preset-save")
        link = gr.Textbox(
            label=say("presets.link"), visible=False, max_lines=1, buttons=["copy"], interactive=False,
            elem_id="preset-link",
        )  # fmt: skip
        with gr.Row():
            file = gr.DownloadButton(say("presets.file"), interactive=False, size="sm", elem_id="preset-file")
            load = gr.UploadButton(say("presets.load"), file_types=[".json"], size="sm", elem_id="preset-load")
    return Presets(kept, name, save, chosen, load, file, link)


def stage_part(offer: Offer) -> tuple[Stage, Past, Animation]:
    """Before and after with what was made so far, download and animation; buffers, heads."""
    with gr.Tabs():
        with gr.Tab(say("result")) as tab:
            eight = gallery_of("eight", columns=4, label=say("all.about"), show_label=True)
            picture = gr.ImageSlider(
                show_label=False,
                format="png",
                type="filepath",
                max_height=4096,
                slider_position=8,
                buttons=["fullscreen"],
                elem_id="result",
            )
            told = gr.HTML(elem_id="told", padding=False)
            past = past_part(offer)
            with gr.Row(elem_id="saving"):
                kind = gr.Radio(
                    list(FORMATS), value="PNG", label=say("result.format"), show_label=False, container=False,
                    min_width=210, elem_id="format", elem_classes="choices",
                )  # fmt: skip
                download = gr.DownloadButton(say("result.download"), interactive=False, elem_id="download")
            animated, animation = animation_part(offer)
        with gr.Tab(say("buffers")) as buffers_tab:
            buffers = gr.Gallery(show_label=False, format="png", columns=3, object_fit="contain", height=640)
        with gr.Tab(say("head")) as head_tab:
            heads = gr.Model3D(
                show_label=False,
                height=640,
                camera_position=(90, 92, 0.45),
                interactive=False,
                elem_id="heads",
            )
    tabs = tab, buffers_tab, head_tab
    return Stage(picture, told, kind, download, eight, animated, tabs, buffers, heads), past, animation


def past_part(offer: Offer) -> Past:
    """What has been made so far, and ways back and on."""
    with gr.Row(elem_id="past"):
        undo, redo = (
            gr.Button(say(name), interactive=False, size="sm", min_width=70, elem_id=name) for name in ("undo", "redo")
        )
        go_on = gr.Button(
            say("go_on"), interactive=False, size="sm", min_width=140, visible=offer.head, elem_id="go-on"
        )
        reset = gr.Button(say("reset"), interactive=False, size="sm", min_width=140, elem_id="to-photo")
    return Past(undo, redo, go_on, reset, gallery_of("looks", columns=8, label=say("looks"), show_label=False))


def gallery_of(elem_id: str, **options: Any) -> gr.Gallery:
    """Pictures to click on, which are not seen while there are none."""
    return gr.Gallery(
        visible=False, allow_preview=False, object_fit="contain", height="auto", buttons=[], interactive=False,
        format="jpeg", elem_id=elem_id, elem_classes="clickable", **options,
    )  # fmt: skip


def animation_part(offer: Offer) -> tuple[gr.Column, Animation]:
    """How an edit is animated, and what comes of it."""
    with gr.Row(visible=offer.head, elem_id="animation"):
        kind = gr.Radio(
            list(KINDS), value=KINDS[0], label=say("animation"), min_width=210, elem_id="kind", elem_classes="choices"
        )
        seconds = gr.Slider(*SECONDS, step=0.5, label=say("animation.seconds"), min_width=210, elem_id="seconds")
        loop = gr.Checkbox(True, label=say("animation.loop"), elem_id="loop")
    run, stop = job(say("animation.run"), visible=offer.head, elem_id="animate")
    line = status()
    with gr.Column(visible=False) as animated:
        picture = gr.Image(type="filepath", show_label=False, interactive=False, buttons=[], elem_id="moving-picture")
        video = gr.Video(
            show_label=False, interactive=False, autoplay=True, loop=True, buttons=[], elem_id="moving-video"
        )
        download = gr.DownloadButton(say("animation.download"), elem_id="download-animation")
    return animated, Animation([kind, seconds, loop], Job(run, stop, line), [animated, picture, video, download])


def unit_label(unit: str) -> str:
    """Of the slider of a single movement."""
    return say("units.one", movement=say(f"units.{unit}"), unit=unit)


def stage_width(width: int, height: int) -> str:
    """CSS width at which a picture of this shape (pixels) fills the stage without leaving the window."""
    return f"min(100%, max(280px, (100vh - 390px) * {width / height:.4f}))"


def examples(folder: Path) -> list[str]:
    """Paths of public-domain photos that installed packages carry: two portraits, and both side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    astronaut = Image.fromarray(skimage.data.astronaut())
    hopper = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    both = Image.new("RGB", (800, 480))
    both.paste(astronaut.crop((40, 0, 440, 480)), (0, 0))
    both.paste(hopper.crop((56, 20, 456, 500)), (400, 0))
    photos = {"astronaut": astronaut, "hopper": hopper, "both": both}
    for name, image in photos.items():
        save_photo(image, folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in photos]


def gallery(faces: Sequence[EditedFace]) -> list[tuple[Image.Image, str]]:
    """Crop and buffers of every edited face with captions."""
    shown, several = [], len(faces) > 1
    for face in faces:
        caption = lambda what, number=face.number: say("faces.one", number=number, what=what) if several else what
        shown.append((face.crop, caption(say("buffers.result"))))
        shown += [(picture, caption(say(f"buffers.{name}"))) for name, picture in face.buffers.items()]
    return shown
