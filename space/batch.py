"""Many photos at once: each is edited or told why not, and what was edited goes into one zip."""

from __future__ import annotations

import base64
import html
import io
import shutil
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import gradio as gr
from editor import Editor
from faces import chosen
from jobs import Progress
from parts import Given
from photos import around
from PIL import Image
from texts import Said, in_all, say, say_of_package
from visitors import friendly, new_folder

from emorig_diffusers.cli.errors import sentence
from emorig_diffusers.cli.folder import edit_each
from emorig_diffusers.files.atomic import write_atomically
from emorig_diffusers.photo.files import READABLE, is_photo, result_names
from emorig_diffusers.photo.io import FORMATS, count_frames, read_photo, save_photo
from emorig_diffusers.pipelines.outputs import EmoRigOutput, notes_of

MAX_PHOTOS = 60  # a minute or two of work on two cores
MAX_PIXELS = 40_000_000  # of a photo
MAX_BYTES = 500_000_000  # of all files
THUMBNAIL = 192  # longest side of the table's pictures, pixels: twice what is seen, for fine screens
ZIP = "photos_edited.zip"


@dataclass(frozen=True)
class Row:
    """What became of a photo.

    Attributes:
        photo: Its name, as the visitor's file is called.
        result: Name in the zip; `None` where it could not be edited.
        says: Why not, or what was left as it is, in sentences.
        pictures: Its faces before and after, as addresses of small pictures.
    """

    photo: str
    result: str | None
    says: tuple[str, ...] = ()
    pictures: tuple[str, str] | None = None


@dataclass(frozen=True)
class BatchProgress(Progress):
    """How far a batch is, in photos; `result` is the zip, `None` in the end where no photo could be edited."""

    rows: tuple[Row, ...] = ()
    finished: bool = False

    @property
    def edited(self) -> int:
        return sum(row.result is not None for row in self.rows)

    @property
    def html(self) -> str:
        """As `Progress.html`."""
        total = self.total or 0
        if self.finished:
            key = "batch.done" if self.done == total else "batch.stopped"
            return in_all(say(key, edited=self.edited, failed=self.done - self.edited, total=total))
        said = [say("batch.photo", number=self.done + 1, total=total)]
        if self.done:
            said.append(say("job.left", seconds=(total - self.done) * self.seconds / self.done))
        return f'<progress value="{self.done}" max="{total}"></progress> {in_all(*said)}'

    @property
    def table(self) -> str:
        """What became of each photo, as HTML."""
        heads = "".join(f"<th>{in_all(say(f'batch.{name}'))}</th>" for name in ("before", "after", "outcome"))
        rows = "".join(map(_draw_row, self.rows))
        return f'<table class="outcomes"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'

    @property
    def report(self) -> list[dict[str, Any]]:
        """The same for programs."""
        return [{"photo": row.photo, "result": row.result, "notes": list(row.says)} for row in self.rows]


def edit_batch(
    editor: Editor,
    photos: Sequence[Given] | None,
    face: str,
    seed: float | None,
    asked: dict[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[BatchProgress]:
    """Edit photos one after the other, and say after each how far that is; at last there is one zip of those that
    could be edited. Where nobody waits for it any more, nothing is left.

    Args:
        editor: Edits them.
        photos: Uploads.
        face, seed, asked: As for an edit, of every photo.
        stopped: Whether that is enough: photos that are done by then are the result.

    Raises:
        gr.Error: None can be edited like that; with one sentence for the visitor.
    """
    photos = _checked(photos)
    with friendly(asked.get("reference")):
        editor.pipe.check_inputs(**asked)
        which = chosen(face)
    folder, made, start = new_folder(), BatchProgress(total=len(photos)), time.monotonic()
    names = told_apart(result_names([photo.name])[photo.name] for photo in photos)
    rows: list[Row] = []

    def edit(source: Path, target: Path) -> None:
        name = photos[len(rows)].name
        _check_photo(source, name)
        photo = read_photo(source)
        result = editor.run(photo, int(seed or 0), face=which, **asked)
        save_photo(result.images[0], target)
        frames = count_frames(source)
        says = (say("batch.frames", count=frames),) if frames > 1 else ()
        rows.append(
            Row(
                name,
                target.name,
                (*says, *map(say_of_package, notes_of(result.faces[0]))),
                _thumbnails(photo.original, result),
            )
        )

    try:
        yield made
        jobs = [(Path(photo.path), folder / "photos" / name) for photo, name in zip(photos, names)]
        (folder / "photos").mkdir()
        for (source, target), error in edit_each(jobs, edit):
            if error is not None:
                rows.append(Row(photos[len(rows)].name, None, (_reason(error, source, target),)))
            made = replace(made, done=len(rows), seconds=time.monotonic() - start, rows=tuple(rows))
            if stopped():
                break
            if made.done < len(photos):
                yield made
        path = zipped([target for (_, target), row in zip(jobs, rows) if row.result], folder / ZIP)
        shutil.rmtree(folder / "photos")
    except BaseException:
        shutil.rmtree(folder)
        raise
    yield replace(made, result=path, finished=True)


def told_apart(names: Iterable[str]) -> list[str]:
    """Names of files in one folder: those that come again get a number, whether letters are large or small."""
    names = list(names)
    taken, seen, apart = {name.casefold() for name in names}, set(), []
    for name in names:
        if (key := name.casefold()) in seen:
            path, number = PurePosixPath(name), 2
            while (key := (name := f"{path.stem} ({number}){path.suffix}").casefold()) in taken:
                number += 1
            taken.add(key)
        seen.add(key)
        apart.append(name)
    return apart


def zipped(files: Sequence[Path], path: Path) -> Path | None:
    """Files in one zip, which appears when it is complete; `None` of no files. Photos are packed already, so that they
    go in as they are."""
    if not files:
        return None
    with write_atomically(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def _checked(photos: Sequence[Given] | None) -> Sequence[Given]:
    """Photos, if they are not too many; gr.Error if they are, or there are none."""
    if not photos:
        raise gr.Error(say("batch.none"), print_exception=False)
    if len(photos) > MAX_PHOTOS:
        raise gr.Error(say("batch.many", count=len(photos), most=MAX_PHOTOS), print_exception=False)
    if sum(Path(photo.path).stat().st_size for photo in photos) > MAX_BYTES:
        raise gr.Error(say("batch.large", most=MAX_BYTES // 1_000_000), print_exception=False)
    return photos


def _check_photo(path: Path, name: str) -> None:
    """Raise ValueError for what is no photo by its name, or has too many pixels to be edited among others."""
    if not is_photo(name):
        raise ValueError(say("batch.kind", kinds=", ".join(READABLE)))
    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return  # `read_photo` says why
    if pixels > MAX_PIXELS:
        raise ValueError(say("batch.pixels", count=pixels / 1e6, most=MAX_PIXELS // 1_000_000))


def _reason(error: Exception, source: Path, target: Path) -> str:
    """Why a photo was not edited, in one sentence without the server's paths; what nobody foresaw goes to the log."""
    if not isinstance(error, (ValueError, OSError)):
        traceback.print_exception(error)
        return say("batch.odd")
    if error.args and isinstance(error.args[0], Said):
        return error.args[0]
    text = sentence(error)
    for path in (source, target):
        text = text.replace(str(path), path.name)
    return say_of_package(text)


def _thumbnails(before: Image.Image, result: EmoRigOutput) -> tuple[str, str]:
    """What is around the edited faces, before and after, as addresses that hold small pictures."""
    addresses = []
    for image in (before, result.images[0]):
        with io.BytesIO() as stream:
            around(image, result.faces[0], THUMBNAIL).save(stream, "JPEG", quality=80)
            addresses.append(f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}")
    return addresses[0], addresses[1]


def _draw_row(row: Row) -> str:
    """A row of the table."""
    name = html.escape(row.photo)
    if row.pictures:
        alts = (say(f"batch.{when}") for when in ("before", "after"))
        pictures = "".join(f'<td><img src="{src}" alt="{name}: {alt}"></td>' for src, alt in zip(row.pictures, alts))
    else:
        pictures = "<td></td><td></td>"
    says = [] if row.result else [f"<em>{in_all(say('batch.failed'))}</em>"]
    says += map(in_all, row.says)
    if row.result and row.result != row.photo:
        says.insert(0, in_all(say("batch.called", name=row.result)))
    return f"<tr>{pictures}<td><strong>{name}</strong><br>{' '.join(says)}</td></tr>"
