"""The two networks that look for faces: YuNet for boxes, MediaPipe's Face Landmarker for points.

Both see one small upright picture; where to look in a photo is decided in faces.py. Neither is safe to call from two
threads at once: hold LOCK.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..files import assets

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

SIDE = 384  # of the square the landmark network sees, px
LOCK = threading.Lock()
_YUNET_SIDE = 320  # px; only for the first call, every later one sets its own
_MIN_SCORE = 0.6  # YuNet's, to take a box for a face


class Box(NamedTuple):
    """What YuNet (Wu et al., Machine Intelligence Research 2023) says of a face.

    Attributes:
        x0, y0, x1, y1: Its sides, pixels.
        score: Confidence in [0, 1].
        points: Right eye, left eye, tip of the nose, right and left corner of the mouth [5, 2], pixels; right is the
            person's.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    points: np.ndarray


def detect_boxes(rgb: np.ndarray) -> list[Box]:
    """Faces of a picture uint8 [H, W, 3] that YuNet sees, in its pixels."""
    detector, _ = _networks(os.getpid())
    detector.setInputSize(rgb.shape[1::-1])
    found = detector.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    rows = [] if found is None else found.astype(float).tolist()
    return [Box(x, y, x + w, y + h, score, np.reshape(points, (5, 2))) for x, y, w, h, *points, score in rows]


def detect_landmarks(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The face that fills a picture uint8 [SIDE, SIDE, 3], or None.

    Returns:
        Points float64 [478, 3] as shares of the side, z on the same scale; blendshape scores float32 [51].
    """
    import mediapipe

    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)
    result = _networks(os.getpid())[1].detect(image)
    if not result.face_landmarks:
        return None
    points = np.array([(p.x, p.y, p.z) for p in result.face_landmarks[0]])
    scores = {c.category_name: c.score for c in result.face_blendshapes[0]}
    return points, np.array([scores[name] for name in BLENDSHAPES], np.float32)


@functools.lru_cache(maxsize=1)
def _networks(process: int) -> tuple[Any, Any]:
    """YuNet and the landmark network, loaded once a process: a forked one cannot use its parent's threads."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    paths = [assets.fetch(name) for name in ("face_detector", "face_landmarker")]
    with _quiet_stderr():
        from mediapipe import Image, ImageFormat
        from mediapipe.tasks.python import BaseOptions, vision

        detector = cv2.FaceDetectorYN.create(str(paths[0]), "", (_YUNET_SIDE, _YUNET_SIDE), _MIN_SCORE, 0.3, 5000)
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=paths[1].read_bytes()), output_face_blendshapes=True
        )
        landmarker = vision.FaceLandmarker.create_from_options(options)
        blank = np.zeros((SIDE, SIDE, 3), np.uint8)
        detector.detect(blank[:_YUNET_SIDE, :_YUNET_SIDE])
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
