"""What a smile leaves on the cheeks once it is gone: folds between nose and mouth, creases beside the mouth's corners.

They move with the photo's pixels, and nothing of a face at rest would explain them: skin is filled in from around.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ...photo.masks import fill_polygon, ramp
from .flow import Warp
from .shading import skin_colour
from .skin import DIM

CHEEK = {"mouthSmile": 1.0, "mouthUpperUp": 0.7, "noseSneer": 0.6, "mouthFrown": 0.5, "mouthStretch": 0.2}
"""What pushes the cheek against the lip, and so deepens the nasolabial fold: expression unit -> share."""
KEPT = 0.25, 0.45  # units of CHEEK: less of them up to which a photo's own fold stays, and from which it is gone
FADES = 0.1, 0.3  # mouthSmile that goes, up to which corners keep their creases, and from which those are gone
CORNERS = (
    (207, 214, 210, 204, 106, 43, 61, 57, 186),
    (427, 434, 430, 424, 335, 273, 291, 287, 410),
)  # MediaPipe points around the corners of the mouth: cheek, jowl, chin, lips
DARK = 0.05, 0.11  # logarithms by which skin varies there, and by which a crease is darker than around: of six grins
WIDTH = 0.0025  # metres to which such a crease is widened: its edges are soft
TAPER = 0.005  # metres over which a fold that stays above fades into the crease that goes: of the astronaut's sneer
JAW = (199, 200, 18, 83, 313, 204, 424, 211, 431, 176, 400, 140, 369, 171, 396, 32, 262)
"""MediaPipe points on chin and jaw: as even as the rest of the cheeks, but for creases of smiles."""
FINE, COARSE, SPREAD = 0.0004, 0.0015, 0.003  # metres: texture lies between the first two, averaged over the third
EVEN = 0.045, 0.09  # logarithms of texture: smooth skin has less, beards and skin full of lines more; 70 portraits
HAIR = 0.08, 0.25  # logarithms by which plain skin may be darker than around, and from which it is hair or a crease
GRAIN = 0.0012  # metres that a photo's grain is finer than
LINES = 1.5, 4.0  # its power, of plain skin's median, up to which it stays, and from which it is a line and goes
NO_GRAIN = 1e-7  # power of less than a grey level
PLAIN = 0.5  # from which skin is plain


def fold_release(change: Mapping[str, float]) -> float:
    """How much of a photo's nasolabial folds a change of expression smooths out, from 0 (they stay or deepen) to 1."""
    pull = sum(w * (change.get(u + "Right", 0.0) + change.get(u + "Left", 0.0)) / 2 for u, w in CHEEK.items())
    return float(ramp(-pull, *KEPT))


def corner_release(change: Mapping[str, float]) -> float:
    """How much of the creases beside the corners of a smile goes with it, from 0 to 1, whatever comes instead."""
    return float(ramp(-(change.get("mouthSmileRight", 0.0) + change.get("mouthSmileLeft", 0.0)) / 2, *FADES))


def corner_creases(warp: Warp, dark: np.ndarray) -> np.ndarray:
    """How much of each pixel is a dark crease beside the corners of the mouth [G, G] float32.

    Args:
        warp: How the face moved.
        dark: How much darker the photo after motion is than around on its grid (`skin.darker`) [G, G].
    """
    near = np.any([fill_polygon(warp.mouth.shape, warp.points[list(side)]) for side in CORNERS], axis=0)
    away = cv2.distanceTransform((~near).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    crease = (1 - ramp(away, 0, TAPER * warp.scale)) * ramp(dark, *DARK)
    side = 2 * max(1, round(WIDTH * warp.scale)) + 1
    return cv2.dilate(crease.astype(np.float32), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def evenness(warp: Warp, moved: np.ndarray) -> float:
    """How even a face's skin is, from 0 (a beard, skin full of lines: a smoothed place would be seen) to 1.

    Args:
        warp: How the face moved.
        moved: The photo after motion on its grid, uint8 [G, G, 3].
    """
    tone = np.log(cv2.cvtColor(moved, cv2.COLOR_RGB2GRAY).astype(np.float32) + DIM)
    blur = lambda values, width: cv2.GaussianBlur(values, (0, 0), width * warp.scale)
    texture = np.sqrt(blur(np.square(blur(tone, FINE) - blur(tone, COARSE)), SPREAD))
    x, y = np.clip(warp.points[list(JAW)], 0, len(moved) - 1).astype(int).T
    return float(1 - ramp(np.median(texture[y, x]), *EVEN))


def plain_skin(warp: Warp, moved: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """How surely each pixel is plain skin [G, G] float32, which others may be filled in from: no hair, lip or crease.

    Arguments as for `evenness` and `corner_creases`.
    """
    skin, _, _ = skin_colour(moved, np.eye(2, 3), warp)
    plain = cv2.resize(skin * (1 - warp.features), warp.mouth.shape)
    return (plain * (1 - ramp(dark, *HAIR))).astype(np.float32)


def grain(moved: np.ndarray, plain: np.ndarray, scale: float) -> np.ndarray:
    """A crop's detail [S, S, 3] that skin has everywhere, without lines, in units of full range.

    Args:
        moved: uint8 [S, S, 3].
        plain: How surely each pixel is plain skin [S, S].
        scale: Pixels per metre.
    """
    crop = moved.astype(np.float32) / 255
    detail = crop - cv2.GaussianBlur(crop, (0, 0), GRAIN * scale)
    power = cv2.GaussianBlur(np.square(detail).mean(-1), (0, 0), GRAIN * scale)
    skin = plain > PLAIN
    usual = np.median(power[skin]) if skin.any() else 0.0
    return detail * (1 - ramp(power, *np.multiply(LINES, usual + NO_GRAIN)))[..., None]
