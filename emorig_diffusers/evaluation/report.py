"""The report of a run: the main table and all that stands behind it, as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files.atomic import write_file
from ..photo.io import save_photo
from .document import Block, Grid, Heading, Paragraph, Picture, to_html, to_markdown
from .figures import LEAST_STRENGTHS
from .grid import row_label
from .groups import FEW, Grouping, Split, as_json, emotion_rows, split, write_groups
from .pairs import REAL, UNEDITED
from .pictures import range_sheet, scatter, tradeoff
from .run import Evaluation, write_scores
from .scores import CODES, CROP, LONGEST
from .sets import SetDistances, set_distances
from .table import (
    ALL,
    COLUMNS,
    EXTRA,
    MAIN,
    NO_FACE,
    OWN,
    PUBLISHED_ONLY,
    RESAMPLES,
    Column,
    Estimate,
    Published,
    Record,
    Table,
    add_shape_drift,
    confusion,
    is_method,
    published,
    summarise,
)

REPORT = "report"
_NOTHING = "–"
_LISTED = 12  # names that a report lists of one kind of failure


def write_report(
    evaluation: Evaluation, out: Path, with_published: bool = False, with_sets: bool = False,
    by: Sequence[Grouping] = (),
) -> list[Path]:  # fmt: skip
    """Write `scores.json`, `report.md`, `report.html` and the pictures of both, and `groups.csv` where there are
    groups; returns these files.

    Args:
        evaluation: What was found.
        out: An existing folder.
        with_published: Show published figures too, in a table of their own.
        with_sets: Take FID and KID too.
        by: What divides the photos into groups, for which every figure is given too.
    """
    records, methods = evaluation.records, evaluation.methods
    floor, sets = add_shape_drift(records), set_distances(records, methods) if with_sets else {}
    table = summarise(records, methods, evaluation.emotions)
    parts = split(records, methods, evaluation.emotions, by)
    blocks = list(_blocks(evaluation, table, floor, out, published() if with_published else [], sets, by, parts))
    groups = {"groups": as_json(parts, by)} if by else {}
    paths = [write_scores(evaluation, table, out, one_persons_shape_drift=floor, sets=sets, **groups)]
    for suffix, text in ((".md", to_markdown(blocks)), (".html", to_html(blocks))):
        paths.append(out / f"{REPORT}{suffix}")
        write_file(paths[-1], text.encode())
    return [*paths, write_groups(parts, by, out)] if by else paths


def _blocks(
    evaluation: Evaluation, table: Table, floor: float | None, out: Path, others: Sequence[Published],
    sets: SetDistances, by: Sequence[Grouping], parts: Split,
) -> Iterator[Block]:  # fmt: skip
    columns = [*evaluation.emotions, *([ALL] if len(evaluation.emotions) > 1 else [])]
    yield Heading("Edited emotions: evaluation", 1)
    yield Paragraph(_who_judged(evaluation))
    yield Paragraph(_how_many(evaluation))
    yield Heading("Table")
    yield _main_table(table, columns, _head(evaluation), evaluation.judges)
    if any("own_psnr" in cell for row in table.values() for cell in row.values()):
        yield Heading("Table against reconstructions")
        yield Paragraph(_what_reconstructions_are())
        own = {m: row for m, row in table.items() if any("own_psnr" in cell for cell in row.values())}
        yield _main_table(own, columns, _head(evaluation), evaluation.judges, OWN)
    for other in others:
        yield from _published_table(other, evaluation.emotions)
    yield Heading("All figures with intervals")
    for text in _what_figures_are(floor, evaluation.judges):
        yield Paragraph(text)
    for emotion in columns:
        yield Heading("All emotions" if emotion == ALL else emotion.capitalize(), 3)
        yield from _detailed(table, emotion, evaluation.judges)
    for grouping in by:
        yield from _by_groups(grouping, parts, columns, evaluation)
    if sets:
        yield Heading("Sets of pictures")
        names = ("fid", "kid")
        rows = [[m, *(x if isinstance(x := row[n], str) else f"{x:.4f}" for n in names)] for m, row in sets.items()]
        yield Grid(["method against all sources", "FID ↓", "KID ↓"], rows)
    yield Heading("What the judge saw")
    yield Paragraph(f"Rows: the emotion asked for; columns: what {evaluation.judges['emotion']} saw, in pictures.")
    for method in evaluation.methods:
        yield Heading(method, 3)
        yield _confusion(evaluation.records, method, evaluation.judged)
    yield Heading("Identity and expression")
    yield from _plots(evaluation, [m for m in evaluation.methods if is_method(m)], out)
    yield from _tradeoff(evaluation, table, columns[-1], out)
    yield Heading("Time")
    yield _times(evaluation.records, evaluation.methods)
    yield Heading("What could not be scored, and what to know of the rest")
    yield from _failures(evaluation.records)


def _published_table(other: Published, emotions: Sequence[str]) -> Iterator[Block]:
    """What a source says of the run's emotions, or of all of its own together."""
    columns = [e for e in (*emotions, ALL) if any(e in row for row in other.table.values())]
    if columns:
        yield Heading(f"Other work: {other.mark}")
        yield Paragraph(f"Not measured here, and on other photos. Source: {other.source}. {other.setting}.")
        head = f"method\n({other.mark};\nemotions: {other.judges['emotion']};\nCSIM: {other.judges['identity']})"
        yield _main_table(other.table, columns, head, other.judges, COLUMNS | PUBLISHED_ONLY)


def _head(evaluation: Evaluation) -> str:
    judges = evaluation.judges
    return f"method\n(emotions: {judges['emotion']};\nbeside it: {judges['second']};\nCSIM: {judges['identity']})"


def _who_judged(evaluation: Evaluation) -> str:
    judges = evaluation.judges
    return (
        f"Emotions judged by {judges['emotion']}, identity (CSIM) by {judges['identity']}, codes read by the encoder "
        f"of {judges['codes']}, distance by {judges['lpips']}. Judges are not people: hold every accuracy against the "
        f"rows of real photos ('{REAL}', where there are any) and of the sources ('{UNEDITED}'), and against the "
        f"accuracy by {judges['second']}; judges agree on the pictures, of those with a face, on which both name the "
        "same emotion."
    )


def _how_many(evaluation: Evaluation) -> str:
    scored = lambda method: sum(r["method"] == method and not r["failure"] for r in evaluation.records)
    asked = lambda method: sum(r["method"] == method for r in evaluation.records)
    parts = [f"{m}: {scored(m)} of {asked(m)}" for m in evaluation.methods]
    return f"Pictures scored: {'; '.join(parts)}."


def _what_reconstructions_are() -> str:
    return (
        "PSNR, SSIM and LPIPS of this table compare two pictures that the pipeline's network draws, at their own size: "
        "of the edit, and of the face as it is. What the network loses of every photo does not count. Papers on latent "
        "diffusion report such figures; hold them against theirs alone. Accuracy and CSIM are those of the photos."
    )


def _what_figures_are(floor: float | None, judges: Mapping[str, str]) -> Iterator[str]:
    yield (
        f"Means with 95 % percentile intervals of {RESAMPLES} bootstrap resamples of the photos. PSNR, SSIM and LPIPS "
        f"compare source and edited picture at the smaller of their sizes, at most {LONGEST} px on the longer side; "
        f"'face' figures compare the aligned crop of the face at {CROP} px. An edited picture without a face is a "
        "miss: accuracy, target probability and CSIM count 0."
    )
    yield (
        f"Defined as by FFE-Bench (arXiv:2603.25728), judged by {judges['emotion']}: HES is, for each picture, the "
        f"harmonic mean of target probability and CSIM ({judges['identity']}; below 0 it counts 0), so that neither "
        "makes up for the other. "
        "mSCR is, of the pictures asked for fear, surprise, anger or disgust, the share named as the other of the pair "
        "(fear and surprise, anger and disgust). CLS is, for each photo, Pearson's correlation of the edit's strength "
        f"and target probability (0 where that never changes), over {LEAST_STRENGTHS} strengths or more."
    )
    same = f": real photos of one person differ by {floor:.3f} (median)" if floor is not None else ""
    yield (
        f"Codes are read by {CODES}, whose own edits are made of such codes: compare methods by the judges first. "
        "Expression change is the distance of the two expression codes, expression gain its share of what that "
        "pipeline would have asked for. Shape drift is the change of the shape code, in units of its spread between "
        f"the sources{same}. Landmark error is how badly the head fits the edited face. Background is what is farther "
        "from the face than half its size."
    )


def _main_table(
    table: Table, columns: Sequence[str], head: str, judges: Mapping[str, str], figures: Mapping[str, Column] = MAIN
) -> Grid:
    """Method x emotion, in a cell those of the figures that any method has; method x figure where only ALL is known."""
    shown = [f for f in figures if any(f in cell for row in table.values() for cell in row.values())]
    titles = [figures[f].named(judges) for f in shown]
    rows = {m: [[_mean(row.get(e, {}).get(f), figures[f]) for f in shown] for e in columns] for m, row in table.items()}
    if list(columns) == [ALL]:
        return Grid([head, *titles], [[method, *cells[0]] for method, cells in rows.items()])
    lines = [[method, "\n".join(titles), *("\n".join(cell) for cell in cells)] for method, cells in rows.items()]
    return Grid([head, "", *columns], lines)


def _mean(estimate: Estimate | None, column: Column) -> str:
    return _NOTHING if estimate is None else f"{estimate.mean:.{column.decimals}f}"


def _detailed(table: Table, emotion: str, judges: Mapping[str, str]) -> Iterator[Grid]:
    """Methods x figures that any of them has, with intervals: the main figures, then all others."""
    cells = {method: row[emotion] for method, row in table.items() if row.get(emotion)}
    for columns in (MAIN, EXTRA):
        shown = [f for f in columns if any(f in cell for cell in cells.values())]
        rows = []
        for method, cell in cells.items():
            count = max(estimate.count for estimate in cell.values())
            rows.append([method, str(count), *(_interval(cell.get(f), columns[f]) for f in shown)])
        if shown:
            yield Grid(["method", "pictures", *(columns[f].named(judges) for f in shown)], rows)


def _by_groups(grouping: Grouping, parts: Split, columns: Sequence[str], evaluation: Evaluation) -> Iterator[Block]:
    """Every figure of every group, in a table for each emotion."""
    groups = parts[grouping.name]
    yield Heading(f"By {grouping.name}")
    left_out = f" Of no group: {len(grouping.left_out)} photos." if grouping.left_out else ""
    yield Paragraph(
        f"{grouping.about}{left_out} Intervals are of photos within a group; those of groups with fewer than {FEW} "
        "photos ('few') are too narrow. Where all pictures of a group agree, an interval has no width: of n photos "
        "that all succeed, a true rate of 1 - 3/n is still possible. Judges have biases of their own: hold a "
        f"difference against the rows '{UNEDITED}' and '{REAL}', where there are any."
    )
    for emotion in columns:
        yield Heading(f"By {grouping.name}: {'all emotions' if emotion == ALL else emotion}", 3)
        yield from _detailed(emotion_rows(groups, emotion, evaluation.methods), emotion, evaluation.judges)


def _interval(estimate: Estimate | None, column: Column) -> str:
    if estimate is None or estimate.low is None:
        return _mean(estimate, column)
    low, high = (f"{x:.{column.decimals}f}" for x in (estimate.low, estimate.high))
    return f"{_mean(estimate, column)}\n[{low}, {high}]"


def _confusion(records: Sequence[Record], method: str, judged: Sequence[str]) -> Grid:
    matrix = confusion(records, method, judged)
    rows = [[emotion, *(str(row[name] or _NOTHING) for name in (*judged, NO_FACE))] for emotion, row in matrix.items()]
    return Grid(["asked for", *judged, NO_FACE], rows)


def _plots(evaluation: Evaluation, methods: Sequence[str], out: Path) -> Iterator[Block]:
    """Files first, then where the document shows them."""
    judge = evaluation.judges["emotion"]
    panels = [m for m in evaluation.methods if m != UNEDITED]
    plot = scatter(evaluation.records, panels, evaluation.emotions, judge)
    caption = f"Identity against expression, a panel for each method. Judges: {judge}; {evaluation.judges['identity']}."
    yield Picture(save_photo(plot, out / "identity-expression.png"), caption)
    for method in methods:
        sheet = range_sheet([r for r in evaluation.records if r["method"] == method], evaluation.emotions)
        if sheet is not None:
            file = save_photo(sheet, out / f"sheet-{method}.png")
            how = f"target probability x CSIM ({judge}; by CSIM alone where it does not know the emotion)"
            yield Picture(file, f"{method}: best, median and worst by {how}, each beside its source.")


def _tradeoff(evaluation: Evaluation, table: Table, column: str, out: Path) -> Iterator[Picture]:
    """Where there are several rows, their accuracy and identity; one pipeline's points of a grid as a line."""
    series: dict[str, dict[str, tuple[Estimate, Estimate]]] = {}
    for method in filter(is_method, evaluation.methods):
        cell, made = table[method].get(column, {}), evaluation.edited.get(method)
        if "accuracy" in cell and "csim" in cell:
            name, text = _series_of(method, made.get("point", {}) if isinstance(made, dict) else {})
            series.setdefault(name, {})[text] = cell["accuracy"], cell["csim"]
    if sum(map(len, series.values())) > 1:
        judges = evaluation.judges
        file = save_photo(tradeoff(series, judges["emotion"]), out / "identity-accuracy.png")
        which = "all emotions" if column == ALL else column
        caption = f"Identity against accuracy, {which}: means with intervals. Judges: {judges['emotion']}; "
        yield Picture(file, f"{caption}{judges['identity']}.")


def _series_of(method: str, point: Mapping[str, float]) -> tuple[str, str]:
    """The line that a row is a point of, along the last argument of its grid, and what is written at the point."""
    if not point:
        return method, ""
    *others, last = point
    line = row_label(method.removesuffix(row_label("", point)), {name: point[name] for name in others})
    return f"{line}, {last}", f"{point[last]:g}"


def _times(records: Sequence[Record], methods: Sequence[str]) -> Grid:
    """Mean seconds of each stage, of the pictures that needed it; a source is read once, for the first that does."""
    times = {m: [r["seconds"] for r in records if r["method"] == m and not r["failure"]] for m in methods}
    stages = list(dict.fromkeys(stage for many in times.values() for one in many for stage in one))
    known = {m: [[one[stage] for one in many if stage in one] for stage in stages] for m, many in times.items()}
    rows = [[m, *(f"{np.mean(one):.3f}" if one else _NOTHING for one in stage)] for m, stage in known.items()]
    return Grid(["seconds a picture", *stages], rows)


def _failures(records: Sequence[Record]) -> Iterator[Block]:
    """Failures and notes, those of one kind on one line."""
    for title, role in (("Not scored, and in no figure", "failure"), ("Scored, with a note", "note")):
        lines = _by_kind(records, role)
        if lines:
            yield Heading(title, 3)
            yield Grid(["method", "pictures", "which", "what"], lines)
    if not any(r.get("failure") or r.get("note") for r in records):
        yield Paragraph("Everything was scored, and at its own size.")


def _by_kind(records: Sequence[Record], role: str) -> list[list[str]]:
    kinds: dict[tuple[str, str], dict[str, list[str]]] = {}
    for record in records:
        if record.get(role):
            names = kinds.setdefault((record["method"], record[role]), {})
            names.setdefault(record["name"], []).append(record["emotion"])
    lines = []
    for (method, what), names in kinds.items():
        listed = [f"{name} ({', '.join(emotions)})" for name, emotions in list(names.items())[:_LISTED]]
        more = [f"and {len(names) - _LISTED} more in scores.json"] if len(names) > _LISTED else []
        lines.append([method, str(sum(map(len, names.values()))), ", ".join(listed + more), what])
    return lines
