"""`emorig study`: serve a user study, and report what it found."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..evaluation.study.plan import CONSENT, EMOTIONS, Design, plan_questions
from ..evaluation.study.store import Store, StudyError, is_study
from .options import new_command, path

QUESTIONS = 60
_SHOWN = 20  # pictures left out that are printed one by one


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    about = "Ask people, in their browsers, which method's edits are better"
    study = new_command(commands, run_study, about)
    study.usage = (
        "emorig study --edited NAME DIR [--edited NAME DIR …] [options] -o DIR\n       emorig study report DIR"
    )
    add = study.add_argument
    add("--edited", metavar=("NAME", "DIR"), nargs=2, action="append",
        help="a method and its edits, in subfolders named after the emotions; once for every method")  # fmt: skip
    add("--source", metavar="DIR", type=path, help="the originals, under the same names")
    add("--emotion", metavar="NAME", choices=EMOTIONS, help="what all edits show, if there are no subfolders")
    add("--questions", metavar="N", type=_count, help=f"for each participant, about (default: {QUESTIONS})")
    add("--seed", metavar="N", type=int, help="of the questions (default: 0)")
    add("--consent", metavar="FILE", type=path, help="Markdown that participants have to agree to")
    add("--host", metavar="HOST", default="127.0.0.1", help="0.0.0.0 for every network (default: %(default)s)")
    add("--port", metavar="N", type=_port, help="default: the first free one from 7860")
    add("-o", dest="out", metavar="DIR", type=path, help="the study; one that was begun goes on, also with -o alone")
    about = "Print what a study found, and write it as report.md and report.json"
    actions = study.add_subparsers(title="and afterwards", metavar="report")
    report = actions.add_parser("report", help=about, description=f"{about}.", usage="emorig study report DIR")
    report.add_argument("folder", metavar="DIR", type=path, help="the study")
    report.set_defaults(run=run_report)


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"give a whole number from 1, not {text!r}")


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"give a number from 1 to 65535, not {text!r}")


def run_study(args: argparse.Namespace) -> int:
    """`emorig study`: begin a study, or go on with it, until the server is interrupted."""
    if args.out is None:
        raise StudyError("Say where to keep the study: -o DIR.")
    if importlib.util.find_spec("gradio") is None:
        raise StudyError('A study needs gradio: pip install "emorig-diffusers[space]".')
    store = go_on(args) if is_study(args.out) else begin(args)
    from ..evaluation.study.page import Study, serve

    settings = store.settings()
    design = Design(tuple(settings["edited"]), settings["photos"], **settings["design"])
    asked = len(plan_questions(design, 0))
    print(f"{len(design.methods)} methods, {asked} questions for each participant; answers: {store.path}")
    study = Study(store, _folders(settings), design, settings["consent"])
    serve(study, args.host, args.port, lambda url: print(f"Open {url} (Ctrl+C stops; -o alone goes on)", flush=True))
    return 0


def begin(args: argparse.Namespace) -> Store:
    """Check the pictures and store what is to be asked."""
    if not args.edited:
        raise StudyError(f"There is no study in '{args.out}' yet: give --edited NAME DIR for every method.")
    names = [name for name, _ in args.edited]
    if len({*names}) < len(names) or not all(name.strip() and name.isprintable() and "|" not in name for name in names):
        raise StudyError(f"Methods need different names that can be printed, without '|', got {', '.join(names)}.")
    settings = _settings(args)
    photos, left_out = _folders(settings).match()
    for line in left_out[:_SHOWN]:
        print(f"emorig: left out: {line}", file=sys.stderr)
    if len(left_out) > _SHOWN:
        print(f"emorig: left out: {len(left_out) - _SHOWN} more, all named in the report", file=sys.stderr)
    return Store.create(args.out, settings | {"photos": photos, "left_out": left_out})


def go_on(args: argparse.Namespace) -> Store:
    """Open a study that was begun; refuse other options than it was begun with."""
    store = Store(args.out)
    stored, given = store.settings(), _settings(args)
    different = {
        "--edited": args.edited and given["edited"] != stored["edited"],
        "--source": args.source and given["source"] != stored["source"],
        "--emotion": args.emotion and given["emotion"] != stored["emotion"],
        "--questions": args.questions and args.questions != stored["design"]["questions"],
        "--seed": args.seed is not None and args.seed != stored["design"]["seed"],
        "--consent": args.consent and given["consent"] != stored["consent"],
    }
    for option, differs in different.items():
        if differs:
            raise StudyError(f"'{args.out}' was begun with another {option}: leave it out, or give another -o.")
    _folders(stored).check(stored["photos"])
    return store


def run_report(args: argparse.Namespace) -> int:
    """`emorig study report`: Markdown on the terminal, Markdown and JSON in the study's folder."""
    store = Store(args.folder)
    from ..evaluation.study.report import summarise, write_markdown
    from ..files.atomic import write_file

    summary = summarise(store)
    text = write_markdown(summary)
    for name, content in (("report.json", json.dumps(summary, indent=1) + "\n"), ("report.md", text)):
        write_file(args.folder / name, content.encode())
    print(text, end="")
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say about a study, as JSON keeps it."""
    return {
        "edited": {name: os.path.abspath(folder) for name, folder in args.edited or ()},
        "source": args.source and os.path.abspath(args.source),
        "emotion": args.emotion,
        "consent": _read_consent(args.consent),
        "design": {
            "person": args.source is not None,
            "questions": args.questions or QUESTIONS,
            "seed": args.seed or 0,
        },
    }


def _folders(settings: dict[str, Any]) -> Any:
    from ..evaluation.study.pictures import Folders

    edited = {name: Path(folder) for name, folder in settings["edited"].items()}
    return Folders(edited, settings["source"] and Path(settings["source"]), settings["emotion"])


def _read_consent(file: Path | None) -> str:
    """The text of a file, or what is asked without one."""
    if file is None:
        return CONSENT
    try:
        text = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise StudyError(f"The consent text '{file}' must be UTF-8 and not empty.")
    return text
