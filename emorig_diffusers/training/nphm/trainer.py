"""A neural parametric head: what is built, and the run of either stage."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...data.dataset import DataError
from ...data.made_scans import ScanMaker
from ...files.atomic import write_file
from ...hub.repository import resolve
from ...models.geometry import Surface
from ...models.head import HeadModel
from ...models.nphm import NeuralHeadModel
from ...models.scan_alignment import Target
from ..config import parse_trainer, preset_networks, require, trainer_parser
from ..trainer import SampledRun
from .data import ExpressionData, IdentityData, load_scans, mean_anchors
from .objectives import (
    CODE_RATE,
    EXPRESSION_WEIGHTS,
    IDENTITY_WEIGHTS,
    START,
    AutoDecoder,
    Codes,
    ExpressionObjective,
    IdentityObjective,
)  # fmt: skip
from .sheets import heads_sheet

CODES = "codes.safetensors"
"""In output_dir, not beside the head: the codes of the people and scans of training, which tell who they are."""
DEFAULTS = {"learning_rate": 5e-4, "adam_weight_decay": 0.01, "max_grad_norm": 0.1, "train_batch_size": 32}
"""NPHM's, of the first stage."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = trainer_parser("Train a neural parametric head on scans: identities, then expressions.", ("head",))
    add = parser.add_argument
    add("--stage", choices=("identity", "expression"), default="identity")
    add("--pretrained_model_name_or_path", type=Path, help="the first stage's head, for the second or to go on with")
    add("--codes", type=Path, help=f"the first stage's {CODES} (default: beside its head)")
    add("--align", action="store_true", help="lay scans of any unit and rotation on the open head first")
    add("--face_points", type=int, default=750, help="of a person and step, on the face; NPHM's")
    add("--other_points", type=int, default=50, help="of a person and step, elsewhere; NPHM's")
    add("--pairs", type=int, default=1000, help="points of a scan and step in the second stage; NPHM's")
    add("--prune", action=argparse.BooleanOptionalAction, default=False,
        help="leave networks out that hardly matter to a point: five times as fast on a CPU")  # fmt: skip
    add("--sheet_heads", type=int, default=3, help="heads of a validation sheet; 0 for no sheets")
    add("--code_rate", type=float, help="learning rate of codes in terms of the networks' (default: NPHM's)")
    for name, weight in (IDENTITY_WEIGHTS | EXPRESSION_WEIGHTS).items():
        add(f"--{name}_weight", type=float, default=weight)
    parser.set_defaults(**DEFAULTS)
    args = parse_trainer(parser, argv)
    require(parser, args, "pretrained_model_name_or_path" if args.stage == "expression" else "output_dir")
    if min(args.face_points, args.pairs) < 1 or min(args.other_points, args.sheet_heads) < 0:
        parser.error("--face_points and --pairs must be at least 1, --other_points and --sheet_heads not negative.")
    return args


def open_target() -> Target:
    """The open head in NPHM's space, to lay scans on."""
    maker = ScanMaker(HeadModel.from_pretrained(Path(resolve("emorig-open")) / "head"))
    return Target(Surface(maker.head.template + maker.shift, maker.faces), np.random.default_rng(0))


def weights_of(args: argparse.Namespace, losses: dict[str, float]) -> dict[str, float]:
    """Weights of the losses as the arguments have them."""
    return {name: getattr(args, f"{name}_weight") for name in losses}


def open_head(args: argparse.Namespace) -> NeuralHeadModel:
    """The head to train.

    Raises:
        ValueError: There is none to go on with, and no sizes of a new one.
    """
    if args.pretrained_model_name_or_path is None:
        if args.head is None:
            raise ValueError("Give a preset with a section `head`, or --pretrained_model_name_or_path.")
        with preset_networks():
            return NeuralHeadModel(**args.head)
    try:
        return NeuralHeadModel.from_pretrained(args.pretrained_model_name_or_path)
    except OSError:
        raise ValueError(f"{args.pretrained_model_name_or_path} is no neural head: give RUN/head.") from None


class NphmRun(SampledRun):
    """Trains one stage of a neural head as an auto-decoder."""

    result = "head"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        torch.manual_seed(args.seed)
        self.head = open_head(args)
        unit = self.head.config.metres_per_unit
        scans = load_scans(args.train_data_dir, unit, open_target() if args.align else None)
        stage = self._identity if args.stage == "identity" else self._expression
        data, networks, objective, rate = stage(args, scans)
        self.code_rate = rate if args.code_rate is None else args.code_rate
        config = {name: value for name, value in self.head.config.items() if not name.startswith("_")}
        settings = {"stage": args.stage, "head": config, "people": self.people, "scans": len(data)}
        weights = np.ones(len(data))
        super().__init__(args, accelerator, networks, settings, data, weights, objective)

    def _identity(self, args: argparse.Namespace, scans: dict[str, Any]) -> tuple[Any, AutoDecoder, Any, float]:
        head = self.head
        if (anchors := mean_anchors(scans)) is not None and len(anchors) == head.identity.num_anchors:
            head.mean_anchors.data.copy_(anchors)
            if args.pretrained_model_name_or_path is None:
                head.identity.start_from_ellipsoid(head.mean_anchors)
        data = IdentityData(scans, head.mean_anchors.detach().clone(), args.face_points, args.other_points)
        self.people = data.people
        for parameter in head.expression_parameters():
            parameter.requires_grad_(False)
        shapes = Codes(len(data), head.num_shape, START["identity"] / head.num_shape**0.5)
        self.auto_decoder = AutoDecoder(head, shapes, prune=args.prune)
        return data, self.auto_decoder, IdentityObjective(weights_of(args, IDENTITY_WEIGHTS)), CODE_RATE["identity"]

    def _expression(self, args: argparse.Namespace, scans: dict[str, Any]) -> tuple[Any, AutoDecoder, Any, float]:
        head = self.head
        if not head.num_expression:
            raise ValueError("This head has no expressions: give the first stage a head with num_expression.")
        codes = args.codes or args.pretrained_model_name_or_path.parent / CODES
        self.people, known = read_codes(codes)
        if known.shape[1] != head.num_shape:
            raise ValueError(f"{codes} has codes of {known.shape[1]} numbers, the head takes {head.num_shape}.")
        data = ExpressionData(scans, {person: row for row, person in enumerate(self.people)}, args.pairs)
        self.owners = torch.tensor([person for person, _, _ in data.items])
        shapes = Codes(len(known), head.num_shape, 0.0)
        shapes.weight.data.copy_(known)
        for parameter in (*head.identity_parameters(), *shapes.parameters()):
            parameter.requires_grad_(False)
        expressions = Codes(len(data), head.num_expression, START["expression"])
        weights = weights_of(args, EXPRESSION_WEIGHTS)
        self.auto_decoder = AutoDecoder(head, shapes, expressions, args.prune, bool(weights["posed_surface"]))
        objective = ExpressionObjective(weights, head.config.deformation)
        return data, self.auto_decoder, objective, CODE_RATE["expression"]

    def __str__(self) -> str:
        return f"{len(self.people)} people"

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Networks, and codes at their own rate, which nothing but their losses pulls to zero."""
        parts = (self.auto_decoder.shapes, self.auto_decoder.expressions)
        codes = {id(part.weight) for part in parts if part is not None}
        mine = [p for p in self.parameters if id(p) not in codes]
        theirs = [p for p in self.parameters if id(p) in codes]
        return [{"params": mine}, {"params": theirs, "rate": self.code_rate, "weight_decay": 0.0}]

    @torch.no_grad()
    def codes(self) -> tuple[Tensor, Tensor | None]:
        """Identity codes of all people and expression codes of all scans."""
        networks = self.auto_decoder
        rows = lambda part: part(torch.arange(len(part.weight), device=part.weight.device))
        return rows(networks.shapes), None if networks.expressions is None else rows(networks.expressions)

    def sheets(self) -> dict[str, Image.Image]:
        """Heads of people, or of scans, that it is trained on: canonical, or posed."""
        if not self.args.sheet_heads:
            return {}
        shapes, expressions = self.codes()
        count = len(shapes) if expressions is None else len(expressions)
        rows = torch.linspace(0, count - 1, min(self.args.sheet_heads, count)).long()
        if expressions is None:
            return {"heads": heads_sheet(self.head, shapes[rows])}
        return {"heads": heads_sheet(self.head, shapes[self.owners[rows]], expressions[rows])}

    def save(self, folder: Path) -> None:
        """The head with the statistics of people's codes; the codes themselves go elsewhere, see CODES."""
        shapes, expressions = self.codes()
        for name, codes in (("shape", shapes), ("expression", expressions)):
            if codes is not None and len(codes) > 1:
                getattr(self.head, f"{name}_mean").data.copy_(codes.mean(0))
                getattr(self.head, f"{name}_std").data.copy_(codes.std(0))
        self.head.save_pretrained(folder)
        write_codes(self.args.output_dir / CODES, self.people, shapes, expressions)


def write_codes(file: Path, people: list[str], shapes: Tensor, expressions: Tensor | None) -> None:
    """Write the codes of training, whole or not at all."""
    tensors = {"shapes": shapes} | ({} if expressions is None else {"expressions": expressions})
    write_file(file, save({k: v.cpu().contiguous() for k, v in tensors.items()}, {"people": "\n".join(people)}))


def read_codes(file: Path) -> tuple[list[str], Tensor]:
    """People and their identity codes [P, S].

    Raises:
        DataError: The file is not there or holds something else.
    """
    try:
        with safe_open(file, "pt") as opened:
            return (opened.metadata() or {})["people"].split("\n"), opened.get_tensor("shapes").clone()
    except (OSError, SafetensorError, KeyError):
        raise DataError(f"{file} holds no codes of a first stage: give its {CODES} with --codes.") from None
