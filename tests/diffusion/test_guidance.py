"""keeping.py and train/diffae_shape.py: codes read from pictures, the guide of a sampler, and the second step."""

from __future__ import annotations

import copy
import math
from copy import deepcopy

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from emorig_diffusers.diffusion.guidance import EARLIEST, PARTS, CodeReader, ShapeGuide, part_of
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.models.diffae import SemanticEncoder
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.semantic_classifier import LatentClassifier
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline
from emorig_diffusers.training.diffae.objectives import ShapeStepObjective
from emorig_diffusers.training.objectives import noise_like, noised

SIDE, WIDTH = 16, 32
SIZES = {"shape": 10, "texture": 4, "expression": 5, "pose": 3, "camera": 3, "light": 27}


def make_encoder(calibrated: bool = False) -> EmocaEncoder:
    """Small, with random weights that see differences between `smooth` pictures."""
    torch.manual_seed(0)
    encoder = EmocaEncoder(
        "small", hidden=16, num_shape=10, num_texture=4, num_expression=5, image_size=SIDE, expression_encoder=False,
        crop="aligned", calibrated=calibrated,
    )  # fmt: skip
    for _ in range(10):  # BatchNorm learns what is usual
        encoder.train()(smooth(8))
    encoder.requires_grad_(False).eval()
    last, regressor = encoder.E_flame.layers[2], encoder.E_flame
    values = last(regressor.layers[1](regressor.layers[0](regressor.encoder(smooth(64)))))
    last.weight /= values.std(0)[:, None]  # codes as far apart as real ones
    last.bias.copy_((last.bias - values.mean(0)) / values.std(0))
    return encoder


def smooth(count: int) -> Tensor:
    """Pictures [count, 3, S, S] in [0, 1]."""
    return F.interpolate(torch.rand(count, 3, 4, 4), (SIDE, SIDE), mode="bilinear")


@pytest.fixture(scope="module")
def encoder() -> EmocaEncoder:
    return make_encoder()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    torch.manual_seed(7)
    return smooth(4) * 2 - 1


@pytest.fixture(scope="module")
def frame() -> Tensor:
    return torch.eye(3).expand(4, 3, 3)


@pytest.fixture
def pipe() -> DiffAEEmotionPipeline:
    """Random weights; the code matters much."""
    torch.manual_seed(0)
    semantic = SemanticEncoder(SIDE, 3, (8, 16), 1, (), 4, WIDTH)
    unet = RigUNet(
        sample_size=SIDE, in_channels=3, block_out_channels=(16, 32), layers_per_block=1, attention_levels=(),
        mid_attention=False, norm_num_groups=4, cond_dim=WIDTH, cond_mode="scale", condition_channels=(),
    )  # fmt: skip
    for name, parameter in unet.named_parameters():
        if "cond_emb_proj" in name or "conv_out" in name:
            nn.init.normal_(parameter, std=0.2)
    scheduler = DDIMScheduler(timestep_spacing="leading", steps_offset=0, prediction_type="v_prediction")
    made = DiffAEEmotionPipeline(unet, semantic, scheduler, make_classifier())
    made.set_progress_bar_config(disable=True)
    return made


def make_classifier() -> LatentClassifier:
    torch.manual_seed(1)
    classifier = LatentClassifier(("neutral", "happy"), WIDTH).requires_grad_(False)
    nn.init.normal_(classifier.weight)
    nn.init.normal_(classifier.means)
    nn.init.normal_(classifier.mean)
    nn.init.uniform_(classifier.std, 0.5, 2)
    return classifier


# reading


def test_parts_side_by_side(encoder: EmocaEncoder, pictures: Tensor, frame: Tensor) -> None:
    codes = encoder(pictures * 0.5 + 0.5)
    assert {part: part_of(codes, part).shape[1] for part in PARTS} == SIZES
    reader = CodeReader(encoder, ("light", "pose", "shape"))
    read = reader(pictures, frame)
    expected = [part_of(codes, part) / SIZES[part] ** 0.5 for part in ("light", "pose", "shape")]
    torch.testing.assert_close(read, torch.cat(expected, 1), atol=1e-4, rtol=1e-3)
    distance = (read[0] - read[1]).square().sum()
    means = [(part_of(codes, part)[0] - part_of(codes, part)[1]).square().mean() for part in reader.parts]
    torch.testing.assert_close(distance, sum(means), atol=1e-4, rtol=1e-3)


def test_codes_in_spreads(pictures: Tensor, frame: Tensor) -> None:
    encoder = make_encoder(calibrated=True)
    spread = torch.linspace(0, 2, sum(encoder.sizes))
    encoder.E_flame.spread.copy_(spread)  # the first code always stays at its mean
    reader = CodeReader(encoder, ("shape", "camera"))
    split = spread.split(encoder.sizes)
    torch.testing.assert_close(reader.spread()["camera"], split[4])
    torch.testing.assert_close(reader.spread()["pose"], split[3][:3])
    codes, read = encoder(pictures * 0.5 + 0.5), reader(pictures, frame)
    torch.testing.assert_close(read[:, 10:], codes.camera / split[4] / 3**0.5, atol=1e-4, rtol=1e-3)
    assert read.isfinite().all() and torch.equal(read[0, :1], read[1, :1])


def test_wrong_parts(encoder: EmocaEncoder) -> None:
    with pytest.raises(ValueError, match="Cannot read .'jaw'. of the codes: choose from shape,"):
        CodeReader(encoder, ("shape", "jaw"))
    with pytest.raises(ValueError, match="Cannot read no part"):
        CodeReader(encoder, ())


def test_gradients_reach_the_face_alone(encoder: EmocaEncoder) -> None:
    picture = torch.zeros(1, 3, 64, 64).uniform_(-1, 1).requires_grad_()
    transform = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5], [0, 0, 1]]])  # the upper left quarter
    CodeReader(encoder)(picture, transform).square().sum().backward()
    assert picture.grad[..., :30, :30].abs().min() > 0 and not picture.grad[..., 36:, 36:].any()


# guiding


def guide_of(encoder: EmocaEncoder, pictures: Tensor, frame: Tensor, **changes: object) -> ShapeGuide:
    reader = CodeReader(encoder)
    settings = {"reader": reader, "goal": reader(pictures, frame), "transform": frame, "weight": 0.1,
                "classifier": make_classifier()}  # fmt: skip
    return ShapeGuide(**(settings | changes))


def measured(guide: ShapeGuide, pipe: DiffAEEmotionPipeline, latents: Tensor, t: int, code: Tensor) -> Tensor:
    with torch.no_grad():
        return guide.distance(pipe, latents, torch.tensor(t), code, float(pipe.scheduler.alphas_cumprod[t]))


def test_a_step_comes_nearer(
    pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, pictures: Tensor, frame: Tensor
) -> None:
    guide, t = guide_of(encoder, pictures, frame, weight=0.02), 400
    latents, code = pictures + 0.5 * torch.randn(pictures.shape), torch.randn(4, WIDTH)
    with torch.no_grad():  # as inside a pipeline
        after = guide(pipe, latents, torch.tensor(t), code)
    assert not after.requires_grad and all(p.grad is None for p in pipe.unet.parameters())
    assert (measured(guide, pipe, latents, t, after) < measured(guide, pipe, latents, t, code)).all()


def test_a_step_leaves_the_edit_alone_and_has_its_length(
    pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, pictures: Tensor, frame: Tensor
) -> None:
    classifier, edit = make_classifier(), torch.randn(4, WIDTH)
    guide = guide_of(encoder, pictures, frame, weight=1e-4, change=edit)
    code, t = torch.randn(4, WIDTH), torch.tensor(300)
    after = guide(pipe, pictures, t, code)
    torch.testing.assert_close(classifier(after), classifier(code), atol=1e-4, rtol=1e-4)
    step = (after - code).double() / classifier.std
    alpha = float(pipe.scheduler.alphas_cumprod[300])
    torch.testing.assert_close(step.norm(dim=1), torch.full((4,), 1e-4 * alpha * math.sqrt(WIDTH)).double(),
                               rtol=0.01, atol=0)  # fmt: skip
    own, means = edit / classifier.std, classifier.means[0] - classifier.means[1]
    assert F.cosine_similarity(step, own.double()).abs().max() < 0.01
    assert F.cosine_similarity(step, means[None].double()).abs().max() < 0.01
    free = guide_of(encoder, pictures, frame, weight=1e-4)(pipe, pictures, t, code)
    assert F.cosine_similarity((free - code) / classifier.std, own).abs().max() > 0.01


def test_no_step_without_need(
    pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, pictures: Tensor, frame: Tensor
) -> None:
    code, latents = torch.randn(4, WIDTH), torch.randn(pictures.shape)
    off, on = guide_of(encoder, pictures, frame, weight=0.0), guide_of(encoder, pictures, frame, weight=100.0)
    assert off(pipe, latents, torch.tensor(10), code) is code
    noise = int((pipe.scheduler.alphas_cumprod >= EARLIEST).sum())  # the first step with too much of it
    assert on(pipe, latents, torch.tensor(noise), code) is code
    assert not torch.equal(on(pipe, latents, torch.tensor(noise - 1), code), code)
    prediction = pipe.unet(latents, torch.tensor(200), code, return_dict=False)[0].detach()
    alpha = float(pipe.scheduler.alphas_cumprod[200])
    clean = (alpha**0.5 * latents - (1 - alpha) ** 0.5 * prediction).clamp(-1, 1)
    there = ShapeGuide(on.reader, on.reader(clean, frame), frame, 100.0, on.classifier)
    torch.testing.assert_close(there(pipe, latents, torch.tensor(200), code), code, atol=1e-4, rtol=1e-4)


def test_the_sampler_asks_its_guide(pipe: DiffAEEmotionPipeline) -> None:
    asked: list[tuple[int, Tensor]] = []

    def guide(sampled: DiffAEEmotionPipeline, latents: Tensor, t: Tensor, code: Tensor) -> Tensor:
        assert sampled is pipe and latents.shape == (2, 3, SIDE, SIDE)
        asked.append((int(t), code))
        return code + 1

    latents, code = torch.randn(2, 3, SIDE, SIDE), torch.randn(2, WIDTH)
    plain, guided = pipe.decode(latents, code, Sampling(3)), pipe.decode(latents, code, Sampling(3, guide=guide))
    times = deepcopy(pipe.scheduler)
    times.set_timesteps(3)
    assert [t for t, _ in asked] == times.timesteps.tolist() and not torch.equal(plain, guided)
    assert all(torch.allclose(given, code + i) for i, (_, given) in enumerate(asked))


# the second step


class Networks(nn.Module):
    """What train_diffae.py trains."""

    def __init__(self, pipe: DiffAEEmotionPipeline) -> None:
        super().__init__()
        self.unet, self.semantic_encoder = pipe.unet, pipe.semantic_encoder.requires_grad_(False)

    def forward(self, sample: Tensor, t: Tensor, picture: Tensor | None, code: Tensor | None = None) -> Tensor:
        code = self.semantic_encoder(picture) if code is None else code
        return self.unet(sample, t, code, return_dict=False)[0]


@pytest.fixture
def batch(pictures: Tensor, frame: Tensor) -> dict[str, Tensor]:
    u = torch.tensor([[0.1, 0.2, 0.0], [0.2, 0.7, 0.5], [0.3, 0.1, 0.99], [0.15, 0.9, 0.7]])
    return {"picture": pictures, "transform": frame, "u": u, "seed": torch.arange(4)}


def objective(pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, **changes: object) -> ShapeStepObjective:
    settings = {"alphas": pipe.scheduler.alphas_cumprod, "prediction_type": "v_prediction",
                "teacher": copy.deepcopy(pipe.unet).requires_grad_(False), "reader": CodeReader(encoder),
                "classifier": make_classifier()}  # fmt: skip
    return ShapeStepObjective(**(settings | changes))


def test_what_the_second_step_costs(
    pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, batch: dict[str, Tensor]
) -> None:
    loss, networks = objective(pipe, encoder, keep_weight=3.0, expression_weight=0.5), Networks(pipe)
    losses = loss(networks, batch)
    assert losses["expression"] < 1e-8 and losses["keep"] > 1e-4  # the teacher is the network
    torch.testing.assert_close(losses["loss"], losses["mse"] + 3 * losses["keep"] + 0.5 * losses["expression"])
    clean, t = batch["picture"], torch.tensor([100, 200, 300, 150])
    alphas, noise = pipe.scheduler.alphas_cumprod[t], noise_like(clean, batch["seed"])
    noisy, alpha, sigma = noised(clean, noise, alphas)
    code = pipe.semantic_encoder(clean)
    own = pipe.unet(noisy, t, code, return_dict=False)[0]
    torch.testing.assert_close(losses["mse"], F.mse_loss(own, alpha * noise - sigma * clean), atol=1e-4, rtol=1e-3)
    edits = [("neutral", 0.5), ("happy", 1.0), ("neutral", 1.49), ("happy", 1.2)]
    moved = [loss.classifier.moved(code[i : i + 1], {name: 1.0}, how) for i, (name, how) in enumerate(edits)]
    prediction = pipe.unet(noisy, t, torch.cat(moved), return_dict=False)[0]
    guess = (alpha * noisy - sigma * prediction).clamp(-1, 1)
    shapes = [encoder(picture * 0.5 + 0.5).shape for picture in (guess, clean)]
    expected = (alphas * (shapes[0] - shapes[1]).square().mean(1)).mean()
    torch.testing.assert_close(losses["keep"], expected, atol=1e-4, rtol=1e-2)


def test_only_the_unet_learns(pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, batch: dict[str, Tensor]) -> None:
    loss, networks = objective(pipe, encoder), Networks(pipe)
    loss(networks, batch)["loss"].backward()
    assert all(p.grad is not None for p in pipe.unet.parameters())
    frozen = [*pipe.semantic_encoder.parameters(), *encoder.parameters(), *loss.teacher.parameters(),
              *loss.classifier.parameters()]  # fmt: skip
    assert all(p.grad is None for p in frozen)
    assert "expression" not in objective(pipe, encoder, teacher=None)(networks, batch)


def test_the_shape_comes_back_and_the_expression_stays(
    pipe: DiffAEEmotionPipeline, encoder: EmocaEncoder, batch: dict[str, Tensor]
) -> None:
    """A few steps on one batch; without the teacher the expression goes further astray."""
    start, found = copy.deepcopy(pipe.unet.state_dict()), {}
    for weight in (0.0, 1.0):
        pipe.unet.load_state_dict(start)
        loss, networks = objective(pipe, encoder, expression_weight=weight), Networks(pipe)
        optimizer = torch.optim.Adam(pipe.unet.parameters(), 2e-3)
        first = loss(networks, batch)
        for _ in range(8):
            optimizer.zero_grad()
            losses = loss(networks, batch)
            losses["loss"].backward()
            optimizer.step()
        assert losses["keep"] < 0.5 * first["keep"] and losses["mse"] < first["mse"]
        found[weight] = losses["expression"].item()
    assert found[1.0] < 0.5 * found[0.0]
