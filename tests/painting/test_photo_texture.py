"""The open default's stages: their order, what may be left out, that none changes what another was given, times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.diffusion.sampling import Sampling
from emorig_diffusers.face.encode import EncodedFace
from emorig_diffusers.painting import photo_texture
from emorig_diffusers.painting.photo_texture import (
    OPTIONAL,
    STAGES,
    EditState,
    PhotoTexturePainter,
    facial_flow,
    place_heads,
    run_stages,
)
from emorig_diffusers.painting.stages.flow import MOUTH_SHUT, PhotoTexture
from emorig_diffusers.photo.landmarks import lips_apart
from emorig_diffusers.timing import recorded


@pytest.fixture(scope="module")
def bare(pipe: EmoRigPipeline) -> EmoRigPipeline:
    """Without a network."""
    return EmoRigPipeline(pipe.head, pipe.encoder)


@pytest.fixture
def start(bare: EmoRigPipeline, hopper: np.ndarray, hopper_face: EncodedFace) -> EditState:
    """Hopper, about to be happy."""
    target = bare.edit_codes(hopper_face, "happy")
    return EditState(PhotoTexturePainter(bare), hopper, hopper_face, target, Sampling(1))


def test_a_call_is_the_stages_in_their_order(bare: EmoRigPipeline, hopper: np.ndarray, start: EditState) -> None:
    with recorded() as seconds:
        called = bare(hopper, "happy", output_type="np")
    assert np.array_equal(run_stages(start).result, called.images[0])
    names = [stage.__name__ for stage in STAGES]
    assert [name for name in seconds if name in names] == names
    assert list(seconds)[:2] == ["find faces", "fit codes"]
    assert all(len(times) == 1 and times[0] > 0 for times in seconds.values())


def test_no_stage_changes_what_it_was_given(start: EditState) -> None:
    arrays = lambda state: {k: v.tobytes() for k, v in vars(state).items() if isinstance(v, np.ndarray)}
    states, before = [start], [arrays(start)]
    for stage in STAGES:
        states.append(stage(states[-1]))
        before.append(arrays(states[-1]))
    assert all(arrays(state).items() >= seen.items() for state, seen in zip(states, before, strict=True))
    assert len({seen["result"] for seen in before if "result" in seen}) > 3


@pytest.mark.parametrize(
    ("names", "settings"),
    [(["draw_frown"], {"wrinkles": 0.0}), (["shade_expression", "soften_frown"], {"shading": 0.0})],
)
def test_a_stage_may_be_left_out(
    bare: EmoRigPipeline,
    hopper: np.ndarray,
    hopper_face: EncodedFace,
    start: EditState,
    names: list[str],
    settings: dict[str, Any],
) -> None:
    without = EmoRigPipeline(bare.head, bare.encoder, **settings)(hopper, "anger", output_type="np").images[0]
    start = replace(start, target=bare.edit_codes(hopper_face, "anger"))
    skipped = run_stages(start, names).result
    assert np.array_equal(skipped, without) and not np.array_equal(skipped, run_stages(start).result)


@pytest.mark.parametrize("name", ["facial_flow", "wrinkle"])
def test_a_stage_that_others_need_may_not(start: EditState, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot be left out: choose from {OPTIONAL[0]}"):
        run_stages(start, [name])


def test_a_pipelines_texture_follows_its_head(pipe: EmoRigPipeline, bare: EmoRigPipeline) -> None:
    made = EmoRigPipeline(**bare.components)
    assert made.texture is made.texture and made.texture.head is bare.head
    other = type(bare.head).from_config(bare.head.config)
    made.head = other
    assert made.texture.head is other


def test_what_the_photo_alone_tells_is_found_once_and_for_no_other_photo(
    bare: EmoRigPipeline, start: EditState, hopper_face: EncodedFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, drawn = [], []
    monkeypatch.setattr(photo_texture, "photo_blur", lambda photo, *_: looked.append(photo) or 0.0)
    draw = PhotoTexture._draw
    monkeypatch.setattr(PhotoTexture, "_draw", lambda *given: drawn.append(given[1]) or draw(*given))
    start = replace(start, face=replace(hopper_face))  # whose photo nobody has looked at
    motion = lambda state: facial_flow(place_heads(state)).flow.motion
    sad = replace(start, target=bare.edit_codes(hopper_face, "sad"))
    bare._texture = None
    first, second = motion(start), motion(sad)
    assert len(looked) == 1 and len(drawn) == 3  # the photo's head, and what each of the two is to show
    motion(replace(start, photo=start.photo.copy()))
    assert len(looked) == 2
    bare._texture = None
    assert np.array_equal(motion(sad), second) and not np.array_equal(first, second)
    assert len(drawn) == 6


def test_a_mouth_that_opens_does_not_jump_in_where_the_face_moves(bare: EmoRigPipeline, start: EditState) -> None:
    texture, own = bare.texture, start.face.codes

    def gap(share: float) -> float:
        vertices = place_heads(replace(start, target=own.towards(start.target, share))).target_vertices
        return lips_apart(texture.head.landmarks(vertices[None])[0].numpy()[:, :2]) / texture.scale(vertices)

    shares = np.linspace(0, 0.6, 121)
    first = shares[np.argmax([gap(share) > MOUTH_SHUT for share in shares])]
    assert 0 < first < 0.5
    shown = lambda share, moving: run_stages(
        replace(start, target=own.towards(start.target, share), moving=moving)
    ).result.astype(int)
    changes = [np.abs(shown(first - 0.01, moving) - shown(first, moving)) for moving in (False, True)]
    jump, soft = (np.sort(change.ravel())[-500:].mean() for change in changes)  # about the pixels between the lips
    assert soft < jump / 2
    assert np.array_equal(run_stages(replace(start, moving=True)).result, run_stages(start).result)  # wholly there
