"""data/shards.py: tar files of pictures and codes, their indices, and what happens when they are damaged."""

from __future__ import annotations

import json
import pickle
import resource
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load
from torch.utils.data import DataLoader

from emorig_diffusers import FaceCodes
from emorig_diffusers.data.shards import (
    CodeShards,
    Sample,
    ShardError,
    finished_shards,
    settings_hash,
    write_manifest,
    write_shard,
)

SETTINGS = {"resolution": 32, "crop": "aligned"}
CODES = ("shape", "expression", "pose", "camera", "light", "texture")
LONG = "a_very_long_name-" * 8


def make(number: int, key: str | None = None, label: str | None = None) -> Sample:
    """A smooth picture with random codes."""
    random = torch.Generator().manual_seed(number)
    values = lambda *shape: torch.randn(1, *shape, generator=random)
    codes = FaceCodes(values(5), values(4), values(6), values(3), values(9, 3), values(0))
    rows, columns = np.mgrid[:32, :32]
    picture = np.stack([rows * 7, columns * 7, np.full((32, 32), 40 + number)], -1).astype(np.uint8)
    info = {"file": f"{number}.png", "label": label, "attributes": [1, -1], "error": number / 4}
    residual = values(7, 2)[0].numpy() / 100
    return Sample(key or f"photo-{number}", picture, codes, values(3, 3)[0].numpy(), residual, info)


@pytest.fixture
def samples() -> list[Sample]:
    return [make(0, label="happy"), make(1, LONG), make(2, label="sad")]


@pytest.fixture
def folder(samples: list[Sample], tmp_path: Path) -> Path:
    """Two shards: two samples and a failure, then one sample."""
    write_shard(tmp_path, 0, samples[:2], {"no face": ["wall.png"], "poor fit": []}, SETTINGS)
    write_shard(tmp_path, 1, samples[2:], {}, SETTINGS)
    return tmp_path


def same(a: Sample, b: Sample) -> bool:
    """Equal but for what JPEG and 16-bit residuals lose."""
    np.testing.assert_allclose(a.picture, b.picture.astype(int), atol=6)
    np.testing.assert_allclose(a.residual, b.residual, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(a.transform, b.transform)
    for name in CODES:
        torch.testing.assert_close(getattr(a.codes, name), getattr(b.codes, name), rtol=0, atol=0)
    return (a.key, a.info) == (b.key, b.info)


# Writing and reading


def test_what_is_written_is_read(folder: Path, samples: list[Sample]) -> None:
    shards = CodeShards(folder)
    assert len(shards) == 3
    assert shards.keys == ["photo-0", LONG, "photo-2"] and shards.labels == ["happy", None, "sad"]
    assert all(same(shards[i], sample) for i, sample in enumerate(samples))
    assert shards.info(1) == samples[1].info
    assert same(shards[-1], samples[2])
    with pytest.raises(IndexError):
        shards[3]
    assert shards[0].picture.dtype == np.uint8 and shards[0].residual.dtype == np.float32


def test_a_face_without_residual(tmp_path: Path) -> None:
    sample = make(0)
    sample.residual = np.zeros((0, 2), np.float32)
    write_shard(tmp_path, 0, [sample], {}, SETTINGS)
    assert CodeShards(tmp_path)[0].residual.shape == (0, 2)


def test_the_same_samples_give_the_same_bytes(folder: Path, samples: list[Sample]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_shard(folder, 0, iter(samples[:2]), {"no face": ["wall.png"]}, dict(reversed(SETTINGS.items())))
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == ["00000.json", "00000.tar", "00001.json", "00001.tar"]


def test_the_index_points_at_the_members(folder: Path) -> None:
    index = json.loads((folder / "00000.json").read_text())
    data = (folder / "00000.tar").read_bytes()
    cut = lambda entry, kind: data[entry[kind][0] : sum(entry[kind])]
    for number, entry in enumerate(index["samples"]):
        with Image.open(BytesIO(cut(entry, "jpg"))) as image:
            assert image.size == (32, 32) and image.format == "JPEG"
            assert image.layer[0][1:3] == image.layer[1][1:3]  # 4:4:4
        assert json.loads(cut(entry, "json"))["error"] == entry["error"] == number / 4
        assert load(cut(entry, "safetensors"))["residual"].dtype == np.float16


def test_webdataset_reads_the_shards(folder: Path, samples: list[Sample]) -> None:
    webdataset = pytest.importorskip("webdataset")
    files = [str(path) for path in sorted(folder.glob("*.tar"))]
    read = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert [r["__key__"] for r in read] == CodeShards(folder).keys
    for ours, theirs, original in zip(CodeShards(folder), read, samples, strict=True):
        np.testing.assert_array_equal(theirs["jpg"], ours.picture)
        assert theirs["json"] == original.info
        np.testing.assert_array_equal(load(theirs["safetensors"])["shape"], original.codes.shape)


def test_workers_read_at_random(folder: Path, samples: list[Sample]) -> None:
    shards = CodeShards(folder)
    order = [2, 0, 1, 0, 2, 1]
    loader = DataLoader(shards, 2, sampler=order, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    read = [sample for batch in loader for sample in batch]
    assert all(same(r, samples[i]) for r, i in zip(read, order, strict=True))
    assert same(pickle.loads(pickle.dumps(shards))[1], samples[1])  # as a spawned worker gets it


def test_manifest(folder: Path) -> None:
    manifest = write_manifest(folder)
    assert manifest == json.loads((folder / "manifest.json").read_text()) == CodeShards(folder).manifest
    assert (manifest["photos"], manifest["used"], manifest["failures"]) == (4, 3, {"no face": 1})
    assert manifest["labels"] == {"happy": 1, "sad": 1}
    assert manifest["settings"] == SETTINGS and manifest["settings_sha256"] == settings_hash(SETTINGS)
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.tar"))]
    assert [shard["bytes"] for shard in manifest["shards"]] == sizes
    assert manifest["bytes_a_photo"] == round(sum(sizes) / 3)


# Damage


def overwrite(folder: Path, kind: str) -> None:
    """Zeros where a member of shard 1 starts."""
    offset = json.loads((folder / "00001.json").read_text())["samples"][0][kind][0]
    with open(folder / "00001.tar", "r+b") as file:
        file.seek(offset)
        file.write(bytes(200 if kind == "jpg" else 20))


def shorten(folder: Path) -> None:
    data = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(data[:1000])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "picture": lambda folder: overwrite(folder, "jpg"),
    "text": lambda folder: overwrite(folder, "json"),
    "codes": lambda folder: overwrite(folder, "safetensors"),
    "short": shorten,
    "missing": lambda folder: (folder / "00001.tar").unlink(),
    "no JSON": lambda folder: (folder / "00001.json").write_text('{"bytes": '),
    "no index": lambda folder: (folder / "00001.json").write_text("[]"),
    "half an index": lambda folder: (folder / "00001.json").write_text('{"bytes": 10240}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(ShardError, match=r"00001\.tar is damaged \(.*\): delete it and run train/prepare\.py again\."):
        CodeShards(folder)[2]


def test_damage_while_training(folder: Path, samples: list[Sample]) -> None:
    shards = CodeShards(folder)
    shorten(folder)
    assert same(shards[0], samples[0])
    with pytest.raises(ShardError, match="00001.tar is damaged"):
        shards[2]
    (folder / "00001.tar").unlink()
    with pytest.raises(ShardError, match="00001.tar is damaged"):
        shards.info(2)


def test_a_folder_without_shards(tmp_path: Path) -> None:
    for read in (CodeShards, write_manifest):
        with pytest.raises(ShardError, match=r"has no prepared shards: run train/prepare\.py PHOTOS .* first\."):
            read(tmp_path)
    write_shard(tmp_path, 0, [], {"no face": ["wall.png"]}, SETTINGS)
    with pytest.raises(ShardError, match="No photo in .* could be used"):
        CodeShards(tmp_path)


# Going on after an interruption


def test_finished_shards(folder: Path) -> None:
    assert finished_shards(folder, SETTINGS) == {0, 1}
    shorten(folder)
    assert finished_shards(folder, SETTINGS) == {0}
    (folder / "00000.json").write_text("{")
    assert finished_shards(folder, SETTINGS) == set()


def test_settings_are_not_mixed(folder: Path, samples: list[Sample]) -> None:
    other = SETTINGS | {"resolution": 64}
    with pytest.raises(ShardError, match=r"other settings \(resolution\): choose another folder, or delete"):
        finished_shards(folder, other)
    write_shard(folder, 2, samples, {}, other)
    with pytest.raises(ShardError, match="shards of different settings"):
        CodeShards(folder)


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Sample]:
        yield make(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 0, interrupted(), {}, SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path, samples: list[Sample]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ShardError, match=r"00000\.tar cannot be written \(File too large\): make room"):
            write_shard(tmp_path, 0, samples, {}, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
