"""An ugly face fails: edits of two public-domain portraits against stored faces that were looked at."""

from __future__ import annotations

import numpy as np
import pytest
from perceptual import LEAST_ALIKE, MOST_OFF, compare, draw_faces, load_sheet, portraits

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face.emotions import EMOTIONS


@pytest.fixture(scope="module")
def stored() -> dict[str, dict[str, np.ndarray]]:
    return load_sheet()


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_edits_look_as_those_that_were_looked_at(
    name: str, pipe: EmoRigPipeline, stored: dict[str, dict[str, np.ndarray]]
) -> None:
    faces = draw_faces(pipe, portraits()[name])
    figures = {emotion: compare(faces[emotion], stored[name][emotion]) for emotion in EMOTIONS}
    bad = {e: f for e, f in figures.items() if f[0] < LEAST_ALIKE or f[1] > MOST_OFF}
    assert not bad, f"{name}: {bad} (similarity, largest difference); python tests/perceptual.py shows and renews them"


@pytest.mark.parametrize("emotion", ["happy", "surprise", "disgust"])
def test_a_mouth_that_sits_wrong_is_told(emotion: str, stored: dict[str, dict[str, np.ndarray]]) -> None:
    face = stored["hopper"][emotion]
    wrong = face.copy()
    wrong[50:72, 24:72] = np.roll(face, 3, axis=0)[50:72, 24:72]
    assert compare(wrong, face)[1] > MOST_OFF


def test_shade_that_is_too_strong_is_told(pipe: EmoRigPipeline, stored: dict[str, dict[str, np.ndarray]]) -> None:
    strong = EmoRigPipeline(**pipe.components, shading=2.0)
    strong.set_progress_bar_config(disable=True)
    face = draw_faces(strong, portraits()["hopper"], ("anger",))["anger"]
    assert compare(face, stored["hopper"]["anger"])[1] > MOST_OFF
