"""What the pipeline of the demo can do, as far as the page has components for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emorig_diffusers.pipelines.base import FacePipeline

BOTH = (
    "AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU43", "AU9", "AU10", "AU12", "AU15", "AU17", "AU18", "AU20", "AU24",
    "AU26",
)  # fmt: skip
SIDED = ("R2", "L2", "R43", "L43", "R12", "L12")
UNITS = (*BOTH, *SIDED)
"""Single movements that have a slider: of both sides, and of the person's right or left."""


@dataclass(frozen=True)
class Offer:
    """What a pipeline can do.

    Attributes:
        emotions, attributes: Names to choose from.
        steps: Steps of the network to begin with.
        head, movements, gaze: Whether there is a head to turn, whether it has single movements, and eyes that turn.
        shape: Whether the face's shape can be held.
    """

    emotions: Sequence[str]
    steps: int
    head: bool = True
    movements: bool = True
    gaze: bool = True
    attributes: Sequence[str] = ()
    shape: bool = False

    @classmethod
    def of(cls, pipe: FacePipeline) -> Offer:
        """What a pipeline offers."""
        emotions, steps = pipe.emotion_names, pipe.config.default_num_inference_steps
        can = pipe.capabilities
        attributes = pipe.attribute_classifier.names if "attributes" in can else ()
        moves = "head" in can, "action_units" in can, "gaze" in can
        return cls(emotions, steps, *moves, attributes, "shape_guidance" in can)
