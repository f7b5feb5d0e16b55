"""Pictures of a report: contact sheets of each method's range, and identity against expression."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..face.emotions import EMOTIONS
from ..photo.io import read_photo
from .scores import resize
from .sheets import cut_face, draw_rows
from .table import Estimate, Record, best_median_worst, rank_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def range_sheet(records: Sequence[Record], emotions: Sequence[str]) -> Image.Image | None:
    """A row for every emotion: the best, the median and the worst picture of one method, each beside its source.

    `None` where nothing was scored.
    """
    rows = []
    for emotion in emotions:
        mine = [r for r in records if r["emotion"] == emotion and not r["failure"]]
        row = []
        for word, record in best_median_worst(mine):
            source, edited = (_face(record, role) for role in ("source", "edited"))
            row += [(f"{emotion}, {word}", source), (_caption(record), edited)]
        rows += [row] if row else []
    return draw_rows(rows) if rows else None


def _face(record: Record, role: str) -> Image.Image:
    """The face of a picture where the source's is, both at the size they were scored at."""
    width, height = record["size"]
    return cut_face(resize(read_photo(record[role]).rgb, (height, width)), tuple(record["box"]))


def _caption(record: Record) -> str:
    if record["probabilities_after"] is None:
        return "no face: 0"
    target = record["target_probability"]
    if target is None:
        return f"CSIM {record['csim']:.2f}"
    return f"{target:.2f} x {record['csim']:.2f} = {rank_score(record):.2f}"


def scatter(records: Sequence[Record], methods: Sequence[str], emotions: Sequence[str], judge: str) -> Image.Image:
    """A panel for each method: every picture's identity (CSIM) over its target probability, and emotions' means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(methods), 3)
    lines = -(-len(methods) // columns)
    figure = Figure(figsize=(4.6 * columns + 1.6, 4.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    colours: dict[str, str] = dict(zip(EMOTIONS, _COLOURS))
    for panel, method in zip(panels, methods):
        mine = [r for r in records if r["method"] == method and r.get("target_probability") is not None]
        for emotion in emotions:
            points = np.array([(r["target_probability"], r["csim"]) for r in mine if r["emotion"] == emotion])
            if len(points):
                panel.scatter(*points.T, s=12, alpha=0.45, color=colours[emotion], linewidths=0)
                panel.scatter(*points.mean(0), s=110, color=colours[emotion], edgecolors="black", label=emotion)
        panel.set(title=method, xlim=(-0.03, 1.03), ylim=(-0.05, 1.05))
        panel.grid(alpha=0.25)
    figure.supxlabel(f"probability of the emotion asked for ({judge})")
    figure.supylabel("identity (CSIM)")
    entries = {label: mark for panel in figure.axes for mark, label in zip(*panel.get_legend_handles_labels())}
    shown = [emotion for emotion in emotions if emotion in entries]
    figure.legend([entries[e] for e in shown], shown, loc="outside right upper", title="large: mean")
    return _rendered(figure)


def tradeoff(series: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]], judge: str) -> Image.Image:
    """Identity (CSIM) over accuracy: the means of every row with their intervals, those of a series joined in order.

    Args:
        series: Its name -> what is written at a point -> accuracy and CSIM.
        judge: Who judged emotions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[(number + 1) % len(_COLOURS)]
        pairs = list(points.values())
        xs, ys = ([estimate.mean for estimate in axis] for axis in zip(*pairs))
        errors = [[_reach(estimate) for estimate in axis] for axis in zip(*pairs)]
        panel.plot(xs, ys, color=colour, linewidth=1, marker="o", markersize=7, label=name)
        panel.errorbar(xs, ys, np.transpose(errors[1]), np.transpose(errors[0]), "none", ecolor=colour, alpha=0.3)
        for text, x, y in zip(points, xs, ys):
            panel.annotate(text, (x, y), (5, 5), textcoords="offset points", fontsize=8)
    panel.set(xlabel=f"accuracy ({judge})", ylabel="identity (CSIM)")
    panel.grid(alpha=0.25)
    figure.legend(loc="outside right upper")
    return _rendered(figure)


def _reach(estimate: Estimate) -> tuple[float, float]:
    """How far an interval goes below and above its mean."""
    if estimate.low is None or estimate.high is None:
        return 0.0, 0.0
    return max(estimate.mean - estimate.low, 0.0), max(estimate.high - estimate.mean, 0.0)


def _rendered(figure: Figure) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, dpi=110)
    return Image.open(data).convert("RGB")


_COLOURS = ("#7f7f7f", "#e6a400", "#1f77b4", "#e377c2", "#9467bd", "#2ca02c", "#d62728", "#8c564b")


def shrink_for_page(path: Path, longest: int = 1600) -> bytes:
    """A picture as JPEG, small enough for a page that carries it in itself."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((longest, 2 * longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=88)
    return data.getvalue()
