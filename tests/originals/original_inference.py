"""What DiffusionRig's inference (Ding et al. 2023) does with two photos, from the files that its users have.

Plain numpy in float64 and functional torch; nothing here comes from the package. Pictures are squares of the network's
size, points count from the centre of the first pixel, and codes have DECA's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import original_deca
import original_diffae
import original_rig
import torch
from original_flame import flame_forward, flame_landmarks
from skimage.transform import estimate_transform, resize, warp
from torch import Tensor

Codes = dict[str, np.ndarray]

CROP = 224  # pixels of DECA's crop
SH = (0.2820948, *[1.0233267] * 3, *[0.8580855] * 3, 0.4290428, 0.2477080)


@dataclass
class Originals:
    """Contents of the files: FLAME and its texture, E_flame and E_expression, and DiffusionRig's model."""

    flame: dict[str, np.ndarray]
    deca: original_deca.Tensors
    emoca: original_deca.Tensors
    rig: original_rig.State
    model: original_rig.Original


@dataclass
class Read:
    """A picture uint8 [S, S, 3], what was read of its face, and the similarity [3, 3] to DECA's crop in pixels."""

    picture: np.ndarray
    codes: Codes
    tform: np.ndarray


# codes


def resized(photo: np.ndarray, side: int) -> np.ndarray:
    """A photo in the network's size, cut to whole numbers."""
    return (resize(photo, (side, side), anti_aliasing=True) * 255.0).astype(np.uint8)


def crop(picture: np.ndarray, points: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """DECA's crop [1, 3, 224, 224] of a picture by the 68 points of its face, and the similarity to it."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    size = int((right - left + bottom - top) / 2 * 1.1 * 1.25)
    x, y = (left + right) / 2, (top + bottom) / 2
    corners = np.array([[x - size / 2, y - size / 2], [x - size / 2, y + size / 2], [x + size / 2, y - size / 2]])
    tform = estimate_transform("similarity", corners, np.array([[0, 0], [0, CROP - 1], [CROP - 1, 0]]))
    cut = warp(picture / 255.0, tform.inverse, output_shape=(CROP, CROP))
    return torch.from_numpy(cut.transpose(2, 0, 1)[None]).float(), tform.params


def read(originals: Originals, picture: np.ndarray, points: np.ndarray, branch: str) -> Read:
    """Codes of a face as DECA or EMOCA (version 2, which reads the jaw too) gives them."""
    image, tform = crop(picture, points)
    if branch == "deca":
        codes = original_deca.deca_codes(originals.deca, image)
    else:
        codes = original_deca.emoca_codes(originals.deca, originals.emoca, True, False, image)
    return Read(picture, {name: value[0].double().numpy() for name, value in codes.items()}, tform)


def lend(own: Codes, lent: Codes, mode: str) -> Codes:
    """The codes to draw; "latent" lends no code."""
    codes = dict(own)
    if mode == "pose":
        codes["pose"] = np.concatenate([lent["pose"][:3], own["pose"][3:]])
    elif mode == "light":
        codes["light"] = lent["light"]
    elif mode == "exp":
        codes["exp"], codes["pose"] = lent["exp"], np.concatenate([own["pose"][:3], lent["pose"][3:]])
    return codes


# geometry


def posed(originals: Originals, codes: Codes) -> np.ndarray:
    return flame_forward(originals.flame, codes["shape"], codes["exp"], codes["pose"])


def centre(originals: Originals, vertices: np.ndarray) -> np.ndarray:
    """Where FFHQ's pictures are centred, from the 68 points in space."""
    points = flame_landmarks(originals.flame, vertices)
    eyes = (points[36:42].mean(0) + points[42:48].mean(0)) / 2
    return eyes + 0.1 * ((points[48] + points[54]) / 2 - eyes)


def placed(originals: Originals, own: Codes, codes: Codes) -> np.ndarray:
    """Vertices of the head to draw, its face where the photo's own codes have it."""
    vertices = posed(originals, codes)
    return vertices + centre(originals, posed(originals, own)) - centre(originals, vertices)


def project(vertices: np.ndarray, camera: np.ndarray, tform: np.ndarray, side: int) -> np.ndarray:
    """Points [V, 3] where -1 and 1 are the picture's borders, smaller z nearer."""
    x, y = camera[0] * (vertices[:, 0] + camera[1]), -camera[0] * (vertices[:, 1] + camera[2])
    pixels = np.stack([(x + 1) / 2 * CROP, (y + 1) / 2 * CROP, np.ones_like(x)], 1) @ np.linalg.inv(tform).T
    return np.column_stack([pixels[:, :2] * 2 / side - 1, -camera[0] * vertices[:, 2]])


# pictures


def rasterise(points: np.ndarray, faces: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Face [S, S] in front at every pixel's centre, -1 for none, and its barycentric coordinates [S, S, 3].

    As pytorch3d does it: 1e-8 are added to every area, also where depth, which DECA puts 10 farther away, is told.
    """
    at = -1 + (2 * np.arange(side) + 1) / side
    face, bary, depth = np.full((side, side), -1), np.zeros((side, side, 3)), np.full((side, side), np.inf)
    corners = points[faces]
    low, high = corners[..., :2].min(1), corners[..., :2].max(1)
    start, end = np.searchsorted(at, low), np.searchsorted(at, high, "right")
    for index in np.flatnonzero((start < end).all(1)):
        a, b, c = corners[index]
        area = beside(c[0], c[1], a, b)
        if abs(area) <= 1e-8:
            continue
        columns, rows = (slice(start[index, i], end[index, i]) for i in (0, 1))
        x, y = at[columns][None], at[rows][:, None]
        shares = np.stack([beside(x, y, b, c), beside(x, y, c, a), beside(x, y, a, b)], -1) / (area + 1e-8)
        z = shares @ (np.array([a[2], b[2], c[2]]) + 10)
        nearer = (shares > 0).all(-1) & (z < depth[rows, columns])
        depth[rows, columns][nearer], face[rows, columns][nearer] = z[nearer], index
        bary[rows, columns][nearer] = shares[nearer]
    return face, bary


def beside(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Twice the signed area between points and an edge."""
    return (x - a[0]) * (b[1] - a[1]) - (y - a[1]) * (b[0] - a[0])


def normals_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals of vertices [V, 3]: the sum of their faces' cross products, of length 1."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    total = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(total, faces[:, corner], np.cross(b - a, c - a))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-6)


def texture(flame: Mapping[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    """FLAME's texture [3, 256, 256]: every other pixel of 512, BGR turned round."""
    basis = flame["tex_dir"].reshape(512, 512, 3, -1)[::2, ::2, ::-1, : len(codes)].astype(np.float32)
    mean = flame["mean"].reshape(512, 512, 3)[::2, ::2, ::-1].astype(np.float64)
    return ((mean + basis @ codes) / 255).transpose(2, 0, 1)


def look_up(picture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear values [..., 3] of a texture [3, h, w] at u to the right and v upwards in [0, 1], zero around it."""
    height, width = picture.shape[1:]
    x, y = u * width - 0.5, (1 - v) * height - 0.5
    total = np.zeros((*u.shape, 3))
    for dx in (0, 1):
        for dy in (0, 1):
            i, j = np.floor(x).astype(int) + dx, np.floor(y).astype(int) + dy
            share = (1 - abs(x - i)) * (1 - abs(y - j))
            inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
            found = picture[:, j.clip(0, height - 1), i.clip(0, width - 1)]
            total += np.moveaxis(found, 0, -1) * (share * inside)[..., None]
    return total


def shading(normals: np.ndarray, light: np.ndarray) -> np.ndarray:
    """RGB [..., 3] of a white surface under nine spherical harmonics [9, 3]."""
    x, y, z = np.moveaxis(normals, -1, 0)
    basis = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 3 * z**2 - 1], -1)
    return basis * np.array(SH) @ light


@dataclass
class Drawn:
    """Rendered, normal and albedo [9, S, S], and the face in front at every pixel [S, S], -1 for none."""

    conditions: np.ndarray
    face: np.ndarray


def paint(flame: Mapping[str, np.ndarray], vertices: np.ndarray, points: np.ndarray, codes: Codes, side: int) -> Drawn:
    """What the network sees of a head whose vertices are `points` in the picture."""
    faces = flame["f"].astype(np.int64)
    face, bary = rasterise(points, faces, side)
    blend = lambda values, rows: (values[rows[face]] * bary[..., None]).sum(-2)
    alpha = (face >= 0)[..., None]
    normal = blend(normals_of(vertices, faces), faces)
    u, v = np.moveaxis((blend(2 * flame["uv"] - 1, flame["faces_uv"]) + 1) / 2, -1, 0)
    albedo = look_up(texture(flame, codes["tex"]), u, v) * alpha
    rendered = albedo * shading(normal, codes["light"])
    return Drawn(np.concatenate([rendered, normal, albedo], -1).transpose(2, 0, 1), face)


def draw(originals: Originals, own: Read, codes: Codes) -> Drawn:
    """What the network sees of codes, in the picture that `own` was read from."""
    vertices, side = placed(originals, own.codes, codes), len(own.picture)
    return paint(originals.flame, vertices, project(vertices, codes["cam"], own.tform, side), codes, side)


# the network


def look(originals: Originals, picture: np.ndarray) -> Tensor:
    """The ResNet's code of a picture [1, Z]."""
    image = torch.from_numpy(picture / 255.0).permute(2, 0, 1)[None].float() * 2 - 1
    return original_rig.encode(originals.rig, originals.model, image)


def sample(originals: Originals, noise: Tensor, conditions: Tensor, code: Tensor, steps: int) -> Tensor:
    """Pictures [B, 3, S, S] in [0, 1] from x_T, conditions [B, 9, S, S] and codes [B, Z] by DDIM."""
    network = original_rig.Functional(originals.rig, originals.model)

    def predict(x: Tensor, time: int) -> Tensor:
        return network(torch.cat([x.float(), conditions], 1), torch.full((len(x),), float(time)), code).double()

    asked = lambda x, times: predict(x, int(times[0]))
    return (original_diffae.Diffusion(steps).sample(asked, noise.double()).clamp(-1, 1) + 1) / 2
