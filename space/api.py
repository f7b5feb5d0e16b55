"""The endpoints for gradio_client, HTTP and MCP, with typed parameters of their own. What parameters mean, and their
ranges, come from `EditRequest`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import getdoc, signature
from typing import Any

import gradio as gr
from editor import Editor, request, save
from faces import chosen
from jobs import results
from parts import upload, upload_clip
from photo_page import AXES, KINDS, MAX_SEED, SECONDS
from visitors import friendly

from emorig_diffusers.cli.amounts import by_name, parse_amounts
from emorig_diffusers.pipelines.request import ARGUMENTS

ABOUT = {
    "photo": "A photo in which a face is visible.",
    "clip": "A video, or an animated GIF, WebP or PNG, of 30 seconds and 1920 x 1080 pixels at most.",
    "action_units": "Amounts of FACS action units to add, such as AU12=0.5, AU4=-0.3.",
    "format": f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.",
    "seconds": "How long it takes in all.",
    "loop": "Whether the face comes back to the photo's own expression, and begins again.",
    "seed": "The same seed gives the same result.",
}
"""What parameters mean that `EditRequest` does not have, or not as a text."""
FIELDS = {"steps": "num_inference_steps"} | dict.fromkeys(AXES, "rotate")
"""Parameters that are fields of `EditRequest` by another name."""


def about(parameter: str) -> str:
    """What a parameter means."""
    field = ARGUMENTS.get(FIELDS.get(parameter, parameter))
    if parameter in ABOUT or field is None:
        return ABOUT[parameter]
    what = str(field.metadata["help"]) % {"default": field.default}
    return f"{what}: its {parameter}" if parameter in AXES else what


def documented(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method with a docstring that says what its parameters mean."""
    what, _, returns = str(getdoc(function)).partition("\n\n")
    lines = [f"    {name}: {about(name)}" for name in signature(function).parameters if name != "self"]
    function.__doc__ = "\n".join([what, "", "Args:", *lines, "", returns])
    return function


class Api:
    """The functions that programs call."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    @documented
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

        Returns:
            The edited photo, a PNG of the photo's size.
        """
        with friendly():
            units = read_units(action_units)
        asked = request(emotion, intensity, reference, steps, (yaw, pitch, roll), units)
        result = self.editor.edit(photo, face, seed, asked)
        with friendly(photo):
            return save(result, photo)

    @documented
    def video(
        self, clip: str, emotion: str | None = "happy", intensity: float = 1.0, face: str = "largest", seed: int = 0
    ) -> Iterator[str | None]:
        """Change the emotion of a face in a clip and keep the person, what they say, the background and the sound.

        Returns:
            The edited clip, an MP4 of the clip's size.
        """
        yield from results(self.editor.clips.edit(clip, face, seed, request(emotion, intensity)))

    @documented
    def drive(
        self, photo: str, clip: str, intensity: float = 1.0, face: str = "largest", seed: int = 0
    ) -> Iterator[str | None]:
        """Let the largest face of a photo do what somebody in a clip does: as much of it as the intensity says, the
        movement of the face that is chosen in the clip.

        Returns:
            The photo as it moves, an MP4 with the clip's sound, whose longer side is 1280 pixels at most.
        """
        yield from results(self.editor.clips.drive(photo, clip, face, intensity, seed))

    @documented
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

        Returns:
            The animation, whose longer side is 720 pixels at most.
        """
        asked = {"face": chosen(face), **request(emotion, intensity)}
        yield from results(self.editor.clips.animate(photo, seed, (format, seconds, loop), asked))


def build(editor: Editor) -> None:
    """Create the endpoints; what they have on the page is not seen."""
    api = Api(editor)
    with gr.Column(visible=False):
        add(editor, api.edit, gr.Image(type="filepath", format="png", label="edited photo"), "edit")
        add(editor, api.video, gr.Video(label="edited clip"), "clip")
        add(editor, api.drive, gr.Video(label="moving photo"), "clip")
        add(editor, api.animate, gr.File(label="animation"), "animation")


def add(editor: Editor, function: Callable[..., Any], output: gr.components.Component, queue: str) -> None:
    """An endpoint of a function's name; one caller of a queue waits for the other."""
    inputs = [parameter(editor, name) for name in signature(function).parameters]
    name = function.__name__
    gr.Button().click(function, inputs, output, api_name=name, concurrency_id=queue, concurrency_limit=1)


def parameter(editor: Editor, name: str) -> gr.components.Component:
    """The component that reads a parameter of an endpoint."""
    emotions, intensity = list(editor.offer.emotions), ARGUMENTS["intensity"]
    makers: dict[str, Callable[[], gr.components.Component]] = {
        "photo": lambda: upload(name, ["upload"]),
        "reference": lambda: upload(name, ["upload"]),
        "clip": lambda: upload_clip(name, sources=["upload"]),
        "emotion": lambda: gr.Radio(emotions, value="happy" if "happy" in emotions else None, label=name),
        "intensity": lambda: gr.Slider(*intensity.metadata["limits"], intensity.default, label=name),
        "face": lambda: gr.Textbox(ARGUMENTS["face"].default, label=name),
        "action_units": lambda: gr.Textbox("", label=name),
        "seed": lambda: gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label=name),
        "steps": lambda: gr.Number(precision=0, label=name),
        "format": lambda: gr.Radio(list(KINDS), value=KINDS[0], label=name),
        "seconds": lambda: gr.Slider(*SECONDS, label=name),
        "loop": lambda: gr.Checkbox(True, label=name),
    }
    return makers[name]() if name in makers else gr.Number(0, label=name)


def read_units(text: str | None) -> dict[str, float]:
    """{"AU12": 0.5} from "AU12=0.5", several separated by commas; ValueError where the text looks different."""
    try:
        return by_name(parse_amounts(text)) if text and text.strip() else {}
    except ValueError as error:
        raise ValueError(f"action_units: {error}") from None
