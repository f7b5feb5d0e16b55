"""The demo's page: its components, its style, and the pictures it shows besides the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import matplotlib.cbook
import numpy as np
import skimage.data
from gradio.components import Component
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder, is_in_or_equal
from PIL import Image, ImageDraw, ImageFont

from emorig_diffusers.face.emotions import MAX_INTENSITY
from emorig_diffusers.photo.faces import Face
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.pipelines.base import FacePipeline
from emorig_diffusers.pipelines.outputs import EditedFace

TITLE = "# EmoRig\nChange the emotion of a face, keep the person."
NOTE = (
    "For photos of yourself or of people who agreed; never to deceive. "
    "The photo is processed on this machine only."
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
FACE_CHOICES = [("Largest", "largest"), ("All", "all")]
MAX_ATTRIBUTE = 2  # either way
MOST_SHAPE = 0.1  # shape_guidance at the slider's end, where a step may go a third of an emotion's way
PREVIEW_SIDE = 900  # longest side of the preview with numbered faces, pixels
ACCENT = "#4f46e5"

CSS = """
.gradio-container { width: 100%; max-width: 1480px !important; padding: 20px 32px !important;
  margin: 0 auto !important; overflow: clip !important; }
.gradio-container > .main { width: 100%; padding: 0 !important; }
#title h1 { font-size: 1.8rem; margin: 0; letter-spacing: -0.02em; }
#title p { color: var(--body-text-color-subdued); margin: 0; font-size: 1.05rem; }
#note p { color: var(--body-text-color-subdued); font-size: 0.85rem; text-align: center; }
#bench { display: grid; gap: 20px; grid-template-columns: 392px minmax(0, 1fr); align-items: start;
  grid-template-areas: "photo stage" "mood stage" "details stage"; grid-template-rows: auto auto 1fr; }
#bench > * { min-width: 0 !important; gap: 12px; }
#photo-part { grid-area: photo; }
#mood-part { grid-area: mood; }
#details-part { grid-area: details; }
#stage-part { grid-area: stage; position: sticky; top: 12px; }
#emotion .wrap, #face .wrap { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
#emotion label, #face label { position: relative; justify-content: center; padding: 10px 4px; }
#emotion label span, #face label span { margin: 0; }
#emotion input, #face input { position: absolute; left: 50%; bottom: 4px; opacity: 0;
  width: 1px; min-width: 0; height: 1px; }
#emotion label:focus-within, #face label:focus-within { outline: 2px solid var(--color-accent);
  outline-offset: 2px; }
.tight .form, .tight .block { background: none; box-shadow: none; }
.tight .block { padding: 4px 0 !important; }
#faces img { cursor: pointer; }
#result { margin: 0 auto; }
#result img { width: 100%; }
#result .empty { min-height: 60vh; }
#result .empty .icon { display: none; }
#result .empty::after { content: "Give a photo and choose an emotion: the result appears here.";
  color: var(--body-text-color-subdued); padding: 16px; text-align: center; }
@media (max-width: 860px) {
  .gradio-container { padding: 12px !important; }
  #bench { display: flex; flex-direction: column; flex-wrap: nowrap; }
  #bench > * { width: 100%; }
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
class Page:
    """The components that events read and write.

    Attributes:
        photo, reference: Uploads; their values are paths of untouched files.
        preview, face, frames: The photo with numbered faces, the choice among them, and their frames.
        emotion, strength, shape, run: What to do, how strongly, how much shape is held, and the button that does it.
        attributes: Names of attributes, and their amount.
        angles, units, sampling: Sliders of yaw, pitch and roll; of UNITS; seed and steps.
        resets: Buttons with the sliders they set to zero.
        stage: Before and after, download, buffers, heads.
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
    gr.Markdown(TITLE, elem_id="title")
    with gr.Row(elem_id="bench"):
        with gr.Column(elem_id="photo-part"):
            chosen = photo_part(folder)
        with gr.Column(elem_id="mood-part"):
            mood = mood_part(offer)
        with gr.Column(elem_id="stage-part"):
            stage = stage_part()
        with gr.Column(elem_id="details-part"):
            details = details_part(offer)
    gr.Markdown(NOTE, elem_id="note")
    return Page(*chosen, *mood, *details, stage)


def photo_part(folder: Path) -> tuple[gr.Image, gr.Image, gr.Radio, gr.State]:
    """Upload, examples, and the choice among several faces."""
    photo = upload("Photo", ["upload", "webcam", "clipboard"], height=280, elem_id="photo")
    gr.Examples(examples(folder), photo, label="Or try one of these")
    preview = gr.Image(
        label="Faces",
        show_label=False,
        visible=False,
        interactive=False,
        format="png",
        height=180,
        buttons=[],
        elem_id="faces",
    )
    face = gr.Radio(
        FACE_CHOICES, value="largest", label="Which face? Or click it", visible=False, elem_id="face"
    )
    return photo, preview, face, gr.State([])


def mood_part(offer: Offer) -> tuple[gr.Radio, gr.Slider, gr.Slider, gr.Button]:
    """Emotion buttons, strength, how much the shape is held, and the button that runs."""
    names = [(name.capitalize(), name) for name in offer.emotions]
    emotion = gr.Radio(names, label="Emotion", visible=bool(names), elem_id="emotion")
    strength = gr.Slider(0, MAX_INTENSITY, 1.0, step=0.05, label="Strength", elem_id="strength")
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


def stage_part() -> list[Component]:
    """Before and after with download, buffers, heads."""
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
            download = gr.DownloadButton("Download PNG", interactive=False, elem_id="download")
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
    return [picture, download, buffers, heads]


def stage_width(width: int, height: int) -> str:
    """CSS width at which a picture of this shape (pixels) fills the stage without leaving the window."""
    return f"min(100%, max(280px, (100vh - 240px) * {width / height:.4f}))"


def upload(label: str, sources: list[str], **options: object) -> gr.Image:
    """An upload whose value is the path of the untouched file."""
    placeholder = f"# {label}\nDrop it here or click"
    image = gr.Image(
        label=label,
        show_label=False,
        placeholder=placeholder,
        sources=sources,
        buttons=[],
        type="filepath",
        format="png",
        image_mode=None,
        **options,
    )
    decode = image.preprocess

    def path_of(data: ImageData | None) -> str | None:
        # gradio would open the file and fail without a sentence where it is not a picture
        return uploaded(data.path if data and data.path else decode(data))

    image.preprocess = path_of
    return image


def uploaded(path: str | None) -> str | None:
    """The path, if it is of a file that a visitor gave or this demo made.

    gradio asks that itself only of what says that it is a file, and a request need not.

    Raises:
        gr.Error: It lies elsewhere on this machine.
    """
    if path and not is_in_or_equal(path, get_upload_folder()):
        raise gr.Error("This is no photo that you uploaded: upload one first.", print_exception=False)
    return path


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


def number_faces(rgb: np.ndarray, faces: Sequence[Face]) -> tuple[Image.Image, list[list[float]]]:
    """A small copy of a photo uint8 [H, W, 3] with a numbered frame around every face.

    Returns:
        The picture, and the frames (x0, y0, x1, y1) in its pixels, face 1 first.
    """
    picture = Image.fromarray(rgb)
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    scale, side = picture.width / rgb.shape[1], max(picture.size)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(14, side // 22))
    frames = [[scale * x for x in face.box] for face in faces]
    for number, (x0, y0, x1, y1) in enumerate(frames, 1):
        pen.rectangle((x0, y0, x1, y1), outline=ACCENT, width=max(2, side // 200))
        _, _, right, bottom = pen.textbbox((x0 + 6, y0 + 4), str(number), font=font)
        pen.rectangle((x0, y0, right + 6, bottom + 6), fill=ACCENT)
        pen.text((x0 + 6, y0 + 4), str(number), font=font, fill="white")
    return picture, frames


def face_at(frames: Sequence[Sequence[float]], x: float, y: float) -> int | None:
    """Number of the face whose frame holds a point of the preview, or None."""
    return next((n for n, (x0, y0, x1, y1) in enumerate(frames, 1) if x0 <= x <= x1 and y0 <= y <= y1), None)


def gallery(faces: Sequence[EditedFace]) -> list[tuple[Image.Image, str]]:
    """Crop and buffers of every edited face with captions."""
    shown = []
    for face in faces:
        prefix = f"Face {face.number}: " if len(faces) > 1 else ""
        shown.append((face.crop, f"{prefix}result"))
        shown += [(picture, f"{prefix}{name}") for name, picture in face.buffers.items()]
    return shown
