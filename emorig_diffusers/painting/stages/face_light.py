"""What a photo shows of the light on a face, and how to bring a face in dim or coloured light to usual light and back.

What paints a mouth knows faces in usual light: there its powers, floors and the network's habits hold. A gain for each
channel (von Kries's chromatic adaptation) carries it to any other light; in usual light nothing is done.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...photo.colour import GAMMA, LUMINANCE
from ...photo.landmarks import INNER_LIPS, LIDS, MESH, downwards
from ...photo.masks import fill_polygon, ramp
from ...photo.resample import align, transform_points, warp_crop

SIDE = 256  # pixels of the crop on which a clip's faces are looked at
TYPICAL_SKIN = 0.42  # linear luminance of skin in the light that shows teeth as light as `mouth.ENAMEL`
TYPICAL_WHITE = 0.24  # the same for the brightest part of the eyes
TYPICAL_HIGHLIGHT = 0.55  # the same for the lightest twentieth of the face
LENS = 0.85, 0.7  # half the width and height that a lens may cover around an eye, widths of the eye
# of 1,223 portraits, a third of them photos, in all kinds of light
BELOW_EYE = 0.08, 0.38  # from where to where below the lower lid's edge skin is compared, widths of the eye
# logarithms of red over green, green, blue over green, by which the skin below eyes differs from the face's; times
# those up to which it may, and from which it is no skin (90 and 96 % stay below)
UNLIKE, HIDDEN = np.array([0.45, 1.2, 0.55], np.float32), (1.0, 1.8)
SKIN_CAST = np.log([2.0, 0.66])  # logarithms of skin's red and blue, over green: medians
USUAL_CAST = np.log([[1.2, 3.1], [0.36, 1.0]])  # within which light counts as white: 93 % of the portraits
COLOURED = np.log([[0.85, 4.6], [0.16, 1.5]])  # from which the whole difference to SKIN_CAST is the light's: 1 %
DIMMEST = 0.3  # least light on a face, of typical light, that counts as usual: 99 % of the portraits
CLIPPED = 0.85, 0.97  # of white: from which skin may be clipped, and from which it is
BLIND = 0.01, 1e-4  # what a channel shows, of the strongest and of white, below which it tells nothing


@dataclass(frozen=True)
class FaceLight:
    """Linear colours of a face.

    Attributes:
        skin: Median [3] of the face; 0 where none is seen.
        highlight: Least luminance of the lightest twentieth of the face.
        white: Mean [3] of what is bright between the lids.
        white_level: Luminance of it.
        trust: How surely that is the whites of eyes, in [0, 1]: 0 where shades, hair or a hand are before the eyes.
    """

    skin: np.ndarray
    highlight: float
    white: np.ndarray
    white_level: float
    trust: float

    @property
    def level(self) -> float:
        """How light it is, about 1 in good light, whatever the skin's own colour."""
        white = self.trust * self.white_level / TYPICAL_WHITE
        return max(float(self.skin @ LUMINANCE) / TYPICAL_SKIN, self.highlight / TYPICAL_HIGHLIGHT, white)


def linear(crop: np.ndarray) -> np.ndarray:
    """Linear colours float32 [..., 3] of a crop uint8 [..., 3]."""
    return (crop / np.float32(255)) ** np.float32(GAMMA)


def face_light(colours: np.ndarray, points: np.ndarray) -> FaceLight:
    """Measure the light on a face.

    Args:
        colours: Linear crop float32 [S, S, 3].
        points: Landmarks [468 or more, 2] on it.
    """
    bright = colours @ LUMINANCE
    openings = [points[list(lids)] for lids in LIDS]
    hull = cv2.convexHull(points[:MESH].astype(np.float32))[:, 0]
    face = fill_polygon(bright.shape, hull)
    for other in (points[list(INNER_LIPS)], *map(_lens, openings)):
        face &= ~fill_polygon(bright.shape, other)
    if not face.any():
        return FaceLight(np.zeros(3), 0.0, np.zeros(3), 0.0, 0.0)
    skin = np.array([np.median(channel) for channel in colours[face].T])
    highlight = float(np.quantile(bright[face], 0.95))
    trust = [_trust(colours, opening, skin) for opening in openings]
    shown = [fill_polygon(bright.shape, o) for o, t in zip(openings, trust) if t > max(trust) / 2]
    eyes = np.any(shown, axis=0) if shown else np.zeros_like(face)
    if not eyes.any():
        return FaceLight(skin, highlight, np.zeros(3), 0.0, 0.0)
    low, level, high = np.quantile(bright[eyes], [0.75, 0.85, 0.92])
    white = colours[eyes & (bright >= low) & (bright <= high)].mean(0)
    return FaceLight(skin, highlight, white, float(level), max(trust))


def eyes_hidden(crop: np.ndarray, points: np.ndarray) -> bool:
    """Whether something is before both eyes. Arguments as for `find_adaptation`."""
    return face_light(linear(crop), points).trust == 0


def lenses_worn(photo: np.ndarray, landmarks: np.ndarray) -> bool:
    """As `eyes_hidden`, of a photo uint8 [H, W, 3] and landmarks [468 or more, 2 or 3] in its pixels."""
    matrix = align(landmarks, SIDE)
    return eyes_hidden(warp_crop(photo, matrix, SIDE), transform_points(matrix, landmarks[:, :2]))


def _lens(opening: np.ndarray) -> np.ndarray:
    """Corners [4, 2] of what a lens may cover around an eye within its lids [16, 2]."""
    across, middle = opening[8] - opening[0], (opening[8] + opening[0]) / 2
    half = np.array([across, np.linalg.norm(across) * downwards(opening)]) * np.array(LENS)[:, None]
    return middle + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) @ half


def _trust(colours: np.ndarray, opening: np.ndarray, skin: np.ndarray) -> float:
    """How surely an eye is seen within its lids [16, 2]: whether the skin below them is like the face's [3]."""
    edge = opening[np.r_[8:16, 0]]
    down = np.linalg.norm(opening[8] - opening[0]) * downwards(opening)
    band = fill_polygon(colours.shape, np.vstack([edge + BELOW_EYE[0] * down, (edge + BELOW_EYE[1] * down)[::-1]]))
    if not band.any():
        return 0.0
    floor = BLIND[0] * skin.max() + BLIND[1]
    red, green, blue = (np.log((np.median(c) + floor) / (s + floor)) for c, s in zip(colours[band].T, skin))
    return float(1 - ramp(np.linalg.norm([red - green, green, blue - green] / UNLIKE), *HIDDEN))


@dataclass(frozen=True)
class Adaptation:
    """Colours in a photo's light and in usual light, both gamma-coded.

    Attributes:
        gain: Matrix [3, 3] on the photo's red, green and blue; a channel that the light leaves dark is made from the
            strongest.
        back: Factors [3] on usual light's.
    """

    gain: np.ndarray
    back: np.ndarray

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """A picture uint8 [..., 3] in usual light."""
        return np.clip(np.round(picture @ self.gain.T), 0, 255).astype(np.uint8)

    def undo(self, picture: np.ndarray) -> np.ndarray:
        """What was painted in usual light, float [..., 3], in the photo's."""
        return picture * self.back


def find_adaptation(crop: np.ndarray, points: np.ndarray) -> Adaptation | None:
    """From the light on a face to usual light; `None` in usual light, and where nothing is seen of a face.

    Args:
        crop: uint8 [S, S, 3].
        points: Landmarks [468 or more, 2] on it.
    """
    colours = linear(crop)
    found = face_light(colours, points)
    seen, best = found.skin, int(found.skin.argmax())
    if seen[best] < BLIND[1]:
        return None
    skin = np.maximum(seen, max(BLIND[0] * seen[best], BLIND[1]))
    cast = np.log(skin[[0, 2]] / skin[1])
    sure = 1 - ramp(seen, *CLIPPED)  # a channel that is clipped may have been any lighter
    low, high = (ramp(cast, USUAL_CAST[:, k], COLOURED[:, k]) for k in (0, 1))
    share = np.maximum(low * sure[[0, 2]], high * sure[1]).max()
    usual = skin * np.insert(np.exp(share * (SKIN_CAST - cast)), 1, 1)
    source = np.where(seen < skin, best, range(3))  # the channel that each is made from
    gain = np.eye(3, dtype=np.float32)[source] * (usual / skin[source])[:, None]
    if share > 0:
        found = face_light(colours @ gain.T, points)
    elif found.level >= DIMMEST:
        return None
    gain *= max(DIMMEST / max(found.level, BLIND[1]), 1.0)
    return Adaptation(gain ** (1 / GAMMA), (seen / gain[range(3), source] / skin[source]) ** (1 / GAMMA))
