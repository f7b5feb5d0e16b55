"""What the demo's functions share: sentences for visitors, and folders for their files, which go after a day."""

from __future__ import annotations

import html
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from texts import say_of_package

from emorig_diffusers.cli.errors import sentence
from emorig_diffusers.files.assets import AssetError

DELETE = (3600, 86400)  # every so many seconds, files older than that
HALF_SENT = 3600  # seconds after which an upload that never ended is deleted
FOLDER = re.compile("[0-9a-f]{64}|[0-9a-f]{32}")  # names of folders that gradio and `new_folder` make
HALF = re.compile("tmp[a-z0-9_]{8}")  # of files that gradio receives


@contextmanager
def friendly(*paths: str | None) -> Iterator[None]:
    """Turn what the package says in one sentence into a message for the page, without the server's paths."""
    try:
        yield
    except (ValueError, OSError, AssetError) as error:
        message = sentence(error)
        for path in filter(None, paths):
            message = message.replace(path, Path(path).name)
        raise gr.Error(html.escape(say_of_package(message), quote=False), print_exception=False) from error


def warn(message: str) -> None:
    """Say on the page what cannot be done, or not in full."""
    gr.Warning(message)


def inform(message: str) -> None:
    """Say on the page what else there is to know."""
    gr.Info(say_of_package(message))


def new_folder() -> Path:
    """An empty folder among the files of visitors."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder


def files_folder() -> Path:
    """Where visitors' files lie: GRADIO_TEMP_DIR, and where nobody set it a folder that only this user can read.

    Raises:
        OSError: It is somebody else's.
    """
    if not os.environ.get("GRADIO_TEMP_DIR"):
        user = os.getuid() if hasattr(os, "getuid") else "files"
        own = Path(tempfile.gettempdir()) / f"emorig-{user}"
        if own.is_symlink():
            raise OSError(f"The folder '{own}' is a link: set GRADIO_TEMP_DIR to a folder for visitors' files.")
        own.mkdir(mode=0o700, exist_ok=True)
        own.chmod(0o700)
        os.environ["GRADIO_TEMP_DIR"] = str(own)
    return Path(get_upload_folder())


def clear(folder: Path, kept: Set[str] = frozenset()) -> None:
    """Delete what visitors left: files of a day ago with their folders, and halves of uploads.

    gradio deletes what this server's components know of; this also what the half of an upload, a stopped job or a
    server that was killed left.

    Args:
        folder: Where it lies; what has other names than gradio's and `new_folder`'s stays.
        kept: Paths of files that are needed longer; they count as new.
    """
    now = time.time()
    for place in folder.iterdir() if folder.is_dir() else ():
        try:
            if place.is_symlink():
                continue
            if HALF.fullmatch(place.name) and place.is_file():
                if now - place.stat().st_mtime > HALF_SENT:
                    place.unlink()
            elif FOLDER.fullmatch(place.name) and place.is_dir():
                files = [place, *place.rglob("*")]
                if not any(str(file) in kept for file in files):
                    if now - max(file.lstat().st_ctime for file in files) > DELETE[1]:
                        shutil.rmtree(place)
                else:
                    os.utime(place)  # another server may clear the same folder
        except OSError:
            continue  # somebody else deleted it, or may


def keep_clearing(folder: Path, demo: gr.Blocks) -> None:
    """`clear` a folder at once and every hour, as long as a demo runs."""

    def work() -> None:
        while True:
            clear(folder, {str(file) for part in demo.blocks.values() for file in getattr(part, "keep_in_cache", ())})
            time.sleep(DELETE[0])
            if not demo.is_running:
                return

    threading.Thread(target=work, daemon=True).start()
