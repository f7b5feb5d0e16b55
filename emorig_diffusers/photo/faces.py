"""Find the faces of a photo, whichever way up they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal

import cv2
import numpy as np

from .detectors import BLENDSHAPES as BLENDSHAPES
from .detectors import LOCK, SIDE, Box, detect_boxes, detect_landmarks
from .landmarks import EYE_CORNERS, MESH, MOUTH_CORNERS
from .resample import align, invert, transform_points, warp_crop

_Sides = Box | tuple[float, ...]
_PADDINGS = (0.6, 1.2, 0.25)  # of a face box, tried in turn until the landmark network accepts the crop
_SIDES = (320, 1280)  # long sides at which YuNet looks: one for faces that fill the photo, one for small ones
_FIVE = np.array([*EYE_CORNERS, (1, 1), *zip(MOUTH_CORNERS, MOUTH_CORNERS)])  # landmarks whose means are YuNet's points
# A face is sure where YuNet scores it, its points agree with the landmarks within a share of the face's height, and the
# head leans by no more degrees; score and agreement may be those on the face's own aligned crop, for small faces score
# less. Of 540 upright photos all are sure; of 141 turned photos in which the landmarks were wrong, none.
_SURE, _SURE_ALIGNED, _SURE_LEAN = (0.9, 0.12), (0.92, 0.11), 50.0
_MOST_LEAN = 60.0  # degrees from upright of heads that a turned photo is looked at for
_LEAST_AGREEMENT = 0.7  # score minus mismatch on the aligned crop, of a face that only a turned photo shows
_OWN_WAY_UP = 0.02  # agreement by which another way up must be better than the photo's own
_WRONG = 0.2  # mismatch, in the photo and on the aligned crop, of landmarks that are nonsense
_MISSED = 0.75  # YuNet's score from which a box in which there are no landmarks is taken for a turned head
_ROOM = 1.35  # sides of the aligned crop that the landmark network then sees
_NOISE = 0.05  # by which agreement differs between readings of one face
_STRAIGHT = 20.0  # degrees of lean above which landmarks are better read again on a crop that stands upright


class NoFaceError(ValueError):
    """The photo shows no face, or not the one asked for."""


@dataclass(frozen=True)
class Face:
    """One face of a photo, in the photo's pixel coordinates.

    Attributes:
        index: 0 for the leftmost face; people count it as face `index + 1`.
        box: (x0, y0, x1, y1) around the landmarks, px.
        landmarks: float32 [478, 3], MediaPipe's points: x, y in px, z on the same scale, smaller is nearer.
        blendshapes: float32 [51], scores in [0, 1] in the order of BLENDSHAPES.
        score: the detector's (YuNet's) confidence in [0, 1].
    """

    index: int
    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    blendshapes: np.ndarray
    score: float


@dataclass(frozen=True)
class _Found:
    """A face, and how far it is to be believed.

    Attributes:
        sure: Whether it is a face beyond doubt, and the right way up in the photo as it was turned to find it.
        rank: Whichever of two faces in one place has more is the face; at least 1 for sure ones of the photo as it is.
        plausible: Whether it is a face at all.
    """

    face: Face
    sure: bool
    rank: float
    plausible: bool


def find_faces(rgb: np.ndarray) -> list[Face]:
    """Find the faces of a photo, left to right; the list may be empty.

    YuNet finds boxes and MediaPipe's Face Landmarker runs on a padded crop of each; where YuNet finds none, the
    landmarker looks at the whole photo. Both know heads that lean up to about 60 degrees and tell nonsense of others:
    where the two disagree, or find nothing, the photo is looked at turned by quarters, too. Thread-safe.

    Args:
        rgb: uint8 [H, W, 3].

    Raises:
        AssetError: a network is missing and cannot be fetched.
    """
    rgb = np.ascontiguousarray(rgb)
    with LOCK:
        found, missed = _search(rgb, 0)
        if missed or not found or not all(one.sure for one in found):
            found += [one for quarter in (1, 2, 3) for one in _search(rgb, quarter)[0]]
    found.sort(key=lambda one: -one.rank)
    unique: list[Face] = []
    for one in found:
        if one.plausible and all(_overlap(one.face.box, other.box) < 0.5 for other in unique):
            unique.append(one.face)
    unique.sort(key=lambda face: face.box[0] + face.box[2])
    return [replace(face, index=i) for i, face in enumerate(unique)]


def follow_face(rgb: np.ndarray, face: Face) -> Face | None:
    """A face in the next picture of a clip, looked for where it was last, on a crop that stood upright then; `None`
    where there is none. Thread-safe.

    Args:
        rgb: uint8 [H, W, 3].
        face: As it was last.
    """
    with LOCK:
        return _straightened(np.ascontiguousarray(rgb), face)


def still_seen(rgb: np.ndarray, face: Face, boxes: Sequence[Box] = ()) -> bool:
    """Whether YuNet, too, sees a face where landmarks are that were followed: they stay for a while on what has come
    before a face. Thread-safe.

    Args:
        rgb: uint8 [H, W, 3].
        face: As it was followed.
        boxes: Of a glance at the picture, after which no closer look is taken at a face that is sure in it.
    """
    if any(box.score >= _SURE[0] and _mismatch(face.landmarks, box.points) <= _SURE[1] for box in boxes):
        return True
    with LOCK:
        return _look_aligned(np.ascontiguousarray(rgb), face)[1] < _WRONG


def glance(rgb: np.ndarray) -> list[Box]:
    """Faces that YuNet sees in a picture uint8 [H, W, 3] made small, in its pixels. Thread-safe."""
    scale = min(_SIDES[0] / max(rgb.shape[:2]), 1.0)
    size = [max(1, round(side * scale)) for side in rgb.shape[1::-1]]
    with LOCK:
        boxes = detect_boxes(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
    return [_turned_back(box, 0, rgb.shape, 1 / scale) for box in boxes]


def others_seen(boxes: Sequence[Box], known: Sequence[Face]) -> bool:
    """Whether a glance has seen a face besides known ones."""
    near = lambda box: any(_overlap(box[:4], face.box) > 0.3 for face in known)
    return any(box.score >= _MISSED and not near(box) for box in boxes)


def choose_faces(faces: list[Face], which: int | Literal["largest", "all"] = "largest") -> list[Face]:
    """Pick the faces to edit: "largest", "all", or a number, 1 being the leftmost face.

    Raises:
        NoFaceError: `faces` is empty, or has no face of that number.
        ValueError: `which` is something else.
    """
    if not faces:
        raise NoFaceError("No face was found: use a photo in which a face is clearly visible.")
    if which == "all":
        return list(faces)
    if which == "largest":
        return [max(faces, key=lambda f: (f.box[2] - f.box[0]) * (f.box[3] - f.box[1]))]
    number = int(which) if isinstance(which, Integral) and not isinstance(which, bool) else None
    if number is None:
        raise ValueError(f"A face is chosen by 'largest', 'all' or a number from 1, got {which!r}.")
    if not 1 <= number <= len(faces):
        count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
        raise NoFaceError(f"There is no face {which}: the photo shows {count}, numbered from 1 at the left.")
    return [faces[number - 1]]


def _overlap(a: _Sides, b: _Sides) -> float:
    """Intersection over the smaller box, so that a box inside another counts as the same face."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / max(1e-9, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))


def same_place(a: _Sides, b: _Sides) -> bool:
    """True when boxes overlap and are of about one size; landmark boxes are a little larger than YuNet's."""
    sizes = sorted(max(box[2] - box[0], box[3] - box[1]) for box in (a, b))
    return _overlap(a, b) > 0.5 and sizes[1] < 2 * sizes[0]


def _search(rgb: np.ndarray, quarter: int) -> tuple[list[_Found], bool]:
    """Faces of a photo that is looked at turned by so many quarters to the left, and whether a box was left without."""
    boxes = _detect_boxes(rgb, quarter)
    pairs = [(face, box) for box in boxes if (face := _landmark_box(rgb, box, quarter))]
    missed = sum(box.score >= _MISSED for box in boxes) > sum(box.score >= _MISSED for _, box in pairs)
    if not pairs and (face := _landmark_whole(rgb, quarter)):
        return [_judge(rgb, face, None, quarter)], missed
    return [_judge(rgb, face, box, quarter) for face, box in pairs], missed


def _judge(rgb: np.ndarray, face: Face, box: Box | None, quarter: int) -> _Found:
    """Compare landmarks with YuNet's points: in the photo, and where that leaves doubt on the face's aligned crop."""
    mismatch = _mismatch(face.landmarks, box.points) if box else np.inf
    near = abs((_lean(face) - 90 * quarter + 180) % 360 - 180)
    sure = near <= _SURE_LEAN and face.score >= _SURE[0] and mismatch <= _SURE[1]
    if sure and quarter == 0:
        return _Found(face, True, 1 + face.score, True)
    if quarter and near > _MOST_LEAN:  # another way up sees it better
        return _Found(face, False, 0.0, False)
    score, aligned = _look_aligned(rgb, face)
    if near > _STRAIGHT and (straight := _straightened(rgb, face)):
        again = _look_aligned(rgb, straight)
        if again[0] - again[1] > score - aligned - _NOISE:
            face, (score, aligned) = straight, again
    sure = near <= _SURE_LEAN and (sure or (score >= _SURE_ALIGNED[0] and aligned <= _SURE_ALIGNED[1]))
    if quarter:
        return _Found(face, sure, score - aligned, score - aligned >= _LEAST_AGREEMENT)
    return _Found(face, sure, score - aligned + _OWN_WAY_UP + sure, min(mismatch, aligned) < _WRONG)


def _lean(face: Face) -> float:
    """Degrees by which the line of the eyes is turned clockwise from upright."""
    right, left = face.landmarks[_FIVE[:2], :2].mean(axis=1)
    return float(np.degrees(np.arctan2(left[1] - right[1], left[0] - right[0])))


def _mismatch(landmarks: np.ndarray, five: np.ndarray) -> float:
    """The largest distance between YuNet's five points [5, 2] and their like, in heights of the face."""
    height = np.linalg.norm(landmarks[152, :2] - landmarks[10, :2])
    return float(np.linalg.norm(landmarks[_FIVE, :2].mean(axis=1) - five, axis=1).max() / max(height, 1e-6))


def _detect_boxes(rgb: np.ndarray, quarter: int = 0) -> list[Box]:
    """YuNet's boxes on a photo turned by quarters to the left, best first, overlapping ones dropped; photo pixels."""
    found = []
    for scale in _scales(max(rgb.shape[:2])):
        size = [max(1, round(side * scale)) for side in rgb.shape[1::-1]]
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        turned = detect_boxes(np.ascontiguousarray(np.rot90(small, quarter)))
        found += [_turned_back(box, quarter, small.shape, 1 / scale) for box in turned]
    found.sort(key=lambda box: -box.score)
    boxes: list[Box] = []
    for box in found:
        if all(_overlap(box, other) < 0.5 for other in boxes):
            boxes.append(box)
    return boxes


def _turned_back(box: Box, quarter: int, shape: tuple[int, ...], zoom: float) -> Box:
    """A box on a picture of a shape that was turned by quarters to the left, in pixels of the picture times `zoom`."""
    points = np.vstack([np.reshape(box[:4], (2, 2)), box.points])
    for side in (shape[1], shape[0], shape[1])[:quarter][::-1]:
        points = np.column_stack([side - points[:, 1], points[:, 0]])
    points = points * zoom
    (x0, y0), (x1, y1) = points[:2].min(axis=0), points[:2].max(axis=0)
    return Box(x0, y0, x1, y1, box.score, points[2:])


def _scales(long_side: int) -> set[float]:
    small, large = _SIDES
    return {small / long_side, min(large / long_side, max(1.0, 2 * small / long_side))}


def _landmark_box(rgb: np.ndarray, box: Box, quarter: int = 0) -> Face | None:
    centre = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    for padding in _PADDINGS:
        side = max(box.x1 - box.x0, box.y1 - box.y0) * (1 + 2 * padding)
        face = _landmark_square(rgb, centre, side, box.score, 90.0 * quarter)
        # A neighbour's face in the padding must not be taken for the one in the box.
        if face and same_place(face.box, box):
            return face
    return None


def _landmark_whole(rgb: np.ndarray, quarter: int = 0) -> Face | None:
    """Look without YuNet's boxes; it must agree afterwards: the landmark network sees faces in cups."""
    height, width = rgb.shape[:2]
    for padding in (0.0, 0.3, 0.6):
        side = max(height, width) * (1 + 2 * padding)
        face = _landmark_square(rgb, np.array([width, height]) / 2, side, 0.0, 90.0 * quarter)
        if face and (score := _look_aligned(rgb, face)[0]):
            return replace(face, score=score)
    return None


def _look_aligned(rgb: np.ndarray, face: Face) -> tuple[float, float]:
    """YuNet's score for a face on its aligned crop and `_mismatch` there; 0 and infinity where it sees none."""
    matrix = align(face.landmarks, _SIDES[0])
    points = transform_points(matrix, face.landmarks)
    box = (*points[:MESH, :2].min(axis=0), *points[:MESH, :2].max(axis=0))
    found = [one for one in detect_boxes(warp_crop(rgb, matrix, _SIDES[0])) if same_place(box, one)]
    best = max(found, key=lambda one: one.score, default=None)
    return (best.score, _mismatch(points, best.points)) if best else (0.0, np.inf)


def _straightened(rgb: np.ndarray, face: Face) -> Face | None:
    """A leaning face, its landmarks read again on a crop on which its eyes are level."""
    to_photo = invert(align(face.landmarks, SIDE))
    side = float(SIDE * np.linalg.norm(to_photo[:, 0]) * _ROOM)
    again = _landmark_square(rgb, to_photo @ [SIDE / 2, SIDE / 2, 1], side, face.score, _lean(face))
    return again if again and same_place(again.box, face.box) else None


def _landmark_square(
    rgb: np.ndarray, centre: np.ndarray, side: float, score: float, lean: float = 0.0
) -> Face | None:
    """Run the landmark network on a square of the photo around `centre` (x, y), px, that stands upright for heads that
    lean `lean` degrees clockwise."""
    corner, zoom, angle = centre - side / 2, SIDE / side, np.radians(lean)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.array([[zoom, 0, -corner[0] * zoom], [0, zoom, -corner[1] * zoom]])
    if lean:
        matrix = zoom * np.column_stack([turn, side / 2 - turn @ centre])
    seen = detect_landmarks(warp_crop(rgb, matrix, SIDE))
    if seen is None:
        return None
    landmarks = seen[0] * side + (*corner, 0)
    if lean:
        landmarks[:, :2] = (landmarks[:, :2] - centre) @ turn + centre
    landmarks = landmarks.astype(np.float32)
    low, high = landmarks[:MESH, :2].min(axis=0), landmarks[:MESH, :2].max(axis=0)
    x0, y0, x1, y1 = (float(v) for v in (*low, *high))
    return Face(0, (x0, y0, x1, y1), landmarks, seen[1], score)
