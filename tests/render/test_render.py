"""Camera, rasteriser, light and buffers against analytic cases and a brute-force reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from emorig_diffusers.render.buffers import draw_buffers, sample_texture, vertex_normals
from emorig_diffusers.render.camera import ndc_to_pixels, project
from emorig_diffusers.render.rasterize import RULES, Rule, interpolate, rasterize


def icosphere(splits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit sphere, vertices [1, V, 3] and outward faces [20 * 4**splits, 3]."""
    phi = (1 + math.sqrt(5)) / 2
    points = [(-1, phi, 0), (1, phi, 0), (-1, -phi, 0), (1, -phi, 0), (0, -1, phi), (0, 1, phi)]
    points += [(0, -1, -phi), (0, 1, -phi), (phi, 0, -1), (phi, 0, 1), (-phi, 0, -1), (-phi, 0, 1)]
    vertices = torch.tensor(points, dtype=torch.float64)
    gaps = torch.cdist(vertices, vertices)
    near = (gaps - gaps[gaps > 0].min()).abs() < 1e-6
    triples = torch.combinations(torch.arange(12), 3)
    i, j, k = triples.T
    faces = triples[near[i, j] & near[j, k] & near[i, k]]
    for _ in range(splits):
        edges = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])).sort(1).values
        unique, index = edges.unique(dim=0, return_inverse=True)
        ab, bc, ca = (index + len(vertices)).chunk(3)
        vertices = torch.cat((vertices, vertices[unique].mean(1)))
        a, b, c = faces.T
        faces = torch.cat([torch.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    vertices = torch.nn.functional.normalize(vertices, dim=1)
    corners = vertices[faces]
    inward = torch.linalg.det(corners) < 0
    faces[inward] = faces[inward].flip(1)
    return vertices[None].float(), faces


def known_light() -> torch.Tensor:
    light = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    light[:, 0] += 3
    return light


def lattice(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit sphere of rows * columns * 2 faces, for timing."""
    theta = torch.linspace(1e-3, math.pi - 1e-3, rows + 1)[:, None]
    phi = torch.arange(columns) * (2 * math.pi / columns)
    x, y, z = theta.sin() * phi.cos(), theta.cos().expand(-1, columns), theta.sin() * phi.sin()
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    a, b = (i * columns + j).flatten(), (i * columns + (j + 1) % columns).flatten()
    faces = torch.cat((torch.stack((a, b, a + columns), 1), torch.stack((b, b + columns, a + columns), 1)))
    return torch.stack((x, y, z), -1).reshape(1, -1, 3), faces


def brute_force(points: np.ndarray, faces: np.ndarray, height: int, width: int):
    """Every face tested at every pixel centre in float64: face, barycentrics, depth, pixels on an edge."""
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    corners = points.astype(np.float64)[faces][:, :, :, None, None]
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = (corners[:, k].swapaxes(0, 1) for k in range(3))
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    w0 = ((x1 - x) * (y2 - y) - (y1 - y) * (x2 - x)) / area
    w1 = ((x2 - x) * (y0 - y) - (y2 - y) * (x0 - x)) / area
    bary = np.stack((w0, w1, 1 - w0 - w1), -1)
    depth = np.where((bary >= 0).all(-1), bary[..., 0] * z0 + bary[..., 1] * z1 + bary[..., 2] * z2, np.inf)
    face = np.where(np.isinf(depth).all(0), -1, depth.argmin(0))
    best = np.take_along_axis(bary, np.maximum(face, 0)[None, ..., None], 0)[0]
    near_edge = (np.abs(bary) < 1e-9).any(-1).any(0)
    return face, np.where(face[..., None] < 0, 0, best), depth.min(0), near_edge


def random_mesh(seed: int, count: int = 120, side: float = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(1, count, 3, generator=generator) * side * 1.6 - side * 0.3
    faces = torch.randint(count, (200, 3), generator=generator).sort(1).values.unique(dim=0)
    faces[::2] = faces[::2].flip(1)
    return points, faces


def test_project_follows_the_camera_and_pixels_the_ndc():
    vertices = torch.tensor([[[0.1, 0.2, 0.3]], [[0.0, 0.0, 0.05]]])
    camera = torch.tensor([[2.0, 0.1, -0.1], [8.0, 0.0, 0.0]])
    points = project(vertices, camera)
    assert torch.allclose(points, torch.tensor([[[0.4, -0.2, -0.6]], [[0.0, 0.0, -0.4]]]))
    pixels = ndc_to_pixels(torch.tensor([[-1.0, -1.0, 0.5], [1.0, 1.0, -1.0]]), (100, 200))
    assert torch.allclose(pixels, torch.tensor([[0.0, 0.0, 50.0], [200.0, 100.0, -100.0]]))


def test_one_triangle_covers_the_known_pixels():
    points = torch.tensor([[[0.0, 0.0, 1.0], [4.0, 0.0, 2.0], [0.0, 4.0, 3.0]]])
    fragments = rasterize(points, torch.tensor([[0, 1, 2]]), 5, 6)
    j, i = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    inside = (i + 0.5) + (j + 0.5) <= 4  # centres on the slanted border belong to the face
    assert torch.equal(fragments.face[0] == 0, inside)
    assert torch.allclose(fragments.bary.sum(-1)[0], inside.float())
    where = interpolate(fragments, torch.tensor([[0, 1, 2]]), points)[0]
    assert torch.allclose(where[inside][:, 0], i[inside] + 0.5, atol=1e-6)
    assert torch.allclose(where[inside][:, 1], j[inside] + 0.5, atol=1e-6)
    assert torch.allclose(where[inside][:, 2], fragments.depth[0][inside])
    assert (where[~inside] == 0).all() and fragments.depth[0][~inside].isinf().all()


def test_smaller_z_occludes_whatever_the_order_and_winding():
    quad = torch.tensor([[0.0, 0.0], [8.0, 0.0], [8.0, 8.0], [0.0, 8.0]])
    points = torch.cat([torch.cat((quad, torch.full((4, 1), z)), 1) for z in (5.0, -5.0)])[None]
    far, near = torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([[4, 6, 5], [4, 7, 6]])
    assert (rasterize(points, torch.cat((far, near)), 8, 8).face >= 2).all()
    assert (rasterize(points, torch.cat((near, far)), 8, 8).face <= 1).all()


def test_ties_go_to_the_smaller_index_and_degenerate_faces_are_skipped():
    points = torch.tensor([[[0.0, 0.0, 0.1], [8.0, 0.0, 0.7], [0.0, 8.0, 0.3], [8.0, 8.0, float("nan")]]])
    faces = torch.tensor([[0, 0, 1], [0, 1, 3], [1, 2, 0], [0, 1, 2], [2, 0, 1]])
    face = rasterize(points, faces, 8, 8).face
    assert set(face.unique().tolist()) == {-1, 2}


@pytest.mark.parametrize("seed", range(3))
def test_random_mesh_agrees_with_brute_force(seed):
    points, faces = random_mesh(seed)
    fragments = rasterize(points, faces, 64, 64, backend="torch")
    valid = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    face, bary, depth, near_edge = brute_force(points[0].numpy(), faces[valid].numpy(), 64, 64)
    face = np.where(face < 0, -1, valid.nonzero().squeeze(1).numpy()[face])
    assert near_edge.mean() < 0.01
    clear = ~near_edge
    assert (fragments.face[0].numpy()[clear] == face[clear]).all()
    assert np.abs(fragments.bary[0].numpy() - bary)[clear].max() < 1e-4
    hit = clear & (face >= 0)
    assert hit.mean() > 0.5
    assert np.abs(fragments.depth[0].numpy()[hit] - depth[hit]).max() < 1e-3


def test_a_picture_is_a_window_of_a_larger_one():
    """Faces partly outside are cut, not moved or dropped."""
    points, faces = random_mesh(7)
    whole = rasterize(points + torch.tensor([32.0, 32.0, 0.0]), faces, 128, 128)
    part = rasterize(points, faces, 40, 50)
    assert torch.equal(part.face, whole.face[:, 32:72, 32:82])
    assert torch.allclose(part.bary, whole.bary[:, 32:72, 32:82], atol=2e-4)
    outside = rasterize(points + 500, faces, 40, 50)
    assert (outside.face == -1).all() and (outside.bary == 0).all() and outside.depth.isinf().all()


def test_closed_mesh_has_no_cracks():
    vertices, faces = icosphere(4)
    turn = torch.tensor([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    for points in (vertices, vertices @ turn):
        face = rasterize(points * 100 + 128, faces, 256, 256).face[0]
        y, x = torch.meshgrid(torch.arange(256) - 127.5, torch.arange(256) - 127.5, indexing="ij")
        assert (face[x**2 + y**2 < 99.5**2] >= 0).all()
        assert (face[x**2 + y**2 > 100**2] == -1).all()
    grid = torch.stack(torch.meshgrid(*[torch.arange(0.5, 33, 4)] * 2, indexing="ij"), -1).reshape(1, -1, 2)
    corner = (torch.arange(8)[:, None] * 9 + torch.arange(8)).flatten()
    cells = torch.stack((corner, corner + 1, corner + 10, corner, corner + 10, corner + 9), 1).reshape(-1, 3)
    aligned = rasterize(torch.cat((grid, torch.zeros(1, 81, 1)), -1), cells, 33, 33)
    assert (aligned.face >= 0).all()  # every vertex, border and diagonal runs through pixel centres


@pytest.mark.parametrize("turned", [False, True])
def test_small_faces_come_nearer_or_go_back_as_under_pytorch3d(turned: bool):
    """A grid of small faces 3e-4 behind or before a large one; their twice area is 1.6e-4, so 1e-7 / 1.6e-4 = 6e-4."""
    rows, columns = torch.meshgrid(torch.linspace(-0.8, 0.8, 129), torch.linspace(-0.8, 0.8, 129), indexing="ij")
    grid = torch.stack((columns + 0.0013, rows + 0.0029), -1).reshape(-1, 2)
    corner = (torch.arange(128)[:, None] * 129 + torch.arange(128)).flatten()
    small = torch.cat((torch.stack((corner, corner + 1, corner + 130), 1),
                       torch.stack((corner, corner + 130, corner + 129), 1)))  # fmt: skip
    small = small.flip(1) if turned else small
    large, wide = torch.tensor([[0, 1, 2]]) + len(grid), torch.tensor([[-3.0, -2.0], [3.0, -2.0], [0.1, 4.0]])
    for depth, rule, wins in (
        (3e-4, "exact", False), (3e-4, "pytorch3d", turned), (-3e-4, "exact", True), (-3e-4, "pytorch3d", turned)
    ):  # fmt: skip
        z = torch.cat((torch.full((len(grid), 1), depth), torch.zeros(3, 1)))
        points = ndc_to_pixels(torch.cat((torch.cat((grid, wide)), z), 1).double()[None], 67)
        fragments = rasterize(points, torch.cat((small, large)), 67, 67, rule=rule)
        assert ((fragments.face[0, 8:-8, 8:-8] < len(small)) == wins).all()
        assert (fragments.depth[0, 8:-8, 8:-8] * (2 / 67) - (depth if wins else 0)).abs().max() < 1e-8


def test_weights_in_a_sliver_are_pytorch3ds():
    """Twice its area in NDC is 110 / 32**2 * 1e-6; as a texture, uv is drawn to the middle by what lacks to 1."""
    thin = torch.tensor([[[5.0, 10.5 - 1e-6, 0.0], [60.0, 10.5, 0.0], [5.0, 10.5 + 1e-6, 0.0]]], dtype=torch.float64)
    area = 110e-6 / 32**2
    for face, signed in (([0, 1, 2], -area), ([0, 2, 1], area)):
        fragments = rasterize(thin, torch.tensor([face]), 64, 64, rule="pytorch3d")
        drawn = fragments.bary[0, 10, 5:60]
        total = signed / (signed + 1e-8)
        assert abs(total - 1) > 0.05 and torch.allclose(drawn.sum(-1), torch.tensor(total).double(), atol=1e-6)
        assert (fragments.face >= 0).sum() == 55
    rest = rasterize(thin, torch.tensor([[0, 1, 2]]), 64, 64)
    assert torch.allclose(rest.bary[0, 10, 5:60].sum(-1), torch.tensor(1.0).double())
    thinner = thin.clone()
    thinner[0, [0, 2], 1] = torch.tensor((10.5 - 5e-8, 10.5 + 5e-8), dtype=torch.float64)  # below 1e-8
    faces = torch.tensor([[0, 1, 2]])
    counts = [(rasterize(thinner, faces, 64, 64, rule=rule).face >= 0).sum() for rule in RULES]
    assert counts == [55, 0]
    vertices, camera = thin / 640, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    ramp = torch.linspace(0.5, 63.5, 64, dtype=torch.float64).expand(1, 3, 64, 64) / 64  # its value is u
    place = torch.tensor([[[20.0, 0, -1], [0, 20.0, -1], [0, 0, 1]]], dtype=torch.float64)
    light = torch.zeros(1, 9, 3, dtype=torch.float64)
    uv = torch.tensor([[0.9, 0.5]] * 3, dtype=torch.float64)
    vertices = vertices * torch.tensor([1.0, -1.0, 1.0])  # the camera turns y
    colour = draw_buffers(
        vertices, torch.tensor([[0, 2, 1]]), camera, light, ramp, 64, uv, transform=place, rule="pytorch3d"
    ).albedo[0, 0, 10, 5:60]
    assert torch.allclose(colour, torch.tensor(0.5 + 0.4 * area / (area + 1e-8)).double(), atol=1e-4)


def test_pixels_on_a_border_are_nobodys_under_pytorch3d():
    points, faces = torch.tensor([[[0.0, 0.0, 1.0], [4.0, 0.0, 2.0], [0.0, 4.0, 3.0]]]), torch.tensor([[0, 1, 2]])
    j, i = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    drawn = rasterize(points, faces, 5, 6, rule="pytorch3d").face[0] == 0
    assert torch.equal(drawn, (i + 0.5) + (j + 0.5) < 4)
    square = torch.tensor([[[0.5, 0.5, 0.0], [3.5, 0.5, 0.0], [3.5, 3.5, 0.0], [0.5, 3.5, 0.0]]])
    drawn = rasterize(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), 5, 5, rule="pytorch3d").face[0] >= 0
    wanted = torch.zeros(5, 5, dtype=torch.bool)
    wanted[1, 2] = wanted[2, 1] = True  # what is left between the borders and the diagonal
    assert torch.equal(drawn, wanted)


def test_batch_equals_singles():
    meshes = [random_mesh(seed) for seed in (3, 4, 5)]
    points, faces = torch.cat([mesh[0] for mesh in meshes]), meshes[0][1]
    attributes = torch.rand(3, points.shape[1], 4)
    batch = rasterize(points, faces, 48, 64)
    picture = interpolate(batch, faces, attributes)
    shared = interpolate(batch, faces, attributes[0])
    for k in range(3):
        single = rasterize(points[k : k + 1], faces, 48, 64)
        assert torch.equal(single.face[0], batch.face[k])
        assert torch.equal(single.bary[0], batch.bary[k])
        assert torch.equal(interpolate(single, faces, attributes[k : k + 1])[0], picture[k])
        assert torch.equal(interpolate(single, faces, attributes[0])[0], shared[k])


def test_bad_input_is_refused():
    points, faces = random_mesh(0)
    with pytest.raises(ValueError, match="B, V, 3"):
        rasterize(points[0], faces, 8, 8)
    with pytest.raises(ValueError, match="int64"):
        rasterize(points, faces.int(), 8, 8)
    with pytest.raises(ValueError, match="backend"):
        rasterize(points, faces, 8, 8, backend="opengl")
    with pytest.raises(ValueError, match="use 'exact' or 'pytorch3d'"):
        rasterize(points, faces, 8, 8, rule="deca")
    with pytest.raises(ValueError, match="uv"):
        draw_buffers(points, faces, torch.ones(1, 3), torch.zeros(1, 9, 3), torch.rand(1, 3, 4, 4), 8)


def test_gradients_reach_attributes_and_points():
    points = torch.tensor([[[1.1, 1.2, 0.1], [7.3, 2.4, 0.2], [3.6, 7.7, 0.3]]]).double().requires_grad_()
    colours = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2]])

    def draw(p: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return interpolate(rasterize(p, faces, 8, 8, backend="torch"), faces, c)

    assert torch.autograd.gradcheck(draw, (points, colours))


def test_vertex_normals_of_a_sphere_and_area_weights():
    vertices, faces = icosphere(3)
    assert (vertex_normals(vertices * 0.1, faces) - vertices).abs().max() < 0.02
    roof = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 0.0, -1.0]]])
    normal = vertex_normals(roof, torch.tensor([[0, 1, 2], [0, 3, 1]]))[0, 0]
    assert torch.allclose(normal, torch.tensor([1.0, 0.0, 3.0]) / math.sqrt(10))


def test_sample_texture_puts_v_up():
    texture = torch.arange(4.0).reshape(1, 1, 2, 2)
    uv = torch.tensor([[[[0.25, 0.75], [0.75, 0.75]], [[0.25, 0.25], [0.75, 0.25]]]])
    assert torch.allclose(sample_texture(texture, uv)[..., 0], texture[0])


def test_draw_buffers_has_diffusionrigs_ranges():
    vertices, faces = icosphere(4)
    head, camera = (vertices * 0.1).expand(2, -1, -1), torch.tensor([[8.0, 0.0, 0.0], [6.0, 0.02, 0.01]])
    light = torch.zeros(2, 9, 3)
    light[:, 0], light[:, 3] = 1 / 0.2820948, 0.5
    colours = torch.full_like(head, 0.5)
    buffers = draw_buffers(head, faces, camera, light, colours, 64)
    mask = buffers.mask.bool()
    assert buffers.rendered.shape == buffers.normal.shape == buffers.albedo.shape == (2, 3, 64, 64)
    assert mask.shape == (2, 1, 64, 64) and abs(mask[0].float().mean() - math.pi * 0.64 / 4) < 0.01
    for picture in (buffers.rendered, buffers.normal, buffers.albedo):
        assert (picture[~mask.expand_as(picture)] == 0).all()
    assert torch.allclose(buffers.albedo[mask.expand_as(buffers.albedo)], torch.tensor(0.5))
    centre = buffers.normal[0, :, 32, 32]
    assert centre[2] > 0.98 and buffers.normal.abs().max() <= 1
    assert buffers.normal[0, 0, 32, 52] > 0.5 and buffers.normal[0, 1, 12, 32] > 0.5  # right is +x, up is +y
    lengths = buffers.normal.norm(dim=1)[mask[:, 0]]
    assert 0.95 < lengths.min() < 0.9999 and lengths.max() <= 1 + 1e-5
    shading = 1 + 0.5 * 1.0233267 * buffers.normal[:, 2:]
    assert torch.allclose(buffers.rendered, (0.5 * shading * mask).expand(-1, 3, -1, -1), atol=1e-5)


def test_texture_and_vertex_colours_agree_and_seams_use_their_own_index():
    vertices, faces = icosphere(3)
    ramp = torch.linspace(0.5 / 32, 1 - 0.5 / 32, 32)
    v, u = torch.meshgrid(ramp.flip(0), ramp, indexing="ij")
    texture = torch.stack((u, v, torch.zeros_like(u)))[None]
    uv = vertices[0, :, :2] * 0.45 + 0.5
    colours = torch.cat((uv, torch.zeros(len(uv), 1)), 1)[None]
    order = torch.randperm(len(uv), generator=torch.Generator().manual_seed(0))
    camera, light = torch.tensor([[9.0, 0.0, 0.0]]), known_light()
    plain = draw_buffers(vertices * 0.1, faces, camera, light, colours, 64)
    mapped = draw_buffers(
        vertices * 0.1, faces, camera, light, texture, 64, uv=uv[order], faces_uv=order.argsort()[faces]
    )
    assert (plain.albedo - mapped.albedo).abs().max() < 1e-4
    assert (plain.rendered - mapped.rendered).abs().max() < 1e-3


def test_transform_moves_the_crop_into_another_picture():
    vertices, faces = icosphere(3)
    arguments = vertices * 0.1, faces, torch.tensor([[6.0, 0.0, 0.0]]), known_light(), vertices.abs()
    crop = draw_buffers(*arguments, 64)
    half = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, -0.5], [0.0, 0.0, 1.0]]])
    picture = draw_buffers(*arguments, 128, transform=half)
    assert torch.allclose(picture.normal[..., :64, 64:], crop.normal, atol=1e-4)
    assert picture.mask[..., 64:, :].sum() == 0 == picture.mask[..., :64].sum()


@pytest.mark.parametrize("rule", RULES)
def test_pytorch3d_draws_the_same(rule: Rule):
    pytest.importorskip("pytorch3d", reason="pytorch3d, the optional backend, is not installed")
    vertices, faces = icosphere(3)
    camera = torch.tensor([[9.3, 0.013, 0.007]])
    points = ndc_to_pixels(project(vertices * 0.1, camera), (48, 64))
    ours, theirs = (
        rasterize(points, faces, 48, 64, backend=name, rule=rule) for name in ("torch", "pytorch3d")
    )
    assert (ours.face == theirs.face).float().mean() > 0.999
    assert (ours.bary - theirs.bary)[ours.face == theirs.face].abs().max() < 1e-4


def test_pytorch3d_called_as_deca_does():
    """A crumpled ball whose faces lie close behind each other: z + 10, x and y turned, its own weights."""
    pytest.importorskip("pytorch3d", reason="pytorch3d, the optional backend, is not installed")
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    vertices, faces = icosphere(5)
    noise = torch.randn(vertices.shape, generator=torch.Generator().manual_seed(0))
    points = project(0.1 * vertices + 5e-4 * noise, torch.tensor([[8.0, 0.0, 0.0]]))
    ours = rasterize(ndc_to_pixels(points, 128), faces, 128, 128, backend="torch", rule="pytorch3d")
    seen = points * torch.tensor([-1.0, -1.0, 1.0]) + torch.tensor([0.0, 0.0, 10.0])
    face, _, bary, _ = rasterize_meshes(Meshes(seen, faces[None]), 128, 0.0, 1, perspective_correct=False)
    same = ours.face[0] == face[0, ..., 0]
    assert (~same).sum() < 1e-3 * (face >= 0).sum()
    assert (ours.bary[0] - bary[0, :, :, 0])[same & (face[0, ..., 0] >= 0)].abs().max() < 1e-3


def test_pytorch3d_missing_is_said_plainly():
    try:
        import pytorch3d  # noqa: F401
    except ImportError:
        points, faces = random_mesh(0)
        with pytest.raises(ImportError, match="install the extra 'pytorch3d' .* or use 'torch'"):
            rasterize(points, faces, 8, 8, backend="pytorch3d")
    else:
        pytest.skip("pytorch3d is installed")
