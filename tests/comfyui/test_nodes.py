"""comfyui/: the nodes' inputs are the pipelines' arguments, and their outputs what a call gives."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import comfy_contract
import numpy as np
import pytest
import torch
from recording_pipeline import RecordingPipeline
from small_diffae import small_diffae

from emorig_diffusers import EMOTIONS, EmoRigPipeline
from emorig_diffusers.comfyui.pictures import edited_regions, to_images, to_photos
from emorig_diffusers.photo.faces import find_faces
from emorig_diffusers.pipelines.request import ARGUMENTS
from emorig_diffusers.provenance.watermark import detect

comfy_contract.install()
from emorig_diffusers.comfyui import nodes  # noqa: E402 - it needs ComfyUI's own modules

COMMON = {"intensity": 1.0, "face": "largest", "yaw": 0.0, "pitch": 0.0, "roll": 0.0, "seed": 3}


@pytest.fixture(scope="module")
def image(astronaut: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(astronaut.copy()).float()[None] / 255


@pytest.fixture(scope="module")
def recorder(pipe: EmoRigPipeline) -> RecordingPipeline:
    return RecordingPipeline(**pipe.components)


class BatchRecorder:
    """A pipeline that notes a call's options, and paints a square on every picture."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def __call__(self, photos: list[np.ndarray], **asked: Any) -> Any:
        self.asked = asked
        results = [photo.copy() for photo in photos]
        for result in results:
            result[100:140, 100:140] = 7
        face = SimpleNamespace(box=(90.0, 90.0, 150.0, 150.0))
        return SimpleNamespace(images=results, faces=[[face] for _ in results])


def inputs_of(node: Any) -> dict[str, Any]:
    return {one.id: one for one in node.GET_SCHEMA().inputs}


# schemas


def test_every_node_is_listed() -> None:
    async def listed() -> list[Any]:
        return await (await nodes.comfy_entrypoint()).get_node_list()

    names = [node.GET_SCHEMA().node_id for node in asyncio.run(listed())]
    assert names == [
        "EmorigLoadPipeline", "EmorigEditEmotion", "EmorigEditUnits", "EmorigEditWords", "EmorigEditReference",
        "EmorigAllEmotions",
    ]  # fmt: skip


def test_inputs_are_the_calls_arguments() -> None:
    inputs = inputs_of(nodes.EditEmotion)
    intensity, limits = inputs["intensity"], ARGUMENTS["intensity"].metadata["limits"]
    assert (intensity.min, intensity.max, intensity.default) == (*limits, ARGUMENTS["intensity"].default)
    assert intensity.tooltip == ARGUMENTS["intensity"].metadata["about"]
    assert inputs["emotion"].options == list(EMOTIONS)
    assert all(inputs[name].tooltip == ARGUMENTS["rotate"].metadata["about"] for name in ("yaw", "pitch", "roll"))
    assert inputs["num_inference_steps"].optional and "`" not in inputs["num_inference_steps"].tooltip


# edits


def test_emotion(image: torch.Tensor, pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    [pipeline] = nodes.LoadPipeline.execute("emorig-open", mark=False).args
    images, edited = nodes.EditEmotion.execute(pipeline, image, "surprise", **COMMON | {"yaw": 10.0}).args
    generator = torch.Generator().manual_seed(3)
    [wanted] = pipe(astronaut, "surprise", rotate=(10, 0, 0), generator=generator, output_type="np").images
    assert images.shape == image.shape and edited.shape == image.shape[:3]
    np.testing.assert_array_equal(to_photos(images)[0], wanted)
    assert torch.equal(images[edited == 0], image[edited == 0])
    assert set(edited.unique().tolist()) == {0, 1} and 0.03 < edited.mean() < 0.2


def test_pictures_are_marked(image: torch.Tensor, pipe: EmoRigPipeline) -> None:
    [marked] = to_photos(nodes.EditEmotion.execute(pipe, image, "sad", **COMMON).args[0])
    assert detect(marked, find_faces(marked)).marked


def test_each_picture_of_a_batch_as_alone(image: torch.Tensor) -> None:
    batch, pipeline = torch.cat([image, image.flip(2)]), BatchRecorder()
    images, edited = nodes.EditEmotion.execute(pipeline, batch, "sad", **COMMON).args
    assert images.shape == batch.shape and edited.shape == batch.shape[:3]
    assert [one.initial_seed() for one in pipeline.asked["generator"]] == [3, 3]
    assert pipeline.asked["emotion"] == "sad" and pipeline.asked["rotate"] is None


def test_options(image: torch.Tensor) -> None:
    pipeline = BatchRecorder()
    given = COMMON | {"face": "2", "intensity": 0.5, "roll": -5.0, "num_inference_steps": 7}
    nodes.EditEmotion.execute(pipeline, image, "happy", "happy=.6, surprise=.4", **given)
    asked = {name: value for name, value in pipeline.asked.items() if name not in ("generator", "callback_on_step_end")}
    assert asked == {"intensity": 0.5, "face": 2, "rotate": [0.0, 0.0, -5.0], "num_inference_steps": 7,
                     "output_type": "np", "emotion": {"happy": 0.6, "surprise": 0.4}}  # fmt: skip


def test_units(image: torch.Tensor) -> None:
    pipeline, still = BatchRecorder(), {name: 0.0 for name in inputs_of(nodes.EditUnits) if name.startswith("AU")}
    given = still | {"AU4": 0.5} | {name: value for name, value in COMMON.items() if name != "intensity"}
    nodes.EditUnits.execute(pipeline, image, "L12=-.5, jawOpen=.2", **given)
    assert pipeline.asked["action_units"] == {"AU4": 0.5, "L12": -0.5, "jawOpen": 0.2}
    with pytest.raises(ValueError, match="AU4 is named twice"):
        nodes.EditUnits.execute(pipeline, image, "AU4=1", **given)


def test_units_at_zero_change_nothing(image: torch.Tensor, pipe: EmoRigPipeline) -> None:
    still = {name: 0.0 for name in inputs_of(nodes.EditUnits) if name.startswith("AU")}
    images, edited = nodes.EditUnits.execute(pipe, image, **still | COMMON).args
    assert torch.equal(images, image) and not edited.any()


def test_words(image: torch.Tensor) -> None:
    pipeline = BatchRecorder()
    nodes.EditWords.execute(pipeline, image, "左から光", **COMMON)
    assert pipeline.asked["prompt"] == "左から光" and pipeline.asked["intensity"] == 1.0
    assert inputs_of(nodes.EditWords)["prompt"].multiline


def test_reference(image: torch.Tensor, hopper: np.ndarray) -> None:
    pipeline, other = BatchRecorder(), torch.from_numpy(hopper.copy()).float()[None] / 255
    nodes.EditReference.execute(pipeline, image, other, pose=True, **COMMON)
    np.testing.assert_array_equal(pipeline.asked["reference"], hopper)
    assert pipeline.asked["modes"] == ["exp", "pose"]


def test_a_reference_for_each(image: torch.Tensor) -> None:
    batch, pipeline = torch.cat([image, image.flip(2)]), BatchRecorder()
    images, edited = nodes.EditReference.execute(pipeline, batch, batch.flip(0), **COMMON).args
    assert images.shape == batch.shape and edited.shape == batch.shape[:3]
    np.testing.assert_array_equal(pipeline.asked["reference"], to_photos(image)[0])
    with pytest.raises(ValueError, match="2 pictures and 3 references"):
        nodes.EditReference.execute(pipeline, batch, torch.cat([image] * 3), **COMMON)


def test_all_emotions(image: torch.Tensor, recorder: RecordingPipeline) -> None:
    given = {name: value for name, value in COMMON.items() if name not in nodes.ANGLES}
    images, edited, sheet = nodes.AllEmotions.execute(recorder, image, **given).args
    assert len(images) == len(edited) == len(EMOTIONS) and len({one.numpy().tobytes() for one in images}) == 8
    assert sheet.ndim == 4 and sheet.shape[-1] == 3 and float(sheet.max()) == 1
    with pytest.raises(ValueError, match="one face"):
        nodes.AllEmotions.execute(recorder, image, **given | {"face": "all"})
    with pytest.raises(ValueError, match="There are 2 pictures"):
        nodes.AllEmotions.execute(recorder, torch.cat([image, image]), **given)


def test_a_mistake_is_one_sentence(image: torch.Tensor, pipe: EmoRigPipeline) -> None:
    with pytest.raises(ValueError, match="^rotate must be three angles .* from -30 to 30 degrees"):
        nodes.EditEmotion.execute(pipe, image, "happy", **COMMON | {"yaw": 40.0})
    with pytest.raises(ValueError, match="^Photo 2 of 2: No face was found"):
        nodes.EditEmotion.execute(pipe, torch.cat([image, 0 * image]), "happy", **COMMON)


def test_a_pipeline_without_a_head(image: torch.Tensor) -> None:
    pipeline, given = small_diffae(), COMMON | {"num_inference_steps": 2}
    with torch.inference_mode():  # in which ComfyUI runs its nodes
        images, edited = nodes.EditEmotion.execute(pipeline, torch.cat([image, image]), "sad", **given).args
    assert torch.equal(images[0], images[1]) and edited[0].any()
    assert torch.equal(images[edited == 0], torch.cat([image, image])[edited == 0])
    with pytest.raises(ValueError, match="^This pipeline has no head, so no rotate"):
        nodes.EditEmotion.execute(pipeline, image, "sad", **given | {"yaw": 5.0})


@pytest.mark.parametrize("model", ["/nowhere", ""])
def test_no_such_model(model: str) -> None:
    with pytest.raises(ValueError, match=rf"The model '{model}' cannot be loaded .*: give emorig-open"):
        nodes.LoadPipeline.execute(model)


# pictures


def test_untouched_floats_and_alpha_stay(image: torch.Tensor) -> None:
    batch = torch.rand(2, 64, 48, 4)
    photos = to_photos(batch)
    results = [photo.copy() for photo in photos]
    results[1][10:20, 10:20] ^= 255
    made = to_images(batch, photos, results)
    changed = torch.zeros(2, 64, 48, dtype=torch.bool)
    changed[1, 10:20, 10:20] = True
    assert torch.equal(made[~changed], batch[~changed]) and torch.equal(made[..., 3], batch[..., 3])
    assert torch.equal(made[changed][:, :3] * 255, torch.from_numpy(results[1][10:20, 10:20]).reshape(-1, 3).float())


def test_regions_have_no_holes() -> None:
    photo, result = np.zeros((2, 100, 100, 3), np.uint8)
    result[20:60, 20:60] = 1
    result[35:45, 35:45] = 0
    [region] = edited_regions([photo], [result], [0.0])
    assert region[20:60, 20:60].all() and region.sum() == 1600


@pytest.mark.parametrize("shape", [(64, 64, 3), (0, 64, 64, 3), (1, 3, 64, 64)])
def test_no_pictures(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must be pictures \[B, H, W, 3\]"):
        to_photos(torch.zeros(shape))


def test_no_numbers() -> None:
    with pytest.raises(ValueError, match="no numbers"):
        to_photos(torch.full((1, 64, 64, 3), float("nan")))
