"""A person's own relaxed face, lips that close, and lids that meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.head import HeadModel
from ..photo.landmarks import LID_PAIRS, LIP_PAIRS
from ..photo.masks import ramp
from .codes import FaceCodes
from .signs import shown_signs, shown_smile, without_signs, without_smile

CLOSING_UNITS = ("jawOpen", "mouthClose", "mouthUpperUp", "mouthLowerDown")
CLOSING_RIDGE = 0.002  # metres; keeps the least-squares closing of the lips tame
CLOSED_BELOW_JAW = 0.2  # mouthClose up to which lips close while the jaw stays; relaxed people have 0.1 to 0.22
CLOSING_STEPS = 3  # a wide mouth's lips meet in one place before they do in others
LIPS_TOUCH = 0.0003  # metres of opening at which lips count as closed
LIPS_CLOSED = 0.0009, 0.0014  # metres of opening that landmarks of closed lips show, and from which lips are parted
RANGE_MARGIN = 0.3  # of a relaxed range's width, by which a face without other expression may leave it unchanged
LID_UNITS = ("eyeBlink", "eyeWide", "eyeLook")  # units that raise or lower the upper lid


@torch.no_grad()
def relaxed_expression(
    head: HeadModel,
    codes: FaceCodes,
    limits: tuple[Tensor, Tensor],
    offsets: Tensor | None = None,
    asked: Tensor | None = None,
) -> Tensor:
    """A person's own relaxed face [1, E]: no smile, ψ within a range, no other expression that the face shows, then
    lips closed by the units that can.

    A fit tells an expression by few of its units (`signs.SIGNS`, `signs.SMILE`), so the whole of it is taken back in
    proportion. (From 26 people's toothy smiles the lips then go the whole way to the same people's neutral photos, in
    the median, by the range alone 58 %: `tests/benchmarks/smile_distance.py --back`.) Units that tell people apart
    rather than emotions (how lips roll, where the jaw sits) are kept by a wide range. Without named units no lips are
    closed, and a range of zero width, as for FLAME, gives expression zero.

    Args:
        head: The head the codes belong to.
        codes: Codes of one face [1, ...].
        limits: Lowest and highest value of every unit on relaxed faces [E], an encoder's `relaxed_range`.
        offsets: Vertex offsets [V, 2] that the fit left over, normalised device coordinates.
        asked: Change [1, E] that the relaxed face is to get, if it is known.
    """
    names = head.config.expression_names
    closing = [i for i, name in enumerate(names) if name.startswith(CLOSING_UNITS)]
    signs, smile = shown_signs(codes.expression, names, asked), shown_smile(codes.expression, names)
    expression = without_smile(codes.expression, smile, names)
    shown = lambda name: max([0.0, *signs.values(), *(v for side, v in smile.items() if name.endswith(side))])
    calm = torch.tensor([1 - min(shown(name), 1.0) for name in names]) if names else 1.0
    low, high = _own_range(codes.expression, *limits, RANGE_MARGIN * calm)
    low[:, closing] = torch.minimum(low, expression)[:, closing]  # nothing parts lips that are closed
    expression = without_signs(expression.clamp(low, high), signs, names)
    return _close_lips(head, codes, expression, closing, offsets) if closing else expression


def _own_range(shown: Tensor, low: Tensor, high: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor]:
    """A range of units [1, E], widened by what a face shows outside it up to a share of its width; further out it
    counts less and less, and from twice as far on it is an expression."""
    margin = share * (high - low)
    kept = lambda beyond: beyond.clamp(min=0).minimum((2 * margin - beyond).clamp(min=0))
    return low - kept(low - shown), high + kept(shown - high)


def _close_lips(
    head: HeadModel, codes: FaceCodes, expression: Tensor, closing: Sequence[int], offsets: Tensor | None
) -> Tensor:
    """ψ [1, E] with lips as closed as the photo's `codes` show them, or wholly where those are parted."""
    expression, names = expression.clone(), head.config.expression_names
    most = torch.full_like(expression, torch.inf)
    if "mouthClose" in names:
        i = names.index("mouthClose")
        most[0, i] = max(expression[0, i].item(), CLOSED_BELOW_JAW)
    shown = lip_gaps(head, codes, offsets)
    parted = float(ramp(shown.mean().item(), *LIPS_CLOSED))
    kept = torch.lerp(shown.clamp(min=LIPS_TOUCH), torch.tensor(LIPS_TOUCH), parted)
    for _ in range(CLOSING_STEPS):
        free = [i for i in closing if expression[0, i] < most[0, i]]
        slope = heights(head, head.expression_basis[free], LIP_PAIRS).T  # [pairs, units], metres
        excess = (lip_gaps(head, codes.with_(expression=expression), offsets) - kept).clamp(min=0)
        ridge = CLOSING_RIDGE**2 * torch.eye(len(LIP_PAIRS))
        expression[:, free] -= slope.T @ torch.linalg.solve(slope @ slope.T + ridge, excess)
        expression = expression.minimum(most)
    return expression


def with_lip_gaps(
    head: HeadModel, source: FaceCodes, target: FaceCodes, offsets: Tensor | None, wanted: Tensor
) -> Tensor:
    """The target's ψ [1, E] with lips as far apart as wanted [pairs], metres, by the units that can; they cross no more
    than the source's do.

    Args:
        source, target: Codes of the photo and of the edit [1, ...].
        offsets: As for `relaxed_expression`.
    """
    expression = target.expression.clone()
    free = [i for i, name in enumerate(head.config.expression_names) if name.startswith(CLOSING_UNITS)]
    slope = heights(head, head.expression_basis[free], LIP_PAIRS).T  # [pairs, units], metres
    own = lip_gaps(head, source, offsets)
    excess = lip_gaps(head, target, offsets) - wanted.maximum(own.clamp(max=LIPS_TOUCH))
    ridge = CLOSING_RIDGE**2 * torch.eye(len(LIP_PAIRS))
    expression[:, free] -= slope.T @ torch.linalg.solve(slope @ slope.T + ridge, excess)
    return expression


def clamp_lid_gap(
    head: HeadModel,
    source: FaceCodes,
    target: FaceCodes,
    offsets: Tensor,
    shut: Sequence[bool] = (False, False),
    closing: Sequence[float] = (0.0, 0.0),
) -> Tensor:
    """The target's ψ [1, E] with lids that meet but do not cross. Eyes that the photo shows shut stay as they are, for
    nobody knows what is behind.

    Args:
        source, target: Codes of the photo and of the edit [1, ...].
        offsets: As for `relaxed_expression`.
        shut: Whether the photo shows the person's right and left eye shut, as `landmarks.shut_eyes`.
        closing: How far each of them is to be closed at least, from 0 (not at all) to 1 (lids meet).
    """
    expression, names = target.expression.clone(), head.config.expression_names
    for side, pairs, stays, closed in zip(("Right", "Left"), LID_PAIRS, shut, closing):
        unit = "eyeBlink" + side
        if unit not in names:
            continue
        if stays:
            kept = [i for i, name in enumerate(names) if name.startswith(LID_UNITS) and name.endswith(side)]
            expression[0, kept] = source.expression[0, kept]
        slope = heights(head, head.expression_basis[names.index(unit)][None], pairs).mean().item()
        edited = target.with_(expression=expression)
        shown, asked = (_gaps(head, codes, pairs, offsets).mean().item() for codes in (source, edited))
        wanted = shown if stays else min(asked, asked + closed * (min(shown, 0.0) - asked))
        if slope < 0:
            expression[0, names.index(unit)] += (max(wanted, min(shown, 0.0)) - asked) / slope
    return expression


def heights(head: HeadModel, field: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Upper minus lower points [B, pairs] of vertices, or of their offsets, [B, V, 3]; y points up."""
    upper, lower = (list(points) for points in zip(*pairs))
    y = head.landmarks(field)[..., 1]
    return y[..., upper] - y[..., lower]


def lip_gaps(head: HeadModel, codes: FaceCodes, offsets: Tensor | None = None) -> Tensor:
    """Metres between the lips at LIP_PAIRS [pairs], `offsets` as for `relaxed_expression`; below 0 where they cross."""
    return _gaps(head, codes, LIP_PAIRS, offsets)


def _gaps(head: HeadModel, codes: FaceCodes, pairs: Sequence[tuple[int, int]], offsets: Tensor | None) -> Tensor:
    """Metres between pairs of landmarks [pairs] on one face at rest, `offsets` as for `relaxed_expression`."""
    gap = heights(head, head.rest_vertices(codes.shape, codes.expression), pairs)[0]
    if offsets is not None:
        flat = torch.cat([offsets, offsets[:, :1]], 1)[None]
        gap = gap - heights(head, flat, pairs)[0] / codes.camera[0, 0]
    return gap
