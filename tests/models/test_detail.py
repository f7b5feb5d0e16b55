"""DetailModel: the published layout and generator; normals in UV space against a plain drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import original_deca as original
import pytest
import torch
from torch import Tensor

from emorig_diffusers.models.detail import EMOCA_MARGINS, DetailModel, detail_normals, draw_uv, grid_faces
from emorig_diffusers.models.head import HeadModel, rotation_matrix
from emorig_diffusers.render.buffers import vertex_normals

SIDE = 7  # vertices of the patch
ONES, ZEROS = torch.ones(1, 1, 256, 256), torch.zeros(256, 256)


@pytest.fixture(scope="module")
def head() -> HeadModel:
    """A bulging patch of 20 cm; its texture coordinates have another order than its vertices."""
    v, u = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    x, y = 0.2 * (u - 0.5), 0.2 * (v - 0.5)
    vertices = torch.stack([x, y, 0.1 - 3 * (x * x + y * y)], -1).flatten(0, 1)
    j, i = torch.meshgrid(torch.arange(SIDE - 1), torch.arange(SIDE - 1), indexing="ij")
    corner = (j * SIDE + i).flatten()
    lower = torch.stack([corner, corner + 1, corner + SIDE + 1], 1)
    faces = torch.cat([lower, torch.stack([corner, corner + SIDE + 1, corner + SIDE], 1)])
    order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(0))
    patch = HeadModel(SIDE**2, len(faces), SIDE**2, 1, 50)
    patch.template.copy_(vertices)
    patch.faces.copy_(faces)
    patch.uv[order] = 0.05 + 0.8 * torch.stack([u, v], -1).flatten(0, 1) ** torch.tensor((1.0, 1.3))
    patch.faces_uv.copy_(order[faces])
    return patch


@pytest.fixture(scope="module")
def posed(head: HeadModel) -> Tensor:
    """The patch, and the patch turned and moved [2, V, 3]."""
    turn = rotation_matrix(torch.tensor([0.3, -0.5, 0.2]))
    return torch.stack([head.template, head.template @ turn.T + torch.tensor([0.02, 0.01, -0.1])]).detach()


@pytest.fixture(scope="module")
def maps() -> tuple[Tensor, Tensor, Tensor]:
    """Displacement [2, 1, 256, 256], mask and fixed displacement: waves of up to 2 mm, an island, a slope."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    waves = 0.002 * torch.stack([torch.sin(x / 9), torch.cos((x + 2 * y) / 15)])[:, None]
    island = (1.3 - ((x - 120) ** 2 + (y - 140) ** 2) / 4000).clamp(0, 1)[None, None]
    return waves, island, 0.00001 * y


# the network


def test_published_tensors() -> None:
    with torch.device("meta"):
        tensors = DetailModel().state_dict()
    expected = {f"E_detail.{k}": v for k, v in original.encoder_tensors(128, flat=True).items()}
    expected |= {f"D_detail.{k}": v for k, v in original.generator_tensors().items()}
    expected |= {"mask": ONES, "fixed": ZEROS}
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in expected.items()}


@pytest.fixture(scope="module")
def model() -> DetailModel:
    """The published generator behind a small encoder."""
    torch.manual_seed(0)
    detail = DetailModel("small", 16, image_size=32)
    detail.D_detail.load_state_dict(original.generator_tensors(1))
    return detail.eval()


@torch.no_grad()
def test_generator_is_the_originals(model: DetailModel) -> None:
    jaw, expression, code = 0.2 * torch.randn(2, 3), torch.randn(2, 50), torch.randn(2, 128)
    expected = original.displacement(original.generator_tensors(1), jaw, expression, code)
    drawn = model.decode(code, jaw, expression)
    assert drawn.shape == (2, 1, 256, 256)
    assert expected.std() > 1e-3  # metres
    assert (drawn - expected).abs().max() < 1e-6


@torch.no_grad()
def test_wrinkles_follow_the_expression_and_the_photo(model: DetailModel) -> None:
    image, jaw, expression = torch.rand(2, 3, 32, 32), torch.zeros(2, 3), torch.zeros(2, 50)
    calm = model(image, jaw, expression)
    torch.testing.assert_close(calm, model.decode(model.code(image), jaw, expression))
    assert (model(image, jaw + 0.3, expression) - calm).abs().max() > 1e-5
    assert (model(image, jaw, expression + 1) - calm).abs().max() > 1e-5
    assert not torch.equal(calm[0], calm[1])


def test_saved_and_loaded(model: DetailModel, tmp_path: Path) -> None:
    model.mask.copy_(torch.rand(1, 1, 256, 256))
    model.fixed.copy_(torch.rand(256, 256))
    model.save_pretrained(tmp_path)
    loaded = DetailModel.from_pretrained(tmp_path)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


# normals


def drawn_plainly(head: HeadModel, attributes: np.ndarray) -> np.ndarray:
    """Attributes of vertices [V, C] at the centres of texels [256, 256, C], one triangle after the other."""
    rows, columns = np.mgrid[:256, :256] + 0.5
    picture = np.zeros((256, 256, attributes.shape[1]))
    uv = head.uv.double().numpy()
    for corners, places in zip(head.faces.numpy(), uv[head.faces_uv.numpy()]):
        (ax, ay), (bx, by), (cx, cy) = np.column_stack([places[:, 0], 1 - places[:, 1]]) * 256
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        b = ((columns - ax) * (cy - ay) - (rows - ay) * (cx - ax)) / area
        c = ((bx - ax) * (rows - ay) - (by - ay) * (columns - ax)) / area
        inside = (b >= 0) & (c >= 0) & (b + c <= 1)
        weights = np.stack([1 - b - c, b, c], -1)
        picture[inside] = weights[inside] @ attributes[corners]
    return picture


def fine_normals(places: np.ndarray, columns: int = 2, rows: int = 5) -> np.ndarray:
    """Normals of the mesh over texels [256, 256, 3]; some columns and rows at each border have no cells."""
    total = np.zeros_like(places)
    here, right, below, across = (
        (slice(rows + j, 255 - rows + j), slice(columns + i, 255 - columns + i))
        for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))
    )  # fmt: skip
    for a, b, c in ((here, below, right), (right, below, across)):
        cross = np.cross(places[b] - places[a], places[c] - places[a])
        for corner in (a, b, c):
            total[corner] += cross
    return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-6)


def test_normals_are_the_originals(
    head: HeadModel, posed: Tensor, maps: tuple[Tensor, Tensor, Tensor]
) -> None:
    displacement, mask, fixed = maps
    result = detail_normals(head, posed, displacement, mask, fixed)
    assert result.shape == (2, 3, 256, 256)
    weight = mask[0, 0].double().numpy()[..., None]
    for i in range(2):
        normals = vertex_normals(posed[i : i + 1], head.faces)[0].double().numpy()
        places, coarse = drawn_plainly(head, posed[i].double().numpy()), drawn_plainly(head, normals)
        height = displacement[i, 0].double().numpy()[..., None] * weight + fixed.double().numpy()[..., None]
        expected = weight * fine_normals(places + height * coarse) + (1 - weight) * coarse
        assert np.abs(result[i].permute(1, 2, 0).numpy() - expected).max() < 2e-3


def test_normals_are_emocas(head: HeadModel, posed: Tensor, maps: tuple[Tensor, Tensor, Tensor]) -> None:
    """A mesh up to the border, and its normals everywhere, where the mask is 0 too."""
    displacement, mask, fixed = maps
    emoca = DetailModel("small", 16, image_size=32, margins=EMOCA_MARGINS, blended=False)
    emoca.mask.copy_(mask)
    emoca.fixed.copy_(fixed)
    result = emoca.normals(head, posed, displacement)
    decas = detail_normals(head, posed, displacement, mask, fixed)
    outside = (mask == 0).expand_as(result)
    assert (result - decas)[outside].abs().max() > 0.5  # the border of the patch, and the slope of `fixed`
    weight = mask[0, 0].double().numpy()[..., None]
    for i in range(2):
        normals = vertex_normals(posed[i : i + 1], head.faces)[0].double().numpy()
        places, coarse = drawn_plainly(head, posed[i].double().numpy()), drawn_plainly(head, normals)
        height = displacement[i, 0].double().numpy()[..., None] * weight + fixed.double().numpy()[..., None]
        expected = fine_normals(places + height * coarse, 0, 0)
        off = np.abs(result[i].permute(1, 2, 0).numpy() - expected).max(-1)
        assert np.median(off) < 1e-4 and (off > 5e-3).mean() < 1e-3


def test_without_displacement_fine_and_coarse_agree(head: HeadModel, posed: Tensor) -> None:
    fine = detail_normals(head, posed, torch.zeros(2, 1, 256, 256), ONES, ZEROS)
    coarse = detail_normals(head, posed, torch.zeros(2, 1, 256, 256), 0 * ONES, ZEROS)
    drawn = draw_uv(head, vertex_normals(posed, head.faces))
    assert torch.allclose(coarse, drawn.permute(0, 3, 1, 2))
    inside = (slice(None), slice(None), slice(70, 210), slice(30, 200))
    assert (fine[inside] * coarse[inside]).sum(1).min() > 0.9  # outwards, and nearly the same
    assert coarse[0, 2, 140, 120] > 0.9  # to the viewer


def test_a_slope_tilts_the_normals_against_it(head: HeadModel, posed: Tensor) -> None:
    ramp = (0.0005 * torch.arange(256.0)).expand(1, 1, 256, 256)  # rises to the right
    for displacement, axis, sign in ((ramp, 0, -1), (ramp.mT, 1, 1)):  # or downwards, against y
        flat = detail_normals(head, posed[:1], torch.zeros_like(ramp), ONES, ZEROS)[0, :, 120:160, 100:140]
        tilted = detail_normals(head, posed[:1], displacement, ONES, ZEROS)[0, :, 120:160, 100:140]
        assert (sign * (tilted - flat)[axis]).min() > 0.05


def test_mask_limits_what_is_predicted_and_not_what_is_fixed(
    head: HeadModel, posed: Tensor, maps: tuple[Tensor, Tensor, Tensor]
) -> None:
    displacement, mask, fixed = maps
    plain = detail_normals(head, posed, 0 * displacement, mask, ZEROS)
    wrinkled = detail_normals(head, posed, displacement, mask, ZEROS)
    outside = (mask == 0).expand_as(plain)
    assert torch.equal(plain[outside], wrinkled[outside])
    assert (wrinkled - plain)[~outside].abs().max() > 0.1
    moved = detail_normals(head, posed, 0 * displacement, ONES, 5 * fixed)
    assert (moved - detail_normals(head, posed, 0 * displacement, ONES, ZEROS)).abs()[..., 100:180, 60:180].max() > 0.01


def test_mesh_over_the_texels_leaves_its_border_out() -> None:
    faces = grid_faces(256)
    assert faces.shape == (2 * 251 * 245, 3)
    rows, columns = faces // 256, faces % 256
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 250, 2, 253)
    assert grid_faces(256, EMOCA_MARGINS).shape == (2 * 255 * 255, 3)


def test_small_faces_of_the_map_are_drawn_as_under_pytorch3d(head: HeadModel, posed: Tensor) -> None:
    """Weights that sum to A / (A + 1e-8), with A twice a face's area in the map's NDC, shrink what they blend."""
    small = HeadModel(SIDE**2, len(head.faces), SIDE**2, 1, 50)
    small.load_state_dict(head.state_dict() | {"uv": 0.4 + 0.04 * head.uv})  # a face is about a texel
    places, shrunk = (draw_uv(small, posed, rule)[0].double().norm(dim=-1) for rule in ("exact", "pytorch3d"))
    corners = torch.stack([small.uv[:, 0], 1 - small.uv[:, 1]], 1)[small.faces_uv].double() * 2 - 1
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = e1[:, 1] * e2[:, 0] - e1[:, 0] * e2[:, 1]
    ratio = (shrunk / places)[(places > 0) & (shrunk > 0)]
    assert len(ratio) > 40 and (ratio - 1).abs().min() > 2e-5
    assert (ratio[:, None] - area / (area + 1e-8)).abs().min(1).values.max() < 1e-6
