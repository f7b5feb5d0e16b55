"""Camera, rasteriser and the conditioning buffers drawn from a mesh.

Everything is batched torch code without a learnt part: vertices and faces in, pictures out. Pixel coordinates
have x right, y down and pixel (row j, column i) at the centre (i + 0.5, j + 0.5); smaller z is nearer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .light import sh_shading

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


@dataclass
class Buffers:
    """The pictures that condition the diffusion model, in DiffusionRig's ranges; background 0.

    Attributes:
        rendered: [B, 3, H, W], albedo times shading, not clamped (may exceed 1 or be slightly negative).
        normal: [B, 3, H, W] in [-1, 1], world-space vertex normals, interpolated, not renormalised.
        albedo: [B, 3, H, W] in [0, 1], RGB.
        mask: [B, 1, H, W], 1 where the mesh is drawn.
    """

    rendered: Tensor
    normal: Tensor
    albedo: Tensor
    mask: Tensor

    def __getitem__(self, index: int) -> Buffers:
        """Those of one head [1, ...]."""
        pictures = (self.rendered, self.normal, self.albedo, self.mask)
        return Buffers(*(picture[index : index + 1] for picture in pictures))


def project(vertices: Tensor, camera: Tensor) -> Tensor:
    """DECA's weak-perspective camera (Feng et al. 2021, section 3).

    Args:
        vertices: [B, V, 3] rotated head in metres, y up, z towards the viewer.
        camera: [B, 3] scale s (NDC per metre) and translation tx, ty (metres).

    Returns:
        [B, V, 3] normalised device coordinates (NDC): s (x + tx), -s (y + ty), -s z; [-1, 1] spans the square
        crop, x right, y down, smaller z nearer.
    """
    moved = vertices + F.pad(camera[:, None, 1:], (0, 1))
    return moved * camera[:, None, :1] * camera.new_tensor((1, -1, -1))


def ndc_to_pixels(points: Tensor, size: int | tuple[int, int]) -> Tensor:
    """NDC [..., 3] to pixels: (x + 1) / 2 * W, (y + 1) / 2 * H, z / 2 * W; `size` is a side or (H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    half = points.new_tensor((width / 2, height / 2, width / 2))
    return points * half + half * points.new_tensor((1, 1, 0))


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
    _check_mesh(pixels, faces)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r} to rasterise by: use {' or '.join(map(repr, RULES))}.")
    if backend == "auto":
        backend = "pytorch3d" if pixels.is_cuda and importlib.util.find_spec("pytorch3d") else "torch"
    nearest = {"torch": _nearest_torch, "pytorch3d": _nearest_pytorch3d}.get(backend)
    if nearest is None:
        raise ValueError(f"unknown rasteriser backend {backend!r}: use 'auto', 'torch' or 'pytorch3d'.")
    with torch.no_grad():
        face = nearest(pixels, faces, height, width, rule)
    return _fragments(face, pixels, faces, rule)


def _check_mesh(pixels: Tensor, faces: Tensor) -> None:
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise ValueError(f"vertices must be [B, V, 3], got {list(pixels.shape)}.")
    if faces.shape[1:] != (3,) or faces.dtype != torch.int64 or len(faces) > 2**_FACE_BITS:
        raise ValueError(f"faces must be int64 [F <= 2**24, 3], got {faces.dtype} {list(faces.shape)}.")


class _Setup(NamedTuple):
    """The K faces of the batch that may touch a pixel centre."""

    edges: Tensor  # float64 [K, 3, (a, b, c)], a x + b y + c >= 0 inside
    plane: Tensor  # float64 [K, (dz/dx, dz/dy, z at the origin)], in depth steps
    first_row: Tensor
    rows: Tensor
    picture: Tensor  # index in the batch
    face: Tensor


def _nearest_torch(pixels: Tensor, faces: Tensor, height: int, width: int, rule: Rule) -> Tensor:
    """Scan conversion without loops: faces become rows, rows spans of pixels, and the nearest key wins."""
    setup = _setup_faces(pixels, faces, height, width, rule)
    owner, offset = _expand(setup.rows)
    y = setup.first_row[owner] + offset
    first, count = _spans(setup.edges[owner], y, width, rule)
    gx, gy, z0 = setup.plane[owner].unbind(-1)
    row, offset = _expand(count)
    x = first[row] + offset
    depth = torch.addcmul((z0 + gy * (y + 0.5))[row], gx[row], x + 0.5)
    # One integer holds depth and face, so that a single amin finds the nearest face and breaks ties by index.
    key = depth.round_().clamp_(0, _DEPTH_STEPS).long().bitwise_left_shift_(_FACE_BITS)
    key += setup.face[owner][row]
    target = ((setup.picture[owner] * height + y) * width)[row] + x
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
    """First pixel and number of pixels of each row [R] inside its face's three edges [R, 3, 3]."""
    a, b, c = edges.unbind(-1)
    value = b * (y + 0.5)[:, None] + c
    crossing = -value / a
    outside = (a == 0) & ((value < 0) if rule == "exact" else (value <= 0))
    left = crossing.masked_fill(a <= 0, -torch.inf).masked_fill_(outside, torch.inf)
    right = crossing.masked_fill(a >= 0, torch.inf)
    left, right = _fold(torch.maximum, left) - 0.5, _fold(torch.minimum, right) - 0.5
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
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes
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
    """Barycentrics and depth of the hit pixels, in float64 because slivers lose all digits in float32."""
    batch, height, width = face.shape
    hit = (face.flatten() >= 0).nonzero().squeeze(1)
    corners = _corners(pixels, face, faces, hit, pixels.shape[1]).double()
    centre = torch.stack((hit % width, hit // width % height), dim=-1) + 0.5
    x, y = (corners[..., :2] - centre[:, None]).unbind(-1)
    weights = x.roll(-1, 1) * y.roll(-2, 1) - x.roll(-2, 1) * y.roll(-1, 1)
    area = _fold(torch.add, weights)
    weights = weights / area[:, None]
    depth = _fold(torch.add, weights * corners[..., 2])
    if rule == "pytorch3d":
        weights = weights * _weight_sum(area, height, width)[:, None]
    bary = pixels.new_zeros(face.numel(), 3).index_copy(0, hit, weights.to(pixels.dtype))
    depth = pixels.new_full((face.numel(),), torch.inf).index_copy(0, hit, depth.to(pixels.dtype))
    return Fragments(face, bary.view(batch, height, width, 3), depth.view(batch, height, width))


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


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Sum of the area-weighted normals of the faces around each vertex, normalised as in DECA (eps 1e-6).

    Args:
        vertices: [B, V, 3] metres, as the eps is absolute: sums below 1e-6 m^2 stay shorter than 1.
        faces: int64 [F, 3], counter-clockwise seen from outside.

    Returns:
        [B, V, 3], pointing outwards.
    """
    corners = vertices[:, faces]
    cross = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    total = torch.zeros_like(vertices).index_add(1, faces.flatten(), cross.repeat_interleave(3, dim=1))
    return F.normalize(total, dim=-1, eps=1e-6)


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear look-up [B, H, W, C] in a texture [B or 1, C, h, w] as in DECA (align_corners False).

    uv [B, H, W, 2] in [0, 1] starts at the texture's bottom left (v up, as in OBJ); 0 beyond the texture.
    """
    grid = torch.stack((uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2), dim=-1)
    return F.grid_sample(texture.expand(len(uv), -1, -1, -1), grid, align_corners=False).permute(0, 2, 3, 1)


def draw_buffers(
    vertices: Tensor,
    faces: Tensor,
    camera: Tensor,
    light: Tensor,
    albedo: Tensor,
    size: int | tuple[int, int],
    uv: Tensor | None = None,
    faces_uv: Tensor | None = None,
    transform: Tensor | None = None,
    backend: Backend = "auto",
    normal_map: Tensor | None = None,
    rule: Rule = "exact",
) -> Buffers:
    """Draw the conditioning buffers of DiffusionRig (Ding et al. 2023) from a posed head.

    Args:
        vertices: [B, V, 3] posed head, metres.
        faces: int64 [F, 3], counter-clockwise seen from outside.
        camera: [B, 3], see `project`.
        light: [B, 9, 3], see `sh_shading`.
        albedo: RGB in [0, 1], [B, V, 3] per vertex or a texture [B, 3, h, w] (ValueError without `uv`).
        size: side of the picture, or (height, width).
        uv: [T, 2] texture coordinates (see `sample_texture`), wanted with textures.
        faces_uv: int64 [F, 3], rows of `uv` at the faces' corners; None uses `faces`.
        transform: [B, 3, 3] maps NDC (x, y, 1) of the fitted crop to NDC of the picture, where they differ.
        backend, rule: see `rasterize`.
        normal_map: [B, 3, h, w] normals as a texture, in place of the vertices' (ValueError without `uv`).
    """
    if (albedo.ndim == 4 or normal_map is not None) and uv is None:
        raise ValueError("pass textures [B, 3, h, w] together with uv.")
    points = project(vertices, camera)
    points = points if transform is None else transform_ndc(points, transform)
    height, width = (size, size) if isinstance(size, int) else size
    fragments = rasterize(ndc_to_pixels(points, (height, width)), faces, height, width, backend, rule)
    mask = (fragments.face >= 0).to(vertices.dtype)[..., None]
    uv_map = None if uv is None else _uv_map(fragments, faces if faces_uv is None else faces_uv, uv, rule)
    look_up = lambda texture: sample_texture(texture, uv_map) * mask
    colour = look_up(albedo) if albedo.ndim == 4 else interpolate(fragments, faces, albedo)
    if normal_map is None:
        normal = interpolate(fragments, faces, vertex_normals(vertices, faces))
    else:
        normal = look_up(normal_map)
    pictures = (colour * sh_shading(normal, light), normal, colour, mask)
    return Buffers(*(picture.permute(0, 3, 1, 2).contiguous() for picture in pictures))


def _uv_map(fragments: Fragments, faces_uv: Tensor, uv: Tensor, rule: Rule) -> Tensor:
    if rule == "exact":
        return interpolate(fragments, faces_uv, uv)
    return (interpolate(fragments, faces_uv, uv * 2 - 1) + 1) / 2  # DECA's range: weights that do not sum to 1 shift it


def transform_ndc(points: Tensor, transform: Tensor) -> Tensor:
    """Points [B, N, 3] in normalised device coordinates through [B, 3, 3] acting on (x, y, 1); z stays."""
    xy = F.pad(points[..., :2], (0, 1), value=1.0) @ transform.mT
    return torch.cat((xy[..., :2] / xy[..., 2:], points[..., 2:]), dim=-1)
