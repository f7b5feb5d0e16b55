"""Whether two photos show the same person: cosine similarity (CSIM) of face embeddings."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np

from ...files.assets import AssetError, cache_dir, fetch
from ...photo.landmarks import EYE_CORNERS, MOUTH_CORNERS
from ...photo.resample import warp_crop
from .checks import check_landmarks, check_picture

_SIDE = 112  # pixels the networks see
_COSFACE_SIZE = 512
# Where SFace's training crops have eye centres, nose tip and mouth corners (the ArcFace template,
# arXiv:1801.07698), image-left before image-right, in a 112-pixel square.
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# The same five points as means of MediaPipe landmarks. An eye's centre is that of its two corners: iris and
# lids move with gaze and blink, which an edit of the expression may change.
_POINTS = (*EYE_CORNERS, (4,), *((corner,) for corner in MOUTH_CORNERS))


class _OnnxJudge:
    """A face recognition network in OpenCV: the aligned 112-pixel RGB crop, (x - offset) / scale, to an embedding."""

    name: str

    def __init__(self, path: Path, offset: float, scale: float, input_name: str = "") -> None:
        self._network, self._input = cv2.dnn.readNetFromONNX(str(path)), input_name
        self._offset, self._scale = offset, scale
        # A cv2 network keeps its input between two calls, so threads must take turns.
        self._lock = threading.Lock()

    def embed(self, rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Embedding of one face.

        Args:
            rgb: uint8 [H, W, 3].
            landmarks: [478, 3] (or [N >= 468, >= 2]) MediaPipe landmarks, x and y in pixels.

        Returns:
            float32 of length 1: SFace's [128], CosFace's [512].

        Raises:
            ValueError: wrong shape or type of an argument.
        """
        embedding = self._forward(align_five_points(rgb, landmarks))
        return embedding / np.linalg.norm(embedding)

    @staticmethod
    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        """Cosine of two embeddings of one judge, in [-1, 1]."""
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def _forward(self, crop: np.ndarray) -> np.ndarray:
        blob = cv2.dnn.blobFromImage(crop, 1 / self._scale, mean=(self._offset,) * 3)
        with self._lock:
            self._network.setInput(blob, self._input)
            return self._network.forward().reshape(-1).copy()


class IdentityJudge(_OnnxJudge):
    """Face embeddings of SFace (Zhong et al. 2021, arXiv:2205.12010; OpenCV Zoo, Apache-2.0, int8 weights).

    Two photos of one person are usually above 0.6, two persons below 0.3 (OpenCV's threshold for one person
    is 0.363).

    Raises:
        AssetError: the weights are neither in the cache nor to be had.
    """

    name = "SFace"

    def __init__(self) -> None:
        # The file lists its quantised weights as inputs too: the picture's input has to be named.
        super().__init__(fetch("sface"), 0.0, 1.0, "data")


class CosFaceJudge(_OnnxJudge):
    """Face embeddings of insightface's ResNet-50 trained with CosFace (Wang et al. 2018, arXiv:1801.09414).

    The judge of the published CSIM figures; its weights are for research only and come with no package. insightface's
    model zoo (recognition/arcface_torch) has them as ONNX: RGB [1, 3, 112, 112] in [-1, 1] in, [1, 512] out.

    Args:
        path: the .onnx file.

    Raises:
        AssetError: no such file, or none of such a network.
    """

    name = "CosFace r50"

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise AssetError(f"{path} is not there: give the .onnx file of insightface's CosFace r50.")
        try:
            super().__init__(Path(path), 127.5, 127.5)
            size = self._forward(np.zeros((_SIDE, _SIDE, 3), np.uint8)).size
        except cv2.error as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise AssetError(f"{path} is no network that OpenCV reads ({reason}): give an .onnx file.") from error
        if size != _COSFACE_SIZE:
            raise AssetError(f"{path} gives {size} numbers a face: give CosFace r50's file, which gives 512.")


def identity_judge(kind: str | Path = "auto") -> IdentityJudge | CosFaceJudge:
    """The judge of identity to use.

    Args:
        kind: "sface"; the path of CosFace r50's .onnx file; or "auto" for CosFace where its file is
            `cosface_r50.onnx` in the cache folder (`assets.cache_dir`), else SFace.

    Raises:
        AssetError: the weights are neither at hand nor to be had.
    """
    if kind == "sface":
        return IdentityJudge()
    if kind != "auto":
        return CosFaceJudge(kind)
    own = cache_dir() / "cosface_r50.onnx"
    return CosFaceJudge(own) if own.is_file() else IdentityJudge()


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
    check_picture(rgb, "IdentityJudge")
    check_landmarks(landmarks, "IdentityJudge")
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
