"""`emorig evaluate`: any method's pictures, or what pipelines make, scored and reported by one command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models
from .options import new_command, path, seed
from .steadiness import check_options, run_steadiness

if TYPE_CHECKING:
    from ..evaluation.grid import Point
    from ..evaluation.run import Editor

_ABOUT = "Score edited photos, of any method, against their sources: one table, one report"
_NOTES = (
    "Edited pictures have the names of their sources (suffixes may differ), in a subfolder for each emotion; a flat "
    "folder needs --emotion. Further strengths of them may lie beside, in folders such as happy@0.5; the folder happy "
    "counts as strength 1. Start it with `accelerate launch -m emorig_diffusers evaluate …` to share the work "
    "between processes; started again, it goes on where it stopped. Ends with 1 when some pictures could not be scored."
)


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_evaluate, _ABOUT, notes=_NOTES)
    add = parser.add_argument
    add("--source", metavar="DIR", type=path, help="the photos")
    add("--edited", metavar="[LABEL=]DIR", action="append", default=[], help="what a method made of them (repeatable)")
    add("--pipeline", metavar="[LABEL=]NAME[@STEPS]", action="append", default=[],
        help="make and score what a pipeline makes: a bundled name, a folder or a Hub id, with its own number of steps "
        "if wanted; 0 leaves its network out (repeatable)")  # fmt: skip
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--emotion", metavar="NAME", dest="emotions", type=lambda text: [text],
                      help="what flat folders show, or the only emotion that counts")  # fmt: skip
    some.add_argument("--emotions", metavar="all|NAME,NAME", type=_emotions, help="emotions that count (default: all)")
    add("--reference", metavar="DIR", type=path,
        help="real photos of the same people with the emotion, laid out and named as the edited ones")  # fmt: skip
    add("--judge", metavar="KIND", default="auto", help="who judges emotions: auto (HSEmotion, else face-api), "
        "face-api, fer, enet_b2_7, enet_b0_8, enet_b0_8_va_mtl (default: auto); fer judges beside it")  # fmt: skip
    add("--identity", metavar="KIND", default="auto",
        help="who judges identity: auto, sface, or CosFace's .onnx file (default: auto)")  # fmt: skip
    add("--sets", action="store_true", help="FID and KID of each method's pictures too, where there are enough")
    add("--by", metavar="GROUPS", action="append", default=[],
        help="split every figure by groups of people: a CSV with photos' names in its first column and groups, such as "
        "age or sex, in the others; or 'ita', skin tone as photos show it, in thirds, or 'ita-classes', in published "
        "classes (repeatable)")  # fmt: skip
    add("--published", action="store_true", help="show the figures of other work too, marked as such")
    add("--intensity", metavar="I", type=float, default=1.0, help="of pipelines, 0 to 1.5 (default: 1)")
    add("--intensities", metavar="I,I,I", type=_numbers, default=[],
        help="of pipelines, all that the linearity of strength (CLS) is taken over, e.g. 0.25,0.5,0.75,1,1.25; every "
        "other figure stays that of --intensity")  # fmt: skip
    add("--steps", metavar="N", type=int, help="of pipelines (default: the checkpoint's)")
    add("--grid", metavar="NAME=N,N", nargs="+", action="append", default=[],
        help="of pipelines, numbers for arguments of a call: all combinations of one grid, each a row of the table, "
        "such as strength=.3,.5 guidance_scale=1,4; several grids are rows beside each other (repeatable)")  # fmt: skip
    add("--reconstructions", action="store_true", help="of pipelines whose network draws a small picture of the face: "
        "PSNR, SSIM and LPIPS also to what it makes of the face as it is, as some papers tell them")  # fmt: skip
    add("--seed", metavar="N", type=seed, default=0, help="of pipelines, for every picture (default: 0)")
    add("--video", metavar=("SOURCE", "EDITED"), nargs=2, type=path, help="instead of photos, a clip and its edit: "
        "flicker, background, identity and the --emotion over time")  # fmt: skip
    add("-o", metavar="DIR", dest="out", type=path, help="folder of the report, new or an earlier run's")


def _emotions(text: str) -> list[str] | None:
    return None if text == "all" else [name.strip() for name in text.split(",")]


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not numbers with commas between, such as 0.5,1,1.5") from None


def run_evaluate(args: argparse.Namespace) -> int:
    """`emorig evaluate`: the main process prints where the report is."""
    check_options(args)
    if args.video is not None:
        return run_steadiness(args)
    check_packages()
    from ..evaluation.grid import row_label
    from ..evaluation.groups import check_groupings, groupings
    from ..evaluation.pairs import list_pictures, match
    from ..evaluation.run import EDITED, SHARDS, Evaluation, score_all
    from ..evaluation.scores import CODES, load_judges
    from ..processes import start_processes

    check_emotions(args.emotions)
    check_folder(args)
    edited = {label: Path(folder) for label, folder in labelled(args.edited).items()}
    names, points = labelled(args.pipeline), read_points(args)
    rows = {row_label(label, point): (label, point) for label in names for point in points}
    check_labels(edited, rows)
    intensities = strengths(args)
    made = {label: args.out / EDITED / label for label in rows}
    plan = match(args.source, edited, made, args.emotions, args.reference, intensities, args.reconstructions)
    photos = list_pictures(args.source)
    check_groupings(args.by, photos)
    state = start_processes()
    editors = open_editors(names, rows, plan.emotions, args, state.device)
    reader: Any = models.load_pipeline(CODES)
    judges = load_judges(reader, args.judge, args.identity, state.device)
    (args.out / SHARDS).mkdir(parents=True, exist_ok=True)  # first, as it marks the folder as a run's
    records = score_all(plan, judges, args.out, editors, state)
    origins = {label: str(folder) for label, folder in edited.items()} | {m: e.settings for m, e in editors.items()}
    judged = list(judges.emotion.emotions)
    evaluation = Evaluation(judges.names, plan.methods, plan.emotions, judged, origins, records)
    if state.is_main_process:
        from ..evaluation.report import write_report

        by = groupings(args.by, photos)
        print(*write_report(evaluation, args.out, args.published, args.sets, by), sep="\n")
        print(f"{len(records) - len(evaluation.failures)} of {len(records)} pictures scored")
    return int(bool(evaluation.failures))


def check_packages() -> None:
    """Raise ValueError where what draws the plot or reads the judge's weights is not installed."""
    try:
        import h5py  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"Scoring needs {error.name}: run `pip install 'emorig-diffusers[eval]'`.") from error


def labelled(words: Sequence[str]) -> dict[str, str]:
    """Label -> folder or model of `LABEL=PLACE`; without a label, its last part."""
    places: dict[str, str] = {}
    for word in words:
        label, equals, place = word.partition("=")
        if not equals or Path(word).exists():
            label, place = Path(word).resolve().name if Path(word).exists() else word.rstrip("/").split("/")[-1], word
        if not place or label in places:
            what = "is given twice" if place else "has no folder"
            raise ValueError(f"The method {label!r} {what}: give each as LABEL=DIR.")
        places[label] = place
    return places


def check_labels(edited: dict[str, Path], made: Mapping[str, Any]) -> None:
    """Raise ValueError for a label of both kinds."""
    for label in edited:
        if label in made:
            raise ValueError(f"The method {label!r} is given twice: give each as LABEL=DIR.")


def strengths(args: argparse.Namespace) -> list[float]:
    """The main intensity of the pipelines' edits, then the others that are to be made.

    Raises:
        ValueError: There are too few to tell linearity by, or no pipeline to make them.
    """
    from ..evaluation.figures import LEAST_STRENGTHS

    others = sorted({*args.intensities} - {args.intensity})
    if args.intensities and not args.pipeline:
        raise ValueError("--intensities are those of pipelines: put others' edits into folders such as happy@0.5.")
    if args.intensities and len(others) + 1 < LEAST_STRENGTHS:
        raise ValueError(f"--intensities needs {LEAST_STRENGTHS} or more, --intensity among them, to tell linearity.")
    return [args.intensity, *others]


def read_points(args: argparse.Namespace) -> list[Point]:
    """The points of all grids; one without a number where there is no grid.

    Raises:
        ValueError: There is no pipeline, or two options give the same number.
    """
    from ..evaluation.grid import read_grids

    if (args.grid or args.reconstructions) and not args.pipeline:
        raise ValueError("--grid and --reconstructions are of what pipelines make: give --pipeline.")
    points = read_grids(args.grid) or [{}]
    if args.intensities and any("intensity" in point for point in points):
        raise ValueError("--intensities and a grid over intensity do not go together: leave one out.")
    return points


def check_emotions(emotions: Sequence[str] | None) -> None:
    """Raise ValueError naming the emotions if one is unknown."""
    from ..face.emotions import check_emotion

    for name in emotions or ():
        check_emotion(name)


def check_folder(args: argparse.Namespace) -> None:
    """Raise ValueError unless the report's folder is new, empty or an earlier run's."""
    from ..evaluation.run import SHARDS

    out = args.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"'{out}' is a file: give a folder for the report.")
    if out.is_dir() and any(out.iterdir()) and not (out / SHARDS).is_dir():
        raise ValueError(f"'{out}' holds other files: give a new folder for the report, or an earlier run's.")


def open_editors(
    names: dict[str, str], rows: Mapping[str, tuple[str, Point]], emotions: Sequence[str], args: argparse.Namespace,
    device: Any,
) -> dict[str, Editor]:  # fmt: skip
    """The rows' pipelines, each opened once and able to make all emotions at all its points."""
    from ..evaluation.run import Editor

    opened = {}
    for label, word in names.items():
        model, steps = split_steps(word, args.steps)
        pipe = models.load_pipeline(model).to(device)
        if steps == 0:
            leave_network_out(pipe, model)
        opened[label] = model, steps, pipe
    if args.reconstructions and not any("picture" in pipe.capabilities for _, _, pipe in opened.values()):
        raise ValueError("--reconstructions needs a pipeline whose network draws a small picture: leave it out.")
    editors = {}
    for row, (label, point) in rows.items():
        model, steps, pipe = opened[label]
        for emotion in emotions:
            for intensity in strengths(args):
                call = {"emotion": emotion, "intensity": intensity, "num_inference_steps": steps or None} | point
                pipe.check_inputs(**call)
        editors[row] = Editor(model, args.intensity, steps, args.seed, pipe, point, emotions)
    return editors


def leave_network_out(pipe: Any, model: str) -> None:
    """Take a pipeline's network away; ValueError where it is nothing without it."""
    if "unet" not in pipe._optional_components:
        raise ValueError(f"The model '{model}' can do nothing without its network: give it 1 step or more.")
    pipe.unet = None


def split_steps(word: str, steps: int | None) -> tuple[str, int | None]:
    """NAME@STEPS -> its parts; without a number of its own, the given one."""
    name, _, number = word.rpartition("@")
    return (name, int(number)) if name and number.isdecimal() else (word, steps)
