"""hub.py: pipelines leave in Hub layout and come back by id, through a fake Hub, to the same picture."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import numpy as np
import pytest
import skimage.data
import torch
from diffusers.pipelines import pipeline_loading_utils, pipeline_utils
from diffusers.utils import dynamic_modules_utils, hub_utils
from huggingface_hub import ModelCard, RepoUrl
from pictures import assert_close
from small_diffae import small_diffae

from emorig_diffusers import DiffAEEmotionPipeline, EmoRigPipeline
from emorig_diffusers.hub.index import needs_no_trust
from emorig_diffusers.hub.repository import bundled, export_hub, resolve
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet

ROOT = Path(__file__).parents[2]
ID = "someone/emorig-open"

START = """
import sys
import numpy as np, skimage.data, torch
def edit(pipe, name):
    generator = torch.Generator().manual_seed(0)
    np.save(name, pipe(skimage.data.astronaut(), "sad", generator=generator, output_type="np").images[0])
"""

WITH_DIFFUSERS = f"""{START}
from diffusers import DiffusionPipeline
try:
    DiffusionPipeline.from_pretrained("{ID}")
except ValueError as error:
    print("refused:", error)
assert "emorig_diffusers" not in sys.modules
pipe = DiffusionPipeline.from_pretrained("{ID}", trust_remote_code=True)
print("class:", type(pipe).__module__, type(pipe).__name__)
edit(pipe, "by_id.npy")
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
weights = [w for part in (pipe.head, pipe.encoder, pipe.unet) for w in (*part.parameters(), *part.buffers())]
print("odd addresses:", sum(w.data_ptr() % 64 > 0 for w in weights))
edit(pipe, "saved.npy")
"""

WITH_OUR_CLASS = f"""{START}
from pathlib import Path
from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.hub.repository import push
pipe = EmoRigPipeline.from_pretrained("{ID}")
print("name:", pipe.name_or_path)
edit(pipe, "by_id.npy")
exported = Path(sys.argv[1])
edit(EmoRigPipeline.from_pretrained(exported), "by_folder.npy")
print("offline:", EmoRigPipeline.from_pretrained("{ID}", local_files_only=True).unet is not None)
pipe.save_pretrained("plain")
commit = push(pipe, "someone/pushed").oid
print("pushed:", EmoRigPipeline.from_pretrained("someone/pushed", revision=commit).unet is not None)
readme = exported.parent / "pushed/README.md"
print("card:", '"someone/pushed"' in readme.read_text())
readme.write_text("edited")
push(pipe, "someone/pushed")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fake_hub.FakeHub]:
    with fake_hub.serve(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def exported(hub: fake_hub.FakeHub, tiny_pipe: EmoRigPipeline) -> Path:
    return export_hub(tiny_pipe, hub.root / ID)


@pytest.fixture(scope="module")
def children(
    hub: fake_hub.FakeHub, exported: Path, tiny_pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[fake_hub.Child]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("theirs", "ours")]
    tiny_pipe.save_pretrained(folders[0] / "saved")
    codes = (WITH_DIFFUSERS, "saved"), (WITH_OUR_CLASS, str(exported))
    made = [fake_hub.Child(hub, folder, *code) for folder, code in zip(folders, codes)]
    yield made
    for child in made:
        child.process.kill()
        child.process.wait()


@pytest.fixture(scope="module")
def picture(tiny_pipe: EmoRigPipeline, children: list[fake_hub.Child]) -> np.ndarray:
    return edit(tiny_pipe)


def edit(pipe: EmoRigPipeline) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    # her mouth closes, so the network paints; a smile would keep her own teeth
    return pipe(skimage.data.astronaut(), "sad", generator=generator, output_type="np").images[0]


def index_of(folder: Path) -> dict:
    return json.loads((folder / "model_index.json").read_text())


# layout


def test_every_class_of_ours_has_a_shim_of_one_line(exported: Path) -> None:
    index = index_of(exported)
    assert index["_class_name"] == ["pipeline_emorig", "EmoRigPipeline"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["appearance_encoder"] == [None, None]
    for component, kind in (("head", "HeadModel"), ("encoder", "LandmarkEncoder"), ("unet", "RigUNet")):
        module, name = index[component]
        assert name == kind
        code = (exported / component / f"{module}.py").read_text()
        assert re.fullmatch(rf"from emorig_diffusers\.models\.\w+ import {kind}\n", code)
    assert len(list(exported.rglob("*.py"))) == 5  # and of the blocks
    assert {p.suffix for p in exported.rglob("*") if p.is_file()} == {".json", ".md", ".py", ".safetensors"}


def test_export_tells_nothing_of_this_machine(exported: Path) -> None:
    texts = [p.read_text() for p in exported.rglob("*") if p.is_file() and p.suffix != ".safetensors"]
    for private in ('"_name_or_path"', str(ROOT), str(exported.parent)):
        assert not any(private in text for text in texts)


def test_card(exported: Path, children: list[fake_hub.Child]) -> None:
    card = ModelCard.load(exported / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "diffusers")
    assert card.data.pipeline_tag == "image-to-image"
    assert "trust_remote_code=True" in card.text
    assert "revision=" in card.text


def test_card_of_originals(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    """FLAME's components have no names: what was brought under others' terms is not called Apache-2.0."""
    head = HeadModel.from_config(dict(tiny_pipe.head.config) | {"expression_names": ()})
    head.load_state_dict(tiny_pipe.head.state_dict())
    card = (export_hub(EmoRigPipeline(head, tiny_pipe.encoder), tmp_path / "brought") / "README.md").read_text()
    assert "license: other\n" in card and "Keep this repository private" in card


def test_own_card(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    folder = export_hub(tiny_pipe, tmp_path / "new" / "one", card="---\nlicense: mit\n---\n")
    assert (folder / "README.md").read_text() == "---\nlicense: mit\n---\n"


# refusals


def test_second_export_is_refused_and_harmless(exported: Path, tiny_pipe: EmoRigPipeline) -> None:
    before = {p: p.stat().st_mtime_ns for p in exported.rglob("*")}
    with pytest.raises(ValueError, match="not empty"):
        export_hub(tiny_pipe, exported)
    assert {p: p.stat().st_mtime_ns for p in exported.rglob("*")} == before


def test_file_is_refused(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="give a new or an empty folder"):
        export_hub(tiny_pipe, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_empty_folder_is_taken(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert index_of(export_hub(tiny_pipe, tmp_path / "empty"))["unet"] == ["unet_emorig", "RigUNet"]


def test_foreign_class_is_refused_and_leaves_nothing(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    class Mine(RigUNet):
        pass

    config = {k: v for k, v in tiny_pipe.unet.config.items() if not k.startswith("_")}
    foreign = EmoRigPipeline(tiny_pipe.head, tiny_pipe.encoder, Mine(**config), tiny_pipe.scheduler)
    with pytest.raises(ValueError, match="unet is a .*Mine, which users of the Hub cannot import"):
        export_hub(foreign, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_export_leaves_nothing(
    tiny_pipe: EmoRigPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        assert len(list(tmp_path.rglob("*.safetensors"))) == 3
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_hub(tiny_pipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# back again


def test_saved_and_loaded_paints_the_same(
    tiny_pipe: EmoRigPipeline, picture: np.ndarray, tmp_path: Path
) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    assert_close(edit(EmoRigPipeline.from_pretrained(tmp_path)), picture)


def test_half_precision_network(tiny_pipe: EmoRigPipeline, picture: np.ndarray, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    half = RigUNet.from_pretrained(tmp_path / "unet", torch_dtype=torch.float16)
    half.save_pretrained(tmp_path / "unet", variant="fp16")
    dtype = {"unet": torch.float16, "default": torch.float32}
    loaded = EmoRigPipeline.from_pretrained(tmp_path, variant="fp16", dtype=dtype)
    assert (loaded.unet.dtype, loaded.head.dtype) == (torch.float16, torch.float32)
    difference = np.abs(edit(loaded).astype(int) - picture)
    assert 0 < difference.max() <= 3  # not 0, or the network would not be in the picture at all


def test_bundled_names() -> None:
    assert "emorig-open" in bundled()
    assert Path(resolve("emorig-open"), "model_index.json").is_file()
    assert resolve("someone/emorig-open") == "someone/emorig-open"


# code in folders


def test_our_own_code_needs_no_trust(exported: Path) -> None:
    assert needs_no_trust(exported)
    assert needs_no_trust(resolve("emorig-open"))


@pytest.mark.parametrize(
    "place, line",
    [
        ("pipeline_emorig.py", "from emorig_diffusers.pipelines.emorig import EmoRigPipeline; print()\n"),
        ("pipeline_emorig.py", "from emorig_diffusers_evil import EmoRigPipeline\n"),
        ("unet/unet_emorig.py", "from emorig_diffusers.models.unet import RigUNet\nopen('x')\n"),
        ("None.py", "from os import system\n"),  # diffusers runs this name if no custom pipeline is given
    ],
)
def test_other_code_is_refused(tiny_pipe: EmoRigPipeline, tmp_path: Path, place: str, line: str) -> None:
    folder = export_hub(tiny_pipe, tmp_path / "out")
    (folder / place).write_text(line)
    assert not needs_no_trust(folder)
    with pytest.raises(ValueError, match="trust_remote_code"):
        EmoRigPipeline.from_pretrained(folder)


def test_code_outside_the_folder_is_refused(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    folder = export_hub(tiny_pipe, tmp_path / "out")
    (tmp_path / "other.py").write_text("print()\n")
    index = index_of(folder) | {"_class_name": ["../other", "X"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert not needs_no_trust(folder)


# by id; the children have been working since the first test that wanted the picture


def test_diffusers_alone_paints_the_same(children: list[fake_hub.Child], picture: np.ndarray) -> None:
    assert "class: emorig_diffusers.pipelines.emorig EmoRigPipeline" in children[0].output
    assert_close(children[0].picture("by_id.npy"), picture)


def test_diffusers_alone_opens_what_was_saved(children: list[fake_hub.Child], picture: np.ndarray) -> None:
    assert "odd addresses: 0\n" in children[0].output
    assert_close(children[0].picture("saved.npy"), picture)


def test_without_trust_it_is_refused_politely(children: list[fake_hub.Child]) -> None:
    assert f"refused: The repository for {ID} contains custom code" in children[0].output
    assert "Traceback" not in children[0].output


def test_our_class_needs_no_trust_by_id_or_folder(children: list[fake_hub.Child], picture: np.ndarray) -> None:
    assert f"name: {ID}\n" in children[1].output
    assert_close(children[1].picture("by_id.npy"), picture)
    assert_close(children[1].picture("by_folder.npy"), picture)


def test_downloaded_pipeline_opens_offline(children: list[fake_hub.Child]) -> None:
    assert "offline: True" in children[1].output


def test_push(children: list[fake_hub.Child], hub: fake_hub.FakeHub) -> None:
    assert "pushed: True" in children[1].output
    assert "card: True" in children[1].output
    pushed, here = hub.files("someone/pushed"), hub.files(ID)
    places = pushed.pop("modular_model_index.json"), here.pop("modular_model_index.json")
    assert pushed == here | {"README.md": b"edited"}  # the second push leaves an edited card alone
    found = b'"pretrained_model_name_or_path": %s,'
    assert places[0] == places[1].replace(found % b"null", found % b'"someone/pushed"') != places[1]


def test_save_pretrained_of_a_loaded_pipeline_is_laid_out_alike(children: list[fake_hub.Child], exported: Path) -> None:
    assert children[1].output
    plain, names = children[1].folder / "plain", lambda folder: {p.relative_to(folder) for p in folder.rglob("*")}
    assert names(plain) == names(exported) - {Path("README.md")}
    assert index_of(plain) == index_of(exported)


def test_old_folders_without_shims(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    """What earlier versions and diffusers' own `save_pretrained` write."""
    tiny_pipe.save_pretrained(tmp_path)
    for shim in tmp_path.rglob("*.py"):
        shim.unlink()
    modules = {"head": "head", "encoder": "landmark_fit", "unet": "unet"}
    index = index_of(tmp_path)
    plain = {name: [f"emorig_diffusers.models.{module}", index[name][1]] for name, module in modules.items()}
    (tmp_path / "model_index.json").write_text(json.dumps(index | plain | {"_class_name": "EmoRigPipeline"}))
    assert EmoRigPipeline.from_pretrained(tmp_path).config.default_num_inference_steps == 3


def test_our_class_runs_no_code_of_a_folder(
    tiny_pipe: EmoRigPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    refuse = lambda *_, **__: pytest.fail("code was loaded")
    for module in (pipeline_loading_utils, dynamic_modules_utils):
        monkeypatch.setattr(module, "get_class_from_dynamic_module", refuse)
    assert isinstance(EmoRigPipeline.from_pretrained(tmp_path).unet, RigUNet)


def test_pushed_by_diffusers_own_method(
    tiny_pipe: EmoRigPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shims are there before diffusers uploads."""
    sent: list[set[str]] = []
    places: list[str] = []

    def upload(self: EmoRigPipeline, folder: str, *_: object, **__: object) -> None:
        sent.append({p.name for p in Path(folder).rglob("*.py")})
        index = json.loads((Path(folder) / "modular_model_index.json").read_text())
        places.append(index["head"][2]["pretrained_model_name_or_path"])

    monkeypatch.setattr(pipeline_utils.DiffusionPipeline, "_upload_folder", upload)
    for module in (hub_utils, pipeline_utils):
        if hasattr(module, "create_repo"):
            monkeypatch.setattr(module, "create_repo", lambda *_, **__: RepoUrl("https://huggingface.co/someone/x"))
    monkeypatch.setattr(hub_utils, "load_or_create_model_card", lambda *_, **__: ModelCard("---\nlicense: mit\n---\n"))
    tiny_pipe.push_to_hub("someone/x")
    shims = {"pipeline_emorig.py", "blocks_emorig.py", "head_emorig.py", "encoder_emorig.py", "unet_emorig.py"}
    assert (sent, places) == ([shims], ["someone/x"])


# the pipeline again from its parts


def test_components_have_the_checkpoints_settings(pipe: EmoRigPipeline) -> None:
    again = EmoRigPipeline(**pipe.components)
    assert again.config.default_num_inference_steps == pipe.config.default_num_inference_steps == 1
    assert again.settings == pipe.settings and again.unet is pipe.unet
    other = EmoRigPipeline(**pipe.components, wrinkles=0.5)
    assert other.settings == pipe.settings | {"wrinkles": 0.5}
    assert EmoRigPipeline(**other.components).config.wrinkles == 0.5
    assert EmoRigPipeline(**other.components, **other.parameters).settings == other.settings
    assert EmoRigPipeline.from_pipe(other, crop_size=128).settings == other.settings | {"crop_size": 128}
    assert EmoRigPipeline(pipe.head, pipe.encoder, pipe.unet, pipe.scheduler).settings != pipe.settings
    with pytest.raises(ValueError, match="settings has colour: choose from emotions"):
        EmoRigPipeline(pipe.head, pipe.encoder, settings={"colour": 1})


def test_components_of_a_diffusion_autoencoder() -> None:
    small = small_diffae()
    again = DiffAEEmotionPipeline(**small.components)
    assert again.settings == small.settings and again.config.inversion_steps == 25
