"""A command that records what its pipeline is asked."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from command import ASTRONAUT, write
from recording_pipeline import RecordingPipeline

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import models


@pytest.fixture(scope="module")
def recorder(pipe: EmoRigPipeline) -> RecordingPipeline:
    return RecordingPipeline(**pipe.components)


@pytest.fixture
def calls(recorder: RecordingPipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, Any]]]:
    """The command works with the recorder, but for models that are opened from folders: what it is asked."""
    load = functools.cache(models.load_pipeline)
    monkeypatch.setattr(models, "load_pipeline", lambda name: recorder if name == "emorig-open" else load(name))
    recorder.calls.clear()
    return recorder.calls


@pytest.fixture(scope="session")
def astronaut_png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The astronaut's file, as coding it takes longer than most tests of what the command refuses."""
    return write(tmp_path_factory.mktemp("astronaut") / "astronaut.png", ASTRONAUT).read_bytes()


@pytest.fixture
def photo(astronaut_png: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "astronaut.png"
    file.write_bytes(astronaut_png)
    return file
