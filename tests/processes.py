"""Scripts in processes of their own that begin with torch and diffusers imported: a fork server of Python's.

A fresh interpreter takes five seconds to import them. The server is one process without threads that has done so; every
script is a fork of it, with its own environment, arguments, output and exit code. Nothing of training is imported.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = (
    "torch", "accelerate", "matplotlib.figure", "diffusers.training_utils", "emorig_diffusers.pipelines.emorig",
)  # fmt: skip
TRAIN = Path(__file__).parents[1] / "train"  # the scripts of training
PATIENCE = 900  # seconds, on a busy machine

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


@dataclass
class Script:
    """A running script.

    Attributes:
        process: Where it runs.
        file: What it prints.
    """

    process: BaseProcess
    file: Path

    @property
    def output(self) -> str:
        """What it has printed so far, to stdout and stderr."""
        return self.file.read_text()

    def wait(self) -> int:
        """Its exit code, negative for a signal; a script that does not end is killed."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.kill()
        return self.process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()


def start_script(folder: Path, script: str | Path, *arguments: object, **environment: str) -> Script:
    """Run a file, or the module of that name, as `python` would.

    Args:
        folder: For what it prints.
        script: Path of a .py file, or name of a module.
    """
    file = folder / f"{Path(script).stem}-{environment.get('RANK', '')}.log"
    file.touch()
    call = (str(script), [str(a) for a in arguments], environment | {"OMP_NUM_THREADS": "1"}, file)
    process = _context.Process(target=_run, args=call, daemon=True)
    process.start()
    return Script(process, file)


def start_two(folder: Path, script: str | Path, *arguments: object) -> list[Script]:
    """Two processes of a script that find each other, as `accelerate launch` starts them."""
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [start_script(folder, script, *arguments, **shared, RANK=rank, LOCAL_RANK=rank) for rank in "01"]


def free_port() -> int:
    """A port that is still free when a server has started, as systems give none of these to outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _run(script: str, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    os.environ.update(environment)
    with output.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    import torch

    torch.set_num_threads(1)
    if script.endswith(".py"):
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
    else:
        sys.argv = [script, *arguments]
        runpy.run_module(script, run_name="__main__", alter_sys=True)
