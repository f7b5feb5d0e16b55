"""The `emorig` command: edit photos, show all emotions, print codes, export, fetch and convert networks.

Torch and diffusers, which take seconds, are imported by the functions that need them: help, the version and a
wrong path do not wait for them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..photo.files import WRITABLE, result_names
from ..pipelines.request import ARGUMENTS, options
from ..version import __version__
from .amounts import by_name, parse_amounts
from .animate import add_command as add_animate
from .codes import run_codes
from .comfyui import add_command as add_comfyui
from .compare import add_options, run_compare
from .convert import add_commands, quiet
from .drive import add_command as add_drive
from .evaluate import add_command as add_evaluate
from .fetch import add_command as add_fetch
from .folder import Job, edit_folder, folder_jobs, say_left_out
from .grid import run_grid
from .head import add_command as add_head
from .mesh import add_command as add_mesh
from .study import add_study
from .verify import add_command as add_verify
from .video import add_command as add_video

if TYPE_CHECKING:
    from ..pipelines.base import FacePipeline
    from ..pipelines.outputs import EmoRigOutput
    from ..provenance.credentials import Signer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; `None` for the process's own).

    Returns:
        0, or 1 when photos of a folder failed, 2 for an error (one line on stderr), 130 when interrupted.
        `--help` and `--version` raise SystemExit(0).
    """
    try:
        args = build_parser().parse_args(argv)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `emorig codes … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        from ..files.assets import AssetError

        if isinstance(error, RuntimeError) and not isinstance(error, AssetError):
            raise
        print(f"emorig: {sentence(error)}", file=sys.stderr)
        return 2


def sentence(error: Exception) -> str:
    """The message of an error in one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}." if error.filename else f"{error.strerror}."
    return " ".join(text.split())


class _Parser(argparse.ArgumentParser):
    """Tells mistakes in one line, as every other error of the command."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`).")


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _face(text: str) -> int | str:
    if text in ("largest", "all"):
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"give largest, all or a number from 1, not {text!r}")


def _seed(text: str) -> int:
    if text.isdecimal() and int(text) < 2**63:
        return int(text)
    raise argparse.ArgumentTypeError(f"give a whole number from 0, not {text!r}")


class _Gaze(argparse.Action):
    """Reads two angles, or the word `camera`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            namespace.gaze = "camera" if values == ["camera"] else [float(value) for value in values]
        except ValueError:
            parser.error(f"argument --gaze: give two angles or camera, not {' '.join(values)!r}")


def _amounts(text: str) -> list[tuple[str, float]]:
    """`happy=.6,surprise=.4` -> its pairs."""
    try:
        return parse_amounts(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _blend(text: str) -> dict[str, float]:
    try:
        return by_name(_amounts(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_AMOUNTS = {"type": _amounts, "action": "extend", "default": []}
_READERS = {"--reference": {"type": _path}, "--face": {"type": _face}, "--au": _AMOUNTS, "--attribute": _AMOUNTS,
            "--gaze": {"action": _Gaze}}  # fmt: skip
_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: about | _READERS.get(name, {}) for name, about in options().items()},
    "--blend": {"metavar": "BLEND", "dest": "emotion", "type": _blend,
                "help": "some emotions, e.g. happy=.6,surprise=.4"},
    "--seed": {"metavar": "N", "type": _seed, "default": 0, "help": "a whole number: other noise (default: 0)"},
    "--model": {"metavar": "NAME", "default": "emorig-open",
                "help": "a bundled name, a folder or a Hub id (default: %(default)s)"},
    "-o": {"metavar": "OUT", "dest": "out", "type": _path, "required": True,
           "help": f"the result ({' '.join(WRITABLE)}), or a folder for it; existing files are replaced"},
    "--no-mark": {"action": "store_true", "help": "leave out the invisible mark that says a face was edited"},
    "--strip-metadata": {"action": "store_true",
                         "help": "leave out what the photo's file says (EXIF, places, camera), but its colour profile"},
    "--sign": {"metavar": ("CERT", "KEY"), "type": _path, "nargs": 2,
               "help": "sign the result (Content Credentials) with a certificate chain and its private key, PEM files"},
    "--skip-existing": {"action": "store_true", "help": "leave out photos whose results are there already"},
}  # fmt: skip
_SHARING = (
    "Start it with `accelerate launch -m emorig_diffusers edit …` to share a folder between processes, on any number "
    "of machines that see it; interrupted, it goes on with --skip-existing."
)
_SHARED = ("intensity", "face", "num_inference_steps")
"""What all that edits tells the pipeline."""
_MARKS = ("--no-mark", "--strip-metadata", "--sign")
"""How a photo's result says that it was edited."""
_SAMPLING = ("--intensity", "--face", "--steps", "--seed", "--model", "-o")


_EDITS = [name for name in options() if name not in ("--emotion", "--reference", *_SAMPLING)]


def build_parser() -> argparse.ArgumentParser:
    """The parser; every command sets `run`, a function from the parsed arguments to the exit code."""
    about = "Change the emotion of a face in a photo and keep the person."
    parser = _Parser(prog="emorig", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"emorig {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Callable, summary: str, *positional: str) -> argparse.ArgumentParser:
        name = run.__name__.removeprefix("run_")
        new = commands.add_parser(name, help=summary, description=f"{summary}.", allow_abbrev=False)
        new.set_defaults(run=run)
        for word in positional:
            new.add_argument(word.lower(), metavar=word, type=_path)
        return new

    edit = command(run_edit, "Change the emotion in a photo or in a folder of photos and all below it", "PHOTO")
    edit.epilog = _SHARING
    _add(edit.add_mutually_exclusive_group(), "--emotion", "--blend", "--reference")
    _add(edit, *_EDITS, *_SAMPLING, *_MARKS, "--skip-existing")
    add_video(commands, _path, _add, *_EDITS, *_SAMPLING[:-1], "--sign")
    add_animate(commands, _path, _add, *_SAMPLING[:-1], "--sign")
    add_drive(commands, _path, _add, *_SAMPLING[:-1], "--sign")
    add_verify(commands, _path)
    _add(command(run_grid, "Draw a face with every emotion on one sheet", "PHOTO"), *_SAMPLING)
    about = "Put one photo's expression on another's face, read by every encoder of a pipeline, on one sheet"
    compare = command(run_compare, about, "SOURCE", "TARGET")
    add_options(compare)
    _add(compare, "--steps", "--seed", "--model", "-o")
    add_mesh(commands, _path, _add)
    codes = command(run_codes, "Print the codes of a photo's faces as JSON", "PHOTO")
    codes.add_argument("-o", dest="out", metavar="OUT", type=_path, help="write to this file instead")
    _add(codes, "--face", "--model")
    codes.set_defaults(face="all")
    export = command(run_export, "Write a pipeline as a new folder in Hub layout", "DIR")
    export.add_argument("--repo-id", metavar="OWNER/NAME", help="the Hub repository that it will be in")
    _add(export, "--model")
    add_fetch(commands)
    add_commands(commands, _path)
    add_head(commands, _path, _seed)
    add_study(commands, _path)
    add_evaluate(commands, _path, _seed)
    add_comfyui(commands, _path)
    return parser


def _add(parser: argparse._ActionsContainer, *options: str) -> None:
    for option in options:
        parser.add_argument(option, **_OPTIONS[option])


def run_edit(args: argparse.Namespace) -> int:
    """`emorig edit`: a photo into a file, or every photo of a folder into a folder."""
    jobs, others = edit_jobs(args.photo, args.out)
    if args.reference is not None:
        check_photo(args.reference)
        for _, target in jobs:
            refuse_same(args.reference, target)
    if args.skip_existing and not args.photo.is_dir() and jobs[0][1].is_file():
        print(jobs[0][1])
        return 0
    args.signer = signer_of(args, *(target for _, target in jobs))
    pipe = load_pipeline(args.model)
    from ..processes import start_processes

    check_edit(pipe, args)
    state = start_processes()
    if state.is_main_process:
        say_prompt(args)
    if "cuda" in str(state.device):
        pipe.to(state.device)
    if args.photo.is_dir():
        if state.is_main_process:
            say_left_out(others)
        args.out.mkdir(parents=True, exist_ok=True)
        return edit_folder(pipe, jobs, args, state)
    edit_file(pipe, *jobs[0], args)
    print(jobs[0][1])
    return 0


def run_export(args: argparse.Namespace) -> int:
    """`emorig export`: a folder that can be pushed to the Hub as it is."""
    pipe = load_pipeline(args.model)
    from ..hub.repository import export_hub

    print(export_hub(pipe, args.dir, repo_id=args.repo_id))
    return 0


def edit_jobs(photo: Path, out: Path) -> tuple[list[Job], list[str]]:
    """Every file to edit, and those of a folder that are no photos; ValueError where a result cannot be."""
    if not photo.is_dir():
        return file_job(photo, out), []
    if out.exists() and not out.is_dir():
        raise ValueError(f"'{photo}' is a folder, so the result must be one too: '{out}' is a file.")
    refuse_same(photo, out)
    return folder_jobs(photo, out)


def file_job(photo: Path, out: Path) -> list[Job]:
    """The one job; a folder as result takes the photo's name. Raises as `edit_jobs`."""
    check_photo(photo)
    target = out / result_names([photo.name])[photo.name] if out.is_dir() else out
    if target.suffix.lower() not in WRITABLE:
        raise ValueError(f"Cannot tell the format of '{target}': use {', '.join(WRITABLE)}.")
    if not target.parent.is_dir():
        raise ValueError(f"The folder '{target.parent}' does not exist: create it first.")
    refuse_same(photo, target)
    return [(photo, target)]


def check_photo(photo: Path) -> None:
    """Raise ValueError unless there is such a file; what is in it, `read_photo` finds out."""
    if not photo.exists():
        raise ValueError(f"There is no file '{photo}'.")
    if photo.is_dir():
        raise ValueError(f"'{photo}' is a folder: give a photo.")


def refuse_same(photo: Path, out: Path) -> None:
    """Raise ValueError if writing `out` would replace `photo`."""
    if out.exists() and out.samefile(photo):
        raise ValueError(f"'{out}' is what is read: give the result another name.")


def load_pipeline(model: str) -> FacePipeline:
    """As `models.open_model`, without the libraries' chatter."""
    quiet()
    from .models import open_model

    return open_model(model)


def check_edit(pipe: FacePipeline, args: argparse.Namespace) -> None:
    """Refuse what no photo can mend, before the first one is read."""
    from ..pipelines.checks import need

    what = asked(args)
    for name in what:
        if needs := ARGUMENTS[name].metadata["needs"]:
            need(pipe, needs, ARGUMENTS[name].metadata["option"])
    pipe.check_inputs(**what, intensity=args.intensity, num_inference_steps=args.num_inference_steps)
    if args.reference is not None:
        find_faces_in(pipe, args.reference, "largest")


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What an edit is to do, by the pipelines' names, as far as it was given."""
    given = {one["dest"]: getattr(args, one["dest"], None) for one in options().values()}
    given = {name: value for name, value in given.items() if name not in _SHARED and value not in (None, [])}
    return {name: by_name(value) if name in ("action_units", "attributes") else value for name, value in given.items()}


def say_prompt(args: argparse.Namespace) -> None:
    """A line on stderr about what a prompt sets, and what of it was not understood."""
    if args.prompt is None:
        return
    from ..face.sentence import read

    reading = read(args.prompt)
    unknown = f"; not understood: {', '.join(reading.unknown)}" if reading.unknown else ""
    print(f"emorig: the prompt sets {reading}{unknown}", file=sys.stderr)


def find_faces_in(pipe: FacePipeline, photo: Path, face: int | str) -> list[Any]:
    """The chosen faces of a photo as the pipeline encodes them."""
    from ..photo.io import read_photo

    rgb = read_photo(photo).rgb
    with naming(photo):
        return pipe.encode(rgb, face)


def edit_file(pipe: FacePipeline, source: Path, target: Path, args: argparse.Namespace) -> None:
    """Edit one photo; the folder of the result is made where it is missing."""
    from tqdm import tqdm

    from ..photo.io import count_frames, save_photo

    if (frames := count_frames(source)) > 1:
        tqdm.write(f"emorig: '{source}' holds {frames} pictures: only the first is edited.", file=sys.stderr)
    with naming(source):
        result = pipe(source, **asked(args), **sampling(args))
    say_notes(source, result)
    target.parent.mkdir(parents=True, exist_ok=True)
    sign = args.signer and args.signer.of(source)
    save_photo(result.images[0], target, not args.no_mark, not args.strip_metadata, sign)


def signer_of(args: argparse.Namespace, *targets: Path) -> Signer | None:
    """Who signs results, if that is asked for; SigningError where it cannot be, or a file has no place for it."""
    if args.sign is None:
        return None
    from ..provenance.credentials import Signer, check_signable

    for target in targets:
        check_signable(target)
    return Signer(*args.sign)


def say_notes(source: Path, result: EmoRigOutput) -> None:
    """Lines on stderr about what an edit of a photo left as it is."""
    from tqdm import tqdm

    from ..pipelines.outputs import notes_of

    for note in notes_of(result.faces[0]):
        tqdm.write(f"emorig: '{source}': {note}", file=sys.stderr)


@contextmanager
def naming(photo: Path) -> Iterator[None]:
    """Say in which photo no face was found."""
    from ..photo.faces import NoFaceError

    try:
        yield
    except NoFaceError as error:
        raise NoFaceError(f"'{photo}': {error}") from error


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """What edit and grid tell the pipeline; no result depends on the edits before it."""
    import torch

    return {name: getattr(args, name) for name in _SHARED} | {"generator": torch.Generator().manual_seed(args.seed)}
