"""The tab of photos: its components, and the pictures it shows besides the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import matplotlib.cbook
import skimage.data
from faces import face_part
from gradio.components import Component
from jobs import Job, job, status
from offer import Offer
from parts import emotion_choice, give_again, strength_slider, upload
from PIL import Image
from texts import say

from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.pipelines.outputs import EditedFace

UNITS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU15", "AU17", "AU20", "AU26")
"""Single movements that have a slider."""
AXES = ("yaw", "pitch", "roll")
MAX_ANGLE = 20  # degrees
MAX_SEED = 2**32 - 1
MAX_STEPS = 50
MAX_ATTRIBUTE = 2  # either way
MOST_SHAPE = 0.1  # shape_guidance at the slider's end, where a step may go a third of an emotion's way
KINDS = ("GIF", "MP4", "WebP")  # of animations
SECONDS = 0.5, 6, 2  # of an animation: least, most, and to begin with

SCROLL = """() => {
  if (innerWidth <= 860) document.getElementById("strength").scrollIntoView({behavior: "smooth"})
}"""


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
class Page:
    """The components that events read and write.

    Attributes:
        photo, reference: Uploads; their values are paths of untouched files.
        preview, face, frames: The photo with numbered faces, the choice among them, and their frames.
        emotion, strength, shape, run: What to do, how strongly, how much shape is held, and the button that does it.
        attributes: Names of attributes, and their amount.
        angles, units, sampling: Sliders of yaw, pitch and roll; of UNITS; seed and steps.
        resets: Buttons with the sliders they set to zero.
        stage: Before and after, download, buffers, heads, and what shows an animation of them.
        animation: What makes it.
    """

    photo: gr.Image
    preview: gr.Image
    face: gr.Radio
    frames: gr.State
    emotion: gr.Radio
    strength: gr.Slider
    shape: gr.Slider
    run: gr.Button
    reference: gr.Image
    attributes: tuple[gr.Dropdown, gr.Slider]
    angles: list[gr.Slider]
    units: list[gr.Slider]
    sampling: list[Component]
    resets: list[tuple[gr.Button, list[gr.Slider]]]
    stage: list[Component]
    animation: Animation

    @property
    def inputs(self) -> list[Component]:
        """What an edit depends on, in the order of `PhotoTab.show`."""
        first = [self.photo, self.emotion, self.strength, self.face, self.reference]
        return [*first, *self.sampling, self.shape, *self.attributes, *self.angles, *self.units]


def lay_out(offer: Offer, folder: Path) -> Page:
    """Create the page inside an open `gr.Blocks`.

    Args:
        offer: What the pipeline can do; components for the rest are not visible.
        folder: Where example photos are written.
    """
    with gr.Row(elem_classes="bench"):
        with gr.Column(elem_id="photo-part"):
            chosen = photo_part(folder)
        with gr.Column(elem_id="mood-part"):
            mood = mood_part(offer)
        with gr.Column(elem_id="stage-part"):
            stage, animation = stage_part(offer)
        with gr.Column(elem_id="details-part"):
            details = details_part(offer)
    return Page(*chosen, *mood, *details, stage, animation)


def photo_part(folder: Path) -> tuple[gr.Image, gr.Image, gr.Radio, gr.State]:
    """Upload, examples, and the choice among several faces."""
    photo = upload(say("photo"), ["upload", "webcam", "clipboard"], height=280, elem_id="photo")
    gr.Examples(examples(folder), photo, label=say("photo.examples"))
    return photo, *face_part("face", "faces"), gr.State({})


def mood_part(offer: Offer) -> tuple[gr.Radio, gr.Slider, gr.Slider, gr.Button]:
    """Emotion buttons, strength, how much the shape is held, and the button that runs."""
    emotion, strength = emotion_choice(offer.emotions, "emotion"), strength_slider("strength")
    shape = gr.Slider(0, 1, 0, step=0.05, label=say("shape"), visible=offer.shape, elem_id="shape")
    run = gr.Button(say("run"), variant="primary", size="lg", elem_id="run")
    return emotion, strength, shape, run


def details_part(offer: Offer) -> tuple[gr.Image, tuple[gr.Dropdown, gr.Slider], list, list, list, list]:
    """Reference photo, attributes, action units, head pose, seed and steps; all folded away."""
    lends = bool(offer.emotions)
    with gr.Accordion(say("reference.part"), open=False, visible=lends):
        reference = upload(say("reference"), ["upload", "clipboard"], height=220, elem_id="reference")
    shown = bool(offer.attributes)
    with gr.Accordion(say("attributes"), open=False, visible=shown, elem_id="attributes", elem_classes="tight"):
        choices = [(name.replace("_", " "), name) for name in offer.attributes]
        chosen = gr.Dropdown(choices, value=[], multiselect=True, label=say("attributes.which"), elem_id="which")
        amount = gr.Slider(-MAX_ATTRIBUTE, MAX_ATTRIBUTE, 1, step=0.05, label=say("attributes.amount"))
    with gr.Accordion(say("units"), open=False, visible=offer.movements, elem_id="units", elem_classes="tight"):
        units = [gr.Slider(-1, 1, 0, step=0.05, label=unit_label(unit)) for unit in UNITS]
        reset_units = gr.Button(say("reset"), size="sm")
    with gr.Accordion(say("pose"), open=False, visible=offer.head, elem_id="pose", elem_classes="tight"):
        angles = [gr.Slider(-MAX_ANGLE, MAX_ANGLE, 0, step=1, label=say(f"pose.{axis}")) for axis in AXES]
        reset_angles = gr.Button(say("reset"), size="sm")
    with gr.Accordion(say("sampling"), open=False, elem_id="sampling", elem_classes="tight"):
        seed = gr.Number(0, label=say("sampling.seed"), precision=0, minimum=0, maximum=MAX_SEED)
        count = gr.Slider(1, max(MAX_STEPS, offer.steps), offer.steps, step=1, label=say("sampling.steps"))
    resets = [(reset_units, units), (reset_angles, angles)]
    return reference, (chosen, amount), angles, units, [seed, count], resets


def stage_part(offer: Offer) -> tuple[list[Component], Animation]:
    """Before and after with download and animation, buffers, heads."""
    with gr.Tabs():
        with gr.Tab(say("result")):
            picture = gr.ImageSlider(
                show_label=False,
                format="png",
                type="filepath",
                max_height=4096,
                slider_position=8,
                buttons=["fullscreen"],
                elem_id="result",
            )
            with gr.Row():
                download = gr.DownloadButton(say("result.download"), interactive=False, elem_id="download")
                run, stop = job(say("animation.run"), visible=offer.head, elem_id="animate")
            animated, animation = animation_part(run, stop, offer)
        with gr.Tab(say("buffers")):
            buffers = gr.Gallery(show_label=False, format="png", columns=3, object_fit="contain", height=640)
        with gr.Tab(say("head")) as tab:
            heads = gr.Model3D(
                show_label=False,
                height=640,
                camera_position=(90, 92, 0.45),
                interactive=False,
                elem_id="heads",
            )
    give_again(tab.select, heads)
    return [picture, download, buffers, heads, animated], animation


def animation_part(run: gr.Button, stop: gr.Button, offer: Offer) -> tuple[gr.Column, Animation]:
    """How an edit is animated, and what comes of it."""
    with gr.Row(visible=offer.head, elem_id="animation"):
        kind = gr.Radio(list(KINDS), value=KINDS[0], label=say("animation"), min_width=260, elem_id="kind")
        seconds = gr.Slider(*SECONDS, step=0.5, label=say("animation.seconds"), elem_id="seconds")
        loop = gr.Checkbox(True, label=say("animation.loop"), elem_id="loop")
    line = status()
    with gr.Column(visible=False) as animated:
        picture = gr.Image(type="filepath", show_label=False, interactive=False, buttons=[], elem_id="moving-picture")
        video = gr.Video(
            show_label=False, interactive=False, autoplay=True, loop=True, buttons=[], elem_id="moving-video"
        )
        download = gr.DownloadButton(say("animation.download", kind=""), elem_id="download-animation")
    return animated, Animation([kind, seconds, loop], Job(run, stop, line), [animated, picture, video, download])


def unit_label(unit: str) -> str:
    """Of the slider of a single movement."""
    return say("units.one", movement=say(f"units.{unit}"), unit=unit)


def stage_width(width: int, height: int) -> str:
    """CSS width at which a picture of this shape (pixels) fills the stage without leaving the window."""
    return f"min(100%, max(280px, (100vh - 240px) * {width / height:.4f}))"


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
