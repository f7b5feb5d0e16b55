"""The texture of a head from a photo: its own pixels, completed where the photo does not show the head.

Needs a head, a photo and where each vertex lies in the photo; no pipeline. Colours are sRGB throughout.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import cv2
import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from ..models.head import PARTS, HeadModel
from ..painting.stages.flow import CAVITY, EYES, HIDDEN, MOUTH_SHUT, NECK, SKIN, TEETH
from ..photo.colour import GAMMA
from ..photo.landmarks import EYES_OUTER, INNER_LIPS, lips_apart
from ..photo.masks import fill_polygon, nearest_known, ramp
from ..render.buffers import vertex_normals
from ..render.rasterize import interpolate, rasterize
from .uv_atlas import triangle_areas, uv_layout

MAX_SIZE = 4096
LEFT_OUT = PARTS.index("lower_teeth")  # they stick out of the chin of an open mouth
INSIDE = (*TEETH, CAVITY)
FACING = (0.15, 0.45)  # cosine between normal and view from which a texel starts to count, and counts fully
RIM = 0.012  # metres inside the face's outline over which the photo fades out, as hair and background lie beyond
LIP_RIM = 0.001  # metres around the lips' opening over which teeth and cavity do
LID_RIM = 0.0005  # metres inside the lids over which the eyes do
BEHIND = 0.002  # metres that must lie between the skin and what it covers
MOST = 0.02  # metres that something inside may stick out; what is farther before the skin seen there is no mouth
SOFT = 0.002  # metres of skin over which the photo fades out towards what it hides
DECAY = 0.05  # metres over which the seen skin's colour falls back to the mean albedo
LIGHT_DECAY = 0.1  # the same of the difference between both halves of the face
CERTAIN = 20.0  # how firmly the fill keeps to seen vertices
SURE = 0.5  # weight from which texels and vertices count as seen
ENOUGH = 30  # seen texels that tell the tint of a part
WINDOW = 512  # side of the picture of depths, pixels
TINT_RANK = {**dict.fromkeys(EYES, 0.8), **dict.fromkeys(TEETH, 0.8)}
"""Rank in [0, 1] of the seen colours that the mean colour of a part is compared with; the median for others."""
BRIGHTNESS = (0.3, 1.2)  # least and most of a part's mean colour that its seen colours make of it, but for skin
STEP = 4  # every so many texels is looked at where any would do


def texture_map(view: PhotoView, size: int = 1024) -> np.ndarray:
    """Texture uint8 [size, size, 3] of a head in the layout of `uv_layout`.

    Where the photo shows the surface, frontally enough and inside the face's outline, the texel is the photo's. Next
    comes the other half of the face, mirrored and matched in colour, then the mean albedo in the tint of the seen
    skin, bent smoothly towards the seen colours over a few centimetres (screened Poisson equation on the mesh).

    Args:
        view: The head in its photo.
        size: Side of the texture, 64 to MAX_SIZE.

    Raises:
        ValueError: Another size, or the photo does not show the head.
    """
    if not 64 <= size <= MAX_SIZE:
        raise ValueError(f"A texture has 64 to {MAX_SIZE} pixels a side, not {size}.")
    surface = _surface(view.head, size)
    places = np.column_stack([view.pixels, view.facing])
    places, opposite = np.split(surface.spread(np.column_stack([places, surface.mirror @ places])), 2, -1)
    own, shown = surface.observe(view, places, surface.part)
    if not (shown > SURE).any():
        raise ValueError("The photo does not show this head: give the places of its vertices in this photo.")
    other, shows = surface.observe(view, opposite, np.where(surface.skin, SKIN, -1))
    fill, light = surface.complete(own, shown, other, shows)
    rest = fill + (other + light - fill) * shows[..., None]
    return surface.dilate((rest + (own - rest) * shown[..., None]).clip(0, 1))


class PhotoView:
    """How a photo shows the head: what is nearest at each pixel of a window, and how far inside the face that is.

    Args:
        head: The head model, with a texture layout, parts and a landmark embedding.
        pixels: [V, 3], where each vertex lies in the photo: x right, y down, smaller z nearer, one scale.
        photo: uint8 [H, W, 3].

    Raises:
        ValueError: Wrong shapes or types, or numbers that are not finite.
    """

    def __init__(self, head: HeadModel, pixels: np.ndarray, photo: np.ndarray) -> None:
        if pixels.shape != head.template.shape or not np.isfinite(pixels).all():
            wanted, got = list(head.template.shape), list(pixels.shape)
            raise ValueError(f"pixels must be {wanted}, one a vertex, and finite, got {got}.")
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f"A photo must be uint8 [H, W, 3], got {photo.dtype} {list(photo.shape)}.")
        self.head, self.pixels, self.photo = head, np.asarray(pixels, np.float64), photo
        posed = torch.from_numpy(self.pixels).float()[None]
        self.facing = vertex_normals(posed * torch.tensor([1.0, -1, -1]), head.faces)[0, :, 2].numpy()
        points = head.landmarks(posed)[0].numpy()
        rest = head.landmarks(head.template[None])[0, list(EYES_OUTER)]
        # pixels a metre
        self.scale = np.linalg.norm(np.subtract(*points[list(EYES_OUTER)])) / float((rest[0] - rest[1]).norm())
        points = points[:, :2]
        face = points[head.landmark_weight.numpy() > 0]
        low, high = face.min(0), face.max(0)
        self.zoom = WINDOW / (1.05 * max(*(high - low), 1e-6))
        self.origin = (low + high) / 2 - WINDOW / 2 / self.zoom
        self.low, self.high = low, high
        self.outline = self._fade(self._polygon(cv2.convexHull(face.astype(np.float32))[:, 0]), RIM)
        self.lips = np.zeros((WINDOW, WINDOW))
        if lips_apart(points) >= MOUTH_SHUT * self.scale:
            self.lips = 1 - self._fade(1 - self._polygon(points[list(INNER_LIPS)]), LIP_RIM)
        part = head.face_part.numpy()
        within = np.isin(part, INSIDE)
        layers = ~within, within & (part != LEFT_OUT)
        self.layers = [self._draw(head, part, np.flatnonzero(layer)) for layer in layers]
        self.eyes = self._fade(np.isin(self.layers[0][1], EYES).astype(np.uint8), LID_RIM)

    def _polygon(self, points: np.ndarray) -> np.ndarray:
        """Pixels of the window inside the polygon through points [N, 2] of the photo, uint8."""
        return fill_polygon((WINDOW, WINDOW), (points - self.origin) * self.zoom).astype(np.uint8)

    def _fade(self, mask: np.ndarray, rim: float) -> np.ndarray:
        """From 0 at the border of a mask to 1 at `rim` metres inside."""
        return ramp(cv2.distanceTransform(mask, cv2.DIST_L2, 5), 0, rim * self.scale * self.zoom)

    def _draw(self, head: HeadModel, part: np.ndarray, layer: np.ndarray) -> tuple[np.ndarray, ...]:
        """Depth in photo pixels, kind and index of the nearest face of a layer; inf and -1 where there is none."""
        if not len(layer):
            empty = np.full((WINDOW, WINDOW), -1)
            return np.full((WINDOW, WINDOW), np.inf), empty, empty
        placed = (self.pixels - [*self.origin, 0]) * self.zoom
        drawn = rasterize(torch.from_numpy(placed)[None], head.faces[layer], WINDOW, WINDOW)
        face = drawn.face[0].numpy()
        face = np.where(face >= 0, layer[face], -1)
        return drawn.depth[0].numpy() / self.zoom, np.where(face >= 0, _kind(part)[face], -1), face

    def sticking_out(self) -> np.ndarray:
        """How far, in metres [V], teeth, tongue and cavity have to go back to lie behind the skin around the lips."""
        (skin, _, _), (depth, _, face) = self.layers
        faces, part = self.head.faces.numpy(), self.head.face_part.numpy()
        out = (face >= 0) & np.isfinite(skin) & (depth < skin) & (self.lips < SURE)
        here = (skin[out] - depth[out]) / self.scale + BEHIND
        needed = np.zeros(len(self.pixels))
        np.maximum.at(needed, faces[face[out]].ravel(), np.where(here < MOST, here, 0).repeat(3))
        needed[faces[~np.isin(part, INSIDE)]] = 0  # the lips' own vertices stay
        return needed

    def shows(self, places: np.ndarray, part: np.ndarray) -> np.ndarray:
        """How much the photo shows [...] of texels at (x, y, z, facing) [..., 4] that belong to parts [...]."""
        result = np.zeros(part.shape, np.float32)
        low, end = self.origin.clip(0), self.origin + WINDOW / self.zoom
        high = np.minimum(end, self.photo.shape[1::-1])
        x, y = places[..., 0], places[..., 1]
        inside = (part >= 0) & (x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1])
        part, place = _kind(part[inside]), places[inside]
        at = tuple(((place[:, k] - self.origin[k]) * self.zoom).astype(int).clip(0, WINDOW - 1) for k in (1, 0))
        within = np.isin(part, INSIDE)
        nearest, drawn = (np.where(within, mouth[at], rest[at]) for rest, mouth in list(zip(*self.layers))[:2])
        behind = (place[:, 2] - nearest) / (HIDDEN * self.scale)
        frontal = ramp(place[:, 3], *FACING)
        kinds = [within, np.isin(part, EYES)]
        region = np.select(kinds, [self.lips[at], self.eyes[at]], self.outline[at] * frontal)
        result[inside] = region * (2 - 2 * behind).clip(0, 1) * (drawn == part)
        return result


@lru_cache(maxsize=2)
def _surface(head: HeadModel, size: int) -> _Surface:
    """Made once for the heads before and after an edit."""
    return _Surface(head, size)


class _Surface:
    """The head's surface as texels and as vertices, and the ways between them."""

    def __init__(self, head: HeadModel, size: int) -> None:
        self.head = head
        uv = torch.from_numpy(uv_layout(head)) * torch.tensor([1, -1]) + torch.tensor([0, 1])
        flat = torch.nn.functional.pad(uv * size, (0, 1))[None]
        self.fragments = rasterize(flat, head.faces_uv, size, size)
        self.face = self.fragments.face[0].numpy()
        self.part = np.where(self.face >= 0, head.face_part.numpy()[self.face], -1)
        self.skin = np.isin(self.part, (SKIN, NECK))
        skin = np.isin(head.face_part.numpy(), (SKIN, NECK))
        self.skin_vertices = np.bincount(head.faces.numpy()[skin].ravel(), minlength=len(head.template)) > 0

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the vertices [V, C] at every texel [S, S, C], 0 outside the islands."""
        return interpolate(self.fragments, self.head.faces, torch.from_numpy(values).float())[0].numpy()

    def gather(self, values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted means [V, C] around the vertices of texels' values [S, S, C], and how surely they are seen [V]."""
        hit = np.flatnonzero(self.face.ravel() >= 0)[::STEP]
        corners = self.head.faces.numpy()[self.face.ravel()[hit]].ravel()
        share = self.fragments.bary[0].view(-1, 3).numpy()[hit]
        sums = lambda numbers: np.bincount(corners, (share * numbers[:, None]).ravel(), len(self.head.template))
        weight = weight.ravel()[hit]
        total = sums(weight)
        columns = [sums(weight * values[..., k].ravel()[hit]) for k in range(values.shape[-1])]
        mean = total / sums(np.ones(len(hit))).clip(1e-9)
        return np.stack(columns, 1) / total.clip(1e-9)[:, None], ramp(mean, SURE, 1)

    def observe(self, view: PhotoView, places: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The photo's colours [S, S, 3] in [0, 1] at the texels' places (x, y, z, facing) [S, S, 4], and weights."""
        weight = view.shows(places, part)
        stride = _stride(places, weight > SURE)
        radius = max(1, round(SOFT * view.scale / stride))
        skin = self.skin.astype(np.float32)
        # what the photo hides wears the photo's nearer surface at its edge: fade before it, not behind
        eroded = cv2.erode(np.maximum(weight, 1 - skin), np.ones((radius, radius), np.uint8)) * skin
        blur = lambda picture: cv2.GaussianBlur(picture, (0, 0), radius / 2)
        soft = np.minimum(weight, blur(eroded) / blur(skin).clip(1e-3))
        return _sample(view, places[..., :2], stride), np.where(self.skin, soft, weight)

    def complete(
        self, own: np.ndarray, shown: np.ndarray, other: np.ndarray, shows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What texels get where neither they nor their mirror images are seen, and what mirrored colours lack of the
        own [S, S, 3]; from both and their weights."""
        (colour, sure), (opposite, likely) = self.gather(own, shown), self.gather(other, shows)
        light = self.extend(colour - opposite, sure * likely, LIGHT_DECAY)
        likely = likely * (1 - sure)
        known = (colour * sure[:, None] + (opposite + light) * likely[:, None]) / (sure + likely).clip(1e-6)[:, None]
        base = self.tint(own, shown)
        fill = base + self.extend(known - base, sure + likely, DECAY) * self.skin_vertices[:, None]
        fill, light = np.split(self.spread(np.column_stack([fill, light])), 2, -1)
        return fill, light

    @cached_property
    def mirror(self) -> sparse.csr_matrix:
        """From what vertices have to what their mirror images on the skin have [V, V], by the template's geometry."""
        place, skin = self.head.template.numpy(), np.flatnonzero(self.skin_vertices)
        distance, near = KDTree(place[skin]).query(place * [-1, 1, 1], 3)
        share = 1 / (distance + 1e-5) ** 4
        share /= share.sum(1, keepdims=True)
        rows = np.repeat(np.arange(len(place)), 3)
        return sparse.csr_matrix((share.ravel(), (rows, skin[near].ravel())), (len(place), len(place)))

    @cached_property
    def _laplacian(self) -> tuple[sparse.spmatrix, np.ndarray]:
        """Stiffness and area of the template's vertices, square metres, as of equilateral triangles."""
        faces, place = self.head.faces.numpy(), self.head.template.numpy().astype(np.float64)
        count = len(place)
        graph = sparse.coo_matrix((np.ones(faces.size), (faces.ravel(), np.roll(faces, 1, 1).ravel())), (count, count))
        graph = ((graph + graph.T) > 0).astype(float) * 3**-0.5
        area = triangle_areas(place[faces]) / 3
        return sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph, np.bincount(faces.ravel(), area.repeat(3), count)

    def extend(self, values: np.ndarray, weight: np.ndarray, decay: float) -> np.ndarray:
        """Continue values [V, C] smoothly from where they have weight [V]; farther than `decay` metres they fade."""
        stiffness, area = self._laplacian
        system = stiffness + sparse.diags(CERTAIN * weight + area / decay**2 + 1e-9)
        return splu(system.tocsc()).solve(CERTAIN * weight[:, None] * values)

    def tint(self, own: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """Mean colours of the vertices [V, 3], each kind of part in the tint of what is seen of it."""
        base = self.head.albedo.numpy().clip(0, 1).astype(np.float64) ** (1 / GAMMA)
        mean, faces, part = self.spread(base), self.head.faces.numpy(), self.head.face_part.numpy()
        tinted = base.copy()
        for kinds in ((CAVITY,), TEETH, EYES, (NECK, SKIN)):  # at borders the last one's tint holds
            seen = (shown > SURE) & np.isin(self.part, kinds)
            if seen.sum() >= ENOUGH:
                rank = TINT_RANK.get(kinds[0], 0.5)
                gain = np.quantile(own[seen], rank, axis=0) / np.quantile(mean[seen], rank, axis=0).clip(0.05)
                gain = gain if SKIN in kinds else gain.mean().clip(*BRIGHTNESS)  # odd hues there are misplaced lips
                rows = np.unique(faces[np.isin(part, kinds)])
                tinted[rows] = base[rows] * gain
        return tinted.clip(0, 1)

    def dilate(self, picture: np.ndarray) -> np.ndarray:
        """As uint8; around the islands their nearest colours, so that no smaller copy of the texture shows cracks."""
        nearest = nearest_known(self.face >= 0)[1]
        return (picture.reshape(-1, 3)[nearest] * 255).round().astype(np.uint8)


def _kind(part: np.ndarray) -> np.ndarray:
    """Parts that may stand before each other without hiding: neck counts as skin."""
    return np.where(part == NECK, SKIN, part)


def _stride(texels: np.ndarray, seen: np.ndarray) -> float:
    """Photo pixels from one seen texel to the next, as a rule."""
    first, second = slice(0, -1, STEP), slice(1, None, STEP)
    at = (first, first), (first, second), (second, first)
    here, right, below = (texels[rows, columns, :2] for rows, columns in at)
    across, down = right - here, below - here
    area = np.abs(across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0])
    area = area[np.all([seen[rows, columns] for rows, columns in at], axis=0)]
    return max(float(np.sqrt(np.median(area))), 1e-3) if len(area) else 1.0


def _sample(view: PhotoView, places: np.ndarray, stride: float) -> np.ndarray:
    """The photo at places [S, S, 2], averaged over what a texel covers; [S, S, 3] in [0, 1]."""
    limit = view.photo.shape[1::-1]
    low = np.floor(view.low - 8).clip(0, np.subtract(limit, 1)).astype(int)
    high = np.maximum(np.ceil(view.high + 8).clip(0, limit).astype(int), low + 1)
    window, method = view.photo[low[1] : high[1], low[0] : high[0]], cv2.INTER_CUBIC
    if stride > 1:
        size = np.maximum(np.round((high - low) / stride), 1).astype(int).tolist()
        window, method = cv2.resize(window, size, interpolation=cv2.INTER_AREA), cv2.INTER_LINEAR
    step = np.array(window.shape[1::-1]) / (high - low)
    x, y = np.moveaxis((places - low) * step - 0.5, -1, 0).astype(np.float32)
    colour = cv2.remap(window.astype(np.float32) / 255, x, y, method, borderMode=cv2.BORDER_REPLICATE)
    return colour.clip(0, 1)
