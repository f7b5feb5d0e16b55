"""Decide what to repaint on a moved face, and put the painted crop back under the photo's own detail."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .faces import paste, reach
from .phototexture import Warp
from .repaint import make_base, paint_mouth, regions

OPENING_CHANGE = 0.0012  # metres by which the lips must part or close before the mouth is painted anew
OPENING_STRETCH = 0.5  # share by which an open mouth may change and keep its own teeth
FOLD_MOTION = 0.0025  # metres by which the mouth must widen or its corners rise before the folds are painted anew


@dataclass
class Plan:
    """What is repainted on an aligned crop of side S, as the network wants it.

    Attributes:
        moved: The crop after motion, uint8 [S, S, 3].
        base: What the network corrects [1, 3, S, S] in [-1, 1].
        normal, albedo: The target head [1, 3, S, S].
        network_mask: Pixels the network paints [1, 1, S, S].
        mouth: Pixels between the lips [1, 1, S, S].
        skin: How much of the painted skin is taken, soft [S, S]; the photo's fine detail stays on top.
        inside: How much of the painted mouth is taken, soft [S, S]; the photo's detail is dropped there.
    """

    moved: np.ndarray
    base: Tensor
    normal: Tensor
    albedo: Tensor
    network_mask: Tensor
    mouth: Tensor
    skin: np.ndarray
    inside: np.ndarray

    def picture(self) -> Image.Image:
        """The repainted pixels as an 8-bit mask."""
        return Image.fromarray((np.maximum(self.skin, self.inside) * 255).astype(np.uint8))


def plan(warp: Warp, moved: np.ndarray, size: int) -> Plan:
    """Choose masks and make the base, from a warp on a finer grid and the moved crop uint8 [size, size, 3]."""
    area = regions(warp)
    small = lambda mask: _resize(mask.astype(np.float32), size) > 0.5
    edge = small(area.edge) if mouth_changes(warp) else np.zeros((size, size), bool)
    mouth = small(area.mouth) & edge
    folds = small(area.folds) & ~edge if folds_change(warp) else np.zeros((size, size), bool)
    hole = cv2.dilate(small(warp.hole & ~warp.mouth).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, np.float32))
    image = lambda a: tensor(a).permute(2, 0, 1)[None]
    flat = lambda a: tensor(a)[None, None]
    shrunk = _shrink(warp, size)
    painted = image(paint_mouth(shrunk, moved)) * 2 - 1
    base = make_base(image(moved) / 127.5 - 1, painted, flat(edge | folds | (hole & ~mouth)), flat(mouth))
    inside = _feather(edge, 0.5)
    return Plan(moved, base, image(shrunk.normal), image(shrunk.albedo), flat(edge | folds), flat(mouth),
                _feather(folds | hole, 2.0) * (1 - inside), inside)  # fmt: skip


def mouth_changes(warp: Warp) -> bool:
    """Whether the lips part or close so much that the photo's own mouth no longer fits; a grin keeps its teeth."""
    before, after = (np.linalg.norm(p[13] - p[14]) / warp.scale for p in (warp.source_points, warp.points))
    return bool(abs(after - before) > max(OPENING_CHANGE, OPENING_STRETCH * before))


def folds_change(warp: Warp) -> bool:
    """Whether the corners of the mouth move so far that cheeks fold or unfold."""
    pairs = np.array([(61, 168), (291, 168), (61, 291)])  # lengths do not change when the head moves in the picture
    before, after = (np.linalg.norm(np.diff(p[pairs], axis=1)[:, 0], axis=1) for p in (warp.source_points, warp.points))
    return float(np.abs(after - before).max()) > FOLD_MOTION * warp.scale


def _resize(array: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(array, (size, size), interpolation=cv2.INTER_AREA)


def _shrink(warp: Warp, size: int) -> Warp:
    """The parts of a warp that conditions are made of, on the crop's grid."""
    ratio = size / len(warp.motion)
    return Warp(
        motion=_resize(warp.motion, size) * ratio,
        hole=_resize(warp.hole.astype(np.float32), size) > 0.5,
        mouth=_resize(warp.mouth.astype(np.float32), size) > 0.5,
        normal=_resize(warp.normal.astype(np.float32), size),
        albedo=_resize(warp.albedo.astype(np.float32), size),
        depth=_resize(warp.depth.astype(np.float32), size),
        points=warp.points * ratio,
        source_points=warp.source_points * ratio,
        scale=warp.scale * ratio,
    )


def _feather(mask: np.ndarray, sigma: float) -> np.ndarray:
    """A soft mask that is 1 inside, falls off outwards and is exactly 0 soon after."""
    grown = cv2.dilate(mask.astype(np.float32), np.ones((3, 3), np.uint8))
    soft = cv2.GaussianBlur(grown, (0, 0), sigma)
    return np.where(soft < 0.02, 0, soft)


def finish(moved: np.ndarray, chosen: Plan, painted: Tensor, matrix: np.ndarray) -> np.ndarray:
    """Put a painted crop [1, 3, S, S] in [-1, 1] into the moved photo at the photo's own resolution.

    Skin gets the *change* of the crop, so pores and hair stay as sharp as the photo; the mouth's inside is replaced.
    """
    crop = (painted[0].permute(1, 2, 0).numpy() + 1) / 2
    change = (crop - chosen.moved.astype(np.float32) / 255) * chosen.skin[..., None]
    return paste(add_change(moved, change, matrix), np.clip(crop, 0, 1), chosen.inside, matrix)


def add_change(photo: np.ndarray, change: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Add a crop's difference [S, S, 3], in units of full range, to a photo uint8 [H, W, 3]; 0 changes nothing."""
    left, top, right, bottom = reach(change.any(-1), matrix, photo.shape)
    if right <= left or bottom <= top:
        return photo
    shift = matrix @ [left + 0.5, top + 0.5, 1] - 0.5  # pixel centres lie at half numbers in both frames
    to_crop = np.column_stack([matrix[:, :2], shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    large = cv2.warpAffine(change.astype(np.float32) * 255, to_crop, (right - left, bottom - top), flags=flags)
    result = photo.copy()
    part = result[top:bottom, left:right]
    part[:] = np.clip(np.round(part + large), 0, 255).astype(np.uint8)
    return result
