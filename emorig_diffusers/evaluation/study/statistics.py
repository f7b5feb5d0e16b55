"""Figures of a study: strengths from comparisons, intervals of proportions, agreement between participants."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import permutations

import numpy as np

PRIOR = 0.5
"""Wins that every method is given against every other before the first comparison. They keep the strength of a method
that always wins finite, and count for less with every answer."""
RESAMPLES = 1000
_STEPS = 2000
_TOLERANCE = 1e-9
_Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


def bradley_terry(wins: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """Log-strengths of methods that were compared in pairs (Bradley & Terry 1952).

    The method with strength s is preferred to the one with strength t with probability 1 / (1 + exp(t - s)).
    Computed by minorisation-maximisation (Hunter, Annals of Statistics 32, 2004, equation 3).

    Args:
        wins: How often row was preferred to column, [..., M, M].
        prior: Wins to add to every pair in both directions.

    Returns:
        Strengths [..., M] whose sum is 0.
    """
    count = wins.shape[-1]
    wins = (wins + prior) * (1 - np.eye(count))
    games, total = wins + wins.swapaxes(-1, -2), wins.sum(-1)
    scores = np.zeros(total.shape)
    for _ in range(_STEPS):
        strength = np.exp(scores)
        expected = games / (strength[..., :, None] + strength[..., None, :])
        new = np.log(total / expected.sum(-1))
        new -= new.mean(-1, keepdims=True)
        step, scores = np.abs(new - scores).max(), new
        if step < _TOLERANCE:
            break
    return scores


def bootstrap_strengths(wins: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
    """95 % percentile intervals of `bradley_terry` over participants drawn with replacement (RESAMPLES times).

    Args:
        wins: Every participant's wins [P, M, M].

    Returns:
        Lower and upper ends, [M] each, or None for fewer than two participants.
    """
    people = len(wins)
    if people < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), RESAMPLES)
    low, high = np.percentile(bradley_terry(np.tensordot(drawn, wins, 1)), (2.5, 97.5), axis=0)
    return low, high


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927; method 3 of Newcombe 1998); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    rate, z = hits / trials, _Z
    middle = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal labels: 1 is perfect agreement, 0 what chance gives.

    Computed from the coincidences of labels (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).

    Args:
        units: The labels that different participants gave to each thing; those with one label do not count.

    Returns:
        Alpha, or None where nothing has two labels or all labels are the same: then it is not defined.
    """
    pairs: Counter[tuple[Hashable, Hashable]] = Counter()
    for labels in units:
        for pair in permutations(labels, 2):
            pairs[pair] += 1 / (len(labels) - 1)
    totals: Counter[Hashable] = Counter()
    for (label, _), count in pairs.items():
        totals[label] += count
    if len(totals) < 2:
        return None
    values = sum(totals.values())
    observed = sum(count for (a, b), count in pairs.items() if a != b)
    expected = (values**2 - sum(count**2 for count in totals.values())) / (values - 1)
    return 1 - observed / expected
