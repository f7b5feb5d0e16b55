"""The photo as its own texture: redraw a face under edited codes by moving the photo's pixels.

Every pixel of the edited face looks up where its surface point was in the photo. Around the head the motion falls
off smoothly, so that hair, neck and background follow; what the photo cannot show (the inside of a mouth that was
closed, skin that was hidden) is marked for the network to paint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import cv2
import numpy as np
import torch
from torch import Tensor

from ...models.head import PARTS, HeadModel
from ...photo.landmarks import BROWS, EYES_OUTER, INNER_LIPS, LIDS, LOWER_LIDS, OUTER_LIPS, lips_apart
from ...photo.masks import any_channel, border_mask, fill_polygon, nearest_known, ramp, smooth, wide_blur
from ...photo.resample import displaced, enlarge, invert, reach, transform_points
from ...render.buffers import vertex_normals
from ...render.rasterize import nearest_faces, weights_and_depth
from .bared_teeth import BaredTeeth, paint_bared_teeth
from .eyeballs import Eyeball, centres, paint_eyeball
from .mouth import Mouth
from .openings import move_lids, move_lips, stretch_lips

SKIN, CAVITY, NECK = (PARTS.index(n) for n in ("skin", "mouth_cavity", "neck"))
EYES = tuple(PARTS.index(n) for n in ("left_eye", "right_eye"))
TEETH = tuple(PARTS.index(n) for n in ("upper_teeth", "lower_teeth", "tongue"))
STILL = 0.02  # pixels; smaller motion is rounding, and the photo's own pixel is kept
LEAST_HOLE = 0.25  # pixels that a surface moves at least where the photo may not show it
HIDDEN = 0.004  # metres behind the surface seen in the photo from which a point counts as hidden
REACH = 0.033  # metres outside the face over which its motion fades out
RIM = 0.0025  # metres at the face's outline that follow the rest: the mesh may show its neck there
STEP, SLOPE = 1.0, 0.0007  # pixels of a jump in motion within the skin, and metres to each side that make it a slope
STRETCH = 2.2  # times the outline's motion over which it has to fade out at least: else pixels smear to streaks
BORDER = 0.06  # of the crop's side, over which motion fades out at its border
TURNING_REACH = 0.09  # the same when the head turns
AROUND_LIPS = 0.006  # metres around the lips that a close-up of the mouth shows: what is painted anew, with soft edges
MOUTH_SHUT = 0.0012  # metres of lip opening below which the mouth is closed
SKIN_GRID = 128  # side of the picture on which skin is told from hair, and from brows, eyes and lips, pixels
MASK_BELOW = 0.008  # metres below the lower lids from which a face keeps still whose mouth is covered: masks end lower


@dataclass
class Warp:
    """How a face moves, on a square grid of the aligned crop.

    Attributes:
        motion: Where each pixel comes from, minus where it is [G, G, 2], grid pixels; 0 where nothing moves.
        hole: Pixels whose surface the photo does not show [G, G] bool.
        mouth: Pixels inside the target's lips [G, G] bool.
        head: Pixels that show the head [G, G] bool.
        inside: Draws normals, albedo and depth, when somebody looks.
        points: Dense landmarks of the target [N, 2], grid pixels.
        source_points: Dense landmarks of the source [N, 2], grid pixels.
        scale: Grid pixels per metre.
        eyes: Eyeballs whose lids move.
        shut: Whether the photo shows the person's right and left eye shut.
        place: Where each pixel's skin lies in the head's shading maps [G, G, 2] in [0, 1], negative where there is no
            skin of the face; `None` for heads without such maps.
        blur: Standard deviation of the photo's own blur, beyond that of a sharp one, grid pixels.
        free: How far an expression may shade each pixel [G, G] in [0, 1], for faces whose mouth is covered.
        speaks: How surely the lips speak, in [0, 1].
        teeth: Between lips that move before teeth which the photo shows.
    """

    motion: np.ndarray
    hole: np.ndarray
    mouth: np.ndarray
    head: np.ndarray
    inside: Callable[[], tuple[np.ndarray, np.ndarray, np.ndarray]]
    points: np.ndarray
    source_points: np.ndarray
    scale: float
    eyes: Sequence[Eyeball] = ()
    shut: Sequence[bool] = (False, False)
    place: np.ndarray | None = None
    blur: float = 0.0
    free: np.ndarray | None = None
    speaks: float = 0.0
    teeth: BaredTeeth | None = None

    @property
    def normal(self) -> np.ndarray:
        """Target normals [G, G, 3] in [-1, 1]; 0 outside the head. As albedo and depth, they take a while to draw."""
        return self._drawn[0]

    @property
    def albedo(self) -> np.ndarray:
        """Mean albedo of the drawn parts [G, G, 3], linear [0, 1]; 0 outside the head."""
        return self._drawn[1]

    @property
    def depth(self) -> np.ndarray:
        """Metres behind the lips inside the mouth and two pixels around [G, G], 0 elsewhere."""
        return self._drawn[2]

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.inside()

    @cached_property
    def features(self) -> np.ndarray:
        """Brows, eyes and lips of the target on the grid, shrunk to [SKIN_GRID, SKIN_GRID], float32 in [0, 1]."""
        ratio = SKIN_GRID / len(self.motion)
        outlines = (self.points[list(outline)] * ratio for outline in (*BROWS, *LIDS, OUTER_LIPS))
        mask = np.any([fill_polygon((SKIN_GRID, SKIN_GRID), points) for points in outlines], axis=0)
        return cv2.blur(mask.astype(np.float32), (3, 3))


@dataclass
class _Drawing:
    """One state of the head on the grid."""

    pixels: Tensor  # [V, 3]
    face: np.ndarray  # nearest at each pixel, -1 where there is none [G, G]
    mouth: np.ndarray
    points: np.ndarray
    faces: Tensor  # [F, 3]

    @cached_property
    def hit(self) -> np.ndarray:
        """Places of pixels that show the head, in a raveled picture."""
        return np.flatnonzero(self.face.ravel() >= 0)

    def surface(self, place: np.ndarray) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Weights of the corners, and depth, at places [N] in the raveled picture that show the head."""
        face = torch.from_numpy(self.face.ravel()[place])
        y, x = (torch.from_numpy(index + 0.5) for index in np.divmod(place, self.face.shape[1]))
        return weights_and_depth(self.pixels, self.faces, face, x, y)

    @cached_property
    def corners(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Vertices [N] and weights [N, 1] of pixels that show the head, at each of the three corners."""
        vertices, (weights, _) = self.faces.numpy()[self.face.ravel()[self.hit]], self.surface(self.hit)
        flat = [weight.to(self.pixels.dtype).numpy()[:, None] for weight in weights]
        return [(np.ascontiguousarray(vertices[:, i]), flat[i]) for i in range(3)]

    def depth_at(self, place: np.ndarray) -> np.ndarray:
        """Depth at places [N] in the raveled picture, float32; -inf where they do not show the head."""
        depth, shown = np.full(len(place), -np.inf, np.float32), self.face.ravel()[place] >= 0
        depth[shown] = self.surface(place[shown])[1].to(self.pixels.dtype).numpy()
        return depth

    def interpolate(self, *values: np.ndarray) -> list[np.ndarray]:
        """What vertices have, each [V, C], at pixels of the picture, each float32 [G, G, C]; 0 off the head."""
        table = np.concatenate(values, 1).astype(np.float32)  # side by side: looking up corners is most of the work
        (first, weight), *others = self.corners
        found = np.take(table, first, 0) * weight
        for corner, weight in others:
            found += np.take(table, corner, 0) * weight
        pictures, start = [], 0
        for value in values:
            picture = np.zeros((self.face.size, value.shape[1]), np.float32)
            picture[self.hit] = found[:, start : start + value.shape[1]]
            pictures.append(picture.reshape(*self.face.shape, -1))
            start += value.shape[1]
        return pictures


class PhotoTexture:
    """Draws warps for one head model; holds what depends on the mesh alone.

    Args:
        head: The head model, with a landmark embedding and parts.
    """

    def __init__(self, head: HeadModel) -> None:
        self.head = head
        self.faces = head.faces
        self.part = head.face_part.numpy()
        self.mouth = Mouth(head)
        self._source: tuple[Tensor, tuple[int, bool], _Drawing] | None = None
        self.eye_vertices = head.faces[torch.from_numpy(np.isin(self.part, EYES))].unique()
        inside = np.isin(self.part, (*TEETH, CAVITY))
        self.layers = [np.flatnonzero(m) for m in (~inside, np.isin(self.part, TEETH), self.part == CAVITY)]

    def warp(
        self,
        source: Tensor,
        target: Tensor,
        size: int,
        turning: bool = False,
        irises: np.ndarray | None = None,
        shut: Sequence[bool] = (False, False),
        covered: bool = False,
        speaks: float = 0.0,
    ) -> Warp:
        """Motion from one state of the head to another.

        Args:
            source, target: Vertices [V, 3] in grid pixels (x right, y down, smaller z nearer), residual included.
            size: Side G of the grid.
            turning: Whether the whole head turns; then its surroundings follow from farther away.
            irises: Middles of the irises in the photo [2, 2], grid pixels, for eyes as `openings.move_lids` moves them.
            shut: Which of the eyes the photo shows shut.
            covered: Whether something is before the mouth: then it is skin like any other.
            speaks: How surely the lips speak, in [0, 1]: as far, what they show between them stretches with them.
        """
        scale = self.scale(source)
        before, after = self._draw_source(source, size, scale, covered), self._draw(target, size, scale, covered)
        on = after.face >= 0
        origin, place, free = self._interpolated(after, before, covered)
        motion = (origin[..., :2] - centres((size, size)).astype(np.float32)) * on[..., None]
        hole = self._holes(before, after, origin, motion, scale)
        skin = on & (self.part[after.face] == SKIN) & ~after.mouth
        if place is not None:
            place[~skin] = -1
        motion = soften_steps(motion, skin, SLOPE * scale)
        # the mesh has no hair, and its ears and neck would tear away: they follow the face
        moves, reach = on & _outline(after.points, size), max(REACH, STRETCH * _rim_motion(before, after) / scale)
        if turning:  # the far cheek, hidden in the photo, follows the part that was seen
            moves, reach = moves & (~hole | after.mouth), max(reach, TURNING_REACH)
            hole &= after.mouth
        rim = 2 * max(1, round(RIM * scale)) + 1
        moves = cv2.erode(moves.astype(np.uint8), np.ones((rim, rim), np.uint8)) > 0
        motion = fade_out(motion, moves, scale, reach)
        teeth: BaredTeeth | None = None
        stretched, done = stretch_lips(motion, before.points, after.points, scale) if speaks else (motion, hole)
        if speaks < 1 and before.mouth.any() and after.mouth.any() and not turning:
            motion, unseen, teeth = move_lips(motion, before.points, after.points, scale)
            hole = np.where(after.mouth, unseen, hole)
        if speaks:
            motion = motion + np.float32(speaks) * (stretched - motion)
            teeth = teeth and replace(teeth, cover=(1 - speaks) * teeth.cover)
            hole &= ~(done | after.mouth if speaks >= 1 else done & ~after.mouth)
        eyes = []
        if irises is not None:
            motion, done, eyes = move_lids(motion, before.points, after.points, irises, scale, shut)
            hole &= ~done
        inside = partial(self._with_inside, after, scale)
        return Warp(motion, hole, after.mouth, on, inside, after.points, before.points, scale, eyes, shut, place,
                    free=free, speaks=speaks, teeth=teeth)  # fmt: skip

    def _with_inside(self, after: _Drawing, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Normals and albedo of a head [G, G, 3] with its mouth's inside, and the depth of that [G, G]."""
        flip = torch.tensor([1.0, -1.0, -1.0])  # grid axes to world axes
        normal = vertex_normals((after.pixels * flip)[None], self.faces)[0]
        normal, albedo = after.interpolate(normal.numpy(), self.head.albedo.numpy())
        around, inside, depth = self._inside(after.pixels, after.mouth, scale)
        return normal, np.where(around[..., None], inside, albedo), depth

    def _inside(self, target: Tensor, mouth: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mouth and two pixels around it, for soft edges [G, G] bool, their albedo [G, G, 3], and how many metres
        they lie behind the lips [G, G]."""
        around = cv2.dilate(mouth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        albedo, far = self.mouth.draw(target, around)
        lips = np.median(target.numpy()[self._lip_vertices, 2])
        return around, albedo, np.where(around, np.maximum(far - lips, 0) / scale, 0)

    def close_up(self, warp: Warp, target: Tensor, times: int) -> tuple[Warp, np.ndarray]:
        """The mouth of a warp, drawn anew on a finer grid.

        Args:
            warp: From `warp`, on a grid of side G.
            target: As there.
            times: How much finer.

        Returns:
            A warp on the finer grid's square around the mouth, without normals, holes and eyes, and the similarity
            [2, 3] from pixels of the coarser grid to it.
        """
        lips = np.concatenate([points[list(OUTER_LIPS)] for points in (warp.points, warp.source_points)])
        low, high = lips.min(0) - AROUND_LIPS * warp.scale, lips.max(0) + AROUND_LIPS * warp.scale
        side = int(np.ceil((high - low).max()))
        corner = np.floor((low + high - side) / 2)
        matrix = times * np.column_stack([np.eye(2), -corner])
        points, source = (transform_points(matrix, p) for p in (warp.points, warp.source_points))
        mouth = np.zeros((times * side,) * 2, bool)
        if warp.mouth.any():
            mouth = fill_polygon(mouth.shape, points[list(INNER_LIPS)])
        near = target.clone()
        near[:, :2] -= torch.from_numpy(corner).to(near)
        around, albedo, depth = self._inside(near * times, mouth, warp.scale * times)
        motion = enlarge(warp.motion, invert(matrix), (0, 0, times * side, times * side)) * times
        none, drawn = np.zeros_like(mouth), (np.zeros_like(albedo), albedo * around[..., None], depth)
        return Warp(motion, none, mouth, none, lambda: drawn, points, source, warp.scale * times,
                    blur=warp.blur * times), matrix  # fmt: skip

    def scale(self, pixels: Tensor) -> float:
        """Grid pixels per metre of a face whose vertices [V, 3] are given in grid pixels."""
        eyes = self.head.landmarks(pixels[None])[0, list(EYES_OUTER)]
        rest = self.head.landmarks(self.head.template[None])[0, list(EYES_OUTER)]
        return float((eyes[0] - eyes[1]).norm() / (rest[0] - rest[1]).norm())

    @cached_property
    def _lip_vertices(self) -> np.ndarray:
        return np.unique(self.faces.numpy()[self.head.landmark_faces.numpy()[list(INNER_LIPS)]])

    @cached_property
    def above_mask(self) -> Tensor:
        """How far each vertex [V] may follow an expression where the mouth is covered: 1 from the lower lids upwards, 0
        where a mask may be."""
        lids = self.head.landmarks(self.head.template[None])[0, list(LOWER_LIDS), 1].mean()
        return torch.from_numpy(ramp((self.head.template[:, 1] - lids).numpy(), -MASK_BELOW, 0.0)).float()

    def _draw_source(self, pixels: Tensor, size: int, scale: float, covered: bool) -> _Drawing:
        """As `_draw`; the latest one is kept, for one face is often drawn again and again under other codes."""
        asked, kept = (size, covered), self._source
        if kept is None or kept[1] != asked or not torch.equal(kept[0], pixels):
            kept = self._source = pixels, asked, self._draw(pixels, size, scale, covered)
        return kept[2]

    def _draw(self, pixels: Tensor, size: int, scale: float, covered: bool = False) -> _Drawing:
        """Rasterise the outside, then teeth before cavity, which show only between the lips."""
        points = self.head.landmarks(pixels[None])[0].numpy()[:, :2]
        mouth = np.zeros((size, size), bool)
        if not covered and lips_apart(points) > MOUTH_SHUT * scale:
            mouth = fill_polygon(mouth.shape, points[list(INNER_LIPS)])
        face = self._layer(pixels, self.layers[0], (0, size, 0, size))
        if mouth.any():
            rows, columns = (np.flatnonzero(mouth.any(axis)) for axis in (1, 0))
            box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            part = slice(*box[:2]), slice(*box[2:])
            for layer in reversed(self.layers[1:]):
                inner = self._layer(pixels, layer, box)
                show = mouth[part] & (inner >= 0)
                face[part][show] = inner[show]
        return _Drawing(pixels, face, mouth, points, self.faces)

    def _layer(self, pixels: Tensor, layer: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        """Faces of a layer on rows and columns (top, bottom, left, right) of the grid; -1 where there is none."""
        top, bottom, left, right = box
        shifted = pixels - pixels.new_tensor((left, top, 0))
        face = nearest_faces(shifted[None], self.faces[layer], bottom - top, right - left)[0].numpy()
        return np.where(face >= 0, layer[face], -1)

    def _holes(
        self, before: _Drawing, after: _Drawing, origin: np.ndarray, motion: np.ndarray, scale: float
    ) -> np.ndarray:
        """Pixels of the target that the photo does not show, small gaps closed."""
        size = len(before.face)
        hole = np.zeros((size, size), np.uint8)
        # beyond the face's outline hair hides the mesh: stretched pixels look better there than painted ones
        shown = np.flatnonzero(_outline(after.points, size) & (after.face >= 0))
        length = np.hypot(*motion.reshape(-1, 2)[shown].T)
        shown = shown[length > LEAST_HOLE]
        x, y, z = origin.reshape(-1, 3)[shown].T
        column, row = (np.clip(k.astype(int), 0, size - 1) for k in (x, y))
        inside = (x > 0) & (x < size) & (y > 0) & (y < size)
        seen = before.depth_at(row * size + column)
        part, before_face = self.part[after.face.ravel()[shown]], before.face[row, column]
        part_seen = np.where(before_face >= 0, self.part[before_face], -1)
        behind = z > seen + HIDDEN * scale
        eye = np.isin(part, EYES) & (part_seen != part)
        skin = (part == SKIN) & ~np.isin(part_seen, (SKIN, NECK))
        other = ~before.mouth[row, column] | (np.abs(z - seen) > 0.02 * scale)
        hole.ravel()[shown] = (after.mouth.ravel()[shown] & other) | (inside & (behind | eye | skin))
        return cv2.morphologyEx(hole, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0

    def _interpolated(
        self, after: _Drawing, before: _Drawing, covered: bool
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """What varies over the target's head, at its pixels float32, 0 outside: where that was in the source
        [G, G, 3], places in the shading maps [G, G, 2] of heads that have them, and how far it may follow an expression
        [G, G] where the mouth is covered."""
        values = [before.pixels.numpy()]
        if self.head.config.shading_size:
            values.append(self.head.shading_place.numpy())
        if covered:
            values.append(self.above_mask[:, None].numpy())
        origin, *more = after.interpolate(*values)
        free = more.pop()[..., 0] if covered else None
        return origin, more[0] if more else None, free


def _rim_motion(before: _Drawing, after: _Drawing) -> float:
    """The farthest that a point of the face's outline moves, pixels."""
    rim = cv2.convexHull(after.points.astype(np.float32), returnPoints=False)[:, 0].astype(int)
    return float(np.linalg.norm((before.points - after.points)[rim], axis=1).max())


def _outline(points: np.ndarray, size: int) -> np.ndarray:
    """The convex outline of the face's landmarks, filled [size, size] bool."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    return mask > 0


def soften_steps(motion: np.ndarray, skin: np.ndarray, width: float) -> np.ndarray:
    """Motion [G, G, 2] whose jumps within `skin` [G, G] become slopes `width` pixels to each side.

    Where a lip or fold comes to hide what lay below it, a photo sampled across the jump shows specks of the hidden.
    """
    inner = cv2.erode(skin.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    steps = cv2.morphologyEx(motion, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    jump = (steps[..., 0] > STEP) | (steps[..., 1] > STEP)
    if not (jump & inner).any():
        return motion
    weight = skin.astype(np.float32)
    soft = cv2.GaussianBlur(motion * weight[..., None], (0, 0), width)
    soft /= cv2.GaussianBlur(weight, (0, 0), width).clip(1e-3)[..., None]
    far = cv2.distanceTransform((~(jump & inner)).astype(np.uint8), cv2.DIST_L2, 5)
    share = smooth(np.clip(1.5 - far / (2 * width), 0, 1)) * skin
    return motion + share[..., None] * (soft - motion)


def fade_out(motion: np.ndarray, on: np.ndarray, scale: float, reach: float) -> np.ndarray:
    """Continue motion [G, G, 2] from where it is `on` outwards, fading to 0 over `reach` metres and at the border."""
    distance, nearest = nearest_known(on)
    fade = smooth(np.clip(1 - distance * np.float32(1 / (reach * scale)), 0, 1))
    spread = np.take(motion.astype(np.float32).reshape(-1, 2), nearest, 0) * fade[..., None]
    sigma = max(0.27 * reach * scale, 1.0)
    mix = np.clip(distance * np.float32(1 / (1.5 * sigma)), 0, 1) * ~on
    motion = spread + mix[..., None] * (wide_blur(spread, sigma) - spread)
    motion *= border_mask(len(motion), BORDER).astype(np.float32)[..., None]
    x, y = cv2.split(motion)
    motion[x * x + y * y < STILL**2] = 0
    return motion


def move_pixels(photo: np.ndarray, matrix: np.ndarray, warp: Warp) -> np.ndarray:
    """Redraw a photo [H, W, 3] uint8 under a warp at the photo's own resolution.

    Args:
        matrix: Similarity [2, 3] from photo pixels to the warp's grid.

    Pixels that do not move are the photo's own, bit for bit.
    """
    x0, y0, x1, y1 = reach(any_channel(warp.motion), matrix, photo.shape)
    if x1 <= x0 or y1 <= y0:
        return photo.copy()
    inverse = invert(matrix)
    motion = enlarge(warp.motion, matrix, (x0, y0, x1, y1)) @ inverse[:, :2].T.astype(np.float32)
    moved = displaced(photo, motion, (x0, y0))
    result = photo.copy()
    still = ~any_channel(motion)
    result[y0:y1, x0:x1] = np.where(still[..., None], photo[y0:y1, x0:x1], moved)
    if warp.teeth:
        paint_bared_teeth(result, photo, matrix, warp.teeth)
    for eye in warp.eyes:
        paint_eyeball(result, photo, matrix, eye, warp.blur)
    return result
