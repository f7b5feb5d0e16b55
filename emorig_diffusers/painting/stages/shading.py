"""Shade that an expression brings to skin, from maps of the head: measured on people, not drawn by rule.

Motion alone is hardly recognised as anger, sadness or disgust: what tells them is the shade of brows drawn over the
eyes, of cheeks and lips pushed up. `HeadModel.shading_maps` hold how much every expression unit lightens or darkens the
skin (`train/fit_expressions.py`); the photo's own colours are multiplied, so hue and pores stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import cv2
import numpy as np
import torch

from ...models.head import HeadModel
from ...photo.landmarks import LIDS, MOUTH_CORNERS
from ...photo.masks import fill_polygon, ramp, wide_blur
from ...photo.resample import warp_crop
from .flow import SKIN_GRID, Warp
from .skin import AROUND, PALE, SAFE, TONE, WARMTH, apply_field, darker

DARKEST, LIGHTEST = -0.9, 0.25  # natural logarithms: what people's expressions reach on skin
SPREAD = np.array([30, 9, 9], np.float32)  # Lab: standard deviations of skin about its samples; shadows are skin
CORNER = 0.01, 0.02  # metres from the corners of the mouth within which little is lightened, and from which all may be
CORNER_LIGHT, NARROW_LIGHT = 0.04, 0.1
"""Logarithms by which skin near those corners, and elsewhere what is narrower than AROUND, may get lighter than around:
none is seen as a speck, and 18 people's emotions are recognised as without a limit."""
ARRIVES = 0.82
"""Share of a shade's logarithm that skin's luminance shows: red, of which skin has most, changes least (`WARMTH`), and
maps were measured in luminance. Nine people's edits, measured as `training.expressions.fields` does."""
DARK_SKIN = 50.0, 30.0
"""L* of skin from which an expression's shade is stronger than in the maps, whose people are lighter, and at which it
is so in full: dark skin shows folds by gloss, which its little diffuse light does not wash out."""
GLOSS, FOLDS = 0.5, 0.25
"""By how much it lightens and darkens more then. In 41 people's real smiles, beside nose and mouth, those of the five
whose ITA is below 0 have 1.5 times the others' contrast for the same motion, most of it in the light."""
CHEEKS = (50, 280, 101, 330, 5, 195, 197)  # landmarks on cheeks and nose that expressions and hair leave alone
EVEN_LIGHT, HARDNESS, HARDEST = 0.1, 0.37, 1.5
"""Standard deviation of luminance (natural logarithm) over these in the light of the people whom maps were measured on;
the power of it by which folds are stronger in harder light; and the most. Of 141 smiling people's portraits, folds
beside nose and mouth have .081 of contrast in the flattest fifth and .135 in the hardest, by a power of .37 +- .06."""
LIGHT_BLUR = 2.0  # pixels of SKIN_GRID, about 4 mm, over which that luminance is averaged
AROUND_LIDS = (
    (130, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25),
    (359, 467, 260, 259, 257, 258, 286, 414, 463, 341, 256, 252, 253, 254, 339, 255),
)  # MediaPipe points around both lids, at the crease of the upper one
SHUT = 0.16, 0.06  # height of an eye's opening, of its width, from which lids count as shutting, and at which as shut
LID_EDGE = 0.002  # metres over which that fades
UNKNOWN = 0.8  # share of the shade that shut lids do not get: maps show the skin about open eyes in their place
OTHER = 2.0  # squared deviations from which a colour is less and less taken for skin: hair, hats, hands in gloves


def shade_expression(
    photo: np.ndarray,
    moved: np.ndarray,
    matrix: np.ndarray,
    warp: Warp,
    head: HeadModel,
    change: Mapping[str, float],
    strength: float = 1.0,
) -> np.ndarray:
    """A photo with the shade that a change of expression brings to the skin, or takes from it.

    Args:
        photo: The edited photo, uint8 [H, W, 3].
        moved: The same before anything was painted; it tells where skin is.
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        warp: How the face moved.
        head: The head whose maps are used; one without them changes nothing.
        change: Target minus source of the expression units by name.
        strength: Factor on the logarithms.
    """
    if not head.config.shading_size or not strength > 0:
        return photo
    amounts = torch.tensor([change[name] for name in head.config.expression_names])
    field = sample_maps(head.shading(amounts).numpy(), warp)
    lift = amounts.clamp(max=0)
    # before and after painting: not every face has the measured creases, and some were painted over
    pictures = (moved,) if photo is moved else (moved, photo)
    both = cv2.split(darker([warp_crop(picture, matrix, len(warp.motion)) for picture in pictures], warp))
    dark, light = np.maximum(reduce(np.minimum, both), 0), np.minimum(reduce(np.maximum, both), 0)
    if lift.any():  # no further than skin is darker or lighter than around
        lifted = sample_maps(head.shading(lift).numpy(), warp)
        field -= lifted - np.clip(lifted, light, dark)
    skin, colour, lightness = skin_colour(moved, matrix, warp)
    glossy, hard = float(ramp(lightness, *DARK_SKIN)), hard_light(pictures[0], matrix, warp)
    if glossy > 0 or hard > 1:
        brought = sample_maps(head.shading(amounts.clamp(min=0)).numpy(), warp)
        more = np.where(brought > 0, GLOSS, FOLDS) * glossy
        field += np.maximum(more, hard - 1) * brought
    field = _without_specks(field, dark, warp, 1 + GLOSS * glossy)
    field = strength * np.clip(field * (1 + (1 / ARRIVES - 1) * colour), DARKEST, LIGHTEST)
    field = field if warp.free is None else field * warp.free
    field = field * cv2.resize(skin, field.shape)
    return apply_field(photo, field, matrix, 1 + (WARMTH - 1) * colour, warp.blur)


def hard_light(photo: np.ndarray, matrix: np.ndarray, warp: Warp) -> float:
    """How much stronger the light on a face makes folds than the light that maps were measured in does, from 1 on.

    Arguments as for `skin_colour`.
    """
    crop = warp_crop(photo, np.asarray(matrix) * (SKIN_GRID / len(warp.motion)), SKIN_GRID)
    tone = cv2.GaussianBlur(cv2.LUT(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), TONE), (0, 0), LIGHT_BLUR)
    x, y = np.clip((warp.points[list(CHEEKS)] * (SKIN_GRID / len(warp.motion))).astype(int), 0, SKIN_GRID - 1).T
    return float(np.clip((tone[y, x].std() / EVEN_LIGHT) ** HARDNESS, 1, HARDEST))


def _without_specks(field: np.ndarray, dark: np.ndarray, warp: Warp, gloss: float) -> np.ndarray:
    """A shade [G, G] that lightens narrow places no further than they are `dark` [G, G], but for a little, which counts
    `gloss` times: the people whom maps were measured on had creases there, above all beside the mouth, which not every
    face has."""
    rows, columns = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in field.shape)
    square = [np.square(columns - x) + np.square(rows - y)[:, None] for x, y in warp.points[list(MOUTH_CORNERS)]]
    away = ramp(np.sqrt(np.minimum(*square)) / np.float32(warp.scale), *CORNER)
    broad = np.minimum(wide_blur(field, AROUND * warp.scale), gloss * CORNER_LIGHT + away)
    lightest = np.maximum(broad + dark + gloss * NARROW_LIGHT * away, 0)
    return np.where(field > 0, np.minimum(field, lightest), field).astype(np.float32)


def sample_maps(shade: np.ndarray, warp: Warp) -> np.ndarray:
    """A map [A, A] on the warp's grid [G, G]; 0 between the lips, between the lids and off the face's skin, faint on
    shut lids."""
    if warp.place is None:
        raise ValueError("The warp was drawn from a head without shading maps: use one that has them.")
    column, row = (len(shade) * warp.place[..., k] - 0.5 for k in (0, 1))
    field = cv2.remap(shade.astype(np.float32), column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    field *= warp.place[..., 0] >= 0
    open_eye = np.any([fill_polygon(field.shape, warp.points[list(lid)]) for lid in LIDS], axis=0)
    field *= 1 - cv2.GaussianBlur(open_eye.astype(np.float32), (0, 0), 1.5)
    for lid, around in zip(LIDS, AROUND_LIDS):
        outline = warp.points[list(lid)]
        across = np.linalg.norm(outline[0] - outline[len(lid) // 2])
        high = 2 * cv2.contourArea(outline.astype(np.float32)) / max(across**2, 1.0)
        if (shut := float(ramp(high, *SHUT))) > 0:
            skin = fill_polygon(field.shape, warp.points[list(around)]).astype(np.float32)
            field *= 1 - UNKNOWN * shut * cv2.GaussianBlur(skin, (0, 0), LID_EDGE * warp.scale)
    return field


def skin_colour(photo: np.ndarray, matrix: np.ndarray, warp: Warp) -> tuple[np.ndarray, np.float32, float]:
    """How much pixels have the skin's colour [S, S] float32 in [0, 1], brows, eyes and lips that of what is around
    them; how colourful the skin is, from grey (0) on; and its L*."""
    ratio = SKIN_GRID / len(warp.motion)
    crop = warp_crop(photo, np.asarray(matrix) * ratio, SKIN_GRID).astype(np.float32) / 255
    lab = cv2.blur(cv2.cvtColor(crop, cv2.COLOR_RGB2LAB), (3, 3))
    x, y = np.clip((warp.points[list(SAFE)] * ratio).astype(int), 0, SKIN_GRID - 1).T
    samples = lab[y, x]
    lightness = float(np.median(samples[:, 0]))
    colour = np.clip(np.median(np.hypot(*samples[:, 1:].T)) / PALE - 0.1, 0, 1)
    near = np.abs(samples - np.median(samples, 0)) / SPREAD
    samples = samples[near.max(1) <= max(3.0, near.max(1).min())] / SPREAD
    channels = cv2.split(lab / SPREAD)  # a sample at a time: they fit into the processor's cache
    far = lambda sample: sum(np.square(channel - value) for channel, value in zip(channels, sample))
    distance = reduce(np.minimum, map(far, samples))
    skin, bare = np.exp(-0.5 * np.maximum(distance - OTHER, 0)), 1 - warp.features
    blur = lambda values: cv2.GaussianBlur(values, (0, 0), 4.0)
    around = blur(skin * bare) / (blur(bare) + 1e-3)
    return cv2.GaussianBlur(bare * skin + (1 - bare) * around, (0, 0), 0.8), np.float32(colour), lightness
