"""Calibrating the landmark encoder on photos: what a detector's score means in the head's units, and what relaxed is.

Two rounds: fits under a weak prior give the size of every unit per score (least squares); fits under that prior, on
faces whose scores are low, give the relaxed range. The last layer of a network that tells the codes from a crop can be
fitted to those of the same photos, as it has to be when the head's expression units have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import CONFIG_NAME
from torch import Tensor
from tqdm.auto import tqdm

from ...data.dataset import DataError
from ...face.emotions import mirrored_units
from ...face.encode import crop_tensor
from ...files.folders import update_folder
from ...hub.repository import rewrite_json
from ...models.emoca import EmocaEncoder
from ...models.head import HeadModel
from ...models.landmark_fit import LandmarkEncoder
from ...photo.faces import BLENDSHAPES, choose_faces, find_faces
from ...photo.io import read_photo
from ...photo.resample import align, transform_points

WEAK_PRIOR = 12.0  # weight of the prior in the first round; the encoder's own is larger
FIRST_SCALE = 0.5
RELAXED_RANGE = (5, 95)  # percentiles of a unit on relaxed faces
RELAXED = {"mouthSmile": 0.25, "jawOpen": 0.08, "mouthUpperUp": 0.12, "mouthFrown": 0.25, "browDown": 0.3,
           "browOuterUp": 0.3, "eyeWide": 0.25, "noseSneer": 0.15, "mouthPucker": 0.4}  # fmt: skip
"""Scores below which a face counts as relaxed."""

RELAXING = ("brow", "eyeWide", "eyeSquint", "eyeBlink", "cheekSquint", "noseSneer", "jawOpen", "mouthSmile",
            "mouthFrown", "mouthDimple", "mouthStretch", "mouthPress", "mouthUpperUp", "mouthLowerDown", "mouthPucker",
            "mouthFunnel")  # fmt: skip
"""Units that relax; the others (lip roll, jaw position) tell people apart and keep their value."""

FORGETTING = 3.0  # photos' worth by which the network's last layer rather stays what it is


@dataclass(frozen=True)
class Portrait:
    """The largest face of a photo.

    Attributes:
        photo: Its file.
        landmarks: [478, 3], x and y in the photo's pixels.
        scores: The detector's score of every expression.
    """

    photo: Path
    landmarks: np.ndarray
    scores: dict[str, float]

    @property
    def points(self) -> np.ndarray:
        """Landmarks [478, 2] in normalised device coordinates of the aligned crop."""
        return transform_points(align(self.landmarks, 2), self.landmarks[:, :2]) - 1

    def crop(self, side: int) -> Tensor:
        """The aligned crop [1, 3, side, side] in [0, 1]."""
        return crop_tensor(read_photo(self.photo).rgb, align(self.landmarks, side), side)

    @property
    def relaxed(self) -> bool:
        """Whether it shows no clear expression."""
        return all(v < limit for k, limit in RELAXED.items() for n, v in self.scores.items() if n.startswith(k))


def find_portraits(photos: Sequence[Path]) -> list[Portrait]:
    """Portraits of the photos that show a face."""
    found = []
    for path in tqdm(photos, desc="detect"):
        faces = find_faces(read_photo(path).rgb)
        if faces:
            face = choose_faces(faces)[0]
            found.append(Portrait(path, face.landmarks, dict(zip(BLENDSHAPES, face.blendshapes.tolist()))))
    return found


def fit(head: HeadModel, encoder: LandmarkEncoder, portraits: Sequence[Portrait]) -> np.ndarray:
    """Expressions [N, E]."""
    fits = (encoder(head, one.points, one.scores) for one in tqdm(portraits, desc="fit"))
    return np.array([found.codes.expression[0].numpy() for found in fits])


def unit_prior(names: tuple[str, ...], expression: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset and slope of each unit over its score by least squares, the same on both sides of the face."""
    centred = scores - scores.mean(0)
    slope = (expression * centred).sum(0) / np.maximum((centred**2).sum(0), 1.0)
    slope = both_sides(names, np.clip(slope, 0, 0.8))
    return both_sides(names, (expression - slope * scores).mean(0)), slope


@torch.no_grad()
def refit_network(network: EmocaEncoder, features: Tensor, codes: Tensor) -> None:
    """Fit what a network tells of the expression, a linear function of its last features, by ridge regression.

    Args:
        network: Changed in place.
        features: Of photos, by its trunk [N, F].
        codes: Expressions of the same photos [N, E].
    """
    places: list[tuple[Any, int]] = [(network.E_flame, network.config.num_shape + network.config.num_texture)]
    if network.config.expression_encoder:
        places.append((network.E_expression, 0))
    for part, first in places:
        rows = slice(first, first + codes.shape[1])
        hidden = part.layers[1](part.layers[0](features))
        hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
        part.mean[rows], part.spread[rows] = codes.mean(0), codes.std(0)
        wanted = (codes - part.mean[rows]) / part.spread[rows].clamp(min=1e-4)
        old = torch.cat([part.layers[2].weight[rows], part.layers[2].bias[rows, None]], 1)
        scale = FORGETTING * hidden.square().mean() * torch.eye(hidden.shape[1])
        new = torch.linalg.solve(hidden.T @ hidden + scale, hidden.T @ wanted + scale @ old.T).T
        part.layers[2].weight[rows], part.layers[2].bias[rows] = new[:, :-1], new[:, -1]


def save_network(network: EmocaEncoder, folder: Path) -> None:
    """Write a network in half precision, without the folder that it came from in its config."""
    network.half().save_pretrained(folder)
    rewrite_json(folder / CONFIG_NAME, {})


def both_sides(names: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """Mean of the left and the right unit [E]."""
    return (values + values[mirrored_units(names)]) / 2


def calibrate(head: HeadModel, portraits: Sequence[Portrait]) -> tuple[LandmarkEncoder, np.ndarray]:
    """A calibrated encoder for a head, and its expressions of the portraits [N, E].

    Raises:
        DataError: No portrait is relaxed.
    """
    names, calm = head.config.expression_names, np.array([one.relaxed for one in portraits], bool)
    if not calm.any():
        raise DataError("None of the photos shows a relaxed face: give more, neutral ones among them.")
    scores = np.array([[one.scores.get(n, 0.0) for n in names] for one in portraits])
    weak = LandmarkEncoder(len(names), expression_weight=WEAK_PRIOR)
    weak.prior_scale.fill_(FIRST_SCALE)
    encoder = LandmarkEncoder(len(names))
    offset, slope = unit_prior(names, fit(head, weak, portraits), scores)
    encoder.prior_offset.copy_(torch.from_numpy(offset))
    encoder.prior_scale.copy_(torch.from_numpy(slope))
    codes = fit(head, encoder, portraits)
    low, high = (both_sides(names, q) for q in np.percentile(codes[calm], RELAXED_RANGE, axis=0))
    kept = np.array([not n.startswith(RELAXING) for n in names])
    low[kept], high[kept] = -10, 10
    encoder.neutral_low.copy_(torch.from_numpy(low))
    encoder.neutral_high.copy_(torch.from_numpy(high))
    return encoder, codes


def calibrate_pipeline(photos: Sequence[Path], pipeline: Path, network: Path | None = None) -> None:
    """Write the `encoder/` of a pipeline's folder anew, and refit a network to it; print what was found.

    Args:
        photos: Portraits.
        pipeline: Folder with `head/`.
        network: Folder of an EmocaEncoder, whose last layer is fitted to the codes of the same photos.

    Raises:
        DataError: No photo shows a relaxed face, or the network is not calibrated.
        FolderError: A folder cannot be written; nothing has changed in it.
    """
    head, portraits = HeadModel.from_pretrained(pipeline / "head"), find_portraits(photos)
    encoder, codes = calibrate(head, portraits)
    if network is not None:
        refitted = EmocaEncoder.from_pretrained(network).float()
        if not refitted.config.calibrated:
            raise DataError(f"{network} is no calibrated network: give one that train/train_encoder.py made.")
        side, trunk = refitted.config.image_size, refitted.E_flame.encoder
        with torch.no_grad():
            features = torch.cat([trunk(one.crop(side)) for one in tqdm(portraits, desc="network")])
        refit_network(refitted, features, torch.from_numpy(codes))
        refitted.neutral_low.copy_(encoder.neutral_low)
        refitted.neutral_high.copy_(encoder.neutral_high)
        update_folder(network, lambda folder: save_network(refitted, folder))
    update_folder(pipeline / "encoder", encoder.save_pretrained)
    print(f"{len(portraits)} faces, {sum(one.relaxed for one in portraits)} relaxed -> {pipeline / 'encoder'}")
    for i in np.argsort(-encoder.prior_scale.numpy()):
        offset, slope, low, high = (float(values[i]) for values in (
            encoder.prior_offset, encoder.prior_scale, encoder.neutral_low, encoder.neutral_high
        ))  # fmt: skip
        name = head.config.expression_names[i]
        print(f"{name:22s} {offset:+.2f} {slope:+.2f} * score, relaxed {low:+.2f} … {high:+.2f}")
