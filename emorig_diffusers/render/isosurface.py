"""The surface of a signed distance field as a mesh, found from coarse to fine.

All corners of a coarse grid are evaluated. Cells that the surface may pass are split in eight, level by level, and
marching cubes (Lewiner et al. 2003) runs on the finest grid, where all that it looks at is exact. A cell is split

* where its corners have both signs, and
* where the surface can hide between corners of one sign, as it does at ears and strands thinner than a cell. A field
  changes by at most its slope (Lipschitz constant, measured on the coarse grid near the surface) a unit. A corner of
  the finest grid has the sign of the cell around it if the distance at one of the cell's corners is larger than slope
  times the way from there; a cell where this holds for all of them is left whole.

Where evaluated corners bring a change of sign into a cell that was left whole, its corners are evaluated too, until the
surface is closed. So the mesh is the one of the dense grid, as far as the slope holds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]
"""Points [N, 3] -> signed distances [N], positive outside."""

RESOLUTION = 256  # cells a side of the finest grid, NPHM's
COARSE = 64  # cells a side to start from; parts thinner than its cells are found by their distance
CHUNK = 16_384  # points evaluated at once, which bounds memory
STEEP = 0.99  # rank in [0, 1] of the slopes near the surface that counts as the field's
MARGIN = 1.1  # times that slope, for the few points that are steeper
BAND = 2.0  # cells from the surface within which slopes are measured


def extract_surface(
    field: Field,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    resolution: int = RESOLUTION,
    coarse: int = COARSE,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Vertices float32 [V, 3] and faces int64 [F, 3] of a field's surface in a box, in the field's unit.

    Faces are counter-clockwise seen from outside. The mesh is open where the surface leaves the box. Besides what
    `field` needs for one chunk, memory is about 16 bytes for every corner of the finest grid.

    Args:
        field: Evaluated without gradients, `chunk` points at a time.
        low, high: Corners of the box.
        resolution: Cells a side, `coarse` times a power of two.
        coarse: Cells a side to start from.
        chunk: Points.
        device: Where the points are given.
        progress: Gets the number of points, after each chunk.

    Raises:
        ValueError: A resolution of another kind, scikit-image is not installed, or no surface in the box.
    """
    if importlib.util.find_spec("skimage") is None:
        raise ValueError('Surfaces need scikit-image: pip install "emorig-diffusers[heads]".')
    if coarse < 2 or resolution < coarse or resolution % coarse or (resolution // coarse).bit_count() != 1:
        raise ValueError(f"The resolution must be {coarse} times a power of two, not {resolution}.")
    grid = _Grid(field, np.asarray(low, np.float64), np.asarray(high, np.float64), chunk, device, progress)
    grid.start(coarse)
    while grid.cells < resolution:
        grid.refine(resolution // grid.cells)
    return _march(grid)


class _Grid:
    """Values at all corners of a grid: exact where `exact`, interpolated with the right sign elsewhere."""

    def __init__(
        self, field: Field, low: np.ndarray, high: np.ndarray, chunk: int, device: torch.device | str,
        progress: Callable[[int], None] | None,
    ) -> None:  # fmt: skip
        self.field, self.low, self.high = field, low, high
        self.chunk, self.device, self.progress = chunk, device, progress
        self.cells, self.slope = 0, 0.0
        self.values, self.exact = np.zeros((0, 0, 0), np.float32), np.zeros((0, 0, 0), bool)

    @property
    def spacing(self) -> np.ndarray:
        """Edges of a cell [3]."""
        return (self.high - self.low) / self.cells

    def start(self, cells: int) -> None:
        """Evaluate all corners of a coarse grid, and measure the field's slope."""
        self.cells = cells
        self.values = np.zeros((cells + 1,) * 3, np.float32)
        self.exact = np.zeros(self.values.shape, bool)
        self._evaluate(np.ones(self.values.shape, bool))
        slopes = np.linalg.norm(np.stack(np.gradient(self.values, *self.spacing)), axis=0)
        nearest = np.abs(self.values) <= BAND * np.maximum(slopes, 1e-9) * self.spacing.max()
        if not nearest.any():
            raise ValueError("There is no surface in the box: give codes of a head, or another box.")
        self.slope = MARGIN * float(np.quantile(slopes[nearest], STEEP))

    def refine(self, finest: int) -> None:
        """Split cells that the surface may pass in eight, and evaluate their corners.

        Args:
            finest: Cells of the finest grid along an edge of one now.
        """
        self._close()
        crossed = (_corners(self.values, np.minimum) < 0) & (_corners(self.values, np.maximum) >= 0)
        wanted = crossed | self._hiding(~crossed & _corners(self.exact, np.logical_and), finest)
        self.values, exact = _doubled(self.values), np.zeros((2 * self.cells + 1,) * 3, bool)
        exact[::2, ::2, ::2] = self.exact
        self.exact, self.cells = exact, 2 * self.cells
        self._evaluate(_of_cells(wanted.repeat(2, 0).repeat(2, 1).repeat(2, 2)))

    def _hiding(self, cells: np.ndarray, finest: int) -> np.ndarray:
        """Which of the cells, whose corners have one sign, may have corners of the finest grid of the other one."""
        away = np.abs(self.values)
        reach = self.slope * float(np.linalg.norm(self.spacing)) / 2  # no point is farther from the nearest corner
        near = np.argwhere(cells & (_corners(away, np.minimum) <= reach))
        ends = np.array(list(product((0, 1), repeat=3)))
        corners = away[tuple((near[:, None] + ends).transpose(2, 0, 1))]
        found = np.zeros(len(near), bool)
        for place in product(range(finest + 1), repeat=3):
            distance = np.linalg.norm((np.array(place) / finest - ends) * self.spacing, axis=1)
            if distance.min() > 0:
                found |= (corners <= self.slope * distance).all(1)
        hiding = np.zeros_like(cells)
        hiding[tuple(near[found].T)] = True
        return hiding

    def _close(self) -> None:
        """Evaluate corners of cells with both signs until all of them are exact."""
        while True:
            crossed = (_corners(self.values, np.minimum) < 0) & (_corners(self.values, np.maximum) >= 0)
            missing = crossed & ~_corners(self.exact, np.logical_and)
            if not missing.any():
                return
            self._evaluate(_of_cells(missing))

    def _evaluate(self, wanted: np.ndarray) -> None:
        """Make the wanted corners exact."""
        where = np.flatnonzero(wanted & ~self.exact)
        for first in range(0, len(where), self.chunk):
            part = where[first : first + self.chunk]
            index = np.stack(np.unravel_index(part, self.values.shape), 1)
            points = torch.from_numpy(self.low + index * self.spacing).float().to(self.device)
            with torch.no_grad():
                self.values.flat[part] = self.field(points).float().cpu().numpy()
            if self.progress is not None:
                self.progress(len(part))
        self.exact.flat[where] = True

    def finish(self) -> np.ndarray:
        """Values at all corners, exact wherever a cell has both signs."""
        self._close()
        return self.values


def _corners(values: np.ndarray, join: np.ufunc) -> np.ndarray:
    """`join` of the eight corners of every cell."""
    for axis in range(3):
        before, after = (np.take(values, range(s, values.shape[axis] - 1 + s), axis) for s in (0, 1))
        values = join(before, after)
    return values


def _of_cells(cells: np.ndarray) -> np.ndarray:
    """Which corners belong to any of the cells."""
    corners = np.zeros([n + 1 for n in cells.shape], bool)
    for offset in product((0, 1), repeat=3):
        corners[tuple(slice(o, o + n) for o, n in zip(offset, cells.shape))] |= cells
    return corners


def _doubled(values: np.ndarray) -> np.ndarray:
    """A grid of twice as many cells a side, linear between the corners, which keep their values."""
    for axis in range(3):
        values = np.moveaxis(values, axis, 0)
        finer = np.empty((2 * len(values) - 1, *values.shape[1:]), values.dtype)
        finer[::2], finer[1::2] = values, (values[:-1] + values[1:]) / 2
        values = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(values)


def _march(grid: _Grid) -> tuple[Tensor, Tensor]:
    from skimage.measure import marching_cubes

    values = grid.finish()
    if not ((values < 0).any() and (values >= 0).any()):
        raise ValueError("There is no surface in the box: give codes of a head, or another box.")
    spacing = tuple(float(edge) for edge in grid.spacing)
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=spacing, gradient_direction="descent")
    vertices = torch.from_numpy((vertices + grid.low).astype(np.float32))
    return vertices, torch.from_numpy(faces.astype(np.int64))
