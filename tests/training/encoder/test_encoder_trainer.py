"""Training an encoder: pictures, codes and landmarks that move together, drawn heads, losses, and whole tiny runs."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import TRAIN
from safetensors.torch import load_file
from torch import Tensor

from emorig_diffusers import EmoRigPipeline, FaceCodes
from emorig_diffusers.data.shards import CodeShards, Sample, write_shard
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel, rotation_matrix
from emorig_diffusers.models.landmark_fit import UNSEEN_UNITS, LandmarkEncoder
from emorig_diffusers.photo.resample import align, transform_points
from emorig_diffusers.render.camera import project
from emorig_diffusers.render.spherical_harmonics import sh_shading
from emorig_diffusers.training.encoder.augment import (
    Augment,
    Mirror,
    compress,
    move,
    move_points,
    moved_picture,
    turn_light,
)
from emorig_diffusers.training.encoder.data import Batch, EncoderData
from emorig_diffusers.training.encoder.drawn_heads import BOUNDS, DrawnHeads, aligning
from emorig_diffusers.training.encoder.objectives import EncoderObjective
from emorig_diffusers.training.encoder.trainer import parse_args

TINY = TRAIN / "presets" / "encoder-tiny.yaml"
WEIGHTS = {"shape": 1, "expression": 1, "pose": 1, "camera": 1, "light": 1, "landmark": 1, "relative": 1,
           "photometric": 0, "emotion": 0}  # fmt: skip
MOTION = (torch.tensor([1.1, 0.9]), torch.tensor([0.2, -0.4]), torch.tensor([[0.1, -0.05], [0.0, 0.2]]))


@pytest.fixture(scope="module")
def data(prepared: Path, head: HeadModel) -> EncoderData:
    """The astronaut and Hopper."""
    return EncoderData(prepared, head, 64)


@pytest.fixture(scope="module")
def faces(data: EncoderData) -> Batch:
    return data.take(np.arange(2))


@pytest.fixture(scope="module")
def mirror(head: HeadModel) -> Mirror:
    return Mirror(head)


@pytest.fixture(scope="module")
def objective(head: HeadModel, mirror: Mirror, faces: Batch) -> EncoderObjective:
    return make_objective(head, mirror, faces)


@pytest.fixture(scope="module")
def drawn(pipe: EmoRigPipeline, encoder: LandmarkEncoder, data: EncoderData, mirror: Mirror) -> Batch:
    limits = encoder.neutral_low, encoder.neutral_high
    heads = DrawnHeads(pipe.head, data, mirror, *limits, pipe.recipes, torch.device("cpu"))
    return heads.batch(24, np.random.default_rng(0))


def make_objective(head: HeadModel, mirror: Mirror, faces: Batch, **changes: float) -> EncoderObjective:
    weights = {f"{name}_weight": value for name, value in (WEIGHTS | changes).items()}
    spread = FaceCodes(*(torch.ones_like(getattr(faces.codes, f.name)[:1]) for f in fields(FaceCodes)))
    return EncoderObjective(head, mirror, spread, argparse.Namespace(photometric_samples=2, **weights))


def knowing(codes: FaceCodes) -> Callable[[Tensor], tuple[FaceCodes, None]]:
    """Networks that answer with these codes."""
    return lambda image: (codes, None)


def landmarks_of(head: HeadModel, codes: FaceCodes) -> Tensor:
    """Projected landmarks [B, N, 2]."""
    return project(head.landmarks(head(codes.shape, codes.expression, codes.pose)), codes.camera)[..., :2]


# photos


def test_landmarks_are_the_detected_ones(faces: Batch, data: EncoderData, astronaut_face: EncodedFace) -> None:
    seen = transform_points(align(astronaut_face.face.landmarks, 2), astronaut_face.face.landmarks[:, :2]) - 1
    assert np.abs(faces.points[0].numpy() - seen).max() < 2e-3
    assert faces.image.shape == (2, 3, 80, 80)
    assert 0 <= faces.image.min() < faces.image.max() <= 1


def test_the_crop_is_cut_out_of_larger_pictures(
    prepared: Path, head: HeadModel, data: EncoderData, tmp_path: Path
) -> None:
    sample = CodeShards(prepared)[0]
    size, side, left, top = 256, 400, 30, 90
    picture = np.zeros((side, side, 3), np.uint8)
    picture[top : top + size, left : left + size] = sample.picture
    shift = [(2 * corner + size) / side - 1 for corner in (left, top)]
    transform = np.array([[size / side, 0, shift[0]], [0, size / side, shift[1]], [0, 0, 1]], np.float32)
    moved = Sample(sample.key, picture, sample.codes, transform, sample.residual, sample.info)
    write_shard(tmp_path, 0, [moved], {}, {})
    again = EncoderData(tmp_path, head, 64).photos.image.float() - data.photos.image[:1].float()
    assert again[..., 2:-2, 2:-2].abs().mean() < 2


def test_emotions_are_those_of_the_frozen_classifier(prepared: Path, head: HeadModel) -> None:
    class Judge:
        def __call__(self, rgb: np.ndarray, box: tuple[float, ...]) -> dict[str, float]:
            assert rgb.shape == (80, 80, 3)
            assert 5 < box[0] < 25 < 55 < box[2] < 75
            return dict(zip("abcdefg", (0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1), strict=True))

    assert EncoderData(prepared, head, 64, Judge()).photos.emotion[:, 1].tolist() == pytest.approx([0.4, 0.4])


# motion


def test_codes_follow_a_moved_picture(head: HeadModel, faces: Batch) -> None:
    moved = move(head, faces.codes, *MOTION)
    expected = move_points(landmarks_of(head, faces.codes), *MOTION)
    assert torch.allclose(landmarks_of(head, moved), expected, atol=3e-4)


def test_pictures_and_points_move_alike() -> None:
    point = torch.tensor([[[0.25, -0.35]], [[-0.4, 0.1]]])
    rows = torch.linspace(-1, 1, 129)[None, :, None] - point[:, :, 1:]
    columns = torch.linspace(-1, 1, 129)[None, None] - point[:, :, :1]
    spot = (-(rows.square() + columns.square()) / 0.004).exp()[:, None].expand(-1, 3, -1, -1)
    picture = moved_picture(spot, *MOTION, 129)[:, 0]
    for found, place in zip(picture, move_points(point, *MOTION)[:, 0], strict=True):
        row, column = divmod(int(found.argmax()), 129)
        assert abs((column + 0.5) * 2 / 129 - 1 - place[0]) < 0.03
        assert abs((row + 0.5) * 2 / 129 - 1 - place[1]) < 0.03


def test_light_turns_with_the_picture() -> None:
    normals = torch.nn.functional.normalize(torch.randn(1, 50, 3), dim=-1)
    light, angle = torch.randn(1, 9, 3), torch.tensor([0.7])
    turned = normals @ rotation_matrix(torch.tensor([[0, 0, 0.7]])).mT
    assert torch.allclose(sh_shading(turned, turn_light(light, angle)), sh_shading(normals, light), atol=1e-4)


# mirrors


def test_mirrored_codes_draw_the_mirrored_head(head: HeadModel, mirror: Mirror, faces: Batch) -> None:
    codes = mirror.codes(faces.codes)
    vertices = head(codes.shape, codes.expression, codes.pose)
    expected = mirror.vertices(head(faces.codes.shape, faces.codes.expression, faces.codes.pose))
    assert (vertices - expected).norm(dim=-1).mean() < 5e-4  # metres: a person's own asymmetry may be lost
    assert torch.allclose(mirror.vertices(mirror.vertices(vertices)), vertices)


def test_mirroring_swaps_named_units(mirror: Mirror, faces: Batch, names: tuple[str, ...]) -> None:
    expression = torch.zeros(2, len(names))
    expression[:, names.index("mouthSmileLeft")] = 1
    mirrored = mirror.codes(faces.codes.with_(expression=expression)).expression[0]
    assert mirrored[names.index("mouthSmileRight")] == pytest.approx(1, abs=0.05)
    assert mirrored.square().sum() == pytest.approx(1, abs=0.1)


def test_mirrored_light(mirror: Mirror, faces: Batch) -> None:
    normals = torch.nn.functional.normalize(torch.randn(2, 50, 3), dim=-1)
    flipped = sh_shading(normals * torch.tensor([-1.0, 1, 1]), mirror.codes(faces.codes).light)
    assert torch.allclose(flipped, sh_shading(normals, faces.codes.light), atol=1e-4)


def test_augmented_samples_stay_true(
    head: HeadModel, mirror: Mirror, faces: Batch, objective: EncoderObjective
) -> None:
    batch = Batch.cat([faces] * 8)
    before = 192 * (objective.shown(batch.codes, batch.mirrored) - batch.points).norm(dim=-1).mean(1)
    batch = Augment(head, mirror, 64)(batch, np.random.default_rng(0))
    after = 192 * (objective.shown(batch.codes, batch.mirrored) - batch.points).norm(dim=-1).mean(1)
    assert 0 < batch.mirrored.sum() < 16
    assert torch.allclose(before, after, rtol=0.1, atol=1)
    assert batch.image.shape == (16, 3, 64, 64)
    assert batch.image.std(0).mean() > 0.02  # they look different


@pytest.mark.parametrize(("step", "least", "most"), [(1e-4, 0, 0.001), (0.1, 0.005, 0.05)])
def test_compression_loses_more_with_larger_steps(step: float, least: float, most: float, faces: Batch) -> None:
    assert least <= (compress(faces.image, step) - faces.image).abs().mean() <= most


# drawn heads


def test_drawn_heads_have_exact_codes_and_lie_like_photos(drawn: Batch, objective: EncoderObjective) -> None:
    error = 192 * (objective.shown(drawn.codes, drawn.mirrored) - drawn.points).norm(dim=-1)
    assert error.max() < 0.1
    scale, angle, shift = aligning(drawn.points)
    assert torch.allclose(scale, torch.ones(24), atol=1e-4)
    assert torch.allclose(angle, torch.zeros(24), atol=1e-4)
    assert torch.allclose(shift, torch.zeros(24, 2), atol=1e-4)


def test_drawn_heads_show_what_photos_lack(drawn: Batch, faces: Batch, names: tuple[str, ...]) -> None:
    unseen = [n.startswith(UNSEEN_UNITS) for n in names]
    assert drawn.codes.expression.min() >= BOUNDS[0]
    assert drawn.codes.expression.max() <= BOUNDS[1]
    assert not drawn.codes.expression[:, unseen].any()
    assert drawn.codes.pose[:, 1].std() > 2 * faces.codes.pose[:, 1].std()
    assert (drawn.codes.expression.std(0)[[not u for u in unseen]] > 1e-3).all()
    assert 0 < drawn.lit.sum() < 24
    assert not drawn.emotion.any()


def test_worn_colours_are_the_photos(drawn: Batch, data: EncoderData) -> None:
    worn = drawn.image[~drawn.lit][:, :, 30:60, 30:50].mean((2, 3))
    own = data.photos.image.float()[:, :, 30:60, 30:50].mean((2, 3)) / 255
    assert torch.cdist(worn, own).min(1).values.max() < 0.25


# losses


def test_losses_vanish_at_the_truth(objective: EncoderObjective, drawn: Batch) -> None:
    losses = objective(knowing(drawn.codes), drawn)
    assert losses["codes"] == 0
    assert losses["landmark"] < 0.05
    assert losses["relative"] < 0.05
    assert losses["loss"] == pytest.approx(sum(float(losses[n]) for n in ("codes", "landmark", "relative")))


def test_landmark_losses_are_pixels(objective: EncoderObjective, drawn: Batch) -> None:
    camera = drawn.codes.camera.clone()
    camera[:, 1] += 3 / 192 / camera[:, 0]  # to the right by 3 pixels of 384
    losses = objective(knowing(drawn.codes.with_(camera=camera)), drawn)
    assert losses["landmark"] == pytest.approx(3, abs=0.1)
    assert losses["relative"] < 0.05  # distances stay


def test_unknown_light_is_not_compared(objective: EncoderObjective, drawn: Batch) -> None:
    other = drawn.codes.with_(light=drawn.codes.light + 1)
    assert objective.code_loss(other, replace(drawn, lit=torch.zeros(24, dtype=torch.bool))) == 0
    assert objective.code_loss(other, drawn) == pytest.approx(0.5, abs=1e-4)  # Huber


def test_photometric_loss_finds_the_light(head: HeadModel, mirror: Mirror, drawn: Batch, faces: Batch) -> None:
    objective = make_objective(head, mirror, faces, photometric=1)
    some = drawn[drawn.lit.nonzero()[:2, 0]]
    true = objective.photometric_loss(some.codes, some.image)
    light = (some.codes.light * 0.7).requires_grad_()
    dim = objective.photometric_loss(some.codes.with_(light=light), some.image)
    assert true < 0.06 < 2 * true + 0.06 < dim * 2
    assert torch.autograd.grad(dim, light)[0][:, 0].mean() < 0  # brighter would be better


# whole runs


@pytest.fixture(scope="module")
def run(run_script: Callable[..., None], prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run from start to end."""
    out = tmp_path_factory.mktemp("encoder")
    train(run_script, prepared, out)
    return out


def train(run_script: Callable[..., None], shards: Path, out: Path, *more: object) -> None:
    options = ["--config", TINY, "--train_data_dir", shards, "--output_dir", out, "--max_train_steps", 4]
    options += ["--checkpointing_steps", 2, "--logging_steps", 1, "--validation_data_dir", shards]
    run_script("train_encoder", *options, *more)


def test_a_run_gives_an_encoder_for_the_pipeline(run: Path, pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    encoder = EmocaEncoder.from_pretrained(run / "encoder")
    assert encoder.config.calibrated
    assert torch.equal(encoder.neutral_high, pipe.encoder.neutral_high)
    face = EmoRigPipeline(pipe.head, encoder).encode(astronaut)[0]
    assert face.error * 192 < 30  # it starts at the mean face, pixels
    rows = (run / "losses.csv").read_text().splitlines()
    assert len(rows) == 5
    assert {"codes", "landmark", "relative", "photometric", "emotion", "loss"} <= set(rows[0].split(","))


def test_a_resumed_run_on_bare_photos_gives_the_same_weights(
    run: Path, run_script: Callable[..., None], photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(run / "checkpoint-2", tmp_path / "checkpoint-2")
    train(run_script, photos, tmp_path, "--resume_from_checkpoint", "latest")
    assert CodeShards(tmp_path / "shards").keys == CodeShards(tmp_path / "validation").keys == ["astronaut", "hopper"]
    last = ((folder / "losses.csv").read_text().splitlines()[-2:] for folder in (run, tmp_path))
    losses = [[[float(value) for value in row.split(",")[:-1]] for row in rows] for rows in last]  # without the speed
    assert np.allclose(*losses, rtol=1e-3, atol=0)  # other faces, noise or moments of Adam would show here
    first, second = (EmocaEncoder.from_pretrained(folder / "encoder").state_dict() for folder in (run, tmp_path))
    before = load_file(run / "checkpoint-2" / "model.safetensors")
    prefix = next(iter(before)).split("E_flame")[0]
    far = lambda other: torch.cat([(v - other(name)).abs().flatten() for name, v in first.items()]).mean()
    apart, trained = far(second.get), far(lambda name: before[prefix + name])
    assert apart < 0.02 * trained  # not nothing: Adam makes steps of rounding errors where a bias has no gradient


def test_going_on_with_a_frozen_coarse_encoder(run_script: Callable[..., None], prepared: Path, tmp_path: Path) -> None:
    EmocaEncoder("small", 16, 80, 0, 52, 32, calibrated=True, crop="aligned").save_pretrained(tmp_path / "start")
    options = ["--pretrained_encoder", tmp_path / "start", "--freeze_coarse", "--gradient_accumulation_steps", 2]
    train(run_script, prepared, tmp_path / "run", *options)
    before, after = (EmocaEncoder.from_pretrained(tmp_path / n).state_dict() for n in ("start", "run/encoder"))
    same = {name.split(".")[0]: set() for name in before}
    for name, value in before.items():
        same[name.split(".")[0]].add(torch.equal(value, after[name]))
    assert same["E_flame"] == {True}
    assert False in same["E_expression"]


def test_encoders_that_cannot_be_trained(run_script: Callable[..., None], prepared: Path, tmp_path: Path) -> None:
    EmocaEncoder("small", 16, 100, 0, 50, 32).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match="is for another head"):
        train(run_script, prepared, tmp_path / "run", "--pretrained_encoder", tmp_path / "other")
    with pytest.raises(SystemExit, match="leaves nothing to train"):
        train(run_script, prepared, tmp_path / "run", "--freeze_coarse")


def test_arguments_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--config", str(TINY), "--train_data_dir", "a", "--output_dir", str(tmp_path)]
    for arguments, sentence in (
        (common[:4], "--output_dir is missing."),
        ([*common, "--render_share", "1"], "--render_share must be at least 0 and below 1."),
    ):
        with pytest.raises(SystemExit):
            parse_args(arguments)
        assert sentence in capsys.readouterr().err


def test_shards_that_are_not_there(run_script: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no file or folder '.*none': check the path"):
        train(run_script, tmp_path / "none", tmp_path / "out")
