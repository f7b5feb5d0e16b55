"""The processes of one job: this one, and the others that `accelerate launch` or torchrun may have started."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

_PATIENCE = timedelta(days=1)  # for the process with more to do, before the others give up waiting


def start_processes() -> PartialState:
    """This process among the others, with its device: a GPU for each where there are any, unless ACCELERATE_USE_CPU."""
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=_PATIENCE)
