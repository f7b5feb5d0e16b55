"""Which face of a photo or a clip: the preview with numbers, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from style import ACCENT
from texts import mark, say

from emorig_diffusers.photo.faces import Face

PREVIEW_SIDE = 900  # longest side of the preview with numbered faces, pixels


def face_part(name: str, label: str) -> tuple[gr.Image, gr.Radio]:
    """The preview with numbered faces and the choice among them, which are visible where there are several.

    Args:
        name: Id of the choice.
        label: Id of the preview.
    """
    preview = gr.Image(
        label=say("faces"),
        show_label=False,
        visible=False,
        interactive=False,
        format="png",
        height=180,
        buttons=[],
        elem_id=label,
    )
    about = say("faces.which")
    face = gr.Radio(face_choices(), value="largest", label=about, visible=False, elem_id=name, elem_classes="choices")
    return preview, face


def face_choices(count: int = 0) -> list[tuple[str, str]]:
    """Labels and values of a choice among so many faces, and those with a name.

    "largest" is among them also where page.css hides it, since each face has a number there: a click that was made
    before the photo was read still carries it.
    """
    named = [(mark(f"faces.{name}"), name) for name in ("largest", "all")]
    return named + [(str(n), str(n)) for n in range(1, count + 1)]


def choose_among(count: int, first: str = "") -> Any:
    """The update of a choice among so many faces, of which one may come first; else that is the largest."""
    return gr.update(choices=face_choices(count), value=first or "largest", visible=count > 1)


def chosen(face: str) -> int | str:
    """A face as the package takes it, "largest", "all", or a number."""
    return int(face) if face.isdecimal() else face


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


def pick_face(frames: dict, point: gr.SelectData) -> Any:
    """The face that was clicked in the preview, as the choice's new value."""
    number = face_at(frames, *point.index)
    return gr.skip() if number is None else str(number)
