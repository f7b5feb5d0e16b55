"""The rasteriser: the nearest face at every pixel, and what varies over it; batched torch code without a learnt part.

Pixel coordinates have x right, y down and pixel (row j, column i) at the centre (i + 0.5, j + 0.5); smaller z is
nearer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "pytorch3d"]
Rule = Literal["exact", "pytorch3d"]
RULES: tuple[Rule, ...] = ("exact", "pytorch3d")
"""How weights are computed in a face: without error, or as pytorch3d does under DECA, see `rasterize`."""

_FACE_BITS = 24
_DEPTH_STEPS = 2.0**36
_MIN_AREA = 1e-9  # px^2, twice the area; thinner slivers drown in the rounding of the edge equations
_AREA_OFFSET = 1e-8  # pytorch3d's epsilon, added to twice a face's signed area in its NDC
_DECA_DEPTH = 10.0  # DECA's, added to z in NDC before it rasterises
_MAX_DEPTH = 1e3  # far behind any head, in NDC


class Fragments(NamedTuple):
    """What a rasteriser found at each pixel centre.

    Attributes:
        face: int64 [B, H, W], index of the nearest face, -1 at the background.
        bary: float [B, H, W, 3], barycentric coordinates in that face (sum 1, but for the rule 'pytorch3d'), 0 at
            the background.
        depth: float [B, H, W], z of the surface in the units of the rasterised points, inf at the background.
    """

    face: Tensor
    bary: Tensor
    depth: Tensor


def rasterize(
    pixels: Tensor, faces: Tensor, height: int, width: int, backend: Backend = "auto", rule: Rule = "exact"
) -> Fragments:
    """Find the nearest face at every pixel centre; no culling, no perspective correction.

    Both sides of a face are drawn, border included; faces without area or with a non-finite corner are not.
    Of equally near faces the smaller index wins ('torch' backend). Face indices are constants; barycentrics
    and depth are differentiable with respect to `pixels`.

    pytorch3d divides barycentrics by A + 1e-8, where A is twice the face's signed area in NDC: they sum to
    A / (A + 1e-8), and with DECA's z + 10 small faces that wind one way come nearer by 1e-7 / A, those that wind the
    other way go back as far. Published networks were trained on such pictures; the rule 'pytorch3d' draws them,
    leaves the border out, and drops faces with |A| <= 1e-8.

    Args:
        pixels: [B, V, 3] vertices in pixel coordinates (`ndc_to_pixels`), smaller z nearer, any range.
        faces: int64 [F, 3], shared by the batch, at most 2**24 faces.
        height, width: size of the picture in pixels.
        backend: 'auto' is 'pytorch3d' for CUDA tensors where that package is installed, else 'torch', which
            runs everywhere and is a hundred times faster on a CPU.
        rule: 'exact', or 'pytorch3d' for that package's and DECA's offsets, with either backend. `depth` stays the
            surface's own.

    Raises:
        ValueError, ImportError: wrong shapes, too many faces; unknown backend or rule, backend not installed.
    """
    return _fragments(nearest_faces(pixels, faces, height, width, backend, rule), pixels, faces, rule)


@torch.no_grad()
def nearest_faces(
    pixels: Tensor, faces: Tensor, height: int, width: int, backend: Backend = "auto", rule: Rule = "exact"
) -> Tensor:
    """`Fragments.face` alone, int64 [B, H, W]; arguments and errors as for `rasterize`."""
    _check_mesh(pixels, faces)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r} to rasterise by: use {' or '.join(map(repr, RULES))}.")
    if backend == "auto":
        backend = "pytorch3d" if pixels.is_cuda and importlib.util.find_spec("pytorch3d") else "torch"
    nearest = {"torch": _nearest_torch, "pytorch3d": _nearest_pytorch3d}.get(backend)
    if nearest is None:
        raise ValueError(f"unknown rasteriser backend {backend!r}: use 'auto', 'torch' or 'pytorch3d'.")
    return nearest(pixels, faces, height, width, rule)


def weights_and_depth(
    pixels: Tensor, faces: Tensor, face: Tensor, x: Tensor, y: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Barycentric weights of the three corners [N] each, and depth [N], float64, at points of a mesh's faces.

    Args:
        pixels: Vertices [V, 3], as for `rasterize`.
        faces: int64 [F, 3].
        face: Each point's face, int64 [N].
        x, y: Where the points are [N], pixel coordinates.
    """
    return _on_planes(_planes(pixels[None], faces), face, x, y)


def _check_mesh(pixels: Tensor, faces: Tensor) -> None:
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"vertices must be [B, V, 3], got {list(pixels.shape)}.")
    if faces.shape[1:] != (3,) or faces.dtype != torch.int64 or len(faces) > 2**_FACE_BITS:
        raise ValueError(f"faces must be int64 [F <= 2**24, 3], got {faces.dtype} {list(faces.shape)}.")


class _Setup(NamedTuple):
    """The K faces of the batch that may touch a pixel centre."""

    edges: Tensor  # float64 [(a, b, c) x 3, K], a x + b y + c >= 0 inside
    plane: Tensor  # float64 [K, (dz/dx, dz/dy, z at the origin)], in depth steps
    first_row: Tensor
    rows: Tensor
    picture: Tensor  # index in the batch
    face: Tensor


def _nearest_torch(pixels: Tensor, faces: Tensor, height: int, width: int, rule: Rule) -> Tensor:
    """Scan conversion without loops: faces become rows, rows spans of pixels, and the nearest key wins."""
    setup = _setup_faces(pixels, faces, height, width, rule)
    owner, offset = _expand(setup.rows)
    y = setup.first_row.index_select(0, owner) + offset
    first, count = _spans(setup.edges.gather(1, owner.expand(9, -1)), y, width, rule)
    gx, gy, z0 = setup.plane.index_select(0, owner).unbind(-1)
    start = (setup.picture.index_select(0, owner) * height + y) * width + first
    row, offset = _expand(count)
    # what rows hand on to their pixels is gathered side by side: looking up is most of the work
    depth = torch.stack((z0 + gy * (y + 0.5) + gx * (first + 0.5), gx), 1).index_select(0, row)
    place = torch.stack((start, setup.face.index_select(0, owner)), 1).index_select(0, row)
    depth, target = torch.addcmul(depth[:, 0], depth[:, 1], offset), place[:, 0] + offset
    # One integer holds depth and face, so that a single amin finds the nearest face and breaks ties by index.
    key = depth.round_().clamp_(0, _DEPTH_STEPS).long().bitwise_left_shift_(_FACE_BITS)
    key += place[:, 1]
    empty = torch.iinfo(torch.int64).max
    nearest = torch.full((len(pixels) * height * width,), empty, dtype=torch.int64, device=pixels.device)
    nearest.scatter_reduce_(0, target, key, "amin")
    face = torch.where(nearest == empty, -1, nearest & (2**_FACE_BITS - 1))
    return face.view(len(pixels), height, width)


def _setup_faces(pixels: Tensor, faces: Tensor, height: int, width: int, rule: Rule) -> _Setup:
    corners = pixels.index_select(1, faces.flatten()).view(-1, 3, 3).double()
    p0, p1, p2 = corners.unbind(1)
    low, high = p0.minimum(p1).minimum(p2)[:, :2], p0.maximum(p1).maximum(p2)[:, :2]
    limit = low.new_tensor((width - 1, height - 1))
    first = (low - 0.5).ceil().clamp(min=0)
    last = (high - 0.5).floor().minimum(limit)
    area, e1z, e2z = _twice_area(corners), p1[:, 2] - p0[:, 2], p2[:, 2] - p0[:, 2]
    finite = (area + e1z + e2z).isfinite()
    least = _MIN_AREA if rule == "exact" else _AREA_OFFSET * _square_of_ndc(height, width)
    keep = ((last >= first).all(1) & (area.abs() > least) & finite).nonzero().squeeze(1)
    first, last, corners, area = first[keep, 1].long(), last[keep, 1].long(), corners[keep], area[keep]
    edges = _edges(corners) * area.sign()[:, None, None]
    z = corners[..., 2] if rule == "exact" else _offset_depth(corners, area, height, width)
    plane = _depth_plane(corners, z, edges, area.abs())
    edges = edges.permute(2, 1, 0).reshape(9, -1)  # rows of one edge's numbers, which lie side by side
    return _Setup(edges, plane, first, last - first + 1, keep // len(faces), keep % len(faces))


def _edges(corners: Tensor) -> Tensor:
    """Line through the other two corners, for each corner, [K, 3, 3].

    Written so that swapping the two ends negates a, b and c exactly: two faces that share an edge then decide
    every pixel on it alike, and no crack opens between them.
    """
    x, y, _ = corners.unbind(-1)
    x1, x2, y1, y2 = x.roll(-1, 1), x.roll(-2, 1), y.roll(-1, 1), y.roll(-2, 1)
    return torch.stack((y1 - y2, x2 - x1, x1 * y2 - x2 * y1), dim=-1)


def _twice_area(corners: Tensor) -> Tensor:
    """Twice the signed area [K] of faces [K, 3, 2+], px^2."""
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]


def _square_of_ndc(height: int, width: int) -> float:
    """px^2 that are a square of side 1 in pytorch3d's NDC, whose [-1, 1] spans the shorter side."""
    return (min(height, width) / 2) ** 2


def _weight_sum(area: Tensor, height: int, width: int) -> Tensor:
    """What pytorch3d's barycentrics sum to, from twice the signed area in px^2 (which it counts the other way)."""
    return area / (area - _AREA_OFFSET * _square_of_ndc(height, width))


def _offset_depth(corners: Tensor, area: Tensor, height: int, width: int) -> Tensor:
    """Depth [K, 3] at the corners of faces as pytorch3d sees it under DECA."""
    z = corners[..., 2] * (2 / width) + _DECA_DEPTH
    return (z * _weight_sum(area, height, width)[:, None]).clamp(-_MAX_DEPTH, _MAX_DEPTH)


def _depth_plane(corners: Tensor, z: Tensor, edges: Tensor, area: Tensor) -> Tensor:
    if len(z):
        z = (z - z.min()) * (_DEPTH_STEPS / (z.max() - z.min()).clamp(min=1e-30))
    gx, gy = ((z[..., None] * edges[..., :2]).sum(1) / area[:, None]).unbind(-1)
    return torch.stack((gx, gy, z[:, 0] - gx * corners[:, 0, 0] - gy * corners[:, 0, 1]), dim=-1)


def _spans(edges: Tensor, y: Tensor, width: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """First pixel and number of pixels of each row [R] inside its face's three edges [(a, b, c) x 3, R]."""
    a, b, c = edges.view(3, 3, -1)
    value = b * (y + 0.5) + c
    crossing = -value / a
    outside = (a == 0) & ((value < 0) if rule == "exact" else (value <= 0))
    left = crossing.masked_fill(a <= 0, -torch.inf).masked_fill_(outside, torch.inf)
    right = crossing.masked_fill(a >= 0, torch.inf)
    left, right = _fold(torch.maximum, left.T) - 0.5, _fold(torch.minimum, right.T) - 0.5
    first, last = (left.ceil(), right.floor()) if rule == "exact" else (left.floor() + 1, right.ceil() - 1)
    first, last = first.clamp(0, width).long(), last.clamp(-1, width - 1).long()
    return first, (last - first + 1).clamp(min=0)


def _fold(function: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Tensor:
    # Two whole-array steps are several times as fast as torch's reduction over three neighbours in memory.
    return function(function(values[:, 0], values[:, 1]), values[:, 2])


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner index and running number of `counts[i]` items for each i, both int64 [sum(counts)]."""
    owner = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - start[owner]


def _nearest_pytorch3d(pixels: Tensor, faces: Tensor, height: int, width: int, rule: Rule) -> Tensor:
    try:
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes  # pyright: ignore[reportMissingImports]
        from pytorch3d.structures import Meshes  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        advice = "install the extra 'pytorch3d' (its torch has to be a CUDA build) or use 'torch'."
        raise ImportError(f"backend 'pytorch3d' does not import ({error}): {advice}") from error
    # pytorch3d's NDC: x left, y up, the shorter side spans [-1, 1], and nothing is drawn at negative z.
    centre = pixels.new_tensor((width / 2, height / 2))
    xy = (centre - pixels[..., :2]) * (2 / min(height, width))
    z = pixels[..., 2:] - pixels[..., 2:].min() + 1 if rule == "exact" else pixels[..., 2:] * (2 / width) + _DECA_DEPTH
    meshes = Meshes(torch.cat((xy, z), -1), faces.expand(len(pixels), -1, -1))
    exact = {"blur_radius": 0.0, "faces_per_pixel": 1, "perspective_correct": False, "cull_backfaces": False}
    packed = rasterize_meshes(meshes, (height, width), **exact)[0][..., 0]
    return torch.where(packed < 0, -1, packed % len(faces))


def _fragments(face: Tensor, pixels: Tensor, faces: Tensor, rule: Rule) -> Fragments:
    """Barycentrics and depth of the hit pixels, in float64 because slivers lose all digits in float32.

    Both are planes over a face, set up once for each face and taken from its first corner, where no digits cancel.
    """
    batch, height, width = face.shape
    hit = (face.flatten() >= 0).nonzero().squeeze(1)
    owner = face.flatten().index_select(0, hit)
    if batch > 1:
        owner = owner + hit // (height * width) * len(faces)
    planes = _planes(pixels, faces)
    weights, depth = _on_planes(planes, owner, hit % width + 0.5, hit // width % height + 0.5)
    weights = torch.stack(weights, -1)
    if rule != "exact":
        weights = weights * _weight_sum(planes.area, height, width)[owner, None]
    bary = pixels.new_zeros(face.numel(), 3).index_copy(0, hit, weights.to(pixels.dtype))
    depth = pixels.new_full((face.numel(),), torch.inf).index_copy(0, hit, depth.to(pixels.dtype))
    return Fragments(face, bary.view(batch, height, width, 3), depth.view(batch, height, width))


class _Planes(NamedTuple):
    """What varies over each face of the batch, float64, from its first corner on."""

    start: Tensor  # that corner [K, 2]
    second: Tensor  # slopes of the weights of the second and third corner [K, 2]
    third: Tensor
    depth: Tensor  # at the first corner, and how far the others lie behind it [K, 3]
    area: Tensor  # twice the signed area [K]


def _planes(pixels: Tensor, faces: Tensor) -> _Planes:
    corners = pixels.index_select(1, faces.flatten()).view(-1, 3, 3).double()
    area = _twice_area(corners)
    area = torch.where(area == 0, torch.ones_like(area), area)  # such a face is nowhere hit
    edges = corners[:, 1:] - corners[:, :1]
    (x1, y1, z1), (x2, y2, z2) = edges[:, 0].unbind(-1), edges[:, 1].unbind(-1)
    second, third = torch.stack((y2, -x2), -1) / area[:, None], torch.stack((-y1, x1), -1) / area[:, None]
    return _Planes(corners[:, 0, :2], second, third, torch.stack((corners[:, 0, 2], z1, z2), -1), area)


def _on_planes(planes: _Planes, face: Tensor, x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Weights of the three corners and depth at points, as `weights_and_depth`."""
    start, second, third, z = (table.index_select(0, face) for table in planes[:4])
    x, y = x - start[:, 0], y - start[:, 1]
    second = second[:, 0] * x + second[:, 1] * y
    third = third[:, 0] * x + third[:, 1] * y
    return (1 - second - third, second, third), z[:, 0] + z[:, 1] * second + z[:, 2] * third


def _corners(table: Tensor, face: Tensor, faces: Tensor, hit: Tensor, stride: int) -> Tensor:
    """Rows [N, 3, C] of a table [(B,) V, C] at the corners of each hit's face; stride V, 0 if shared."""
    index = faces.index_select(0, face.flatten().index_select(0, hit))
    index = (index + (hit // face[0].numel() * stride)[:, None]).flatten()
    return table.reshape(-1, table.shape[-1]).index_select(0, index).view(len(hit), 3, table.shape[-1])


def interpolate(fragments: Fragments, faces: Tensor, attributes: Tensor) -> Tensor:
    """Attributes at every pixel, [B, H, W, C], 0 at the background; differentiable in attributes and `bary`.

    Args:
        fragments: result of `rasterize`.
        faces: int64 [F, 3], rows of `attributes` at the corners of each face. Texture coordinates have seams
            and hence their own index: pass `faces_uv` here and `uv` as attributes.
        attributes: [B, V, C], or [V, C] shared by the batch.
    """
    batch, height, width = fragments.face.shape
    hit = (fragments.face.flatten() >= 0).nonzero().squeeze(1)
    stride = attributes.shape[1] if attributes.ndim == 3 else 0
    corners = _corners(attributes, fragments.face, faces, hit, stride)
    weights = fragments.bary.reshape(-1, 3).index_select(0, hit).to(attributes.dtype)
    values = _fold(torch.add, corners * weights[..., None])
    picture = attributes.new_zeros(batch * height * width, values.shape[1]).index_copy(0, hit, values)
    return picture.view(batch, height, width, values.shape[1])
