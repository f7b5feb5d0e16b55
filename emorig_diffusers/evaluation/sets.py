"""Each method's pictures as a set against the sources: FID and KID."""

from __future__ import annotations

from collections.abc import Sequence

from .metrics.checks import MetricError
from .metrics.distribution import fid, kid
from .table import Record, is_method

SetDistances = dict[str, dict[str, float | str]]
"""method -> "fid", "kid" -> distance, or the sentence that says why there is none."""


def set_distances(records: Sequence[Record], methods: Sequence[str]) -> SetDistances:
    """FID and KID between all scored pictures of a method and their sources, each source once."""
    distances: SetDistances = {}
    for method in filter(is_method, methods):
        mine = [r for r in records if r["method"] == method and not r["failure"]]
        sets = sorted(r["edited"] for r in mine), sorted({r["source"] for r in mine})
        distances[method] = {}
        for name, figure in (("fid", fid), ("kid", kid)):
            try:
                distances[method][name] = figure(*sets)
            except MetricError as error:
                distances[method][name] = str(error)
    return distances
