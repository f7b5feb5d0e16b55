"""A neural head's surface from coarse to fine with pruned networks, against the dense grid with all of them.

    python tests/benchmarks/nphm_surface.py [--model FOLDER] [--resolution 256] [--dense 20000] [--seed 0]

Without a model: random weights of the published sizes, whose heads are lumps as large as heads. Dense is timed on
`--dense` random corners of the grid and scaled to all of them, and there the surface is checked: the exact distance's
sign must be that of the side of the mesh. How far off the mesh is, is the exact distance of its vertices over the slope
there; marching cubes' own error, that of a dense grid too, is what vertices of edges that the exact field crosses have.
Seconds are this process's, of all threads, so that others on the machine do not count.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from emorig_diffusers.models.geometry import Surface
from emorig_diffusers.models.nphm import PRUNING, NeuralHeadModel
from emorig_diffusers.render.buffers import vertex_normals

CODES = 0.1  # deviation of the random codes of random weights
PART = 5000  # points of the exact field at once


def stand_in(seed: int) -> tuple[NeuralHeadModel, Tensor]:
    """Random weights and codes."""
    torch.manual_seed(seed)
    head = NeuralHeadModel().eval().requires_grad_(False)
    return head, CODES * torch.randn(1, head.num_shape)


def exact(head: NeuralHeadModel, shape: Tensor, points: Tensor) -> Tensor:
    """Signed distances [N] in metres at points [N, 3] by all networks."""
    field = head.field(shape, threshold=0.0)
    return torch.cat([field(part) for part in points.split(PART)])


def grid_corners(head: NeuralHeadModel, resolution: int, count: int, seed: int) -> Tensor:
    """Random corners [N, 3] of the finest grid, in metres."""
    index = np.random.default_rng(seed).integers(0, resolution + 1, (count, 3))
    low, high = (np.array(corner) * head.config.metres_per_unit for corner in head.config.box)
    return torch.from_numpy(low + index * (high - low) / resolution).float()


def off_by(head: NeuralHeadModel, shape: Tensor, vertices: Tensor, threshold: float) -> Tensor:
    """Distances [N] in millimetres of vertices from the surface of the field, to first order."""
    unit, parts = head.config.metres_per_unit, []
    for part in vertices.split(PART):
        sdf, gradient = head.sdf_and_gradient(part[None] / unit, shape, threshold=threshold)
        parts.append(1000 * unit * sdf[0].abs() / gradient[0].norm(dim=1))
    return torch.cat(parts)


def wrong_sides(surface: Surface, points: Tensor, sdf: Tensor, cell: float) -> tuple[int, int]:
    """Points whose exact sign is not the mesh's side, and points that are a cell or more away, where sides are sure."""
    normals = vertex_normals(surface.vertices[None] * 1000, surface.faces)[0].numpy()
    away, nearest = cKDTree(surface.vertices.numpy()).query(points.numpy())
    side = ((points.numpy() - surface.vertices.numpy()[nearest]) * normals[nearest]).sum(1)
    sure = (away > cell) & (np.abs(side) > 0.2 * away)
    return int(((side > 0) != (sdf.numpy() > 0))[sure].sum()), int(sure.sum())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a neural head; a head of it is drawn by chance")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--dense", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    head, shape = stand_in(args.seed)
    if args.model:
        head = NeuralHeadModel.from_pretrained(args.model)
        shape = head.sample(1, torch.Generator().manual_seed(args.seed))[0]
    counts: list[int] = []
    start, wall = time.process_time(), time.perf_counter()
    surface = head.surface(shape, resolution=args.resolution, progress=counts.append)
    fast, wall = time.process_time() - start, time.perf_counter() - wall
    corners = (args.resolution + 1) ** 3
    print(f"coarse to fine, pruned  {fast:9.1f} s ({wall:.1f} s by the clock), {sum(counts)} points of {corners} "
          f"({sum(counts) / corners:.1%}), {len(surface.vertices)} vertices")  # fmt: skip
    points = grid_corners(head, args.resolution, args.dense, args.seed)
    with torch.no_grad():
        start = time.process_time()
        sdf = exact(head, shape, points)
        dense = (time.process_time() - start) * corners / len(points)
    print(f"dense, all networks     {dense:9.1f} s, of {len(points)} corners, scaled; {dense / fast:.0f} times as much")
    cell = float(head.config.metres_per_unit * np.subtract(*head.config.box[::-1]).max() / args.resolution)
    print("corners on the wrong side of the mesh: {} of {}".format(*wrong_sides(surface, points, sdf, cell)))
    some = surface.vertices[torch.randperm(len(surface.vertices), generator=torch.Generator().manual_seed(0))[:PART]]
    own, true = (off_by(head, shape, some, threshold) for threshold in (PRUNING, 0.0))
    for name, off in (("from the pruned field's surface", own), ("from the exact surface", true)):
        print(f"vertices {name:32} mean {off.mean():.4f} mm, 99 % below {off.quantile(0.99):.4f} mm")
    print(f"moved by pruning: mean {(true - own).abs().mean():.5f} mm, at most {(true - own).abs().max():.5f} mm")


if __name__ == "__main__":
    main()
