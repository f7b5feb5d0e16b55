"""What the field reports beside accuracy: one score of expression and identity, linearity of strength, confusion.

Defined as by FFE-Bench (PixelSmile, arXiv:2603.25728, section 3.2), which asks Gemini 3 Pro for expressions and takes
the mean cosine of ArcFace, AdaFace and FaceNet for identity; here both are told by the run's own judges.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

OVERLAPPING = {"fear": "surprise", "surprise": "fear", "anger": "disgust", "disgust": "anger"}
"""Emotion -> the one that it is most easily taken for."""
LEAST_STRENGTHS = 3
"""Any two points lie on a line."""

_CONSTANT = 1e-6  # range of probabilities that says nothing but rounding


def harmonic_score(probability: float | None, similarity: float | None) -> float | None:
    """HES: harmonic mean of the target probability and of identity (CSIM, at least 0), in [0, 1].

    Neither makes up for the other: an untouched photo and a stranger with the right expression have both about 0.
    `None` where one of them is unknown.
    """
    if probability is None or similarity is None:
        return None
    similarity = max(similarity, 0.0)
    return 2 * probability * similarity / (probability + similarity) if probability + similarity else 0.0


def pair_confusion(emotion: str, top: str | None) -> float | None:
    """A picture's part in the mSCR: 1 if it is named as the other of its pair in OVERLAPPING, else 0.

    The mean over an emotion's pictures is the share of them that is confused, that over all pictures the mSCR: the mean
    of these shares, where all emotions have equally many pictures. `None` for emotions of no pair.

    Args:
        emotion: What was asked for.
        top: What the judge names; `None` where it saw no face.
    """
    return float(top == OVERLAPPING[emotion]) if emotion in OVERLAPPING else None


def linearity(probabilities: Mapping[float, float]) -> float | None:
    """CLS of one photo: Pearson's correlation of strength and target probability, in [-1, 1].

    0 where the probability never changes; `None` below LEAST_STRENGTHS.

    Args:
        probabilities: Strength of the edit -> the judge's probability of the emotion asked for.
    """
    if len(probabilities) < LEAST_STRENGTHS:
        return None
    seen = np.array(list(probabilities.values()))
    if np.ptp(seen) < _CONSTANT:
        return 0.0
    return float(np.corrcoef(list(probabilities), seen)[0, 1])
