"""write_lmdb.py: shards to Diffusion Autoencoders' LMDB and ±1 list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emorig_diffusers.data.attributes import one_hot_label, read_attributes
from emorig_diffusers.data.lmdb_layouts import DiffAELMDB
from emorig_diffusers.data.shards import CodeShards, write_shard

pytest.importorskip("lmdb")


def test_pictures_and_labels(prepared: Path, tmp_path: Path, run_script: Callable[..., None]) -> None:
    samples = [CodeShards(prepared)[i] for i in (0, 1, 0)]
    labels = ("happy", None, "contempt")
    samples = [replace(s, key=f"k{i}", info=s.info | {"label": v}) for i, (s, v) in enumerate(zip(samples, labels))]
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards", 0, samples, {}, {"crop": "aligned"})
    run_script("write_lmdb", tmp_path / "shards", tmp_path / "out", "--resolution", 64)
    written = DiffAELMDB(tmp_path / "out" / "64.lmdb")
    assert (len(written), written.resolution) == (2, 64)
    wanted = np.asarray(Image.fromarray(samples[0].picture).resize((64, 64), Image.LANCZOS)).astype(int)
    assert np.abs(written[0].astype(int) - wanted).mean() < 1.5
    names, rows = read_attributes(tmp_path / "out" / "labels.txt")
    assert len(names) == 8
    assert {file: one_hot_label(row) for file, row in rows.items()} == {"0.jpg": "happy", "1.jpg": "contempt"}
    with pytest.raises(SystemExit, match="exists already"):
        run_script("write_lmdb", tmp_path / "shards", tmp_path / "out", "--resolution", 64)


def test_without_labels(prepared: Path, tmp_path: Path, run_script: Callable[..., None]) -> None:
    run_script("write_lmdb", prepared, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"128.lmdb"}
    with pytest.raises(SystemExit, match="has no prepared shards"):
        run_script("write_lmdb", tmp_path / "nothing", tmp_path / "out")
