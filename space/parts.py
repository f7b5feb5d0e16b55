"""Components that several tabs have: uploads, emotions, strength."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder, is_in_or_equal
from texts import say, say_emotion

from emorig_diffusers.pipelines.request import ARGUMENTS


def upload(label: str, sources: list[str], **options: Any) -> gr.Image:
    """An upload of a photo whose value is the path of the untouched file.

    An event may give it a value, and never an update, not even `gr.skip()`: gradio would make it anew, and without
    `uploaded`.
    """
    image = gr.Image(
        label=label,
        show_label=False,
        placeholder=say("drop", what=label),
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
        raise gr.Error(say("not_uploaded"), print_exception=False)
    return path


def give_again(event: Callable[..., Any], heads: gr.Model3D) -> None:
    """Give a Model3D what it has once more after an event: it does not draw the first thing that it is given, nor what
    it is given before its tab is opened."""
    kept, quiet = gr.State(), {"show_progress": "hidden", "api_visibility": "private"}
    cleared = event(lambda path: (None, path), heads, [heads, kept], **quiet)
    cleared.then(lambda path: path, kept, heads, **quiet)


def emotion_choice(names: Sequence[str], elem_id: str) -> gr.Radio:
    """One button an emotion."""
    choices = [(say_emotion(name), name) for name in names]
    return gr.Radio(choices, label=say("emotion"), visible=bool(names), elem_id=elem_id, elem_classes="choices")


def strength_slider(elem_id: str) -> gr.Slider:
    """How strongly it is done."""
    intensity = ARGUMENTS["intensity"]
    limits = intensity.metadata["limits"]
    return gr.Slider(*limits, intensity.default, step=0.05, label=say("strength"), elem_id=elem_id)
