"""EmoRigPipeline: photos and arguments of every kind, right and wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from pictures import assert_close
from PIL import Image

from emorig_diffusers import EMOTIONS, EmoRigPipeline, NoFaceError, PhotoError
from emorig_diffusers.face.edit import check_turn
from emorig_diffusers.face.encode import EncodedFace


def test_kinds_of_input_give_the_same(pipe: EmoRigPipeline, astronaut: np.ndarray, tmp_path: Path) -> None:
    photo = np.ascontiguousarray(astronaut[:260, 90:350])
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    tensor = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    images = pipe([photo, path, tensor], action_units={"AU43": 1}, output_type="np").images
    assert len(images) == 3
    assert (images[0] != photo).any()
    for image in images[1:]:
        assert_close(image, images[0])
    for kind in (str(path), Image.fromarray(photo), (photo,)):
        assert np.array_equal(pipe(kind, action_units={}, output_type="np").images[0], photo)


def test_lists(pipe: EmoRigPipeline, astronaut: np.ndarray, hopper: np.ndarray) -> None:
    output = pipe([astronaut, Image.fromarray(hopper)], action_units={"AU1": 0.8})
    assert [i.size for i in output.images] == [(512, 512), (512, 600)]
    assert [len(f) for f in output.faces] == [1, 1]
    (alone,) = pipe(hopper, action_units={"AU1": 0.8}).images
    assert_close(alone, output.images[1])


@pytest.fixture(scope="module")
def couple(astronaut: np.ndarray, hopper: np.ndarray) -> np.ndarray:
    """The astronaut left, Grace Hopper right; uint8 [512, 949, 3]."""
    return np.hstack([astronaut, cv2.resize(hopper, (437, 512), interpolation=cv2.INTER_AREA)])


def test_faces_are_chosen_by_number(pipe: EmoRigPipeline, couple: np.ndarray) -> None:
    for which, changed in ((1, [True, False]), ("all", [True, True])):
        output = pipe(couple, action_units={"AU1": 0.8, "AU43": 0.5}, face=which, output_type="np")
        change = (output.images[0] != couple).any(-1)
        assert [change[:, :512].any(), change[:, 512:].any()] == changed
    for which, numbers in ((1, [1]), (2, [2]), ("largest", [2]), ("all", [1, 2])):
        (faces,) = pipe(couple, action_units={}, face=which).faces
        assert [f.number for f in faces] == numbers
        assert [f.box[0] > 512 for f in faces] == [n == 2 for n in numbers]


def test_numbers_beyond_the_faces(pipe: EmoRigPipeline, couple: np.ndarray) -> None:
    for wrong in (0, 3, -1):
        with pytest.raises(NoFaceError, match=f"no face {wrong}: the photo shows 2 faces"):
            pipe(couple, "happy", face=wrong)
    with pytest.raises(ValueError, match="'largest', 'all' or a number from 1"):
        pipe(couple, "happy", face="smallest")  # type: ignore[arg-type]


def test_a_face_at_the_photos_border(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    x0, y0, x1, y1 = (round(v) for v in astronaut_face.face.box)
    tight = np.ascontiguousarray(astronaut[y0 : y1 - 3, x0 : x1 - 3])
    output = pipe(tight, "surprise", output_type="np", generator=torch.Generator().manual_seed(0))
    assert output.images[0].shape == tight.shape
    assert (output.images[0] != tight).any()


# wrong arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Nothing to do: give an emotion"),
        ({"emotion": "joy"}, "Unknown emotion 'joy': choose one of "),
        ({"emotion": {"happy": 0.5, "glee": 1}}, "Unknown emotion 'glee'"),
        ({"emotion": {"happy": -1}}, "The share of happy must be a number from 0 to 1.5"),
        ({"emotion": dict.fromkeys(EMOTIONS[1:7], 1.5)}, "The shares of a blend add up to 9: give"),
        ({"emotion": {}}, "The blend is empty"),
        (
            {"emotion": "happy", "intensity": float("nan")},
            "intensity must be a number from 0 to 1.5, got nan",
        ),
        ({"emotion": "happy", "intensity": -0.1}, "intensity must be a number from 0 to 1.5, got -0.1"),
        ({"emotion": "happy", "intensity": 1.6}, "intensity must be a number from 0 to 1.5, got 1.6"),
        ({"emotion": "happy", "intensity": "1"}, "intensity must be a number"),
        ({"emotion": "happy", "reference": "x.jpg"}, "Give one of emotion, reference and codes"),
        ({"action_units": {"AU99": 1}}, "Unknown action unit 'AU99': use one of AU1"),
        ({"action_units": {"AU12": float("inf")}}, "The amount of AU12 must be a number"),
        ({"rotate": (1, 2)}, "rotate must be three angles"),
        ({"rotate": (0, float("nan"), 0)}, "rotate must be three angles"),
        ({"rotate": (60, 0, 0)}, "(yaw, pitch, roll) from -30 to 30 degrees, got (60, 0, 0)"),
        ({"rotate": (30, 30, 30)}, "The head would turn by 47 degrees: 45 are the most"),
        ({"gaze": (31, 0)}, "from -30 to 30 and from -25 to 25 degrees, or 'camera', got (31, 0)"),
        ({"gaze": (0, 10, 0)}, "gaze must be two angles"),
        ({"gaze": (float("nan"), 0)}, "gaze must be two angles"),
        ({"gaze": "left"}, "or 'camera', got 'left'"),
        ({"light_turn": (91, 0)}, "from -90 to 90 and from -60 to 60 degrees, got (91, 0)"),
        ({"light_turn": "left"}, "light_turn must be two angles"),
        ({"light_strength": -0.1}, "light_strength must be a number from 0 to 2, got -0.1"),
        ({"light_strength": float("nan")}, "light_strength must be a number"),
        ({"action_units": {"AU26": 1, "tongueOut": 0.5}}, "The unit tongueOut cannot be shown"),
        ({"emotion": "happy", "num_inference_steps": 0}, "whole number from 1 to 1000, got 0"),
        ({"emotion": "happy", "num_inference_steps": 2.5}, "whole number from 1 to 1000, got 2.5"),
        ({"emotion": "happy", "num_inference_steps": 1001}, "whole number from 1 to 1000, got 1001"),
        ({"action_units": {"AU1": 0.1}, "output_type": "latent"}, "output_type must be one of pil, np, pt"),
    ],
)
def test_wrong_arguments(pipe: EmoRigPipeline, astronaut: np.ndarray, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        pipe(astronaut, **arguments)
    message = str(caught.value)
    assert sentence in message
    assert message.endswith(".") and "\n" not in message


def test_a_head_that_looks_away_is_not_turned_further(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    looks = lambda *angles: pipe.edit_codes(astronaut_face, rotate=angles)
    check_turn(looks(25, 0, 0), looks(-10, 0, 0))
    check_turn(looks(50, 0, 0), looks(50, 0, 20))  # a head that is away already may be rolled
    with pytest.raises(ValueError, match="would look 5[0-9] degrees past the camera.*: 45 are the most"):
        check_turn(looks(25, 0, 0), looks(55, 0, 0))
    with pytest.raises(ValueError, match="^Photo 1 of 2: The head would turn by 7[0-9] degrees: 45 are the most"):
        pipe([astronaut, astronaut], codes=looks(75, 0, 0), face=1)


def test_unknown_emotion_lists_the_eight(pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Unknown emotion 'joy'") as caught:
        pipe(astronaut, "joy")
    assert set(str(caught.value).rstrip(".").split("choose one of ")[1].split(", ")) == set(EMOTIONS)


def test_codes_of_another_head(
    pipe: EmoRigPipeline, astronaut: np.ndarray, astronaut_face: EncodedFace
) -> None:
    flame = astronaut_face.codes.with_(expression=torch.zeros(1, 50))
    with pytest.raises(ValueError, match="fitted with this pipeline"):
        pipe(astronaut, codes=flame)


def test_photos_without_a_face(pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    with pytest.raises(NoFaceError, match="No face was found"):
        pipe(skimage.data.coffee(), "happy")
    with pytest.raises(NoFaceError, match="No face was found"):
        pipe(astronaut, reference=np.zeros((100, 100, 3), np.uint8))


def test_photos_that_cannot_be_read(pipe: EmoRigPipeline, astronaut: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no photo")
    for wrong in (tmp_path / "missing.jpg", tmp_path / "notes.jpg", np.zeros((3, 3)), 7, None):
        with pytest.raises(PhotoError):
            pipe(wrong, "happy")
    with pytest.raises(PhotoError, match="no file"):
        pipe(astronaut, reference=tmp_path / "missing.jpg")
