"""The endpoints for gradio_client, HTTP and MCP, with typed parameters of their own. What parameters mean, and their
ranges, come from `EditRequest`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from inspect import getdoc, signature
from pathlib import Path
from typing import Any

import batch
import gradio as gr
import presets
import torch
from comparing import Comparer
from editor import Editor, request, save
from faces import chosen, number_faces
from jobs import results
from looks import ALL, Edits, Look, Settings
from parts import Given, take_addresses, upload, upload_clip, upload_photos
from photo_page import AXES, KINDS, MAX_SEED, SECONDS, gallery
from scan_tab import upload_scan
from scans import CODES, FITTED, fit_steps
from visitors import friendly, new_folder

from emorig_diffusers.cli.amounts import by_name, parse_amounts
from emorig_diffusers.cli.grid import draw_sheet, every_emotion
from emorig_diffusers.models.nphm import NeuralHeadModel
from emorig_diffusers.photo.faces import choose_faces
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.pipelines.request import ARGUMENTS, MODES, names

ABOUT = {
    "photo": "A photo in which a face is visible.",
    "photos": f"Photos, {batch.MAX_PHOTOS} at most, in each of which a face is visible.",
    "source": "The photo whose face it is.",
    "target": "The photo whose expression that face gets.",
    "scan": "A head as PLY, OBJ, GLB or NPZ: a mesh, or points, in any unit and however it is turned.",
    "clip": "A video, or an animated GIF, WebP or PNG, of 30 seconds and 1920 x 1080 pixels at most.",
    "action_units": "Amounts of FACS action units to add, such as AU12=0.5, AU4=-0.3.",
    "attributes": "Amounts of attributes to add, such as Young=-1, in pipelines that know some.",
    "gaze": "Degrees to turn the eyes by, to the person's left and up, such as 15, -5; or camera.",
    "edits": 'Edits that come first, one after the other, as JSON: [{"emotion": "happy", "intensity": 0.5}, '
    '{"action_units": {"AU1": 0.3}}].',
    "modes": f"What the target, or reference, lends: {', '.join(MODES)}; several separated by commas.",
    "format": f"{', '.join(KINDS[:-1])} or {KINDS[-1]}.",
    "seconds": "How long it takes in all.",
    "loop": "Whether the face comes back to the photo's own expression, and begins again.",
    "seed": "The same seed gives the same result.",
}
"""What parameters mean that `EditRequest` does not have, or not as a text."""
NO_EDITS = 'edits: give a JSON list such as [{"emotion": "happy", "intensity": 0.5}, {"action_units": {"AU1": 0.3}}].'
FIELDS = {
    "steps": "num_inference_steps",
    **dict.fromkeys(AXES, "rotate"),
    **dict.fromkeys(("light_yaw", "light_pitch"), "light_turn"),
}
"""Parameters that are fields of `EditRequest` by another name."""


def about(parameter: str) -> str:
    """What a parameter means."""
    field = ARGUMENTS.get(FIELDS.get(parameter, parameter))
    if parameter in ABOUT or field is None:
        return ABOUT[parameter]
    what = str(field.metadata["help"]) % {"default": field.default}
    return f"{what}: its {parameter.removeprefix('light_')}" if parameter.endswith(AXES) else what


def documented(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method with a docstring that says what its parameters mean."""
    what, _, returns = str(getdoc(function)).partition("\n\nReturns:\n")
    lines = [f"    {name}: {about(name)}" for name in signature(function).parameters if name != "self"]
    returned = " ".join(line.strip() for line in returns.splitlines())  # gradio puts commas between lines
    function.__doc__ = "\n".join([what, "", "Args:", *lines, "", "Returns:", f"    {returned}"])
    return function


class Api:
    """The functions that programs call."""

    def __init__(self, editor: Editor, comparer: Comparer, head: NeuralHeadModel | None) -> None:
        self.editor, self.comparer, self.neural = editor, comparer, head

    @documented
    def edit(
        self,
        photo: str,
        emotion: str | None = None,
        intensity: float = 1.0,
        face: str = "largest",
        reference: str | None = None,
        action_units: str = "",
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        gaze: str = "",
        light_yaw: float = 0.0,
        light_pitch: float = 0.0,
        light_strength: float | None = None,
        attributes: str = "",
        edits: str = "",
        prompt: str = "",
        seed: int = 0,
        steps: int | None = None,
        modes: str = "exp",
    ) -> str:
        """Change the emotion of a face in a photo and keep the person; where nothing is asked, make it happy.

        Returns:
            The edited photo, a PNG of the photo's size.
        """
        with friendly():
            others = {
                "gaze": read_gaze(gaze),
                "light_turn": (light_yaw, light_pitch) if light_yaw or light_pitch else None,
                "attributes": read_amounts("attributes", attributes),
                "edits": self._read_edits(edits),
                "prompt": prompt.strip(),
            }
            units = read_amounts("action_units", action_units)
        turned, lit = (yaw, pitch, roll), {} if light_strength is None else {"light_strength": light_strength}
        if not (emotion or reference or units or lit or any(turned) or any(others.values())):
            emotion = "happy"
        lent = {"modes": names(modes)} if modes.strip() != "exp" else {}
        asked = request(emotion, intensity, reference, steps, turned, units, **others, **lent) | lit
        result = self.editor.edit(photo, face, seed, asked)
        with friendly(photo):
            return save(result, photo)

    @documented
    def emotions(self, photo: str, intensity: float = 1.0, face: str = "largest", seed: int = 0) -> str:
        """Show a face of a photo with every emotion, each under its name, on one sheet.

        Returns:
            The sheet, a PNG.
        """
        pipe = self.editor.pipe
        with friendly(photo):
            pipe.check_inputs(emotion=list(pipe.emotion_names), intensity=intensity)
            [number, *_] = self._numbers(photo, face)
            known, faces = self.editor.photos.read(photo), self.editor.photos.faces(photo, [number])
            options = lambda: {"intensity": intensity, "generator": torch.Generator().manual_seed(int(seed or 0))}
            made = every_emotion(pipe, known.photo.rgb, faces, options)
            edits = [edit for names, result in made for edit in zip(names, result.images)]
            sheet = draw_sheet(pipe, known.photo.rgb, edits, known.found[number - 1].box, intensity)
            return str(save_photo(sheet, new_folder() / "emotions.png"))

    @documented
    def faces(self, photo: str) -> tuple[str, list[dict[str, Any]]]:
        """Find the faces of a photo, so that one can be chosen by its number.

        Returns:
            The photo, small, with a number at each face; and of each face its number, its box (x0, y0, x1, y1, in
            pixels) and whether it is the largest.
        """
        with friendly(photo):
            known = self.editor.photos.read(photo)
            numbered = dict(enumerate(known.found, 1))
            picture, _ = number_faces(known.photo.rgb, numbered)
            path = str(save_photo(picture, new_folder() / "faces.png"))
        about = lambda number, found: {
            "number": number, "box": [round(float(x), 1) for x in found.box], "largest": number == known.largest,
        }  # fmt: skip
        return path, [about(number, found) for number, found in numbered.items()]

    @documented
    def shown(self, photo: str, face: str = "largest") -> dict[str, Any]:
        """Read what a face of a photo shows already: amounts of action units, and how the head is turned.

        Returns:
            Amounts by action unit, and yaw, pitch and roll in degrees.
        """
        with friendly(photo):
            [number, *_] = self._numbers(photo, face)
        angles, units = self.editor.shown(photo, Look({number: Edits()}, str(number)))
        plain = lambda amounts: {name: round(float(amount), 3) for name, amount in amounts}
        return {"action_units": plain(units.items()), "rotate": plain(zip(AXES, angles))}

    @documented
    def head(
        self, photo: str, emotion: str | None = "happy", intensity: float = 1.0, face: str = "largest", seed: int = 0
    ) -> str | None:
        """Make the 3-D head of a face of a photo with an emotion, textured with the edited photo.

        Returns:
            The head, or the heads side by side, as GLB, in metres.
        """
        drawn = self.editor.draw(photo, self._look(photo, emotion, intensity, face, seed))
        with friendly(photo):
            return self.editor.heads(drawn, new_folder() / f"{Path(photo).stem}_head.glb")

    @documented
    def buffers(
        self, photo: str, emotion: str | None = "happy", intensity: float = 1.0, face: str = "largest", seed: int = 0
    ) -> list[Any]:
        """Show what an edit of a photo was made of: the crop of the result, and the pictures that were drawn for it.

        Returns:
            Pictures with their names.
        """
        _, result = self.editor.draw(photo, self._look(photo, emotion, intensity, face, seed))
        return gallery(result.faces[0])

    @documented
    def batch(
        self,
        photos: list[Given],
        emotion: str | None = None,
        intensity: float = 1.0,
        face: str = "largest",
        prompt: str = "",
        edits: str = "",
        seed: int = 0,
    ) -> Iterator[tuple[str | None, list[dict[str, Any]]]]:
        """Change the emotion of a face in each of many photos; where nothing is asked, make it happy.

        Returns:
            A zip of the edited photos, each under its own name; and of each photo its name, that of its result, which
            is empty where it could not be edited, and notes that say why.
        """
        with friendly():
            others = {"prompt": prompt.strip(), "edits": self._read_edits(edits)}
        asked = request(emotion if emotion or any(others.values()) else "happy", intensity, **others)
        for made in batch.edit_batch(self.editor, photos, face, seed, asked):
            yield made.result and str(made.result), made.report

    @documented
    def compare(self, source: str, target: str, modes: str = "exp", seed: int = 0) -> tuple[str, str]:
        """Put the expression of one photo on the face of another with every pipeline that is loaded, and compare.

        Returns:
            A sheet of the results, a PNG; and a table of how near each comes to the target's expression.
        """
        return self.comparer.compare(source, target, names(modes), seed)

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

    @documented
    def fit_scan(self, scan: str) -> Iterator[tuple[str | None, str | None]]:
        """Fit the neural head to a 3-D scan.

        Returns:
            The fitted head as GLB, in the scan's coordinates; and its codes as JSON.
        """
        for made in fit_steps(self.neural, scan):
            if made.result is None:
                yield None, None
                continue
            fitted, codes = (str(made.result / file.format(name=Path(scan).stem)) for file in (FITTED, CODES))
            yield fitted, codes

    def _read_edits(self, text: str | None) -> list[Any] | None:
        """Steps from JSON; ValueError where it is none."""
        if not text or not text.strip():
            return None
        steps = presets.parse(text, NO_EDITS)
        return presets.read(self.editor.pipe, {"edits": steps}, NO_EDITS)["edits"]

    def _numbers(self, photo: str, face: str) -> list[int]:
        """Numbers of the faces that are chosen; raises what the package says where there are none."""
        found = self.editor.photos.read(photo).found
        return [found.index(one) + 1 for one in choose_faces(found, chosen(face))]

    def _look(self, photo: str, emotion: str | None, intensity: float, face: str, seed: int) -> Look:
        """A look of a photo whose chosen faces have an emotion."""
        with friendly(photo):
            self.editor.pipe.check_inputs(emotion=emotion, intensity=intensity)
            numbers = self._numbers(photo, face)
        plain = Look({number: Edits() for number in numbers}, ALL if len(numbers) > 1 else str(numbers[0]))
        return replace(plain.asking(Settings(emotion, intensity)), seed=int(seed or 0))


def build(editor: Editor, comparer: Comparer, head: NeuralHeadModel | None) -> None:
    """Create the endpoints; what they have on the page is not seen."""
    api = Api(editor, comparer, head)
    picture = lambda label: gr.Image(type="filepath", format="png", label=label)
    with gr.Column(visible=False):
        if editor.offer.emotions or editor.offer.attributes:
            add(editor, api.edit, [picture("edited photo")], "edit")
        add(editor, api.faces, [picture("numbered faces"), gr.JSON(label="faces")], "edit")
        if editor.offer.head:
            add(editor, api.shown, [gr.JSON(label="what the face shows")], "edit")
        if editor.offer.emotions:
            add(editor, api.emotions, [picture("sheet")], "edit")
            add(editor, api.head, [gr.File(label="head")], "edit")
            add(editor, api.buffers, [gr.Gallery(label="buffers", format="png")], "edit")
            add(editor, api.batch, [gr.File(label="zip"), gr.JSON(label="report")], "batch")
            add(editor, api.video, [gr.Video(label="edited clip")], "clip")
            if editor.offer.head:
                add(editor, api.drive, [gr.Video(label="moving photo")], "clip")
                add(editor, api.animate, [gr.File(label="animation")], "animation")
        add(editor, api.compare, [picture("sheet"), gr.Textbox(label="table")], "edit")
        if head is not None:
            add(editor, api.fit_scan, [gr.File(label="fitted head"), gr.File(label="codes")], "scan")


def add(editor: Editor, function: Callable[..., Any], outputs: list[gr.components.Component], queue: str) -> None:
    """An endpoint of a function's name; one caller of a queue waits for the other."""
    asked = signature(function).parameters
    inputs = [take_addresses(parameter(editor, name, one.default)) for name, one in asked.items()]
    name = function.__name__
    gr.Button().click(function, inputs, outputs, api_name=name, concurrency_id=queue, concurrency_limit=1)


def parameter(editor: Editor, name: str, default: Any) -> gr.components.Component:
    """The component that reads a parameter of an endpoint."""
    emotions, intensity = list(editor.offer.emotions), ARGUMENTS["intensity"]
    photo = lambda: upload(name, ["upload"])
    makers: dict[str, Callable[[], gr.components.Component]] = {
        **dict.fromkeys(("photo", "reference", "source", "target"), photo),
        "photos": lambda: upload_photos(name),
        "scan": upload_scan,
        "clip": lambda: upload_clip(name, sources=["upload"]),
        "emotion": lambda: gr.Radio(emotions, value=default if default in emotions else None, label=name),
        "intensity": lambda: gr.Slider(*intensity.metadata["limits"], intensity.default, label=name),
        "face": lambda: gr.Textbox(ARGUMENTS["face"].default, label=name),
        **dict.fromkeys(("action_units", "gaze", "attributes", "edits", "prompt"), lambda: gr.Textbox("", label=name)),
        "modes": lambda: gr.Textbox("exp", label=name),
        "seed": lambda: gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label=name),
        "steps": lambda: gr.Number(precision=0, label=name),
        "light_strength": lambda: gr.Number(label=name),
        "format": lambda: gr.Radio(list(KINDS), value=KINDS[0], label=name),
        "seconds": lambda: gr.Slider(*SECONDS, label=name),
        "loop": lambda: gr.Checkbox(True, label=name),
    }
    return makers[name]() if name in makers else gr.Number(0, label=name)


def read_amounts(parameter: str, text: str | None) -> dict[str, float]:
    """{"AU12": 0.5} from "AU12=0.5", several separated by commas; ValueError where the text looks different."""
    try:
        return by_name(parse_amounts(text)) if text and text.strip() else {}
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def read_gaze(text: str | None) -> tuple[float, ...] | str | None:
    """(15.0, -5.0) from "15, -5"; "camera" as it is; ValueError where the text looks different."""
    words = (text or "").replace(",", " ").split()
    if not words or words == ["camera"]:
        return "camera" if words else None
    try:
        return tuple(map(float, words))
    except ValueError:
        raise ValueError(f"gaze: give two angles, such as 15, -5, or camera, not '{text}'.") from None
