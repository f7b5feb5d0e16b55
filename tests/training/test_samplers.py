"""Which samples make up a step."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.training.samplers import Item, StepSampler, class_weights

EVEN, UNEVEN = np.ones(7), np.array([1.0, 3, 0, 2, 1, 1, 1])


def steps(weights: np.ndarray, batch_size: int, micro_steps: int, processes: int, **more: int) -> list[list[Item]]:
    """Three steps of all processes together."""
    made = [islice(StepSampler(weights, batch_size, micro_steps, 5, process, processes, **more), 3 * micro_steps)
            for process in range(processes)]  # fmt: skip
    micro = [sum(batches, []) for batches in zip(*made, strict=True)]
    return [sum(micro[i : i + micro_steps], []) for i in range(0, len(micro), micro_steps)]


@pytest.mark.parametrize("weights", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_a_step_is_the_same_on_any_number_of_processes(weights: np.ndarray) -> None:
    together = steps(weights, 12, 1, 1)
    for split in ((3, 2, 2), (4, 1, 3), (2, 3, 2), (1, 12, 1)):
        assert steps(weights, *split) == together
    assert len({seed for step in together for _, seed in step}) == 36
    assert steps(weights, 12, 1, 1, start=2)[0] == together[2]
    assert steps(weights, 12, 1, 1, start=7) != together


def test_another_seed_gives_other_samples() -> None:
    first, other = (next(iter(StepSampler(EVEN, 7, seed=seed))) for seed in (0, 1))
    assert [i for i, _ in first] != [i for i, _ in other]
    assert {s for _, s in first}.isdisjoint({s for _, s in other})


@pytest.mark.parametrize("batch_size", [3, 7, 16])
def test_every_sample_comes_once_before_any_comes_again(batch_size: int) -> None:
    sampler = StepSampler(np.full(7, 0.3), batch_size)
    order = [i for batch in islice(sampler, 70 // batch_size + 1) for i, _ in batch][:70]
    epochs = [tuple(order[i : i + 7]) for i in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 8  # shuffled anew


def test_weights_say_how_often_a_sample_comes() -> None:
    count = Counter(i for batch in islice(StepSampler(UNEVEN, 50), 90) for i, _ in batch)
    share = np.array([count[i] for i in range(7)]) / 4500
    np.testing.assert_allclose(share, UNEVEN / 9, atol=0.03)
    assert count[2] == 0


def test_class_weights() -> None:
    labels = ["happy", "happy", "sad", "happy", "fear"]
    np.testing.assert_allclose(class_weights(labels), [1 / 3, 1 / 3, 1, 1 / 3, 1])
    with pytest.raises(DataError, match=r"2 of 4 photos have no emotion label: prepare a labelled data set"):
        class_weights(["happy", None, "sad", None])
