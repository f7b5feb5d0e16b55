"""The demo's functions around one pipeline; the files of every call lie in a folder of its own."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from clips import ClipEditor
from faces import chosen
from heads import write_fitted_heads, write_heads
from looks import Look
from offer import UNITS, Offer
from photos import Photos, around
from PIL import Image
from texts import say
from visitors import friendly, new_folder

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.face.edit import head_angles
from emorig_diffusers.face.emotions import shown_amounts
from emorig_diffusers.photo.io import Photo, PhotoError, read_photo, save_photo
from emorig_diffusers.pipelines.base import FacePipeline
from emorig_diffusers.pipelines.naming import naming_reference
from emorig_diffusers.pipelines.request import EditRequest

KEPT_RESULTS = 6  # whose codes and buffers are remembered, for those who look at them
GLANCE = 800  # longest side of the picture while a slider is dragged, pixels
STAGE = 1600  # longest side of pictures on the stage, pixels: about two of them a pixel of the page on a desktop
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp"}  # of downloads
BROWSER_FORMATS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif")

Drawn = tuple[list[Any] | None, EmoRigOutput]
"""Faces that were edited, where they have heads, and what was made of them."""


class Editor:
    """Edits photos and clips for the tabs and for programs.

    Args:
        pipe: The demo's pipeline.

    Attributes:
        offer: What it can do.
        clips: Makes clips with it.
    """

    def __init__(self, pipe: FacePipeline) -> None:
        self.pipe, self.offer = pipe, Offer.of(pipe)
        self.run, self.photos = on_zero_gpu(pipe), Photos(pipe)
        self._painted: deque[tuple[str, Look, Drawn]] = deque(maxlen=KEPT_RESULTS)
        self.clips = ClipEditor(pipe, lend_gpu)
        pipe.set_progress_bar_config(disable=True)
        if torch.cuda.is_available():
            pipe.to("cuda")

    def edit(self, photo: str | None, face: str, seed: float | None, asked: dict[str, Any]) -> EmoRigOutput:
        """A photo with what is asked of a face.

        Raises:
            gr.Error: With one sentence for the visitor.
        """
        if not photo:
            raise gr.Error(say("no_photo"), print_exception=False)
        with friendly(photo, asked.get("reference")):
            self.pipe.check_inputs(**asked)
            return self.run(photo, int(seed or 0), face=chosen(face), **asked)

    def draw(self, photo: str, look: Look) -> Drawn:
        """A look of a photo, made once as long as it is remembered.

        Raises:
            gr.Error: With one sentence for the visitor.
        """
        for known, done, drawn in tuple(self._painted):
            if known == photo and done.same(look):
                return drawn
        with friendly(photo, *references(look)):
            asked, fitted = self.asked(photo, look), None
            if "mesh" in self.pipe.capabilities:
                fitted = asked["faces"]
            result = self.run(self.photos.read(photo).photo, look.seed, **asked)
        self._painted.append((photo, look, (fitted, result)))
        return fitted, result

    def draw_all(self, photo: str, look: Look) -> list[Image.Image]:
        """Small pictures of every emotion on the faces that the controls are for, after what they have become."""
        emotions, numbers, edits = list(self.offer.emotions), look.numbers, look.edits
        step = edits.open.step
        left = ("emotion", "reference", "modes") if "exp" in step.get("modes", ("exp",)) else ("emotion",)
        others = {name: value for name, value in step.items() if name not in left}
        asked = {**others, "intensity": edits.open.intensity, "emotion": emotions, "num_inference_steps": look.count}
        with friendly(photo, others.get("reference")):
            known = self.photos.read(photo)
            if self.offer.head:
                faces = self.photos.faces(photo, numbers)
                done = {number: self._read_references(look.faces[number].done) for number in numbers}
                asked |= {"faces": faces, "edits": done}
            else:
                asked["face"] = chosen(look.face)
            result = self.run(known.photo, look.seed, len(emotions), **asked)
        return [around(image, [known.found[number - 1] for number in numbers]) for image in result.images]

    def asked(self, photo: str, look: Look) -> dict[str, Any]:
        """Arguments of the pipeline for a look."""
        if not self.offer.head:  # then there are no edits one after the other
            return {"num_inference_steps": look.count, "face": chosen(look.face), **look.edits.open.step}
        steps = {number: self._read_references(edits) for number, edits in look.steps.items()}
        return {"num_inference_steps": look.count, "faces": self.photos.faces(photo, sorted(steps)), "edits": steps}

    def shown(self, photo: str, look: Look) -> tuple[Sequence[float], dict[str, float]]:
        """Yaw, pitch and roll in degrees, and single movements by unit, that the face shows which the controls go on
        from; zeros where the pipeline knows none."""
        if not self.offer.head:
            return (0.0, 0.0, 0.0), dict.fromkeys(UNITS, 0.0)
        with friendly(photo):
            [face] = self.photos.faces(photo, look.numbers[:1])
            codes = self.pipe.edit(face, EditRequest(edits=self._read_references(look.edits.done)))
        names = tuple(self.pipe.head.config.expression_names)
        units = shown_amounts(UNITS, codes.expression[0], names) if names else dict.fromkeys(UNITS, 0.0)
        return head_angles(codes.pose[:, :3]), units

    def _read_references(self, steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Steps with the faces of their reference photos."""

        def face(path: str) -> Any:
            with naming_reference():
                return self.photos.faces(path, [self.photos.read(path).largest])[0]

        return [{**step, "reference": face(step["reference"])} if "reference" in step else step for step in steps]

    def in_format(self, photo: str, look: Look, name: str) -> str:
        """The path of a look's result as a file of a format."""
        path = Path(str(look.result)).with_suffix(FORMATS[name])
        if not path.exists():
            _, result = self.draw(photo, look)
            with friendly(photo):
                save_photo(result.images[0], path)
        return str(path)

    def heads(self, drawn: Drawn, path: Path) -> str | None:
        """The heads of an edit as a file."""
        fitted, result = drawn
        if fitted is not None:
            return write_heads(self.pipe, fitted, result, path)
        return write_fitted_heads(open_default(), result, path)


def request(
    emotion: str | None,
    intensity: float,
    reference: str | None = None,
    steps: int | None = None,
    angles: Sequence[float] = (),
    units: dict[str, float] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """What is asked of a pipeline, by its own names, as far as something is; a reference takes the emotion's place."""
    what = {
        "emotion": None if reference and "exp" in others.get("modes", ("exp",)) else emotion,
        "reference": reference,
        "rotate": angles if any(angles) else None,
        "action_units": {unit: amount for unit, amount in (units or {}).items() if amount},
        **others,
    }
    given = {name: value for name, value in what.items() if value}
    return {"intensity": intensity, "num_inference_steps": steps} | given


@functools.cache
def open_default() -> EmoRigPipeline:
    """The bundled pipeline, which also fits heads where the demo's own has none."""
    return EmoRigPipeline.from_pretrained("emorig-open")


def on_zero_gpu(pipe: FacePipeline) -> Callable[..., EmoRigOutput]:
    """The pipeline as a function of photo, seed, how many results there are, and options, on a borrowed GPU where the
    host lends one."""

    def run(photo: str | Photo, seed: int, results: int = 1, **options: Any) -> EmoRigOutput:
        own = [torch.Generator().manual_seed(seed) for _ in range(results if pipe.noise_per_result else 1)]
        return pipe(photo, generator=own if len(own) > 1 else own[0], **options)

    return lend_gpu(run)


def lend_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, or one that yields, on a borrowed GPU where the host lends one."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(function)


def references(look: Look) -> list[str]:
    """Paths of the photos that lend something to a look."""
    return [step["reference"] for steps in look.steps.values() for step in steps if "reference" in step]


def save(result: EmoRigOutput, photo: str) -> str:
    """Write the edited photo as PNG where gradio serves and clears files."""
    return str(save_photo(result.images[0], new_folder() / f"{Path(photo).stem}_edited.png"))


def on_stage(image: Image.Image, file: str) -> str:
    """The path of a picture to look at: its file where browsers show it and it is no larger than the stage, else a
    small JPEG, which is on a phone in a tenth of the time."""
    if max(image.size) <= STAGE and file.lower().endswith(BROWSER_FORMATS):
        return file
    return small_copy(image, STAGE, Path(file).stem)


def small_copy(image: Image.Image, side: int, name: str) -> str:
    """The path of a JPEG of a picture, of so many pixels at most a side."""
    small = Image.fromarray(read_photo(image).rgb)
    small.info = {key: image.info.get(key) for key in ("icc_profile", "edit")}
    small.thumbnail((side, side))
    return str(save_photo(small, new_folder() / f"{name}.jpg"))


def for_browsers(photo: str | None) -> str | None:
    """A PNG of an upload that browsers cannot show (HEIC, TIFF), with all that its file says; `None` for others."""
    if not photo or photo.lower().endswith(BROWSER_FORMATS):
        return None
    try:
        return str(save_photo(read_photo(photo).original, new_folder() / f"{Path(photo).stem}.png"))
    except PhotoError:
        return None
