"""Linear classifiers of a Diffusion Autoencoder's codes: losses, reports and the run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ...data.preparation import open_all_shards
from ...diffusion.sampling import Sampling
from ...models.semantic_classifier import LatentClassifier
from ...pipelines.diffae import DiffAEEmotionPipeline
from ..config import parse_trainer, trainer_parser
from ..pictures import Pictures
from ..trainer import Run, write_whole
from .classifier_codes import LabelledCodes, confusion, label_codes, read_codes
from .classifier_quality import FaceJudge, edit_quality, quality_table

CODES = "codes.safetensors"
MOVES = {"bce": "direction", "softmax": "means"}
LEAST_STRENGTH = 0.05  # of a direction, in units of sqrt(C)
DEFAULTS = {"learning_rate": 1e-3, "train_batch_size": 32, "max_train_steps": 9375, "max_grad_norm": math.inf,
            "checkpointing_steps": 5000, "validation_steps": 5000, "logging_steps": 125}  # fmt: skip
"""As published: 300,000 samples, without clipping."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments, with defaults from the preset named by --config."""
    parser = trainer_parser("Train a linear classifier of a Diffusion Autoencoder's codes.")
    add = parser.add_argument
    add("--pretrained_model_name_or_path", help="a DiffAEEmotionPipeline: its encoder gives the codes")
    add("--also_train_on", type=Path, nargs="+", default=[], help="more shards, such as painted emotions")
    add("--loss", choices=(*MOVES, "both"), default="both", help="both: the pipeline gets the softmax's")
    add("--attributes", action="store_true", help="the shards' ±1 attributes instead of the emotions")
    add("--held_out_share", type=float, default=0.1, help="of the photos, for the figures; keys decide which")
    add("--person", help="regular expression; its first group in a photo's key names whom not to split")
    add("--quality_photos", type=int, default=0, help="held-out photos whose decoded edits are judged; 0 skips that")
    add("--quality_steps", type=int, default=20, help="steps of their inversion and decoding")
    parser.set_defaults(**DEFAULTS)
    args = parse_trainer(parser, argv, "pretrained_model_name_or_path")
    if not 0 < args.held_out_share < 1:
        parser.error("--held_out_share must be above 0 and below 1.")
    return args


class Classifiers(nn.ModuleDict):
    """Classifiers of the same codes by their loss, as one module.

    Args:
        by_loss: "bce" or "softmax" -> classifier.
    """

    def __init__(self, by_loss: dict[str, LatentClassifier]) -> None:
        super().__init__(by_loss)
        self.by_loss = by_loss

    def forward(self, codes: Tensor) -> dict[str, Tensor]:
        """Codes [B, C] -> logits [B, K] of each."""
        return {loss: classifier(codes) for loss, classifier in self.items()}


def make_classifiers(data: LabelledCodes, losses: tuple[str, ...]) -> Classifiers:
    """Untrained ones that normalise codes by mean and deviation of all of them; they begin at zero."""
    flat = data.codes.flatten(0, 1)
    made = {loss: LatentClassifier(data.names, flat.shape[1], loss, MOVES[loss]) for loss in losses}
    for classifier in made.values():
        classifier.mean.copy_(flat.mean(0))
        classifier.std.copy_(flat.std(0).clamp(min=1e-6))
    return Classifiers(made)


def class_losses(logits: dict[str, Tensor], targets: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """'bce': as published, mean over classes; 'softmax': cross entropy times N / (K · photos of the class).

    Args:
        logits: [B, K] by loss.
        targets: 1 for what is shown, else 0 [B, K]; a single 1 for 'softmax'.
        counts: Training photos of each class [K].
    """
    losses = {}
    if "bce" in logits:
        losses["bce"] = F.binary_cross_entropy_with_logits(logits["bce"], targets)
    if "softmax" in logits:
        rarity = counts.sum() / (len(counts) * counts.clamp(min=1))
        losses["softmax"] = -(targets * rarity * logits["softmax"].log_softmax(1)).sum(1).mean()
    return losses


@torch.no_grad()
def calibrate(classifier: LatentClassifier, codes: Tensor, targets: Tensor) -> None:
    """Set `means` and `strength` from training codes [n, C] and what they show [n, K].

    Strength is the gap along a class's unit direction between the mean of its photos and that of all others, in units
    of √C, at least LEAST_STRENGTH: intensity 1 takes the mean face without the class to the mean face with it.
    """
    normal, targets = classifier.normalise(codes), targets.to(codes)
    means = lambda rows: (rows.T @ normal) / rows.sum(0).clamp(min=1)[:, None]
    classifier.means.copy_(means(targets))
    gap = ((means(targets) - means(1 - targets)) * classifier.directions()).sum(1)
    classifier.strength.copy_((gap / math.sqrt(codes.shape[1])).clamp(min=LEAST_STRENGTH))


@torch.no_grad()
def emotion_report(classifier: LatentClassifier, codes: Tensor, targets: Tensor) -> str:
    """Balanced accuracy; recall of every class and the confusion matrix of codes [n, C], of which one class each."""
    counts = confusion(classifier(codes).argmax(1).cpu(), targets.argmax(1).cpu(), len(classifier.names))
    total = counts.sum(1)
    recall = np.divide(counts.diagonal(), total, out=np.full(len(total), np.nan), where=total > 0)
    lines = [f"{classifier.config.loss}: balanced accuracy {np.nanmean(recall):.3f} of {total.sum()} held-out photos",
             f"{'':>10} recall " + " ".join(f"{name[:8]:>8}" for name in classifier.names)]  # fmt: skip
    lines += [f"{name:>10} {share:6.2f} " + " ".join(f"{count:8d}" for count in row)
              for name, share, row in zip(classifier.names, recall, counts)]  # fmt: skip
    return "\n".join(lines)


@torch.no_grad()
def attribute_report(classifier: LatentClassifier, codes: Tensor, targets: Tensor) -> str:
    """Of each attribute how many of the photos [n, C] with and without it are recognised, and the mean of both."""
    said, shown = classifier(codes).cpu() > 0, targets.cpu() > 0
    rates = [((said == shown) & (shown == there)).sum(0) / (shown == there).sum(0) for there in (True, False)]
    balanced = torch.stack(rates).nanmean(0)
    lines = [f"bce: mean balanced accuracy {balanced.nanmean():.3f} of {len(said)} held-out photos",
             f"{'':>22} with  without  balanced"]  # fmt: skip
    lines += [f"{name:>22} {a:4.2f} {b:8.2f} {c:9.2f}" for name, a, b, c in zip(classifier.names, *rates, balanced)]
    return "\n".join(lines)


class ClassifierRun(Run):
    """Trains classifiers of cached codes."""

    result = "pipeline"

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.pipe = DiffAEEmotionPipeline.from_pretrained(args.pretrained_model_name_or_path)
        self.pipe.set_progress_bar_config(disable=True)
        options = {"resolution": self.pipe.semantic_encoder.config.sample_size, "crop": self.pipe.config.crop}
        folders = [args.train_data_dir, *args.also_train_on]
        self.shards = open_all_shards(folders, args.output_dir, accelerator, **options)
        file, workers = args.output_dir / CODES, args.dataloader_num_workers
        codes = read_codes(self.pipe.semantic_encoder, self.shards, file, accelerator, workers)
        self.data = label_codes(codes, self.shards, args.attributes, args.held_out_share, args.person)
        self.codes, self.targets = (part.to(accelerator.device) for part in self.data.part(held_out=False))
        self.counts = self.targets.sum(0)
        losses = ("bce",) if args.attributes else tuple(MOVES) if args.loss == "both" else (args.loss,)
        self.chosen, self.classifiers = losses[-1], make_classifiers(self.data, losses)
        settings = {"losses": losses, "names": self.data.names, "photos": len(self.codes)}
        super().__init__(args, accelerator, self.classifiers, settings)

    def __str__(self) -> str:
        names = zip(self.data.names, self.counts.int().tolist())
        return f"{len(self.codes)} photos ({', '.join(f'{count} {name}' for name, count in names)})"

    def losses(self, number: int) -> dict[str, Tensor]:
        """Of codes that follow from seed, number and process, half of them mirrored."""
        args, rng = self.args, self.batch_rng(number)
        chosen = torch.from_numpy(rng.integers(len(self.codes), size=args.train_batch_size)).to(self.codes.device)
        mirrored = torch.from_numpy(rng.integers(2, size=args.train_batch_size)).to(self.codes.device)
        losses = class_losses(self.networks(self.codes[chosen, mirrored]), self.targets[chosen], self.counts)
        return {"loss": torch.stack(list(losses.values())).sum()} | losses

    def sheets(self) -> dict[str, Image.Image]:
        """No pictures: figures of the held-out photos are printed."""
        codes, targets = (part.to(self.codes.device) for part in self.data.part(held_out=True))
        report = attribute_report if self.args.attributes else emotion_report
        for classifier in self.classifiers.by_loss.values():
            tqdm.write(f"step {self.step}, {report(classifier, codes[:, 0], targets)}")
        return {}

    def save(self, folder: Path) -> None:
        """The pipeline with the chosen classifier."""
        codes, targets = self.codes.flatten(0, 1), self.targets.repeat_interleave(2, 0)
        for classifier in self.classifiers.by_loss.values():
            calibrate(classifier, codes, targets)
        kind = "attribute_classifier" if self.args.attributes else "emotion_classifier"
        self.pipe.register_modules(**{kind: self.classifiers[self.chosen]})
        self.pipe.save_pretrained(folder)

    def finish(self) -> None:
        """Also each classifier for itself, and how good its edits are."""
        super().finish()
        if not self.accelerator.is_main_process:
            return
        for loss, classifier in self.classifiers.by_loss.items():
            write_whole(classifier.save_pretrained, self.args.output_dir / f"classifier-{loss}")
        if self.args.quality_photos and not self.args.attributes:
            self.judge_edits()

    def judge_edits(self) -> None:
        """Print how far held-out photos come, and what it costs of their identity."""
        places = self.data.places[self.data.held_out]
        places = places[np.unique(np.linspace(0, len(places) - 1, self.args.quality_photos).astype(int))]
        all_pictures = Pictures(self.shards, self.pipe.latents_side)
        pictures = torch.stack([all_pictures[int(place)] for place in places])
        self.pipe.to(self.accelerator.device)
        judge, sampling = FaceJudge(), Sampling(self.args.quality_steps)
        for loss, qualities in edit_quality(self.pipe, self.classifiers.by_loss, pictures, sampling, judge).items():
            print(f"{loss}: edits of {len(pictures)} held-out photos, judged by {judge.emotion.name}")
            print(quality_table(qualities))
