"""What codes tell of an edit, on two portraits and the bundled pipeline's edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorig_diffusers import EmoRigOutput, EmoRigPipeline
from emorig_diffusers.evaluation.metrics import MetricError
from emorig_diffusers.evaluation.metrics.codes import CodeJudge, same_person_floor, shape_spread
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
    reached = judge.landmark_distance(astronaut_face, face, target)
    assert reached < 0.6 * judge.landmark_distance(astronaut_face, astronaut_face.face, target)
    assert judge.landmark_distance(astronaut_face, face, astronaut_face.codes) > reached


def test_landmark_errors_are_pixels_of_the_aligned_picture(
    judge: CodeJudge, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    # the fit tells its error in halves of the picture's side
    assert judge.landmark_error(astronaut, astronaut_face.face) == pytest.approx(astronaut_face.error * 192, rel=0.01)
    assert judge.landmark_distance(astronaut_face, astronaut_face.face, astronaut_face.codes) < 0.1
    pixels = 3 / np.linalg.norm(astronaut_face.grid_matrix(384)[:, 0])
    moved = replace(astronaut_face.face, landmarks=astronaut_face.face.landmarks + np.float32([pixels, 0, 0]))
    assert judge.landmark_distance(astronaut_face, moved, astronaut_face.codes) == pytest.approx(3, abs=0.05)


def test_drift_and_floor_share_a_unit(judge: CodeJudge, astronaut_face: EncodedFace) -> None:
    size = astronaut_face.codes.shape.shape[1]
    rows = torch.randn(6, size, generator=torch.Generator().manual_seed(0))
    faces = [with_codes(astronaut_face, shape=row[None]) for row in rows]
    spread = shape_spread(faces)
    assert spread == pytest.approx(float(np.linalg.norm(rows.numpy().std(0, ddof=1))), rel=1e-5)
    apart = [float((rows[i] - rows[j]).norm()) / spread for i, j in ((0, 1), (2, 3), (4, 5))]
    assert same_person_floor(faces, list("aabbcc")) == pytest.approx(sorted(apart)[1], rel=1e-5)
    assert judge.shape_drift(faces[0], faces[1], spread) == pytest.approx(apart[0], rel=1e-5)
    assert judge.shape_drift(faces[0], faces[0], spread) == 0


def test_without_two_photos_there_is_no_floor(astronaut_face: EncodedFace, hopper_face: EncodedFace) -> None:
    with pytest.raises(MetricError, match="two photos of one person"):
        same_person_floor([astronaut_face, hopper_face], ["a", "b"])
    for faces in ([astronaut_face], [astronaut_face, astronaut_face]):
        with pytest.raises(MetricError, match="two or more photos of different faces"):
            shape_spread(faces)
