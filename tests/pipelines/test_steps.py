"""Edits that come one after the other, and edits of their own for several faces."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_diffae import small_diffae

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.photo.faces import NoFaceError
from emorig_diffusers.pipelines.request import EditRequest
from emorig_diffusers.video.animate import animate


@pytest.fixture(scope="module")
def two(astronaut: np.ndarray, hopper: np.ndarray) -> np.ndarray:
    """The astronaut at the left, Hopper at the right, 400 pixels each."""
    return np.ascontiguousarray(np.hstack([astronaut[:480, 40:440], hopper[20:500, 56:456]]))


def paint(pipe: EmoRigPipeline, photo: np.ndarray, *asked: Any, **given: Any) -> np.ndarray:
    return pipe(photo, *asked, generator=torch.Generator().manual_seed(0), output_type="np", **given).images[0]


def test_one_step_is_the_edit_itself(pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace) -> None:
    step = {"emotion": "sad", "intensity": 0.8, "action_units": {"AU1": 0.2}, "rotate": (4, 0, 0)}
    alone = paint(pipe, hopper, faces=[hopper_face], **step)
    assert (paint(pipe, hopper, faces=[hopper_face], edits=[step]) == alone).all()
    assert (alone != hopper).any()
    assert (paint(pipe, hopper, faces=[hopper_face], edits=[]) == hopper).all()


def test_a_step_goes_on_from_the_one_before(pipe: EmoRigPipeline, hopper_face: EncodedFace) -> None:
    codes = lambda *steps: pipe.edit(hopper_face, EditRequest(edits=steps)).expression
    sad, half = {"emotion": "sad"}, {"emotion": "surprise", "intensity": 0.5}
    own, both, brows = hopper_face.codes.expression, codes(sad, half), codes(sad, {"action_units": {"AU1": 0.25}})
    names = pipe.head.config.expression_names
    inner = names.index("browInnerUp")
    assert torch.allclose((brows - codes(sad)).nonzero()[:, 1], torch.tensor([inner]))
    assert brows[0, inner] == pytest.approx(float(codes(sad)[0, inner]) + 0.25)
    # half a surprise on a sad face is neither, and not what half a surprise on the photo is
    frown, jaw = names.index("mouthFrownLeft"), names.index("jawOpen")
    assert own[0, frown] < both[0, frown] < codes(sad)[0, frown]
    assert both[0, jaw] > codes(sad)[0, jaw] + 0.1
    # an emotion in full takes the place of the one before
    ahead = codes(sad, {"emotion": "surprise"})[0, frown] - own[0, frown]
    assert abs(ahead) < 0.1 * (codes(sad)[0, frown] - own[0, frown])


def test_ten_edits_are_as_sharp_as_one(pipe: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace) -> None:
    x0, y0, x1, y1 = (round(x) for x in hopper_face.face.box)
    fine = lambda rgb: float(cv2.Laplacian(cv2.cvtColor(rgb[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY), cv2.CV_32F).std())
    last = {"emotion": "anger"}
    ten = [{"emotion": name} for name in ("happy", "sad", "fear", "disgust", "surprise", "happy", "sad", "fear", "sad")]
    once, often = (paint(pipe, hopper, faces=[hopper_face], edits=steps) for steps in ([last], [*ten, last]))
    assert fine(often) == pytest.approx(fine(once), rel=0.05)


def test_each_face_has_its_own(pipe: EmoRigPipeline, two: np.ndarray) -> None:
    edits = {1: [{"emotion": "sad"}], 2: [{"emotion": "happy"}]}
    result = paint(pipe, two, edits=edits)
    for number, emotion, half in ((1, "sad", np.s_[:, :400]), (2, "happy", np.s_[:, 400:])):
        alone = paint(pipe, two, emotion, face=number)[half].astype(int)
        changed = (alone != two[half]).any(-1)
        assert changed.mean() > 0.05
        far = np.abs(result[half] - alone)[changed].mean()
        assert far < 0.1 * np.abs(two[half] - alone)[changed].mean()  # the second face's noise is another
    known = pipe.encode(two, "all")
    assert (paint(pipe, two, faces=known, edits=edits) == result).all()
    left = paint(pipe, two, faces=known, edits={1: edits[1]})
    assert (left[:, 400:] == two[:, 400:]).all() and (left[:, :400] == result[:, :400]).all()
    with pytest.raises(NoFaceError, match="There is no face 3"):
        pipe(two, edits={3: [{"emotion": "sad"}]})


def test_a_step_may_have_a_reference(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace, hopper_face: EncodedFace
) -> None:
    lent, read = (
        pipe.edit(hopper_face, EditRequest(edits=[{"reference": lender}])).expression
        for lender in (astronaut_face, astronaut)
    )
    assert torch.equal(lent, read)
    assert torch.equal(lent, pipe.edit_codes(hopper_face, reference=astronaut_face).expression)


def test_an_animation_ends_at_the_last_step(pipe: EmoRigPipeline, two: np.ndarray) -> None:
    edits = {2: [{"emotion": "happy"}, {"action_units": {"AU1": 0.5}}]}
    *_, last = animate(pipe, two, seconds=0.2, rate=10, edits=edits)
    assert (last.rgb == paint(pipe, two, edits=edits)).all()


@pytest.mark.parametrize(
    ("edits", "sentence"),
    [
        ([{"emotion": "joy"}], "^edits: Unknown emotion 'joy'"),
        ([{"face": 1}], "^edits cannot have 'face'"),
        ([{"emotion": ["sad", "happy"]}], "has one emotion"),
        ([{}], "^edits: Nothing to do"),
        ("happy", "^edits must be a list such as"),
        ({0: [{"emotion": "sad"}]}, "by their numbers from 1"),
        ({1: [{"intensity": 2, "emotion": "sad"}]}, "^edits: intensity must be a number"),
    ],
)
def test_mistakes_are_one_sentence(pipe: EmoRigPipeline, hopper: np.ndarray, edits: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pipe(hopper, edits=edits)


def test_a_pipeline_without_a_head_says_so() -> None:
    with pytest.raises(ValueError, match="has no head, so no edits"):
        small_diffae().check_inputs(edits=[{"emotion": "happy"}])
