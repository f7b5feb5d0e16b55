"""Components that several tabs have: uploads, emotions, strength."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import gradio as gr
from gradio.data_classes import FileData, GradioRootModel, ImageData
from gradio.processing_utils import save_base64_to_cache, save_url_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal
from gradio_client.utils import is_http_url_like
from texts import say, say_emotion
from visitors import friendly, warn

from emorig_diffusers.face.sentence import Reading, read
from emorig_diffusers.photo.files import READABLE
from emorig_diffusers.pipelines.request import ARGUMENTS

SERVED = "/gradio_api/file="  # what addresses of this server's files have before their path


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


@dataclass(frozen=True)
class Given:
    """A file that a visitor gave: where it lies, and what they call it."""

    path: str
    name: str


class _Files(GradioRootModel):
    """Uploads, or addresses of files: agents give a list of those, which gradio does not turn into uploads."""

    root: list[FileData | str]


def upload_photos(label: str, **options: Any) -> gr.File:
    """An upload of many photos whose value is a list of `Given`."""
    files = gr.File(label=label, file_count="multiple", file_types=list(READABLE), height=220, **options)
    files.data_model, files.api_info = _Files, _describe_files

    def given(data: _Files | None) -> list[Given]:
        return [Given(*_path_and_name(one)) for one in (data.root if data else [])]

    files.preprocess = given
    return files


def _describe_files() -> dict[str, Any]:
    """A list of files as programs are told of it; without references, which gradio's tools for agents cannot follow."""
    one = FileData.model_json_schema()
    one["properties"]["meta"] = one.pop("$defs")["FileDataMeta"]
    del one["description"]
    return {"type": "array", "items": one}


def _path_and_name(file: FileData | str) -> tuple[str, str]:
    """Where an upload or the file at an address lies, and what it is called."""
    if isinstance(file, str):
        path = str(uploaded(fetch(file)))
        return path, Path(path).name
    path = str(uploaded(file.path))
    name = PurePosixPath((file.orig_name or path).replace("\\", "/")).name
    name = "".join(c for c in name if c.isprintable())
    return path, name if name.strip(".") else Path(path).name  # no way out of a folder


def fetch(address: str) -> str:
    """The path of the file at an address (http, https, data).

    Raises:
        gr.Error: It is none, or cannot be fetched.
    """
    try:
        if address.startswith("data:"):
            return save_base64_to_cache(address, get_upload_folder())
        if is_http_url_like(address):
            return own_file(address) or save_url_to_cache(address, get_upload_folder())
    except Exception as error:  # of HTTP, of addresses that are not public, of what is no base64
        raise gr.Error(say("not_fetched"), print_exception=False) from error
    raise gr.Error(say("not_fetched"), print_exception=False)


def own_file(address: str) -> str | None:
    """The path of a file that visitors uploaded here, from its address, which this server refuses to ask itself for."""
    _, served, rest = address.partition(SERVED)
    path = urllib.parse.unquote(rest.partition("?")[0])
    return path if served and is_in_or_equal(path, get_upload_folder()) and Path(path).is_file() else None


def take_addresses(component: Any) -> Any:
    """The component of a program's file, which may be given by its address, as agents do."""
    take = component.async_move_resource_to_block_cache

    async def move(place: Any) -> str | None:
        if not is_http_url_like(str(place)):
            return await take(place)
        try:
            return own_file(str(place)) or await take(place)
        except Exception as error:  # of HTTP, and of addresses that are not public
            raise gr.Error(say("not_fetched"), print_exception=False) from error

    component.async_move_resource_to_block_cache = move
    return component


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


def heard(text: str) -> Reading:
    """What a sentence asks; what of it is not understood is said on the page.

    Raises:
        gr.Error: That is all of it.
    """
    with friendly():
        reading = read(text)
    if reading.unknown:
        warn(html.escape(say("prompt.unknown", words=say("prompt.and").join(reading.unknown))))
    return reading
