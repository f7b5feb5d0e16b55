"""Whether two photos show the same person: cosine similarity (CSIM) of SFace embeddings."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from emorig_diffusers.assets import fetch
from emorig_diffusers.faces import warp_crop

_SIDE = 112  # pixels the network sees
# Where SFace's training crops have eye centres, nose tip and mouth corners (the ArcFace template,
# arXiv:1801.07698), image-left before image-right, in a 112-pixel square.
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# The same five points as means of MediaPipe landmarks. An eye's centre is that of its two corners: iris and
# lids move with gaze and blink, which an edit of the expression may change.
_POINTS = ((33, 133), (362, 263), (4,), (61,), (291,))


class IdentityJudge:
    """Face embeddings of SFace (Zhong et al. 2021, arXiv:2205.12010; OpenCV Zoo, Apache-2.0, int8 weights).

    Two photos of one person are usually above 0.6, two persons below 0.3 (OpenCV's threshold for one person
    is 0.363).

    Raises:
        AssetError: the weights are neither in the cache nor to be had.
    """

    def __init__(self) -> None:
        self._network = cv2.dnn.readNetFromONNX(str(fetch("sface")))
        # A cv2 network keeps its input between two calls, so threads must take turns.
        self._lock = threading.Lock()

    def embed(self, rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Embedding of one face.

        Args:
            rgb: uint8 [H, W, 3].
            landmarks: [478, 3] (or [N >= 468, >= 2]) MediaPipe landmarks, x and y in pixels.

        Returns:
            float32 [128] of length 1.

        Raises:
            ValueError: wrong shape or type of an argument.
        """
        # The file lists its quantised weights as inputs too: the picture's input has to be named.
        blob = cv2.dnn.blobFromImage(align_five_points(rgb, landmarks))
        with self._lock:
            self._network.setInput(blob, "data")
            embedding = self._network.forward().reshape(-1).copy()
        return embedding / np.linalg.norm(embedding)

    @staticmethod
    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        """Cosine of two embeddings [128], in [-1, 1]."""
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def align_five_points(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The upright square that face recognition networks are trained on.

    Args:
        rgb: uint8 [H, W, 3].
        landmarks: [478, 3] (or [N >= 468, >= 2]) MediaPipe landmarks, x and y in pixels.

    Returns:
        uint8 [112, 112, 3]; beyond the photo its edge pixels repeat.

    Raises:
        ValueError: wrong shape or type of an argument.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"IdentityJudge needs a uint8 picture [H, W, 3], not {rgb.dtype} {rgb.shape}.")
    if landmarks.ndim != 2 or len(landmarks) < 468 or landmarks.shape[1] < 2:
        raise ValueError(f"IdentityJudge needs MediaPipe's landmarks [478, 3], not {landmarks.shape}.")
    points = np.array([landmarks[list(indices), :2].mean(0) for indices in _POINTS])
    # The template counts pixel centres from 0, our pixel coordinates from 0.5.
    return warp_crop(rgb, _similarity(points, _TEMPLATE + 0.5), _SIDE)


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares turn, scale and shift [2, 3] that takes points [N, 2] to `target` [N, 2]."""
    one, zero = np.ones(len(source)), np.zeros(len(source))
    x, y = source.T
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, shift_x, shift_y = np.linalg.lstsq(system, target.T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, shift_x], [b, a, shift_y]])
