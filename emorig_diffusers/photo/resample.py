"""Cut an aligned crop out of a photo, bring fields from one to the other, and paste an edited crop back.

Pixel coordinates: x to the right, y down; a photo W wide spans x in [0, W]; column i is centred at i + 0.5.
A crop is tied to its photo by one similarity matrix, float64 [2, 3]: crop = matrix @ (x, y, 1).
"""

from __future__ import annotations

import cv2
import numpy as np

from .landmarks import EYE_CORNERS, MESH

FACE_SHARE = 0.66  # of the aligned crop's side, forehead top to chin


def align(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The similarity from photo pixels to an aligned square crop of `size` px, float64 [2, 3].

    The eyes become horizontal. The face, from forehead top (landmark 10) to chin (152), but at least 1.25
    times its width between the cheeks (234, 454), takes 0.66 of the side; the landmarks' box is centred.

    Args:
        landmarks: [468 or more, 2 or 3] in photo pixels.

    Raises:
        ValueError: the landmarks fall together in one point.
    """
    points = np.asarray(landmarks, np.float64)[:MESH, :2]
    eyes = points[list(EYE_CORNERS[1])].mean(axis=0) - points[list(EYE_CORNERS[0])].mean(axis=0)
    height = np.linalg.norm(points[152] - points[10])
    extent = max(height, 1.25 * np.linalg.norm(points[454] - points[234]))
    if not extent > 0 or not eyes.any():
        raise ValueError("A face cannot be aligned when its landmarks fall together in one point.")
    cos, sin = eyes / np.linalg.norm(eyes)
    linear = np.array([[cos, sin], [-sin, cos]]) * (FACE_SHARE * size / extent)
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


def displaced(photo: np.ndarray, motion: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """What a photo [H, W, C] shows where motion [h, w, 2] from each pixel of a window points, bicubic; at its border
    the photo goes on as it ends.

    Args:
        motion: float32, photo pixels.
        corner: Left and top of the window, photo pixels.
    """
    y, x = np.indices(motion.shape[:2], np.float32) + np.array(corner[::-1], np.float32)[:, None, None]
    return cv2.remap(photo, x + motion[..., 0], y + motion[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def enlarge(field: np.ndarray, matrix: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """A crop's field [S, S] or [S, S, C] at the photo's pixels in a window (x0, y0, x1, y1); 0 beyond the crop.

    Args:
        matrix: Similarity [2, 3] from photo pixels to the crop.
    """
    x0, y0, x1, y1 = window
    shift = matrix @ [x0 + 0.5, y0 + 0.5, 1] - 0.5  # pixel centres lie at half numbers in both frames
    to_crop = np.column_stack([matrix[:, :2], shift])
    return cv2.warpAffine(field, to_crop, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
