"""How long the stages of an edit take, for whoever wants to know: nothing is kept unless it is asked for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RECORD: ContextVar[dict[str, list[float]] | None] = ContextVar("record", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, list[float]]]:
    """Note every `timed` stage of the block: name -> seconds of each run, names in the order of their first end."""
    record: dict[str, list[float]] = defaultdict(list)
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """A block that counts as a stage where somebody records."""
    start = time.perf_counter()
    try:
        yield
    finally:
        if (record := _RECORD.get()) is not None:
            record[stage].append(time.perf_counter() - start)
