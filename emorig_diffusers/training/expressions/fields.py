"""What an expression does to a face, measured between two photos of one person: motion, and shade that comes with it.

Motion is that of detected landmarks and of dense optical flow from the neutral to the acted photo; shade is the
logarithm of luminance in the acted photo over that of the same skin in the neutral one. Both are kept in the head's own
frame, so that people can be averaged: motion in metres at landmarks and vertices, shade on a front view of the head's
template. People's medians with their mirror images lose what one photo has by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial import KDTree

from ...models.head import PARTS, HeadModel
from ...photo.faces import choose_faces, find_faces
from ...photo.landmarks import MIRROR
from ...photo.resample import transform_points, warp_crop
from ...pipelines.emorig import EmoRigPipeline
from ...render.rasterize import rasterize

GRID = 320  # side of the crop in which flow is computed, pixels: about that of the photos
ATLAS = 192  # side of the shading maps, pixels of a millimetre
MARGIN = 0.02  # metres that the maps show above the forehead's and below the chin's landmark
RIGID = (33, 133, 263, 362, 168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 10, 151)
"""Landmarks that expressions hardly move: corners of the eyes, bridge of the nose, forehead.

By the corners alone, the nose's tip and the middle of the forehead go by up to 5 % of the distance of the eyes, up in
surprise and down in anger; for the most part heads nod. Units fitted by those corners, or after the head's turn was
taken out in 3-D, came as near to the expressions of people left out, in mean LPIPS (0.82 of the unedited photo's in all
three, each measured by its own alignment) and in flow: how differently people act is what is left."""
FLOW_BLUR = 2.5  # pixels; flow is noisy on smooth skin
SHADE_BLUR = 1.0  # pixels; the noise of the photos
DARK = 8.0  # grey levels added before ratios: black pixels have none
ASTRAY = 6.0  # pixels between a point and where flow there and back takes it, from which flow is not believed


@dataclass(frozen=True)
class Atlas:
    """Front view of a head's template, on which shading maps are kept.

    Attributes:
        place: Column and row of every vertex in [0, 1] [V, 2].
        corners, bary: Vertices and weights of the skin under every pixel [A, A, 3].
        on: Pixels with skin [A, A].
        position: x and y of every pixel on the template, metres [A, A, 2].
    """

    place: np.ndarray
    corners: np.ndarray
    bary: np.ndarray
    on: np.ndarray
    position: np.ndarray


@dataclass(frozen=True)
class Motion:
    """An expression, relative to the neutral face; x to the person's left, y up.

    Attributes:
        landmarks: Metres [468, 2].
        flow: Metres at vertices [V, 2]; NaN where flow is not to be believed.
        shade: Natural logarithms on the atlas [A, A].
    """

    landmarks: np.ndarray
    flow: np.ndarray
    shade: np.ndarray


def make_atlas(head: HeadModel, size: int = ATLAS) -> Atlas:
    """The front view of a head's template in `size` pixels."""
    vertices, points = head.template.numpy(), head.landmarks(head.template[None])[0].numpy()
    top, bottom = points[10, 1] + MARGIN, points[152, 1] - MARGIN
    side, middle = top - bottom, points[[33, 263], 0].mean()
    place = np.column_stack([(vertices[:, 0] - middle) / side + 0.5, (top - vertices[:, 1]) / side])
    skin = head.faces[head.face_part == PARTS.index("skin")]
    pixels = torch.from_numpy(np.column_stack([place * size, -vertices[:, 2] * size / side])).float()
    shown = rasterize(pixels[None], skin, size, size)
    face = shown.face[0].numpy()
    centre = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + 0.5) / size
    position = np.stack([(centre[..., 0] - 0.5) * side + middle, top - centre[..., 1] * side], -1)
    return Atlas(place, skin.numpy()[np.maximum(face, 0)], shown.bary[0].numpy(), face >= 0, position)


def measure(pipe: EmoRigPipeline, atlas: Atlas, neutral: np.ndarray, acted: np.ndarray) -> Motion:
    """An expression's motion and shade between two photos uint8 [H, W, 3] of one person, seen from the front.

    Raises:
        NoFaceError: A photo without a face.
    """
    face = pipe.encode(neutral)[0]
    vertices = pipe.grid_vertices(face, face.codes, GRID)
    scale, flat = pipe.texture.scale(vertices), vertices.numpy()
    matrix = face.grid_matrix(GRID)
    before = transform_points(matrix, face.face.landmarks[:468, :2])
    after = choose_faces(find_faces(acted))[0].landmarks[:468, :2]
    aligned = align_rigid(after, before)
    rest, moved = warp_crop(neutral, matrix, GRID), warp_crop(acted, aligned, GRID)
    flow, doubt = dense_flow(rest, moved)
    there = flat[:, :2] - 0.5
    on_atlas = (flat[atlas.corners] * atlas.bary[..., None]).sum(2)[..., :2] - 0.5
    shade = np.log(_look(_luminance(moved), on_atlas + _look(flow, on_atlas)) / _look(_luminance(rest), on_atlas))
    up = np.array([1.0, -1.0]) / scale
    believed = _look(doubt, there[:, None])[:, :1] < ASTRAY
    return Motion(
        (transform_points(aligned, after) - before) * up,
        np.where(believed, _look(flow, there[:, None])[:, 0] * up, np.nan),
        np.where(atlas.on, shade, 0).astype(np.float32),
    )


def align_rigid(moved: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Similarity [2, 3] that brings landmarks [468 or more, 2] onto others of the same person, whatever they act."""
    still = list(RIGID)
    return cv2.estimateAffinePartial2D(moved[still].astype(np.float32), fixed[still].astype(np.float32))[0]


def dense_flow(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of one picture uint8 [G, G, 3] are in another [G, G, 2], relative; how far the way back leads
    astray [G, G], pixels. DIS flow (Kroeger et al. 2016) on equalised grey."""
    find: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    find.setFinestScale(1)
    equalised = [cv2.createCLAHE(2.0, (8, 8)).apply(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)) for p in (first, second)]
    forward, back = find.calc(*equalised, None), find.calc(*equalised[::-1], None)
    forward = np.stack([cv2.GaussianBlur(cv2.medianBlur(c, 5), (0, 0), FLOW_BLUR) for c in cv2.split(forward)], -1)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in forward.shape[1::-1])), -1)
    return forward, np.linalg.norm(forward + _look(back, grid + forward), axis=-1)


def average(measured: Sequence[Motion], mirror: np.ndarray) -> Motion:
    """Median of several people's expression and of its mirror images; `mirror` [V] is every vertex's twin."""
    across = np.array([-1.0, 1.0])
    both = lambda values, twins: np.concatenate([values, twins * across])
    landmarks = np.stack([m.landmarks for m in measured])
    flow = np.stack([m.flow for m in measured])
    shade = np.stack([m.shade for m in measured])
    flow = both(flow, flow[:, mirror])
    seen = np.isfinite(flow).any(0)
    return Motion(
        np.median(both(landmarks, landmarks[:, MIRROR]), 0),
        np.where(seen, np.nanmedian(np.where(seen, flow, 0), 0), np.nan),
        np.median(np.concatenate([shade, shade[..., ::-1]]), 0),
    )


def mirrored_vertices(head: HeadModel) -> np.ndarray:
    """Every vertex's twin on the other side of the template [V]."""
    vertices = head.template.numpy()
    return np.asarray(KDTree(vertices).query(vertices * [-1, 1, 1])[1])


def _luminance(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) + DARK, (0, 0), SHADE_BLUR)


def _look(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Values of a picture at places [..., 2] in pixels, its edge repeated."""
    x, y = (where[..., k].astype(np.float32) for k in (0, 1))
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
