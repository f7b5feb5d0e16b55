"""Another light on a face: its pixels times the ratio of what the head would look like in both lights.

Where the head is a matt surface of any colours, that ratio is all that the light changes (Shashua and Riklin-Raviv
2001), so pores, hair and freckles stay the photo's. What lies around it, the hair that the mesh has not, ears and the
neck below its cut, follows the nearest skin; the photo's own edges tell where the person ends (He et al. 2013).
"""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from ...photo.colour import GAMMA, LUMINANCE
from ...photo.landmarks import MESH
from ...photo.masks import any_channel, fill_polygon, nearest_known, ramp, wide_blur
from ...photo.resample import enlarge, reach, warp_crop
from ...render.buffers import vertex_normals
from ...render.rasterize import interpolate, rasterize
from ...render.spherical_harmonics import sh_shading
from .flow import PhotoTexture

FIELD, WIDE = 256, 2.0  # side of the field in its pixels, and in sides of the aligned crop
SOFT = 0.004  # metres over which the ratio is averaged: facets and a fit's errors are no shade
FLOOR = 0.25  # of what the photo's light does to what faces the camera: half of it is left in the dark, as in a room
LOG_RATIO = -1.6, 1.0  # least and most natural logarithm of how much lighter linear light gets
TINT = 0.06  # most of the same by which one colour may get lighter than all: fits tell the light's colour badly
SURE = 0.006, 0.025
"""Metres inside the outline of the face, and of the rest, whose fit is a guess, from which a pixel is surely the
person; at twice the first it is relit whatever its colour."""
HAIR = 0.05, 0.09  # metres outside from which a pixel is taken for background, and at which nothing is relit
NEIGHBOURS = 0.03  # metres over which colours tell the person from the background
UNLIKE = 0.02  # standard deviation of colours, of white, below which they tell nothing
BODY = 0.02, 0.14  # metres below the chin from which the body is relit less and less, and where no more
PERSON = 0.45, 0.9  # of what colours tell, from where a pixel is relit, and from where as much as skin
CHIN, FOREHEAD = 152, 10  # landmarks: lowest and highest of the face
WHITE = 0.75  # of white, linear: what gets lighter than that comes nearer to white, and stays below


def relight_photo(
    photo: np.ndarray, matrix: np.ndarray, side: int, vertices: Tensor, texture: PhotoTexture, before: Tensor,
    after: Tensor,
) -> np.ndarray:  # fmt: skip
    """A photo uint8 [H, W, 3] whose face is in another light; pixels beyond its surroundings stay bit for bit.

    Args:
        photo: The photo.
        matrix: Similarity [2, 3] from photo pixels to an aligned crop's.
        side: Of that crop, pixels.
        vertices: The head [V, 3] in pixels of the crop.
        texture: What is known of the head's mesh.
        before, after: Both lights [1, 9, 3].
    """
    zoom, corner = FIELD / WIDE / side, FIELD * (1 - 1 / WIDE) / 2
    matrix = zoom * np.asarray(matrix) + np.array([[0, 0, corner]] * 2)
    vertices = zoom * vertices + vertices.new_tensor([corner, corner, 0])
    head, scale = texture.head, texture.scale(vertices)
    outside = texture.layers[0]
    fragments = rasterize(vertices[None], head.faces[outside], FIELD, FIELD)
    on = (fragments.face[0] >= 0).numpy()
    normal = vertex_normals((vertices * vertices.new_tensor([1, -1, -1]))[None], head.faces)
    normal = normalize(interpolate(fragments, head.faces[outside], normal), dim=-1, eps=1e-6)
    points = head.landmarks(vertices[None])[0, :MESH, :2].numpy()
    ratio = _spread(_log_ratio(normal, before, after), on, SOFT * scale)
    ratio = ratio * _fades(on, points, scale)[..., None]
    window = reach(any_channel(ratio), matrix, photo.shape)
    left, top, right, bottom = window
    if right <= left or bottom <= top:
        return photo
    colours = warp_crop(photo, matrix, FIELD).astype(np.float32) / 255
    face = fill_polygon(on.shape, cv2.convexHull(points.astype(np.float32))[:, 0])
    inside = ramp(_depth(face, scale), 0, 2 * SURE[0]).astype(np.float32)
    person = _depth(on, scale) > np.where(face, *SURE)
    fields = _person(colours, person, nearest_known(on)[0] > HAIR[0] * scale, scale), inside
    told, inside = (enlarge(field, matrix, window) for field in fields)
    result, pixels = photo.copy(), photo[top:bottom, left:right]
    share = (told[..., :3] * (pixels.astype(np.float32) / 255)).sum(-1) + told[..., 3]
    share = np.maximum(ramp(share, *PERSON), inside)
    gain = np.exp(share[..., None] * enlarge(ratio, matrix, window))
    result[top:bottom, left:right] = _lit(pixels, gain)
    return result


def _log_ratio(normal: Tensor, before: Tensor, after: Tensor) -> np.ndarray:
    """Natural logarithm [G, G, 3] of how much lighter normals [1, G, G, 3] are in another light."""
    old, new = (sh_shading(normal, light)[0] for light in (before, after))
    floor = FLOOR * sh_shading(normal.new_tensor([[[0, 0, 1.0]]]), before)[0, 0].clamp(min=1e-6)
    lit = lambda shade: shade + (shade.square() + floor.square()).sqrt()  # never dark, and without an edge
    ratio = (lit(new) / lit(old)).log().numpy()
    grey = ratio @ LUMINANCE
    return np.clip(grey, *LOG_RATIO)[..., None] + TINT * np.tanh((ratio - grey[..., None]) / TINT)


def _spread(values: np.ndarray, on: np.ndarray, sigma: float) -> np.ndarray:
    """Values [G, G, 3] where they are known, smooth, and beyond what is nearest."""
    _, nearest = nearest_known(on)
    filled = values.reshape(-1, 3)[nearest].astype(np.float32)
    return wide_blur(filled, sigma)


def _fades(on: np.ndarray, points: np.ndarray, scale: float) -> np.ndarray:
    """How far pixels [G, G] are relit for where they are: hair, background, and the body below the chin [G, G]."""
    away, _ = nearest_known(on)
    chin, brow = points[CHIN], points[FOREHEAD]
    down = (chin - brow) / np.linalg.norm(chin - brow)
    rows, columns = np.indices(on.shape, np.float32) + 0.5
    below = ((columns - chin[0]) * down[0] + (rows - chin[1]) * down[1]) / scale
    body = 1 - ramp(below, *BODY)
    around = 1 - ramp(away / scale, *HAIR)
    return np.where(below > 0, np.maximum(around, ramp(below, 0, BODY[0])), around) * body


def _depth(mask: np.ndarray, scale: float) -> np.ndarray:
    """Metres that pixels of a mask [G, G] lie inside of its border [G, G]."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) / scale


def _person(colours: np.ndarray, inside: np.ndarray, far: np.ndarray, scale: float) -> np.ndarray:
    """Weights [G, G, 4] of red, green, blue and 1 that tell the person from the background around each pixel.

    Args:
        colours: The photo [G, G, 3] in [0, 1].
        inside, far: What is surely the person, and what is not [G, G].
        scale: Pixels a metre.
    """
    known, is_person = (inside | far).astype(np.float32), inside.astype(np.float32)
    channels = lambda x: (np.ascontiguousarray(x[..., k], np.float32) for k in range(x.shape[-1]))
    blur = lambda x: np.stack([wide_blur(channel, NEIGHBOURS * scale) for channel in channels(x)], -1)
    known = known[..., None]
    total = blur(known).clip(1e-4)
    mean = blur(known * colours) / total
    person = blur(is_person[..., None]) / total
    pairs = (colours[..., :, None] * colours[..., None, :]).reshape(*far.shape, 9)
    spread = (blur(known * pairs) / total).reshape(*far.shape, 3, 3) - mean[..., :, None] * mean[..., None, :]
    together = blur(is_person[..., None] * colours) / total - mean * person
    slope = np.linalg.solve(spread + UNLIKE**2 * np.eye(3, dtype=np.float32), together[..., None])[..., 0]
    offset = person - (slope * mean).sum(-1, keepdims=True)
    return blur(np.concatenate([slope, offset], -1))


def _lit(part: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Pixels uint8 [h, w, 3] times a gain of linear light; what gets lighter stays below white."""
    old = (part.astype(np.float32) / 255) ** GAMMA
    new, knee = old * gain, np.maximum(old, WHITE)
    room, excess = np.maximum(1 - knee, 1e-4), np.maximum(new - knee, 0)
    new = np.minimum(new, knee) + room * excess / (room + excess)
    return np.clip(np.round(255 * new ** (1 / GAMMA)), 0, 255).astype(np.uint8)
