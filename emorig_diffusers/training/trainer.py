"""A training run: steps, log, checkpoints, average and result; a script adds its networks, losses and sheets."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..photo.io import save_photo
from .checkpoints import Extras, resume, save_checkpoint
from .progress import Log, Progress
from .samplers import StepSampler
from .scripts import PATIENCE, refusals

CHANNELS_LAST: dict[str, Any] = {"memory_format": torch.channels_last}
"""For `nn.Module.to`, whose annotations lack it: convolutions are faster so on a CPU."""


class Run(ABC):
    """One run: owns what changes from step to step.

    Args:
        args: Those of `add_loop_arguments` among them.
        accelerator: Device, processes, precision.
        networks: All that is trained, as one module; what needs no gradient is left as it is.
        settings: What a checkpoint was trained as; one with other settings is not resumed.
    """

    result: str  # folder of the result in output_dir

    def __init__(
        self, args: argparse.Namespace, accelerator: Accelerator, networks: nn.Module, settings: dict[str, Any]
    ) -> None:
        self.args, self.accelerator, self.settings = args, accelerator, settings
        self.parameters = [p for p in networks.parameters() if p.requires_grad]
        betas, groups = (args.adam_beta1, args.adam_beta2), self.parameter_groups()
        optimizer = torch.optim.AdamW(groups, args.learning_rate, betas, weight_decay=args.adam_weight_decay)
        self.networks, self.optimizer = accelerator.prepare(networks, optimizer)
        self.progress = Progress(args)
        self.ema = self.average()
        self.extras = Extras(self.progress, self.ema if args.use_ema else None)
        self.step = resume(accelerator, args, settings, self.extras)
        self.ema.to(accelerator.device)  # resumed, it is on the CPU
        self.log = Log(args.output_dir, self.step) if accelerator.is_main_process else None

    def average(self) -> EMAModel:
        """The average of the weights, not begun."""
        return EMAModel(self.parameters, decay=self.args.ema_decay, use_ema_warmup=True, power=0.75)

    # what a script adds

    @abstractmethod
    def losses(self, number: int) -> dict[str, Tensor]:
        """Losses of the `number`-th batch since step 0; "loss" is what is minimised."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser takes; "rate" of a group is its learning rate in terms of the others'."""
        return [{"params": self.parameters}]

    def batch_rng(self, number: int) -> np.random.Generator:
        """What is random about this process's `number`-th batch, the same in a resumed run."""
        return np.random.default_rng([self.args.seed, number, self.accelerator.process_index])

    def sheets(self) -> dict[str, Image.Image]:
        """Validation pictures by name, drawn with the averaged weights."""
        return {}

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the result."""

    def set_mode(self, training: bool) -> None:
        """Training or inference."""
        self.accelerator.unwrap_model(self.networks).train(training)

    # the loop

    def train(self) -> None:
        """To the end, then write the result."""
        args, main = self.args, self.accelerator.is_main_process
        bar = tqdm(total=args.max_train_steps, initial=self.step, mininterval=5, disable=not main)
        self.set_mode(training=True)
        losses, started = [], time.monotonic()
        while self.unfinished():
            losses.append(self.take_step())
            self.step += 1
            bar.update()
            if self.step % args.logging_steps == 0:
                bar.set_postfix(self.report(losses, time.monotonic() - started), refresh=False)
                losses, started = [], time.monotonic()
            if self.step % args.checkpointing_steps == 0:
                save_checkpoint(self.accelerator, args, self.step, self.settings, self.extras)
            if self.step % args.validation_steps == 0 and self.progress.share(self.step) < 1:
                self.validate(f"-{self.step}")
        self.finish()

    def unfinished(self) -> bool:
        """Whether a step is to be taken; all processes say the same."""
        self.progress.agree(self.accelerator)
        return self.progress.share(self.step) < 1

    def take_step(self) -> dict[str, Tensor]:
        """One optimiser step; its mean losses on this process."""
        total, times = {}, self.args.gradient_accumulation_steps
        # dropout inside the networks: a resumed run must draw what the run would have drawn
        torch.manual_seed(hash((self.args.seed, self.step, self.accelerator.process_index)) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = self.progress.learning_rate(self.step) * group.get("rate", 1.0)
        for i in range(times):
            with self.accelerator.accumulate(self.networks):
                losses = self.losses(self.step * times + i)
                self.accelerator.backward(losses["loss"])
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach() / times
        self.ema.step(self.parameters)
        return total

    def report(self, losses: list[dict[str, Tensor]], seconds: float) -> dict[str, str]:
        """Log the means over the last steps and all processes; what the progress bar shows.

        Raises:
            SystemExit: If the loss is no number any more.
        """
        args = self.args
        means = {name: torch.stack([step[name] for step in losses]).mean() for name in losses[0]}
        means = {k: float(v) for k, v in self.accelerator.reduce(means, "mean").items()}
        if not math.isfinite(means["loss"]):
            raise SystemExit(
                f"The loss is no number any more at step {self.step}: resume the last checkpoint with a smaller "
                "--learning_rate, or with --mixed_precision no."
            )
        images = len(losses) * args.train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes
        row = means | {"learning_rate": self.progress.learning_rate(self.step), "images_per_second": images / seconds}
        self.accelerator.log(row, self.step)
        if self.log:
            self.log.add({"step": self.step} | {k: f"{v:.6g}" for k, v in row.items()})
        return {k: f"{v:.4f}" for k, v in means.items()}

    def validate(self, suffix: str = "") -> None:
        """Draw the sheets, on the main process; afterwards the networks are as they were."""
        if not self.accelerator.is_main_process:
            return
        self.use_average()
        sheets = self.sheets()
        for name, sheet in sheets.items():
            save_photo(sheet, self.args.output_dir / f"{name}{suffix}.png")
        if self.args.report_to and sheets:
            images = {name: np.asarray(sheet)[None] for name, sheet in sheets.items()}
            tracker: Any = self.accelerator.get_tracker("tensorboard")
            tracker.log_images(images, self.step, dataformats="NHWC")
        if self.args.use_ema:
            self.ema.restore(self.parameters)
        self.set_mode(training=True)

    def use_average(self) -> None:
        """Put the averaged weights in the place of the trained ones, which are kept, and stop training."""
        self.set_mode(training=False)
        if self.args.use_ema:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)

    def finish(self) -> None:
        """A last checkpoint, sheets, the loss curve and the result."""
        args = self.args
        if self.step % args.checkpointing_steps:
            save_checkpoint(self.accelerator, args, self.step, self.settings, self.extras)
        if self.accelerator.is_main_process:
            self.validate()
            if self.log is not None and self.log.file.exists():
                self.log.draw(args.output_dir / "losses.png")
            self.use_average()
            write_whole(self.save, args.output_dir / self.result)
        self.accelerator.end_training()


class SampledRun(Run):
    """A run on a data set: a StepSampler chooses the samples of a step, an objective says what they cost.

    Args:
        data: `data[index, seed]` is a dictionary of tensors.
        weights: How often each sample is to be seen, relative to the others [N].
        objective: `objective(networks, batch)` gives the losses, "loss" among them.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        accelerator: Accelerator,
        networks: nn.Module,
        settings: dict[str, Any],
        data: Dataset,
        weights: np.ndarray,
        objective: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
    ) -> None:
        super().__init__(args, accelerator, networks, settings)
        self.objective = objective
        sampler = StepSampler(
            weights, args.train_batch_size, args.gradient_accumulation_steps, args.seed,
            accelerator.process_index, accelerator.num_processes, self.step,
        )  # fmt: skip
        # forked workers share what cannot be sent to them, such as a head's factorised systems
        workers = {"num_workers": args.dataloader_num_workers} if args.dataloader_num_workers else {}
        workers |= {"multiprocessing_context": "fork", "persistent_workers": True} if workers else {}
        self.batches = iter(DataLoader(data, batch_sampler=sampler, **workers))

    def losses(self, number: int) -> dict[str, Tensor]:
        """Of the next batch: the sampler counts along."""
        batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in next(self.batches).items()}
        return self.objective(self.networks, batch)


def write_whole(save: Callable[[Path], None], folder: Path) -> None:
    """Save under another name, then rename; SystemExit with one sentence if it cannot be written."""
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save(temporary)
    except (OSError, RuntimeError, SafetensorError) as error:  # what torch and safetensors make of a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        reason = str(error).splitlines()[0]
        raise SystemExit(f"{folder} cannot be written ({reason}): make room and resume the last checkpoint.") from None
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def start(make: Callable[[argparse.Namespace, Accelerator], Run], args: argparse.Namespace, name: str) -> None:
    """Make a run and train it; what is wrong with its input ends it with one sentence."""
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_dir=args.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    set_seed(args.seed)
    with refusals():
        args.output_dir.mkdir(parents=True, exist_ok=True)
        run = make(args, accelerator)
    if args.report_to:
        accelerator.init_trackers(name)
    accelerator.print(f"{sum(p.numel() for p in run.parameters) / 1e6:.2f} M parameters, {run}")
    try:
        run.train()
    except OSError as error:  # a full disk, most likely
        raise SystemExit(f"{error}: make room, and go on with --resume_from_checkpoint latest.") from None
