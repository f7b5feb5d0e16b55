"""What the latent-diffusion model learns from: the crop that its pipeline cuts out, its latents, and emotions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_ldm import small_ldm

from emorig_diffusers.data.dataset import DataError
from emorig_diffusers.data.shards import CodeShards
from emorig_diffusers.face.emotions import EMOTIONS
from emorig_diffusers.training.emotion_ldm.latents import LatentData, emotion_rows, read_latents
from emorig_diffusers.training.pictures import Pictures

LEVEL = 2 / 255  # a grey level of pictures in [-1, 1]


def test_training_pictures_are_what_the_pipeline_cuts_out(
    run_script: Callable[..., None], photos: Path, hopper: np.ndarray, tmp_path: Path
) -> None:
    pipe = small_ldm(64)
    run_script("prepare", photos, tmp_path / "shards", "--crop", "landmarks")
    shards = CodeShards(tmp_path / "shards")
    ours, theirs = Pictures([shards], 64)[shards.keys.index("hopper")], pipe.encode(hopper)[0].picture
    assert (ours - theirs).abs().mean() < 2.5 * LEVEL  # a JPEG of 256 pixels lies between them
    assert (ours.roll(1, 2) - theirs).abs().mean() > 5 * LEVEL


def test_latents_are_not_quantised(prepared64: Path, tmp_path: Path) -> None:
    vqvae, shards = small_ldm().vqvae, [CodeShards(prepared64)]
    pictures = Pictures(shards, 32)
    kept = read_latents(vqvae, shards, tmp_path, Accelerator(), mirror=True)
    for index in range(2):
        with torch.no_grad():
            views = [vqvae.encode(one[None]).latents[0] for one in (pictures[index], pictures[index].flip(2))]
        torch.testing.assert_close(kept[index]["latents"], torch.stack(views))
    codes = vqvae.quantize.embedding.weight
    assert torch.cdist(kept[0]["latents"][0].flatten(1).T, codes).amin(1).mean() > 0.01
    plain = read_latents(vqvae, shards, tmp_path, Accelerator())
    assert plain[1]["latents"].shape == (1, 3, 16, 16)  # files of other settings are not taken for these


def test_emotions_are_rows_of_the_table(prepared: Path, prepared64: Path) -> None:
    bare, labelled = CodeShards(prepared), CodeShards(prepared64)
    assert labelled.labels == ["happy", "neutral"]
    null = len(EMOTIONS)
    assert emotion_rows([bare, labelled], EMOTIONS).tolist() == [null, null, 1, 0]
    with pytest.raises(DataError, match="No photo has an emotion label: prepare a labelled data set"):
        emotion_rows([bare], EMOTIONS)


def test_samples_follow_from_their_seeds(prepared64: Path, tmp_path: Path) -> None:
    shards = [CodeShards(prepared64)]
    kept = read_latents(small_ldm().vqvae, shards, tmp_path, Accelerator(), mirror=True)
    data = LatentData(kept, emotion_rows(shards, EMOTIONS))
    drawn = [data[0, seed] for seed in range(12)]
    views = kept[0]["latents"]
    seen = [[torch.equal(one["latent"], view) for view in views] for one in drawn]
    assert all(sum(row) == 1 for row in seen) and {row.index(True) for row in seen} == {0, 1}
    assert all(int(one["emotion"]) == 1 and one["u"].shape == (2,) for one in drawn)
    assert len({float(one["u"][0]) for one in drawn}) == 12
    assert torch.equal(data[0, 3]["u"], drawn[3]["u"]) and int(data[0, 3]["seed"]) == 3
