"""Figures of a study: strengths from comparisons, intervals of proportions, agreement between participants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from scipy.stats import binomtest

PRIOR = 0.5
"""Wins that every method is given against every other before the first comparison. They keep the strength of a method
that always wins finite, and count for less with every answer."""
RESAMPLES = 1000
_STEPS = 2000
_TOLERANCE = 1e-9


def bradley_terry(wins: np.ndarray, prior: float = PRIOR) -> np.ndarray:
    """Log-strengths of methods that were compared in pairs (Bradley & Terry 1952).

    The method with strength s is preferred to the one with strength t with probability 1 / (1 + exp(t - s)).
    Computed by minorisation-maximisation (Hunter, Annals of Statistics 32, 2004, equation 3), of all bootstrap samples
    at once: the package choix takes one set of comparisons at a time.

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
    ends = binomtest(hits, trials).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal labels: 1 is perfect agreement, 0 what chance gives.

    Args:
        units: The labels that different participants gave to each thing; those with one label do not count.

    Returns:
        Alpha, or None where nothing has two labels or all labels are the same: then it is not defined.
    """
    counts = [Counter(labels) for labels in map(list, units) if len(labels) > 1]
    total = sum(counts, Counter())
    if len(total) < 2:
        return None
    # ordered pairs of different labels: within each thing, a label counts as often as it has partners there
    within = sum(_unequal(count) / (count.total() - 1) for count in counts)
    return 1 - within * (total.total() - 1) / _unequal(total)


def _unequal(count: Counter[Hashable]) -> int:
    """Ordered pairs of different labels."""
    return count.total() ** 2 - sum(number**2 for number in count.values())
