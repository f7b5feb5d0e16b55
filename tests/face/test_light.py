"""Light: what a fit says of the side that no photo shows, and light that is turned and strengthened."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from emorig_diffusers.face.codes import FaceCodes
from emorig_diffusers.face.light import edited_light, possible_light, relit
from emorig_diffusers.render.spherical_harmonics import sh_shading

SPHERE = normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
FRONT = SPHERE[SPHERE[:, 2] > 0.3]


def lamp(even: float = 0.3) -> Tensor:
    """Light from the camera, and an even share of it."""
    light = torch.zeros(1, 9, 3)
    light[:, 0], light[:, 3], light[:, 8] = (even + 0.25) / 0.2820948, 0.5 / 1.0233267, 5 / 32 / 0.2477080
    return light


def shown(light: Tensor, normals: Tensor) -> Tensor:
    return sh_shading(normals[None], light)[0]


def brightest(light: Tensor) -> Tensor:
    return normalize(shown(light, SPHERE).mean(-1) ** 8 @ SPHERE, dim=0)


def codes(light: Tensor) -> FaceCodes:
    return FaceCodes(*(torch.zeros(1, 1) for _ in range(4)), light, torch.zeros(1, 0))


def test_what_faces_the_camera_keeps_its_light_and_the_rest_is_no_darker_than_dark() -> None:
    wild = lamp()
    wild[:, 2] -= 0.4  # fits imitate one order by another: black above, and brighter behind than before
    wild[:, 7] += 0.3
    wild[:, 3] -= 0.6
    wild[:, 8] += 0.5
    assert shown(wild, SPHERE).min() < -0.25
    made = possible_light(wild)
    assert shown(made, SPHERE).min() > 0
    assert (shown(made, FRONT) - shown(wild, FRONT)).abs().mean() < 0.12
    usual = possible_light(lamp())
    assert (shown(usual, FRONT) - shown(lamp(), FRONT)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("turn", "towards"),
    [((60, 0), (0.866, 0, 0.5)), ((-60, 0), (-0.866, 0, 0.5)), ((0, 45), (0, 0.707, 0.707)),
     ((90, -30), (0.866, -0.5, 0))],
)  # fmt: skip
def test_light_from_the_camera_comes_from_where_it_is_turned(turn: tuple[float, float], towards: tuple) -> None:
    after = edited_light(lamp(), turn)
    assert torch.dot(brightest(after), torch.tensor(towards)) > 0.99
    assert torch.dot(brightest(lamp()), torch.tensor((0.0, 0, 1))) > 0.99


def test_strength_moves_contrast_and_not_exposure() -> None:
    disc = SPHERE[SPHERE[:, 2] > 0]
    mean = lambda light: (shown(light, disc) * disc[:, 2:]).sum() / disc[:, 2].sum() / 3  # as the camera sees it
    contrast = lambda light: shown(light, SPHERE).max() - shown(light, SPHERE).min()
    even, hard = edited_light(lamp(), strength=0), edited_light(lamp(), strength=2)
    assert contrast(even) == pytest.approx(0, abs=1e-5)
    assert contrast(hard) > 1.3 * contrast(lamp())
    for light in (even, hard, edited_light(lamp(), (60, 20))):
        assert mean(light) == pytest.approx(float(mean(lamp())), rel=0.02)


def test_lights_are_turned_on_from_where_they_were() -> None:
    source = codes(lamp())
    once = relit(source, source, (50, 0))
    twice = relit(relit(source, source, (20, 0)), source, (30, 0))
    assert torch.allclose(once.light, twice.light, atol=1e-4)
    back = relit(once, source, (-50, 0))
    assert torch.allclose(back.light, possible_light(source.light), atol=1e-4)
    assert relit(source, source) is source and relit(source, source, (0, 0), 1) is source
