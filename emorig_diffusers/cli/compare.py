"""`emorig compare`: two photos, and what each encoder of a pipeline makes of them, on a sheet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..pipelines.request import names
from . import models
from .evaluate import labelled, leave_network_out, split_steps
from .options import add_options, new_command
from .photos import check_photo, file_job, refuse_same

if TYPE_CHECKING:
    from ..evaluation.compare import OtherPipeline


_ABOUT = "Put one photo's expression on another's face, read by every encoder of a pipeline, on one sheet"


def add_command(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = new_command(commands, run_compare, _ABOUT, "SOURCE", "TARGET")
    add = parser.add_argument
    add("--with", metavar="[LABEL=]NAME[@STEPS]", dest="others", action="append", default=[],
        help="put beside it what this pipeline makes of the two photos, such as an emotion LDM; its own "
        "number of steps if wanted, 0 leaves its network out (repeatable)")  # fmt: skip
    add("--modes", metavar="MODES", type=names, default=["exp"],
        help="what the target lends: exp, pose, light, latent, with commas between them (default: exp)")  # fmt: skip
    add("--noise", choices=("fresh", "photo"), default="fresh",
        help="start from fresh noise, or from the source's own (default: %(default)s)")  # fmt: skip
    add("--crop", metavar="FRAME", help="which square of a photo is the picture: aligned, ffhq or whole "
        "(default: the checkpoint's)")  # fmt: skip
    add("--detail", action="store_true", help="draw DECA's wrinkles too")
    add_options(parser, "--steps", "--seed", "--model", "-o")


def run_compare(args: argparse.Namespace) -> int:
    """`emorig compare`: the sheet, then a table."""

    source, out = file_job(args.source, args.out)
    check_photo(args.target)
    refuse_same(args.target, out)
    if source.samefile(args.target):
        raise ValueError(f"Source and target are both '{source}': give two photos.")
    pipe: Any = models.load_pipeline(args.model)
    import torch

    from ..evaluation.compare import compare, describe_comparison, draw_comparison
    from ..photo.io import save_photo

    if "head" not in pipe.capabilities:
        advice = "name it with --with, and a rig with --model."
        raise ValueError(f"The model '{args.model}' reads no head's codes: {advice}")
    generator = None if args.seed is None else torch.Generator().manual_seed(args.seed)
    latents = "photo" if args.noise == "photo" else None
    how = {name: getattr(args, name) for name in ("modes", "num_inference_steps", "crop", "detail")}
    others = open_others(args.others, args.num_inference_steps)
    comparison = compare(pipe, source, args.target, generator=generator, latents=latents, **how, others=others)
    save_photo(draw_comparison(comparison), out)
    print(out, describe_comparison(comparison), sep="\n")
    return 0


def open_others(words: Sequence[str], steps: int | None = None) -> dict[str, OtherPipeline]:
    """The pipelines of --with by their labels; they take so many steps where they name none of their own."""
    from ..evaluation.compare import OtherPipeline

    others = {}
    for label, word in labelled(words).items():
        model, own = split_steps(word, steps)
        pipe = models.load_pipeline(model)
        if own == 0:
            leave_network_out(pipe, model)
        others[label] = OtherPipeline(pipe, own or None)
    return others
