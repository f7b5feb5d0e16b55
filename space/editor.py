"""The demo's functions around one pipeline; the files of every call lie in a folder of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from clips import ClipEditor
from faces import chosen
from heads import write_fitted_heads, write_heads
from offer import Offer
from texts import say
from visitors import friendly, new_folder

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.photo.io import PhotoError, read_photo, save_photo
from emorig_diffusers.pipelines.base import FacePipeline

BROWSER_FORMATS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif")


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
        self.run = on_zero_gpu(pipe)
        self.clips = ClipEditor(pipe, lend_gpu)
        pipe.set_progress_bar_config(disable=True)
        if torch.cuda.is_available():
            pipe.to("cuda")

    def edit(
        self, photo: str | None, face: str, seed: float | None, asked: dict[str, Any]
    ) -> tuple[EmoRigOutput, list[Any] | None]:
        """A photo with what is asked of a face, and the faces that it is of, where they have heads.

        Raises:
            gr.Error: With one sentence for the visitor.
        """
        if not photo:
            raise gr.Error(say("no_photo"), print_exception=False)
        with friendly(photo, asked.get("reference")):
            self.pipe.check_inputs(**asked)
            which, fitted = chosen(face), None
            if "mesh" in self.pipe.capabilities:
                fitted = self.pipe.encode(read_photo(photo).rgb, which)
            return self.run(photo, int(seed or 0), face=which, faces=fitted, **asked), fitted

    def heads(self, fitted: list[Any] | None, result: EmoRigOutput, path: Path) -> str | None:
        """The heads of an edit as a file."""
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
        "emotion": None if reference else emotion,
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
