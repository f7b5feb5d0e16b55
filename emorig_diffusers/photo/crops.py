"""The squares of a photo that networks see: which part of it, and how coordinates pass from one to another.

A *frame* is a square cut out of a photo. The picture that a network draws lies in the frame "aligned" (the open
default's), "ffhq" (DiffusionRig's training photos) or "whole" (the photo itself); an encoder reads codes in the
frame "aligned" or "deca". Pixel coordinates are those of `faces`: column i is centred at i + 0.5.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .resample import align, transform_points

PICTURE_FRAMES = ("aligned", "ffhq", "landmarks", "whole")

IBUG68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""MediaPipe's landmark at each of the 68 points of iBUG (Sagonas et al. 2013): contour 17, brows, nose, eyes, lips."""

DECA_SIDE = 224  # pixels of DECA's crop
_DECA_SCALE = 1.1 * 1.25  # landmarks' box to face's box, face's box to crop


def picture_matrix(frame: str, landmarks: np.ndarray | None, shape: tuple[int, ...], size: int) -> np.ndarray:
    """Similarity [2, 3] from photo pixels to a picture of `size` pixels.

    Args:
        frame: One of PICTURE_FRAMES.
        landmarks: MediaPipe's points [468 or more, 2 or 3] in photo pixels; not needed for "whole".
        shape: (height, width, ...) of the photo.
        size: Side of the picture, pixels.

    Raises:
        ValueError: An unknown frame.
    """
    match frame:
        case "whole":
            return square_matrix(shape, size)
        case "aligned":
            return align(np.asarray(landmarks), size)
        case "ffhq":
            return ffhq_matrix(np.asarray(landmarks)[list(IBUG68), :2], size)
        case "landmarks":
            return landmarks_matrix(np.asarray(landmarks)[list(IBUG68), :2], size)
    raise ValueError(f"Unknown picture frame {frame!r}: choose one of {', '.join(PICTURE_FRAMES)}.")


def square_matrix(shape: tuple[int, ...], size: int) -> np.ndarray:
    """Similarity [2, 3] from photo pixels to a picture of `size` that shows the largest square in the middle."""
    height, width = shape[:2]
    side = min(height, width)
    scale = size / side
    return scale * np.array([[1.0, 0, -((width - side) // 2)], [0, 1.0, -((height - side) // 2)]])


def ffhq_matrix(points: np.ndarray, size: int) -> np.ndarray:
    """FFHQ's alignment (Karras et al. 2019, appendix A): similarity [2, 3] from photo pixels to the square.

    The square's x axis is the difference from eye to eye minus that from eyes to mouth turned by a right angle, its
    half side the larger of 2 eye distances and 1.8 times eyes to mouth, its centre 0.1 of the way from eyes to mouth.

    Args:
        points: iBUG's 68 points [68, 2] in photo pixels.
        size: Side of the picture, pixels.

    Raises:
        ValueError: The points fall together in one.
    """
    centre, half, (cos, sin) = ffhq_square(points)
    linear = np.array([[cos, sin], [-sin, cos]]) * (size / (2 * half))
    return np.column_stack([linear, size / 2 - linear @ centre])


def landmarks_matrix(points: np.ndarray, size: int) -> np.ndarray:
    """The square over the box of a face's landmarks, turned about the middle between the eyes until they are level,
    as the emotion latent-diffusion model's pictures of AffectNet were cut out: similarity [2, 3] from photo pixels.

    Args:
        points: iBUG's 68 points [68, 2] in photo pixels.
        size: Side of the picture, pixels.

    Raises:
        ValueError: The points fall together in one.
    """
    points = np.asarray(points, np.float64)
    low, high = points.min(0), points.max(0)
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    side, across = float((high - low).max()), right - left
    if not side > 0 or not np.hypot(*across) > 0:
        raise ValueError("A face cannot be aligned when its landmarks fall together in one point.")
    (cos, sin), scale = across / np.hypot(*across), size / side
    linear = scale * np.array([[cos, sin], [-sin, cos]])
    eyes, corner = (left + right) / 2, (low + high - side) / 2
    return np.column_stack([linear, scale * (eyes - corner) - linear @ eyes])


def ffhq_square(points: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Centre [2], half side and unit x axis [2] of the square that `ffhq_matrix` shows; points and errors as there."""
    points = np.asarray(points, np.float64)
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    eyes, across = (left + right) / 2, right - left
    down = (points[48] + points[54]) / 2 - eyes
    x = across - np.array([-down[1], down[0]])
    length = np.hypot(*x)
    half = max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down))
    if not length > 0 or not half > 0:
        raise ValueError("A face cannot be aligned when its landmarks fall together in one point.")
    return eyes + 0.1 * down, half, x / length


def deca_box(points: np.ndarray) -> tuple[float, float, float]:
    """DECA's square (left, top, side) around a face, in picture pixels; the side is a whole number, as there.

    Args:
        points: iBUG's 68 points [68, 2] in picture pixels.
    """
    low, high = np.min(points, 0), np.max(points, 0)
    side = int((high - low).sum() / 2 * _DECA_SCALE)
    left, top = (low + high - side) / 2
    return float(left), float(top), float(side)


def deca_crop(picture: np.ndarray, box: tuple[float, float, float], size: int = DECA_SIDE) -> Tensor:
    """DECA's crop of a picture uint8 [H, W, 3] as [1, 3, size, size] in [0, 1].

    The centres of its corner pixels lie on the square's corners; bilinear without low-pass filter, black outside. Where
    no pixel is wholly black, values stay in the picture's range: skimage's `warp` clips so, also at its border.
    """
    left, top, side = box
    height, width = picture.shape[:2]
    steps = torch.arange(size, dtype=torch.float64) * (side / (size - 1))
    x, y = (left + steps) * (2 / width) - 1, (top + steps) * (2 / height) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    image = torch.tensor(picture).permute(2, 0, 1)[None].double() / 255
    crop = F.grid_sample(image, grid, align_corners=False)
    return (crop.clamp(image.min(), image.max()) if crop.min() > 0 else crop).float()


def deca_transform(box: tuple[float, float, float], side: int, size: int = DECA_SIDE) -> np.ndarray:
    """From normalised device coordinates (NDC) of DECA's crop to those of its picture, float64 [3, 3].

    DECA spreads NDC over `size` pixels where the crop itself spans `size - 1`, and takes the result, which counts
    from pixel centres, for one that counts from pixel borders: both offsets are kept, as published weights were
    trained with them.

    Args:
        box: (left, top, side) in picture pixels from `deca_box`.
        side: Side of the picture, pixels.
        size: Side of the crop, pixels.
    """
    left, top, extent = box
    pixel = extent / (size - 1)  # picture pixels a crop pixel
    scale = pixel * size / side
    middle = np.array([left - 0.5, top - 0.5]) + size / 2 * pixel
    x, y = middle * 2 / side - 1
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1.0]])


def ndc_transform(crop: np.ndarray, picture: np.ndarray, size: int) -> np.ndarray:
    """From normalised device coordinates of a crop to those of a picture [3, 3], both of `size` pixels, from their
    similarities [2, 3] of the photo's pixels."""
    device = np.array([[2 / size, 0, -1], [0, 2 / size, -1], [0, 0, 1]])
    to_crop, to_picture = (device @ np.vstack([m, (0, 0, 1)]) for m in (crop, picture))
    return to_picture @ np.linalg.inv(to_crop)


def encoder_transform(kind: str, landmarks: np.ndarray, picture: np.ndarray, size: int) -> np.ndarray:
    """From normalised device coordinates of an encoder's crop to those of a picture, float64 [3, 3].

    Args:
        kind: The encoder's crop: "aligned" or "deca".
        landmarks: MediaPipe's points in photo pixels.
        picture: Similarity [2, 3] from photo pixels to the picture.
        size: Side of the picture, pixels.
    """
    if kind == "deca":
        return deca_transform(deca_box(transform_points(picture, landmarks[list(IBUG68), :2])), size)
    return ndc_transform(align(landmarks, size), picture, size)


def fan_points(picture: np.ndarray) -> np.ndarray:
    """iBUG's 68 points [68, 2] in pixels of a picture uint8 [H, W, 3], by the network that DECA uses.

    FAN (Bulat & Tzimiropoulos 2017) of the package `face-alignment`, which fetches its weights on first use.

    Raises:
        ValueError: The package is not installed, or the network sees no face.
    """
    found = _fan().get_landmarks(picture)
    if not found:
        raise ValueError("FAN sees no face in the crop: use crop_landmarks='mediapipe'.")
    return np.asarray(found[0], np.float64) + 0.5  # it counts from pixel centres


@functools.lru_cache(maxsize=1)
def _fan() -> Any:
    try:
        from face_alignment import FaceAlignment, LandmarksType  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "crop_landmarks='fan' needs the package face-alignment: `pip install face-alignment`, or use 'mediapipe'."
        ) from error
    return FaceAlignment(LandmarksType.TWO_D, flip_input=False, device="cpu")
