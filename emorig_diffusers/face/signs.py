"""Expressions that a face's fitted units show, and what is taken back of them to relax it.

A fit tells an acted expression by few of its units, and explains the rest of what the face does by shape, by what it
leaves over and by units that people differ in. So each kind of expression has its sign: units that tell it from
ordinary faces, and the units that are taken back in proportion, as much as the expression moves faces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..photo.masks import ramp


@dataclass(frozen=True)
class Sign:
    """How an expression is told, and what it moves; units without side are those of both sides.

    Attributes:
        reads: Unit -> weight in the evidence, of the mean of both sides.
        limit: Evidence from which the expression is taken back.
        slope: Share of it that is taken back for each further unit of evidence, 1 at most in all.
        takes: Unit -> amount of the whole expression.
    """

    reads: Mapping[str, float]
    limit: float
    slope: float
    takes: Mapping[str, float]


SIGNS: Mapping[str, Sign] = {
    "frown": Sign({"browDown": 1.0, "mouthSmile": -1.0, "mouthFrown": 0.55}, 0.54, 9.0,
                  {"browDown": 0.85, "eyeSquint": 0.2}),
    "raised brows": Sign({"browOuterUp": 1.0, "mouthPucker": 1.0}, 0.1, 5.0,
                         {"browInnerUp": 0.55, "browOuterUp": 0.8, "eyeWide": 0.8}),
    "sorrow": Sign({"browInnerUp": 0.8, "browOuterUp": -0.35, "mouthShrugLower": 0.6, "mouthFrown": 1.0}, 0.0, 5.0,
                   {"browInnerUp": 0.8, "browDown": 0.5, "mouthFrown": 0.8, "mouthShrugLower": 0.5}),
    "disgust": Sign({"mouthUpperUp": 1.0, "mouthSmile": -1.0}, -0.08, 4.0,
                    {"noseSneer": 0.85, "mouthUpperUp": 0.8, "mouthLowerDown": 0.3, "mouthShrugLower": 0.5,
                     "mouthFrown": 0.4, "cheekSquint": 0.4}),
}  # fmt: skip
"""Weights are linear discriminants, rounded, of the acted expressions of five people against 892 ordinary photos, of
which 9, 3, 1 and 2 % pass a limit, and 6, 2, 0.6 and 0.1 % with a share over 0.5; what is taken back is about the
recipes' (`emotions.RECIPES`), of frowns a little less, as heavy brows that were always low are mistaken for them."""
DOUBT = 1.0
"""Share of a sign by which an expression has to be plainer where an emotion asks for all that would be taken back: a
wrong sign only relaxes a calm face, but would undo that emotion's edit. Of 51 calm faces seven pass a limit, five of
them by less than a share of 1; acted anger and sadness, where they are told, by 0.9 to 3."""
SMILE = {"mouthSmile": 0.5, "mouthDimple": 0.18, "mouthPress": 0.16, "mouthStretch": 0.04,
         "cheekSquint": 0.65, "eyeSquint": 0.23}  # fmt: skip
"""Units, without side, that move landmarks as the median toothy smile of 27 people does, lips' opening apart."""
SMILE_SHOWN = 0.16, 0.25  # fitted mouthSmile above which a face is told to smile, and how much more is such a smile
SMILE_ASKED = 0.0, 0.15  # mouthSmile of a change up to which the lips of a smile go with it, and from which they stay
TRACE = 0.03, 0.15  # of a unit that a change asks for, up to which none of a smile is kept for it, and from which all
BROADEST = 1.3  # such smiles that are taken back at most
UNEVEN = 0.1  # mouthSmile by which the fits of calm faces' two sides differ


@dataclass(frozen=True)
class Likeness:
    """How a face is told to show an emotion in full already.

    Attributes:
        reads: Unit -> weight, of the mean of both sides.
        ordinary: What they add up to on ordinary faces; one more is what the emotion's recipe makes of them.
        range: Likeness from which an edit changes less of the face, and from which it changes nothing.
        apart: Of that, what counts for units that do not move the lips.
    """

    reads: Mapping[str, float]
    ordinary: float
    range: tuple[float, float]
    apart: float = 1.0


LIKENESSES: Mapping[str, Likeness] = {
    "happy": Likeness({"mouthSmile": 1.6, "mouthUpperUp": 0.9}, 0.14, (0.58, 0.74), 0.6),
    "surprise": Likeness({"jawOpen": 1.85, "mouthShrugUpper": 0.7, "mouthRollUpper": -0.5, "mouthRollLower": -0.75,
                          "mouthStretch": -0.5}, -0.07, (0.5, 0.7)),
    "fear": Likeness({"mouthLowerDown": 1.3, "mouthRollUpper": -0.95, "cheekPuff": -2.35, "mouthDimple": -2.0,
                      "cheekSquint": -1.1}, -0.11, (0.6, 0.8)),
    "disgust": Likeness({"mouthFrown": -1.1, "mouthUpperUp": 1.45, "mouthSmile": -1.6, "mouthPucker": 1.0,
                         "browOuterUp": -0.5}, -0.21, (0.5, 0.7)),
}  # fmt: skip
"""Weights are linear discriminants, rounded, of edits of 25 London neutrals, fitted again, against 892 ordinary
photos: of these 2, 4 and 2 % pass the lower limit of surprise, fear and disgust, of the edits 96 to 100 %. A smile is
told by the two units that its recipe moves most: 23 % of the photos smile so, all edits do. Fits tell sad and angry
edits too badly. Of a smile the lips stay and the eyes may still join in."""
LIP_UNITS = ("mouth", "jaw")


def shown_already(emotion: str, expression: Tensor, names: Sequence[str], level: float = 1.0) -> Tensor:
    """Share [E] of every unit that an edit keeps, because a fitted ψ [1, E] shows the emotion asked for: put on its own
    result, an emotion would add up, as fits read only part of it.

    Args:
        level: How much of the emotion is asked for, 1 or more.
    """
    if emotion not in LIKENESSES:
        return torch.zeros(len(names))
    told = LIKENESSES[emotion]
    likeness = _evidence(told.reads, expression, names) - told.ordinary
    share = float(ramp(max(likeness, 0.0) / level, *told.range))
    return torch.tensor([share * (1.0 if name.startswith(LIP_UNITS) else told.apart) for name in names])


def _evidence(reads: Mapping[str, float], expression: Tensor, names: Sequence[str]) -> float:
    """Weighted sum of units of ψ [1, E], -inf where one of them has no name."""
    places = {unit: _sides(unit, names) for unit in reads}
    if not all(places.values()):
        return -np.inf
    return float(sum(weight * expression[0, places[unit]].mean().item() for unit, weight in reads.items()))


def shown_signs(expression: Tensor, names: Sequence[str], asked: Tensor | None = None) -> dict[str, float]:
    """How much of every expression of SIGNS a fitted ψ [1, E] shows, in [0, 1]; 0 where units have no names.

    Args:
        asked: Change [1, E] that the relaxed face is to get; what it asks for has to be shown more surely.
    """
    evidence = {kind: _evidence(sign.reads, expression, names) for kind, sign in SIGNS.items()}
    doubt = {kind: 0.0 if asked is None else DOUBT * _asks_for(sign, asked, names) for kind, sign in SIGNS.items()}
    share = lambda kind, sign: sign.slope * (evidence[kind] - sign.limit) - doubt[kind]
    return {kind: float(np.clip(share(kind, sign), 0, 1)) for kind, sign in SIGNS.items()}


def _asks_for(sign: Sign, asked: Tensor, names: Sequence[str]) -> float:
    """Share of what a sign takes back that a change [1, E] would bring again, in [0, 1]; 0 without names."""
    places = {unit: _sides(unit, names) for unit in sign.takes}
    if not all(places.values()):
        return 0.0
    again = (asked[0, places[unit]].mean().clamp(0, amount).item() for unit, amount in sign.takes.items())
    return sum(again) / sum(sign.takes.values())


def without_signs(expression: Tensor, shown: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """ψ [1, E] less the expressions of SIGNS by how much of them is shown; of a unit that several share, the most that
    one of them takes."""
    expression, taken = expression.clone(), {}
    for kind, share in shown.items():
        for unit, amount in SIGNS[kind].takes.items():
            taken[unit] = max(taken.get(unit, 0.0), share * amount)
    for unit, amount in taken.items():
        expression[:, _sides(unit, names)] -= amount
    return expression


def shown_smile(expression: Tensor, names: Sequence[str]) -> dict[str, float]:
    """How much of a usual toothy smile, up to BROADEST, the "Left" and the "Right" side of a fitted ψ [1, E] show."""
    if not {"mouthSmileLeft", "mouthSmileRight"} <= set(names):
        return {}
    left, right = (expression[0, names.index("mouthSmile" + side)].item() for side in ("Left", "Right"))
    apart = np.sign(left - right) * max(abs(left - right) - UNEVEN, 0)
    sides = {"Left": (left + right + apart) / 2, "Right": (left + right - apart) / 2}
    return {side: float(np.clip((v - SMILE_SHOWN[0]) / SMILE_SHOWN[1], 0, BROADEST)) for side, v in sides.items()}


def gone_with_smile(expression: Tensor, asked: Tensor, names: Sequence[str]) -> Tensor:
    """Share [E] of what a smile does to each unit of the lips that goes with it: a mouth that a grin has opened stays
    open for a change [1, E] that smiles, too, or opens it as well, but is no part of disgust.

    Args:
        expression: Fitted ψ [1, E].
    """
    shown = shown_smile(expression, names)
    smile = max((asked[0, names.index("mouthSmile" + side)].item() for side in shown), default=0.0)
    share = (1 - float(ramp(smile, *SMILE_ASKED))) * min(max(shown.values(), default=0.0), 1.0)
    trace = 1 - ramp(asked[0].abs().numpy(), *TRACE)
    return torch.tensor([share * float(trace[i]) * name.startswith(LIP_UNITS) for i, name in enumerate(names)])


def without_smile(expression: Tensor, shown: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """ψ [1, E] less the smile of each side."""
    expression = expression.clone()
    for side, share in shown.items():
        for unit, amount in SMILE.items():
            if unit + side in names:
                expression[:, names.index(unit + side)] -= amount * share
    return expression


def _sides(unit: str, names: Sequence[str]) -> list[int]:
    """Places of a unit, or of its left and its right one."""
    return [i for i, name in enumerate(names) if name in (unit, unit + "Left", unit + "Right")]
