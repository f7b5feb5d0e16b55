"""Morph targets in a GLB: what each unit of a head's expression does to a mesh, for Blender and engines to play.

The base is the head at rest, and the weights are the photo's: what plays ARKit's units can take them over as they are.
Targets are sparse accessors (glTF 2.0, 3.6.2.3): most units move a small part of the face.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STILL = 1e-6  # metres, and parts of a normal, below which nothing moves: rounding
FLOAT, SHORT, INT = 5126, 5123, 5125  # glTF's component types


@dataclass
class Morphs:
    """Targets of a mesh of N vertices.

    Attributes:
        names: Of the K targets.
        offsets: float32 [K, N, 3] in metres that a weight of 1 adds to the vertices.
        normals: float32 [K, N, 3], the same of the normals.
        weights: [K] in [0, 1] with which the mesh is as in its photo.
    """

    names: tuple[str, ...]
    offsets: np.ndarray
    normals: np.ndarray
    weights: np.ndarray


def add_morphs(glb: bytes, morphs: Mapping[str, Morphs]) -> bytes:
    """A GLB with morph targets for its meshes by name, each of one primitive with as many vertices."""
    length = struct.unpack_from("<I", glb, 12)[0]
    tree = json.loads(glb[20 : 20 + length])
    binary = bytearray(glb[28 + length :][: tree["buffers"][0]["byteLength"]])
    for mesh in tree["meshes"]:
        own = morphs.get(mesh["name"])
        if own is not None:
            moved = zip(own.offsets, own.normals)
            mesh["primitives"][0]["targets"] = [
                {"POSITION": _accessor(tree, binary, place), "NORMAL": _accessor(tree, binary, normal)}
                for place, normal in moved
            ]
            mesh["weights"] = [float(weight) for weight in own.weights]
            mesh["extras"] = mesh.get("extras", {}) | {"targetNames": list(own.names)}
    tree["buffers"][0]["byteLength"] = len(binary)
    return _pack(tree, bytes(binary))


def _accessor(tree: dict[str, Any], binary: bytearray, values: np.ndarray) -> int:
    """Number of a new accessor for values [N, 3], of which those that move are stored."""
    moving = np.flatnonzero((np.abs(values) > STILL).any(1))
    stored = values[moving].astype("<f4")
    accessor: dict[str, Any] = {"componentType": FLOAT, "type": "VEC3", "count": len(values)}
    extremes = np.vstack([stored, np.zeros((int(len(moving) < len(values)), 3), "<f4")])
    accessor |= {"min": extremes.min(0).tolist(), "max": extremes.max(0).tolist()}
    if len(moving):
        kind, form = (SHORT, "<u2") if len(values) <= 0xFFFF else (INT, "<u4")
        accessor["sparse"] = {
            "count": len(moving),
            "indices": {"bufferView": _view(tree, binary, moving.astype(form)), "componentType": kind},
            "values": {"bufferView": _view(tree, binary, stored)},
        }
    tree["accessors"].append(accessor)
    return len(tree["accessors"]) - 1


def _view(tree: dict[str, Any], binary: bytearray, values: np.ndarray) -> int:
    """Number of a new buffer view that holds values."""
    binary.extend(bytes(-len(binary) % 4))
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": values.nbytes})
    binary.extend(values.tobytes())
    return len(tree["bufferViews"]) - 1


def _pack(tree: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(tree, separators=(",", ":")).encode()
    chunks = (b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", binary + bytes(-len(binary) % 4))
    body = b"".join(struct.pack("<I", len(data)) + kind + data for kind, data in chunks)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
