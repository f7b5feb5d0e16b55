"""The light that falls on teeth, told by what a photo shows around them: skin, whites of the eyes, cheeks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ...photo.colour import LUMINANCE
from ...photo.landmarks import INNER_LIPS, MOUTH_CORNERS
from ...photo.masks import any_channel, fill_polygon
from .face_light import SKIN_CAST, TYPICAL_SKIN, TYPICAL_WHITE, FaceLight, face_light, linear
from .flow import Warp

CAST = np.array([0.3, 0.5], np.float32)  # powers of the whites' red and blue, over green, that the teeth have too
POWER, BRIGHT = 0.7, (1.2, 1.8)  # of the skin's light; times typical skin and white, above which more light is exposure
CLIPPED = 250  # grey levels in all channels, from which skin may have been any lighter
LEVELS = 0.25, 4.0  # least and most light
# where no eye is seen; powers fitted to 253 smiles
SKIN_SHARE = np.array([0.5, 0.25], np.float32)  # of skin's red and blue, over green and SKIN_CAST, that teeth have too
WHITE_CAST = np.array([0.41, -0.15], np.float32)  # logarithms of the red and blue of whites, over green: medians
SURROUNDINGS = 0.8, 0.6  # light of teeth where something around is as light as the second: dark skin may be its colour,
GLOSS = 2.9  # but teeth are no lighter than this times the highlights of the skin: 1.3 times in pixel values
WET = 0.0010  # metres inside the photo's lips from which teeth are told: the edge is blurred and in the lips' shade
OWN, OWN_AREA = 0.8, 2e-5  # green over red in pixel values from which it is teeth, gums and tongue are redder; and m²
# of them from which they tell the light
DRAWN_TEETH = np.array([0.475, 0.44, 0.40], np.float32)  # linear: what `own_teeth` finds in mouths drawn in light 1
LEAST_SHOWN = 0.1  # weight of pictures that show teeth, below which drawn ones are looked like less and less
CHEEKS = (50, 205, 206, 207, 216), (280, 425, 426, 427, 436)  # landmarks beside the mouth, the person's right first
SIDE, SIDE_CAST, BEND = 0.5, 0.3, 2.1  # powers of the cheeks' ratio in light and in its colour; how soon they are met


Box = tuple[slice, slice]
"""Rows and columns."""
ALL: Box = (slice(None), slice(None))


@dataclass(frozen=True)
class TeethLight:
    """Light that falls on a mouth.

    Attributes:
        middle: In its middle [3], 1 in that which shows teeth as light as they are.
        slope: Logarithm of how much lighter than that it is at the person's left corner, and darker at the right [3].
        enamel: The photo's own teeth over drawn ones in that light [3]; 1 where it shows none.
    """

    middle: np.ndarray
    slope: np.ndarray
    enamel: np.ndarray

    def on(self, warp: Warp, box: Box = ALL) -> np.ndarray:
        """On every pixel of a warp's grid [G, G, 3], or of rows and columns of it."""
        ends = warp.points[list(MOUTH_CORNERS)]
        axis = (ends[1] - ends[0]) / max(np.square(ends[1] - ends[0]).sum(), 1) * 2
        rows, columns = (np.arange(side)[part] + 0.5 for side, part in zip(warp.mouth.shape, box))
        x, y = ends.mean(0)
        x, y = columns[None] - x, rows[:, None] - y
        across = np.tanh(BEND * (x * axis[0] + y * axis[1]))
        side = np.exp(across[..., None] * self.slope - 0.2 * np.abs(self.slope).mean())
        return (self.middle * side).astype(np.float32)


def find_teeth_light(warp: Warp, crop: np.ndarray) -> TeethLight:
    """The light on the mouth of a face, and how its teeth differ from drawn ones in it.

    Args:
        warp: How the face moved.
        crop: The photo after motion, uint8 [G, G, 3] in usual light, see `face_light.find_adaptation`.
    """
    teeth, middle = own_teeth(warp, crop), light_on_teeth(warp, crop)
    enamel = np.ones(3) if teeth is None else np.clip(teeth / DRAWN_TEETH, *LEVELS) / middle
    return TeethLight(middle, side_light(warp, crop), enamel)


def mean_light(lights: Sequence[TeethLight], weights: Sequence[float], shown: Sequence[float]) -> TeethLight:
    """The mean of what pictures of one face show.

    Args:
        lights: N of them.
        weights: How much each counts [N].
        shown: How surely each shows the face's own teeth [N].
    """
    weight = np.array(weights) / np.sum(weights)
    middles, enamels = (np.log([getattr(light, name) for light in lights]) for name in ("middle", "enamel"))
    teeth = weight * shown * enamels.any(1)  # 0 where no teeth are seen
    enamel = np.exp(teeth @ enamels / max(teeth.sum(), LEAST_SHOWN))
    return TeethLight(np.exp(weight @ middles).astype(np.float32), weight @ [one.slope for one in lights], enamel)


def own_teeth(warp: Warp, crop: np.ndarray) -> np.ndarray | None:
    """Linear colour [3] of the lighter half of teeth that a photo shows; `None` where it shows too little of any.

    Arguments as for `find_teeth_light`.
    """
    pixels = crop[between_photo_lips(warp, -WET)]
    teeth = pixels[pixels[:, 1] > OWN * pixels[:, 0]]
    if len(teeth) < OWN_AREA * warp.scale**2:
        return None
    colours = linear(teeth)
    bright = colours @ LUMINANCE
    return np.median(colours[bright >= np.median(bright)], axis=0)


def between_photo_lips(warp: Warp, reach: float) -> np.ndarray:
    """Pixels [G, G] bool that come from between the photo's lips, or from `reach` metres around (< 0: inside)."""
    mouth = fill_polygon(warp.mouth.shape, warp.source_points[list(INNER_LIPS)]).astype(np.uint8)
    side = 2 * max(1, round(abs(reach) * warp.scale)) + 1
    change = cv2.dilate if reach > 0 else cv2.erode
    mouth = change(mouth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    y, x = np.mgrid[: len(mouth), : len(mouth)].astype(np.float32)
    return cv2.remap(mouth, x + warp.motion[..., 0], y + warp.motion[..., 1], cv2.INTER_NEAREST) > 0


def light_on_teeth(warp: Warp, crop: np.ndarray) -> np.ndarray:
    """Light that falls on the mouth [3], 1 in that which shows teeth as light as they are.

    Told by the skin or, where that is dark itself, by the whites of the eyes, which are as light as teeth in everybody;
    its colour by the whites. Powers fitted to 247 smiles of five sets of portraits in many lights, levels set by
    those and by 26 of another set, on which mean errors of 28 % in light, 8 % in red and 5 % in blue over green are
    left. Where shades hide the eyes, skin and surroundings tell. Arguments as for `find_teeth_light`.
    """
    colours, skin = linear(crop), any_channel(warp.albedo) & ~warp.mouth
    bright, found = colours @ LUMINANCE, face_light(colours, warp.points)
    by_skin = _light_on_skin(np.median(bright[skin]), crop[skin]) if skin.any() else 1.0
    white = found.white_level / TYPICAL_WHITE
    seen = max(by_skin, min(white, 1.0), white / BRIGHT[1])
    around = SURROUNDINGS[0] * min(np.quantile(bright, 0.95) / SURROUNDINGS[1], 1)
    unseen = max(by_skin, min(around, GLOSS * found.highlight))
    level = np.clip(seen**found.trust * unseen ** (1 - found.trust), *LEVELS)
    return (level * _cast(found)).astype(np.float32)


def _light_on_skin(bright: float | np.floating, skin: np.ndarray) -> float:
    """Of its luminance and pixels uint8 [N, 3]; those that are clipped may have been any lighter."""
    bright = bright / TYPICAL_SKIN
    clipped = (skin.min(-1) >= CLIPPED).mean()
    return min(bright, BRIGHT[0]) ** POWER * max(bright / BRIGHT[0], 1) * (1 + clipped)


def _cast(found: FaceLight) -> np.ndarray:
    """Colour of the light on the mouth [3], over its green."""
    if not found.skin.any():
        return np.ones(3)
    skin, white = (np.log((c / c[1].clip(1e-3)).clip(1e-3)[[0, 2]]) for c in (found.skin, found.white))
    seen = CAST * np.clip(white, np.log(0.5), np.log(2.5))
    unseen = CAST * WHITE_CAST + SKIN_SHARE * (skin - SKIN_CAST)
    red, blue = np.exp(unseen + found.trust * (seen - unseen))
    return np.array([red, 1, blue])


def side_light(warp: Warp, crop: np.ndarray) -> np.ndarray:
    """How light and its colour change across the mouth [3], as `TeethLight.slope`.

    Where one cheek is in shade, so are the teeth on that side: powers fitted to teeth a third of the way to the corners
    on 188 smiles (correlation 0.8).
    """
    right, left = (np.median(_patches(crop, warp.points[list(cheek)]), axis=0) for cheek in CHEEKS)
    ratio = np.log((left + 1e-3) / (right + 1e-3))
    bright = ratio @ LUMINANCE
    return np.clip(SIDE * bright + SIDE_CAST * (ratio - bright), -1.2, 1.2)


def _patches(crop: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Linear colours [N, 3] of a crop uint8 [G, G, 3] around points [N, 2]."""
    reach = max(len(crop) // 100, 1)
    x, y = np.clip(points, reach, len(crop) - reach - 1).astype(int).T
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1, 1)
    return linear(crop[y + steps[0], x + steps[1]]).mean(0)
