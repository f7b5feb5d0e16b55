"""Find the faces of a photo, cut out an aligned crop, and paste an edited crop back.

Pixel coordinates: x to the right, y down; a photo W wide spans x in [0, W]; column i is centred at i + 0.5.
A crop is tied to its photo by one similarity matrix, float64 [2, 3]: crop = matrix @ (x, y, 1).
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import cv2
import numpy as np

from emorig_diffusers import assets

_NAMES = """
browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight
eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft
eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft
mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight
mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft
mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft
noseSneerRight
"""
BLENDSHAPES: tuple[str, ...] = tuple(_NAMES.split())
"""ARKit's names in MediaPipe's order: 51, without its `_neutral`; MediaPipe has no `tongueOut`."""

_CROP = 384  # side of the square the landmark network sees, px
_PADDINGS = (0.6, 1.2, 0.25)  # of a face box, tried in turn until the landmark network accepts the crop
_SIDES = (320, 1280)  # long sides at which YuNet looks: one for faces that fill the photo, one for small ones
_MIN_SCORE = 0.6  # YuNet's, to take a box for a face
_FACE_SHARE = 0.66  # of the aligned crop's side, forehead top to chin
_MESH = 468  # landmarks before the ten of the irises
_LOCK = threading.Lock()


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


def find_faces(rgb: np.ndarray) -> list[Face]:
    """Find the faces of a photo, left to right; the list may be empty.

    YuNet (Wu et al., Machine Intelligence Research 2023) finds boxes, MediaPipe's Face Landmarker runs on a
    padded crop of each. Where YuNet finds none, the landmarker looks at the whole photo. Thread-safe.

    Args:
        rgb: uint8 [H, W, 3], upright.

    Raises:
        AssetError: a network is missing and cannot be fetched.
    """
    rgb = np.ascontiguousarray(rgb)
    with _LOCK:
        found = [face for box in _detect_boxes(rgb) if (face := _landmark_box(rgb, box))]
        if not found and (face := _landmark_whole(rgb)):
            found = [face]
    found.sort(key=lambda face: -face.score)
    unique: list[Face] = []
    for face in found:
        if all(_overlap(face.box, other.box) < 0.5 for other in unique):
            unique.append(face)
    unique.sort(key=lambda face: face.box[0] + face.box[2])
    return [replace(face, index=i) for i, face in enumerate(unique)]


def choose_faces(faces: list[Face], which: int | Literal["largest", "all"] = "largest") -> list[Face]:
    """Pick the faces to edit: "largest", "all", or a number, 1 being the leftmost face.

    Raises:
        NoFaceError: `faces` is empty, or has no face of that number.
        ValueError: `which` is something else.
    """
    if not faces:
        raise NoFaceError("No face was found: use a photo in which a face is visible and upright.")
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


def align(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The similarity from photo pixels to an aligned square crop of `size` px, float64 [2, 3].

    The eyes become horizontal. The face, from forehead top (landmark 10) to chin (152), but at least 1.25
    times its width between the cheeks (234, 454), takes 0.66 of the side; the landmarks' box is centred.

    Args:
        landmarks: [468 or more, 2 or 3] in photo pixels.

    Raises:
        ValueError: the landmarks fall together in one point.
    """
    points = np.asarray(landmarks, np.float64)[:_MESH, :2]
    eyes = points[[362, 263]].mean(axis=0) - points[[33, 133]].mean(axis=0)
    height = np.linalg.norm(points[152] - points[10])
    extent = max(height, 1.25 * np.linalg.norm(points[454] - points[234]))
    if not extent > 0 or not eyes.any():
        raise ValueError("A face cannot be aligned when its landmarks fall together in one point.")
    cos, sin = eyes / np.linalg.norm(eyes)
    linear = np.array([[cos, sin], [-sin, cos]]) * (_FACE_SHARE * size / extent)
    turned = points @ linear.T
    centre = (turned.min(axis=0) + turned.max(axis=0)) / 2
    return np.column_stack([linear, size / 2 - centre])


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a similarity or affine matrix [2, 3], float64 [2, 3]."""
    linear = np.linalg.inv(np.asarray(matrix, np.float64)[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a similarity [2, 3] to points [..., 2 or 3]; z, where there is one, is scaled along. float64."""
    points = np.asarray(points, np.float64)
    moved = points[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([moved, points[..., 2:] * _scale(matrix)], axis=-1)


def warp_crop(rgb: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Cut the square crop of `size` px out of a photo; uint8 [size, size, 3].

    Bicubic where it enlarges, area-averaged before it samples where it shrinks; beyond the photo its edge
    pixels repeat.
    """
    return _warp(rgb, np.asarray(matrix, np.float64), size, size, cv2.BORDER_REPLICATE)


def resample(
    picture: np.ndarray, mask: np.ndarray, matrix: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a crop's channels [h, w, C] and weights [h, w, D] through a similarity [2, 3] to [height, width, ...].

    Channels are continued beyond the crop, weights are 0 there, and never overshoot.
    """
    def bring(image: np.ndarray, border: int, method: int) -> np.ndarray:
        parts = (np.ascontiguousarray(image[..., i : i + 3], np.float32) for i in range(0, image.shape[2], 3))
        return np.dstack([_warp(part, matrix, width, height, border, method) for part in parts])

    return bring(picture, cv2.BORDER_REPLICATE, cv2.INTER_CUBIC), bring(mask, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)


def paste(photo_rgb: np.ndarray, crop_rgb: np.ndarray, mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Blend a crop back into its photo; uint8 [H, W, 3]. Pixels the mask does not reach stay bit for bit.

    Args:
        photo_rgb: uint8 [H, W, 3].
        crop_rgb: [S, S, 3], uint8 or float in [0, 1].
        mask: [S, S] in [0, 1], 1 takes the crop's pixel.
        matrix: the crop's, from `align`.

    Raises:
        ValueError: the mask is not the crop's size.
    """
    if mask.shape != crop_rgb.shape[:2]:
        raise ValueError(f"The mask {list(mask.shape)} must be the crop's size {list(crop_rgb.shape[:2])}.")
    result = photo_rgb.copy()
    x0, y0, x1, y1 = reach(mask, matrix, photo_rgb.shape)
    if x1 <= x0 or y1 <= y0:
        return result
    back = invert(matrix) - np.array([[0, 0, x0], [0, 0, y0]])
    crop = crop_rgb if crop_rgb.dtype == np.uint8 else crop_rgb.astype(np.float32) * 255
    warped = _warp(crop, back, x1 - x0, y1 - y0, cv2.BORDER_REPLICATE).astype(np.float32)
    weight = _warp(mask.astype(np.float32), back, x1 - x0, y1 - y0, cv2.BORDER_CONSTANT, cv2.INTER_LINEAR)
    region = result[y0:y1, x0:x1]
    inside = weight > 0
    old = region[inside].astype(np.float32)
    blended = old + (warped[inside] - old) * np.minimum(weight[inside], 1)[:, None]
    region[inside] = np.clip(blended + 0.5, 0, 255).astype(np.uint8)
    return result


def _scale(matrix: np.ndarray) -> float:
    return float(np.sqrt(abs(np.linalg.det(np.asarray(matrix, np.float64)[:, :2]))))


def _warp(
    image: np.ndarray, matrix: np.ndarray, width: int, height: int, border: int, method: int = cv2.INTER_CUBIC
) -> np.ndarray:
    """Resample through `matrix` (pixel coordinates) without aliasing: see warp_crop."""
    x0, y0, x1, y1 = _source_window(image.shape, matrix, width, height)
    window = image[y0:y1, x0:x1]
    shrink = min(1.0, 1.5 * _scale(matrix))
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in (x1 - x0, y1 - y0)]
        window = cv2.resize(window, size, interpolation=cv2.INTER_AREA)
        method = cv2.INTER_LINEAR
    step = np.array([(x1 - x0) / window.shape[1], (y1 - y0) / window.shape[0]])
    linear = matrix[:, :2] * step
    offset = matrix[:, :2] @ (x0, y0) + matrix[:, 2]
    # OpenCV puts pixel centres at whole numbers, pixel coordinates put them at halves.
    centred = np.column_stack([linear, offset + linear @ (0.5, 0.5) - 0.5])
    return cv2.warpAffine(window, centred, (width, height), flags=method, borderMode=border)


def _source_window(
    shape: tuple[int, ...], matrix: np.ndarray, width: int, height: int
) -> tuple[int, int, int, int]:
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    seen = transform_points(invert(matrix), corners)
    margin = 4 + 4 / _scale(matrix)
    low, high = np.floor(seen.min(axis=0) - margin), np.ceil(seen.max(axis=0) + margin)
    limit = np.array([shape[1], shape[0]])
    low = np.clip(low, 0, limit - 1).astype(int)
    high = np.maximum(np.clip(high, 0, limit).astype(int), low + 1)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def reach(mask: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The photo window x0, y0, x1, y1 the mask's non-zero pixels can touch; empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    left, right, top, bottom = columns[0] - 1, columns[-1] + 2, rows[0] - 1, rows[-1] + 2
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
    seen = transform_points(invert(matrix), corners)
    limit = np.array([shape[1], shape[0]])
    low = np.clip(np.floor(seen.min(axis=0)) - 1, 0, limit).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0)) + 1, 0, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def enlarge(field: np.ndarray, matrix: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """A crop's field [S, S] or [S, S, C] at the photo's pixels in a window (x0, y0, x1, y1); 0 beyond the crop.

    Args:
        matrix: Similarity [2, 3] from photo pixels to the crop.
    """
    x0, y0, x1, y1 = window
    shift = matrix @ [x0 + 0.5, y0 + 0.5, 1] - 0.5  # pixel centres lie at half numbers in both frames
    to_crop = np.column_stack([matrix[:, :2], shift])
    return cv2.warpAffine(field, to_crop, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over the smaller box, so that a box inside another counts as the same face."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / max(1e-9, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))


def _same_place(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """True when boxes overlap and are of about one size; landmark boxes are a little larger than YuNet's."""
    sizes = sorted(max(box[2] - box[0], box[3] - box[1]) for box in (a, b))
    return _overlap(a, b) > 0.5 and sizes[1] < 2 * sizes[0]


def _detect_boxes(rgb: np.ndarray) -> list[tuple[float, float, float, float, float]]:
    """YuNet's boxes (x0, y0, x1, y1, score), best first, overlapping ones dropped."""
    rows = []
    for scale in _scales(max(rgb.shape[:2])):
        size = [max(1, round(side * scale)) for side in rgb.shape[1::-1]]
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        rows += _yunet(small, 1 / scale)
    rows.sort(key=lambda row: -row[4])
    boxes: list[tuple[float, float, float, float, float]] = []
    for row in rows:
        if all(_overlap(row, other) < 0.5 for other in boxes):
            boxes.append(row)
    return boxes


def _yunet(rgb: np.ndarray, zoom: float) -> list[tuple[float, float, float, float, float]]:
    detector, _ = _networks(os.getpid())
    detector.setInputSize(rgb.shape[1::-1])
    found = detector.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    rows = [] if found is None else found.astype(float).tolist()
    return [(x * zoom, y * zoom, (x + w) * zoom, (y + h) * zoom, score) for x, y, w, h, *_, score in rows]


def _scales(long_side: int) -> set[float]:
    small, large = _SIDES
    return {small / long_side, min(large / long_side, max(1.0, 2 * small / long_side))}


def _landmark_box(rgb: np.ndarray, box: tuple[float, ...]) -> Face | None:
    x0, y0, x1, y1, score = box
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    for padding in _PADDINGS:
        side = max(x1 - x0, y1 - y0) * (1 + 2 * padding)
        face = _landmark_square(rgb, centre - side / 2, side, score)
        # A neighbour's face in the padding must not be taken for the one in the box.
        if face and _same_place(face.box, box):
            return face
    return None


def _landmark_whole(rgb: np.ndarray) -> Face | None:
    """Look without YuNet's boxes; it must agree afterwards: the landmark network sees faces in cups."""
    height, width = rgb.shape[:2]
    for padding in (0.0, 0.3, 0.6):
        side = max(height, width) * (1 + 2 * padding)
        face = _landmark_square(rgb, np.array([width - side, height - side]) / 2, side, 0.0)
        if face and (score := _confirm(rgb, face)):
            return replace(face, score=score)
    return None


def _confirm(rgb: np.ndarray, face: Face) -> float:
    """YuNet's score for a face on its aligned crop, 0 where it sees none there."""
    matrix = align(face.landmarks, _SIDES[0])
    points = transform_points(matrix, face.landmarks[:_MESH, :2])
    box = (*points.min(axis=0), *points.max(axis=0))
    rows = _yunet(warp_crop(rgb, matrix, _SIDES[0]), 1.0)
    return max((row[4] for row in rows if _same_place(box, row)), default=0.0)


def _landmark_square(rgb: np.ndarray, corner: np.ndarray, side: float, score: float) -> Face | None:
    """Run the landmark network on the square at `corner` (x, y) with `side`, all in photo pixels."""
    import mediapipe

    zoom = _CROP / side
    matrix = np.array([[zoom, 0, -corner[0] * zoom], [0, zoom, -corner[1] * zoom]])
    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=warp_crop(rgb, matrix, _CROP))
    result = _networks(os.getpid())[1].detect(image)
    if not result.face_landmarks:
        return None
    relative = np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]])
    landmarks = (relative * side + (*corner, 0)).astype(np.float32)
    low, high = landmarks[:_MESH, :2].min(axis=0), landmarks[:_MESH, :2].max(axis=0)
    scores = {c.category_name: c.score for c in result.face_blendshapes[0]}
    blendshapes = np.array([scores[name] for name in BLENDSHAPES], np.float32)
    x0, y0, x1, y1 = (float(v) for v in (*low, *high))
    return Face(0, (x0, y0, x1, y1), landmarks, blendshapes, score)


@functools.lru_cache(maxsize=1)
def _networks(process: int) -> tuple[Any, Any]:
    """YuNet and the landmark network, loaded once a process: a forked one cannot use its parent's threads."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    paths = [assets.fetch(name) for name in ("face_detector", "face_landmarker")]
    with _quiet_stderr():
        from mediapipe import Image, ImageFormat
        from mediapipe.tasks.python import BaseOptions, vision

        detector = cv2.FaceDetectorYN.create(str(paths[0]), "", (_SIDES[0], _SIDES[0]), _MIN_SCORE, 0.3, 5000)
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=paths[1].read_bytes()), output_face_blendshapes=True
        )
        landmarker = vision.FaceLandmarker.create_from_options(options)
        blank = np.zeros((_CROP, _CROP, 3), np.uint8)
        detector.detect(blank[: _SIDES[0], : _SIDES[0]])
        landmarker.detect(Image(image_format=ImageFormat.SRGB, data=blank))
    # Its destructor raises while the interpreter ends; without a handle it does nothing.
    atexit.register(setattr, landmarker, "_handle", None)
    return detector, landmarker


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what the C++ libraries write while they load; their log settings do not reach it."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all, as under pythonw
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
