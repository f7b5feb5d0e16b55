"""Between ComfyUI's pictures, float [B, H, W, C] in [0, 1], and the package's photos, uint8 [H, W, 3]."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ..photo.io import read_photo

CLOSING = 0.1  # share of a face's width: narrower gaps between changed pixels count as edited; by eye, one portrait


def to_photos(images: Tensor) -> list[np.ndarray]:
    """Photos uint8 [H, W, 3] of a batch [B, H, W, 3], or with alpha [B, H, W, 4].

    Raises:
        ValueError: If it is no such batch, or a picture is too small or too large, in one sentence.
    """
    if images.ndim != 4 or images.shape[-1] not in (3, 4) or not len(images):
        raise ValueError(f"image must be pictures [B, H, W, 3] or [B, H, W, 4], got {list(images.shape)}.")
    if not images.isfinite().all():
        raise ValueError("image has pixels that are no numbers: look at the node before this one.")
    return [read_photo(np.ascontiguousarray(one.numpy())).rgb for one in to_bytes(images[..., :3])]


def to_bytes(images: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8, on the CPU."""
    return (images.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def to_images(images: Tensor, photos: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> Tensor:
    """The batch [B, H, W, C] with results uint8 [H, W, 3] of its photos: pixels that no edit changed, and alpha, keep
    their floats to the bit, which need not be those of 8 bits."""
    before, after = (torch.from_numpy(np.stack(some)) for some in (photos, results))
    edited = images.detach().cpu().clone()
    colours = edited[..., :3]
    colours[:] = torch.where((before != after).any(-1, keepdim=True), after.to(colours.dtype) / 255, colours)
    return edited


def edited_regions(photos: Sequence[np.ndarray], results: Sequence[np.ndarray], face_widths: Sequence[float]) -> Tensor:
    """Where photos were edited, as ComfyUI's masks [B, H, W]: 1 around all that changed, without holes, else 0."""
    return torch.stack([_region(*one) for one in zip(photos, results, face_widths)])


def _region(photo: np.ndarray, result: np.ndarray, face_width: float) -> Tensor:
    changed = (photo != result).any(-1).astype(np.uint8)
    side = 1 + 2 * round(CLOSING * face_width / 2)
    closed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(closed, outlines, -1, 1, cv2.FILLED)
    return torch.from_numpy(np.maximum(closed, changed)).float()
