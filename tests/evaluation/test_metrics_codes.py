"""What codes tell of an edit, on two portraits and the bundled pipeline's edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.evaluation.metrics import MetricError
from emorig_diffusers.evaluation.metrics.codes import CodeJudge, shape_spread
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.faces import find_faces


@pytest.fixture(scope="module")
def judge(pipe: EmoRigPipeline) -> CodeJudge:
    return CodeJudge(pipe)


def with_codes(face: EncodedFace, **codes: torch.Tensor) -> EncodedFace:
    return replace(face, codes=face.codes.with_(**codes))


def test_gain_is_the_share_of_the_asked_change(judge: CodeJudge, astronaut_face: EncodedFace) -> None:
    target = judge.target(astronaut_face, "sad")
    start, goal = astronaut_face.codes.expression, target.expression
    for share in (-0.5, 0.0, 0.5, 1.0):
        after = with_codes(astronaut_face, expression=start + share * (goal - start))
        # the jaw turns, so the landmarks move on arcs
        assert judge.gain(astronaut_face, after, target) == pytest.approx(share, abs=0.03)
    turned = astronaut_face.codes.pose + torch.tensor([0.1, 0.2, 0, 0, 0, 0])
    moved = with_codes(astronaut_face, expression=goal, pose=turned, shape=astronaut_face.codes.shape + 1)
    assert judge.gain(astronaut_face, moved, target) == pytest.approx(1, abs=1e-4)


def test_gain_without_a_goal_is_unknown(judge: CodeJudge, astronaut_face: EncodedFace) -> None:
    assert judge.gain(astronaut_face, astronaut_face, None) is None
    assert judge.gain(astronaut_face, astronaut_face, astronaut_face.codes) is None
    with pytest.raises(ValueError, match="joyful"):
        judge.target(astronaut_face, "joyful")


def test_a_real_edit_gains_and_moves_the_landmarks(
    judge: CodeJudge, edit: Callable[[str], EmoRigOutput], astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    edited = edit("surprise").images[0]
    face = max(find_faces(edited), key=lambda found: np.ptp(found.landmarks[:, 0]))
    after, target = judge.read(edited, face), judge.target(astronaut_face, "surprise")
    assert 0.3 < judge.gain(astronaut_face, after, target) < 1.3


def test_drift_is_in_units_of_the_spread(judge: CodeJudge, astronaut_face: EncodedFace) -> None:
    size = astronaut_face.codes.shape.shape[1]
    rows = torch.randn(6, size, generator=torch.Generator().manual_seed(0))
    faces = [with_codes(astronaut_face, shape=row[None]) for row in rows]
    spread = shape_spread(faces)
    assert spread == pytest.approx(float(np.linalg.norm(rows.numpy().std(0, ddof=1))), rel=1e-5)
    apart = float((rows[0] - rows[1]).norm()) / spread
    assert judge.shape_drift(faces[0], faces[1], spread) == pytest.approx(apart, rel=1e-5)
    assert judge.shape_drift(faces[0], faces[0], spread) == 0


def test_without_two_faces_there_is_no_spread(astronaut_face: EncodedFace) -> None:
    for faces in ([astronaut_face], [astronaut_face, astronaut_face]):
        with pytest.raises(MetricError, match="two or more photos of different faces"):
            shape_spread(faces)
