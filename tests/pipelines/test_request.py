"""EditRequest: one set of arguments for all pipelines; who needs what, faces that are known, the registry."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from small_diffae import small_diffae
from small_ldm import small_ldm

from emorig_diffusers import DiffAEEmotionPipeline, EmoRigPipeline, EmotionLDMPipeline
from emorig_diffusers.face import encode
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.pipelines import picture_faces
from emorig_diffusers.pipelines.base import PIPELINES, FacePipeline, pipeline_class
from emorig_diffusers.pipelines.request import ARGUMENTS, EditRequest, options

GIVEN: dict[str, Any] = {
    "action_units": {"AU12": 1.0}, "attributes": {"Young": 1.0}, "rotate": (5, 0, 0), "gaze": (5, 0),
    "light_turn": (30, 0), "light_strength": 0.5,
    "modes": ("pose",),
    "source_encoder": "deca", "target_encoder": "deca", "detail": True, "shape_guidance": 0.5, "best_of": 2,
    "paste": "crop", "inversion_steps": 5, "codes": "mine", "source_emotion": "sad", "strength": 0.4,
    "guidance_scale": 3.0, "inversion_guidance_scale": 1.0, "edits": [{"emotion": "sad"}],
}  # fmt: skip
"""Something to ask for of every argument that needs a capability."""


@pytest.fixture(scope="module")
def diffae() -> DiffAEEmotionPipeline:
    return small_diffae()


@pytest.fixture(scope="module")
def ldm() -> EmotionLDMPipeline:
    return small_ldm()


def test_arguments_are_typed_named_and_frozen() -> None:
    with pytest.raises(TypeError):
        EditRequest("happy")  # type: ignore[misc]
    with pytest.raises(AttributeError):
        EditRequest().intensity = 2  # type: ignore[misc]
    kinds = {p.name: p.kind for p in inspect.signature(FacePipeline.__call__).parameters.values()}
    assert list(kinds) == ["self", "image", *ARGUMENTS]
    assert [name for name, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY] == [
        "self", "image", "emotion", "intensity",
    ]  # fmt: skip
    about = inspect.getdoc(FacePipeline.__call__)
    assert all(f"\n    {name}: " in about for name in ARGUMENTS)


def test_an_argument_that_there_is_not(pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'mood'"):
        pipe(hopper, mood="happy")


@pytest.mark.parametrize("name", [name for name, one in ARGUMENTS.items() if one.metadata["needs"]])
def test_what_a_pipeline_lacks_is_refused_by_name(
    pipe: EmoRigPipeline, diffae: DiffAEEmotionPipeline, ldm: EmotionLDMPipeline, name: str
) -> None:
    needs = ARGUMENTS[name].metadata["needs"]
    lacking = [one for one in (pipe, diffae, ldm) if needs not in one.capabilities]
    assert lacking, "one of them cannot do it"
    for one in lacking:
        with pytest.raises(ValueError, match=rf"\b{name}\b") as caught:
            one.check_inputs(**{"emotion": "happy", name: GIVEN[name]})
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [n for n, one in ARGUMENTS.items() if one.metadata["limits"] and one.metadata["needs"] != "whole_crop"],
)
def test_limits_are_those_that_are_checked(
    pipe: EmoRigPipeline, diffae: DiffAEEmotionPipeline, ldm: EmotionLDMPipeline, name: str
) -> None:
    low, high = ARGUMENTS[name].metadata["limits"]
    needs = ARGUMENTS[name].metadata["needs"]
    one = next(one for one in (pipe, diffae, ldm) if not needs or needs in one.capabilities)
    for beyond in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"^{name} must be a .*number from {low} to {high}, got"):
            one.check_inputs(**{"emotion": "happy", name: beyond})


def test_options_of_the_command_line_are_fields() -> None:
    assert {about["dest"] for about in options().values()} <= set(ARGUMENTS)
    assert len({about["dest"] for about in options().values()}) == len(options())


@pytest.mark.parametrize("kind", ["found", "encoded"])
@pytest.mark.parametrize("system", ["pipe", "diffae"])
def test_known_faces_are_not_looked_for(
    kind: str, system: str, hopper: np.ndarray, hopper_face: EncodedFace, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    one: FacePipeline = request.getfixturevalue(system)
    options: dict[str, Any] = {"intensity": 0.7, "num_inference_steps": 1, "output_type": "np"}
    if system == "pipe":
        one = EmoRigPipeline(one.head, one.encoder)
    wanted = one(hopper, ["happy", "sad"], **options).images
    faces = [hopper_face.face] if kind == "found" else one.encode(hopper)
    refuse = lambda *_: pytest.fail("faces were looked for")
    monkeypatch.setattr(encode, "find_faces", refuse)
    monkeypatch.setattr(picture_faces, "find_faces", refuse)
    for given in (faces, [faces]):
        again = one(hopper, ["happy", "sad"], **options, faces=given).images
        assert all(np.array_equal(a, b) for a, b in zip(again, wanted, strict=True))
    with pytest.raises(ValueError, match="a list of faces for each of the 2 photos"):
        one([hopper, hopper], "happy", faces=faces)


def test_the_registry_names_classes() -> None:
    for name in PIPELINES:
        assert pipeline_class(name).__name__ == name and issubclass(pipeline_class(name), FacePipeline)
    assert pipeline_class("SomethingElse") is pipeline_class(None) is EmoRigPipeline
