"""Where a face is painted anew, over what, and what the network is told."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from plain_faces import GRID

from emorig_diffusers.painting.stages.flow import Warp
from emorig_diffusers.painting.stages.inpaint import (
    CONDITIONS,
    fill,
    make_base,
    paint_mouth,
    regions,
    stack_conditions,
)
from emorig_diffusers.painting.stages.mouth_light import find_teeth_light
from emorig_diffusers.photo.landmarks import OUTER_LIPS

# fill


def test_fill_of_a_constant_is_exact() -> None:
    known = (torch.rand(2, 1, 37, 53, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    image = torch.tensor([0.25, -1.0, 0.7]).view(1, 3, 1, 1).expand(2, 3, 37, 53)
    torch.testing.assert_close(fill(image, known), image, atol=1e-5, rtol=0)


def test_fill_keeps_what_is_known_and_never_reads_the_rest() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 64, 64, generator=generator)
    known = torch.ones(1, 1, 64, 64)
    known[..., 20:44, 10:50] = 0
    filled = fill(image, known)
    here = known.expand_as(image) > 0
    assert torch.equal(filled[here], image[here])
    other = torch.where(here, image, torch.rand(1, 3, 64, 64, generator=generator))
    assert torch.equal(fill(other, known), filled)
    assert image[here].min() <= filled[~here].min() and filled[~here].max() <= image[here].max()


def test_fill_continues_a_slope() -> None:
    slope = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    known = torch.ones(1, 1, 64, 64)
    known[..., 24:40, 24:40] = 0
    assert (fill(slope, known) - slope).abs().max() < 0.12
    assert torch.equal(fill(slope, torch.ones_like(known)), slope)


def test_fill_without_anything_known() -> None:
    filled = fill(torch.rand(1, 3, 32, 48), torch.zeros(1, 1, 32, 48))
    assert not filled.any()  # grey in [-1, 1], and no NaN
    lonely = torch.zeros(1, 1, 33, 33)
    lonely[..., 0, 32] = 1
    torch.testing.assert_close(fill(torch.full((1, 1, 33, 33), 0.4), lonely), torch.full((1, 1, 33, 33), 0.4))


# regions and conditions


def test_regions_lie_where_landmarks_say(opened: Warp, smiling: Warp) -> None:
    area = regions(opened)
    points = opened.points
    at = lambda mask, point: mask[int(point[1]), int(point[0])]
    assert at(area.mouth, (points[13] + points[14]) / 2)
    assert at(area.edge, points[13]) and at(area.edge, points[78])
    assert at(area.lips, (points[0] + points[13]) / 2) and at(area.lips, (points[17] + points[14]) / 2)
    assert not at(area.lips, points[4])
    assert at(area.folds, points[205:206].mean(0)) or at(area.folds, points[[207, 92]].mean(0))
    assert at(area.folds, points[[427, 322]].mean(0))
    assert not (area.folds & area.lips).any()
    assert not (area.mouth & ~area.edge).any()
    assert np.array_equal(area.mouth, opened.mouth)
    for mask in vars(area).values():
        assert mask.shape == (GRID, GRID) and mask.dtype == bool
        assert 0 < mask.mean() < 0.2
    left, right = (area.folds[:, s].sum() for s in (slice(GRID // 2, None), slice(GRID // 2)))
    assert 0.6 < left / right < 1.6


def test_folds_end_where_lips_begin(opened: Warp) -> None:
    points = opened.points.copy()
    lips = list(OUTER_LIPS)
    points[lips] = points[lips].mean(0) + 1.7 * (points[lips] - points[lips].mean(0))
    area = regions(replace(opened, points=points))
    assert area.lips.sum() > 1.5 * regions(opened).lips.sum()
    assert area.folds.sum() < regions(opened).folds.sum()
    assert not (area.folds & area.lips).any()


def test_a_closed_mouth_still_has_an_edge(still: Warp) -> None:
    area = regions(still)
    assert not area.mouth.any()
    assert area.edge.sum() > 300


def test_painted_mouth(opened: Warp, crop: np.ndarray) -> None:
    large = cv2.resize(crop, (GRID, GRID))
    paint = lambda crop: paint_mouth(opened, find_teeth_light(opened, crop))
    picture = paint(large)
    assert picture.shape == (GRID, GRID, 3)
    assert picture.min() >= 0 and picture.max() <= 1 and np.isfinite(picture).all()
    inside = opened.mouth & opened.albedo.any(-1)
    assert picture[inside].mean() > 0.05
    deep = inside & (opened.depth > np.quantile(opened.depth[inside], 0.7))
    shallow = inside & (opened.depth < np.quantile(opened.depth[inside], 0.3))
    assert picture[deep].mean() < picture[shallow].mean()
    darker = paint(large // 3)
    assert darker[inside].mean() < picture[inside].mean()
    assert np.isfinite(paint(np.zeros_like(large))).all()


def test_base_is_the_photo_but_for_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    moved, painted = torch.rand(2, 2, 3, 32, 32, generator=generator) * 2 - 1
    mask, mouth = torch.zeros(2, 2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    mouth[..., 12:20, 12:20] = 1
    base = make_base(moved, painted, mask, mouth)
    pick = lambda image, where: image[where.expand_as(image) > 0]
    assert torch.equal(pick(base, mouth), pick(painted, mouth))
    assert torch.equal(pick(base, 1 - mask), pick(moved, 1 - mask))
    assert torch.equal(pick(base, mask - mouth), pick(fill(moved, 1 - mask), mask - mouth))
    assert not torch.equal(pick(base, mask - mouth), pick(moved, mask - mouth))


def test_order_of_conditions() -> None:
    parts = {"base": (1, 3), "normal": (2, 3), "albedo": (3, 3), "mask": (4, 1), "mouth": (5, 1)}
    stack = stack_conditions(*(torch.full((1, c, 2, 2), float(v)) for v, c in parts.values()))
    assert tuple(parts) == CONDITIONS
    assert stack[0, :, 0, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5]
