"""Whichever pipeline a user names, ready to edit; what goes wrong is one sentence."""

from __future__ import annotations

import os
import textwrap
import warnings
from typing import TYPE_CHECKING

from .errors import sentence

if TYPE_CHECKING:
    from accelerate import PartialState

    from ..pipelines.base import FacePipeline


def load_pipeline(model: str) -> FacePipeline:
    """As `open_model`, without the libraries' chatter."""
    quiet()
    return open_model(model)


def open_model(model: str) -> FacePipeline:
    """Open a pipeline of a bundled name, a folder or a Hub id, and give it the judge that it asks; ValueError where
    that fails."""
    from ..hub.repository import bundled
    from ..pipelines.base import open_pipeline

    try:
        pipe = open_pipeline(model)
    except Exception as error:  # diffusers stumbles over damaged folders in a dozen ways
        reason = textwrap.shorten(f"{type(error).__name__}: {sentence(error)}", 200, placeholder=" …")
        advice = f"give {', '.join(bundled())}, the folder of a pipeline or a Hub id"
        raise ValueError(f"The model '{model}' cannot be loaded ({reason}): {advice}.") from error
    pipe.set_progress_bar_config(disable=True)
    if pipe.asks_judge:
        from ..evaluation.metrics.face_api import FaceApiJudge

        pipe.judge = FaceApiJudge()
    return pipe


def place(pipe: FacePipeline) -> PartialState:
    """Put a pipeline on this process's GPU, where there is one; which of how many processes this is."""
    from ..processes import start_processes

    state = start_processes()
    if "cuda" in str(state.device):
        pipe.to(state.device)
    return state


def quiet() -> None:
    """Keep the libraries' chatter away."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
