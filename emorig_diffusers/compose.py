"""Decide what to repaint on a moved face, and put the painted crop back under the photo's own detail."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .crops import enlarge, paste, reach
from .openings import lips_apart
from .phototexture import Warp
from .repaint import fill, make_base, mouth_cover, paint_mouth, regions
from .tones import Tone, find_tone

OPENING_CHANGE = 0.0012  # metres by which the lips must part or close before the mouth is painted anew
OPENING_STRETCH = 0.35  # share by which an open mouth may change and keep its own teeth
UNSEEN = 0.25  # share of an open mouth that the photo may not show, before all of it is painted anew
LIGHT_RANGE = (0.5, 1.25)  # within which a network that is asked for the light alone may spread it


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
        inside: How much of the painted mouth is taken, soft [G, G] on the warp's finer grid; the photo's detail is
            dropped there.
        drawn: The base on that grid [G, G, 3] in [0, 1].
        tone: Of a monochrome photo.
    """

    moved: np.ndarray
    base: Tensor
    normal: Tensor
    albedo: Tensor
    network_mask: Tensor
    mouth: Tensor
    skin: np.ndarray
    inside: np.ndarray
    drawn: np.ndarray
    tone: Tone | None = None

    def picture(self) -> Image.Image:
        """The repainted pixels as an 8-bit mask."""
        return Image.fromarray((np.maximum(self.skin, _resize(self.inside, len(self.skin))) * 255).astype(np.uint8))


def plan(warp: Warp, fine: np.ndarray, size: int, unfolding: float = 0.0) -> Plan:
    """Choose masks and make the base.

    Args:
        warp: On a grid of side G.
        fine: The crop after motion on that grid, uint8 [G, G, 3].
        size: Side S of what the network sees.
        unfolding: Share in [0, 1] of smooth cheeks to paint over folds that a smile leaves behind; folds that deepen
            stay the photo's own skin, for wrinkles.py to shade.
    """
    area, moved = regions(warp), _resize(fine, size)
    small = lambda mask: _resize(mask.astype(np.float32), size) > 0.5
    edge = small(area.edge) if mouth_changes(warp) else np.zeros((size, size), bool)
    mouth = small(area.mouth) & edge
    folds = small(area.folds) & ~edge if unfolding > 0 else np.zeros((size, size), bool)
    hole = cv2.dilate(small(warp.hole & ~warp.mouth).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, np.float32))
    image = lambda a: tensor(a).permute(2, 0, 1)[None]
    flat = lambda a: tensor(a)[None, None]
    shrunk, tone = _shrink(warp, size), find_tone(moved)
    toned = tone or (lambda picture: picture)
    painted = image(toned(paint_mouth(shrunk, moved))) * 2 - 1
    base = make_base(image(moved) / 127.5 - 1, painted, flat(edge | folds | (hole & ~mouth)), flat(mouth))
    inside = _feather(area.edge, 1.0) if edge.any() else np.zeros(fine.shape[:2], np.float32)
    skin = np.maximum(unfolding * _feather(folds, 2.0), _feather(hole, 2.0)) * (1 - _resize(inside, size))
    drawn = toned(draw_fine(warp, area.edge, fine)) if edge.any() else fine / np.float32(255)
    return Plan(moved, base, image(shrunk.normal), image(shrunk.albedo), flat(edge | folds), flat(mouth), skin, inside,
                drawn, tone)  # fmt: skip


def draw_fine(warp: Warp, edge: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """The base of the mouth [G, G, 3] in [0, 1] at the resolution of the warp, lips meeting teeth in soft edges."""
    unknown, cover = torch.from_numpy(edge.astype(np.float32))[None, None], mouth_cover(warp)[..., None]
    lips = fill(torch.from_numpy(fine).permute(2, 0, 1)[None] / 255, 1 - unknown)[0].permute(1, 2, 0).numpy()
    return lips + cover * (paint_mouth(warp, fine) - lips)


def mouth_changes(warp: Warp) -> bool:
    """Whether the lips part or close so much that the photo's own mouth no longer fits; a grin keeps its teeth."""
    before, after = (max(lips_apart(p), 0) / warp.scale for p in (warp.source_points, warp.points))
    unseen = (warp.hole & warp.mouth).sum() > UNSEEN * warp.mouth.sum()
    return bool(unseen or abs(after - before) > max(OPENING_CHANGE, OPENING_STRETCH * before))


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


def finish(
    moved: np.ndarray, chosen: Plan, painted: Tensor, matrix: np.ndarray, light_blur: float = 0.0
) -> np.ndarray:
    """Put a painted crop [1, 3, S, S] in [-1, 1] into the moved photo at the photo's own resolution.

    Skin gets the *change* of the crop, so pores and hair stay as sharp as the photo; the mouth's inside is replaced.
    `light_blur` as in `EmoRigPipeline`.
    """
    image = lambda x: (x[0].permute(1, 2, 0).numpy() + 1) / 2
    painted, base, mouth = image(painted), image(chosen.base), chosen.mouth[0, 0].numpy()
    painted = chosen.tone(painted) if chosen.tone else painted
    change = (painted - chosen.moved.astype(np.float32) / 255) * chosen.skin[..., None]
    skin, side = add_change(moved, change, matrix), len(chosen.inside)
    if not chosen.inside.any():
        return skin
    large = lambda x: cv2.resize(x, (side, side), interpolation=cv2.INTER_LINEAR)
    drawn, correction = chosen.drawn, painted - base
    if light_blur:
        drawn = drawn * large(light_inside(painted, base, mouth, light_blur))[..., None]
        correction = correction * (1 - mouth)[..., None]
    inside = np.clip(drawn + large(correction), 0, 1)
    return paste(skin, inside, chosen.inside, matrix * (side / len(change)))


def light_inside(painted: np.ndarray, base: np.ndarray, mouth: np.ndarray, blur: float) -> np.ndarray:
    """The factor [S, S] by which a network spreads the light within the mouth [S, S], averaged over `blur` pixels; 1
    elsewhere, and in the mean of the teeth: how light they are it knows less well than `light_on_teeth`."""
    teeth = mouth * np.clip((base[..., 1] / base[..., 0].clip(1e-3) - 0.7) / 0.2, 0, 1)  # tongue and gums are redder
    painted, base = painted.mean(-1), base.mean(-1)
    mean = lambda x: cv2.GaussianBlur(x * mouth, (0, 0), blur) + 1e-3
    level = ((painted * teeth).sum() + 1e-3) / ((base * teeth).sum() + 1e-3)
    gain = np.clip(mean(painted) / mean(base) / max(level, 0.1), *LIGHT_RANGE)
    return 1 + cv2.GaussianBlur(mouth, (0, 0), 1.0) * (gain - 1)


def add_change(photo: np.ndarray, change: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Add a crop's difference [S, S, 3], in units of full range, to a photo uint8 [H, W, 3]; 0 changes nothing."""
    left, top, right, bottom = reach(change.any(-1), matrix, photo.shape)
    if right <= left or bottom <= top:
        return photo
    large = enlarge(change.astype(np.float32) * 255, matrix, (left, top, right, bottom))
    result = photo.copy()
    part = result[top:bottom, left:right]
    part[:] = np.clip(np.round(part + large), 0, 255).astype(np.uint8)
    return result
