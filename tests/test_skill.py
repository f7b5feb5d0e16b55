"""What agents read in `skills/` is true: its commands are the command line's, and its tools are the demo's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from emorig_diffusers import EmoRigPipeline
from emorig_diffusers.cli import main, models

SKILL = Path(__file__).parents[1] / "skills/emorig/SKILL.md"
CHEAP = (1, 2, 3, 10)  # numbers of commands that take a second or less each


@pytest.fixture(scope="module")
def text() -> str:
    return SKILL.read_text("utf-8")


@pytest.fixture(scope="module")
def commands(text: str) -> list[list[str]]:
    """The numbered commands, then those in the text, without the program's name."""
    numbered = re.findall(r"^emorig .*?(?=#)", text, re.MULTILINE)
    inline = [" ".join(one.split()) for one in re.findall(r"`(emorig [a-z][^`]*)`", text)]
    return [shlex.split(one)[1:] for one in [*numbered, *inline]]


def test_front_matter_is_as_agents_expect_it(text: str) -> None:
    """By the Agent Skills specification."""
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert set(told) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
    assert told["name"] == SKILL.parent.name and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", told["name"])
    assert 0 < len(told["description"]) <= 1024 and "Use when" in told["description"]
    assert len(told["compatibility"]) <= 500
    assert len(body.splitlines()) < 60


def test_every_command_is_one(commands: list[list[str]]) -> None:
    parser = main.build_parser()
    assert len(commands) >= 14
    for words in commands:
        parser.parse_args(words)


def test_cheap_commands_do_what_they_say(
    commands: list[list[str]], pipe: EmoRigPipeline, astronaut: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_pipeline", lambda model: pipe)
    photo = Image.fromarray(astronaut)
    both = Image.new("RGB", (1024, 512))
    for place in (0, 512):
        both.paste(photo, (place, 0))
    photo.save("photo.jpg")
    both.save("group.jpg")
    Path("album").mkdir()
    photo.save("album/one.jpg")
    codes = [main.main(commands[number - 1]) for number in CHEAP]
    assert codes == [0, 0, 0, 1]  # of the last one's two photos one was edited
    left, right = (np.asarray(Image.open("sad.jpg"))[:, half].astype(int) for half in (np.s_[:512], np.s_[512:]))
    given = np.asarray(Image.open("group.jpg")).astype(int)
    assert np.abs(right - given[:, 512:]).max() > 40 > np.abs(left - given[:, :512]).max()
    assert Path("happy_album/one.jpg").is_file()


def test_tools_are_the_demos(text: str, pipe: EmoRigPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    monkeypatch.syspath_prepend(str(SKILL.parents[2] / "space"))
    import app

    info = app.build_demo(pipe).get_api_info()
    told = re.search(r"Tools: ([a-z, \n]+)\.", text)
    assert told is not None
    assert {f"/{name}" for name in re.split(r",\s+", told[1])} == set(info["named_endpoints"])
