"""The demo's page: its components, its style, and the pictures it shows besides the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import matplotlib.cbook
import numpy as np
import skimage.data
from gradio.components import Component
from parts import Job, emotion_choice, face_part, job, status, strength_slider, upload
from PIL import Image, ImageDraw, ImageFont

from emorig_diffusers.photo.faces import Face
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.pipelines.base import FacePipeline
from emorig_diffusers.pipelines.outputs import EditedFace

TITLE = "# EmoRig\nChange the emotion of a face, keep the person."
NOTE = (
    "For photos and clips of yourself or of people who agreed; never to deceive. "
    "They are processed on this machine only."
)
UNITS = {
    "AU1": "Inner brows up",
    "AU2": "Outer brows up",
    "AU4": "Brows down",
    "AU5": "Eyes wide",
    "AU6": "Cheeks up",
    "AU7": "Lids tight",
    "AU9": "Nose wrinkled",
    "AU10": "Upper lip up",
    "AU12": "Lip corners up",
    "AU15": "Lip corners down",
    "AU17": "Chin up",
    "AU20": "Lips stretched",
    "AU26": "Jaw open",
}
ANGLES = ("Yaw ° (to the person's left)", "Pitch ° (up)", "Roll ° (to the right shoulder)")
MAX_ANGLE = 20  # degrees
MAX_SEED = 2**32 - 1
MAX_STEPS = 50
MAX_ATTRIBUTE = 2  # either way
MOST_SHAPE = 0.1  # shape_guidance at the slider's end, where a step may go a third of an emotion's way
KINDS = ("GIF", "MP4", "WebP")  # of animations
SECONDS = 0.5, 6, 2  # of an animation: least, most, and to begin with
PREVIEW_SIDE = 900  # longest side of the preview with numbered faces, pixels
ACCENT = "#4f46e5"

CSS = """
.gradio-container { width: 100%; max-width: 1480px !important; padding: 20px 32px !important;
  margin: 0 auto !important; overflow: clip !important; }
.gradio-container > .main { width: 100%; padding: 0 !important; }
#title h1 { font-size: 1.8rem; margin: 0; letter-spacing: -0.02em; }
#title p { color: var(--body-text-color-subdued); margin: 0; font-size: 1.05rem; }
#note p { color: var(--body-text-color-subdued); font-size: 0.85rem; text-align: center; }
.bench { display: grid; gap: 20px; grid-template-columns: 392px minmax(0, 1fr); align-items: start;
  grid-template-areas: "photo stage" "mood stage" "details stage"; grid-template-rows: auto auto 1fr; }
.bench > * { min-width: 0 !important; gap: 12px; }
#photo-part, #clip-part { grid-area: photo; }
#mood-part, #clip-mood-part { grid-area: mood; }
#details-part { grid-area: details; }
#stage-part, #clip-stage-part { grid-area: stage; position: sticky; top: 12px; }
.choices .wrap { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
.choices label { position: relative; justify-content: center; padding: 10px 4px; }
.choices label span { margin: 0; }
.choices input { position: absolute; left: 50%; bottom: 4px; opacity: 0;
  width: 1px; min-width: 0; height: 1px; }
.choices label:focus-within { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.tight .form, .tight .block { background: none; box-shadow: none; }
.tight .block { padding: 4px 0 !important; }
#faces img, #people img { cursor: pointer; }
#result { margin: 0 auto; }
#result img { width: 100%; }
#result .empty { min-height: 60vh; }
#result .empty .icon { display: none; }
#result .empty::after { content: "Give a photo and choose an emotion: the result appears here.";
  color: var(--body-text-color-subdued); padding: 16px; text-align: center; }
.progress { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.progress progress { display: block; width: 100%; height: 8px; margin-bottom: 6px; border: none; border-radius: 4px;
  overflow: hidden; appearance: none; background: var(--border-color-primary); }
.progress progress::-webkit-progress-bar { background: var(--border-color-primary); }
.progress progress::-webkit-progress-value { background: var(--color-accent); }
.progress progress::-moz-progress-bar { background: var(--color-accent); }
#clip video { max-height: 240px; }
#after .empty::after { content: "Give a clip and choose an emotion: the result appears here.";
  color: var(--body-text-color-subdued); padding: 16px; text-align: center; }
#after .empty .icon { display: none; }
#clip-stage-part video, #moving-video video, #moving-picture img { max-height: 64vh; margin: 0 auto; }
@media (max-width: 860px) {
  .gradio-container { padding: 12px !important; }
  .bench { display: flex; flex-direction: column; flex-wrap: nowrap; }
  .bench > * { width: 100%; }
  #clip-part { order: 1; } #clip-mood-part { order: 2; } #clip-stage-part { order: 3; position: static; }
  #photo-part { order: 1; } #mood-part { order: 2; } #stage-part { order: 3; } #details-part { order: 4; }
  #stage-part { position: static; }
  #result .empty { min-height: 30vh; }
}
"""

SCROLL = """() => {
  if (innerWidth <= 860) document.getElementById("strength").scrollIntoView({behavior: "smooth"})
}"""


@dataclass(frozen=True)
class Offer:
    """What a pipeline can do, as far as the page has components for it.

    Attributes:
        emotions, attributes: Names to choose from.
        steps: Steps of the network to begin with.
        head, movements: Whether there is a head to turn, and whether it has single movements.
        shape: Whether the face's shape can be held.
    """

    emotions: Sequence[str]
    steps: int
    head: bool = True
    movements: bool = True
    attributes: Sequence[str] = ()
    shape: bool = False

    @classmethod
    def of(cls, pipe: FacePipeline) -> Offer:
        """What a pipeline offers."""
        emotions, steps = pipe.emotion_names, pipe.config.default_num_inference_steps
        can = pipe.capabilities
        attributes = pipe.attribute_classifier.names if "attributes" in can else ()
        return cls(emotions, steps, "head" in can, "action_units" in can, attributes, "shape_guidance" in can)


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
        """What an edit depends on, in the order of `Editor.show`."""
        first = [self.photo, self.emotion, self.strength, self.face, self.reference]
        return [*first, *self.sampling, self.shape, *self.attributes, *self.angles, *self.units]


def theme() -> gr.themes.Base:
    """Indigo on grey with the reader's own fonts: the page loads nothing from elsewhere."""
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        background_fill_primary="*neutral_50",
        body_text_color_subdued="*neutral_500",
        block_title_background_fill="none",
        block_title_padding="0",
        block_title_text_color="*body_text_color",
    )


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
    photo = upload("Photo", ["upload", "webcam", "clipboard"], height=280, elem_id="photo")
    gr.Examples(examples(folder), photo, label="Or try one of these")
    return photo, *face_part("face", "faces"), gr.State({})


def mood_part(offer: Offer) -> tuple[gr.Radio, gr.Slider, gr.Slider, gr.Button]:
    """Emotion buttons, strength, how much the shape is held, and the button that runs."""
    emotion, strength = emotion_choice(offer.emotions, "emotion"), strength_slider("strength")
    shape = gr.Slider(0, 1, 0, step=0.05, label="Keep the face's shape", visible=offer.shape, elem_id="shape")
    run = gr.Button("Change the expression", variant="primary", size="lg", elem_id="run")
    return emotion, strength, shape, run


def details_part(offer: Offer) -> tuple[gr.Image, tuple[gr.Dropdown, gr.Slider], list, list, list, list]:
    """Reference photo, attributes, action units, head pose, seed and steps; all folded away."""
    lends = bool(offer.emotions)
    with gr.Accordion("Take the expression of another photo instead", open=False, visible=lends):
        reference = upload("Reference", ["upload", "clipboard"], height=220, elem_id="reference")
    shown = bool(offer.attributes)
    with gr.Accordion("Attributes", open=False, visible=shown, elem_id="attributes", elem_classes="tight"):
        choices = [(name.replace("_", " "), name) for name in offer.attributes]
        chosen = gr.Dropdown(choices, value=[], multiselect=True, label="Which", elem_id="which")
        amount = gr.Slider(-MAX_ATTRIBUTE, MAX_ATTRIBUTE, 1, step=0.05, label="Amount (below 0: less of it)")
    title, shown = "Single movements (action units)", offer.movements
    with gr.Accordion(title, open=False, visible=shown, elem_id="units", elem_classes="tight"):
        units = [gr.Slider(-1, 1, 0, step=0.05, label=f"{name} ({unit})") for unit, name in UNITS.items()]
        reset_units = gr.Button("Reset", size="sm")
    with gr.Accordion("Head pose", open=False, visible=offer.head, elem_id="pose", elem_classes="tight"):
        angles = [gr.Slider(-MAX_ANGLE, MAX_ANGLE, 0, step=1, label=name) for name in ANGLES]
        reset_angles = gr.Button("Reset", size="sm")
    with gr.Accordion("Sampling", open=False, elem_id="sampling", elem_classes="tight"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
        count = gr.Slider(1, max(MAX_STEPS, offer.steps), offer.steps, step=1, label="Steps")
    resets = [(reset_units, units), (reset_angles, angles)]
    return reference, (chosen, amount), angles, units, [seed, count], resets


def stage_part(offer: Offer) -> tuple[list[Component], Animation]:
    """Before and after with download and animation, buffers, heads."""
    with gr.Tabs():
        with gr.Tab("Result"):
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
                download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download")
                run, stop = job("Animate", visible=offer.head, elem_id="animate")
            animated, animation = animation_part(run, stop, offer)
        with gr.Tab("Buffers"):
            buffers = gr.Gallery(show_label=False, format="png", columns=3, object_fit="contain", height=640)
        with gr.Tab("3-D head") as tab:
            heads = gr.Model3D(
                show_label=False,
                height=640,
                camera_position=(90, 92, 0.45),
                interactive=False,
                elem_id="heads",
            )
    # a Model3D does not draw what it was given before its tab was first opened: give it again
    kept, quiet = gr.State(), {"show_progress": "hidden", "api_visibility": "private"}
    cleared = tab.select(lambda path: (None, path), heads, [heads, kept], **quiet)
    cleared.then(lambda path: path, kept, heads, **quiet)
    return [picture, download, buffers, heads, animated], animation


def animation_part(run: gr.Button, stop: gr.Button, offer: Offer) -> tuple[gr.Column, Animation]:
    """How an edit is animated, and what comes of it."""
    with gr.Row(visible=offer.head, elem_id="animation"):
        kind = gr.Radio(list(KINDS), value=KINDS[0], label="Animation", min_width=260, elem_id="kind")
        seconds = gr.Slider(*SECONDS, step=0.5, label="Seconds", elem_id="seconds")
        loop = gr.Checkbox(True, label="And back again", elem_id="loop")
    line = status()
    with gr.Column(visible=False) as animated:
        picture = gr.Image(type="filepath", show_label=False, interactive=False, buttons=[], elem_id="moving-picture")
        video = gr.Video(
            show_label=False, interactive=False, autoplay=True, loop=True, buttons=[], elem_id="moving-video"
        )
        download = gr.DownloadButton("Download animation", elem_id="download-animation")
    return animated, Animation([kind, seconds, loop], Job(run, stop, line), [animated, picture, video, download])


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


def number_faces(rgb: np.ndarray, faces: Mapping[int, Face]) -> tuple[Image.Image, dict[int, list[float]]]:
    """A small copy of a photo uint8 [H, W, 3] with a frame around every face, and its number.

    Returns:
        The picture, and number -> frame (x0, y0, x1, y1) in its pixels.
    """
    picture = Image.fromarray(rgb)
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    scale, side = picture.width / rgb.shape[1], max(picture.size)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(14, side // 22))
    frames = {number: [scale * x for x in face.box] for number, face in faces.items()}
    for number, (x0, y0, x1, y1) in frames.items():
        pen.rectangle((x0, y0, x1, y1), outline=ACCENT, width=max(2, side // 200))
        _, _, right, bottom = pen.textbbox((x0 + 6, y0 + 4), str(number), font=font)
        pen.rectangle((x0, y0, right + 6, bottom + 6), fill=ACCENT)
        pen.text((x0 + 6, y0 + 4), str(number), font=font, fill="white")
    return picture, frames


def face_at(frames: Mapping[int, Sequence[float]], x: float, y: float) -> int | None:
    """Number of the face whose frame holds a point of the preview, or None."""
    return next((n for n, (x0, y0, x1, y1) in frames.items() if x0 <= x <= x1 and y0 <= y <= y1), None)


def gallery(faces: Sequence[EditedFace]) -> list[tuple[Image.Image, str]]:
    """Crop and buffers of every edited face with captions."""
    shown = []
    for face in faces:
        prefix = f"Face {face.number}: " if len(faces) > 1 else ""
        shown.append((face.crop, f"{prefix}result"))
        shown += [(picture, f"{prefix}{name}") for name, picture in face.buffers.items()]
    return shown
