"""Tuning by CLIP: texts, losses, gradients through all steps, inverted photos, LoRAs, and whole tiny runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from processes import TRAIN, start_two
from safetensors.torch import load_file
from small_clip import WIDTH, small_clip
from small_ldm import small_ldm
from torch import Tensor
from torch.nn import functional as F

from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.pipelines.emotion_ldm import EmotionLDMPipeline
from emorig_diffusers.training.emotion_ldm import clip_trainer, inversion
from emorig_diffusers.training.emotion_ldm.clip_guide import ClipGuide, picture_directions
from emorig_diffusers.training.emotion_ldm.clip_objectives import ClipObjective, TargetEdits, Weights
from emorig_diffusers.training.emotion_ldm.clip_prompts import TEMPLATES, sentences, source_text, target_text
from emorig_diffusers.training.emotion_ldm.inversion import Inversion, InvertedPhotos, invert_photos
from emorig_diffusers.training.emotion_ldm.latents import source_rows
from emorig_diffusers.training.trainer import start

HOW = Inversion(4, 0.5, 1.0)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> ClipGuide:
    return ClipGuide.from_pretrained(str(clip_folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pipeline"
    small_ldm().save_pretrained(folder)
    return folder


def pictures(count: int, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# texts


def test_texts_of_source_and_target() -> None:
    assert [target_text(name) for name in EMOTIONS[:7]] == [
        f"{word} face" for word in ("neutral", "happy", "sad", "surprised", "scared", "disgusted", "angry")
    ]
    said = [source_text(name, "happy") for name in ("neutral", "contempt", "happy", None, "fear", "anger")]
    assert said == ["face", "face", "face", "face", "scared face", "angry face"]


def test_sentences_differ_and_are_grammatical() -> None:
    assert len(set(sentences("happy face"))) == len(TEMPLATES) == 79
    for text in ("happy face", "angry face"):
        assert all(text in one for one in sentences(text))
    said = " ".join(sentences("angry face"))
    assert "of an angry face" in said and " a angry" not in said and "an old photo" in said and "a an" not in said


# CLIP


def test_clip_sees_pictures_and_reads_texts_as_transformers_does(clip: ClipGuide) -> None:
    """Against the model's own forward pass, on pictures of its own size prepared by hand."""
    shown, texts = pictures(3), ["a happy face", "a sad face."]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(pixel_values=((shown + 1) / 2 - mean) / std, **tokens)
    torch.testing.assert_close(clip.pictures(shown), out.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.texts(texts), out.text_embeds, atol=1e-5, rtol=0)
    larger = F.interpolate(shown, (64, 64), mode="nearest")
    assert (clip.pictures(larger) * clip.pictures(shown)).sum(1).min() > 0.9


def test_direction_is_the_mean_over_all_sentences(clip: ClipGuide) -> None:
    found = clip.direction("sad", "happy")
    total = torch.zeros(WIDTH)
    for template in TEMPLATES:
        after, before = (clip.texts([template.format(text)])[0] for text in ("happy face", "sad face"))
        total += after - before
    torch.testing.assert_close(found, total / total.norm(), atol=1e-5, rtol=0)
    assert torch.equal(clip.direction("neutral", "happy"), clip.direction("happy", "happy"))


def test_a_wrong_clip_is_refused(tmp_path: Path, model: Path) -> None:
    for name in (tmp_path / "nothing", model):
        with pytest.raises(ValueError, match="^CLIP '.*' cannot be opened"):
            ClipGuide.from_pretrained(str(name))


# losses


class Nothing:
    """Stands for the identity network."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))


def objective(clip: ClipGuide, **weights: float) -> ClipObjective:
    directions = torch.stack([clip.direction(name, "happy") for name in (*EMOTIONS, None)])
    text = clip.texts(["a happy face"])[0]
    judge: Any = (lambda shown: shown.mean((1, 2, 3))) if weights.get("emotion") else None
    return ClipObjective(lambda x: x, 3, clip, Nothing(), directions, text, Weights(**weights), judge)


def test_losses_are_those_of_the_sheet(clip: ClipGuide) -> None:
    """Computed again from the definitions, with numpy."""
    edited, clean, source = pictures(4), pictures(4, seed=1), torch.tensor([2, 0, 8, 1])
    weights = {"l2": 0.5, "identity": 2.0, "directional": 3.0, "text": 0.7, "emotion": 0.3}
    found = objective(clip, **weights).losses(edited, clean, source)
    with torch.no_grad():
        after, before = (clip.pictures(shown).numpy().astype(float) for shown in (edited, clean))
    text = clip.texts(["a happy face"])[0].numpy()
    turns = []
    for row, name in zip(after - before, ("sad", "neutral", None, "happy")):
        goal = clip.direction(name, "happy").numpy().astype(float)
        turns.append(1 - row @ goal / np.linalg.norm(row))
    expected = {
        "l2": float(((edited - clean) ** 2).mean()), "identity": float((edited - clean).abs().mean()),
        "directional": -np.log((2 - np.mean(turns)) / 2), "global": 1 - float(np.mean(after @ text)),
        "emotion": float(edited.mean()), "cosine": 1 - np.mean(turns),
    }  # fmt: skip
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name
    total = sum(weight * expected[name] for name, weight in zip(("l2", "identity", "directional", "global", "emotion"),
                                                                weights.values()))  # fmt: skip
    assert float(found["loss"]) == pytest.approx(total, abs=1e-4)
    plain = objective(clip).losses(edited, clean, source)
    assert plain.keys() == {"loss", "l2", "identity", "directional", "cosine"}


def test_losses_stay_numbers_where_nothing_changed_or_all_did(clip: ClipGuide) -> None:
    same = pictures(2).requires_grad_(True)
    losses = objective(clip).losses(same, same.detach().clone(), torch.tensor([0, 0]))
    losses["loss"].backward()
    assert losses["directional"].item() == pytest.approx(np.log(2), abs=1e-4) and same.grad.isfinite().all()
    turned = ClipObjective(None, 3, clip, None, -picture_directions(clip.pictures(pictures(1)), clip.pictures(
        pictures(1, seed=1))).detach(), None, Weights())  # fmt: skip
    assert turned.losses(pictures(1), pictures(1, seed=1), torch.tensor([0]))["loss"].isfinite()


# gradients through the steps


def test_edits_are_the_pipelines_and_their_gradients_flow_through_all_steps() -> None:
    pipe, noisy = small_ldm(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kept, spared = (TargetEdits(pipe, "happy", 0.5, 1.0, sparing) for sparing in (False, True))
    tokens = pipe.emotion_embedding.weight[[1, 1]]
    drawn = pipe.remove_noise(noisy, tokens, Sampling(4), 0.5, 1.0)
    calls: list[bool] = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    grads = []
    for edits in (kept, spared):
        pipe.unet.zero_grad()
        edited = edits(noisy, 4)
        torch.testing.assert_close(edited, drawn, atol=1e-6, rtol=1e-5)
        edited.square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in pipe.unet.named_parameters() if p.grad is not None})
    handle.remove()
    assert len(calls) == 4 + 8  # each pass twice where activations are not kept
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-4)
    assert set(dict(kept.named_parameters())) == {f"unet.{name}" for name, _ in pipe.unet.named_parameters()}
    # a small change of one weight changes the result as the gradient says, which it would not through one step alone
    weight, step = pipe.unet.conv_out.bias, 1e-3
    with torch.no_grad():
        weight[0] += step
        more = kept(noisy, 4).square().mean()
        weight[0] -= 2 * step
        less = kept(noisy, 4).square().mean()
    assert float(more - less) / (2 * step) == pytest.approx(float(grads[0]["conv_out.bias"][0]), rel=1e-2)


# inverted photos


def test_photos_are_inverted_once(prepared64: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "FILE", 1)
    pipe, shards, passes = small_ldm(), CodeShards(prepared64), []
    pipe.unet.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    rows = invert_photos(pipe, shards, [1, 0], HOW, tmp_path, Accelerator())
    assert passes == [1] * 8 and len(list(tmp_path.rglob("*.safetensors"))) == 2
    sources = source_rows(pipe.emotion_names, [shards.labels[i] for i in (1, 0)])
    assert [pipe.emotion_names[i] for i in sources] == [shards.labels[1], shards.labels[0]]
    data = InvertedPhotos(rows, sources, range(1, 2))
    found = data[0, 7]
    assert len(data) == 1 and found["source"] == sources[1]
    picture = torch.from_numpy(shards[0].picture).float().reshape(32, 2, 32, 2, 3).mean((1, 3)).permute(2, 0, 1)
    with torch.no_grad():
        latents = pipe.vqvae.encode(picture[None] / 127.5 - 1).latents
    torch.testing.assert_close(found["clean"], pipe.decode(latents)[0], atol=2e-3, rtol=0)  # float16
    noisy = pipe.add_noise(latents, pipe.emotion_embedding.weight[sources[1:]], 4, 0.5, 1.0)[0]
    torch.testing.assert_close(found["noisy"], noisy, atol=1e-4, rtol=1e-4)
    passes.clear()
    invert_photos(pipe, shards, [1, 0], HOW, tmp_path, Accelerator())
    assert not passes
    one = sorted(tmp_path.rglob("*.safetensors"))[0]
    one.write_bytes(one.read_bytes()[:-9])  # a run that was killed, or a bad disk
    invert_photos(pipe, shards, [1, 0], HOW, tmp_path, Accelerator())
    assert passes == [1] * 4
    for change in (Inversion(5, 0.5, 1.0), Inversion(4, 0.4, 1.0), Inversion(4, 0.5, 2.0)):
        passes.clear()
        invert_photos(pipe, shards, [1, 0], change, tmp_path, Accelerator())
        assert passes
    with torch.no_grad():
        pipe.emotion_embedding.weight[0] += 1
    passes.clear()
    invert_photos(pipe, shards, [1, 0], HOW, tmp_path, Accelerator())
    assert passes == [1] * 8


def test_photos_are_drawn_at_random_and_held_out() -> None:
    chosen = clip_trainer.draw_photos(50, 20, 5, seed=3)
    assert len(chosen) == len(set(chosen)) == 25 and chosen == clip_trainer.draw_photos(50, 20, 5, seed=3)
    assert chosen[:5] == clip_trainer.draw_photos(50, 7, 5, seed=3)[:5] and sorted(chosen) != list(range(25))
    with pytest.raises(ValueError, match="5 photos are too few to hold 5 out"):
        clip_trainer.draw_photos(5, 20, 5, seed=0)


# runs


def arguments(prepared64: Path, model: Path, clip_folder: Path, out: Path, *more: object) -> list[str]:
    given = [
        "--pretrained_model_name_or_path", model, "--train_data_dir", prepared64, "--output_dir", out,
        "--emotion", "anger", "--clip", clip_folder, "--max_photos", 1, "--validation_photos", 1,
        "--validation_inference_steps", 3,
        "--inversion_steps", 4, "--num_inference_steps", 3, "--train_batch_size", 2, "--logging_steps", 1,
        "--latents_dir", out.parent / "latents", "--learning_rate", 1e-3, *more,
    ]  # fmt: skip
    return [str(one) for one in given]


def run(*given: Any) -> None:
    start(clip_trainer.ClipRun, clip_trainer.parse_args(arguments(*given)), "finetune_clip")


def test_a_lora_run_resumes_and_its_result_edits(
    prepared64: Path, model: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given, lora = (prepared64, model, clip_folder), ("--lora_rank", 2)
    run(*given, tmp_path / "whole", *lora, "--max_train_steps", 4)
    run(*given, tmp_path / "parts", *lora, "--max_train_steps", 2)
    run(*given, tmp_path / "parts", *lora, "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
    whole, parts = (load_file(tmp_path / name / "lora" / "anger.safetensors") for name in ("whole", "parts"))
    assert whole and all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    assert any(tensor.abs().max() > 0 for name, tensor in whole.items() if "lora_B" in name)
    assert (tmp_path / "whole" / "edits-0.png").is_file() and (tmp_path / "whole" / "edits.png").is_file()
    assert "step 0, held-out photos in 3 steps: loss" in capsys.readouterr().out
    assert not (tmp_path / "whole" / "pipeline").exists() and list((tmp_path / "latents").iterdir())


def test_a_whole_unet_is_tuned_and_nothing_else(
    prepared64: Path, model: Path, clip_folder: Path, tmp_path: Path
) -> None:
    run(prepared64, model, clip_folder, tmp_path / "run", "--max_train_steps", 4, "--global_weight", 1,
        "--emotion_weight", 1, "--judge", "face-api")  # fmt: skip
    before, after = (EmotionLDMPipeline.from_pretrained(each) for each in (model, tmp_path / "run" / "pipeline"))
    moved = lambda name: [not torch.equal(a, b) for a, b in zip(
        getattr(before, name).state_dict().values(), getattr(after, name).state_dict().values())]  # fmt: skip
    assert any(moved("unet")) and not any(moved("vqvae")) and not any(moved("emotion_embedding"))
    rows = (tmp_path / "run" / "losses.csv").read_text().splitlines()
    assert {"l2", "directional", "identity", "global", "emotion", "cosine"} <= set(rows[0].split(","))


def test_two_processes_train_one_lora(prepared64: Path, model: Path, clip_folder: Path, tmp_path: Path) -> None:
    given = arguments(prepared64, model, clip_folder, tmp_path / "run", "--lora_rank", 2, "--max_train_steps", 2)
    processes = start_two(tmp_path, TRAIN / "finetune_clip.py", *given)
    for process in processes:
        assert process.wait() == 0, process.output
    assert load_file(tmp_path / "run" / "lora" / "anger.safetensors")


def test_what_cannot_be_tuned_is_told(prepared64: Path, model: Path, clip_folder: Path, tmp_path: Path) -> None:
    given = (prepared64, model, clip_folder, tmp_path / "run")
    with pytest.raises(SystemExit, match="--emotion is 'joy': choose one of neutral, happy"):
        run(*given, "--emotion", "joy")
    with pytest.raises(SystemExit, match="2 photos are too few to hold 2 out"):
        run(*given, "--validation_photos", 2)
    with pytest.raises(SystemExit, match="model_ir_se50.pth"):
        run(*given, "--identity", tmp_path / "model_ir_se50.pth")
    with pytest.raises(SystemExit, match="does not know 'contempt'"):
        run(*given, "--emotion", "contempt", "--emotion_weight", 1, "--judge", "face-api")


def test_tuning_turns_edits_to_the_text(prepared64: Path, model: Path, clip_folder: Path, tmp_path: Path) -> None:
    run(prepared64, model, clip_folder, tmp_path / "run", "--lora_rank", 4, "--max_train_steps", 30, "--l2_weight", 0,
        "--identity_weight", 0, "--learning_rate", 1e-2, "--no-gradient_checkpointing")  # fmt: skip
    with (tmp_path / "run" / "losses.csv").open() as file:
        cosines = [float(row["cosine"]) for row in csv.DictReader(file)]
    assert max(cosines[-5:]) > cosines[0] + 0.3 and cosines[-1] > 0
