"""What an edit did to a face's codes: expression reached, shape kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...face.codes import FaceCodes
from ...face.edit import EditMixin
from ...face.encode import EncodedFace
from ...photo.faces import Face
from ...photo.landmarks import MESH
from .checks import MetricError

LANDMARK_SIDE = 384
"""Side of the aligned picture, in which the face is about 250 pixels high, that landmark errors are told in."""

_LEAST_CHANGE = 0.0005  # metres, mean of the landmarks, to call it a change of expression


class CodeJudge:
    """Compares photos by the codes that a pipeline's encoder reads from them; no network paints.

    Judge an edit with another pipeline's encoder than the one it was made with where there is one: an encoder that
    was part of the edit agrees with it too readily.

    Args:
        pipe: any `EmoRigPipeline`.
    """

    def __init__(self, pipe: EditMixin) -> None:
        self.pipe = pipe

    def read(self, rgb: np.ndarray, face: Face) -> EncodedFace:
        """Codes of a detected face of a photo uint8 [H, W, 3]."""
        return self.pipe.encode_face(rgb, face)

    def target(self, before: EncodedFace, emotion: str) -> FaceCodes:
        """The codes [1, ...] this pipeline would ask for to show an emotion; ValueError if it does not know it."""
        return self.pipe.edit_codes(before, emotion)

    def gain(self, before: EncodedFace, after: EncodedFace, target: FaceCodes | None) -> float | None:
        """How much of the asked change of expression happened, as the head shows it.

        Expression codes are compared by the landmarks of a mean head that wears them, turned to the front: different
        codes may look alike, and the jaw is not in the unit of ψ.

        Args:
            before, after: readings of the photo and of its edit.
            target: the codes asked for, as from `target` or a reference picture's.

        Returns:
            The change, projected on the asked one and in units of it: 0 for none, 1 for all, below 0 for the opposite;
            `None` where no target is given or it moves the landmarks by less than half a millimetre.
        """
        if target is None:
            return None
        start, end, goal = (self._worn(codes) for codes in (before.codes, after.codes, target))
        asked, happened = goal - start, end - start
        if asked.norm(dim=1).mean() < _LEAST_CHANGE:
            return None
        return float((happened * asked).sum() / asked.square().sum())

    @staticmethod
    def shape_drift(before: EncodedFace, after: EncodedFace, spread: float) -> float:
        """|β_after - β_before| in units of the photos' spread."""
        return float((after.codes.shape - before.codes.shape).norm()) / spread

    @torch.no_grad()
    def _worn(self, codes: FaceCodes) -> Tensor:
        """Landmarks [N, 3] in metres of the mean head with one face's expression and jaw."""
        head = self.pipe.head
        pose = torch.cat([torch.zeros_like(codes.pose[:, :3]), codes.pose[:, 3:]], 1)
        return head.landmarks(head(torch.zeros_like(codes.shape), codes.expression, pose))[0, :MESH][self._known()]

    def _known(self) -> Tensor:
        """Which of the mesh's landmarks have a place on the head, bool [468 or fewer]."""
        known = self.pipe.head.landmark_weight[:MESH] > 0
        if not known.any():
            raise MetricError("This pipeline's head has no dense landmarks: judge with another pipeline.")
        return known


def shape_spread(faces: Sequence[EncodedFace]) -> float:
    """Length of β's standard deviation over photos: the unit of `CodeJudge.shape_drift`.

    Raises:
        MetricError: there are fewer than two photos, or all shapes are the same.
    """
    spread = float(_shapes(faces).std(0).norm()) if len(faces) > 1 else 0.0
    if not spread > 0:
        raise MetricError(f"The spread of shapes needs two or more photos of different faces, not {len(faces)}.")
    return spread


def _shapes(faces: Sequence[EncodedFace]) -> Tensor:
    return torch.cat([face.codes.shape for face in faces])
