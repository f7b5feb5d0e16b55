"""How a photo's pixels become a network's picture: by our own filter, or as the networks' authors resized photos.

DiffusionRig resizes with skimage and cuts to whole numbers, Diffusion Autoencoders with Pillow, and both cut faces out
of photos as FFHQ was made: from photos continued by reflection and blurred there, over a picture of 4,096 pixels.
Networks trained on such pictures notice another filter; ours has neither aliasing nor blurred borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from .crops import IBUG68, ffhq_square, picture_matrix, square_matrix
from .resample import warp_crop

RESAMPLINGS = ("area", "skimage", "pil")
"""Ours, DiffusionRig's (with DECA's test data) and Diffusion Autoencoders'."""
ALIGNED_SIDE = 256
"""Pixels of the picture that both authors' scripts cut out of a photo, before the network's size."""

_FFHQ_SIDE = 4096  # pixels that FFHQ's recipe samples the photo at before it filters
_LEAST_MARGIN = 3  # pixels of the photo around the square
_MARGIN, _PADDING, _BLUR = 0.1, 0.3, 0.02  # of the square's side: kept around it, continued beyond the photo, sigma


@dataclass(frozen=True)
class Picture:
    """What a network sees of a photo.

    Attributes:
        pixels: uint8 [S, S, 3].
        matrix: From photo pixels to the picture's [2, 3]; but for rounded sizes a similarity.
        own: How much of it is the photo as it is [S, S] in [0, 1], the rest being blurred; `None` for all.
    """

    pixels: np.ndarray
    matrix: np.ndarray
    own: np.ndarray | None = None


def take_picture(
    photo: np.ndarray, frame: str, landmarks: np.ndarray | None, size: int, resampling: str = "area"
) -> Picture:
    """A square of a photo in a network's size.

    Args:
        photo: uint8 [H, W, 3].
        frame: One of `crops.PICTURE_FRAMES`; "aligned" is ours alone, and resampled by area whatever is asked.
        landmarks: MediaPipe's points [468 or more, 2 or 3] in photo pixels; not needed for "whole".
        size: Side of the picture, pixels.
        resampling: One of RESAMPLINGS.

    Raises:
        ValueError: An unknown frame or resampling, or landmarks that fall together in one point.
    """
    if resampling not in RESAMPLINGS:
        raise ValueError(f"resampling is {resampling!r}: choose one of {', '.join(RESAMPLINGS)}.")
    if resampling == "area" or frame not in ("ffhq", "whole"):
        matrix = picture_matrix(frame, landmarks, photo.shape, size)
        return Picture(warp_crop(photo, matrix, size), matrix)
    if frame == "ffhq":
        cut = ffhq_picture(photo, np.asarray(landmarks)[list(IBUG68), :2], max(ALIGNED_SIDE, size))
        resize = resize_skimage if resampling == "skimage" else resize_pil
        own = None if cut.own is None else cv2.resize(cut.own, (size, size), interpolation=cv2.INTER_AREA)
        return Picture(resize(cut.pixels, size), cut.matrix * (size / len(cut.pixels)), own)
    if resampling == "pil":
        return Picture(resize_pil(photo, size), _pil_matrix(photo.shape, size))
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return Picture(resize_skimage(photo[top : top + side, left : left + side], size), square_matrix(photo.shape, size))


def resize_skimage(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] as [size, size, 3]: `skimage.transform.resize` with anti-aliasing, then cut, not
    rounded, to whole numbers.

    A Gaussian of half the shrinkage less one, then bilinear; the order of computation is skimage's, as the cut makes a
    level of the last bit.
    """
    shrinkage = np.divide(picture.shape[:2], size)
    sigma = np.maximum(0, (shrinkage - 1) / 2)
    resized = np.empty((size, size, 3))
    for channel in range(3):  # one by one, as float64 takes eight times the memory
        values = picture[..., channel] * (1 / 255)
        smooth = ndimage.gaussian_filter(values, sigma, mode="mirror")
        resized[..., channel] = ndimage.zoom(smooth, 1 / shrinkage, order=1, mode="mirror", grid_mode=True)
    low, high = (end(picture) * (1 / 255) for end in (np.min, np.max))
    return (resized.clip(low, high) * 255.0).astype(np.uint8)


def resize_pil(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a picture uint8 [H, W, 3] as [size, size, 3], as torchvision's Resize and CenterCrop on
    Pillow pictures: bilinear over all that a pixel covers."""
    width, height, left, top = _pil_layout(picture.shape, size)
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)[top : top + size, left : left + size].copy()


def _pil_layout(shape: tuple[int, ...], size: int) -> tuple[int, int, int, int]:
    """Width and height of a resized photo whose shorter side is `size`, left and top of its middle square."""
    height, width = shape[:2]
    longer = int(size * max(height, width) / min(height, width))
    new_width, new_height = (size, longer) if width <= height else (longer, size)
    return new_width, new_height, round((new_width - size) / 2), round((new_height - size) / 2)


def _pil_matrix(shape: tuple[int, ...], size: int) -> np.ndarray:
    width, height, left, top = _pil_layout(shape, size)
    return np.array([[width / shape[1], 0, -left], [0, height / shape[0], -top]])


def ffhq_picture(photo: np.ndarray, points: np.ndarray, side: int) -> Picture:
    """FFHQ's square of a photo as its makers cut it out (Karras et al. 2019, appendix A, and their script).

    The photo is halved and so on by Lanczos' filter while the square stays at twice the picture's side or more,
    continued by reflection where the square reaches beyond it, blurred and drawn to its median towards the far end of
    that, sampled at 4,096 pixels, and shrunk by Lanczos' filter.

    Args:
        photo: uint8 [H, W, 3].
        points: iBUG's 68 points [68, 2] in photo pixels.
        side: Side of the picture, pixels.

    Raises:
        ValueError: The points fall together in one.
    """
    centre, half, axis = ffhq_square(points)
    right, down = half * axis, half * np.array([-axis[1], axis[0]])
    # counter-clockwise from upper left, counted from pixel centres as the recipe's landmarks are
    corners = centre - 0.5 + np.stack([-right - down, -right + down, right + down, right - down])
    image, extent, scale = Image.fromarray(photo), 2 * half, np.ones(2)
    shrinkage = int(extent / side / 2)
    if shrinkage > 1:
        smaller = np.rint(np.array(image.size) / shrinkage).astype(int)
        scale = smaller / image.size
        image = image.resize(tuple(smaller.tolist()), Image.Resampling.LANCZOS)
        corners, extent = corners / shrinkage, extent / shrinkage
    matrix = _to_square(corners + 0.5, side) @ np.diag([*scale, 1])
    image, corners, blurred = _continued(*_cut_out(image, corners, extent), extent)
    large = _square_of(image, corners, _FFHQ_SIDE)
    own = None if blurred is None else 1 - np.asarray(_square_of(Image.fromarray(blurred), corners, side))
    return Picture(np.array(large.resize((side, side), Image.Resampling.LANCZOS)), matrix, own)


def _square_of(image: Image.Image, corners: np.ndarray, side: int) -> Image.Image:
    """The square between corners that count from pixel centres, bilinear."""
    places = (corners + 0.5).ravel().tolist()
    return image.transform((side, side), Image.Transform.QUAD, places, Image.Resampling.BILINEAR)


def _to_square(corners: np.ndarray, side: int) -> np.ndarray:
    """Similarity [2, 3] that brings the first corner to the origin, the last to (side, 0), the second to (0, side)."""
    edges = np.column_stack([corners[3] - corners[0], corners[1] - corners[0]]) / side
    linear = np.linalg.inv(edges)
    return np.column_stack([linear, -linear @ corners[0]])


def _margin(extent: float) -> int:
    return max(int(np.rint(extent * _MARGIN)), _LEAST_MARGIN)


def _cut_out(image: Image.Image, corners: np.ndarray, extent: float) -> tuple[Image.Image, np.ndarray]:
    """The photo around a square, and its corners there."""
    margin, limit = _margin(extent), np.array(image.size)
    low = np.floor(corners.min(0)).astype(int) - margin
    high = np.ceil(corners.max(0)).astype(int) + margin
    low = low.clip(0, limit - 1)
    high = np.minimum(high, limit).clip(low + 1)
    return image.crop((*low.tolist(), *high.tolist())), corners - low


def _continued(
    image: Image.Image, corners: np.ndarray, extent: float
) -> tuple[Image.Image, np.ndarray, np.ndarray | None]:
    """The photo continued on all sides where a square comes near its border, the square's corners there, and how much
    of every pixel is blurred, float32 in [0, 1]; `None` where the photo stays as it is."""
    margin = _margin(extent)
    before = np.maximum(margin - np.floor(corners.min(0)).astype(int), 0)
    after = np.maximum(np.ceil(corners.max(0)).astype(int) + margin - image.size, 0)
    if max(*before, *after) <= margin - 4:
        return image, corners, None
    before, after = (np.maximum(pad, int(np.rint(extent * _PADDING))) for pad in (before, after))
    pads = [(before[1], after[1]), (before[0], after[0]), (0, 0)]
    pixels = np.pad(np.asarray(image, np.float32), pads, "reflect")
    # 1 at the very end, 0 where the photo starts, below 0 inside it
    y, x = (_outside(length, *pad)[:, None] for length, pad in zip(pixels.shape, pads[:2]))
    outside = np.maximum(y[:, None], x[None])
    sigma, blurred = extent * _BLUR, np.clip(3 * outside + 1, 0, 1)
    pixels += (ndimage.gaussian_filter(pixels, (sigma, sigma, 0)) - pixels) * blurred
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)), corners + before, blurred[..., 0]


def _outside(length: int, before: int, after: int) -> np.ndarray:
    """Along one axis, how far beyond the photo a pixel lies, in units of what it was continued by, float32."""
    place = np.arange(length, dtype=np.float32)
    return 1 - np.minimum(place / np.float32(before), (length - 1 - place) / np.float32(after))
