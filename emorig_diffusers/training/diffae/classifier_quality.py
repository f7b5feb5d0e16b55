"""How good the ways to the emotions are: decoded edits, judged by networks that know nothing of the codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from ...diffusion.sampling import Sampling
from ...evaluation.metrics.emotion import Judge, emotion_judge, named
from ...evaluation.metrics.identity import CosFaceJudge, IdentityJudge, identity_judge
from ...models.semantic_classifier import LatentClassifier
from ...photo.faces import choose_faces, find_faces
from ...pipelines.diffae import DiffAEEmotionPipeline
from ...pipelines.picture_faces import unit_picture

LEAST_SIDE = 256  # pixels of the picture in which faces are looked for


@dataclass
class FaceJudge:
    """Judges pictures by their largest face.

    Attributes:
        emotion, identity: The networks.
    """

    emotion: Judge = field(default_factory=emotion_judge)
    identity: IdentityJudge | CosFaceJudge = field(default_factory=identity_judge)

    def __call__(self, picture: Tensor) -> tuple[dict[str, float], np.ndarray | None]:
        """Probabilities of the emotions and an embedding of [3, S, S] in [-1, 1]; ({}, None) where no face is found."""
        rgb = enlarged(picture)
        faces = find_faces(rgb)
        if not faces:
            return {}, None
        face = choose_faces(faces)[0]
        return self.emotion(rgb, face.box), self.identity.embed(rgb, face.landmarks)


def enlarged(picture: Tensor) -> np.ndarray:
    """[3, S, S] in [-1, 1] as uint8 [H, H, 3], H at least LEAST_SIDE."""
    side = max(LEAST_SIDE, picture.shape[-1])
    return cv2.resize(np.asarray(unit_picture(picture)), (side, side), interpolation=cv2.INTER_CUBIC)


@dataclass
class EditQuality:
    """Edits to one emotion.

    Attributes:
        accuracy: Share of the edits that the judge takes for the emotion; pictures without a face are none.
        before: The same of the reconstructions.
        similarity: Mean cosine with the photo's face (CSIM), 0 for pictures without a face.
    """

    accuracy: float
    before: float
    similarity: float

    @property
    def gain(self) -> float:
        """Accuracy won per unit of identity lost: (accuracy - before) / (1 - CSIM)."""
        return (self.accuracy - self.before) / max(1 - self.similarity, 1e-6)


@torch.no_grad()
def edit_quality(
    pipe: DiffAEEmotionPipeline,
    classifiers: Mapping[str, LatentClassifier],
    pictures: Tensor,
    sampling: Sampling,
    judge: FaceJudge,
) -> dict[str, dict[str, EditQuality]]:
    """Quality by classifier and emotion, of the emotions that both classifier and judge know.

    Args:
        pipe: Decodes.
        classifiers: By name; on the pipeline's device.
        pictures: [N, 3, S, S] in [-1, 1].
        sampling: Steps of inversion and decoding.
        judge: Of the decoded pictures.
    """
    z = torch.cat([pipe.semantic_code(batch) for batch in pictures.split(sampling.batch)])
    noise = [pipe.stochastic_code(pictures[i], z[i], sampling.steps) for i in _batches(len(z), sampling.batch)]
    noise = torch.cat(noise)
    photos, rebuilt = ([judge(one) for one in shown] for shown in (pictures, pipe.decode(noise, z, sampling)))
    result: dict[str, dict[str, EditQuality]] = {}
    for name, classifier in classifiers.items():
        result[name] = {}
        for emotion in classifier.names:
            if emotion in judge.emotion.emotions:
                moved = classifier.moved(z.float(), {emotion: 1.0})
                edits = [judge(one) for one in pipe.decode(noise, moved, sampling)]
                similar = np.mean([_similarity(a, b) for (_, a), (_, b) in zip(photos, edits)])
                before, after = (_share(judged, emotion) for judged in (rebuilt, edits))
                result[name][emotion] = EditQuality(after, before, float(similar))
    return result


def quality_table(qualities: Mapping[str, EditQuality]) -> str:
    """A line for each emotion, and one for the mean of all."""
    lines = [f"{'':>10} accuracy  before    CSIM  gain/loss"]
    rows = dict(qualities)
    means = [float(np.mean([getattr(q, name) for q in rows.values()])) for name in ("accuracy", "before", "similarity")]
    rows["all"] = EditQuality(*means)
    lines += [f"{n:>10} {q.accuracy:8.2f} {q.before:7.2f} {q.similarity:7.3f} {q.gain:10.2f}" for n, q in rows.items()]
    return "\n".join(lines)


def _batches(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def _similarity(a: np.ndarray | None, b: np.ndarray | None) -> float:
    return 0.0 if a is None or b is None else float(a @ b)


def _share(judged: list[tuple[dict[str, float], np.ndarray | None]], emotion: str) -> float:
    """Of pictures whose most probable emotion this is."""
    return float(np.mean([named(probabilities) == emotion for probabilities, _ in judged]))
