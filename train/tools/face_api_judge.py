"""Put face-api's expression network into this package's weights (done once; the result is committed).

    npm pack @vladmandic/face-api@1.7.15
    python train/tools/face_api_judge.py vladmandic-face-api-1.7.15.tgz

The package (MIT) keeps every kernel as bytes with a scale and a least value; the few that make it up become float32.
"""

from __future__ import annotations

import argparse
import json
import tarfile

import numpy as np
import torch
from safetensors.torch import save_file

from emorig_diffusers.evaluation.metrics.face_api import WEIGHTS

NAMES = {
    "filters": ("weight", (3, 2, 0, 1)),
    "depthwise_filter": ("0.weight", (2, 3, 0, 1)),
    "pointwise_filter": ("1.weight", (3, 2, 0, 1)),
    "weights": ("weight", (1, 0)),
}
"""face-api's name of a kernel -> ours, and the axes that bring it to torch's order."""


def state_dict(manifest: list, data: bytes) -> dict[str, torch.Tensor]:
    """Tensors under the names of `ExpressionNet` from face-api's manifest and weights."""
    state, start = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        packing = entry.get("quantization")
        kind = np.dtype(packing["dtype"] if packing else entry["dtype"])
        values = np.frombuffer(data, kind, int(np.prod(entry["shape"])), start).astype(np.float32)
        start += values.size * kind.itemsize
        values = values * np.float32(packing["scale"]) + np.float32(packing["min"]) if packing else values
        values = values.reshape(entry["shape"])
        *place, name = entry["name"].replace("dense", "blocks.").replace("/conv", "/convs.").split("/")
        full = place in (["blocks.0", "convs.0"], ["fc"])
        name, axes = NAMES.get(name, ("bias" if full else "1.bias", None))
        state[".".join([*place, name])] = torch.from_numpy(np.ascontiguousarray(values.transpose(axes)))
    return state


def main() -> None:
    """Read the npm package, write the safetensors file and the licence beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", help="vladmandic-face-api-1.7.15.tgz")
    with tarfile.open(parser.parse_args().package) as archive:
        read = lambda path: archive.extractfile(f"package/{path}").read()
        manifest = json.loads(read("model/face_expression_model-weights_manifest.json"))
        state = state_dict(manifest, read("model/face_expression_model.bin"))
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, WEIGHTS)
        (WEIGHTS.parent / "LICENSE").write_bytes(read("LICENSE"))


if __name__ == "__main__":
    main()
