"""Spherical-harmonics light: single terms, and lights that are fitted to what they shine on."""

from __future__ import annotations

import pytest
import torch
from test_render import icosphere, known_light

from emorig_diffusers.render.spherical_harmonics import fit_light, rotate_light, sh_shading


def test_shading_of_single_terms():
    normals = icosphere(2)[0]
    x, y, z = normals.unbind(-1)
    expected = {0: 0.2820948 + 0 * x, 2: 1.0233267 * y, 5: 0.8580855 * x * z, 8: 0.2477080 * (3 * z * z - 1)}
    for term, value in expected.items():
        light = torch.zeros(1, 9, 3)
        light[0, term] = torch.tensor([1.0, 2.0, -1.0])
        shading = sh_shading(normals, light)
        assert torch.allclose(shading, value[..., None] * light[0, term], atol=1e-6)


def test_a_turned_light_shines_on_turned_normals():
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(1, 500, 3, generator=generator).double(), dim=-1)
    light = torch.randn(2, 9, 3, generator=generator).double()
    for axis_angle in torch.randn(5, 3, generator=generator).double():
        turn = torch.linalg.matrix_exp(torch.linalg.cross(torch.eye(3).double(), axis_angle.expand(3, 3)))
        after = sh_shading((normals @ turn.T).expand(2, -1, -1), rotate_light(light, turn))
        assert torch.allclose(after, sh_shading(normals.expand(2, -1, -1), light), atol=1e-12)
        assert torch.allclose(rotate_light(rotate_light(light, turn), turn.T), light, atol=1e-12)


def test_fit_light_recovers_a_known_light_despite_outliers():
    normals, light = icosphere(4)[0][0], known_light()
    albedo = torch.rand(len(normals), 3, generator=torch.Generator().manual_seed(2)) * 0.6 + 0.2
    pixels = albedo * sh_shading(normals[None], light)[0]
    assert (fit_light(pixels, normals, albedo) - light[0]).abs().max() < 0.03
    pixels[::10] = 3.0
    robust, plain = (fit_light(pixels, normals, albedo, steps=steps) for steps in (8, 0))
    assert (robust - light[0]).abs().max() < 0.06 < (plain - light[0]).abs().max()


def test_fit_light_stays_small_on_one_sided_normals():
    normals, light = icosphere(4)[0][0], known_light()
    noise = torch.randn(len(normals), 3, generator=torch.Generator().manual_seed(3)) * 0.05
    pixels = sh_shading(normals[None], light)[0] + noise
    front = normals[:, 2] > 0.8
    fitted = fit_light(pixels[front], normals[front])
    assert fitted.abs().max() < 2 * light.abs().max()
    again = sh_shading(normals[None, front], fitted[None])[0]
    assert (again - (pixels - noise)[front]).abs().mean() < 0.02
    flat = fit_light(torch.full((50, 3), 0.5), torch.tensor([[0.0, 0.0, 1.0]]).expand(50, 3))
    assert flat.isfinite().all() and flat.abs().max() < 3
    with pytest.raises(ValueError, match="N > 0"):
        fit_light(torch.zeros(0, 3), torch.zeros(0, 3))
