"""Decide what to repaint on a moved face, and put the painted crop back under the photo's own detail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...photo.colour import Tone
from ...photo.landmarks import lips_apart
from ...photo.masks import any_channel, ramp
from ...photo.resample import enlarge, invert, paste, reach, warp_crop
from ...photo.sharpness import finer
from .creases import corner_creases, evenness, grain, plain_skin
from .face_light import Adaptation
from .flow import MOUTH_SHUT, PhotoTexture, Warp
from .inpaint import Seen, fill, make_base, mouth_cover, paint_mouth, regions, shrink, shrink_mask
from .mouth_light import TeethLight
from .skin import darker

OPENING_CHANGE = 0.0012  # metres by which the lips must part or close before the mouth is painted anew
OPENING_STRETCH = 0.6  # share by which an open mouth may change and keep its own teeth: a laugh made happier is one
OPENING_SHRINK = 0.3  # the same of one that closes: lips that come further over teeth meet them where landmarks err
UNSEEN = 0.4  # share of an open mouth that the photo may not show, before all of it is painted anew
COMES, UNSEEN_COMES = 0.0012, 0.2  # more opening, metres, or more that is unseen, until it is wholly there in a face
# that moves: two or three frames of a smile
DRAWN = 1.0  # standard deviation of the blur with which a mouth is drawn, pixels of its grid
SMOOTH_EDGE = 1.5  # pixels of a grid for each of the photo's, from which edges drawn on it show no steps in the photo
SMOOTH = 0.7  # pixels of blur that a picture needs so that nobody sees its pixels when it is enlarged
ENLARGED = 1.5  # photo pixels a pixel from which a picture counts as enlarged
FAINT = 0.004  # share of a pixel that makes no grey level
LINE = 0.06, 0.14  # of full range: differences that leave the detail of skin as it is, and that take all of it
CROP_BLUR = 0.55  # pixels of a crop: standard deviation of what it loses when it is made and enlarged again
LIGHT_RANGE = (0.5, 1.25)  # within which a network that is asked for the light alone may spread it


@dataclass
class CloseUp:
    """What the inside of a mouth is drawn on.

    Attributes:
        warp: On a grid of side N.
        picture: The photo after motion there, uint8 [N, N, 3].
        matrix: Similarity [2, 3] from pixels of the warp's whole grid to it.
        times: How many times finer than that it is.
    """

    warp: Warp
    picture: np.ndarray
    matrix: np.ndarray
    times: int = 1


@dataclass
class Plan:
    """What is repainted on an aligned crop of side S, as the network wants it.

    Attributes:
        moved: The crop after motion, uint8 [S, S, 3].
        base: What the network corrects [1, 3, S, S] in [-1, 1].
        normal, albedo: The target head [1, 3, S, S]; 0 where the network paints nothing.
        network_mask: Pixels the network paints [1, 1, S, S].
        mouth: Pixels between the lips [1, 1, S, S].
        skin: How much of the painted skin is taken, soft [S, S]; the photo's fine detail stays on top.
        inside: How much of the painted mouth is taken, soft [N, N] on a finer grid; the photo's detail is dropped.
        drawn: The base on that grid [N, N, 3] in [0, 1].
        place: Similarity [2, 3] from pixels of the crop to that grid.
        blur: Standard deviation of the blur that it gets, pixels of that grid.
        tone: Of a monochrome photo.
        adaptation: Of a photo in dim or coloured light: `moved`, `base` and `drawn` are in usual light.
        even: How much of the photo's finer detail goes with a crease.
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
    place: np.ndarray
    blur: float = 0.0
    tone: Tone | None = None
    adaptation: Adaptation | None = None
    even: float = 0.0

    def picture(self) -> Image.Image:
        """The repainted pixels as an 8-bit mask."""
        inside = _shrunk_mask(self.inside, self.place, len(self.skin))
        return Image.fromarray((np.maximum(self.skin, inside) * 255).astype(np.uint8))


def close_up(
    texture: PhotoTexture, warp: Warp, target: Tensor, moved: np.ndarray, matrix: np.ndarray, moving: bool = False
) -> CloseUp | None:
    """A finer grid for a mouth, where a photo is sharper than the warp's, or where it moves on one that is hardly finer
    than the photo; else `None`.

    Args:
        texture, target: What the warp was made with, and to.
        moved: The photo after motion, uint8 [H, W, 3].
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.
        moving: Whether it is a picture of a face that moves, whose grid is coarser than a photo's.
    """
    coarse = float(np.linalg.norm(matrix[:, 0]))  # grid pixels a photo pixel
    times = max(finer(max(coarse, warp.blur)), 2 if moving and coarse < SMOOTH_EDGE else 1)
    if times == 1 or not mouth_changes(warp):
        return None
    near, place = texture.close_up(warp, target, times)
    return CloseUp(near, warp_crop(moved, _then(matrix, place), len(near.mouth)), place, times)


def plan(
    warp: Warp,
    fine: np.ndarray,
    size: int,
    release: tuple[float, float] = (0.0, 0.0),
    near: CloseUp | None = None,
    mouth_share: float = 1.0,
    light: Callable[[], TeethLight] | None = None,
) -> Plan:
    """Choose masks and make the base.

    Args:
        warp: On a grid of side G.
        fine: The crop after motion on that grid, uint8 [G, G, 3].
        size: Side S of what the network sees.
        release: Shares in [0, 1] of smooth skin to paint over folds that a smile leaves behind, and over creases beside
            the mouth's corners; folds that deepen stay the photo's own skin, for shading.py to shade.
        near: Where the mouth is drawn, if not on that grid.
        mouth_share: How much of the mouth that is drawn is taken.
        light: What gives the light on the teeth, where that is known.
    """
    near = near or CloseUp(warp, fine, np.eye(2, 3))
    seen, nowhere = Seen.of(warp, fine, size, light), np.zeros((size, size), bool)
    edge = seen.area.edge if mouth_share and mouth_changes(warp) else nowhere
    mouth = seen.area.mouth & edge
    folds = seen.area.folds & ~edge if release[0] > 0 else nowhere
    creases = nowhere.astype(np.float32)
    dark = darker([fine], warp)[..., 0] if any(release) else nowhere
    if release[1] > 0:
        creases = shrink(corner_creases(warp, dark), size) * ~(edge | seen.area.lips)
    even = evenness(warp, fine) if any(release) else 0.0
    skin_hole = shrink_mask(warp.hole & ~warp.mouth, size).astype(np.uint8)
    hole = cv2.dilate(skin_hole, np.ones((3, 3), np.uint8)) > 0
    tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, np.float32))
    image = lambda a: tensor(a).permute(2, 0, 1)[None]
    flat = lambda a: tensor(a)[None, None]
    mask, nothing = np.maximum(edge | folds | (hole & ~mouth), creases), torch.zeros(1, 3, size, size)
    moved, painted = image(seen.moved) / 127.5 - 1, image(seen.painted) * 2 - 1 if mouth.any() else nothing
    base = make_base(moved, painted, flat(mask), flat(mouth)) if mask.any() else moved
    worn = (folds | (creases > 0)) & ~edge
    if worn.any():  # filled in from skin alone, and as grainy
        plain, scale = shrink(plain_skin(warp, fine, dark), size), warp.scale * size / len(fine)
        filled = fill(moved, flat((1 - mask) * plain)) + 2 * image(grain(seen.moved, plain, scale))
        base = torch.where(flat(worn) > 0, moved + flat(mask) * (filled.clamp(-1, 1) - moved), base)
    normal, albedo = nothing, nothing  # which the network alone looks at
    if edge.any():
        normal, albedo = image(seen.small.normal), image(seen.small.albedo)
    place = _then(len(warp.mouth) / size * np.eye(2, 3), near.matrix)
    inside, drawn = np.zeros(near.warp.mouth.shape, np.float32), np.zeros(near.picture.shape, np.float32)
    if edge.any():
        edges = regions(near.warp).edge
        inside = np.float32(mouth_share) * _feather(edges, float(near.times))
        picture = seen.adaptation(near.picture) if seen.adaptation else near.picture
        drawn = draw_fine(near.warp, edges, picture, seen.light)
        drawn = seen.tone(drawn) if seen.tone else drawn
    shares = (release[0], folds, 2.0), (even * release[1], creases, 1.2), (1.0, hole, 2.0)
    skin = np.max([share * _feather(area, sigma) for share, area, sigma in shares], axis=0)
    skin = skin * (1 - _shrunk_mask(inside, place, size))
    return Plan(seen.moved, base, normal, albedo, flat(edge), flat(mouth), skin, inside, drawn, place, near.warp.blur,
                seen.tone, seen.adaptation, even)  # fmt: skip


def draw_fine(warp: Warp, edge: np.ndarray, fine: np.ndarray, light: TeethLight) -> np.ndarray:
    """The base of the mouth [G, G, 3] in [0, 1] at the resolution of the warp, lips meeting teeth in soft edges."""
    unknown, cover = torch.from_numpy(edge.astype(np.float32))[None, None], mouth_cover(warp)[..., None]
    lips = fill(torch.from_numpy(fine).permute(2, 0, 1)[None] / 255, 1 - unknown)[0].permute(1, 2, 0).numpy()
    rows, columns = (np.flatnonzero(cover.any((axis, 2))) for axis in (1, 0))
    if len(rows):
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        lips[box] += cover[box] * (paint_mouth(warp, light, box) - lips[box])
    return lips


def mouth_changes(warp: Warp) -> bool:
    """Whether the lips part or close so much that the photo's own mouth no longer fits; a grin keeps its teeth, and
    lips that speak keep what they show."""
    if warp.speaks >= 1:
        return False
    before, after = (max(lips_apart(p), 0) / warp.scale for p in (warp.source_points, warp.points))
    unseen = (warp.hole & warp.mouth).sum() > UNSEEN * warp.mouth.sum()
    return bool(unseen or abs(after - before) > _kept_change(before, after))


def _kept_change(before: float, after: float) -> float:
    """By how much lips that are open may part or close and keep the photo's teeth, metres, from their openings."""
    return max(OPENING_CHANGE, (OPENING_STRETCH if after > before else OPENING_SHRINK) * before)


def mouth_share(warp: Warp) -> float:
    """How much of a mouth that is drawn anew is taken in a face that moves, in [0, 1]: from 0 where it begins to change
    to 1 a little later, so that it does not jump in; less where the lips speak."""
    return (1 - warp.speaks) * _changed_share(warp)


def _changed_share(warp: Warp) -> float:
    """As `mouth_share`, of lips that do not speak."""
    before, after = (max(lips_apart(p), 0) / warp.scale for p in (warp.source_points, warp.points))
    if before <= MOUTH_SHUT:
        return float(ramp(after, MOUTH_SHUT, MOUTH_SHUT + COMES))
    limit = _kept_change(before, after)
    unseen = (warp.hole & warp.mouth).sum() / max(warp.mouth.sum(), 1)
    return float(max(ramp(abs(after - before), limit, limit + COMES), ramp(unseen, UNSEEN, UNSEEN + UNSEEN_COMES)))


def _then(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The similarity [2, 3] that does one after the other."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _shrunk_mask(inside: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """A mask on a finer grid [N, N] on the crop [size, size], from whose pixels `place` leads to it."""
    if place[:, 2].any():
        return warp_crop(inside, invert(place), size)
    return shrink(inside, size)


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
    result, base, mouth = image(painted), image(chosen.base), chosen.mouth[0, 0].numpy()
    if enlarged(matrix):  # the network's own pixels would be seen
        result = base + cv2.GaussianBlur(result - base, (3, 3), 0)
    result = chosen.tone(result) if chosen.tone else result
    own_light = chosen.adaptation.undo if chosen.adaptation else lambda x: x
    change = own_light(result - chosen.moved.astype(np.float32) / 255) * chosen.skin[..., None]
    skin = add_change(moved, change, matrix, chosen.even * line_share(change))
    if not chosen.inside.any():
        return skin
    large = lambda x: enlarge(x, invert(chosen.place), (0, 0, *chosen.inside.shape))
    drawn, correction = chosen.drawn, result - base
    if light_blur:
        drawn = drawn * large(light_inside(result, base, mouth, light_blur))[..., None]
        correction = correction * (1 - mouth)[..., None]
    inside = np.clip(own_light(np.clip(drawn + large(correction), 0, 1)), 0, 1)
    place = _then(matrix, chosen.place)
    blur = max(chosen.blur**2 - DRAWN**2, SMOOTH**2) ** 0.5 if enlarged(place) else chosen.blur
    inside, mask = soften(inside, chosen.inside, blur)
    return paste(skin, inside, mask, place)


def enlarged(matrix: np.ndarray) -> bool:
    """Whether a crop's pixels, to which a similarity [2, 3] leads from a photo's, are so large that one sees them."""
    return bool(np.linalg.norm(matrix[:, 0]) < 1 / ENLARGED)


def soften(picture: np.ndarray, mask: np.ndarray, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture [N, N, 3] and how much of it is taken [N, N] as a blurred photo shows them.

    Args:
        blur: Standard deviation, pixels.
    """
    if not blur:
        return picture, mask
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    far = int(np.ceil(3 * blur))
    box = tuple(slice(max(index[0] - far, 0), index[-1] + far + 1) for index in (rows, columns))
    spread = lambda x: cv2.GaussianBlur(x, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    soft, picture, mask = spread(mask[box]), picture.copy(), mask.copy()
    picture[box] = spread((picture * mask[..., None])[box]) / soft.clip(FAINT)[..., None]
    mask[box] = np.where(soft < FAINT, 0, soft)
    return picture, mask


def light_inside(painted: np.ndarray, base: np.ndarray, mouth: np.ndarray, blur: float) -> np.ndarray:
    """The factor [S, S] by which a network spreads the light within the mouth [S, S], averaged over `blur` pixels; 1
    elsewhere, and in the mean of the teeth: how light they are it knows less well than `light_on_teeth`."""
    teeth = mouth * np.clip((base[..., 1] / base[..., 0].clip(1e-3) - 0.7) / 0.2, 0, 1)  # tongue and gums are redder
    painted, base = painted.mean(-1), base.mean(-1)
    mean = lambda x: cv2.GaussianBlur(x * mouth, (0, 0), blur) + 1e-3
    level = ((painted * teeth).sum() + 1e-3) / ((base * teeth).sum() + 1e-3)
    gain = np.clip(mean(painted) / mean(base) / max(level, 0.1), *LIGHT_RANGE)
    return 1 + cv2.GaussianBlur(mouth, (0, 0), 1.0) * (gain - 1)


def add_change(
    photo: np.ndarray, change: np.ndarray, matrix: np.ndarray, smooth: np.ndarray | None = None
) -> np.ndarray:
    """Add a crop's difference [S, S, 3], in units of full range, to a photo uint8 [H, W, 3]; 0 changes nothing.

    Args:
        matrix: Similarity [2, 3] from photo pixels to the crop.
        smooth: How much of the photo's finer detail is taken away [S, S].
    """
    left, top, right, bottom = reach(any_channel(change), matrix, photo.shape)
    if right <= left or bottom <= top:
        return photo
    large = enlarge(change.astype(np.float32) * 255, matrix, (left, top, right, bottom))
    result = photo.copy()
    part = result[top:bottom, left:right]
    fine = 1 / float(np.linalg.norm(matrix[:, 0]))  # photo pixels a crop pixel
    if smooth is not None and smooth.any() and fine > 1:
        detail = part - cv2.GaussianBlur(part, (0, 0), CROP_BLUR * fine).astype(np.float32)
        large -= enlarge(smooth, matrix, (left, top, right, bottom))[..., None] * detail
    part[:] = np.clip(np.round(part + large), 0, 255).astype(np.uint8)
    return result


def line_share(change: np.ndarray) -> np.ndarray:
    """Where a difference [S, S, 3] is so large that what it takes away has a line in the photo's finer detail, too:
    from 0 to 1 [S, S]."""
    return cv2.GaussianBlur(ramp(np.abs(change).max(-1), *LINE), (0, 0), 1.0)

