"""Training the classifier of semantic codes: cached codes, the split, rare classes, and whole tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from processes import TRAIN, start_two
from safetensors import safe_open
from torch import Tensor

from emorig_diffusers.data.shards import CodeShards, write_manifest, write_shard
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.models.diffae import SemanticEncoder
from emorig_diffusers.models.semantic_classifier import LatentClassifier
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.pipelines.diffae import DiffAEEmotionPipeline
from emorig_diffusers.training.diffae import classifier as trainer
from emorig_diffusers.training.diffae.classifier_codes import LabelledCodes, label_codes, read_codes
from emorig_diffusers.training.diffae.classifier_quality import EditQuality, FaceJudge, edit_quality, quality_table
from emorig_diffusers.training.pictures import Pictures

SIDE, WIDTH = 32, 48  # of picture and code
LABELS = ("happy", "neutral", "fear")


def make_shards(folder: Path, prepared: Path, count: int) -> CodeShards:
    """Two photos in many shades; the shade tells the emotion, one of three."""
    folder.mkdir()
    shards, samples = CodeShards(prepared), []
    for i in range(count):
        sample, rng = shards[i % 2], np.random.default_rng(i)
        shade = np.eye(3)[i % 3] * 0.5 + 0.5 * rng.random()
        picture = (sample.picture * shade.clip(0, 1)).astype(np.uint8)[:: 256 // 64, :: 256 // 64]
        info = sample.info | {"label": LABELS[i % 3], "attributes": [1 if i % 3 == k else -1 for k in (0, 1)]}
        samples.append(replace(sample, key=f"person{i // 3}-{i % 3}", picture=np.ascontiguousarray(picture), info=info))
    settings = shards.manifest["settings"] | {"resolution": 64, "attribute_names": ["Smiling", "Calm"]}
    write_shard(folder, 0, samples, {}, settings)
    write_manifest(folder)
    return CodeShards(folder)


@pytest.fixture(scope="module")
def shards(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> CodeShards:
    return make_shards(tmp_path_factory.mktemp("labelled") / "shards", prepared, 60)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Diffusion Autoencoder with random weights that matter."""
    torch.manual_seed(0)
    encoder = SemanticEncoder(SIDE, 3, (16, 32), 1, (), 8, WIDTH)
    unet = RigUNet(
        sample_size=SIDE, in_channels=3, block_out_channels=(16, 32), layers_per_block=1, attention_levels=(),
        norm_num_groups=8, cond_dim=WIDTH, cond_mode="scale", condition_channels=(),
    )  # fmt: skip
    scheduler = DDIMScheduler(timestep_spacing="leading", steps_offset=0)
    folder = tmp_path_factory.mktemp("autoencoder")
    DiffAEEmotionPipeline(unet, encoder, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(autoencoder: Path) -> SemanticEncoder:
    return DiffAEEmotionPipeline.from_pretrained(autoencoder).semantic_encoder


# codes


def test_codes_are_of_photo_and_mirror_image(encoder: SemanticEncoder, shards: CodeShards, tmp_path: Path) -> None:
    codes = read_codes(encoder, [shards, shards], tmp_path / "codes.safetensors", Accelerator())
    assert codes.shape == (120, 2, WIDTH) and torch.equal(codes[:60], codes[60:])
    small = torch.from_numpy(shards[7].picture).float().reshape(32, 2, 32, 2, 3).mean((1, 3)).permute(2, 0, 1)
    with torch.no_grad():
        expected = encoder(torch.stack([small, small.flip(-1)]) / 127.5 - 1)
    torch.testing.assert_close(codes[7], expected, atol=1e-5, rtol=1e-5)


def test_codes_are_kept_until_encoder_or_photos_change(
    encoder: SemanticEncoder, shards: CodeShards, tmp_path: Path
) -> None:
    file, calls = tmp_path / "codes.safetensors", []
    handle = encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    first = read_codes(encoder, [shards], file, Accelerator())
    made = len(calls)
    assert made and [p.name for p in tmp_path.iterdir()] == [file.name]
    assert torch.equal(read_codes(encoder, [shards], file, Accelerator()), first) and len(calls) == made
    file.write_bytes(file.read_bytes()[:-50])  # cut off
    assert torch.equal(read_codes(encoder, [shards], file, Accelerator()), first) and len(calls) == 2 * made
    with torch.no_grad():
        encoder.proj_out.bias += 1
    moved = read_codes(encoder, [shards], file, Accelerator())
    torch.testing.assert_close(moved, first + 1, atol=1e-5, rtol=0)
    with torch.no_grad():
        encoder.proj_out.bias -= 1
    assert len(read_codes(encoder, [shards, shards], file, Accelerator())) == 120
    handle.remove()


def test_small_pictures_are_refused(shards: CodeShards) -> None:
    with pytest.raises(ValueError, match="holds pictures of 64 pixels: prepare it with --resolution 128"):
        Pictures([shards], 128)


def test_a_person_is_on_one_side(shards: CodeShards) -> None:
    codes = torch.arange(60.0)[:, None, None].expand(60, 2, 4)
    data = label_codes(codes, [shards], False, 0.4, r"(person\d+)-")
    assert data.names == ("neutral", "happy", "fear")  # AffectNet's order
    assert [data.names[k] for k in data.targets.argmax(1).tolist()] == shards.labels
    sides = data.held_out.reshape(20, 3)
    assert (sides == sides[:, :1]).all() and 0.15 < sides.float().mean() < 0.65
    apart = label_codes(codes, [shards], False, 0.4).held_out.reshape(20, 3)
    assert (apart != apart[:, :1]).any()
    twice = label_codes(torch.cat([codes, codes]), [shards, shards], False, 0.4)
    assert torch.equal(twice.held_out[:60], twice.held_out[60:])  # a photo and its edit under one key


def test_attributes_of_shards(shards: CodeShards) -> None:
    data = label_codes(torch.zeros(60, 2, 4), [shards], True, 0.3)
    assert data.names == ("Smiling", "Calm") and data.targets[:3].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_photos_without_labels_are_left_out(prepared: Path, shards: CodeShards) -> None:
    bare = CodeShards(prepared)
    data = label_codes(torch.zeros(62, 2, 4), [bare, shards], False, 0.3)
    assert len(data.codes) == 60 and data.places[0] == 2
    with pytest.raises(ValueError, match="fewer than two emotions"):
        label_codes(torch.zeros(2, 2, 4), [bare], False, 0.3)
    with pytest.raises(ValueError, match="have no attributes"):
        label_codes(torch.zeros(2, 2, 4), [bare], True, 0.3)


# losses


def rare_class(count: int, seed: int, width: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Three classes 30 : 30 : 1 that overlap, and the directions from the mean of the others that tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([30, 30, 1]) * count
    centres = 1.5 * torch.linalg.qr(torch.randn(width, 3, generator=torch.Generator().manual_seed(1)))[0].T
    labels = torch.arange(3).repeat_interleave(sizes)
    codes = centres[labels] + torch.randn(len(labels), width, generator=generator)
    ways = centres - (centres.sum(0) - centres) / 2
    return codes, labels, torch.nn.functional.normalize(ways)


def test_what_is_rare_needs_the_balance() -> None:
    """Unweighted BCE never says the rare class; the directions differ less, and class means are the nearest."""
    codes, labels, ways = rare_class(200, 0)
    data = LabelledCodes(codes[:, None].expand(-1, 2, -1), torch.eye(3)[labels], ("neutral", "happy", "contempt"),
                         torch.zeros(len(codes), dtype=torch.bool), torch.arange(len(codes)))  # fmt: skip
    classifiers = trainer.make_classifiers(data, ("bce", "softmax"))
    optimizer = torch.optim.Adam(classifiers.parameters(), 1e-3)
    counts, generator = data.targets.sum(0), torch.Generator().manual_seed(0)
    for _ in range(1200):
        chosen = torch.randint(len(codes), (32,), generator=generator)
        losses = trainer.class_losses(classifiers(codes[chosen]), data.targets[chosen], counts)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    classifiers.requires_grad_(False)
    unseen, shown, _ = rare_class(200, 2)
    recall = {n: float((c(unseen).argmax(1) == shown)[shown == 2].float().mean()) for n, c in classifiers.items()}
    assert recall["bce"] < 0.1 and recall["softmax"] > 0.6
    softmax = classifiers["softmax"]
    trainer.calibrate(softmax, codes, data.targets)
    ways = ways[2] / softmax.std
    near = lambda way: float(torch.cosine_similarity(way, ways, dim=0))
    direction = {name: near(classifier.directions()[2]) for name, classifier in classifiers.items()}
    assert near(softmax.means[2] - softmax.means[:2].mean(0)) > direction["softmax"] > direction["bce"]


def test_losses_by_hand() -> None:
    logits, targets = torch.tensor([[1.0, -2.0], [0.5, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    losses = trainer.class_losses({"bce": logits, "softmax": logits}, targets, torch.tensor([30.0, 10.0]))
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    torch.testing.assert_close(losses["bce"], expected)
    chosen = logits.softmax(1).log()[targets > 0]
    torch.testing.assert_close(losses["softmax"], -(chosen * torch.tensor([40 / 60, 40 / 20])).mean())


def test_strength_and_means_of_classes() -> None:
    classifier = LatentClassifier(("neutral", "happy"), 4, "bce").requires_grad_(False)
    classifier.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    codes = torch.tensor([[3.0, 1, 0, 0], [5.0, 1, 0, 0], [0, 1, 0, 0.1]])
    trainer.calibrate(classifier, codes, torch.tensor([[1.0, 0], [1, 0], [0, 1]]))
    torch.testing.assert_close(classifier.means, torch.tensor([[4.0, 1, 0, 0], [0, 1, 0, 0.1]]))
    assert classifier.strength.tolist() == pytest.approx([(4 - 0) / 2, trainer.LEAST_STRENGTH])


def test_reports() -> None:
    classifier = LatentClassifier(("neutral", "happy"), 2, "softmax").requires_grad_(False)
    classifier.weight.copy_(torch.eye(2))
    codes = torch.tensor([[2.0, 1], [2, 1], [1, 2], [1, 2]])
    shown = torch.eye(2)[[0, 0, 0, 1]]
    lines = trainer.emotion_report(classifier, codes, shown).splitlines()
    assert lines[0] == "softmax: balanced accuracy 0.833 of 4 held-out photos"
    assert [line.split() for line in lines[2:]] == [["neutral", "0.67", "2", "1"], ["happy", "1.00", "0", "1"]]
    bce = LatentClassifier(("Smiling",), 2).requires_grad_(False)
    bce.weight.copy_(torch.tensor([[1.0, -1]]))
    lines = trainer.attribute_report(bce, codes, torch.tensor([[1.0], [1], [1], [0]])).splitlines()
    assert lines[2].split() == ["Smiling", "0.67", "1.00", "0.83"]


# runs


def train(run_script: Callable[..., None], autoencoder: Path, shards: CodeShards, out: Path, *more: object) -> None:
    options = {"max_train_steps": 60, "checkpointing_steps": 40, "logging_steps": 20, "learning_rate": 0.02,
               "held_out_share": 0.3, "ema_decay": 0.9}  # fmt: skip
    common = ["--pretrained_model_name_or_path", autoencoder, "--train_data_dir", shards.folder, "--output_dir", out]
    run_script("train_emotion_classifier", *common, *(f"--{name}={value}" for name, value in options.items()), *more)


@pytest.fixture(scope="module")
def out(
    run_script: Callable[..., None], autoencoder: Path, shards: CodeShards, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(run_script, autoencoder, shards, folder)
    return folder


def test_what_a_run_leaves(out: Path, shards: CodeShards, encoder: SemanticEncoder) -> None:
    assert {p.name for p in out.iterdir()} == {
        "checkpoint-40", "checkpoint-60", "codes.safetensors", "losses.csv", "losses.png", "pipeline",
        "classifier-bce", "classifier-softmax",
    }  # fmt: skip
    pipe = DiffAEEmotionPipeline.from_pretrained(out / "pipeline")
    classifier = pipe.emotion_classifier
    assert (classifier.config.loss, classifier.config.move) == ("softmax", "means")
    assert pipe.emotion_names == tuple(name for name in EMOTIONS if name in LABELS)
    with safe_open(out / "codes.safetensors", "pt") as file:
        codes = file.get_tensor("codes")
    torch.testing.assert_close(classifier.normalise(codes.flatten(0, 1)).mean(0), torch.zeros(WIDTH), atol=1e-4, rtol=0)
    said = [classifier.names[k] for k in classifier(codes[:, 0]).argmax(1).tolist()]
    assert np.mean([a == b for a, b in zip(said, shards.labels)]) > 0.8
    moved = classifier(classifier.moved(codes[:, 0], {"fear": 1.0})).argmax(1)
    assert (moved == classifier.names.index("fear")).float().mean() > 0.8
    other = LatentClassifier.from_pretrained(out / "classifier-bce")
    assert (other.config.loss, other.config.move) == ("bce", "direction")
    kept = LatentClassifier.from_pretrained(out / "classifier-softmax")
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), classifier.parameters(), strict=True))
    assert (other.strength >= trainer.LEAST_STRENGTH).all() and other.means.any()


def test_a_run_resumed_is_the_run(
    run_script: Callable[..., None], autoencoder: Path, shards: CodeShards, out: Path, tmp_path: Path
) -> None:
    train(run_script, autoencoder, shards, tmp_path, "--max_train_steps", 40)
    train(run_script, autoencoder, shards, tmp_path, "--resume_from_checkpoint", "latest")
    a, b = (LatentClassifier.from_pretrained(folder / "classifier-bce") for folder in (out, tmp_path))
    torch.testing.assert_close(a.weight, b.weight, atol=1e-6, rtol=1e-5)


def test_attributes(
    run_script: Callable[..., None], autoencoder: Path, shards: CodeShards, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train(run_script, autoencoder, shards, tmp_path, "--attributes")
    pipe = DiffAEEmotionPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.emotion_classifier is None and pipe.attribute_classifier.names == ("Smiling", "Calm")
    assert pipe.attribute_classifier.config.loss == "bce" and "mean balanced accuracy" in capsys.readouterr().out


def test_one_loss_alone_is_the_pipelines(
    run_script: Callable[..., None], autoencoder: Path, shards: CodeShards, tmp_path: Path
) -> None:
    train(run_script, autoencoder, shards, tmp_path, "--loss", "bce")
    pipe = DiffAEEmotionPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.emotion_classifier.config.move == "direction" and not (tmp_path / "classifier-softmax").exists()


def test_bare_photos_with_labels(
    run_script: Callable[..., None], autoencoder: Path, photos: Path, shards: CodeShards, tmp_path: Path
) -> None:
    """As AffectNet lays them out, beside shards."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name, source, label in (("a", "astronaut.png", 1), ("b", "hopper.PNG", 0)):
        (folder / f"{name}.png").symlink_to(photos / source)
        for kind, value in (("exp", label), ("val", 0.5), ("aro", 0.5)):
            np.save(folder / f"{name}_{kind}.npy", value)
    train(run_script, autoencoder, shards, out, "--train_data_dir", folder, "--also_train_on", shards.folder,
          "--max_train_steps", 1)  # fmt: skip
    prepared = CodeShards(out / "shards")
    assert prepared.labels == ["happy", "neutral"] and prepared.manifest["settings"]["crop"] == "ffhq"
    with safe_open(out / "codes.safetensors", "pt") as file:
        assert file.get_slice("codes").get_shape() == [62, 2, WIDTH]


def test_two_processes_read_the_codes_together(
    autoencoder: Path, shards: CodeShards, out: Path, tmp_path: Path
) -> None:
    arguments = ["--max_train_steps=4", "--held_out_share=0.3", "--pretrained_model_name_or_path", autoencoder]
    arguments += ["--train_data_dir", shards.folder, "--output_dir", tmp_path]
    two = start_two(tmp_path, TRAIN / "train_emotion_classifier.py", *arguments)
    assert [process.wait() for process in two] == [0, 0], [process.output for process in two]
    codes = []
    for folder in (out, tmp_path):
        with safe_open(folder / "codes.safetensors", "pt") as file:
            codes.append((file.get_tensor("codes"), file.metadata()))
    torch.testing.assert_close(codes[0][0], codes[1][0])
    assert codes[0][1] == codes[1][1]


# edits


class Stub:
    """Says that bright pictures are happy; a black one has no face, and who it is, its red tells."""

    emotions = ("neutral", "happy")

    def __init__(self) -> None:
        self.emotion = self

    def __call__(self, picture: Tensor) -> tuple[dict[str, float], np.ndarray | None]:
        light = float(picture.mean())
        if light < -0.99:
            return {}, None
        angle = float(picture[0].mean())
        return {"neutral": 1 - light, "happy": light}, np.array([np.cos(angle), np.sin(angle)])


def test_quality_of_edits(autoencoder: Path) -> None:
    pipe = DiffAEEmotionPipeline.from_pretrained(autoencoder)
    pipe.set_progress_bar_config(disable=True)
    shade = torch.tensor([0.2, 0.8, -1])[:, None, None, None].expand(3, 3, SIDE, SIDE)
    pipe.semantic_code = lambda pictures: pictures.mean((1, 2, 3))[:, None].expand(-1, WIDTH)
    pipe.stochastic_code = lambda pictures, z, steps: pictures
    pipe.decode = lambda noise, z, sampling: noise + (z[:, :1, None, None] - noise) * (noise > -1)
    happy = LatentClassifier(("happy", "contempt"), WIDTH).requires_grad_(False)
    happy.weight[0] = 1.0
    happy.strength[:] = 0.5  # of sqrt(C), along a unit vector with equal numbers: 0.5 each
    quality = edit_quality(pipe, {"bce": happy}, shade, Sampling(2), Stub())["bce"]
    assert list(quality) == ["happy"]  # the judge knows no contempt
    found = quality["happy"]
    assert found.accuracy == pytest.approx(2 / 3) and found.before == pytest.approx(1 / 3)  # the black one is none
    assert found.similarity == pytest.approx((2 * np.cos(0.5) + 0) / 3, abs=1e-3)
    assert found.gain == pytest.approx((1 / 3) / (1 - found.similarity))
    assert quality_table({"happy": found, "sad": EditQuality(0, 0, 1)}).splitlines()[-1].split()[:2] == ["all", "0.33"]


def test_the_judge_sees_small_pictures_enlarged(astronaut: np.ndarray) -> None:
    small = torch.from_numpy(astronaut[:256, 96:352][::2, ::2].copy()).permute(2, 0, 1) / 127.5 - 1
    judge = FaceJudge()
    chances, embedding = judge(small)
    assert max(chances, key=chances.get) == "happy" and embedding.shape == (128,)
    assert judge(torch.zeros(3, 64, 64)) == ({}, None)
