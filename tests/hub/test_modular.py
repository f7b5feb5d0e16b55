"""Modular Diffusers: what is exported opens by id as blocks, and they paint what the pipeline paints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_hub
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, ModularPipeline
from drawing_unet import drawing_unet
from pictures import assert_close

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main
from emorig_diffusers.hub.index import INDEX
from emorig_diffusers.hub.repository import BLOCKS_INDEX, WEIGHTS, export_hub
from emorig_diffusers.models.appearance import AppearanceEncoder
from emorig_diffusers.pipelines.modular import (
    Compose,
    EditCodes,
    EmoRigBlocks,
    EncodeFaces,
    FindFaces,
    PaintFaces,
)

ID = "someone/emorig-blocks"

BY_ID = f"""
import sys
import numpy as np, skimage.data, torch
from diffusers import ModularPipeline, ModularPipelineBlocks
def edit(pipe, name):
    pipe.load_components()
    generator = torch.Generator().manual_seed(0)
    given = {{"image": skimage.data.astronaut(), "emotion": "sad", "output_type": "np"}}
    np.save(name, pipe(**given, generator=generator, output="images")[0])
try:
    ModularPipeline.from_pretrained("{ID}")
except ValueError as error:
    print("refused:", error)
assert "emorig_diffusers" not in sys.modules
edit(ModularPipeline.from_pretrained("{ID}", trust_remote_code=True), "by_id.npy")
blocks = ModularPipelineBlocks.from_pretrained("{ID}", trust_remote_code=True)
print("blocks:", *blocks.sub_blocks)
from emorig_diffusers.pipelines.modular import EmoRigBlocks
edit(EmoRigBlocks().init_pipeline("{ID}"), "installed.npy")
"""


@pytest.fixture(scope="module")
def folder(tiny_pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_hub(tiny_pipe, tmp_path_factory.mktemp("exports") / "here")


@pytest.fixture(scope="module")
def blocks(folder: Path) -> ModularPipeline:
    pipe = EmoRigBlocks().init_pipeline(str(folder))
    pipe.load_components()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def child(tiny_pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[fake_hub.Child]:
    with fake_hub.serve(tmp_path_factory.mktemp("hub")) as hub:
        export_hub(tiny_pipe, hub.root / ID, repo_id=ID)
        made = fake_hub.Child(hub, tmp_path_factory.mktemp("child"), BY_ID)
        yield made
        made.process.kill()
        made.process.wait()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def block_of(kind: Any, parts: ModularPipeline) -> ModularPipeline:
    """A block alone, with the components and settings of another pipeline."""
    pipe = kind().init_pipeline(parts._pretrained_model_name_or_path)
    pipe.load_components()
    return pipe


def test_by_id(child: fake_hub.Child, tiny_pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    wanted = tiny_pipe(astronaut, "sad", generator=seeded(), output_type="np").images[0]
    assert (wanted != astronaut).any()
    assert_close(child.picture("by_id.npy"), wanted)
    assert_close(child.picture("installed.npy"), wanted)
    assert f"refused: The repository for {ID} contains custom code" in child.output
    assert "blocks: find_faces encode_faces edit_codes paint_faces compose\n" in child.output


def test_same_pixels_as_the_call(
    blocks: ModularPipeline, tiny_pipe: EmoRigPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    """Two photos, one reference, a turn and units, each photo with its own noise."""
    asked = {"reference": hopper, "rotate": (8, 0, 0), "action_units": {"AU1": 0.5}, "modes": ["exp", "pose"]}
    images = [astronaut, astronaut[:, ::-1].copy()]
    wanted = tiny_pipe(images, **asked, generator=[seeded(), seeded()], output_type="np")
    state = blocks(image=images, **asked, generator=[seeded(), seeded()], output_type="np")
    np.testing.assert_array_equal(state.images, wanted.images)
    assert [len(faces) for faces in state.edited_faces] == [1, 1]
    assert torch.equal(state.edited_faces[1][0].target.expression, wanted.faces[1][0].target.expression)


def test_some_emotions_of_one_photo(
    blocks: ModularPipeline, tiny_pipe: EmoRigPipeline, astronaut: np.ndarray
) -> None:
    wanted = tiny_pipe(astronaut, ["sad", "anger"], generator=seeded(), output_type="np").images
    made = blocks(image=astronaut, emotion=["sad", "anger"], generator=seeded(), output_type="np", output="images")
    np.testing.assert_array_equal(made, wanted)


def test_each_block_alone(blocks: ModularPipeline, tiny_pipe: EmoRigPipeline, astronaut: np.ndarray) -> None:
    found = FindFaces().init_pipeline()(image=astronaut, face="all")
    assert len(found.found_faces[0]) == 1
    encoded = block_of(EncodeFaces, blocks)(photos=found.photos, found_faces=found.found_faces)
    [wanted] = tiny_pipe.encode(astronaut)
    assert torch.equal(encoded.encoded_faces[0][0].codes.expression, wanted.codes.expression)
    known = {"photos": found.photos, "encoded_faces": encoded.encoded_faces}
    edits = block_of(EditCodes, blocks)(**known, emotion="anger", intensity=1.2, output="photo_edits")
    painted = block_of(PaintFaces, blocks)(photo_edits=edits, generator=seeded(), output="painted")
    made = Compose().init_pipeline()(photos=found.photos, photo_edits=edits, painted=painted, output="images")
    [picture] = tiny_pipe(astronaut, "anger", 1.2, generator=seeded()).images
    np.testing.assert_array_equal(np.asarray(made[0]), np.asarray(picture))


def test_codes_of_a_photo_alone(blocks: ModularPipeline, tiny_pipe: EmoRigPipeline, hopper: np.ndarray) -> None:
    [[face]] = block_of(EncodeFaces, blocks)(image=hopper, output="encoded_faces")
    assert torch.equal(face.codes.shape, tiny_pipe.encode(hopper)[0].codes.shape)


def test_a_network_that_draws_the_whole_crop(pipe: EmoRigPipeline, tmp_path: Path, hopper: np.ndarray) -> None:
    torch.manual_seed(0)
    appearance = AppearanceEncoder(cond_dim=64).requires_grad_(False).eval()
    rig = EmoRigPipeline(
        pipe.head, pipe.encoder, drawing_unet(64), DDIMScheduler(), appearance,
        default_num_inference_steps=2, crop_size=64, code_parts=["appearance"],
    )  # fmt: skip
    rig.set_progress_bar_config(disable=True)
    modular = EmoRigBlocks().init_pipeline(str(export_hub(rig, tmp_path / "rig")))
    modular.load_components()
    modular.set_progress_bar_config(disable=True)
    made = modular(image=hopper, emotion="fear", generator=seeded(), output_type="np", output="images")
    np.testing.assert_array_equal(made, rig(hopper, "fear", generator=seeded(), output_type="np").images)


def test_edits_one_after_the_other(
    blocks: ModularPipeline, tiny_pipe: EmoRigPipeline, astronaut: np.ndarray, hopper: np.ndarray
) -> None:
    edits = {1: [{"emotion": "anger"}, {"reference": hopper, "intensity": 0.5}]}
    made = blocks(image=astronaut, edits=edits, generator=seeded(), output_type="np", output="images")
    wanted = tiny_pipe(astronaut, edits=edits, generator=seeded(), output_type="np").images
    np.testing.assert_array_equal(made, wanted)


def test_no_component_or_setting_is_forgotten() -> None:
    parts, settings = (set(names) for names in EmoRigPipeline._get_signature_keys(EmoRigPipeline))
    made = EmoRigBlocks()
    assert set(made.component_names) == parts
    assert {one.name for one in made.expected_configs} == settings - parts - {"settings"}


def test_no_settings_are_lost(blocks: ModularPipeline, tiny_pipe: EmoRigPipeline) -> None:
    from emorig_diffusers.pipelines.modular import pipeline_of

    assert pipeline_of(blocks).settings == tiny_pipe.settings
    assert pipeline_of(blocks) is pipeline_of(blocks)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"emotion": "joy"}, "joy"),
        ({"emotion": "sad", "num_inference_steps": 0}, "^num_inference_steps must be a whole number"),
        ({}, "^Nothing to do: give an emotion"),
    ],
)
def test_mistakes(blocks: ModularPipeline, astronaut: np.ndarray, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        blocks(image=astronaut, **given)


def test_not_loaded(folder: Path, astronaut: np.ndarray) -> None:
    with pytest.raises(ValueError, match="^Not loaded: head, encoder, unet, scheduler. Call load_components"):
        EmoRigBlocks().init_pipeline(str(folder))(image=astronaut, emotion="sad")


def test_the_bundled_blocks_have_the_pipelines_settings() -> None:
    index, blocks = (json.loads((WEIGHTS / "emorig-open" / name).read_text()) for name in (INDEX, BLOCKS_INDEX))
    shared = {name for name in index.keys() & blocks.keys() if not isinstance(index[name], list)}
    assert "emotions" in shared
    assert {name: blocks[name] for name in shared} == {name: index[name] for name in shared}


def test_the_command_names_the_repository(tmp_path: Path) -> None:
    assert main.main(["export", str(tmp_path / "out"), "--repo-id", "you/my-emorig"]) == 0
    index = json.loads((tmp_path / "out" / "modular_model_index.json").read_text())
    places = {entry[2]["pretrained_model_name_or_path"] for entry in index.values() if isinstance(entry, list)
              and len(entry) == 3 and isinstance(entry[2], dict)}  # fmt: skip
    assert places == {"you/my-emorig"}
    assert '"you/my-emorig"' in (tmp_path / "out" / "README.md").read_text()
