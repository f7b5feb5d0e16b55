"""The judge of emotions that comes with the package: real weights, real faces, and its arithmetic written anew."""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import correlate2d

from emorig_diffusers.evaluation.metrics import FaceApiJudge
from emorig_diffusers.photo.faces import find_faces


def test_names_a_smile_and_a_calm_face(astronaut: np.ndarray, hopper: np.ndarray) -> None:
    judge = FaceApiJudge()
    smile, calm = (judge(rgb, find_faces(rgb)[0].box) for rgb in (astronaut, hopper))
    assert smile["happy"] > 0.9 and calm["neutral"] > 0.5
    assert set(smile) == set(judge.emotions) and abs(sum(smile.values()) - 1) < 1e-5
    assert judge.valence_arousal(astronaut, (0, 0, 9, 9)) is None


def test_agrees_with_its_arithmetic_written_anew() -> None:
    network = FaceApiJudge().network.double()
    picture = np.random.default_rng(0).uniform(0, 255, (3, 112, 112))
    x = (picture - np.array([122.782, 117.001, 104.298])[:, None, None]) / 255
    for block in network.blocks:
        total = relu(convolve(block.convs[0], np.pad(x, ((0, 0), (0, 1), (0, 1))), stride=2))
        parts = [total]
        for conv in list(block.convs)[1:]:
            seen = parts[0] if len(parts) == 1 else relu(sum(parts))
            parts.append(convolve(conv, np.pad(seen, ((0, 0), (1, 1), (1, 1)))))
        x = relu(sum(parts))
    logits = network.fc.weight.numpy() @ x.mean((1, 2)) + network.fc.bias.numpy()
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(picture)[None])[0].numpy(), logits, atol=1e-9)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def convolve(conv: torch.nn.Module, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """A full or a separable convolution of a padded picture [C, H, W]."""
    slide = lambda a, k: correlate2d(a, k, "valid")[::stride, ::stride]
    if isinstance(conv, torch.nn.Conv2d):
        kernels, bias = conv.weight.numpy(), conv.bias.numpy()
        return np.stack([sum(slide(a, k) for a, k in zip(x, kernel)) for kernel in kernels]) + bias[:, None, None]
    depth, point = conv
    spread = np.stack([slide(a, k[0]) for a, k in zip(x, depth.weight.numpy())])
    return np.einsum("oc,chw->ohw", point.weight.numpy()[..., 0, 0], spread) + point.bias.numpy()[:, None, None]
