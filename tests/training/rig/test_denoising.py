"""DiffusionRig's objective: what a prediction costs, what networks are shown, what keeps shape and prior."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from oracle import Batch, Oracle, part, seed
from torch import Tensor, nn

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.diffusion.guidance import CodeReader
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.painting.diffusion_rig import draw_conditions
from emorig_diffusers.photo.crops import square_matrix
from emorig_diffusers.photo.resample import warp_crop
from emorig_diffusers.training.objectives import noise_like, noised
from emorig_diffusers.training.rig.objectives import (
    DenoisingObjective,
    Drawer,
    RigNetworks,
    ShapeLoss,
)

SIDE = 32
CODES = ("shape", "expression", "pose", "camera", "light", "texture")


@pytest.fixture
def faces(astronaut_face: EncodedFace, hopper_face: EncodedFace) -> Batch:
    """Random pictures with the codes of two real faces."""
    codes = FaceCodes.cat([astronaut_face.codes, hopper_face.codes] * 2)
    picture = torch.rand(4, 3, SIDE, SIDE, generator=seed(0)) * 2 - 1
    u = torch.tensor([0.05, 0.3, 0.6, 0.999])[:, None].repeat(1, 2)
    fixed = {"picture": picture, "transform": torch.eye(3).expand(4, 3, 3), "u": u, "seed": torch.arange(4)}
    return fixed | {name: getattr(codes, name) for name in CODES}


ALPHAS = DDIMScheduler().alphas_cumprod
TIMES = [50, 300, 600, 999]  # of `faces`


def denoising(head: HeadModel, **changes: object) -> DenoisingObjective:
    settings = {"alphas": ALPHAS, "prediction_type": "epsilon", "p2_gamma": 0.0, "p2_k": 1.0, "snr_gamma": None}
    return DenoisingObjective(**(settings | {"draw": Drawer(head, SIDE)} | changes))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_perfect_denoising_costs_nothing(faces: Batch, head: HeadModel, kind: str) -> None:
    loss = denoising(head, prediction_type=kind)
    assert loss(Oracle(faces["picture"], ALPHAS, kind=kind), faces)["loss"] < 1e-8
    losses = loss(Oracle(faces["picture"], ALPHAS, 0.3, kind), faces)
    assert losses["loss"].item() == losses["mse"].item() == pytest.approx(0.09, rel=1e-4)


def test_what_the_denoiser_is_shown(faces: Batch, head: HeadModel, pipe: EmoRigPipeline) -> None:
    network = Oracle(faces["picture"], ALPHAS, kind="epsilon")
    denoising(head)(network, faces)
    (sample, t, codes, picture), *more = network.shown
    assert not more and torch.equal(picture, faces["picture"]) and t.tolist() == TIMES
    assert codes.keys() == set(CODES) and all(torch.equal(codes[name], faces[name]) for name in CODES)
    noise = noise_like(faces["picture"], faces["seed"])
    torch.testing.assert_close(sample[:, :3], noised(faces["picture"], noise, ALPHAS[t])[0])
    torch.testing.assert_close(sample[:, 3:], draw_conditions(pipe.head, FaceCodes(**codes), SIDE))


def weights(faces: Batch, head: HeadModel, **changes: object) -> Tensor:
    """How much the error of each sample counts."""
    kind = changes.get("prediction_type", "epsilon")
    loss = denoising(head, draw=lambda codes, transform: torch.zeros(len(transform), 9, SIDE, SIDE), **changes)
    cost = lambda i: loss(Oracle(faces["picture"][[i]], ALPHAS, 2.0, kind), part(faces, i))["loss"] / 4
    return torch.stack([cost(i) for i in range(4)])


def test_p2_weight(faces: Batch, head: HeadModel) -> None:
    alphas = ALPHAS[TIMES]
    torch.testing.assert_close(weights(faces, head), torch.ones(4), rtol=1e-4, atol=0)
    torch.testing.assert_close(weights(faces, head, p2_gamma=1.0), 1 - alphas, rtol=1e-4, atol=0)
    expected = (0.5 + alphas / (1 - alphas)) ** -0.7
    torch.testing.assert_close(weights(faces, head, p2_gamma=0.7, p2_k=0.5), expected, rtol=1e-4, atol=0)


def test_min_snr_weight(faces: Batch, head: HeadModel) -> None:
    snr = ALPHAS[TIMES] / (1 - ALPHAS[TIMES])
    assert snr[0] > 5 > snr[1]
    ours = weights(faces, head, snr_gamma=5.0, p2_gamma=1.0)
    torch.testing.assert_close(ours, torch.tensor([5 / snr[0], 1, 1, 1]), rtol=1e-4, atol=0)
    ours = weights(faces, head, snr_gamma=5.0, prediction_type="v_prediction")
    torch.testing.assert_close(ours, snr.clamp(max=5) / (snr + 1), rtol=1e-4, atol=0)


# what the networks are


@pytest.fixture
def networks() -> RigNetworks:
    """A denoiser that is told shape and pose; all its layers matter."""
    torch.manual_seed(0)
    unet = RigUNet(
        sample_size=SIDE, block_out_channels=(8, 16), layers_per_block=1, attention_levels=(), mid_attention=False,
        norm_num_groups=4, cond_dim=86,
    )  # fmt: skip
    nn.init.normal_(unet.conv_out.weight, std=0.1)
    return RigNetworks(unet, None, ("shape", "pose")).eval()


def test_networks_join_what_they_are_told(faces: Batch) -> None:
    told: list[Tensor] = []

    class Unet(nn.Module):
        def forward(self, sample: Tensor, t: Tensor, code: Tensor, return_dict: bool) -> tuple[Tensor]:
            told.append(code)
            return (sample[:, :3].half(),)

    appearance = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    networks = RigNetworks(Unet(), appearance, ("pose", "appearance", "shape", "shape", "light"))
    codes, picture = {name: faces[name] for name in CODES}, faces["picture"]
    sample = torch.zeros(4, 12, SIDE, SIDE)
    assert networks(sample, torch.zeros(4), codes, picture).dtype == torch.float32
    shape, light = faces["shape"], faces["light"].flatten(1)
    expected = torch.cat([faces["pose"], picture.mean((2, 3)), shape, shape, light], 1)
    torch.testing.assert_close(told[0], expected)
    networks(sample, torch.zeros(4), shape, None)
    assert told[1] is shape  # ready
    networks = RigNetworks(Unet(), None, ("shape", "own_shape"))
    networks(sample, torch.zeros(4), codes, None)
    networks(sample, torch.zeros(4), codes | {"own_shape": shape + 1}, None)  # of an album
    assert torch.equal(told[2], torch.cat([shape, shape], 1))
    assert torch.equal(told[3], torch.cat([shape, shape + 1], 1))


def test_drawer_draws_as_the_pipeline(faces: Batch, pipe: EmoRigPipeline, head: HeadModel) -> None:
    codes = {name: faces[name].clone().requires_grad_() for name in CODES}
    half = torch.tensor([[0.5, 0, -0.5], [0, 0.5, 0.5], [0, 0, 1]]).expand(4, 3, 3)
    drawn = Drawer(head, 48)(codes, half)
    assert drawn.any() and not drawn.requires_grad
    with torch.no_grad():
        assert torch.equal(drawn, draw_conditions(pipe.head, FaceCodes(**codes), 48, half))


def test_prior_keeps_what_the_network_said(faces: Batch, head: HeadModel, networks: RigNetworks) -> None:
    """It is asked under the light of another photo of the batch."""
    prior, shown = RigNetworks(networks.unet, None, networks.code_parts), []
    loss = denoising(head, prior=prior, prior_weight=3.0)
    watch = prior.register_forward_pre_hook(lambda _, arguments: shown.append(arguments))
    losses = loss(networks, faces)
    assert losses["prior"] == 0 and losses["loss"] == losses["mse"]
    ((sample, _, codes, _),) = shown
    assert torch.equal(codes["light"], faces["light"].roll(1, 0)) and torch.equal(codes["shape"], faces["shape"])
    torch.testing.assert_close(sample[:, 3:], loss.draw(codes, faces["transform"]))
    watch.remove()


def test_prior_costs_what_has_changed(faces: Batch, head: HeadModel, networks: RigNetworks) -> None:
    loss = denoising(head, prior=lambda *a: networks(*a) + 0.5, prior_weight=3.0)
    losses = loss(networks, faces)
    assert losses["prior"].item() == pytest.approx(0.25, rel=1e-4)
    torch.testing.assert_close(losses["loss"], losses["mse"] + 3 * losses["prior"])
    losses["prior"].backward()
    gradients = [p.grad for p in networks.unet.conv_out.parameters()]
    assert all(g is not None and g.any() for g in gradients)


# keeping the shape


@pytest.fixture(scope="module")
def reader() -> EmocaEncoder:
    """A small encoder with random weights, as it is frozen for training."""
    torch.manual_seed(0)
    encoder = EmocaEncoder(
        "small", hidden=32, num_shape=20, num_texture=0, num_expression=5, image_size=SIDE, expression_encoder=False,
        crop="aligned",
    )  # fmt: skip
    for _ in range(30):  # BatchNorm learns what is usual, or all pictures look the same
        encoder.train()(torch.rand(8, 3, 1, 1) * torch.rand(8, 3, SIDE, SIDE))
    return encoder.requires_grad_(False).eval()


@pytest.fixture
def crops(reader: EmocaEncoder) -> Iterator[list[Tensor]]:
    """What the encoder sees."""
    seen: list[Tensor] = []
    handle = reader.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    yield seen
    handle.remove()


def test_shape_of_the_photo_itself_is_kept(reader: EmocaEncoder, faces: Batch) -> None:
    loss, clean, frame = ShapeLoss(reader, 0.1), faces["picture"], faces["transform"]
    alphas = torch.tensor([1.0, 0.5, 0.25, 0])
    assert loss(clean, clean, frame, alphas) == 0
    guess = (clean * 0.5).requires_grad_()
    loss(guess, clean, frame, alphas).backward()
    assert guess.grad[:3].any((1, 2, 3)).all() and not guess.grad[3].any()  # nothing can be told of pure noise
    assert all(p.grad is None for p in reader.parameters())


def test_shape_loss_is_weighted_by_how_little_noise_there_is(reader: EmocaEncoder, faces: Batch) -> None:
    loss, clean, frame = ShapeLoss(reader, 0.1), faces["picture"], faces["transform"]
    read = lambda pictures: reader(pictures * 0.5 + 0.5).shape
    apart = (read(clean * 0.5) - read(clean)).square().mean(1)
    assert (apart > 0).all()
    alphas = torch.tensor([0.9, 0.4, 0.1, 0])
    torch.testing.assert_close(loss(clean * 0.5, clean, frame, alphas), (apart * alphas).mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("size", "scale"), [(64, 0.5), (40, 1.1), (128, 0.6)])
def test_shape_is_read_where_the_face_is(
    reader: EmocaEncoder, crops: list[Tensor], astronaut: np.ndarray, size: int, scale: float
) -> None:
    """A turned, shifted part of the picture: the same that cv2 cuts out; large pictures are averaged first."""
    picture = np.asarray(cv2.resize(astronaut, (size, size), interpolation=cv2.INTER_AREA), np.float32) / 255
    cos, sin = scale * np.cos(0.3), scale * np.sin(0.3)
    transform = np.array([[cos, -sin, 0.1], [sin, cos, -0.2], [0, 0, 1]], np.float32)
    CodeReader(reader)(torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1, torch.from_numpy(transform)[None])
    shrink = round(size * scale / SIDE) if size * scale / SIDE > 1.5 else 1
    small = cv2.resize(picture, (size // shrink,) * 2, interpolation=cv2.INTER_AREA)
    device = lambda n: np.array([[2 / n, 0, 1 / n - 1], [0, 2 / n, 1 / n - 1], [0, 0, 1]])  # of the pixels' centres
    matrix = np.linalg.inv(device(len(small))) @ transform @ device(SIDE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(small, matrix[:2], (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(crops[0][0].permute(1, 2, 0), expected, atol=0.03)
    assert np.abs(crops[0][0].permute(1, 2, 0).numpy() - expected).mean() < 0.002
    assert (shrink == 2) == (size == 128)


def test_shape_of_a_whole_photo_is_read_from_its_face(
    pipe: EmoRigPipeline, reader: EmocaEncoder, crops: list[Tensor], hopper: np.ndarray, hopper_face: EncodedFace
) -> None:
    """With the transform that an encoded face has."""
    matrix = square_matrix(hopper.shape, 256)
    picture = torch.from_numpy(warp_crop(hopper, matrix, 256)).permute(2, 0, 1)[None] / 127.5 - 1
    whole = pipe.encode_face(hopper, hopper_face.face, "whole")
    CodeReader(reader)(picture, whole.transform)
    expected = cv2.GaussianBlur(warp_crop(hopper, hopper_face.grid_matrix(SIDE), SIDE) / 255, (0, 0), 1)
    found = cv2.GaussianBlur(crops[0][0].permute(1, 2, 0).numpy(), (0, 0), 1)
    error = lambda shift: float(np.abs(np.roll(found, shift, (0, 1)) - expected)[4:-4, 4:-4].mean())
    assert error((0, 0)) < 0.3 * min(error(shift) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_predicted_photo_has_to_keep_the_shape(
    faces: Batch, head: HeadModel, reader: EmocaEncoder, kind: str
) -> None:
    loss = denoising(head, prediction_type=kind, shape=ShapeLoss(reader, 0.1))
    assert loss(Oracle(faces["picture"], ALPHAS, kind=kind), faces)["shape"] < 1e-6
    losses = loss(Oracle(faces["picture"], ALPHAS, 0.3, kind), faces)
    assert losses["shape"] > 1e-6
    torch.testing.assert_close(losses["loss"], losses["mse"] + 0.1 * losses["shape"])
