"""What a study found, as figures (JSON) and as text (Markdown).

Counted are the answers of participants who finished and passed the attention checks; whoever stops in between is not
used, as the consent text says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .plan import ASKED, EMOTIONS, NAMED, SIDES, Question
from .statistics import PRIOR, RESAMPLES, bootstrap_strengths, bradley_terry, krippendorff_alpha, wilson_interval
from .store import Answer, Participant, Store

MIN_PASSED = 0.75  # share of attention checks
RULE = (
    f"Counted are the participants who finished and answered at least {MIN_PASSED:.0%} of the attention checks right; "
    "the checks themselves are not counted."
)
_METHOD = (
    f"Score: Bradley-Terry log-strength, sum 0, with {PRIOR:g} wins added to every pair in both directions (so that a "
    "method that always wins has a finite score); the first is preferred to the second with probability "
    f"1 / (1 + exp(second - first)). Interval: 95 %, percentiles of {RESAMPLES} bootstrap samples of participants; too "
    "narrow below about ten."
)
_WILSON = "Intervals: 95 %, Wilson, as if all answers were independent. The rate of guessing is 1/9 = 11 %."


def summarise(store: Store) -> dict[str, Any]:
    """All figures of a study; what cannot be computed from what is there is None."""
    settings, people = store.settings(), store.participants()
    finished = [person for person in people if person.asked == len(person.answers)]
    counted = [person for person in finished if passed(person)]
    answers = [[answer for answer in person.answers if answer.question.check is None] for person in counted]
    methods = tuple(settings["edited"])
    kinds = [kind for kind in ASKED if any(a.question.kind == kind for mine in answers for a in mine)]
    return {
        "participants": {
            "agreed": len(people),
            "finished": len(finished),
            "excluded": len(finished) - len(counted),
            "counted": len(counted),
            "rule": RULE,
        },
        "comparisons": {kind: _comparison(_only(answers, kind), methods) for kind in kinds if kind != "emotion"},
        "identification": _identification(_only(answers, "emotion"), methods) if "emotion" in kinds else None,
        "seconds": {kind: _times(_only(answers, kind)) for kind in kinds},
        "left_out": settings["left_out"],
    }


def passed(person: Participant) -> bool:
    """Whether enough of a participant's attention checks were answered right."""
    right = [answer.answer == answer.question.check for answer in person.answers if answer.question.check is not None]
    return sum(right) >= MIN_PASSED * len(right)


def preferred(answer: Answer) -> tuple[str, str]:
    """The method that was chosen in a comparison, and the other one."""
    left, right = answer.question.methods
    return (left, right) if answer.answer == SIDES[0] else (right, left)


def _only(answers: Sequence[Sequence[Answer]], kind: str) -> list[list[Answer]]:
    return [[answer for answer in mine if answer.question.kind == kind] for mine in answers]


def _comparison(answers: Sequence[Sequence[Answer]], methods: tuple[str, ...]) -> dict[str, Any]:
    wins = np.zeros((len(answers), len(methods), len(methods)))
    for person, mine in enumerate(answers):
        for answer in mine:
            winner, loser = preferred(answer)
            wins[person, methods.index(winner), methods.index(loser)] += 1
    total = wins.sum(0)
    ends = bootstrap_strengths(wins)
    return {
        "answers": int(total.sum()),
        "scores": {
            method: {
                "score": float(score),
                "low": None if ends is None else float(ends[0][i]),
                "high": None if ends is None else float(ends[1][i]),
            }
            for i, (method, score) in enumerate(zip(methods, bradley_terry(total)))
        },
        "wins": {a: {b: int(total[i, j]) for j, b in enumerate(methods) if i != j} for i, a in enumerate(methods)},
        "alpha": _alpha((answer.question, preferred(answer)[0]) for answer in _flat(answers)),
    }


def _identification(answers: Sequence[Sequence[Answer]], methods: tuple[str, ...]) -> dict[str, Any]:
    counts = Counter((a.question.methods[0], a.question.emotion, a.answer) for a in _flat(answers))
    shown = [emotion for emotion in EMOTIONS if any(emotion == asked for _, asked, _ in counts)]
    confusion = {m: {e: {name: counts[m, e, name] for name in NAMED} for e in shown} for m in methods}
    return {
        "answers": counts.total(),
        "accuracy": {
            method: {e: _rate(row[e], sum(row.values())) for e, row in rows.items()}
            | {"all": _rate(sum(row[e] for e, row in rows.items()), sum(sum(row.values()) for row in rows.values()))}
            for method, rows in confusion.items()
        },
        "confusion": confusion,
        "alpha": _alpha((answer.question, answer.answer) for answer in _flat(answers)),
    }


def _rate(right: int, of: int) -> dict[str, Any]:
    low, high = wilson_interval(right, of)
    return {"right": right, "of": of, "rate": right / of if of else None, "low": low, "high": high}


def _times(answers: Sequence[Sequence[Answer]]) -> dict[str, float]:
    quartiles = np.percentile([answer.seconds for answer in _flat(answers)], (25, 50, 75))
    return dict(zip(("lower_quartile", "median", "upper_quartile"), quartiles.tolist()))


def _alpha(judged: Iterable[tuple[Question, str]]) -> float | None:
    """Agreement on the same pictures, whichever side they were on."""
    labels: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for question, label in judged:
        labels[question.photo, question.emotion, *sorted(question.methods)].append(label)
    return krippendorff_alpha(labels.values())


def _flat(answers: Sequence[Sequence[Answer]]) -> list[Answer]:
    return [answer for mine in answers for answer in mine]


def write_markdown(summary: dict[str, Any]) -> str:
    """The figures of `summarise` as a page of text and tables."""
    people = summary["participants"]
    lines = ["# User study", "", people["rule"], ""]
    lines += _table(["participants", ""], [[name, str(people[name])] for name in people if name != "rule"])
    for kind, figures in summary["comparisons"].items():
        lines += ["", f"## {ASKED[kind]}", "", *_comparison_lines(figures), "", _METHOD]
    if summary["identification"]:
        lines += ["", f"## {ASKED['emotion']}", "", *_identification_lines(summary["identification"])]
    if summary["seconds"]:
        lines += ["", "## Seconds for an answer", ""]
        names = ("lower_quartile", "median", "upper_quartile")
        rows = [[ASKED[kind], *(f"{times[name]:.1f}" for name in names)] for kind, times in summary["seconds"].items()]
        lines += _table(["question", "lower quartile", "median", "upper quartile"], rows)
    else:
        lines += ["", "No answers can be counted yet."]
    if summary["left_out"]:
        lines += ["", "## Pictures left out", "", *(f"- {line}" for line in summary["left_out"])]
    return "\n".join(lines) + "\n"


def _comparison_lines(figures: dict[str, Any]) -> list[str]:
    scores, wins = figures["scores"], figures["wins"]
    order = sorted(scores, key=lambda method: -scores[method]["score"])
    rows = []
    for method in order:
        own = scores[method]
        ends = "needs two participants" if own["low"] is None else f"{own['low']:+.2f} to {own['high']:+.2f}"
        rows.append([method, f"{own['score']:+.2f}", ends, *(str(wins[method].get(other, "")) for other in order)])
    header = ["method", "score", "interval", *(f"preferred to {method}" for method in order)]
    return [*_table(header, rows), "", f"{figures['answers']} answers; {_alpha_text(figures['alpha'])}"]


def _identification_lines(figures: dict[str, Any]) -> list[str]:
    accuracy = figures["accuracy"]
    columns = list(next(iter(accuracy.values())))
    rows = [[method, *(_rate_text(rates[column]) for column in columns)] for method, rates in accuracy.items()]
    lines = _table(["right", *columns], rows)
    lines += ["", f"{figures['answers']} answers; {_alpha_text(figures['alpha'])} {_WILSON}"]
    for method, shown in figures["confusion"].items():
        rows = [[emotion, *(str(count) for count in row.values())] for emotion, row in shown.items()]
        lines += ["", f"{method}: shown (rows), answered (columns)", "", *_table(["", *NAMED], rows)]
    return lines


def _rate_text(rate: dict[str, Any]) -> str:
    if not rate["of"]:
        return "-"
    return f"{rate['rate']:.0%} ({rate['low']:.0%} to {rate['high']:.0%}, {rate['right']}/{rate['of']})"


def _alpha_text(alpha: float | None) -> str:
    undefined = "not defined, as no picture was judged twice or all answers are the same"
    figure = undefined if alpha is None else f"{alpha:.2f}"
    return f"agreement between participants (Krippendorff's alpha, nominal): {figure}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
