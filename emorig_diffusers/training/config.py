"""Arguments and presets of trainers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

SECTION: Any = dict  # type of arguments that presets alone can set


def parse_with_preset(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; a YAML preset named by --config sets defaults, the command line wins."""
    config = parser.parse_known_args(argv)[0].config
    if config is not None:
        try:
            preset = yaml.safe_load(config.read_text())
        except (OSError, yaml.YAMLError) as error:
            parser.error(f"The preset {config} cannot be read: {str(error).splitlines()[0]}.")
        if not isinstance(preset, dict):
            parser.error(f"{config} is no preset: it must hold lines such as `learning_rate: 1.0e-4`.")
        actions = {action.dest: action for action in parser._actions}
        unknown = set(preset) - set(actions)
        if unknown:
            parser.error(f"{config} sets unknown arguments: {', '.join(sorted(unknown))}.")
        for name, value in preset.items():
            known, values = actions[name].choices, value if isinstance(value, list) else [value]
            if known and any(one not in known for one in values):
                parser.error(f"{config}: {name} must be one of {', '.join(known)}, not {value!r}.")
            for kind, what in ((int, "a whole number"), (SECTION, "a section")):
                if actions[name].type is kind and not isinstance(value, kind):
                    parser.error(f"{config}: {name} must be {what}, not {value!r}.")
        parser.set_defaults(**preset)
    return parser.parse_args(argv)


def trainer_parser(description: str, sections: Sequence[str] = ()) -> argparse.ArgumentParser:
    """A parser of the arguments that trainers share, under the names of diffusers' own scripts.

    Args:
        description: One line for --help.
        sections: Names of a preset's sections, such as a network's sizes; they are no options.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    for section in sections:
        add(f"--{section}", type=SECTION, help=argparse.SUPPRESS)
    add("--config", type=Path, help="YAML preset, see train/presets; the command line wins")
    add("--train_data_dir", type=Path, help="shards written by train/prepare.py, or photos to prepare first")
    add("--output_dir", type=Path, help="checkpoints, log, validation pictures and the result")
    add("--train_batch_size", type=int, default=16, help="samples a process and step")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--max_train_steps", type=int, default=10000)
    add("--max_train_minutes", type=float, help="end (and decay the learning rate) by this time, if sooner")
    add("--learning_rate", type=float, default=1e-4)
    add("--lr_scheduler", choices=("constant", "cosine", "linear", "halving"), default="constant",
        help="after the warm-up")  # fmt: skip
    add("--lr_halving_steps", type=int, default=10000, help="after which --lr_scheduler halving halves the rate")
    add("--lr_warmup_steps", type=int, default=0)
    add("--adam_beta1", type=float, default=0.9)
    add("--adam_beta2", type=float, default=0.999)
    add("--adam_weight_decay", type=float, default=0.0)
    add("--max_grad_norm", type=float, default=1.0)
    add("--use_ema", action=argparse.BooleanOptionalAction, default=True, help="keep an average of the weights")
    add("--ema_decay", type=float, default=0.9999)
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    add("--dataloader_num_workers", type=int, default=0)
    add("--checkpointing_steps", type=int, default=500)
    add("--checkpoints_total_limit", type=int, default=2)
    add("--resume_from_checkpoint", help='a checkpoint, or "latest": if there is one')
    add("--logging_steps", type=int, default=10)
    add("--validation_steps", type=int, default=1000)
    add("--report_to", choices=("tensorboard",), help="besides losses.csv")
    add("--seed", type=int, default=0)
    return parser


def parse_trainer(parser: argparse.ArgumentParser, argv: Sequence[str] | None, *required: str) -> argparse.Namespace:
    """Parse a trainer's arguments; `train_data_dir`, `output_dir` and `required` must be given."""
    args = parse_with_preset(parser, argv)
    require(parser, args, "train_data_dir", "output_dir", *required)
    return args


@contextmanager
def preset_networks() -> Iterator[None]:
    """Where networks are made from a preset's sections: an unknown key of a section ends it with one sentence."""
    try:
        yield
    except TypeError as error:
        raise SystemExit(f"The preset's networks cannot be built: {error}.") from None


def require(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """End with one sentence if an argument without a default is missing, or a number makes no sense."""
    for name in names:
        if getattr(args, name) is None:
            parser.error(f"--{name} is missing.")
    for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "checkpointing_steps",
                 "checkpoints_total_limit", "logging_steps", "validation_steps", "lr_halving_steps"):  # fmt: skip
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1.")
    if args.seed < 0:
        parser.error("--seed must not be negative.")
