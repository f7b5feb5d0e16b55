"""The benchmarks of the originals' models run, and print their tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import originals_speed  # noqa: E402
import solver_quality  # noqa: E402
from diffusers import DDIMScheduler  # noqa: E402

from emorig_diffusers.diffusion.sampling import Sampling  # noqa: E402
from emorig_diffusers.painting.diffusion_rig import published_scheduler  # noqa: E402

Run = Callable[..., None]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return originals_speed.make_pipeline(tmp_path_factory.mktemp("stand-in"), 32, 64, "small")


def spent_on(stage: str, printed: str) -> list[float]:
    """Milliseconds of a stage, as the table shows them for each encoder."""
    (line,) = re.findall(rf"^{stage} .*%$", printed, re.MULTILINE)
    return [float(number) for number in re.findall(r"([\d.]+) +[\d.]+%", line)]


def test_speed_of_the_originals(
    run_script: Run, stand_in: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals_speed, "apart", lambda function, *args: function(*args))
    options = ("--steps", 1, "--emotions", 1, "--batch", 2, "--solvers", "--repeat", 1, "--device", "cpu")
    run_script(originals_speed, stand_in, *options)
    printed = capsys.readouterr().out
    stages = ("detect", "crop", "E_flame", "E_expression", "wrinkles", "head", "buffers", "network", "paste")
    spent = {stage: spent_on(stage, printed) for stage in stages}
    for stage in ("E_expression", "wrinkles"):  # of EMOCA alone, of wrinkles alone
        assert spent[stage][0] == 0 < spent[stage][-1]
    assert spent["wrinkles"][1] == 0
    assert all(time > 0 for stage in stages for time in spent[stage][2:])
    variants = re.findall(r"^(\S.*\S) 1(?: +[\d.]+){4}$", printed, re.MULTILINE)
    paths = ("DiffusionRig's path, DDIM", "EMOCA prototype's path, DDIM", "ours, batch 2, DDIM")
    assert tuple(variants) == paths


def test_quality_of_few_steps(
    run_script: Run, stand_in: Path, photos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_quality, "STEPS", {"ddim": (4, 5), "unipc": (2,), "dpm": (2,)})
    portraits = photos / "astronaut.png", photos / "hopper.PNG"
    run_script(solver_quality, stand_in, *portraits[:1], "--reference", 4, "--device", "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["sampler", "DDIM", "DDIM", "DDIM", "UniPC", "DPM-Solver++"]
    assert float(lines[2].split()[2]) == 0 < float(lines[3].split()[2])  # the reference's own steps, and one more
    run_script(solver_quality, "--oracle", *portraits, "--size", 32, "--count", 2, "--reference", 8)
    assert "ideal network of 2 photos" in capsys.readouterr().out


def test_the_ideal_network_leads_to_its_photos() -> None:
    generator = torch.Generator().manual_seed(1)
    photos = torch.rand(3, 3, 8, 8, generator=generator) * 1.6 - 0.8
    oracle = solver_quality.Oracle(photos, spread=0.01)
    latents = torch.randn(6, 3, 8, 8, generator=generator)
    found, _ = oracle.sample(latents, latents[:, :0], latents[:, :0], Sampling(50))
    nearest = torch.cdist(found.flatten(1), photos.flatten(1)).min(1)
    assert nearest.values.max() < 3 * 0.01 * 192**0.5 and len(nearest.indices.unique()) > 1


@pytest.mark.parametrize("kind", ["unipc", "dpm"])
def test_the_solvers_clip_as_published(kind: str) -> None:
    """With x0 far outside [-1, 1] they end where DDIM does."""

    def drawn(scheduler: object, steps: int) -> torch.Tensor:
        oracle = solver_quality.Oracle(torch.full((1, 3, 4, 4), 3.0))
        oracle.scheduler = scheduler
        latents = torch.zeros(1, 3, 4, 4)
        return oracle.sample(latents, latents[:, :0], latents[:, :0], Sampling(steps))[0]

    config = published_scheduler().config
    ddim = drawn(DDIMScheduler.from_config(config), 20)
    clipped, free = (drawn(solver_quality.solver(kind, config, "linspace", clip, 2), 10) for clip in (True, False))
    torch.testing.assert_close(clipped, ddim, atol=0.02, rtol=0)
    assert (free - 3).abs().max() < 0.1
