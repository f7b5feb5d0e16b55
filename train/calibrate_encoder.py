"""Calibrate the landmark encoder on photos: what a detector's score means in the head's units, and what relaxed is.

    python train/calibrate_encoder.py PHOTOS emorig_diffusers/weights/emorig-open [--network WEIGHTS/encoder-open]

Reads `head/` of the pipeline folder, writes `encoder/`. Two rounds: fits under a weak prior give the size of every
unit per score (least squares); fits under that prior, on faces whose scores are low, give the relaxed range. With
`--network` the last layer of a network that tells the codes from a crop is fitted to those of the same photos, as it
has to be when the head's expression units have changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from emorig_diffusers.face.encode import crop_tensor
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.landmark_fit import LandmarkEncoder
from emorig_diffusers.photo.faces import BLENDSHAPES, choose_faces, find_faces
from emorig_diffusers.photo.io import read_photo
from emorig_diffusers.photo.resample import align, transform_points

WEAK_PRIOR = 12.0  # weight of the prior in the first round; the encoder's own is larger
FIRST_SCALE = 0.5
RELAXED = {"mouthSmile": 0.25, "jawOpen": 0.08, "mouthUpperUp": 0.12, "mouthFrown": 0.25, "browDown": 0.3,
           "browOuterUp": 0.3, "eyeWide": 0.25, "noseSneer": 0.15, "mouthPucker": 0.4}  # fmt: skip
"""Scores below which a face counts as relaxed."""

RELAXING = ("brow", "eyeWide", "eyeSquint", "eyeBlink", "cheekSquint", "noseSneer", "jawOpen", "mouthSmile",
            "mouthFrown", "mouthDimple", "mouthStretch", "mouthPress", "mouthUpperUp", "mouthLowerDown", "mouthPucker",
            "mouthFunnel")  # fmt: skip
"""Units that relax; the others (lip roll, jaw position) tell people apart and keep their value."""

FORGETTING = 3.0  # photos' worth by which the network's last layer rather stays what it is
Detection = tuple[np.ndarray, dict[str, float]]


def detect(photos: list[Path]) -> list[Detection]:
    """Landmarks in the crop's frame and scores of the largest face of every photo that has one."""
    found = []
    for path in tqdm(photos, desc="detect"):
        faces = find_faces(read_photo(path).rgb)
        if faces:
            face = choose_faces(faces)[0]
            points = transform_points(align(face.landmarks, 2), face.landmarks[:, :2]) - 1
            found.append((points, dict(zip(BLENDSHAPES, face.blendshapes.tolist()))))
    return found


def fit(head: HeadModel, encoder: LandmarkEncoder, faces: list[Detection]) -> np.ndarray:
    """Expressions [N, E]."""
    return np.array([encoder(head, *face).codes.expression[0].numpy() for face in tqdm(faces, desc="fit")])


def unit_prior(names: tuple[str, ...], expression: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset and slope of each unit over its score by least squares, the same on both sides of the face."""
    centred = scores - scores.mean(0)
    slope = (expression * centred).sum(0) / np.maximum((centred**2).sum(0), 1.0)
    slope = both_sides(names, np.clip(slope, 0, 0.8))
    return both_sides(names, (expression - slope * scores).mean(0)), slope


def refit_network(network: EmocaEncoder, head: HeadModel, encoder: LandmarkEncoder, photos: list[Path]) -> int:
    """Fit what a network tells of the expression, a linear function of its last features, to `encoder`'s codes of
    photos by ridge regression; returns how many faces there were."""
    features, codes = [], []
    for path in tqdm(photos, desc="network"):
        rgb = read_photo(path).rgb
        faces = find_faces(rgb)
        if faces:
            face = choose_faces(faces)[0]
            points = transform_points(align(face.landmarks, 2), face.landmarks[:, :2]) - 1
            side = network.config.image_size
            crop = crop_tensor(rgb, align(face.landmarks, side), side)
            features.append(network.E_flame.encoder(crop)[0])
            codes.append(encoder(head, points, dict(zip(BLENDSHAPES, face.blendshapes.tolist()))).codes.expression[0])
    features, codes = torch.stack(features), torch.stack(codes)
    start = network.config.num_shape + network.config.num_texture
    for part, first in ((network.E_flame, start), (network.E_expression, 0)):
        rows = slice(first, first + codes.shape[1])
        hidden = part.layers[1](part.layers[0](features))
        hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], 1)
        part.mean[rows], part.spread[rows] = codes.mean(0), codes.std(0)
        wanted = (codes - part.mean[rows]) / part.spread[rows].clamp(min=1e-4)
        old = torch.cat([part.layers[2].weight[rows], part.layers[2].bias[rows, None]], 1)
        scale = FORGETTING * hidden.square().mean() * torch.eye(hidden.shape[1])
        new = torch.linalg.solve(hidden.T @ hidden + scale, hidden.T @ wanted + scale @ old.T).T
        part.layers[2].weight[rows], part.layers[2].bias[rows] = new[:, :-1], new[:, -1]
    network.neutral_low.copy_(encoder.neutral_low)
    network.neutral_high.copy_(encoder.neutral_high)
    return len(codes)


def both_sides(names: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """Mean of the left and the right unit."""
    swap = {"Left": "Right", "Right": "Left"}
    other = [next((n.removesuffix(a) + b for a, b in swap.items() if n.endswith(a)), n) for n in names]
    return (values + values[[names.index(n) for n in other]]) / 2


def relaxed(faces: list[Detection]) -> list[Detection]:
    """Faces without a clear expression."""
    below = lambda scores: all(v < limit for k, limit in RELAXED.items() for n, v in scores.items() if n.startswith(k))  # noqa: E731
    return [face for face in faces if below(face[1])]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("pipeline", type=Path, help="folder with head/; encoder/ is written there")
    parser.add_argument("--every", type=int, default=3, help="use every n-th photo")
    parser.add_argument("--network", type=Path, help="folder of a network whose last layer is fitted to the codes")
    args = parser.parse_args()
    head = HeadModel.from_pretrained(args.pipeline / "head")
    names = head.config.expression_names
    photos = sorted(args.photos.glob("*.jpg"))[:: args.every]
    faces = detect(photos)
    scores = np.array([[s.get(n, 0.0) for n in names] for _, s in faces])
    weak = LandmarkEncoder(len(names), expression_weight=WEAK_PRIOR)
    weak.prior_scale.fill_(FIRST_SCALE)
    encoder = LandmarkEncoder(len(names))
    offset, slope = unit_prior(names, fit(head, weak, faces), scores)
    encoder.prior_offset.copy_(torch.from_numpy(offset))
    encoder.prior_scale.copy_(torch.from_numpy(slope))
    calm = relaxed(faces)
    low, high = (both_sides(names, q) for q in np.percentile(fit(head, encoder, calm), (5, 95), axis=0))
    kept = np.array([not n.startswith(RELAXING) for n in names])
    low[kept], high[kept] = -10, 10
    encoder.neutral_low.copy_(torch.from_numpy(low))
    encoder.neutral_high.copy_(torch.from_numpy(high))
    encoder.save_pretrained(args.pipeline / "encoder")
    if args.network:
        network = EmocaEncoder.from_pretrained(args.network).float()
        with torch.no_grad():
            refit_network(network, head, encoder, photos)
        network.half().save_pretrained(args.network)
    print(f"{len(faces)} faces, {len(calm)} relaxed -> {args.pipeline / 'encoder'}")
    for i in np.argsort(-encoder.prior_scale.numpy()):
        print(f"{names[i]:22s} {offset[i]:+.2f} {slope[i]:+.2f} * score, relaxed {low[i]:+.2f} … {high[i]:+.2f}")


if __name__ == "__main__":
    main()
