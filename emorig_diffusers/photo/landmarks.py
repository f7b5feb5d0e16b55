"""MediaPipe's face landmarks: names of their numbers, and what they alone tell of eyes and lips.

There are 468 on the face and five on each iris; "right" and "left" are the person's, and the right one comes first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MESH = 468  # landmarks of the face, before those of the irises
LANDMARKS = 478
IRISES = (468, 473)  # their middles
EYE_CORNERS = ((33, 133), (362, 263))  # of each eye, from right to left
EYES_OUTER = (33, 263)  # their outer ones
MOUTH_CORNERS = (61, 291)
BRIDGE = 6  # on the nose; moves with the skull
EYES = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7,
        362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382)  # fmt: skip
LIDS = (EYES[:16], EYES[16:])  # outlines: a corner, the upper lid (1 to 7), the other corner, the lower lid
LOWER_LIDS = (145, 374)  # their middles
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
LIP_PAIRS = ((13, 14), (312, 317), (82, 87), (311, 402), (81, 178), (310, 318), (80, 88))
"""Points of the upper and the lower lip's inner edge that meet."""
LID_PAIRS = (((160, 144), (159, 145), (158, 153)), ((385, 380), (386, 374), (387, 373)))
"""The same of each eye's lids."""
MIDDLE = (0, 1, 2, 4, 5, 6, *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200)
"""Points of the middle line."""
TWINS = np.stack((np.setdiff1d(np.arange(248), MIDDLE), np.arange(248, MESH)))
"""Points of the right half, and their like in the left one: MediaPipe numbers both in the same order."""
MIRROR = np.arange(MESH)  # landmark -> its twin on the other side
MIRROR[TWINS] = TWINS[::-1]

SHUT = 0.09  # height of an opening, in its widths, below which the eye is shut
WINKS = 0.65, 0.15  # share of the other's opening below which, and excess of the blink's score over the other's above
# which it is shut
SLEEPS = 0.16, 1.03  # opening below which, and sum of the scores of blink and downward look above which it is shut:
# eyes that squint or laugh do not look down. These three by eye, on the portraits of `shut_eyes`


def shut_eyes(points: np.ndarray, scores: Mapping[str, float]) -> tuple[bool, bool]:
    """Whether a photo shows the person's right and left eye shut.

    Landmarks alone say too little: on shut eyes they leave up to a sixth of the eye's width open. Of 4,730 eyes of
    portraits, 68 are told to be shut. Of these, 61 are; four laugh so much that no iris is seen; and three (0.06 %)
    are open, two of them looking down, one blurred. Five that are shut, of three people, are told to be open.

    Args:
        points: Dense landmarks [478, 2] of the photo, in any unit.
        scores: MediaPipe's blendshape scores in [0, 1] by name; those that are missing count as 0.
    """
    openings = np.array([outline_height(points[list(outline)]) for outline in LIDS])
    read = lambda name: np.array([scores.get(name + side, 0.0) for side in ("Right", "Left")])
    blinks, downs = read("eyeBlink"), read("eyeLookDown")
    winks = (openings < WINKS[0] * openings[::-1]) & (blinks > blinks[::-1] + WINKS[1])
    sleeps = (openings < SLEEPS[0]) & (blinks + downs > SLEEPS[1])
    follows = (openings < SLEEPS[0]) & (openings[::-1] < SHUT) & (blinks > blinks[::-1] - WINKS[1])
    return tuple(((openings < SHUT) | winks | sleeps | follows).tolist())


def lips_apart(points: np.ndarray) -> float:
    """Pixels from the upper lip down to the lower one in the middle of the mouth, of landmarks [N, 2]; below 0 where a
    head's lips run through each other."""
    lips = points[list(INNER_LIPS)]
    return float((lips[15] - lips[5]) @ downwards(lips))


def lip_distance(landmarks: np.ndarray) -> float:
    """Between the lips of landmarks [478, 2 or 3], in distances of the eyes."""
    eyes = [landmarks[list(corners), :2].mean(0) for corners in EYE_CORNERS]
    return lips_apart(landmarks[:, :2]) / max(float(np.linalg.norm(eyes[1] - eyes[0])), 1e-6)


def outline_height(opening: np.ndarray) -> float:
    """Of an outline of lids, in its widths."""
    width = np.linalg.norm(opening[8] - opening[0])
    return float(lid_gaps(opening).max() / max(width, 1e-6))


def lid_gaps(opening: np.ndarray) -> np.ndarray:
    """Pixels from points of the upper lid down to their like on the lower one [7]."""
    return (opening[:8:-1] - opening[1:8]) @ downwards(opening)


def downwards(opening: np.ndarray) -> np.ndarray:
    """Unit vector [2] from the upper to the lower edge of an outline [N, 2], across the line of its corners, which are
    its first point and the one halfway."""
    axis = opening[len(opening) // 2] - opening[0]
    return np.array([-axis[1], axis[0]]) / np.linalg.norm(axis).clip(1e-6) * (1 if axis[0] > 0 else -1)
