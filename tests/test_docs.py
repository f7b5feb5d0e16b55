"""The pages under docs/ say what the code says."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

from emorig_diffusers.cli.main import build_parser
from emorig_diffusers.face.sentence import read
from emorig_diffusers.painting.photo_texture import STAGES
from emorig_diffusers.pipelines.request import EditRequest

REPOSITORY = Path(__file__).parents[1]
DOCS, PACKAGE = REPOSITORY / "docs", REPOSITORY / "emorig_diffusers"
PAGES = [page for folder in (".", "docs", "space", "train/presets") for page in (REPOSITORY / folder).glob("*.md")]


def test_table_of_settings_is_up_to_date() -> None:
    checked = subprocess.run([sys.executable, DOCS / "settings.py", "--check"], capture_output=True, text=True)
    assert not checked.returncode, checked.stderr


def test_house_shows_every_folder_and_stage_in_order() -> None:
    rows = [line.split("|")[1].strip() for line in (DOCS / "house.md").read_text("utf-8").splitlines() if "| `" in line]
    order = lambda names: [rows.index(f"`{name}`") for name in names]
    assert order(stage.__name__ for stage in STAGES) == sorted(order(stage.__name__ for stage in STAGES))
    folders = {f"{file.parent.name}/" for file in PACKAGE.glob("*/__init__.py")}
    assert {row.strip("`") for row in rows} == folders | {stage.__name__ for stage in STAGES}


def test_files_that_the_house_names_are_there() -> None:
    page = (DOCS / "house.md").read_text("utf-8")
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", page)
    assert len(named) > 5 and not [name for name in named if not (PACKAGE / name).is_file()]


def test_links_between_pages_lead_somewhere() -> None:
    """Files and pictures that pages link to are there, and headings too."""
    linked = r'(?:\]\(|src=")([^)"\s]+)'
    links = [(page, link) for page in PAGES for link in re.findall(linked, page.read_text("utf-8"))]
    ours = [(page, *link.partition("#")[::2]) for page, link in links if not re.match(r"https?://", link)]
    assert len(ours) > 15
    for page, path, heading in ours:
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name}: {path}"
        assert not heading or heading in anchors(target), f"{page.name}: {path}#{heading}"


def test_the_japanese_page_runs_what_there_is() -> None:
    """Its commands are the command line's, its calls those of the pipeline, and its sentences are understood."""
    page = (REPOSITORY / "README.ja.md").read_text("utf-8")
    commands = re.findall(r"(?m)^emorig ([^#\n]+)", page)
    assert len(commands) > 5
    for command in commands:
        build_parser().parse_args(shlex.split(command))
    calls = [
        node for node in ast.walk(ast.parse(page.split("```python")[1].split("```")[0])) if isinstance(node, ast.Call)
    ]
    given = [
        {one.arg: ast.literal_eval(one.value) for one in call.keywords}
        for call in calls
        if ast.unparse(call.func) == "pipe"
    ]
    assert len(given) > 3 and all(EditRequest(**one) for one in given)
    sentences = [*re.findall(r'prompt="([^"]+)"', page), *re.findall(r'--prompt "([^"]+)"', page)]
    assert len(sentences) > 1 and not any(read(sentence).unknown for sentence in sentences)


def anchors(page: Path) -> set[str]:
    """Headings of a page as GitHub's links spell them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
