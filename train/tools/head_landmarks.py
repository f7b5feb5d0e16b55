"""Where MediaPipe's 478 landmarks lie on a head model: render it, detect them, read the surface under each point."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy.spatial import cKDTree

from emorig_diffusers.models.head import PARTS, HeadModel
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.photo.landmarks import INNER_LIPS
from emorig_diffusers.render.buffers import vertex_normals
from emorig_diffusers.render.camera import ndc_to_pixels, project
from emorig_diffusers.render.rasterize import interpolate, rasterize

SIZE = 512
EXPRESSIONS: tuple[dict[str, float], ...] = (
    {},
    {"jawOpen": 0.35},
    {"jawOpen": 0.5, "mouthSmileLeft": 0.3, "mouthSmileRight": 0.3},
    {"browInnerUp": 0.5, "jawOpen": 0.2},
    {"eyeWideLeft": 0.6, "eyeWideRight": 0.6},
)
SLIDING = 0.005  # metres of spread between views above which a point is not fixed to the skin
SLIDING_WEIGHT = 0.35


def embed_landmarks(head: HeadModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Face [478], barycentric place [478, 3] and weight [478] of every landmark; irises sit on the eyeballs."""
    seen: list[list[np.ndarray]] = [[] for _ in range(478)]
    rng = np.random.default_rng(0)
    views = list(itertools.product(EXPRESSIONS, (-18, 0, 18), (-8, 6), (False, True)))
    detected = 0
    for expression, yaw, pitch, person in views:
        image, fragments = picture(head, rng, expression, yaw, pitch, person)
        faces = find_faces(image)
        if not faces:
            continue
        detected += 1
        for index, point in enumerate(faces[0].landmarks[:, :2]):
            if index not in INNER_LIPS or expression.get("jawOpen", 0) >= 0.3:
                place = under(head, fragments, point, index)
                if place is not None:
                    seen[index].append(place)
    print(f"landmarks: face found in {detected} of {len(views)} renders")
    return settle(head, seen)


def picture(
    head: HeadModel, rng: np.random.Generator, units: dict[str, float], yaw: float, pitch: float, person: bool
) -> tuple[np.ndarray, tuple]:
    """A lit render [512, 512, 3] uint8 of a random or the mean person, with its fragments."""
    shape = torch.tensor(rng.normal(size=(1, head.config.num_shape)) * 0.35 * person, dtype=torch.float32)
    expression = torch.tensor([[units.get(n, 0.0) for n in head.config.expression_names]])
    pose = torch.tensor([[np.radians(pitch), np.radians(yaw), 0, 0, 0, 0]], dtype=torch.float32)
    vertices = head(shape, expression, pose)
    pixels = ndc_to_pixels(project(vertices, torch.tensor([[6.6, 0.0, 0.0]])), SIZE)
    fragments = rasterize(pixels, head.faces, SIZE, SIZE)
    normal = interpolate(fragments, head.faces, vertex_normals(vertices, head.faces))[0]
    light = torch.tensor(rng.normal(size=3) * 0.3 + [0.1, 0.5, 0.9], dtype=torch.float32)
    shade = 0.35 + 0.75 * (torch.nn.functional.normalize(normal, dim=-1) @ (light / light.norm())).clamp(0, 1)
    tone = torch.tensor(rng.uniform(0.6, 1.5) * np.ones(3), dtype=torch.float32)
    colour = interpolate(fragments, head.faces, head.albedo)[0] * tone * shade[..., None]
    colour = torch.where(fragments.face[0, ..., None] >= 0, colour, torch.tensor(0.5)).clamp(0, 1)
    return (colour ** (1 / 2.2) * 255).byte().numpy(), fragments


def under(head: HeadModel, fragments: tuple, point: np.ndarray, index: int, reach: int = 7) -> np.ndarray | None:
    """Place on the template [3] of the nearest pixel of the right part within `reach` pixels of a landmark."""
    x, y = np.floor(point).astype(int)
    if not (reach <= x < SIZE - reach and reach <= y < SIZE - reach):
        return None
    window = (0, slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1))
    face, bary = fragments.face[window], fragments.bary[window]
    eyes = (PARTS.index("left_eye"), PARTS.index("right_eye"))
    part = torch.where(face >= 0, head.face_part[face.clamp(min=0)], -1)
    fits = torch.isin(part, torch.tensor(eyes)) if index >= 468 else part == PARTS.index("skin")
    if not fits.any():
        return None
    grid = torch.arange(2 * reach + 1) - reach
    distance = torch.where(fits, grid[:, None] ** 2 + grid[None] ** 2, 10**6)
    best = divmod(int(distance.argmin()), 2 * reach + 1)
    corners = head.template[head.faces[face[best]]]
    return (corners * bary[best][:, None]).sum(0).numpy()


def settle(head: HeadModel, seen: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median over views, mirrored halves averaged, snapped to the nearest point of the right surface."""
    known = np.array([len(points) > 3 for points in seen])
    median = np.array([np.median(p, 0) if ok else np.full(3, 9.0) for p, ok in zip(seen, known)])
    spread = [np.linalg.norm(p - m, axis=1).mean() if ok else 9.0 for p, m, ok in zip(seen, median, known)]
    mirror = median * [-1, 1, 1]
    pair = cKDTree(median).query(mirror)[1]
    mutual = known & (pair[pair] == np.arange(478))
    place = np.where(mutual[:, None], (median + mirror[pair]) / 2, median)
    weight = np.where(np.array(spread) < SLIDING, 1.0, SLIDING_WEIGHT) * known
    faces, bary = np.zeros(478, int), np.zeros((478, 3))
    eyes = np.isin(head.face_part, [PARTS.index("left_eye"), PARTS.index("right_eye")])
    skin = head.face_part.numpy() == PARTS.index("skin")
    for chosen, part in ((np.arange(478) < 468, skin), (np.arange(478) >= 468, eyes)):
        faces[chosen], bary[chosen] = nearest_on_surface(head, place[chosen], np.flatnonzero(part))
    print(f"landmarks: {known.sum()} placed, {mutual.sum()} mirrored, {(weight == SLIDING_WEIGHT).sum()} sliding")
    return faces, bary, weight


def nearest_on_surface(head: HeadModel, points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face and barycentric place of the nearest of 28 sample points per triangle (finer than 1 mm here)."""
    grid = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]) / 6
    corners = head.template.numpy()[head.faces.numpy()[faces]]
    samples = np.einsum("gk,fkc->fgc", grid, corners).reshape(-1, 3)
    nearest = cKDTree(samples).query(points)[1]
    return faces[nearest // len(grid)], grid[nearest % len(grid)]
