"""One photo's expression on another's face, by every pipeline that the demo has loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from editor import Editor, lend_gpu, open_default
from texts import say
from visitors import friendly, new_folder

from emorig_diffusers.evaluation.compare import OtherPipeline, compare, describe_comparison, draw_comparison
from emorig_diffusers.photo.io import save_photo
from emorig_diffusers.pipelines.request import MODES

SHEET = "comparison.png"


class Comparer:
    """Compares pipelines for the tab and for programs.

    Args:
        editor: Of the demo's own pipeline.
        name: What that is called.
        others: Pipelines beside it, by their names.

    Attributes:
        lead: The pipeline whose encoders read all photos: the one with the most of them, so that a rig with DECA and
            EMOCA makes four results of its two as source and as target.
        others: The ones whose results stand beside that.
        modes: What a target can lend.
    """

    def __init__(self, editor: Editor, name: str, others: Mapping[str, OtherPipeline]) -> None:
        loaded = {name: OtherPipeline(editor.pipe), **others}
        heads = [label for label, other in loaded.items() if "head" in other.pipe.capabilities]
        most = lambda label: len(loaded[label].pipe.encoder.branches)
        self.names = [*loaded, *([] if heads else ["emorig-open"])]  # which reads heads where no other does
        first = max(heads, key=most) if heads else None
        self.lead: Any = loaded[first].pipe if first else None
        self.others = {label: other for label, other in loaded.items() if label != first}
        for other in self.others.values():
            other.pipe.set_progress_bar_config(disable=True)
            if torch.cuda.is_available():
                other.pipe.to("cuda")
        self.modes = MODES if self.lead is not None and "whole_crop" in self.lead.capabilities else MODES[:2]
        self._compare = lend_gpu(self._run)

    def compare(
        self, source: str | None, target: str | None, modes: Sequence[str], seed: float | None
    ) -> tuple[str, str]:
        """The path of a sheet, and a table in letters of one width.

        Raises:
            gr.Error: With one sentence for the visitor.
        """
        if not source or not target:
            raise gr.Error(say("compare.none"), print_exception=False)
        with friendly(source, target):
            sheet, table = self._compare(source, target, tuple(modes), int(seed or 0))
            return str(save_photo(sheet, new_folder() / SHEET)), table

    def _run(self, source: str, target: str, modes: tuple[str, ...], seed: int) -> tuple[Any, str]:
        lead = open_default() if self.lead is None else self.lead
        generator = torch.Generator().manual_seed(seed)
        made = compare(lead, Path(source), Path(target), modes, generator=generator, others=self.others)
        return draw_comparison(made), describe_comparison(made)
