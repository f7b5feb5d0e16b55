"""Which samples make up a training step: it follows from (seed, step) alone.

A resumed run and a run on more processes see the same data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ..data.dataset import DataError

Item = tuple[int, int]  # index of a sample, seed of all that is random about it


class StepSampler:
    """Endless batches of `(index, seed)` for one of several processes.

    The samples of a step depend on `seed`, the step and the size of the global batch; the processes share them. With
    equal weights every sample comes once before any comes again.

    Args:
        weights: How often each sample is to be seen, relative to the others [N].
        batch_size: Samples a process and micro-step.
        micro_steps: Batches a step (gradient accumulation).
        process, processes: Which of how many.
        start: First step.
    """

    def __init__(
        self,
        weights: np.ndarray,
        batch_size: int,
        micro_steps: int = 1,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
        start: int = 0,
    ) -> None:
        self.weights, self.batch_size, self.micro_steps = weights / weights.sum(), batch_size, micro_steps
        self.seed, self.process, self.processes, self.start = seed, process, processes, start
        self.even = bool(np.ptp(weights) == 0)
        self._epoch, self._order = -1, np.zeros(0, int)

    def __iter__(self) -> Iterator[list[Item]]:
        step = self.start
        while True:
            items = self.step(step)
            share = np.array_split(np.arange(len(items)), self.processes * self.micro_steps)
            for micro in range(self.micro_steps):
                yield [items[i] for i in share[micro * self.processes + self.process]]
            step += 1

    def step(self, step: int) -> list[Item]:
        """All samples of a step, of all processes."""
        size = self.batch_size * self.micro_steps * self.processes
        rng = np.random.default_rng([self.seed, step])
        seeds = rng.integers(2**63, size=size)
        if self.even:
            index = [self._shuffled(place) for place in range(step * size, (step + 1) * size)]
        else:
            index = rng.choice(len(self.weights), size, p=self.weights)
        return [(int(i), int(s)) for i, s in zip(index, seeds)]

    def _shuffled(self, place: int) -> int:
        epoch, within = divmod(place, len(self.weights))
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.weights))
        return self._order[within]


def class_weights(labels: list[str | None]) -> np.ndarray:
    """Weights [N] under which every label comes equally often.

    Raises:
        DataError: If a sample has no label.
    """
    count = Counter(labels)
    if None in count:
        raise DataError(
            f"{count[None]} of {len(labels)} photos have no emotion label: prepare a labelled data set (AffectNet), "
            "or leave out --class_balanced."
        )
    return np.array([1 / count[label] for label in labels])
