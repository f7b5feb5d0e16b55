"""train_rig.py: the objective, the arguments, and a run of a few steps that is stopped and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import bundle
import numpy as np
import pytest
import torch
import train_rig
import yaml
from diffusers import DDIMScheduler
from PIL import Image
from rig_data import Batch, RigData
from torch import Tensor
from train_rig import Objective, training_timesteps

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.emotions import RECIPES

PRESETS = Path(train_rig.__file__).parent / "presets"
Run = Callable[..., None]


# train_rig.py: the objective


def objective(scheduler: DDIMScheduler, **changes: object) -> Objective:
    settings = {
        "alphas": scheduler.alphas_cumprod,
        "residual_scale": 2.0,
        "timesteps": training_timesteps(scheduler, None),
        "terminal_share": 0.0,
        "code_dropout": 0.0,
        "lpips": None,
        "lpips_weight": 0.0,
    }
    return Objective(**(settings | changes))


class Perfect(torch.nn.Module):
    """Knows the answer of a batch and says its v: x0 = (photo - base) within the mask, twice."""

    def __init__(self, batch: Batch, scheduler: DDIMScheduler, error: Tensor | float = 0.0) -> None:
        super().__init__()
        self.clean = ((batch.photo - batch.base) * batch.mask * 2).double()
        self.alphas, self.error = scheduler.alphas_cumprod.double(), error
        self.heard: list[tuple[Tensor, Tensor]] = []

    def forward(self, sample: Tensor, t: Tensor, code: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.heard.append((t, code))
        alpha, sigma = (v.sqrt()[:, None, None, None] for v in (self.alphas[t], 1 - self.alphas[t]))
        return (((alpha * sample[:, :3].double() - self.clean) / sigma + self.error).float(),)


@pytest.fixture
def batch(data: RigData) -> Batch:
    return data.batch(np.array([0, 1, 0, 1]), 64, np.random.default_rng(0))


@pytest.fixture
def scheduler() -> DDIMScheduler:
    return train_rig.make_scheduler()


@pytest.mark.parametrize("terminal_share", [0.0, 1.0])
def test_a_perfect_prediction_costs_nothing(
    batch: Batch, scheduler: DDIMScheduler, terminal_share: float
) -> None:
    torch.manual_seed(0)
    loss = objective(scheduler, terminal_share=terminal_share)
    for _ in range(5):
        losses = loss(Perfect(batch, scheduler), batch)
        assert losses["v"] < 1e-6
        assert losses["total"] == losses["v"]
    # an error of e everywhere costs e squared, whatever the mask
    assert loss(Perfect(batch, scheduler, 0.1), batch)["v"].item() == pytest.approx(0.01, rel=1e-2)


def test_loss_counts_what_is_painted(batch: Batch, scheduler: DDIMScheduler) -> None:
    loss = objective(scheduler, terminal_share=1.0)
    costs = []
    for where in (batch.mask, 1 - batch.mask):
        cost = loss(Perfect(batch, scheduler, where), batch)["v"].item()
        costs.append(cost / where.mean().item())
    assert costs[0] / costs[1] == pytest.approx(1 / train_rig.OUTSIDE_WEIGHT, rel=1e-2)


def test_perceptual_loss_sees_the_finished_picture(batch: Batch, scheduler: DDIMScheduler) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy:
        def distance(self, a: Tensor, b: Tensor) -> Tensor:
            seen.append((a, b))
            return (a - b).square().mean((1, 2, 3))

    torch.manual_seed(0)
    loss = objective(scheduler, terminal_share=0.5, lpips=Spy(), lpips_weight=0.7)
    losses = loss(Perfect(batch, scheduler), batch)
    guess, answer = seen[0]
    assert torch.equal(answer, batch.photo)
    painted = batch.mask.expand_as(guess) > 0
    torch.testing.assert_close(guess[painted], batch.photo[painted], atol=1e-3, rtol=0)
    assert torch.equal(guess[~painted], batch.base[~painted])
    torch.testing.assert_close(losses["total"], losses["v"] + 0.7 * losses["lpips"])


def test_timesteps_and_codes_that_are_trained(batch: Batch, scheduler: DDIMScheduler) -> None:
    torch.manual_seed(0)
    steps = training_timesteps(scheduler, 4)
    assert steps.tolist() == [999, 749, 499, 249]
    assert sorted(training_timesteps(scheduler, None).tolist()) == list(range(1000))
    network = Perfect(batch, scheduler)
    for share, dropout, count in ((0.0, 0.0, 40), (1.0, 1.0, 3)):
        network.heard.clear()
        loss = objective(scheduler, timesteps=steps, terminal_share=share, code_dropout=dropout)
        for _ in range(count):
            loss(network, batch)
        times = {int(t) for times, _ in network.heard for t in times}
        assert times == ({999} if share else {999, 749, 499, 249})
        for _, code in network.heard:
            assert torch.equal(code, batch.code * (1 - dropout))


def test_scheduler_ends_in_pure_noise(scheduler: DDIMScheduler) -> None:
    alphas = scheduler.alphas_cumprod
    assert alphas[-1] == 0 and alphas[0] > 0.99
    assert (alphas.diff() < 0).all()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


# train_rig.py: arguments


def test_presets_are_complete(prepared: Path, tmp_path: Path, pipe: EmoRigPipeline) -> None:
    presets = sorted(PRESETS.glob("*.yaml"))
    assert {"tiny.yaml", "open-256.yaml"} <= {p.name for p in presets}
    for preset in presets:
        arguments = [
            "--config",
            preset,
            "--train_data_dir",
            prepared,
            "--output_dir",
            tmp_path,
            "--seed",
            "7",
        ]
        args = train_rig.parse_args([str(a) for a in arguments])
        assert args.seed == 7
        for key, value in yaml.safe_load(preset.read_text()).items():
            assert getattr(args, key) == value, (preset.name, key)
        _, unet = train_rig.build(args)
        assert unet.config.cond_dim == 58
        assert unet.config.in_channels == 3 + 11
        assert args.resolution % unet.size_multiple == pipe.config.repaint_window[2] % unet.size_multiple == 0


def test_unknown_keys_of_a_preset_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("resolution: 64\nlerning_rate: 1\n")
    with pytest.raises(SystemExit) as stop:
        train_rig.parse_args(["--config", str(preset)])
    assert stop.value.code == 2
    assert "preset.yaml sets unknown arguments: lerning_rate." in capsys.readouterr().err


def test_missing_arguments(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_rig.parse_args(["--output_dir", str(tmp_path)])
    assert "--train_data_dir is missing." in capsys.readouterr().err
    args = train_rig.parse_args(["--output_dir", str(tmp_path), "--train_data_dir", str(prepared)])
    with pytest.raises(SystemExit, match="give a --config with a `unet` section"):
        train_rig.build(args)


def test_the_trained_pipeline_keeps_its_settings(
    pipe: EmoRigPipeline, prepared: Path, tmp_path: Path
) -> None:
    settings = {"emotions": {"calm": {"AU43": 0.3}}, "residual_scale": 3.0}
    EmoRigPipeline(pipe.head, pipe.encoder, **settings).save_pretrained(tmp_path)
    common = ["--config", PRESETS / "tiny.yaml", "--train_data_dir", prepared, "--output_dir", tmp_path]
    args = train_rig.parse_args([str(a) for a in [*common, "--pretrained_model_name_or_path", tmp_path]])
    built, _ = train_rig.build(args)
    assert {name: built.config[name] for name in settings} == settings


def test_the_command_line_wins(tmp_path: Path) -> None:
    common = ["--config", str(PRESETS / "tiny.yaml"), "--train_data_dir", "a", "--output_dir", str(tmp_path)]
    assert train_rig.parse_args(common).max_train_steps == 4
    assert train_rig.parse_args([*common, "--max_train_steps", "9"]).max_train_steps == 9


def test_progress_and_learning_rate() -> None:
    common = [
        "--train_data_dir",
        "a",
        "--output_dir",
        "b",
        "--max_train_steps",
        "1000",
        "--learning_rate",
        "0.1",
    ]
    progress = train_rig.Progress(train_rig.parse_args([*common, "--lr_warmup_steps", "10"]))
    rates = [progress.learning_rate(s) for s in range(1001)]
    assert rates[0] == pytest.approx(0.01, rel=1e-3) and rates[4] == pytest.approx(0.05, rel=1e-3)
    assert rates[500] == pytest.approx(0.05, rel=1e-3) and rates[1000] == pytest.approx(0, abs=1e-9)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    timed = train_rig.Progress(train_rig.parse_args([*common, "--max_train_minutes", "10"]))
    assert timed.share(0) < 0.01
    timed.start -= 300  # five minutes ago
    assert timed.share(0) == pytest.approx(0.5, abs=0.01)
    assert timed.learning_rate(200) == pytest.approx(0.1 * (0.5 + 0.5 * math.cos(math.pi / 2)), rel=0.05)
    timed.start -= 600
    assert timed.share(0) == 1


# train_rig.py: a run


@pytest.fixture(scope="module")
def trained(run_script: Run, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, then two more from the last checkpoint."""
    out = tmp_path_factory.mktemp("run")
    common = ["--config", PRESETS / "tiny.yaml", "--train_data_dir", prepared, "--output_dir", out]
    common += ["--checkpointing_steps", 1, "--validation_steps", 4]
    run_script(train_rig, *common, "--max_train_steps", 2)
    assert {"checkpoint-1", "checkpoint-2", "pipeline"} <= {p.name for p in out.iterdir()}
    first = (out / "checkpoint-2" / "model.safetensors").read_bytes()
    run_script(train_rig, *common, "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
    assert (out / "checkpoint-4" / "model.safetensors").read_bytes() != first
    return out


def test_a_run_is_resumed_where_it_stopped(trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert names == {
        "checkpoint-3",
        "checkpoint-4",  # the last two; nothing half-written is left
        "pipeline",
        "validation-4.png",
        "validation.png",
    }
    optimizer = torch.load(trained / "checkpoint-4" / "optimizer.bin", weights_only=True)
    assert {int(s["step"]) for s in optimizer["state"].values()} == {4}
    average = torch.load(trained / "checkpoint-4" / "custom_checkpoint_0.pkl", weights_only=True)
    assert average["optimization_step"] == 4


def test_validation_picture(trained: Path) -> None:
    with Image.open(trained / "validation-4.png") as picture:
        assert picture.size == (2 * 5 * 160, 6 * 160)  # two halves of photo, base, 1, 2 and 4 steps
        assert np.asarray(picture).std() > 20


def test_the_trained_pipeline_edits(trained: Path, hopper: np.ndarray) -> None:
    pipe = EmoRigPipeline.from_pretrained(trained / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    average = torch.load(trained / "checkpoint-4" / "custom_checkpoint_0.pkl", weights_only=True)
    for ours, kept in zip(pipe.unet.parameters(), average["shadow_params"], strict=True):
        torch.testing.assert_close(ours, kept)
    assert any(p.abs().max() > 0 for p in pipe.unet.conv_out.parameters())  # begins at zero: it has learnt
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    still = pipe(hopper, "happy", 0, output_type="np").images[0]
    assert np.array_equal(still, hopper)
    generator = torch.Generator().manual_seed(0)
    edited = pipe(hopper, "happy", output_type="np", generator=generator, num_inference_steps=1).images[0]
    assert (edited != hopper).any()


def test_the_bundled_pipeline_is_the_trained_one_in_half_the_bytes(
    trained: Path, hopper: np.ndarray, tmp_path: Path
) -> None:
    target = tmp_path / "open"
    target.mkdir()
    (target / "old").write_text("goes away")
    bundle.bundle(trained / "pipeline", target)
    assert [p.name for p in tmp_path.iterdir()] == ["open"]
    assert {p.name for p in target.iterdir()} == {"model_index.json", "head", "encoder", "unet", "scheduler"}
    size = lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size(target) < 0.55 * size(trained / "pipeline")
    before, after = (EmoRigPipeline.from_pretrained(f) for f in (trained / "pipeline", target))
    assert after.recipes == RECIPES
    assert after.head.template.dtype == after.unet.dtype == torch.float32
    for ours, kept in zip(after.unet.parameters(), before.unet.parameters(), strict=True):
        torch.testing.assert_close(ours, kept, atol=1e-3, rtol=1e-3)
    edit = {"emotion": "surprise", "output_type": "np", "num_inference_steps": 1}
    results = []
    for pipe in (before, after):
        pipe.set_progress_bar_config(disable=True)
        results.append(pipe(hopper, **edit, generator=torch.Generator().manual_seed(0)).images[0].astype(int))
    assert np.abs(results[0] - results[1]).mean() < 0.1


def test_nothing_to_resume(run_script: Run, prepared: Path, tmp_path: Path) -> None:
    common = ["--config", PRESETS / "tiny.yaml", "--train_data_dir", prepared, "--output_dir", tmp_path]
    for wanted in ("latest", tmp_path / "checkpoint-7"):
        with pytest.raises(SystemExit, match="No checkpoint to resume"):
            run_script(train_rig, *common, "--resume_from_checkpoint", wanted)
