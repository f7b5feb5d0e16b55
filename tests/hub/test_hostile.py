"""Repositories whose code or pickles would leave a trace: none of it runs unless the user says so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_hub
import pytest
import torch
from processes import PATIENCE
from small_clip import small_clip

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.hub.index import refuse_code
from emorig_diffusers.hub.repository import export_hub
from emorig_diffusers.models.head import HeadModel
from emorig_diffusers.models.unet import RigUNet
from emorig_diffusers.training.emotion_ldm.clip_guide import ClipGuide

ROOT = Path(__file__).parents[2]
PLAIN = {
    "head": "head",
    "encoder": "landmark_fit",
    "unet": "unet",
}  # component -> its module

OPEN_ALL = """
import json, sys
from pathlib import Path
from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import models
from emorig_diffusers.pipelines.base import open_pipeline
from emorig_diffusers.hub.repository import fetch
said, trace = {}, Path(sys.argv[2])
for name in sys.argv[3:]:
    said[name] = []
    for opened in (EmoRigPipeline.from_pretrained, open_pipeline, models.load_pipeline):
        try:
            opened(f"evil/{name}")
            said[name].append("opened")
        except Exception as error:
            said[name].append(f"{type(error).__name__}: {error}")
said["files"] = sorted(path.name for path in Path(fetch("evil/pickle")).rglob("*") if path.is_file())
said["left"] = trace.exists()
try:
    EmoRigPipeline.from_pretrained("evil/component", trust_remote_code=True)
finally:
    Path(sys.argv[1]).write_text(json.dumps(said | {"left with trust": trace.exists()}))
"""


class Trace:
    """A pickle that makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


def code(file: Path) -> str:
    return f"import os\nos.makedirs({str(file)!r}, exist_ok=True)\n"


def index_of(folder: Path) -> dict:
    return json.loads((folder / "model_index.json").read_text())


def write_index(folder: Path, **entries: object) -> None:
    (folder / "model_index.json").write_text(json.dumps(index_of(folder) | entries))


def without_shims(folder: Path) -> None:
    """As folders were before there were shims: no code at all."""
    for shim in folder.rglob("*.py"):
        shim.unlink()
    index = index_of(folder)
    plain = {part: [f"emorig_diffusers.models.{module}", index[part][1]] for part, module in PLAIN.items()}
    write_index(folder, _class_name="EmoRigPipeline", **plain)


def hostile(honest: Path, folder: Path, trace: Path) -> Path:
    """A repository that would make `trace`; its name says how."""
    shutil.copytree(honest, folder)
    match folder.name:
        case "component":
            shim = folder / "unet/unet_emorig.py"
            shim.write_text(shim.read_text() + code(trace))
        case "pipeline":
            shim = folder / "pipeline_emorig.py"
            shim.write_text(code(trace) + shim.read_text())
        case "beside":
            (folder / "None.py").write_text(code(trace))
        case "pickle":
            without_shims(folder)
            (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
            (folder / "unet/diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trace(trace), 2))
        case "installed":
            without_shims(folder)
            write_index(folder, unet=["leaves_a_trace", "Evil"])
        case "auto":
            without_shims(folder)
            write_index(folder, head=["transformers", "AutoModel"])
            names = {"auto_map": {"AutoModel": "evil/component--unet_emorig.Evil"}, "model_type": "evil"}
            (folder / "head/config.json").write_text(json.dumps(names))
    return folder


KINDS = ("component", "pipeline", "beside", "pickle", "installed", "auto")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces") / "trace"


@pytest.fixture(scope="module")
def honest(tiny_pipe: EmoRigPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_hub(tiny_pipe, tmp_path_factory.mktemp("exports") / "honest")


@pytest.fixture(scope="module")
def hub(honest: Path, trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[fake_hub.FakeHub]:
    with fake_hub.serve(tmp_path_factory.mktemp("hub")) as hub:
        for kind in KINDS:
            hostile(honest, hub.root / "evil" / kind, trace)
        yield hub


@pytest.fixture(scope="module")
def said(hub: fake_hub.FakeHub, trace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every way to open each repository answered, in a Python of its own: huggingface_hub reads its settings on
    import."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "leaves_a_trace.py").write_text(code(trace))
    environment = {**hub.environment(folder / "home"), "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, "-c", OPEN_ALL, str(folder / "said.json"), str(trace), *KINDS]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (folder / "said.json").is_file(), run.stderr
    return json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_repository_runs(said: dict[str, Any], kind: str) -> None:
    assert len(said[kind]) == 3 and "opened" not in said[kind] and not said["left"]
    if kind != "pickle":
        assert all("needs trust_remote_code=True, as it " in answer for answer in said[kind]), said[kind]


def test_pickles_are_not_even_downloaded(said: dict[str, Any]) -> None:
    assert "model_index.json" in said["files"] and not [name for name in said["files"] if name.endswith(".bin")]


def test_trust_is_the_users_to_give(said: dict[str, Any]) -> None:
    """So the trace above would have been left."""
    assert said["left with trust"]


# folders; nothing is downloaded


def test_a_pickle_in_a_folder_is_not_read(honest: Path, tmp_path: Path) -> None:
    folder = hostile(honest, tmp_path / "pickle", tmp_path / "trace")
    for opened in (lambda: EmoRigPipeline.from_pretrained(folder), lambda: RigUNet.from_pretrained(folder / "unet")):
        with pytest.raises((OSError, ValueError), match="safetensors"):
            opened()
    with pytest.raises((OSError, ValueError, pickle.UnpicklingError)):  # nor run where the user wants pickles
        RigUNet.from_pretrained(folder / "unet", use_safetensors=False)
    assert not (tmp_path / "trace").exists()


def test_an_honest_pickle_is_read_on_demand(tiny_pipe: EmoRigPipeline, tmp_path: Path) -> None:
    tiny_pipe.head.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(tiny_pipe.head.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    opened = HeadModel.from_pretrained(tmp_path, use_safetensors=False)
    assert all(torch.equal(value, opened.state_dict()[key]) for key, value in tiny_pipe.head.state_dict().items())


def test_a_component_that_the_user_gives_is_not_asked_for(honest: Path, tmp_path: Path) -> None:
    folder = hostile(honest, tmp_path / "installed", tmp_path / "trace")
    with pytest.raises(ValueError, match="needs trust_remote_code=True, as it asks for leaves_a_trace.Evil"):
        refuse_code(folder)
    refuse_code(folder, given={"unet"})


def test_a_tokenizers_code_does_not_run(tmp_path: Path) -> None:
    """Nor is anybody asked at the terminal whether it may."""
    folder, trace = small_clip(tmp_path / "clip"), tmp_path / "trace"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"{code(trace)}class Evil: pass\n")
    try:
        ClipGuide.from_pretrained(str(folder))
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    assert not trace.exists()
