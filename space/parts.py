"""Components that several parts of the page have: uploads, choices, and the controls of what takes a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder, is_in_or_equal

from emorig_diffusers.face.emotions import MAX_INTENSITY

FACE_CHOICES = [("Largest", "largest"), ("All", "all")]


@dataclass(frozen=True)
class Job:
    """Controls of what takes a while.

    Attributes:
        run, stop: Buttons; the second one is visible while it lasts.
        status: How far it is.
    """

    run: gr.Button
    stop: gr.Button
    status: gr.HTML

    @property
    def components(self) -> list[Component]:
        return [self.run, self.stop, self.status]


def job(name: str, **options: Any) -> tuple[gr.Button, gr.Button]:
    """A button with a name and gradio's options, and the one that stops what it does."""
    return gr.Button(name, **options), gr.Button("Stop", variant="stop", visible=False)


def status() -> gr.HTML:
    """The line that says how far a job is."""
    return gr.HTML(visible=False, elem_classes="progress", padding=False)


def upload(label: str, sources: list[str], **options: Any) -> gr.Image:
    """An upload of a photo whose value is the path of the untouched file."""
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


def upload_clip(label: str, **options: Any) -> gr.Video:
    """An upload of a clip whose value is the path of the untouched file."""
    return gr.Video(label=label, show_label=False, include_audio=True, buttons=[], **options)


def uploaded(path: str | None) -> str | None:
    """The path, if it is of a file that a visitor gave or this demo made.

    gradio asks that itself only of what says that it is a file, and a request for a picture need not.

    Raises:
        gr.Error: It lies elsewhere on this machine.
    """
    if path and not is_in_or_equal(path, get_upload_folder()):
        raise gr.Error("This is no photo that you uploaded: upload one first.", print_exception=False)
    return path


def face_part(name: str, label: str) -> tuple[gr.Image, gr.Radio]:
    """The preview with numbered faces and the choice among them, which are visible where there are several.

    Args:
        name: Id of the choice.
        label: Id of the preview.
    """
    preview = gr.Image(
        label="Faces",
        show_label=False,
        visible=False,
        interactive=False,
        format="png",
        height=180,
        buttons=[],
        elem_id=label,
    )
    about = "Which face? Or click it"
    face = gr.Radio(FACE_CHOICES, value="largest", label=about, visible=False, elem_id=name, elem_classes="choices")
    return preview, face


def choose_among(count: int) -> Any:
    """The update of a choice among so many faces."""
    choices = FACE_CHOICES + [(str(n), str(n)) for n in range(1, count + 1)]
    return gr.update(choices=choices, value="largest", visible=count > 1)


def emotion_choice(names: Sequence[str], elem_id: str) -> gr.Radio:
    """One button an emotion."""
    choices = [(name.capitalize(), name) for name in names]
    return gr.Radio(choices, label="Emotion", visible=bool(names), elem_id=elem_id, elem_classes="choices")


def strength_slider(elem_id: str) -> gr.Slider:
    """How strongly it is done."""
    return gr.Slider(0, MAX_INTENSITY, 1.0, step=0.05, label="Strength", elem_id=elem_id)
