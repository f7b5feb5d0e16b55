"""Pictures that are made at a time, in order: much of a picture is steps too small for a core to share with others."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")
MOST_WORKERS = 4  # pictures at a time: each takes memory, and whoever reads and writes frames needs a core too


def in_order(jobs: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """Results of jobs in their order; on the CPU as many are done at a time as there are cores, up to MOST_WORKERS.

    Jobs are taken one after the other in the caller's thread, one more than are done. Where the generator is closed, or
    a job fails, those that wait are left.
    """
    workers = min(os.cpu_count() or 1, MOST_WORKERS) if device.type == "cpu" else 1
    with ThreadPoolExecutor(workers, initializer=_one_core if workers > 1 else None) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(copy_context().run, job))  # stages are timed wherever they run
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()


def _one_core() -> None:
    """Keep torch in this thread to one core: its helpers in each would only wait for each other."""
    torch.get_num_threads()  # asked first: a thread's number is set anew when it computes for the first time
    threadpool_limits(1, "openmp")
