"""Whichever pipeline a user names, ready to edit; what goes wrong is one sentence."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pipelines.base import FacePipeline


def open_model(model: str) -> FacePipeline:
    """Open a pipeline of a bundled name, a folder or a Hub id, and give it the judge that it asks; ValueError where
    that fails."""
    from ..hub.repository import bundled
    from ..pipelines.base import open_pipeline
    from .main import sentence

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
