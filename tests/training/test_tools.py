"""Tools that make what is bundled."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emorig_diffusers.evaluation.metrics import face_api

KERNELS = {  # face-api's name and shape, ours and the axes from theirs to ours
    "dense0/conv0/filters": ((3, 3, 3, 8), "blocks.0.convs.0.weight", (3, 2, 0, 1)),
    "dense0/conv0/bias": ((8,), "blocks.0.convs.0.bias", (0,)),
    "dense0/conv1/depthwise_filter": ((3, 3, 8, 1), "blocks.0.convs.1.0.weight", (2, 3, 0, 1)),
    "dense0/conv1/pointwise_filter": ((1, 1, 8, 8), "blocks.0.convs.1.1.weight", (3, 2, 0, 1)),
    "dense0/conv1/bias": ((8,), "blocks.0.convs.1.1.bias", (0,)),
    "fc/weights": ((8, 7), "fc.weight", (1, 0)),
    "fc/bias": ((7,), "fc.bias", (0,)),
}


def test_kernels_of_face_api_become_tensors(
    run_script: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes with a scale and a least value, floats as they are, each with its axes where torch has them."""
    rng, data, entries, expected = np.random.default_rng(0), b"", [], {}
    for i, (name, (shape, ours, axes)) in enumerate(KERNELS.items()):
        entry = {"name": name, "shape": list(shape), "dtype": "float32"}
        if i % 3 == 2:
            values = rng.normal(size=shape).astype(np.float32)
            data += values.tobytes()
        else:
            packed = rng.integers(0, 256, shape, np.uint8)
            data += packed.tobytes()
            values = packed * np.float32(0.01) + np.float32(-1.2)
            entry["quantization"] = {"dtype": "uint8", "scale": 0.01, "min": -1.2}
        entries.append(entry)
        expected[ours] = torch.from_numpy(values.transpose(axes).copy())
    groups = [{"weights": entries[:3]}, {"weights": entries[3:]}]
    files = {
        "model/face_expression_model-weights_manifest.json": json.dumps(groups),
        "model/face_expression_model.bin": data,
        "LICENSE": "MIT",
    }
    with tarfile.open(tmp_path / "face-api.tgz", "w:gz") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    shipped = load_file(face_api.WEIGHTS).keys()
    monkeypatch.setattr(face_api, "WEIGHTS", tmp_path / "judge" / "model.safetensors")
    run_script("tools/face_api_judge", tmp_path / "face-api.tgz")
    found = load_file(tmp_path / "judge" / "model.safetensors")
    assert found.keys() == expected.keys() and (tmp_path / "judge" / "LICENSE").read_text() == "MIT"
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    assert expected.keys() <= shipped
