"""The eight AffectNet emotions as action units, and action units as expression codes of a head with named units.

Recipes follow EMFACS (Friesen & Ekman 1983) and were tuned by looking at edits of photos. They are relative to the
person's own relaxed face. A checkpoint may carry its own recipes (`EmoRigPipeline.config.emotions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..photo.masks import ramp

EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's names in AffectNet's order (0-7)."""

MAX_INTENSITY = 1.5
MAX_AMOUNT = 2.0  # of one action unit, either way

PARTING_UNITS = ("jawOpen", "mouthUpperUp", "mouthLowerDown")
PARTING = 0.45, 0.75  # intensities of a smile at which its lips begin to part, and have parted as far as they would

ACTION_UNITS: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.0},
    "AU2": {"browOuterUp": 1.0},
    "AU4": {"browDown": 1.0},
    "AU5": {"eyeWide": 1.0},
    "AU6": {"cheekSquint": 1.0, "eyeSquint": 0.35},
    "AU7": {"eyeSquint": 1.0},
    "AU9": {"noseSneer": 1.0},
    "AU10": {"mouthUpperUp": 1.0},
    "AU12": {"mouthSmile": 0.6, "mouthDimple": 0.25},
    "AU14": {"mouthDimple": 1.0, "mouthPress": 0.3},
    "AU15": {"mouthFrown": 1.0},
    "AU16": {"mouthLowerDown": 1.0},
    "AU17": {"mouthShrugLower": 1.0},
    "AU18": {"mouthPucker": 0.5, "mouthRollUpper": 0.4, "mouthClose": 0.08},  # lips that stay shut
    "AU20": {"mouthStretch": 1.0},
    "AU23": {"mouthPress": 0.6, "mouthRollLower": 0.3, "mouthRollUpper": 0.3},
    "AU24": {"mouthPress": 1.0},
    "AU25": {"mouthLowerDown": 0.35, "mouthUpperUp": 0.2},
    "AU26": {"jawOpen": 0.5},
    "AU27": {"jawOpen": 1.0},
    "AU43": {"eyeBlink": 1.0},
    # eyes turn left, right, up and down, by the angles of `gaze.UNIT_DEGREES`; the upper lid goes along
    "AU61": {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0},
    "AU62": {"eyeLookOutRight": 1.0, "eyeLookInLeft": 1.0},
    "AU63": {"eyeLookUp": 0.6, "eyeBlink": -0.1},
    "AU64": {"eyeLookDown": 1.0},
}
"""FACS action unit -> expression units of the open head at intensity 1; a name without side moves both sides."""

RECIPES: dict[str, dict[str, float]] = {
    "neutral": {},
    # Moves landmarks about as the median toothy smile of 27 people does (London set), the mouth's width 1.1 times as
    # much. Codes fitted to those smiles say less: units that undo each other (jawOpen, mouthShrugLower) fit landmarks
    # as well. A trace of mouthClose the other way: what the photo shows of it, a laugh's open mouth, is kept.
    "happy": {"AU6": 0.65, "mouthSmile": 0.5, "mouthDimple": 0.18, "mouthPress": 0.16, "mouthStretch": 0.04,
              "mouthUpperUp": 0.5, "mouthLowerDown": 0.5, "jawOpen": 0.14, "mouthClose": -0.001},
    # The units move and shade as the median person of train/fit_expressions.py does, so that amounts only say which
    # of them share an emotion; how far the jaw drops is people's.
    "sad": {"AU1": 0.85, "AU4": 0.55, "AU15": 0.65, "AU17": 0.45, "AU43": 0.12, "AU7": 0.1},
    "surprise": {"AU1": 0.55, "AU2": 0.8, "AU5": 0.8, "AU27": 0.58, "mouthPucker": 0.35},
    # unlike surprise: brows drawn together, teeth bared behind stretched lips; by `training.expressions.units.MORE`, of
    # the two people whose fear a judge names, but brows are raised more, lips stretched and jaws dropped less, as all
    # five people do
    "fear": {"AU1": 0.88, "AU2": 0.2, "AU4": 0.48, "AU5": 0.85, "AU43": -0.12, "AU20": 0.52, "AU16": 0.42, "AU26": 0.22,
             "mouthPucker": 0.08, "mouthRollUpper": 0.03},
    # unlike anger: nose and upper lip up, teeth bared; brows lowered less, cheeks and chin raised more, jaw higher and
    # lids lower than the median person's (`training.expressions.units.MORE`), as that is what tells it from anger
    "disgust": {"AU9": 0.8, "AU10": 0.8, "AU4": 0.2, "AU7": 0.3, "AU17": 0.8, "AU15": 0.8, "AU6": 0.7, "AU16": 0.3,
                "AU26": 0.05, "AU43": 0.08},
    # brows a sixth lower than units were fitted with: landmarks that photos were aligned by go down with them
    "anger": {"AU4": 1.05, "AU9": 0.3, "AU7": 0.5, "AU5": 0.1, "AU23": 0.25, "AU24": 0.3, "AU15": 0.3, "AU17": 0.4},
    # one corner is raised by what four people raise theirs, the lips stay shut
    "contempt": {"mouthSmileRight": 0.46, "mouthDimpleRight": 0.18, "R10": 0.08, "R6": 0.25, "AU7": 0.3, "AU24": 0.2,
                 "mouthClose": 0.025},
}
"""Emotion -> amounts of action units, or of expression units, at intensity 1; `R12` is AU12 on the person's right
side only."""


def check_emotion(name: str, known: Mapping[str, object] = RECIPES) -> None:
    """Raise ValueError naming the emotions if `name` is not one."""
    if name not in known:
        raise ValueError(f"Unknown emotion {name!r}: choose one of {', '.join(known)}.")


def in_order(emotions: Mapping[str, Any]) -> dict[str, Any]:
    """Entries by emotion in AffectNet's order, others after them: saved JSON is sorted by letters."""
    return {name: emotions[name] for name in (*EMOTIONS, *emotions) if name in emotions}


def check_amount(what: str, value: float, limit: float = MAX_INTENSITY) -> float:
    """A finite number in [0, limit], else ValueError."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= limit:
        raise ValueError(f"{what} must be a number from 0 to {limit:g}, got {value!r}.")
    return float(value)


def emotion_offset(
    emotion: str | Mapping[str, float], names: tuple[str, ...], recipes: Mapping[str, Mapping[str, float]] = RECIPES
) -> Tensor:
    """Expression [E] to add to a relaxed face for an emotion or a blend such as `{"happy": .6, "surprise": .4}`.

    Raises:
        ValueError: For an unknown emotion, or a share outside [0, 1.5].
    """
    total = torch.zeros(len(names))
    for name, share in blend_shares(emotion, recipes).items():
        total += share * action_unit_offset(recipes[name], names)
    return total


def blend_shares(emotion: str | Mapping[str, float], known: Mapping[str, object] = RECIPES) -> dict[str, float]:
    """Shares of an emotion (1) or of a blend by name, in one order, as sums depend on it.

    Raises:
        ValueError: For what is neither, none or an unknown emotion, or a share or sum of shares outside [0, 1.5].
    """
    if not isinstance(emotion, (str, Mapping)):
        raise ValueError(f"An emotion is a name or a blend such as {{'happy': 0.6, 'surprise': 0.4}}, got {emotion!r}.")
    blend = {emotion: 1.0} if isinstance(emotion, str) else emotion
    if not blend:
        raise ValueError("The blend is empty: give at least one emotion with its share.")
    for name, share in blend.items():
        check_emotion(name, known)
        check_amount(f"The share of {name}", share)
    total = sum(blend.values())
    if total > MAX_INTENSITY + 1e-6:
        raise ValueError(f"The shares of a blend add up to {total:g}: give shares of {MAX_INTENSITY:g} at most in all.")
    return dict(sorted(blend.items()))


def action_unit_offset(amounts: Mapping[str, float], names: tuple[str, ...]) -> Tensor:
    """Expression [E] of action units (`AU12`, or `L12`, `R12` for one side) or single expression units (`jawOpen`).

    Raises:
        ValueError: For an unknown unit, a number that is not finite, or a head without named units.
    """
    if not isinstance(amounts, Mapping):
        raise ValueError(f"Action units are given as {{'AU12': 0.5}}, got {amounts!r}.")
    if not names:
        raise ValueError("This head's expression code has no named units: give a reference photo or codes instead.")
    total = torch.zeros(len(names))
    for unit, amount in sorted(amounts.items()):  # saved recipes are sorted, and sums depend on the order
        if not isinstance(amount, Real) or not abs(amount) <= MAX_AMOUNT:
            limits = f"from -{MAX_AMOUNT:g} to {MAX_AMOUNT:g}"
            raise ValueError(f"The amount of {unit} must be a number {limits}, got {amount!r}.")
        for name, share in expand_unit(unit, names).items():
            total[names.index(name)] += amount * share
    return total


def shown_amounts(units: Sequence[str], expression: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """How much of each action unit an expression [E] shows: the amount that alone comes nearest to its parts."""
    parts = {unit: action_unit_offset({unit: 1.0}, names) for unit in units}
    return {unit: float(part @ expression / (part @ part).clamp(min=1e-6)) for unit, part in parts.items()}


def expand_unit(unit: str, names: tuple[str, ...]) -> dict[str, float]:
    """Named expression units with their amounts for one action unit; a name without its side moves both."""
    if unit in names:
        return {unit: 1.0}
    if unit + "Left" in names and unit + "Right" in names and unit not in ("jaw", "mouth"):  # those shift aside
        return {unit + "Left": 1.0, unit + "Right": 1.0}
    sides = {"AU": ("", "Left", "Right"), "L": ("", "Left"), "R": ("", "Right")}
    prefix = unit.rstrip("0123456789")
    parts = ACTION_UNITS.get("AU" + unit.removeprefix(prefix)) if prefix in sides else None
    if parts is None:
        raise ValueError(
            f"Unknown action unit {unit!r}: use one of {', '.join(ACTION_UNITS)} (L12 or R12 for one side) "
            "or an expression unit such as jawOpen."
        )
    others = {"AU": (), "L": ("Right",), "R": ("Left",)}[prefix]
    return {
        p + s: share for p, share in parts.items() for s in sides[prefix]
        if p + s in names and not (p + s).endswith(others)
    }  # fmt: skip


def mirrored_units(names: Sequence[str]) -> list[int]:
    """Index of every unit's twin on the other side of the face; a unit without one is its own."""
    swap = {"Left": "Right", "Right": "Left"}
    twins = [next((n.removesuffix(a) + b for a, b in swap.items() if n.endswith(a)), n) for n in names]
    return [names.index(twin) if twin in names else i for i, twin in enumerate(twins)]


def delay_lip_parting(offset: Tensor, names: tuple[str, ...], intensity: float) -> Tensor:
    """A smile's offset [E] with lips that part late, so that a faint smile is one of closed lips and not a slit; the
    offset of another emotion as it is."""
    smile, jaw = (sum(offset[i] for i, n in enumerate(names) if n.startswith(u)) for u in ("mouthSmile", "jawOpen"))
    if not smile > max(jaw, 0):  # a surprise that smiles a little opens its mouth all the same
        return offset
    share = float(ramp(intensity, *PARTING))
    late = torch.tensor([share if name.startswith(PARTING_UNITS) else 1.0 for name in names])
    return torch.where(offset > 0, offset * late, offset)


def blend_expression(
    source: Tensor, relaxed: Tensor, offset: Tensor, intensity: float, gone: Tensor | None = None
) -> Tensor:
    """Expression [B, E] at an intensity: 0 is the photo's own, 1 the emotion on the relaxed face, more exaggerates.

    Where the photo already shows more of a unit than the emotion asks for, it keeps it: a grin stays when the person
    is to look happy.

    Args:
        source, relaxed: What the photo shows, and the same person at rest [B, E].
        offset: The emotion [E] or [B, E].
        gone: Shares [E] of what is shown beyond it that are not kept, because they belong to another expression.
    """
    shown, asked = source - relaxed, (max(intensity, 1.0) * offset).expand_as(source)
    keeps = (shown * asked > 0) & (shown.abs() > asked.abs())
    kept = shown if gone is None else torch.lerp(shown, asked, gone.to(shown))
    return torch.lerp(source, relaxed + torch.where(keeps, kept, asked), min(intensity, 1.0))
