"""What the demo's functions share: sentences for visitors, and folders for their files."""

from __future__ import annotations

import html
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from emorig_diffusers.cli.main import sentence
from emorig_diffusers.files.assets import AssetError


@contextmanager
def friendly(*paths: str | None) -> Iterator[None]:
    """Turn what the package says in one sentence into a message for the page, without the server's paths."""
    try:
        yield
    except (ValueError, OSError, AssetError) as error:
        message = sentence(error)
        for path in filter(None, paths):
            message = message.replace(path, Path(path).name)
        raise gr.Error(html.escape(message, quote=False), print_exception=False) from error


def new_folder() -> Path:
    """An empty folder among the files of visitors."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder
