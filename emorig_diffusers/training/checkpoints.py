"""Checkpoints of a training run: written whole or not at all, checked before they are resumed, the oldest dropped."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .progress import Progress

SETTINGS = "settings.json"  # in every checkpoint: what the weights were trained as
CONTENTS = "contents.json"  # in every checkpoint: its step, and bytes and CRC-32 of all its other files
PROGRESS, AVERAGE = "progress.json", "average.safetensors"
NAME = re.compile(r"checkpoint-(\d+)")
CHUNK = 2**24  # bytes that are read at a time
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, SafetensorError)  # what bad files make of a load


@dataclass
class Extras:
    """What a checkpoint holds besides networks and optimiser, without pickles.

    Attributes:
        progress: Time spent.
        ema: Averaged weights, or `None`.
    """

    progress: Progress
    ema: EMAModel | None

    def save(self, folder: Path) -> None:
        """Write both."""
        (folder / PROGRESS).write_text(json.dumps(self.progress.state_dict()))
        if self.ema is not None:
            tensors = {f"{i:05d}": p.cpu().contiguous() for i, p in enumerate(self.ema.shadow_params)}
            save_file(tensors, folder / AVERAGE, {"optimization_step": str(self.ema.optimization_step)})

    def load(self, folder: Path) -> None:
        """Read both back; SystemExit where an average is wanted and there is none."""
        self.progress.load_state_dict(json.loads((folder / PROGRESS).read_text()))
        if self.ema is None:
            return
        if not (folder / AVERAGE).is_file():
            raise SystemExit(f"{folder} was trained without an average of the weights: resume it with --no-use_ema.")
        with safe_open(folder / AVERAGE, "pt") as file:
            self.ema.optimization_step = int(file.metadata()["optimization_step"])
            for i, parameter in enumerate(self.ema.shadow_params):
                parameter.copy_(file.get_tensor(f"{i:05d}"))


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first; folders of other names are none of ours."""
    found = {int(match[1]): path for path in folder.glob("checkpoint-*")
             if (match := NAME.fullmatch(path.name)) and path.is_dir()}  # fmt: skip
    return [found[step] for step in sorted(found)]


# writing


def save_checkpoint(
    accelerator: Accelerator,
    args: argparse.Namespace,
    step: int,
    settings: dict[str, Any],
    extras: Extras | None = None,
) -> None:
    """Write `checkpoint-<step>` under another name, rename it, and drop the oldest.

    Raises:
        SystemExit: If it cannot be written, with one sentence; earlier checkpoints stay.
    """
    final = args.output_dir / f"checkpoint-{step}"
    temporary, main = args.output_dir / f".{final.name}", accelerator.is_main_process
    if main:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed while it wrote
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary))
        if main:
            if extras is not None:
                extras.save(temporary)
            (temporary / SETTINGS).write_text(json.dumps(settings, indent=1, sort_keys=True))
        accelerator.wait_for_everyone()
        if main:
            (temporary / CONTENTS).write_text(json.dumps(_contents(temporary, step)))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        kept = ", ".join(folder.name for folder in checkpoints(args.output_dir)) or "none"
        reason = str(error).splitlines()[0]
        raise SystemExit(f"{final} cannot be written ({reason}): make room and resume; kept: {kept}.") from None
    if main:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in checkpoints(args.output_dir)[: -args.checkpoints_total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _contents(folder: Path, step: int) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {"step": step, "files": {str(f.relative_to(folder)): [f.stat().st_size, _crc(f)] for f in files}}


def _crc(file: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


# resuming


def resume(
    accelerator: Accelerator, args: argparse.Namespace, settings: dict[str, Any], extras: Extras | None = None
) -> int:
    """Load the wanted checkpoint and return its step; 0 where a new run starts.

    `latest` is the newest undamaged one; where there is no checkpoint at all it starts a new run, so that a job that
    may be preempted is always started by the same command.

    Raises:
        SystemExit: If the named checkpoint is not there, all are damaged, or it was trained as something else.
    """
    folder = _agreed(accelerator, lambda: _choose(args, settings))
    if folder is None:
        return 0
    try:
        accelerator.load_state(str(folder))
        if extras is not None:
            extras.load(folder)
    except UNREADABLE as error:
        raise SystemExit(
            f"{folder} cannot be loaded ({str(error).splitlines()[0]}): resume it with the arguments it was trained "
            "with, or start anew in another --output_dir."
        ) from None
    accelerator.step = 0  # micro-steps since an update: with more processes some would have found another number
    return _step(folder)


def _agreed(accelerator: Accelerator, decide: Callable[[], Path | None]) -> Path | None:
    """What the main process decides, for all: others may see a folder at another moment. Its SystemExit is all's."""
    answer: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            answer = [decide()]
        except SystemExit as stop:
            answer = [stop]
    (decision,) = broadcast_object_list(answer)
    if isinstance(decision, SystemExit):
        raise decision
    return decision


def _choose(args: argparse.Namespace, settings: dict[str, Any]) -> Path | None:
    """The checkpoint to resume, or `None` for a new run."""
    found, wanted = checkpoints(args.output_dir), args.resume_from_checkpoint
    if not wanted:
        if found:
            raise SystemExit(
                f"{args.output_dir} holds checkpoints of an earlier run: continue it with "
                "--resume_from_checkpoint latest, or choose another --output_dir."
            )
        return None
    if wanted != "latest":
        chosen = _named(args.output_dir, Path(wanted), found)
        _check_settings(chosen, settings)
        return chosen
    if not found:
        print(f"There is no checkpoint in {args.output_dir}: a new run starts.")
        return None
    damaged: dict[Path, str] = {}
    for chosen in reversed(found):
        if (reason := damage(chosen)) is None:
            break
        damaged[chosen] = reason
    else:
        raise SystemExit(f"{found[-1]} is damaged ({damaged[found[-1]]}) and no older checkpoint is whole: move "
                         "checkpoints away to start a new run.")  # fmt: skip
    _check_settings(chosen, settings)
    for folder, reason in damaged.items():
        _set_aside(folder, reason, chosen)
    return chosen


def _named(output_dir: Path, wanted: Path, found: list[Path]) -> Path:
    """A checkpoint by its path, or by its name in `output_dir`."""
    if not wanted.is_dir() and (output_dir / wanted).is_dir():
        wanted = output_dir / wanted
    if not wanted.is_dir():
        known = f" of {', '.join(folder.name for folder in found)}," if found else ""
        raise SystemExit(f"There is no checkpoint {wanted}: name one{known} or give latest.")
    if reason := damage(wanted):
        raise SystemExit(f"{wanted} cannot be resumed ({reason}): name another checkpoint, or give latest.")
    if any(_step(folder) > _step(wanted) for folder in found):
        raise SystemExit(f"{output_dir} holds newer checkpoints than {wanted.name}: move them away first.")
    return wanted


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """SystemExit if a checkpoint was trained as something else."""
    then, now = json.loads((folder / SETTINGS).read_text()), json.loads(json.dumps(settings))
    different = sorted(k for k in then.keys() | now.keys() if then.get(k) != now.get(k))
    if different:
        raise SystemExit(
            f"{folder} was trained with another {', '.join(different)}: resume it with its own preset, "
            "or start anew in another --output_dir."
        )


def _set_aside(folder: Path, reason: str, instead: Path) -> None:
    """Rename a damaged checkpoint, so that it does not count among the run's own, and say so."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    print(f"{folder} is damaged ({reason}): the run goes on from {instead.name}; it is kept as {aside.name}.")


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, in a few words; `None` if they are as they were written.

    One of an earlier version, which has no CONTENTS, is taken for whole.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        text = (folder / CONTENTS).read_text() if (folder / CONTENTS).exists() else None
        files = {} if text is None else json.loads(text)["files"]
        for name, (size, crc) in files.items():
            if (now := (folder / name).stat().st_size) != size:
                return f"{name} has {now:,} of {size:,} bytes"
            if _crc(folder / name) != crc:
                return f"{name} has changed"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{SETTINGS} or {CONTENTS} is cut off"
    return None if isinstance(settings, dict) else f"{SETTINGS} is cut off"


def _step(folder: Path) -> int:
    """The step at which a checkpoint was written; SystemExit if nothing tells it."""
    if (folder / CONTENTS).exists():
        return int(json.loads((folder / CONTENTS).read_text())["step"])
    if match := NAME.fullmatch(folder.name):
        return int(match[1])
    raise SystemExit(f"{folder} does not tell its step: rename it to checkpoint-<step>.")
