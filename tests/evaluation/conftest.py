"""What the tests of `emorig compare` share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
from two_encoders import rig

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.face import encode as rig_methods
from emorig_diffusers.hub.repository import resolve
from emorig_diffusers.models.emoca import EmocaEncoder
from emorig_diffusers.photo import faces
from emorig_diffusers.photo.faces import Face, find_faces


@pytest.fixture(scope="module")
def searched() -> Iterator[list[bytes]]:
    """The photos in which faces were looked for; each photo is really searched once for all tests."""
    asked: list[bytes] = []
    find = functools.cache(lambda data, shape: tuple(find_faces(np.frombuffer(data, np.uint8).reshape(shape))))

    def remember(rgb: np.ndarray) -> list[Face]:
        asked.append(rgb.tobytes())
        return list(find(asked[-1], rgb.shape))

    with pytest.MonkeyPatch.context() as patch:
        for module in (faces, rig_methods):
            patch.setattr(module, "find_faces", remember)
        yield asked


@pytest.fixture(scope="module")
def both(pipe: EmoRigPipeline) -> EmoRigPipeline:
    """With the bundled encoder that is DECA and EMOCA."""
    return rig(pipe, EmocaEncoder.from_pretrained(resolve("encoder-open")))
